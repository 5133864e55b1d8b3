"""Promises of `s2s serve`: one command up, one signal down, nothing left."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from tests.clips import film
from tests.component.test_gateway import finished, send
from tests.stack import settings_for
from tests.tiny import make_tiny_bundle

from model_deployment.build_mar import build_mar
from s2s.bundle import read_manifest
from s2s.config import Settings
from s2s.errors import ArtifactError
from s2s.media.probe import probe
from s2s.serving import running_stack


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


def test_an_archive_with_its_bundle_inside_is_served_as_it_is_and_named_by_the_gateway(tmp_path):
    settings = Settings(bundle=make_tiny_bundle(tmp_path / "bundle"))
    build_mar(settings, tmp_path / "carried.mar", whole=True)
    manifest = read_manifest(settings.bundle)
    shutil.rmtree(settings.bundle)  # what is served can only come from the archive
    settings = Settings(archive=tmp_path / "carried.mar", bundle=tmp_path / "none")
    clip = film(tmp_path / "clip.mp4", seconds=1, rate="25")
    with running_stack(settings, data_dir=tmp_path / "var") as stack:
        served = stack.data_dir / "model_store" / "s2s.mar"
        assert served.read_bytes() == (tmp_path / "carried.mar").read_bytes()
        named = httpx.get(stack.url + "/v1/models").json()["models"][0]
        with httpx.Client(base_url=stack.url, timeout=60) as gateway:
            job = finished(gateway, send(gateway, clip))
            result = gateway.get(job["links"]["result"]).raise_for_status().content
    assert (named["name"], named["categories"]) == (manifest.name, list(manifest.categories))
    (tmp_path / "out.mp4").write_bytes(result)
    assert probe(tmp_path / "out.mp4", settings.cli_limits).has_audio


def test_an_archive_without_a_bundle_is_refused_with_how_to_make_one(tmp_path):
    build_mar(Settings(bundle=make_tiny_bundle(tmp_path / "bundle")), tmp_path / "pointer.mar")
    for archive in (tmp_path / "pointer.mar", tmp_path / "missing.mar"):
        with (
            pytest.raises(ArtifactError, match="with a bundle inside") as told,
            running_stack(Settings(archive=archive), data_dir=tmp_path / "var"),
        ):
            pass
        assert "--whole" in told.value.hint
