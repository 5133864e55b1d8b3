"""Killed processes lose no job and leave no file: briefly; in full in `make test-soak`."""

import pytest
from tests.chaos import run_chaos
from tests.clips import film
from tests.postgres import running_postgres

BRIEF = {"n_jobs": 12, "n_workers": 2, "n_kills": 4, "within_s": 270.0}


@pytest.fixture
def video(tmp_path) -> bytes:
    return film(tmp_path / "clip.mp4", seconds=0.6).read_bytes()


def test_killed_processes_lose_no_job_on_sqlite(tmp_path, video):
    assert run_chaos(tmp_path, video, **BRIEF) == {"jobs": 12, "finished": 12, "kills": 4}


def test_killed_processes_lose_no_job_on_postgresql(tmp_path, video):
    with running_postgres() as server:
        counted = run_chaos(tmp_path, video, database_url=server.url, **BRIEF)
    assert counted == {"jobs": 12, "finished": 12, "kills": 4}
