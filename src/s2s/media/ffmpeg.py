"""The only place that starts processes for media: ffmpeg itself, and the decode worker.

Every child gets an argument list (never a shell), no standard input, a session of its own, resource limits, a clock and
a list of what it may no longer ask of the kernel (ffmpeg from its start, the decode worker once it is ready). It dies
with the thread that started it (PR_SET_PDEATHSIG): a model server that is killed leaves no ffmpeg behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import s2s
from s2s.config import settings
from s2s.errors import ArtifactError, Canceled, ProcessingError
from s2s.events import ShouldStop, never_stop
from s2s.media import sandbox

log = logging.getLogger(__name__)

POLL_S = 0.1  # how often `should_stop` is asked while a child works
STDERR_BYTES = 8192  # of the end of a child's complaints that are kept
SOURCE_ROOT = str(Path(s2s.__file__).resolve().parents[1])

# Run by a bare interpreter that then becomes the program. A `preexec_fn` would do the same but can deadlock in a
# process with threads, and it makes every start copy the page tables of a large parent.
LAUNCHER = """
import ctypes, json, os, resource, signal, struct, sys
parent, limits = int(sys.argv[1]), json.loads(sys.argv[2])
libc = ctypes.CDLL(None)
libc.prctl(1, signal.SIGKILL, 0, 0, 0)
libc.prctl(38, 1, 0, 0, 0)
if os.getppid() != parent:
    os._exit(1)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for name, key in (("AS", "memory_bytes"), ("CPU", "cpu_s"), ("FSIZE", "file_bytes"), ("NOFILE", "open_files")):
    which = getattr(resource, "RLIMIT_" + name)
    most = resource.getrlimit(which)[1]
    value = limits[key] if most == resource.RLIM_INFINITY else min(limits[key], most)
    resource.setrlimit(which, (value, value))
forbids = bytes.fromhex(sys.argv[3])
if forbids:  # seccomp; where the host does not allow it, the limits alone hold
    code = ctypes.create_string_buffer(forbids)
    libc.prctl(22, 2, struct.pack("HxxxxxxP", len(forbids) // 8, ctypes.addressof(code)), 0, 0)
os.execv(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True)
class ChildLimits:
    """What a child may use. Exceeding one ends the child, not us."""

    wall_s: float = 120.0  # seconds that we wait for it; the time it waits for us does not count
    cpu_s: int = 120
    memory_bytes: int = 2 << 30  # of address space
    file_bytes: int = 0  # size of any file it writes
    open_files: int = 64


class ChildTimeout(Exception):
    """The child used up its wall clock. Callers translate it."""


class Child:
    """A running process whose standard output is read here. Use as a context manager: leaving kills what is left.

    PR_SET_PDEATHSIG follows the starting *thread*: start and use a child in a thread that outlives it.
    """

    def __init__(self, argv: Sequence[str], limits: ChildLimits, *, forbids: bytes = b"",
                 pass_fds: Sequence[int] = (), should_stop: ShouldStop = never_stop):
        """forbids: see `sandbox.program`."""
        self.limits, self.should_stop = limits, should_stop
        self.waited_s = 0.0
        self._errors = bytearray()
        self._home = tempfile.TemporaryDirectory(prefix="s2s-child-")
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), json.dumps(asdict(limits)),
                    forbids.hex()]
        try:
            self._process = subprocess.Popen(
                [*launcher, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
                cwd=self._home.name, env=_environment(self._home.name), pass_fds=pass_fds, start_new_session=True)
        except BaseException:
            self._home.cleanup()
            raise
        self._poll = select.poll()
        self._pipes = {self._process.stdout.fileno(), self._process.stderr.fileno()}
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
            self._poll.register(pipe, select.POLLIN)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def errors(self) -> str:
        """The end of what the child wrote to standard error."""
        return self._errors.decode("utf-8", "replace").strip()

    def read(self, count: int) -> bytearray:
        """Exactly `count` bytes of standard output, fewer only when the child has closed it.

        Raises Canceled when `should_stop` says so, ChildTimeout when the child's wall clock is used up.
        """
        data = bytearray(count)
        view, have = memoryview(data), 0
        output = self._process.stdout.fileno()
        while have < count and output in self._pipes:
            for pipe in self._ready():
                if pipe == output:
                    got = os.readv(output, [view[have:]])
                    have += got
                    if got == 0:
                        self._forget(output)
                else:
                    self._read_errors()
        view.release()
        del data[have:]
        return data

    def finish(self) -> int:
        """Wait for the end; standard output is thrown away. Returns the exit code (negative: the signal)."""
        while self._pipes:
            for pipe in self._ready():
                if pipe == self._process.stderr.fileno():
                    self._read_errors()
                elif not os.read(pipe, 65536):
                    self._forget(pipe)
        while (code := self._process.poll()) is None:
            self._tick(0.005)
            time.sleep(0.005)
        return code

    def close(self) -> None:
        """Kill the child's whole group, wait for it, remove its directory. Safe to call twice."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()
        self._home.cleanup()

    def _ready(self) -> list[int]:
        start = time.monotonic()
        ready = [pipe for pipe, _ in self._poll.poll(POLL_S * 1000)]
        self._tick(time.monotonic() - start)
        return ready

    def _tick(self, seconds: float) -> None:
        self.waited_s += seconds
        if self.should_stop():
            raise Canceled("The work was stopped.")
        if self.waited_s > self.limits.wall_s:
            raise ChildTimeout(f"no end after {self.limits.wall_s:g} s")

    def _read_errors(self) -> None:
        pipe = self._process.stderr.fileno()
        got = os.read(pipe, 65536)
        if not got:
            self._forget(pipe)
        self._errors += got
        del self._errors[:-STDERR_BYTES]

    def _forget(self, pipe: int) -> None:
        self._poll.unregister(pipe)
        self._pipes.discard(pipe)


def _environment(home: str) -> dict[str, str]:
    """Nothing of ours: no keys, no proxies, no library paths; one thread for libraries that would start a pool."""
    return {"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LC_ALL": "C.UTF-8", "PYTHONPATH": SOURCE_ROOT,
            "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def start_worker(request: dict, source: int, limits: ChildLimits, should_stop: ShouldStop = never_stop) -> Child:
    """The decode worker on an open file. `source` is the descriptor it may read; it can open nothing else."""
    argv = [sys.executable, "-P", "-s", "-m", "s2s.media.decode_worker", str(source), json.dumps(request)]
    return Child(argv, limits, pass_fds=[source], should_stop=should_stop)


@lru_cache(maxsize=1)
def find_ffmpeg() -> str:
    """Path of the ffmpeg to use: the one of the settings, the system's, the one from PyPI. Raises ArtifactError."""
    wanted = settings().ffmpeg
    if wanted:
        found = shutil.which(wanted)
        if not found:
            raise ArtifactError(f"S2S_FFMPEG names {wanted!r}, which is not a program.",
                                hint="Correct or unset S2S_FFMPEG.")
        return found
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as exc:
        raise ArtifactError("There is no ffmpeg.", hint="Install ffmpeg, or `pip install imageio-ffmpeg`.") from exc


def run_ffmpeg(args: Sequence[str], timeout_s: float = 120.0, *, file_bytes: int = 4 << 30, memory_bytes: int = 3 << 30,
               pass_fds: Sequence[int] = (), should_stop: ShouldStop = never_stop) -> None:
    """Run ffmpeg to its end. Files must be named by absolute paths: its working directory is an empty one of its own.

    Raises ProcessingError with ffmpeg's own words when it fails or exceeds `timeout_s`, Canceled when stopped.
    """
    limits = ChildLimits(timeout_s, cpu_s=int(4 * timeout_s) + 1, memory_bytes=memory_bytes, file_bytes=file_bytes)
    argv = [find_ffmpeg(), "-nostdin", "-hide_banner", "-v", "error", *args]
    forbids = sandbox.program(sandbox.PROGRAM_NEEDS)
    with Child(argv, limits, forbids=forbids, pass_fds=pass_fds, should_stop=should_stop) as child:
        try:
            code = child.finish()
        except ChildTimeout as exc:
            raise ProcessingError(f"ffmpeg took longer than {timeout_s:g} s. {child.errors}") from exc
        if code != 0:
            raise ProcessingError(f"ffmpeg failed with code {code}: {child.errors}")
