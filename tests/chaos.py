"""Many jobs while processes of the service are killed: what `tests/component` does briefly and `tests/soak` in full."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from sqlalchemy import text
from tests.clips import film, packets

from api_service.api.database import Database
from s2s.config import Settings
from s2s.serving import Stack, running_stack

QUICK = {
    "lease_s": 3.0,
    "orphan_s": 2.0,
    "drain_s": 0.0,
    "max_attempts": 1000,
    "max_queued": 1000,
    "max_queued_per_owner": 1000,
    "uploads_per_min": 100_000,
    "secret_key": SecretStr("k" * 32),
}
GATEWAY = [sys.executable, "-m", "api_service"]
INSTANT_MODEL = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "tests.instant_model:app", "--port"]
CLI = [sys.executable, "-c", "from s2s.cli import main; main()"]


class Member:
    """A process that is started again as often as it is killed."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path):
        self.name, self._command, self._environment = name, command, environment
        self._log = (folder / f"{name}.log").open("ab")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(with_signal)
        self._process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until_alive(url: str) -> None:
    deadline_s = time.monotonic() + 120
    while True:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/livez", timeout=5, trust_env=False).status_code == 200:
                return
        assert time.monotonic() < deadline_s, f"{url} did not start"
        time.sleep(0.2)


class ModelWorker:
    """The Python workers of a TorchServe, which starts them again itself."""

    def __init__(self, stack: Stack, rng: random.Random):
        self.name, self._stack, self._rng = "model worker", stack, rng

    def kill(self) -> None:
        deadline_s = time.monotonic() + 120
        while not (ready := self._stack.ready_workers()):  # it is still starting after the last time
            assert time.monotonic() < deadline_s, "TorchServe has no worker"
            time.sleep(0.5)
        os.kill(self._rng.choice(ready), signal.SIGKILL)

    def start(self) -> None:
        pass


class StackGateway:
    """The gateway of a stack, with its embedded worker."""

    def __init__(self, stack: Stack):
        self.name, self._stack = "gateway", stack

    def kill(self) -> None:
        self._stack.children["gateway"].stop(signal.SIGKILL)

    def start(self) -> None:
        self._stack.start_gateway()


@dataclass(frozen=True)
class Service:
    """What is shot at. `is_of(clip, result)`: is this result made from this clip?"""

    url: str
    members: list[Any]
    clips: dict[int, bytes]
    is_of: Callable[[bytes, bytes], bool]


@contextmanager
def with_stand_in(folder: Path, n_jobs: int, n_workers: int, database_url: str, _: random.Random) -> Iterator[Service]:
    """A gateway, workers, and a model server that answers at once, which is killed too."""
    gateway_port, model_port = free_port(), free_port()
    config = Settings(
        **QUICK,
        data_dir=folder / "var",
        cancel_dir=folder / "cancel",
        model_server_url=f"http://127.0.0.1:{model_port}",
        embedded_worker=False,
        database_url=database_url,
        port=gateway_port,
    )
    environment = {**os.environ, **config.environment()}
    members = [
        Member("gateway", GATEWAY, environment, folder),
        Member("model", [*INSTANT_MODEL, str(model_port)], environment, folder),
        *(Member(f"worker-{n}", [*CLI, "worker"], environment, folder) for n in range(n_workers)),
    ]
    video = film(folder / "clip.mp4", seconds=0.6).read_bytes()
    clips = {n: video + b"\0\0\0\x0cfree" + n.to_bytes(4) for n in range(n_jobs)}
    try:
        yield Service(f"http://127.0.0.1:{gateway_port}", members, clips, _has_mark)
    finally:
        for member in members:
            member.kill()


def _has_mark(clip: bytes, result: bytes) -> bool:
    return result == clip + b"\0\0\0\x0cfree" + hashlib.sha256(clip).digest()[:4]


@contextmanager
def with_torchserve(
    folder: Path, n_jobs: int, n_workers: int, database_url: str, rng: random.Random
) -> Iterator[Service]:
    """The whole stack with small networks: TorchServe, whose Python workers are killed, a gateway, and more workers."""
    from tests.tiny import make_tiny_bundle  # the others need no torch

    config = Settings(
        **QUICK, data_dir=folder / "var", bundle=make_tiny_bundle(folder / "bundle"), database_url=database_url
    )
    clips = {}
    for n in range(n_jobs):  # every picture of another size, so that a result tells whose it is
        size = f"{64 + 8 * (n % 8)}x{48 + 8 * (n // 8)}"
        clips[n] = film(folder / f"{n}.mp4", seconds=0.6, size=size).read_bytes()
    with running_stack(config, data_dir=folder / "var") as stack:
        environment = {**os.environ, **stack.settings.environment()}
        workers = [Member(f"worker-{n}", [*CLI, "worker"], environment, folder) for n in range(n_workers)]
        try:
            members = [StackGateway(stack), ModelWorker(stack, rng), *workers]
            yield Service(stack.url, members, clips, _has_its_picture)
        finally:
            for worker in workers:
                worker.kill()


def _has_its_picture(clip: bytes, result: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "clip.mp4"), Path(folder, "result.mp4")
        for path, data in zip(paths, (clip, result), strict=True):
            path.write_bytes(data)
        return packets(paths[0]) == packets(paths[1])


def run_chaos(
    folder: Path,
    *,
    n_jobs: int,
    n_workers: int,
    n_kills: int,
    within_s: float,
    seed: int = 1,
    database_url: str = "",
    service: Callable[..., AbstractContextManager[Service]] = with_stand_in,
) -> dict[str, int]:
    """Sends `n_jobs`, kills (-9) `n_kills` times, every member in turn, and checks: every job has exactly one recorded
    success and its own result, and no file is left that belongs to nothing. Returns what was counted."""
    rng = random.Random(seed)
    with service(folder, n_jobs, n_workers, database_url, rng) as shot:
        deadline_s = time.monotonic() + within_s
        victims = [shot.members[n % len(shot.members)] for n in range(n_kills)]
        rng.shuffle(victims)

        def kill_one() -> None:
            victim = victims.pop()
            victim.kill()
            victim.start()

        with httpx.Client(base_url=shot.url, timeout=30, trust_env=False) as client:
            ids = {}
            for n, video in shot.clips.items():
                ids[n] = _insist(
                    client,
                    deadline_s,
                    "POST",
                    "/v1/jobs",
                    headers={"Idempotency-Key": str(n)},
                    files={"file": (f"{n}.mp4", video, "video/mp4")},
                ).json()["id"]
                if len(victims) > n_kills - n_kills // 3 and n % 3 == 2:
                    kill_one()
            assert len(set(ids.values())) == n_jobs
            open_jobs = set(ids)
            while open_jobs or victims:
                assert time.monotonic() < deadline_s, f"{len(open_jobs)} open jobs, {len(victims)} kills to come"
                time.sleep(rng.uniform(0.2, 1.5))
                if victims:
                    kill_one()
                for n in sorted(open_jobs):
                    job = _insist(client, deadline_s, "GET", f"/v1/jobs/{ids[n]}").json()
                    assert job["state"] in ("queued", "running", "succeeded"), job
                    if job["state"] == "succeeded":
                        open_jobs.remove(n)
                    else:
                        break  # the queue is in order: the others come later
            for n, video in shot.clips.items():
                result = _insist(client, deadline_s, "GET", f"/v1/jobs/{ids[n]}/result").content
                assert shot.is_of(video, result), "another job's result"
        expected = _recorded(folder, database_url, set(ids.values()))
        while (left := _files(folder / "var" / "blobs")) != expected:
            assert time.monotonic() < deadline_s, f"orphans: {sorted(left - expected)}, lost: {sorted(expected - left)}"
            time.sleep(0.5)
    return {"jobs": n_jobs, "finished": len(expected) // 2, "kills": n_kills}


def _insist(client: httpx.Client, deadline_s: float, method: str, path: str, **request: object) -> httpx.Response:
    """As a client does that wants its answer: again, while nobody answers."""
    while True:
        with suppress(httpx.TransportError):
            answer = client.request(method, path, **request)
            if answer.status_code < 500:
                assert answer.status_code < 300, answer.text
                return answer
        assert time.monotonic() < deadline_s, f"no answer to {method} {path}"
        time.sleep(0.2)


def _files(folder: Path) -> set[tuple[str, str]]:
    return {(path.parent.name, path.name) for path in folder.glob("*/*")}


def _recorded(folder: Path, database_url: str, ids: set[str]) -> set[tuple[str, str]]:
    """(job, file) of what the database knows; checks that each job has exactly one success on record."""

    async def read() -> set[tuple[str, str]]:
        database = Database.of(Settings(data_dir=folder / "var", database_url=database_url))
        rows = await database.read(lambda db: db.execute(text("SELECT id, state, attempt FROM jobs")).all())
        outcomes = "SELECT job_id, count(*) FROM job_events WHERE event IN ('succeeded', 'failed', 'canceled')"
        counts = await database.read(lambda db: db.execute(text(f"{outcomes} GROUP BY job_id")).all())
        await database.close()
        assert {(row.id, row.state) for row in rows} == {(job_id, "succeeded") for job_id in ids}
        assert {tuple(row) for row in counts} == {(job_id, 1) for job_id in ids}, "exactly one recorded outcome"
        return {(row.id, name) for row in rows for name in ("in", f"out-{row.attempt}")}

    return asyncio.run(read())
