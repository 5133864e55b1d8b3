"""A private directory for each request, and what a killed worker left of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "s2s-request-"


def request_folder() -> tempfile.TemporaryDirectory:
    """A context manager: a fresh directory that only this user can read, gone at the end. Its name tells the worker."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")


def remove_leftovers() -> None:
    """Directories of workers that are no more: TorchServe kills a silent worker without a chance to tidy up."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).split("-", 1)[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)
