"""`make pins`: real hashes from real registries, and never an invented one. A Git repository and a registry play GitHub
and Docker Hub."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.deployment.tools import ROOT

DIGEST = "ab" * 32
ZEROS = "0" * 64


class _Registry(BaseHTTPRequestHandler):
    """Wants a token, like the real ones; knows one tag."""

    def do_HEAD(self) -> None:
        if self.headers.get("authorization") != "Bearer good":
            self.send_response(401)
            port = self.server.server_address[1]
            self.send_header(
                "www-authenticate", f'Bearer realm="http://127.0.0.1:{port}/token",service="r",scope="pull"'
            )
        elif self.path == "/v2/team/python/manifests/3.11" and "oci.image.index" in self.headers["accept"]:
            self.send_response(200)
            self.send_header("docker-content-digest", f"sha256:{DIGEST}")
        else:
            self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"token": "good"}')

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def registry():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def github(tmp_path, monkeypatch) -> str:
    """The commit of tag v3 of `owner/action`; git is told that github.com lies on this disk."""
    work = tmp_path / "hub" / "owner" / "action"
    work.mkdir(parents=True)
    git = ["git", "-C", str(work), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"], ["tag", "-a", "v3", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/hub/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    answer = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return answer.stdout.strip()


def _tree(root, registry: str) -> None:
    (root / ".github/workflows").mkdir(parents=True)
    (root / "src/x").mkdir(parents=True)
    (root / "deployment").mkdir()
    (root / ".github/workflows/w.yml").write_text(f"steps:\n  - uses: owner/action@{'0' * 40} # v3\n")
    (root / "src/x/Dockerfile").write_text(f"ARG BASE_IMAGE={registry}/team/python:3.11@sha256:{ZEROS}\n")
    (root / "deployment/k.yaml").write_text(f"digest: sha256:{ZEROS}  # pin: {registry}/team/python:3.11\n")
    (root / "deployment/c.yml").write_text(f"image: ${{IMAGE:-{registry}/team/python:3.11@sha256:{ZEROS}}}\n")


def _pins(root, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "deployment/pins.py"), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_every_placeholder_becomes_the_hash_that_the_registry_tells(tmp_path, registry, github):
    root = tmp_path / "tree"
    _tree(root, registry)
    before = _pins(root, "--check")
    assert before.returncode == 1
    assert before.stderr.count("\n  ") == 4
    assert _pins(root).returncode == 0
    assert f"owner/action@{github} # v3" in (root / ".github/workflows/w.yml").read_text()
    pinned = f"{registry}/team/python:3.11@sha256:{DIGEST}"
    assert (root / "src/x/Dockerfile").read_text() == f"ARG BASE_IMAGE={pinned}\n"
    assert f"sha256:{DIGEST}  # pin:" in (root / "deployment/k.yaml").read_text()
    assert (root / "deployment/c.yml").read_text() == f"image: ${{IMAGE:-{pinned}}}\n"
    assert _pins(root, "--check").returncode == 0
    again = _pins(root)
    assert (again.returncode, again.stdout) == (0, "")


def test_what_cannot_be_resolved_stays_a_placeholder(tmp_path, registry, github):
    root = tmp_path / "tree"
    _tree(root, registry)
    (root / "src/x/Dockerfile").write_text(f"ARG BASE_IMAGE={registry}/team/gone:1@sha256:{ZEROS}\n")
    (root / ".github/workflows/w.yml").write_text(f"steps:\n  - uses: owner/nobody@{'0' * 40} # v3\n")
    answer = _pins(root)
    assert answer.returncode == 1
    assert "team/gone:1" in answer.stderr
    assert "owner/nobody@v3" in answer.stderr
    assert ZEROS in (root / "src/x/Dockerfile").read_text()
    assert "0" * 40 in (root / ".github/workflows/w.yml").read_text()


def test_a_hash_in_the_tree_is_either_real_or_plainly_a_placeholder():
    """Until `make pins` has been run where registries can be reached, nothing may look like a hash and not be one."""
    answer = _pins(ROOT, "--check")
    assert answer.returncode in (0, 1)
    assert "Traceback" not in answer.stderr
