"""Killed processes lose no job and leave no file: briefly; in full in `make test-soak`."""

from tests.chaos import run_chaos
from tests.postgres import running_postgres

BRIEF = {"n_jobs": 12, "n_workers": 2, "n_kills": 4, "within_s": 270.0}


def test_killed_processes_lose_no_job_on_sqlite(tmp_path):
    assert run_chaos(tmp_path, **BRIEF) == {"jobs": 12, "finished": 12, "kills": 4}


def test_killed_processes_lose_no_job_on_postgresql(tmp_path):
    with running_postgres() as server:
        counted = run_chaos(tmp_path, database_url=server.url, **BRIEF)
    assert counted == {"jobs": 12, "finished": 12, "kills": 4}
