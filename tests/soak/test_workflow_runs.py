"""`run_local.sh` from nothing to a prediction, and through kills at random moments."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from s2s.config import REPO_ROOT

pytestmark = pytest.mark.soak
SCRIPT = REPO_ROOT / "src" / "workflow" / "run_local.sh"


def start(folder: Path) -> subprocess.Popen:
    log = open(folder.with_suffix(".log"), "a")  # noqa: SIM115  the child's
    return subprocess.Popen([str(SCRIPT), str(folder)], stdout=log, stderr=log, start_new_session=True)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """What collection, preprocessing and extraction ended with."""
    names = [
        path
        for stage in ("raw", "clips", "features")
        for path in sorted((folder / stage).rglob("*"))
        if path.suffix in (".mp4", ".flac", ".jsonl", ".safetensors")
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def made_files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".safetensors", ".flac")}


@pytest.mark.timeout(7200)
def test_one_command_goes_from_nothing_to_a_prediction_and_a_second_run_redoes_no_stage(tmp_path):
    assert start(tmp_path / "run").wait(3600) == 0, (tmp_path / "run.log").read_text()[-3000:]
    assert (tmp_path / "run" / "demo" / "with-sound.mp4").stat().st_size > 10_000
    archive = tmp_path / "run" / "s2s.mar"
    assert (tmp_path / "run" / "demo" / "stack" / "model_store" / "s2s.mar").read_bytes() == archive.read_bytes()
    before = made_files(tmp_path / "run" / "features") | made_files(tmp_path / "run" / "clips")
    assert start(tmp_path / "run").wait(3600) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.timeout(14_400)
def test_ten_kills_leave_no_trace(tmp_path):
    rng = random.Random(4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert start(whole).wait(3600) == 0
    usual_s = time.monotonic() - began
    (killed / "site").mkdir(parents=True)
    (killed / "site" / "port").write_text((whole / "site" / "port").read_text())  # an address is part of a row
    for _ in range(10):
        process = start(killed)
        time.sleep(rng.uniform(0.05, 0.25) * usual_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(killed).wait(3600) == 0
    assert bytes_of(killed) == bytes_of(whole)
