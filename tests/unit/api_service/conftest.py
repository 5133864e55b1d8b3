"""Fixtures of the gateway's tests; the stand-in itself is in `gateway_kit`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from gateway_kit import ModelServer, make_clip, running

from s2s.config import Settings


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> bytes:
    return make_clip(tmp_path_factory.mktemp("clip") / "grey.mp4")


@pytest.fixture
def model_server() -> ModelServer:
    return ModelServer()


@pytest.fixture
def config(tmp_path) -> Settings:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text(json.dumps({"name": "small", "version": "1", "categories": ["drum", "bell"]}))
    return Settings(
        data_dir=tmp_path / "var",
        cancel_dir=tmp_path / "cancel",
        bundle=bundle,
        http_max_bytes=200_000,
        http_max_duration_s=5.0,
        lease_s=2.0,
        max_queued=5,
        drain_s=0.2,
    )


@pytest.fixture
async def gateway(config, model_server) -> AsyncIterator[httpx.AsyncClient]:
    async with running(config, model_server) as client:
        yield client
