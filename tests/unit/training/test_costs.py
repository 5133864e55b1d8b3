"""What a run has cost survives its kills, and counts the processes that it started."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from s2s.training import costs
from s2s.training.costs import costs_in_words, costs_of, counted

BUSY = "import time\nwhile time.process_time() < 0.3: pass"


def test_stages_add_up_over_runs_and_failures_and_with_the_processes_they_start(tmp_path: Path):
    with counted(tmp_path, "renders"):
        subprocess.run([sys.executable, "-c", BUSY], check=True)
    first = costs_of(tmp_path)["renders"]
    assert first["cpu_s"] >= 0.3
    with suppress(ValueError), counted(tmp_path, "timing"):
        time.sleep(0.3)
        raise ValueError("broken")
    with counted(tmp_path, "renders"):
        time.sleep(0.3)
    again = costs_of(tmp_path)
    assert list(again) == ["renders", "timing"]
    assert again["renders"]["wall_s"] > first["wall_s"] + 0.25  # both are rounded to tenths
    assert again["renders"]["cpu_s"] >= first["cpu_s"]
    assert again["timing"]["wall_s"] >= 0.3
    assert costs_in_words(tmp_path).splitlines()[-1].startswith("together")


def test_a_killed_run_has_kept_what_it_cost(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(costs, "WRITTEN_EVERY_S", 0.05)
    with counted(tmp_path, "vocoder"):
        deadline_s = time.monotonic() + 60
        while not costs_of(tmp_path).get("vocoder", {"wall_s": 0})["wall_s"] and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert costs_of(tmp_path)["vocoder"]["wall_s"] > 0, "before the stage has ended"
