"""Promises of `s2s serve`: one command up, one signal down, nothing left."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
from tests.stack import settings_for


def test_sigterm_stops_everything(tmp_path, request):
    settings = settings_for(tmp_path)
    (tmp_path / "t").mkdir()
    environment = {
        **os.environ,
        "S2S_BUNDLE": str(settings.bundle),
        "S2S_DATA_DIR": str(tmp_path / "var"),
        "S2S_MODEL_SERVER_URL": "http://127.0.0.1:0",
        "S2S_METRICS_PORT": "0",
        "S2S_GRPC_PORT": "0",
        "PYTHONUNBUFFERED": "1",
    }
    with (tmp_path / "said").open("w+") as said:
        served = subprocess.Popen(
            [sys.executable, "-c", "from s2s.cli import main; main()", "serve", "--port", "0"],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        request.addfinalizer(served.terminate)  # where something is not as it should be; nothing is left running
        url, deadline_s = None, time.monotonic() + 200
        while url is None:
            assert served.poll() is None, Path(said.name).read_text()
            assert time.monotonic() < deadline_s
            url = next(
                (line.split()[1] for line in Path(said.name).read_text().splitlines() if line.startswith("Ready:")),
                None,
            )
            time.sleep(0.2)
        assert httpx.get(url + "/readyz").status_code == 200
        family = psutil.Process(served.pid).children(recursive=True)
        names = " ".join(" ".join(process.cmdline()) for process in family)
        assert "org.pytorch.serve.ModelServer" in names
        assert "model_service_worker" in names
        assert "-m api_service" in names
        run_dir = next(Path(process.environ()["TMPDIR"]) for process in family if "api_service" in process.cmdline())
        assert run_dir.is_dir()
        served.send_signal(signal.SIGTERM)
        assert served.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=2)
    assert not alive
    assert not run_dir.exists()
    assert "Traceback" not in Path(said.name).read_text()


def test_a_taken_port_is_told_in_one_line(tmp_path):
    settings = settings_for(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            **os.environ,
            "S2S_BUNDLE": str(settings.bundle),
            "S2S_DATA_DIR": str(tmp_path / "var"),
            "S2S_MODEL_SERVER_URL": "http://127.0.0.1:0",
            "S2S_METRICS_PORT": "0",
            "S2S_GRPC_PORT": "0",
        }
        served = subprocess.run(
            [sys.executable, "-c", "from s2s.cli import main; main()", "serve", "--port", str(taken.getsockname()[1])],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert served.returncode == 1
    assert "is taken" in served.stderr
    assert "Traceback" not in served.stderr
