"""`s2s keys` and `s2s db` as an operator meets them, on the gateway's own database."""

import asyncio
import sqlite3

import pytest
from gateway_kit import bearer, running
from typer.testing import CliRunner

from s2s.cli import app
from s2s.config import Settings, settings
from s2s.errors import InputError


@pytest.fixture
def s2s(config, monkeypatch):
    """Runs a command on the database of `config`; its output."""
    monkeypatch.setenv("S2S_DATA_DIR", str(config.data_dir))
    monkeypatch.setenv("COLUMNS", "200")
    settings.cache_clear()

    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    yield run
    settings.cache_clear()


def test_a_key_is_told_once_and_opens_the_gateway_until_it_is_revoked(s2s, config, model_server):
    key = s2s("keys", "create", "the lab").strip()
    assert key.startswith("s2s_")
    key_id = key.split("_")[1]
    told = s2s("keys", "list")
    assert key_id in told
    assert "the lab" in told
    assert "read write" in told
    assert key not in told
    assert _status_with(key, config, model_server) == 200
    s2s("keys", "revoke", key_id)
    assert _status_with(key, config, model_server) == 401
    with pytest.raises(InputError, match="no valid key"):
        s2s("keys", "revoke", key_id)


def _status_with(key: str, config: Settings, model_server) -> int:
    async def ask() -> int:
        async with running(
            config.model_copy(update={"require_keys": True, "anonymous": False}), model_server
        ) as gateway:
            return (await gateway.get("/v1/jobs", headers=bearer(key))).status_code

    return asyncio.run(ask())


def test_scopes_and_an_end_can_be_given(s2s):
    s2s("keys", "create", "reader", "--scope", "read", "--days", "1")
    line = next(line for line in s2s("keys", "list").splitlines() if "reader" in line)
    assert "write" not in line
    assert line.count(":") == 2, "when it was made and when it ends"
    with pytest.raises(InputError, match="scope"):
        s2s("keys", "create", "x", "--scope", "everything")


def test_db_upgrade_sets_an_empty_database_up(s2s, config):
    s2s("db", "upgrade")
    s2s("db", "upgrade")  # nothing is left to do
    with sqlite3.connect(config.data_dir / "jobs.sqlite") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables >= {"jobs", "job_events", "api_keys", "alembic_version"}
