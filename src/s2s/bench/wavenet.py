"""WaveNet rows: the engine beside the PyTorch loop of the same net, in the same run, by CPU time, on one core.

Both take the same noise and frames of conditioning. Engine and loop take turns, so that a busy neighbour slows both;
medians count. CPU time, not wall time: what others do on the machine shows as little as it can.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch

from s2s.wavenet_vocoder.config import PUBLISHED, SMALL, WaveNetConfig
from s2s.wavenet_vocoder.engine import (
    EngineSampler,
    available_isas,
    calibrate,
    engine_for,
    generate_clip,
    peak_ops,
)
from s2s.wavenet_vocoder.engine.segments import INT8_WORK_LIMIT, fitting_segments
from s2s.wavenet_vocoder.mixture import draw_noise
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import WaveNet

SAMPLE_RATE = 22_050
SLICE_S = 0.8  # CPU seconds that one turn should take at least
ROUNDS = 3

MEDIUM = WaveNetConfig(residual_channels=128, gate_channels=256, skip_channels=128, conditioning="frame")
NETS = {"published 512/512/256": PUBLISHED, "medium 128/256/128": MEDIUM, "small 64/128/64": SMALL}


@dataclass(frozen=True)
class Bar:
    """What a row must reach; None where nothing is asked."""

    ratio: float | None = None  # to the PyTorch loop
    real_time: float | None = None
    peak_share: float | None = None


ROWS = [  # net, precision, streams, bar
    ("published 512/512/256", "fp32", 1, Bar(ratio=2.5)),
    ("published 512/512/256", "fp32", 64, Bar(ratio=30, peak_share=0.5)),
    ("published 512/512/256", "int8", 1, Bar()),
    ("published 512/512/256", "int8", 64, Bar(ratio=100)),
    ("medium 128/256/128", "fp32", 1, Bar()),
    ("medium 128/256/128", "fp32", 64, Bar(real_time=0.5)),
    ("medium 128/256/128", "int8", 1, Bar()),
    ("medium 128/256/128", "int8", 16, Bar(real_time=1.0)),
    ("small 64/128/64", "fp32", 1, Bar(real_time=1.5)),
    ("small 64/128/64", "int8", 1, Bar(real_time=4.0)),
]


@dataclass(frozen=True)
class Row:
    net: str
    precision: str
    streams: int
    samples_per_s: float  # of CPU time of one core, all streams together
    loop_samples_per_s: float  # the PyTorch loop, batch 1
    peak_share: float  # of this core's own measured peak in that precision
    bar: Bar

    @property
    def ratio(self) -> float:
        return self.samples_per_s / self.loop_samples_per_s

    @property
    def real_time(self) -> float:
        return self.samples_per_s / SAMPLE_RATE

    @property
    def reached(self) -> bool | None:
        """None where nothing is asked."""
        asked = [(value, getattr(self, name)) for name, value in asdict(self.bar).items() if value is not None]
        return all(made >= wanted for wanted, made in asked) if asked else None

    def to_dict(self) -> dict:
        return {**asdict(self), "ratio": self.ratio, "real_time": self.real_time, "reached": self.reached}


def multiply_adds(config: WaveNetConfig) -> int:
    """Multiply-adds a sample: every weight once, and the conditioning where it changes each sample."""
    half = config.gate_channels // 2
    columns = config.residual_channels * config.kernel_size
    columns += config.cin_channels if config.conditioning == "learned" else 0
    layer = config.gate_channels * columns + half * (config.residual_channels + config.skip_channels)
    last = config.skip_channels * (config.skip_channels + config.out_channels)
    return config.layers * layer + last + config.in_channels * config.residual_channels


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core with one torch thread."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


class _Turn:
    """One way of generating, called with more frames until a turn takes SLICE_S; rates of the turns."""

    def __init__(
        self, config: WaveNetConfig, streams: int, generate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ):
        self.config, self.streams, self.generate = config, streams, generate
        self.rates: list[float] = []
        self._frames = 1

    def take(self) -> None:
        while True:
            mel = torch.rand(self.streams, self.config.cin_channels, self._frames)
            n_samples = self._frames * self.config.hop_length
            noise = torch.rand(self.streams, n_samples, self.config.noise_width) * 0.98 + 0.01
            start = time.process_time()
            samples = self.generate(mel, noise)
            used = time.process_time() - start
            if used >= SLICE_S or self._frames >= 64:
                self.rates.append(samples.numel() / used)
                return
            self._frames = min(64, max(self._frames + 1, int(self._frames * 1.3 * SLICE_S / max(used, 1e-3))))


def measure(rows: list[tuple[str, str, int, Bar]] = ROWS, rounds: int = ROUNDS) -> tuple[list[Row], dict[str, float]]:
    """Rows, and the core's measured peaks in operations a second. No rows where the engine is not built."""
    isas = available_isas()
    if not isas:
        return [], {}
    made: list[Row] = []
    peaks: dict[str, list[float]] = {"fp32": [], "int8": []}
    with one_core():
        for name in dict.fromkeys(row[0] for row in rows):
            config = NETS[name]
            torch.manual_seed(0)
            net = WaveNet(config).eval()
            calibration = torch.rand(1, config.cin_channels, 1), torch.rand(1, config.hop_length, config.noise_width)
            scales = calibrate(net, calibration[0], calibration[1] * 0.98 + 0.01)
            loop = _Turn(config, 1, Sampler(net).generate)
            wanted = [row for row in rows if row[0] == name]
            turns = []
            for _, precision, streams, _bar in wanted:
                engine = engine_for(net, streams, scales if precision == "int8" else None)
                turns.append(_Turn(config, streams, EngineSampler(engine, streams).generate))
            for _ in range(rounds):
                loop.take()
                for turn in turns:
                    turn.take()
                for precision in peaks:
                    peaks[precision].append(peak_ops(max(isas), precision))
            peak = {precision: statistics.median(values) for precision, values in peaks.items()}
            for (_, precision, streams, bar), turn in zip(wanted, turns, strict=True):
                rate = statistics.median(turn.rates)
                made.append(
                    Row(
                        name,
                        precision,
                        streams,
                        rate,
                        statistics.median(loop.rates),
                        2 * multiply_adds(config) * rate / peak[precision],
                        bar,
                    )
                )
    return made, {precision: statistics.median(values) for precision, values in peaks.items()}


def table(rows: list[Row], peaks: dict[str, float]) -> str:
    """Text for people."""
    if not rows:
        return "WaveNet: the fast engine is not built on this machine; there is nothing to compare."
    lines = [
        f"WaveNet, one core, CPU time, {max(available_isas()).name}; "
        f"measured peak {peaks['fp32'] / 1e9:.0f} GFLOP/s fp32, {peaks['int8'] / 1e9:.0f} GOP/s int8",
        f"{'net':<30}{'streams':>8}{'samples/s':>11}{'real time':>11}{'PyTorch':>9}{'ratio':>8}{'of peak':>9}  bar",
    ]
    for row in rows:
        asked = row.bar
        bar = ", ".join(
            text
            for value, text in (
                (asked.ratio, f"{asked.ratio}x the loop"),
                (asked.real_time, f"{asked.real_time}x real time"),
                (asked.peak_share, f"{(asked.peak_share or 0):.0%} of peak"),
            )
            if value is not None
        )
        verdict = {True: "reached", False: "NOT reached", None: ""}[row.reached]
        lines.append(
            (
                f"{row.net:<24}{row.precision:<6}{row.streams:>8}{row.samples_per_s:>11,.0f}"
                f"{row.real_time:>10.3f}x{row.loop_samples_per_s:>9.0f}{row.ratio:>7.1f}x{row.peak_share:>9.1%}"
                f"  {bar} {verdict}"
            ).rstrip()
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class ClipRow:
    """A whole clip by an int8 net of random weights, folded and on all cores as `s2s.vocode` plays it."""

    net: str
    seconds: float
    segments: int
    threads: int
    wall_s: float
    cpu_s: float

    LIMIT_S: ClassVar[float] = 30.0  # of wall time for 10 s at published sizes on 2 cores

    def to_dict(self) -> dict:
        return asdict(self)


def measure_clip(net_name: str = "published 512/512/256", frames: int = 860) -> ClipRow | None:
    """None where the engine is not built. Noise stands in for the mel: what is heard does not change the work."""
    if not available_isas():
        return None
    torch.manual_seed(0)
    config, threads = NETS[net_name], torch.get_num_threads()
    net = WaveNet(config).eval()
    mel = np.random.default_rng(0).random((config.cin_channels, frames), np.float32)
    noise = torch.from_numpy(draw_noise(0, 0, config.hop_length, config))[None]
    scales = calibrate(net, torch.from_numpy(mel[None, :, :1]), noise)
    start, used = time.perf_counter(), time.process_time()
    made = generate_clip(net, mel, 0, scales=scales, threads=threads)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - used
    count = fitting_segments(frames, net, work_limit=INT8_WORK_LIMIT)
    return ClipRow(net_name, len(made) / SAMPLE_RATE, count, threads, wall_s, cpu_s)


def clip_line(row: ClipRow) -> str:
    """Text for people."""
    reached = "reached" if row.wall_s <= row.LIMIT_S else "NOT reached"
    return (
        f"{row.net}, int8: {row.seconds:.1f} s of sound in {row.segments} segments on {row.threads} threads: "
        f"{row.wall_s:.1f} s wall, {row.cpu_s:.1f} s CPU, load average {os.getloadavg()[0]:.1f}; "
        f"{row.LIMIT_S:g} s on 2 quiet cores {reached}"
    )
