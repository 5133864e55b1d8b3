"""The bench reports what it ran. No figure is asked for: a busy machine fails nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny import make_tiny_bundle

from s2s.bench import pipeline
from s2s.bench.pipeline import STAGES, Case, Row
from s2s.bench.wavenet import clip_line, measure_clip
from s2s.wavenet_vocoder.engine import available_isas


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[Row]:
    folder = tmp_path_factory.mktemp("bench")
    cases = [Case("360p", 1, wall_limit_s=1e6), Case("360p", 1, cold=True)]
    return pipeline.measure(folder / "clips", cases, make_tiny_bundle(folder / "tiny"))


def test_a_loaded_and_a_cold_row_tell_stages_memory_and_the_time_of_every_process(rows: list[Row]):
    loaded, cold = rows
    for row in rows:
        assert row.peak_mb > 100  # torch alone takes more
        assert row.cpu_s > 0.1
    assert set(loaded.stage_seconds) == set(STAGES)
    assert sum(loaded.stage_seconds.values()) <= loaded.wall_s * 1.01
    assert cold.wall_s > sum(cold.stage_seconds.values())  # the start and the imports count


def test_rows_are_json_and_a_table_that_judges_each_limit(rows: list[Row]):
    assert json.loads(json.dumps(rows[0].to_dict()))["label"] == "1 s 360p"
    text = pipeline.table(rows)
    assert "wall 1e+06 s reached" in text
    assert "1 s 360p, cold" in text


def test_longer_clips_are_compared_with_the_short_one():
    def row(seconds: int, wall_s: float, cold: bool = False) -> Row:
        return Row(Case("360p", seconds, cold=cold), wall_s, 2 * wall_s, 900.0, {})

    text = pipeline.table([row(10, 4.0), row(60, 26.0), row(10, 10.0, cold=True)])
    assert "60 s cost 6.50 times the wall time" in text
    assert "NOT reached" in text
    assert "A cold start costs 6.0 s more (limit 12 s) reached" in text


def test_a_clip_that_fails_fails_the_bench(tmp_path: Path):
    with pytest.raises(subprocess.CalledProcessError):
        pipeline.measure(tmp_path, [Case("360p", 1)], tmp_path / "no-bundle")


HOLDER = """
import mmap, subprocess, sys
size, path, depth = 40 << 20, sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(mapped[at] for at in range(0, size, 4096))
own = b"x" * size
if depth:
    subprocess.run([sys.executable, *sys.orig_argv[1:-1], str(depth - 1)])
else:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_memory_counts_every_process_of_the_tree_and_what_they_share_once(tmp_path: Path):
    """Two processes with 40 MB each of their own, and 40 MB of a file that both map."""
    (tmp_path / "file").write_bytes(bytes(40 << 20))
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "file"), "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        held = pipeline.memory_mb(process.pid)
        process.stdin.close()
    assert 120 < held < 155  # and two small interpreters


@pytest.mark.skipif(not available_isas(), reason="the engine is not built here (install g++)")
def test_a_whole_clip_is_played_by_the_int8_engine():
    row = measure_clip("small 64/128/64", frames=20)
    assert row.seconds == pytest.approx(20 * 256 / 22_050)
    assert row.segments == 1  # a small net is not folded
    assert row.cpu_s > 0
    assert "0.2 s of sound in 1 segments" in clip_line(row)
