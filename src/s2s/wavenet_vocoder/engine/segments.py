"""One clip folded into segments that are generated side by side: for nets whose weights do not fit in the cache.

A big net reads its weights once a step for all segments together, so 64 segments of one clip cost a thirteenth of the
clip from end to end. Cuts lie in quiet frames; each segment warms up over its receptive field before its cut, after
which it depends on its own samples alone; and neighbours overlap for a cross-fade. One segment is the exact clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from s2s.errors import Canceled
from s2s.events import ShouldStop, never_stop
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.engine.engine import EngineSampler, OnSamples, make_sampler
from s2s.wavenet_vocoder.mixture import draw_noise
from s2s.wavenet_vocoder.wavenet import WaveNet

FADE_FRAMES = 2  # mel frames (23 ms) in which two segments overlap
FOLD_FROM_PARAMETERS = 1_000_000  # a smaller net stays in the cache: folding gains it little
WORK_LIMIT = 0.15  # share of extra samples (warm-ups and fades) that folding may cost
INT8_WORK_LIMIT = 0.3  # 8 bits gain more by a wider batch: 64 segments on two cores cost a quarter less time than 33


@dataclass(frozen=True)
class Segment:
    """Mel frames: generated from `start`, heard from `cut`, generated until `end` (fade into the next included)."""

    start: int
    cut: int
    end: int


def warm_up_frames(config: WaveNetConfig) -> int:
    return -(-config.receptive_field // config.hop_length)


def fitting_segments(n_frames: int, net: WaveNet, most: int = 64, work_limit: float = WORK_LIMIT) -> int:
    """How many segments pay for a clip of `n_frames`: 1 for small nets and short clips."""
    if sum(p.numel() for p in net.parameters()) < FOLD_FROM_PARAMETERS:
        return 1
    extra = warm_up_frames(net.config) + FADE_FRAMES
    return max(1, min(most, 1 + int(n_frames * work_limit / extra)))


def plan_segments(mel: np.ndarray, count: int, config: WaveNetConfig) -> list[Segment]:
    """mel (cin, M) -> at most `count` segments of about equal length, cut where the mel is quietest nearby."""
    n = mel.shape[1]
    level = np.convolve(np.pad(mel.mean(axis=0), (0, FADE_FRAMES), mode="edge"), np.ones(FADE_FRAMES), "valid")[:n]
    reach = max(1, n // (3 * count))  # a cut moves by a third of a segment at most, so cuts stay in order
    cuts = [0]
    for i in range(1, count):
        middle = n * i // count
        window = np.arange(max(middle - reach, cuts[-1] + FADE_FRAMES + 1), min(middle + reach + 1, n - FADE_FRAMES))
        if len(window):
            # among equally quiet frames the one nearest to the middle
            cuts.append(int(window[np.lexsort((abs(window - middle), level[window].round(3)))[0]]))
    warm = warm_up_frames(config)
    ends = [*(min(n, cut + FADE_FRAMES) for cut in cuts[1:]), n]
    return [Segment(max(0, cut - warm), cut, end) for cut, end in zip(cuts, ends, strict=True)]


def cross_fade(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Two waveforms (N,) of the same time -> from the one to the other, keeping the power.

    The straight gains a, b are divided by sqrt(a^2 + b^2 + 2 r a b), r the correlation of the two: a straight fade for
    equal signals, an equal-power one for unrelated ones.
    """
    rise = (np.arange(len(after), dtype=np.float32) + 0.5) / max(1, len(after))
    power = float(np.sqrt((before @ before) * (after @ after)))
    correlation = min(1.0, max(0.0, float(before @ after) / power)) if power > 0 else 1.0
    norm = np.sqrt(rise**2 + (1 - rise) ** 2 + 2 * correlation * rise * (1 - rise))
    return ((1 - rise) * before + rise * after) / norm


def generate_clip(
    net: WaveNet,
    mel: np.ndarray,
    seed: int,
    *,
    segments: int | None = None,
    scales: Sequence[float] | None = None,
    threads: int = 1,
    on_samples: OnSamples | None = None,
    should_stop: ShouldStop = never_stop,
    frames_a_call: int = 16,
) -> np.ndarray:
    """mel (cin, M) -> float32 (M * hop_length,). `segments` None: as many as pay; 1: exact. Raises Canceled.

    All segments draw their noise by absolute time, so in an overlap both sides hear the same.
    """
    config, hop = net.config, net.config.hop_length
    work_limit = WORK_LIMIT if scales is None else INT8_WORK_LIMIT
    count = fitting_segments(mel.shape[1], net, work_limit=work_limit) if segments is None else segments
    plan = plan_segments(mel, count, config)
    lengths = [(segment.end - segment.start) * hop for segment in plan]
    sampler = make_sampler(net, len(plan), scales=scales, lengths=lengths, threads=threads)
    longest = max(segment.end - segment.start for segment in plan)
    made: list[torch.Tensor] = []
    for at in range(0, longest, frames_a_call):
        steps = np.arange(at, min(longest, at + frames_a_call))
        parts = [mel[:, np.minimum(segment.start + steps, segment.end - 1)] for segment in plan]
        noise = [draw_noise(seed, (segment.start + at) * hop, len(steps) * hop, config) for segment in plan]
        watch = {}
        if isinstance(sampler, EngineSampler):
            watch = {"on_samples": _after(sampler.done, on_samples), "should_stop": should_stop}
        elif should_stop():
            raise Canceled("The WaveNet was asked to stop.")
        made.append(sampler.generate(torch.from_numpy(np.stack(parts)), torch.from_numpy(np.stack(noise)), **watch))
    whole = torch.cat(made, dim=1).numpy()

    out = np.empty(mel.shape[1] * hop, np.float32)
    for i, segment in enumerate(plan):
        heard = whole[i, (segment.cut - segment.start) * hop : (segment.end - segment.start) * hop]
        fade = (plan[i - 1].end - segment.cut) * hop if i else 0
        at = segment.cut * hop
        if fade:
            out[at : at + fade] = cross_fade(out[at : at + fade], heard[:fade])
        out[at + fade : at + len(heard)] = heard[fade:]
    return out


def _after(done: int, on_samples: OnSamples | None) -> OnSamples | None:
    return on_samples and (lambda n: on_samples(done + n))
