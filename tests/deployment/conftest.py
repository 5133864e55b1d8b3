"""One Docker engine for the session, with this checkout's images in a registry beside it when a test asks for them.

Where the machine cannot run the engine, its tests are skipped; never in CI. Tests of the engine run in one process,
the others in another one. No test starts after S2S_DEPLOY_BUDGET_MINUTES, and the end of the run names what was left
out. The machine is compared before and after, and a run that leaves anything of its own fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.clips import film
from tests.deployment import bases, budget, kube_build, machine_state
from tests.deployment.engine import CannotRun, Engine, running_engine
from tests.deployment.images import RECIPES, base_of, build
from tests.deployment.machines import Published, hand_over, play, running_registry
from tests.deployment.tools import CACHE
from xdist.scheduler import LoadScopeScheduling

ENGINE_FILES = {"test_cluster.py", "test_compose.py", "test_images.py", "test_vm.py"}
LEFT_BEHIND = pytest.StashKey[list[str]]()


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
def long_clip(tmp_path_factory) -> Path:
    """Long enough for something to break in the middle of the work, on a fast machine, too."""
    return film(tmp_path_factory.mktemp("clips") / "long.mp4", seconds=30, rate="25", size="160x90")


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kubernetes is compiled while the other tests run, and its own come last."""
    last = [item for item in items if "cluster" in getattr(item, "fixturenames", ())]
    if last and not kube_build.ready():
        kube_build.start()
    items.sort(key=lambda item: item in last)
    asking = {item.path.name for item in items if "engine" in getattr(item, "fixturenames", ())}
    assert asking <= ENGINE_FILES, f"name them in ENGINE_FILES: {asking - ENGINE_FILES}"


class ByEngine(LoadScopeScheduling):
    """There is one engine, so its tests run in one process; of the others, those of a file do."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "engine" if Path(file).name in ENGINE_FILES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log) -> ByEngine:
    return ByEngine(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    budget.shorten(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if budget.left_s() <= 0:
        pytest.skip(budget.USED_UP)


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # the process that starts the others
        budget.start()
        if machine_state.alone():
            session.config.stash[machine_state.FOUND] = machine_state.look()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After the last process has ended its engine."""
    found = session.config.stash.get(machine_state.FOUND, None)
    if found is not None and machine_state.alone():
        session.config.stash[LEFT_BEHIND] = machine_state.changes(found)
        if session.config.stash[LEFT_BEHIND] and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left = terminalreporter.config.stash.get(LEFT_BEHIND, None)
    if left is not None:
        terminalreporter.section("the machine afterwards")
        terminalreporter.line("\n".join(left) or "as it was found")
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    if figures := [value for report in reports for name, value in report.user_properties if name == "figure"]:
        terminalreporter.section("figures")
        terminalreporter.line("\n".join(figures))
    untested = [each for each in terminalreporter.stats.get("skipped", ()) if "NOT TESTED" in str(each.longrepr)]
    if untested:
        terminalreporter.section("NOT TESTED", sep="!", red=True)
        for each in untested:
            terminalreporter.line(f"{each.nodeid}: {each.longrepr[2]}")
