"""The service under long fire: `make test-soak`."""

import pytest
from tests.chaos import run_chaos, with_stand_in, with_torchserve
from tests.postgres import running_postgres

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
FULL = {"n_jobs": 60, "n_workers": 3, "n_kills": 15, "within_s": 3000.0}


@pytest.mark.parametrize("service", [with_stand_in, with_torchserve])
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_sixty_jobs_survive_fifteen_kills(tmp_path, engine, service, capsys):
    if engine == "sqlite":
        counted = run_chaos(tmp_path, service=service, **FULL)
    else:
        with running_postgres() as server:
            counted = run_chaos(tmp_path, service=service, database_url=server.url, **FULL)
    with capsys.disabled():
        print(f"\n{engine}, {service.__name__}: {counted}")
    assert counted == {"jobs": 60, "finished": 60, "kills": 15}
