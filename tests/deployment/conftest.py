"""One Docker engine for the session. Where the machine cannot run it, these tests are skipped; never in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.deployment.engine import CannotRun, Engine, running_engine
from tests.deployment.tools import CACHE


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        started = running_engine(CACHE)
        running = started.__enter__()
    except CannotRun as exc:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(exc))
    try:
        yield running
    finally:
        started.__exit__(None, None, None)
