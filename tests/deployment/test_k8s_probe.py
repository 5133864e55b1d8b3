"""The model server's probe and its drain, against a management socket that tells what the test wants."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from tests.deployment.tools import ROOT

from model_deployment.folders import request_folder
from model_deployment.health import drain


@pytest.fixture
def management():
    """(socket path, states): a management API whose workers are in `states`."""
    states: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/models/s2s"
            body = json.dumps([{"workers": [{"status": state} for state in states]}]).encode()
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, *_) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:  # short: a Unix socket's path has 107 bytes
        path = Path(folder, "m.sock")
        with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield path, states
            server.shutdown()


def _probe(path: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "model_deployment.health", "ready", "--socket", str(path)]
    return subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, timeout=60)


def test_it_is_ready_when_every_worker_is(management):
    path, states = management
    for now, ready in ((["READY"], True), (["READY", "READY"], True), (["READY", "LOADING"], False), ([], False)):
        states[:] = now
        assert (_probe(path).returncode == 0) is ready, now


def test_it_is_not_ready_before_the_socket_is_there(tmp_path):
    answer = _probe(tmp_path / "none.sock")
    assert answer.returncode == 1
    assert answer.stderr.startswith("not ready: ")


def test_the_drain_waits_for_the_clip_that_is_worked_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done_s = []

    def work() -> None:
        with request_folder():
            time.sleep(2.0)
            done_s.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    assert drain(settle_s=0.2, within_s=60)
    assert done_s
    assert time.monotonic() > done_s[0]
    worker.join()


def test_the_drain_gives_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with request_folder():
        assert not drain(settle_s=0.1, within_s=1.0)
