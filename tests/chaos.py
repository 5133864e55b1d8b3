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
import time
from contextlib import suppress
from pathlib import Path

import httpx
from sqlalchemy import text

from api_service.api.database import Database
from s2s.config import Settings

QUICK = {
    "S2S_LEASE_S": "3",
    "S2S_ORPHAN_S": "2",
    "S2S_DRAIN_S": "0",
    "S2S_MAX_ATTEMPTS": "1000",
    "S2S_MAX_QUEUED": "1000",
    "S2S_MAX_QUEUED_PER_OWNER": "1000",
    "S2S_UPLOADS_PER_MIN": "100000",
}
GATEWAY = [sys.executable, "-m", "api_service"]
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


def run_chaos(
    folder: Path,
    clip: bytes,
    *,
    n_jobs: int,
    n_workers: int,
    n_kills: int,
    within_s: float,
    seed: int = 1,
    database_url: str = "",
) -> dict[str, int]:
    """Sends `n_jobs`, kills (-9) `n_kills` times, and checks: every job has exactly one recorded success and its own
    result, and no file is left that belongs to nothing. Returns what was counted."""
    rng, (gateway_port, model_port) = random.Random(seed), (free_port(), free_port())
    environment = {
        **os.environ,
        **QUICK,
        "S2S_DATA_DIR": str(folder / "var"),
        "S2S_CANCEL_DIR": str(folder / "cancel"),
        "S2S_MODEL_SERVER_URL": f"http://127.0.0.1:{model_port}",
        "S2S_EMBEDDED_WORKER": "false",
        "S2S_DATABASE_URL": database_url,
        "S2S_SECRET_KEY": "k" * 32,
        "S2S_PORT": str(gateway_port),
    }
    uvicorn = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--host", "127.0.0.1"]
    model = [*uvicorn, "tests.instant_model:app", "--port", str(model_port)]
    members = [Member("gateway", GATEWAY, environment, folder), Member("model", model, environment, folder)]
    members += [Member(f"worker-{n}", [*CLI, "worker"], environment, folder) for n in range(n_workers)]
    url, deadline_s, kills = f"http://127.0.0.1:{gateway_port}", time.monotonic() + within_s, 0
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            waiting = {}
            clips = {n: clip + b"\0\0\0\x0cfree" + n.to_bytes(4) for n in range(n_jobs)}
            for n, video in clips.items():
                waiting[n] = _insist(
                    client,
                    deadline_s,
                    "POST",
                    "/v1/jobs",
                    headers={"Idempotency-Key": str(n)},
                    files={"file": (f"{n}.mp4", video, "video/mp4")},
                ).json()["id"]
                if kills < n_kills // 3 and n % 3 == 2:
                    kills += _kill_one(rng, members)
            assert len(set(waiting.values())) == n_jobs
            ids, open_jobs = dict(waiting), set(waiting)
            while open_jobs or kills < n_kills:
                assert time.monotonic() < deadline_s, f"{len(open_jobs)} jobs are still open after {kills} kills"
                time.sleep(rng.uniform(0.2, 1.5))
                if kills < n_kills:
                    kills += _kill_one(rng, members)
                for n in sorted(open_jobs):
                    state = _insist(client, deadline_s, "GET", f"/v1/jobs/{ids[n]}").json()["state"]
                    assert state in ("queued", "running", "succeeded"), state
                    if state == "succeeded":
                        open_jobs.remove(n)
                    else:
                        break  # the queue is in order: the others come later
            for n, video in clips.items():
                result = _insist(client, deadline_s, "GET", f"/v1/jobs/{ids[n]}/result").content
                assert result == video + b"\0\0\0\x0cfree" + hashlib.sha256(video).digest()[:4], "another job's result"
        expected = _recorded(folder, database_url, set(ids.values()))
        while (left := _files(folder / "var" / "blobs")) != expected:
            assert time.monotonic() < deadline_s, f"orphans: {sorted(left - expected)}, lost: {sorted(expected - left)}"
            time.sleep(0.5)
    finally:
        for member in members:
            member.kill()
    return {"jobs": n_jobs, "finished": len(expected) // 2, "kills": kills}


def _kill_one(rng: random.Random, members: list[Member]) -> int:
    member = rng.choice(members)
    member.kill()
    member.start()
    return 1


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
