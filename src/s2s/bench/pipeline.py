"""Pipeline rows: what a clip costs from file to file, stage by stage, and how that grows with its length.

Each row is a process of its own. "Loaded" rows load the bundle, make one short clip to warm up, and then count one
clip; the cold row is the command `s2s generate` itself, from its start to its end. CPU seconds are those of the
process and of every decoder and ffmpeg that it started. Clips come from a rendered sample of the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from s2s.config import REPO_ROOT, process_environment, settings
from s2s.media.ffmpeg import run_ffmpeg

SAMPLE = REPO_ROOT / "src" / "frontend_simple" / "samples" / "drum.mp4"
SIZES = {"360p": (640, 360), "720p": (1280, 720)}
FRAME_RATE = 30
WARM_UP = ("360p", 2)
MEMORY_LIMIT_MB = 1200
SCALING_LIMIT = 6.3  # 60 s cost at most so many times what 10 s cost
COLD_LIMIT_S = 12.0  # more than loaded
STAGES = ("probe", "frames", "features", "events", "mel", "vocode", "mux")


@dataclass(frozen=True)
class Case:
    """A clip, how it is made sound, and what the row must not exceed."""

    size: str
    seconds: int
    cold: bool = False
    wall_limit_s: float | None = None
    cpu_limit_s: float | None = None


CASES = [
    Case("360p", 10, wall_limit_s=10.0, cpu_limit_s=16.0),
    Case("360p", 60),
    Case("720p", 10, wall_limit_s=13.0),
    Case("360p", 10, cold=True),
]
LONG_CASES = [Case("360p", 600, cold=True)]


@dataclass(frozen=True)
class Row:
    case: Case
    wall_s: float
    cpu_s: float
    peak_mb: float  # of the process and its children together, see `memory_mb`, by looks 20 times a second
    stage_seconds: dict[str, float]  # wall; empty for the cold rows' start and imports

    @property
    def label(self) -> str:
        return f"{self.case.seconds} s {self.case.size}{', cold' if self.case.cold else ''}"

    @property
    def real_time(self) -> float:
        """Seconds of clip in a second of wall time."""
        return self.case.seconds / self.wall_s

    def to_dict(self) -> dict:
        return {**asdict(self), "label": self.label, "real_time": self.real_time}


def measure(folder: Path, cases: list[Case] = CASES, bundle: Path | None = None) -> list[Row]:
    """`folder` keeps the clips that are made for it."""
    folder.mkdir(parents=True, exist_ok=True)
    warm_up = make_clip(folder, *WARM_UP)
    rows = []
    for case in cases:
        clip, output = make_clip(folder, case.size, case.seconds), folder / "result.mp4"
        chosen = str(bundle or settings().bundle)
        if case.cold:
            code = ["-c", "from s2s.cli import main; main()", "generate", str(clip), "-o", str(output), "--json"]
            command = [sys.executable, *code, "--bundle", chosen]
        else:
            command = [sys.executable, "-m", "s2s.bench.pipeline", chosen, str(output), str(warm_up), str(clip)]
        start = time.perf_counter()
        answer, peak_mb, cpu_s = _run(command)
        wall_s = time.perf_counter() - start
        stages = _rounded(answer["stage_seconds"])
        rows.append(Row(case, answer.get("wall_s", wall_s), answer.get("cpu_s", cpu_s), peak_mb, stages))
        output.unlink(missing_ok=True)
    return rows


def make_clip(folder: Path, size: str, seconds: int) -> Path:
    """A silent H.264 clip of the sample, repeated and scaled; made once."""
    width, height = SIZES[size]
    clip = folder.resolve() / f"{size}-{seconds}s.mp4"
    if clip.exists():
        return clip
    part = clip.with_suffix(".part.mp4")
    scaled = f"scale={width}:{height},setsar=1,fps={FRAME_RATE}"
    coder = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1"]
    run_ffmpeg(
        [
            "-y",
            "-stream_loop",
            "-1",
            "-i",
            str(SAMPLE.resolve()),
            "-t",
            str(seconds),
            "-vf",
            scaled,
            "-an",
            *coder,
            str(part),
        ],
        timeout_s=1800,
    )
    part.rename(clip)
    return clip


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(seconds[stage], 3) for stage in STAGES if stage in seconds}


def _run(command: list[str]) -> tuple[dict, float, float]:
    """A command's JSON on standard output, the peak of its memory in MB and CPU seconds, with its children's."""
    peak = resident = 0.0
    ended = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=process_environment()) as process:

        def look() -> None:
            nonlocal peak, resident
            while not ended.wait(0.05):
                now = _resident_mb(process.pid)  # an upper bound, and cheap: only a new high is looked at closely
                if now > 1.01 * resident:
                    peak, resident = max(peak, memory_mb(process.pid)), now

        watcher = threading.Thread(target=look)
        watcher.start()
        text = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(text), peak, used.ru_utime + used.ru_stime


def _tree(pid: int) -> list[psutil.Process]:
    """A process and everything that it started, the decoder among them."""
    try:
        main = psutil.Process(pid)
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident_mb(pid: int) -> float:
    total = 0
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):  # ended between the two looks
            total += process.memory_info().rss
    return total / 2**20


def memory_mb(pid: int) -> float:
    """What a process and its children hold: their own pages, and the resident part of each file that they map
    (libraries above all) once, whoever else maps it too. Resident sizes would count what two of them share twice;
    proportional ones would depend on what else the machine runs."""
    own, files = 0, {}
    for process in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            for part in process.memory_maps():
                own += part.anonymous
                files[part.path] = max(files.get(part.path, 0), part.rss - part.anonymous)
    return (own + sum(files.values())) / 2**20


def table(rows: list[Row]) -> str:
    """Text for people."""
    stages = "".join(f"{stage:>10}" for stage in STAGES)
    lines = [
        f"Pipeline, file to file, bundle loaded unless cold; {len(os.sched_getaffinity(0))} cores, "
        f"load average {os.getloadavg()[0]:.1f}; seconds, and share of the wall time by stage",
        f"{'clip':<18}{'wall':>8}{'CPU':>8}{'real time':>11}{'peak MB':>9}{stages}  limit",
    ]
    for row in rows:
        shares = "".join(
            f"{row.stage_seconds[stage]:>5.2f}{row.stage_seconds[stage] / row.wall_s:>5.0%}"
            if stage in row.stage_seconds
            else f"{'':>10}"
            for stage in STAGES
        )
        lines.append(
            f"{row.label:<18}{row.wall_s:>8.2f}{row.cpu_s:>8.2f}{row.real_time:>10.2f}x{row.peak_mb:>9.0f}"
            f"{shares}  {_verdicts(row)}".rstrip()
        )
    return "\n".join(lines + _comparisons(rows))


def _verdicts(row: Row) -> str:
    asked = [
        ("wall", row.wall_s, row.case.wall_limit_s, "s"),
        ("CPU", row.cpu_s, row.case.cpu_limit_s, "s"),
        ("memory", row.peak_mb, MEMORY_LIMIT_MB if row.case.cold else None, "MB"),
    ]
    return ", ".join(
        f"{what} {limit:g} {unit} {_word(found <= limit)}" for what, found, limit, unit in asked if limit is not None
    )


def _word(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def _comparisons(rows: list[Row]) -> list[str]:
    """Lines on what only two rows together tell."""
    by_case = {(row.case.size, row.case.seconds, row.case.cold): row for row in rows}
    loaded, lines = by_case.get(("360p", 10, False)), []
    if loaded and (longer := by_case.get(("360p", 60, False))):
        wall, cpu = longer.wall_s / loaded.wall_s, longer.cpu_s / loaded.cpu_s
        lines.append(
            f"60 s cost {wall:.2f} times the wall time and {cpu:.2f} times the CPU time of 10 s "
            f"(limit {SCALING_LIMIT}) {_word(wall <= SCALING_LIMIT)}"
        )
    if loaded and (cold := by_case.get(("360p", 10, True))):
        more = cold.wall_s - loaded.wall_s
        lines.append(f"A cold start costs {more:.1f} s more (limit {COLD_LIMIT_S:g} s) {_word(more <= COLD_LIMIT_S)}")
    return lines


def _child(bundle: str, output: str, warm_up: str, clip: str) -> dict:
    """The loaded row, within its own process."""
    from s2s.events import Progress, Stage
    from s2s.pipeline import SoundGenerator

    generator = SoundGenerator.from_bundle(Path(bundle), settings().device)
    limits = settings().cli_limits
    generator.generate_file(Path(warm_up), Path(output), limits=limits)
    frames_s: list[float] = []  # when a frame was done

    def note(progress: Progress) -> None:
        if progress.stage is Stage.FRAMES:
            frames_s.append(time.perf_counter())

    start, used = time.perf_counter(), _cpu_seconds()
    sound = generator.generate_file(Path(clip), Path(output), limits=limits, on_progress=note)
    wall_s, cpu_s = time.perf_counter() - start, _cpu_seconds() - used
    stages = dict(sound.stage_seconds)
    both, frames = stages[Stage.FRAMES], frames_s[-1] - frames_s[0]  # one pass; features go on after the last frame
    return {"wall_s": wall_s, "cpu_s": cpu_s, "stage_seconds": {**stages, "frames": frames, "features": both - frames}}


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    print(json.dumps(_child(*sys.argv[1:])))
