"""What each stage of a run has cost, in wall and CPU time: RUN/costs.json, kept up to date while it runs.

A run that is killed and goes on adds to what it had, so the sum is that of the whole run from nothing, less the last
seconds before each kill.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s2s.data.manifest import write_whole

WRITTEN_EVERY_S = 10.0


@contextmanager
def counted(run_dir: Path, stage: str) -> Iterator[None]:
    """Adds the time until the block ends to `stage`. Processes that it started count from when they have ended."""
    before = costs_of(run_dir)
    had = before.get(stage, {"wall_s": 0.0, "cpu_s": 0.0})
    wall_s, cpu_s = time.monotonic(), _cpu_s()
    over = threading.Event()

    def write() -> None:
        now = {
            "wall_s": round(had["wall_s"] + time.monotonic() - wall_s, 1),
            "cpu_s": round(had["cpu_s"] + _cpu_s() - cpu_s, 1),
        }
        write_whole(run_dir / "costs.json", json.dumps({**before, stage: now}, indent=1) + "\n")

    def keep_writing() -> None:
        while not over.wait(WRITTEN_EVERY_S):
            write()

    run_dir.mkdir(parents=True, exist_ok=True)
    writer = threading.Thread(target=keep_writing, daemon=True)
    writer.start()
    try:
        yield
    finally:
        over.set()
        writer.join()
        write()


def costs_of(run_dir: Path) -> dict[str, dict[str, float]]:
    """{stage: {"wall_s", "cpu_s"}} in the order in which stages began; empty before the first."""
    path = run_dir / "costs.json"
    return json.loads(path.read_text()) if path.exists() else {}


def costs_in_words(run_dir: Path) -> str:
    """A line a stage, and the sum: "vocoder 31 min, 58 CPU-min"."""
    costs = costs_of(run_dir)
    total = {name: sum(cost[name] for cost in costs.values()) for name in ("wall_s", "cpu_s")}
    return "\n".join(
        f"{stage:<12}{cost['wall_s'] / 60:7.1f} min{cost['cpu_s'] / 60:8.1f} CPU-min"
        for stage, cost in [*costs.items(), ("together", total)]
    )


def _cpu_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
