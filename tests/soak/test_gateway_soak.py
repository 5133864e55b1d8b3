"""The service under long fire: `make test-soak`."""

import pytest
from tests.chaos import run_chaos
from tests.clips import film
from tests.postgres import running_postgres

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
FULL = {"n_jobs": 60, "n_workers": 3, "n_kills": 12, "within_s": 1500.0}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_sixty_jobs_survive_twelve_kills(tmp_path, engine, capsys):
    video = film(tmp_path / "clip.mp4", seconds=0.6).read_bytes()
    if engine == "sqlite":
        counted = run_chaos(tmp_path, video, **FULL)
    else:
        with running_postgres() as server:
            counted = run_chaos(tmp_path, video, database_url=server.url, **FULL)
    with capsys.disabled():
        print(f"\n{engine}: {counted}")
    assert counted == {"jobs": 60, "finished": 60, "kills": 12}
