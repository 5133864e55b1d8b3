"""What the machine looks like from outside of the tests, to see afterwards that it is as it was found.

Only what is the whole machine's: packet filter, interfaces, routes, mounts, kernel settings, control groups, and
processes and temporary folders that carry our name. The compilation of Kubernetes is meant to outlive a run.
"""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.deployment.engine import PREFIX, top_cgroups
from tests.deployment.tools import CACHE

FOUND = pytest.StashKey[dict[str, set[str]]]()
SETTINGS = ("kernel", "net", "user", "vm")  # below /proc/sys
ALWAYS_NEW = (  # they move by themselves
    "kernel/ns_last_pid",
    "kernel/random/",
    "kernel/pty/nr",
    "kernel/hung_task_detect_count",
    "kernel/perf_event_max_sample_rate",
    "net/netfilter/nf_conntrack_count",
)


def alone() -> bool:
    """Nobody else's run has an engine at this moment, whose things would be taken for ours."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "engine.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def look() -> dict[str, set[str]]:
    """Kind -> what there is of it."""
    return {
        "packet filter": set(_rules()),
        "interface": {path.name for path in Path("/sys/class/net").iterdir()},
        "route": set(Path("/proc/net/route").read_text().splitlines()),
        "mount": {line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()},
        "kernel setting": set(_settings()),
        "control group": {str(path) for path in top_cgroups()},
        "process": set(_processes()),
        "temporary folder": {str(path) for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*")},
    }


def changes(before: dict[str, set[str]]) -> list[str]:
    """One line for each thing that is there now and was not, or was and is not."""
    after, said = look(), []
    known = {
        each.split(" = ")[0] for each in before["kernel setting"]
    }  # a module that is loaded brings some of its own
    after["kernel setting"] = {each for each in after["kernel setting"] if each.split(" = ")[0] in known}
    for kind, there in before.items():
        said += [f"{kind} left behind: {each}" for each in sorted(after[kind] - there)]
        if kind not in ("process", "temporary folder", "control group"):  # those may end by themselves
            said += [f"{kind} gone: {each}" for each in sorted(there - after[kind])]
    return said


def _rules() -> Iterator[str]:
    for command in ("iptables-save", "ip6tables-save"):
        with suppress(OSError):  # not installed: nothing of ours can be in it
            said = subprocess.run([command], capture_output=True, text=True).stdout
            yield from (line.split(" [")[0] for line in said.splitlines() if line[:1] in "-:")


def _settings() -> Iterator[str]:
    root = Path("/proc/sys")
    for path in (path for top in SETTINGS for path in (root / top).rglob("*")):
        name = str(path.relative_to(root))
        with suppress(OSError, UnicodeDecodeError):  # some can only be written
            if path.is_file() and not name.startswith(ALWAYS_NEW):
                yield f"{name} = {' '.join(path.read_text().split())}"


def _processes() -> Iterator[str]:
    """Those whose command names a run's folder or the engine's cache."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
            if (PREFIX in words or str(CACHE / "docker") in words) and "kube_build" not in words:
                yield f"{folder.name} {words}"
