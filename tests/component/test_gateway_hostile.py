"""Uploads that want to harm whoever opens them: a clear answer, little memory, no other file touched."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from tests.chaos import GATEWAY, free_port
from tests.clips import film
from tests.hostile import corpus

from s2s.config import REPO_ROOT

LARGEST_MEMORY_MB = 300
SLOWEST_S = 3.0  # of this process and the gateway together, so that a busy machine does not matter


@pytest.fixture
def traced(tmp_path):
    """(client, gateway process, path of the trace): a gateway whose every opened file is written down."""
    if not shutil.which("strace"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("strace is missing: apt-get install strace")
    port, trace = free_port(), tmp_path / "trace"
    environment = {**os.environ, "S2S_DATA_DIR": str(tmp_path / "var"), "S2S_EMBEDDED_WORKER": "false",
                   "S2S_MAX_QUEUED": "1000", "S2S_PORT": str(port)}  # fmt: skip
    strace = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,creat", "-e", "signal=none", "-o", str(trace)]
    process = subprocess.Popen([*strace, *GATEWAY], env=environment, stdin=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            deadline_s = time.monotonic() + 200
            while True:
                with suppress(httpx.TransportError):
                    if client.get("/livez").status_code == 200:
                        break
                assert process.poll() is None, "the gateway did not start"
                assert time.monotonic() < deadline_s
                time.sleep(0.2)
            (gateway,) = psutil.Process(process.pid).children()
            yield client, gateway, trace
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.send_signal(signal.SIGTERM)
        process.wait(60)


def test_hostile_uploads_meet_a_clear_answer_and_open_nothing_else(traced, tmp_path):
    client, gateway, trace = traced
    folder = tmp_path / "hostile"
    folder.mkdir()
    secret = film(tmp_path / "somebody_elses.mp4")
    files = corpus(folder, secret)
    assert len(files) >= 60
    taken, traced_before = 0, trace.stat().st_size
    for bad in files:
        spent_s = sum(gateway.cpu_times()[:2])
        answer = client.post("/v1/jobs", files={"file": (bad.path.name, bad.path.read_bytes(), "video/mp4")})
        assert sum(gateway.cpu_times()[:2]) - spent_s < SLOWEST_S, bad.path.name
        if answer.status_code == 202:  # sound in structure: the decoder has the last word
            taken += 1
            client.delete(answer.json()["links"]["self"])
            continue
        assert 400 <= answer.status_code < 500, (bad.path.name, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] in bad.codes, (bad.path.name, answer.text)
        assert answer.json()["hint"]
    assert taken < 6
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    peak_mb = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000
    print(f"{len(files)} files, peak memory of the gateway {peak_mb} MB")
    assert peak_mb < LARGEST_MEMORY_MB
    assert not gateway.children(recursive=True), "no process is left"
    for name in ("blobs", "scratch"):
        assert not list((tmp_path / "var" / name).iterdir())
    with trace.open() as lines:
        lines.seek(traced_before)
        opened = set(re.findall(r'open(?:at2?)?\((?:AT_FDCWD, )?"([^"]+)"', lines.read()))
    assert opened, "the trace shows something"
    late = (sys.prefix, sys.base_prefix, str(REPO_ROOT / "src"), "/sys/devices/system/cpu/")  # imports, number of cores
    own = (str(tmp_path / "var"), *late)
    assert [path for path in opened if not path.startswith(own)] == []
