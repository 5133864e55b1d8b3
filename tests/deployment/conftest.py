"""One Docker engine for the session, with this checkout's images in a registry beside it when a test asks for them.

Where the machine cannot run the engine, its tests are skipped; never in CI.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from tests.deployment import bases, kube_build
from tests.deployment.engine import CannotRun, Engine, running_engine
from tests.deployment.images import RECIPES, base_of, build
from tests.deployment.machines import Published, hand_over, play, running_registry
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


@pytest.fixture(scope="session")
def registry(engine: Engine) -> Iterator[str]:
    with running_registry(engine) as address:
        yield address


@pytest.fixture(scope="session")
def published(engine: Engine, registry: str, tmp_path_factory) -> Published:
    """What deploy-docker-images.yml has put into the registry."""
    for name in ("torch-base", "api-service", "frontend", "model-server"):
        build(engine, name)  # in the engine's cache, so that the playbook's own builds are quick
    hand_over(engine, base_of(engine, "torch-base"))
    with_base = {name: base_of(engine, name) for name, recipe in RECIPES.items() if recipe.argument == "BASE_IMAGE"}
    to = Published(f"{registry}/silence-to-sound", "0123456789ab", tmp_path_factory.mktemp("images") / "digests.json")
    variables = {
        "image_registry": to.registry,
        "image_tag": to.tag,
        "images_bases": with_base,
        "images_digests_file": str(to.digests_file),
        "images_allow_dirty": True,
    }
    to.arguments = ("deploy-docker-images.yml", "--extra-vars", json.dumps(variables))
    first = play(engine, *to.arguments, inside=True)
    assert first.code == 0, first.output[-4000:]
    engine.docker("tag", bases.base(engine, "postgres"), to.postgres)
    engine.docker("push", "--quiet", to.postgres)
    return to


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kubernetes is compiled while the other tests run, and its own come last."""
    last = [item for item in items if "cluster" in getattr(item, "fixturenames", ())]
    if last and not kube_build.ready():
        kube_build.start()
    items.sort(key=lambda item: item in last)
