"""A PostgreSQL of Debian's for a test: started as an ordinary user, on a free port of 127.0.0.1, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def binaries() -> Path:
    """Where initdb and postgres are; skips where they are not (in continuous integration that is a failure)."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        reason = "PostgreSQL is missing: apt-get install postgresql"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found[-1].parent


def _as_ordinary_user(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    shutil.chown(folder, "nobody", "nogroup")
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


class Postgres:
    def __init__(self, folder: Path):
        self.folder, self._as_user = folder, _as_ordinary_user(folder)
        init = [
            *self._as_user,
            str(binaries() / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "s2s",
            "-A",
            "trust",
            "-N",
        ]
        subprocess.run(init, check=True, capture_output=True, timeout=300, cwd=folder)
        with socket.socket() as probe:  # only now: initdb takes seconds, in which somebody else could take the port
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://s2s@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", str(self.folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, str(binaries() / "postgres"), "-D", str(self.folder / "data"), *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )
        ready = [str(binaries() / "pg_isready"), "-U", "s2s", "-t", "5"]  # it listens before it takes anybody
        deadline_s = time.monotonic() + 120
        while True:
            if subprocess.run([*ready, "-h", "127.0.0.1", "-p", str(self.port)], capture_output=True).returncode == 0:
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline_s, "PostgreSQL did not start"
            time.sleep(0.1)

    def stop(self) -> None:
        """Fast shutdown: connections are cut."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="s2s-pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
