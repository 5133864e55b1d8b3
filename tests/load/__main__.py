"""What the gateway costs by itself: `make load`.

A gateway with its embedded worker on one core, in front of a model server that answers at once (on another core, like
the clients). Three runs of locust: 200 status reads a second, 5 MB uploads one after another, and status reads as fast
as they go. Half of the jobs that are read are finished, half wait. Ends with 1 where a figure misses its aim.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import quantiles

import httpx
import psutil
from tests.chaos import GATEWAY, INSTANT_MODEL, Member, free_port
from tests.clips import film

CLIP_BYTES = 5_000_000
STATUS_P50_MS, CREATE_P50_MS, READS_PER_S = 5.0, 25.0, 200.0
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--locust", default="locust", help="its program")
    parser.add_argument("--seconds", type=int, default=15, help="of each run")
    parser.add_argument("--database-url", default="", help="postgresql://...; default: SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s2s-load-") as folder:
        return _measure(Path(folder), options)


def _measure(folder: Path, options: argparse.Namespace) -> int:
    cores = sorted(os.sched_getaffinity(0))
    gateway_port, model_port = free_port(), free_port()
    environment = {
        **os.environ, "S2S_DATA_DIR": str(folder / "var"), "S2S_CANCEL_DIR": str(folder / "cancel"),
        "S2S_MODEL_SERVER_URL": f"http://127.0.0.1:{model_port}", "S2S_DATABASE_URL": options.database_url,
        "S2S_SECRET_KEY": "k" * 32, "S2S_PORT": str(gateway_port), "S2S_MAX_QUEUED": "10000",
        "S2S_LOG_LEVEL": "WARNING",
    }  # fmt: skip
    model = Member("model", [*INSTANT_MODEL, str(model_port)], environment, folder)
    gateway = Member("gateway", GATEWAY, environment, folder)
    process = psutil.Process(gateway.pid)
    process.cpu_affinity(cores[:1])
    psutil.Process(model.pid).cpu_affinity(cores[-1:])
    url, rows = f"http://127.0.0.1:{gateway_port}", {}
    try:
        clip = _clip(folder / "clip.mp4")
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            _until(lambda: client.get("/livez").status_code == 200)
            jobs = [_send(client, clip) for _ in range(2)]
            _until(lambda: all(client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded" for job in jobs))
            model.send(signal.SIGSTOP)  # what is sent now waits, or runs on
            jobs += [_send(client, clip) for _ in range(2)]
            for user, users in (("SteadyReader", 20), ("FullReader", 8), ("Sender", 1)):
                if user == "Sender":
                    model.send(signal.SIGCONT)
                    _until(lambda: all(client.get(f"/v1/jobs/{job}").json()["state"] == "succeeded" for job in jobs))
                spent_s = sum(process.cpu_times()[:2])
                told = _locust(options, url, user, users, clip, jobs, cores[-1:])
                spent_s = sum(process.cpu_times()[:2]) - spent_s
                rows[user] = {**told, "cpu_ms": 1000 * spent_s / len(told["times_ms"])}
    finally:
        for member in (gateway, model):
            member.kill()
    return _report(rows)


def _report(rows: dict[str, dict]) -> int:
    print(f"{'':32}{'requests':>9}{'per s':>8}{'p50 ms':>8}{'p95 ms':>8}{'CPU ms each':>13}")
    titles = {"SteadyReader": "status reads, 200 a second", "FullReader": "status reads, as they go",
              "Sender": "jobs with a 5 MB upload"}  # fmt: skip
    p50_ms, per_s, failures = {}, {}, []
    for user, row in rows.items():
        cuts = quantiles(row["times_ms"], n=100)
        p50_ms[user], per_s[user] = cuts[49], len(row["times_ms"]) / row["seconds"]
        failures += row["failures"]
        print(f"{titles[user]:32}{len(row['times_ms']):9}{per_s[user]:8.1f}{cuts[49]:8.1f}{cuts[94]:8.1f}"
              f"{row['cpu_ms']:13.2f}")  # fmt: skip
    print("The CPU of a job is all of it: also the embedded worker's part, which sends it on and takes the result in.")
    aims = {
        f"status reads: p50 at most {STATUS_P50_MS:g} ms": p50_ms["SteadyReader"] <= STATUS_P50_MS,
        f"jobs: p50 at most {CREATE_P50_MS:g} ms": p50_ms["Sender"] <= CREATE_P50_MS,
        f"at least {READS_PER_S:g} status reads/s": per_s["FullReader"] >= READS_PER_S,
        f"every request is answered {failures[:1] or ''}": not failures,
    }
    for aim, met in aims.items():
        print(f"{'met   ' if met else 'MISSED'} {aim}")
    return 0 if all(aims.values()) else 1


def _locust(options: argparse.Namespace, url: str, user: str, users: int, clip: Path, jobs: list[str],
            cores: list[int]) -> dict:  # fmt: skip
    out = clip.with_name(f"{user}.json")
    command = [options.locust, "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--skip-log-setup", "-H", url,
               "-u", str(users), "-r", str(users), "-t", f"{options.seconds}s", user]  # fmt: skip
    environment = {**os.environ, "LOAD_JOBS": " ".join(jobs), "LOAD_CLIP": str(clip), "LOAD_OUT": str(out)}
    done = subprocess.run(["taskset", "-c", ",".join(map(str, cores)), *command], env=environment, capture_output=True,
                          text=True, timeout=options.seconds + 120)  # fmt: skip
    if not out.exists():
        raise SystemExit(done.stderr)
    return json.loads(out.read_text())


def _clip(path: Path) -> Path:
    """A real clip, made up to the size by a box that every reader skips."""
    film(path)
    room = CLIP_BYTES - path.stat().st_size
    with path.open("ab") as file:
        file.write(room.to_bytes(4) + b"free" + os.urandom(room - 8))
    return path


def _send(client: httpx.Client, clip: Path) -> str:
    answer = client.post("/v1/jobs", files={"file": ("clip.mp4", clip.read_bytes(), "video/mp4")})
    return answer.raise_for_status().json()["id"]


def _until(true: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while True:
        with suppress(httpx.TransportError):
            if true():
                return
        if time.monotonic() > deadline_s:
            raise SystemExit("the gateway is not where it should be")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
