"""One real stack for a whole pytest session: TorchServe, its worker and the gateway, with a real bundle."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.tiny import make_tiny_bundle

from s2s.config import REPO_ROOT, Settings
from s2s.serving import Stack, running_stack

_running: dict[str, Stack] = {}


def shared_stack(config: pytest.Config) -> Stack:
    """The session's stack, started by whoever asks first and stopped when pytest ends.

    A module-level fixture of a test folder should only return this, so that several folders share one.
    """
    if "stack" not in _running:
        opened = ExitStack()
        config.add_cleanup(_running.clear)
        config.add_cleanup(opened.close)
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="s2s-stack-")))
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("OMP_NUM_THREADS", "1")  # short clips on a shared machine: more threads only wait
            _running["stack"] = opened.enter_context(running_stack(settings_for(folder), data_dir=folder / "var"))
    return _running["stack"]


def settings_for(folder: Path) -> Settings:
    """The shipped bundle where there is one, else the same networks untrained. Lost jobs are found soon."""
    shipped = REPO_ROOT / "model_store" / "s2s-small"
    bundle = shipped if (shipped / "bundle.json").is_file() else make_tiny_bundle(folder / "bundle")
    return Settings(bundle=bundle, data_dir=folder / "var", lease_s=10.0)
