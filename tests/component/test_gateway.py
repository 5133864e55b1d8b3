"""Promises of the whole service: gateway, jobs, the real TorchServe, and what happens when parts of them die."""

import base64
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.clips import film, heard, packets


def send(gateway: httpx.Client, clip: Path, **fields: str) -> dict:
    answer = gateway.post("/v1/jobs", files={"file": (clip.name, clip.read_bytes(), "video/mp4")}, data=fields)
    assert answer.status_code == 202, answer.text
    return answer.json()


def finished(gateway: httpx.Client, job: dict, within_s: float = 200.0) -> dict:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        with suppress(httpx.TransportError):  # it is being started again
            job = gateway.get(job["links"]["self"]).json()
        if job["state"] in ("succeeded", "failed", "canceled"):
            return job
        time.sleep(0.2)
    raise AssertionError(f"still {job['state']} after {within_s} s: {job}")


def wait_for_progress(gateway: httpx.Client, job: dict) -> None:
    """Until the model's worker is in the middle of it."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        progress = gateway.get(job["links"]["self"]).json()["progress"]
        if progress and progress["step"] > 1:
            return
        time.sleep(0.05)
    raise AssertionError("no progress")


def saved(gateway: httpx.Client, job: dict, path: Path) -> Path:
    answer = gateway.get(job["links"]["result"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "video/mp4"
    path.write_bytes(answer.content)
    return path


def test_a_silent_clip_gets_sound_through_every_part(gateway, clip, tmp_path):
    job = send(gateway, clip, seed="5")
    with gateway.stream("GET", job["links"]["events"]) as stream:
        names = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    told = gateway.get(job["links"]["events"], headers={"Last-Event-ID": "0"}).text  # also what came before the stream
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in told.split("\n\n") if block]
    progress = [json.loads(event["data"]) for event in events if event["event"] == "progress"]
    assert names[0] == "snapshot"
    assert names[-1] == "succeeded"
    assert {told["stage"] for told in progress} == {"frames", "features", "events", "mel", "vocode", "mux"}
    assert [told["fraction"] for told in progress] == sorted(told["fraction"] for told in progress)
    job = finished(gateway, job)
    assert job["report"]["seed"] == 5
    assert job["report"]["duration_s"] == pytest.approx(1.0, abs=0.05)
    video = saved(gateway, job, tmp_path / "out.mp4")
    assert packets(video) == packets(clip)
    assert np.abs(heard(video, 22_050)).max() > 1e-4


def test_clients_at_the_same_time_get_their_own_results(stack, tmp_path):
    clips = [film(tmp_path / f"{n}.mp4", seconds=0.6 + 0.2 * n, size=f"{96 + 32 * n}x72") for n in range(3)]

    def one(clip: Path) -> Path:
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            return saved(client, finished(client, send(client, clip)), tmp_path / f"out-{clip.name}")

    with ThreadPoolExecutor(3) as pool:
        for clip, video in zip(clips, pool.map(one, clips), strict=True):
            assert packets(video) == packets(clip)


def test_the_original_projects_client_is_served(gateway, clip, tmp_path):
    started = gateway.post("/predict", files={"file": ("clip.mp4", clip.read_bytes(), "video/mp4")})
    assert started.status_code == 200
    name = started.json()["filename"]
    deadline_s = time.monotonic() + 120
    while (status := gateway.get(f"/status/{name}").json()["status"]) == "processing":
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert status == "completed"
    (tmp_path / name).write_bytes(gateway.get(f"/get_video/{name}").content)
    assert packets(tmp_path / name) == packets(clip)


def test_bad_input_that_only_the_model_can_judge_is_told_in_its_words(gateway, clip):
    job = finished(gateway, send(gateway, clip, category="unicorn"))
    assert (job["state"], job["problem"]["code"], job["problem"]["status"]) == ("failed", "unknown_category", 422)
    assert "unicorn" in job["problem"]["detail"]


def test_a_canceled_job_frees_the_worker(gateway, clip, long_clip):
    job = send(gateway, long_clip)
    wait_for_progress(gateway, job)
    gateway.post(job["links"]["cancel"])
    assert finished(gateway, job, within_s=20)["state"] == "canceled"
    assert finished(gateway, send(gateway, clip), within_s=120)["state"] == "succeeded"
    assert gateway.get(job["links"]["result"]).status_code == 409


def test_a_killed_worker_does_not_lose_the_job(stack, gateway, long_clip, tmp_path):
    job = send(gateway, long_clip)
    wait_for_progress(gateway, job)
    (worker,) = stack.ready_workers()
    os.kill(worker, signal.SIGKILL)
    job = finished(gateway, job)
    assert job["state"] == "succeeded", job["problem"]
    assert packets(saved(gateway, job, tmp_path / "out.mp4")) == packets(long_clip)
    assert stack.ready_workers() != [worker]
    assert not list(stack.run_dir.glob("s2s-request-*")), "not even the killed worker's files are left"


def test_a_killed_gateway_does_not_lose_the_job(stack, gateway, long_clip, clip, tmp_path):
    running, waiting = send(gateway, long_clip), send(gateway, clip)
    wait_for_progress(gateway, running)
    stack.children["gateway"].stop(signal.SIGKILL)
    stack.start_gateway()
    stack.wait_until_ready()
    for job, source in ((running, long_clip), (waiting, clip)):
        done = finished(gateway, job)
        assert done["state"] == "succeeded", done["problem"]
        assert packets(saved(gateway, done, tmp_path / f"{job['id']}.mp4")) == packets(source)


def test_status_stays_quick_while_a_clip_is_worked_on(gateway, long_clip):
    """The event loop is never blocked by an upload or by the work."""
    job = send(gateway, long_clip)
    wait_for_progress(gateway, job)
    sent: list[int] = []
    body = {"file": base64.b64encode(long_clip.read_bytes()).decode()}
    upload = threading.Thread(target=lambda: sent.append(gateway.post("/v1/jobs", json=body).status_code))
    upload.start()
    times = []
    for _ in range(30):
        started = time.perf_counter()
        assert gateway.get(job["links"]["self"]).status_code == 200
        times.append(time.perf_counter() - started)
    upload.join()
    assert sent == [202]
    assert sorted(times)[len(times) // 2] < 0.25
    assert finished(gateway, job)["state"] == "succeeded"
