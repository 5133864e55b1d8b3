"""The real TorchServe and the real gateway, started once for all tests of this folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.clips import film
from tests.stack import shared_stack

from s2s.serving import Stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.stack)


@pytest.fixture(scope="session")
def stack(pytestconfig) -> Stack:
    return shared_stack(pytestconfig)


class Patient(httpx.HTTPTransport):
    """TorchServe answers a moment before it counts its worker as free again."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        for _ in range(25):
            answer = super().handle_request(request)
            if answer.status_code != 503:
                break
            answer.read()
            time.sleep(0.02)
        return answer


@pytest.fixture
def model_server(stack) -> Iterator[httpx.Client]:
    """TorchServe itself, once its only worker has nothing left to do of the tests before."""
    with httpx.Client(base_url=stack.model_server_url, timeout=120, transport=Patient()) as client:
        deadline_s = time.monotonic() + 120
        while client.post("/predictions/s2s", content=b"").status_code == 503:
            assert time.monotonic() < deadline_s
            time.sleep(0.2)
        yield client


@pytest.fixture
def gateway(stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=120, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    """One silent second."""
    return film(tmp_path_factory.mktemp("clips") / "clip.mp4", seconds=1.0, rate="25")


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory) -> Path:
    """Long enough to be caught in the middle of the work."""
    return film(tmp_path_factory.mktemp("clips") / "long.mp4", seconds=20.0, rate="25")
