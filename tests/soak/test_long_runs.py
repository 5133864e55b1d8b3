"""Long runs, by hand: `make test-soak`."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from tests.clips import film
from tests.stack import shared_stack

from s2s.config import settings
from s2s.errors import InputError
from s2s.media.probe import probe
from s2s.media.video import decode_frames
from s2s.wire import STATUS_OF_CODE

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def test_a_thousand_mutated_uploads_end_in_frames_or_in_an_input_error_and_leave_no_process(tmp_path: Path):
    """The gate, then the real decoder in its child."""
    rng, limits = random.Random(11), settings().http_limits
    originals = [film(tmp_path / "a.mp4", seconds=0.6), film(tmp_path / "b.webm", seconds=0.6, codec="vp8"),
                 film(tmp_path / "c.mov", seconds=0.6, sound=True)]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    codes: set[str] = set()
    for number in range(1000):
        original = originals[number % len(originals)]
        data = bytearray(original.read_bytes())
        for _ in range(rng.randint(1, 12)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if number % 7 == 0:
            del data[rng.randrange(len(data)):]
        path = tmp_path / f"mutated{original.suffix}"
        path.write_bytes(data)
        start = time.monotonic()
        try:
            info = probe(path, limits)
            for _ in decode_frames(info, limits=limits):
                pass
        except InputError as exc:
            codes.add(exc.code)
        assert time.monotonic() - start < 60, f"number {number} took too long"
    assert codes <= set(STATUS_OF_CODE)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_forty_jobs_all_finish_while_the_models_worker_is_killed_again_and_again(pytestconfig, tmp_path: Path):
    """Real TorchServe, real gateway; kill -9 of the Python worker at random moments, twelve times."""
    stack = shared_stack(pytestconfig)
    clip = film(tmp_path / "clip.mp4", seconds=1, rate="25").read_bytes()
    rng = random.Random(5)

    def run(number: int) -> str:
        with httpx.Client(base_url=stack.url, timeout=60) as http:
            job = http.post("/v1/jobs", files={"file": (f"{number}.mp4", clip, "video/mp4")}).raise_for_status().json()
            while job["state"] not in ("succeeded", "failed", "canceled"):
                time.sleep(1)
                job = http.get(job["links"]["self"]).raise_for_status().json()
            return job["state"] if job["state"] == "succeeded" else str(job["problem"])

    with ThreadPoolExecutor(40) as pool:
        jobs = [pool.submit(run, number) for number in range(40)]
        for _ in range(12):
            time.sleep(rng.uniform(10, 40))
            for process in psutil.Process().children(recursive=True):  # of this test's own stack
                if "model_service_worker.py" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    break
        outcomes = [job.result() for job in jobs]
    assert outcomes == ["succeeded"] * 40
