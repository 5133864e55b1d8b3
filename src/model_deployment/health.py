"""Probes that run inside the model server's own container, where its management socket is.

    python -m model_deployment.health ready     exit 0 when every worker is READY (TorchServe's /ping says yes before)
    python -m model_deployment.health drain     returns when no clip is being worked on: before the container is stopped

Only the standard library: a probe runs every few seconds and must start quickly.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import sys
import tempfile
import time
from pathlib import Path

from model_deployment.folders import PREFIX

SOCKET = Path("/run/ts/mgmt.sock")
QUIET_S = 3.0  # two requests of one client may have so much time between them


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path):
        super().__init__("management", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def workers_ready(path: Path, model: str) -> tuple[int, int]:
    """(READY workers, all workers) as the management API tells. Raises OSError or ValueError when it tells nothing."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", f"/models/{model}")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"the management API answered {answer.status}")
    workers = json.loads(body)[0]["workers"]
    return sum(worker["status"] == "READY" for worker in workers), len(workers)


def drain(settle_s: float, within_s: float, folder: Path | None = None) -> bool:
    """Waits `settle_s` until no new request is routed here, then until none is left. False when time ran out.

    A request has a directory of its own for as long as it lives (`model_deployment.folders`).
    """
    folder = folder or Path(tempfile.gettempdir())
    deadline_s = time.monotonic() + within_s
    time.sleep(min(settle_s, within_s))
    quiet_since_s = time.monotonic()
    while time.monotonic() < deadline_s:
        if any(folder.glob(f"{PREFIX}*")):
            quiet_since_s = time.monotonic()
        elif time.monotonic() - quiet_since_s >= QUIET_S:
            return True
        time.sleep(0.2)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="health", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("ready", "drain"))
    parser.add_argument("--socket", type=Path, default=SOCKET)
    parser.add_argument("--model", default="s2s")
    parser.add_argument("--settle-s", type=float, default=5.0, help="drain: endpoints need so long to forget this pod")
    parser.add_argument("--within-s", type=float, default=600.0, help="drain: give up after so long")
    options = parser.parse_args()
    if options.what == "drain":
        sys.exit(0 if drain(options.settle_s, options.within_s) else "still at work; stopping all the same")
    try:
        ready, n_workers = workers_ready(options.socket, options.model)
    except (OSError, ValueError, KeyError, IndexError, http.client.HTTPException) as exc:
        sys.exit(f"not ready: {exc}")
    sys.exit(0 if n_workers and ready == n_workers else f"not ready: {ready} of {n_workers} workers")


if __name__ == "__main__":
    main()
