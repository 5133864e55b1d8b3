import os
import tempfile

import pytest

from s2s.config import Limits


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits(max_bytes=50_000_000, max_duration_s=120.0)


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return tmp_path_factory.mktemp("clips")


def children() -> set[int]:
    """Processes that this one has started and that still exist, zombies too."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(pid) for pid in file.read().split()}


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path_factory, monkeypatch):
    """Every test of media must leave no child process and no temporary file."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = children()
    yield
    assert children() <= before
    assert list(temporary.iterdir()) == []
