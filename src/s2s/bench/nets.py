"""Rows of the networks that see and sound a clip at once: the parallel WaveNet and the published BN-Inception.

CPU time of one core beside that core's own measured peak, as in the WaveNet rows; wall time with all cores shows what a
second one adds. Operations are counted by torch in the network's plain form, transforms (FFT) left out.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from s2s.bench.wavenet import ROUNDS, SAMPLE_RATE, one_core
from s2s.features import BATCH_FRAMES
from s2s.tsn.bn_inception import BNInception, FoldedBNInception
from s2s.wavenet_vocoder.config import SMALL
from s2s.wavenet_vocoder.engine import available_isas, peak_ops
from s2s.wavenet_vocoder.parallel import ParallelWaveNet
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import WaveNet

CLIP_FRAMES = 860  # mel frames: 10 s
PICTURE_PX = 224


@dataclass(frozen=True)
class Row:
    what: str
    unit: str
    per_cpu_s: float  # units a CPU second of one core
    per_wall_s: float  # units a second with all cores
    ops_per_unit: float
    peak_share: float | None  # of one core's measured fp32 peak; None without the compiled engine, which measures it
    ratio: float | None = None  # to the PyTorch loop of the small autoregressive net, by CPU time
    share_wanted: float | None = None

    def to_dict(self) -> dict:
        return asdict(self)


def measure(rounds: int = ROUNDS) -> list[Row]:
    """The shipped sizes of the parallel net, random weights; BN-Inception on a batch as the pipeline makes it."""
    torch.manual_seed(0)
    with torch.inference_mode():
        return [_parallel_row(rounds), _inception_row(rounds)]


def _parallel_row(rounds: int) -> Row:
    net = ParallelWaveNet().eval()
    mel, noise = torch.rand(1, net.spec.n_mels, CLIP_FRAMES), torch.randn(1, CLIP_FRAMES * net.spec.hop_length)
    n_samples = noise.shape[1]
    with one_core():
        loop = Sampler(WaveNet(SMALL).eval())
        one_frame = torch.rand(1, SMALL.cin_channels, 1), torch.rand(1, SMALL.hop_length, SMALL.noise_width)
        loop_s, _ = _seconds(lambda: loop.generate(one_frame[0], one_frame[1] * 0.98 + 0.01), rounds, time.process_time)
    row = _row("parallel WaveNet (default sizes)", "samples", lambda: net(mel, noise), n_samples, rounds)
    return Row(**{**asdict(row), "ratio": row.per_cpu_s / (SMALL.hop_length / loop_s)})


def _inception_row(rounds: int) -> Row:
    plain = BNInception().eval()
    folded = FoldedBNInception(plain)
    pictures = torch.rand(BATCH_FRAMES, 3, PICTURE_PX, PICTURE_PX)
    with FlopCounterMode(display=False) as counter:
        plain(pictures[:1])
    row = _row(
        f"BN-Inception, {PICTURE_PX} px, {BATCH_FRAMES} at once",
        "pictures",
        lambda: folded(pictures),
        BATCH_FRAMES,
        rounds,
        ops=counter.get_total_flops(),
    )
    return Row(**{**asdict(row), "share_wanted": 0.5})


def _row(what: str, unit: str, call: Callable[[], object], units: int, rounds: int, ops: float | None = None) -> Row:
    if ops is None:
        with FlopCounterMode(display=False) as counter:
            call()
        ops = counter.get_total_flops() / units
    with one_core():
        cpu_s, peak = _seconds(call, rounds, time.process_time)
    wall_s, _ = _seconds(call, rounds, time.perf_counter)
    return Row(what, unit, units / cpu_s, units / wall_s, ops, ops * units / cpu_s / peak if peak else None)


def _seconds(call: Callable[[], object], rounds: int, clock: Callable[[], float]) -> tuple[float, float | None]:
    """Median seconds of a call after one to warm up, and the median peak measured between them."""
    isas, spent, peaks = available_isas(), [], []
    call()
    for _ in range(rounds):
        start = clock()
        call()
        spent.append(clock() - start)
        if isas:
            peaks.append(peak_ops(max(isas)))
    return statistics.median(spent), statistics.median(peaks) if peaks else None


def table(rows: list[Row]) -> str:
    """Text for people."""
    lines = [
        f"Whole networks on the CPU, load average {os.getloadavg()[0]:.1f}",
        f"{'network':<36}{'a CPU second':>22}{'a second, all cores':>24}{'of peak':>9}",
    ]
    for row in rows:
        share = "" if row.peak_share is None else f"{row.peak_share:.1%}"
        line = f"{row.what:<36}{row.per_cpu_s:>13,.1f} {row.unit}{row.per_wall_s:>15,.1f} {row.unit}{share:>9}"
        if row.unit == "samples":
            line += f"  {row.per_cpu_s / SAMPLE_RATE:.1f}x real time on one core"
        if row.ratio is not None:
            line += f", {row.ratio:.0f}x the small net's PyTorch loop"
        if row.share_wanted is not None and row.peak_share is not None:
            reached = "reached" if row.peak_share >= row.share_wanted else "NOT reached"
            line += f"  {row.share_wanted:.0%} of peak {reached}"
        lines.append(line)
    return "\n".join(lines)
