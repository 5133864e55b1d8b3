"""Promises of the streamed answer and of the archive, without TorchServe."""

import ast
import json
import shutil
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest
import yaml
from tests.tiny import make_tiny_bundle

from model_deployment import build_mar as archive
from model_deployment.build_mar import build_mar
from model_deployment.stream import CancelFlag, LineStream
from s2s.config import Settings
from s2s.errors import ArtifactError
from s2s.events import Progress, Stage


@pytest.fixture
def lines():
    return []


def stream_to(lines: list, keep_alive_s: float = 60.0, stall_s: float = 60.0) -> LineStream:
    return LineStream(lambda line: lines.append(json.loads(line)), keep_alive_s=keep_alive_s, stall_s=stall_s)


def test_nothing_is_sent_while_the_file_may_still_be_refused(lines):
    stream = stream_to(lines)
    stream.progress(Progress(Stage.PROBE, 0, 1))
    stream.progress(Progress(Stage.PROBE, 1, 1))
    assert not stream.started
    stream.progress(Progress(Stage.FRAMES, 0, 9))
    assert stream.started
    stream.close()


def test_progress_is_thinned_but_first_and_last_of_a_stage_are_told(lines):
    stream = stream_to(lines)
    for stage, total in ((Stage.FRAMES, 5000), (Stage.MEL, 5000)):
        for step in range(1, total + 1):
            stream.progress(Progress(stage, step, total))
    stream.close()
    assert len(lines) < 200
    for stage in ("frames", "mel"):
        steps = [line["step"] for line in lines if line["stage"] == stage]
        assert steps[0] == 1
        assert steps[-1] == 5000


def test_progress_never_goes_back_when_stages_overlap(lines):
    stream = stream_to(lines)
    for step in range(1, 11):
        stream.progress(Progress(Stage.FRAMES, step, 10))
        stream.progress(Progress(Stage.FEATURES, step, 10))
    stream.close()
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions)
    assert {line["stage"] for line in lines} == {"frames", "features"}


def test_a_long_step_is_not_silent(lines):
    stream = stream_to(lines, keep_alive_s=0.2)
    stream.progress(Progress(Stage.VOCODE, 1, 9))
    time.sleep(1.0)
    stream.close()
    assert len(lines) >= 3
    assert lines[0] == lines[-1]


def test_a_hung_generator_is_left_to_the_watchdog(lines):
    stream = stream_to(lines, keep_alive_s=0.1, stall_s=0.3)
    stream.progress(Progress(Stage.VOCODE, 1, 9))
    time.sleep(0.6)
    told = len(lines)
    time.sleep(0.5)
    assert len(lines) == told
    stream.close()


def test_no_line_follows_the_close(lines):
    stream = stream_to(lines, keep_alive_s=0.05)
    stream.progress(Progress(Stage.VOCODE, 1, 9))
    time.sleep(0.2)
    stream.close()
    told = len(lines)
    time.sleep(0.3)
    assert len(lines) == told
    assert all(thread.name != "keep-alive" for thread in threading.enumerate())


def test_a_flag_stops_one_request_and_is_cleared(tmp_path):
    with CancelFlag(tmp_path, "a.1") as mine, CancelFlag(tmp_path, "b.1") as other:
        assert not mine.is_set()
        (tmp_path / "a.1").touch()
        time.sleep(0.25)
        assert mine.is_set()
        assert not other.is_set()
    assert not (tmp_path / "a.1").exists()
    assert not CancelFlag(None, "a.1").is_set()


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    return folder


def test_the_archive_points_to_the_bundle_and_is_rebuilt_only_when_something_changed(tmp_path, bundle):
    settings, target = Settings(bundle=bundle, model_workers=2, response_timeout_s=30), tmp_path / "store" / "s2s.mar"
    assert build_mar(settings, target)
    first = target.read_bytes()
    assert not build_mar(settings, target)
    with zipfile.ZipFile(target) as mar:
        config = yaml.safe_load(mar.read("model-config.yaml"))
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))
    assert config["handler"]["bundle"] == str(bundle)
    assert (config["minWorkers"], config["maxWorkers"], config["batchSize"]) == (2, 2, 1)
    assert (config["responseTimeout"], config["useJobTicket"]) == (30, True)
    assert manifest["model"]["modelName"] == "s2s"
    (bundle / "bundle.json").write_text('{"name": "other"}')
    assert build_mar(settings, target)
    assert target.read_bytes() != first


def test_a_whole_archive_holds_the_bundle_and_points_into_itself_and_is_the_same_every_time(tmp_path, bundle):
    (bundle / "regnet.safetensors").write_bytes(b"weights")
    settings, target = Settings(bundle=bundle), tmp_path / "s2s.mar"
    assert build_mar(settings, target, whole=True)
    assert not build_mar(settings, target, whole=True)
    with zipfile.ZipFile(target) as mar:
        config = yaml.safe_load(mar.read("model-config.yaml"))
        inside = {name: mar.read(name) for name in mar.namelist() if name.startswith("bundle/")}
    assert config["handler"]["bundle"] == "bundle", "relative: the handler looks for it where TorchServe unpacked it"
    assert inside == {"bundle/bundle.json": b"{}", "bundle/regnet.safetensors": b"weights"}


def test_the_handler_finds_the_bundle_in_a_whole_archive_that_was_carried_away(tmp_path):
    from model_deployment.handler import S2SHandler

    home = make_tiny_bundle(tmp_path / "home")
    build_mar(Settings(bundle=home), tmp_path / "s2s.mar", whole=True)
    shutil.rmtree(home)
    with zipfile.ZipFile(tmp_path / "s2s.mar") as mar:
        mar.extractall(tmp_path / "unpacked")
        config = yaml.safe_load(mar.read("model-config.yaml"))
    properties = {"model_dir": str(tmp_path / "unpacked")}
    handler = S2SHandler()
    handler.initialize(SimpleNamespace(system_properties=properties, model_yaml_config=config))
    assert handler.generator._bundle.manifest.name == "tiny"


def test_a_folder_that_is_no_bundle_is_told(tmp_path):
    with pytest.raises(ArtifactError):
        build_mar(Settings(bundle=tmp_path), tmp_path / "s2s.mar")


def test_the_handler_defines_the_one_class_that_torchserve_looks_for():
    tree = ast.parse((archive.HERE / "handler.py").read_text())
    assert [node.name for node in tree.body if isinstance(node, ast.ClassDef)] == ["S2SHandler"]


def test_the_deployments_sizes_fit_the_default_limits():
    lines = (archive.HERE / "config.properties").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    limits = Settings().http_limits
    assert int(values["max_request_size"]) == limits.max_request_bytes
    assert int(values["max_response_size"]) > limits.max_request_bytes + 4 * 2**20
    assert values["management_address"].startswith("unix:")
    assert "127.0.0.1" in values["inference_address"]
    assert values["allowed_urls"] == f"file://{values['model_store']}/.*"
