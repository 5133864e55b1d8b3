"""Motion -> probability of an event on the 50 Hz grid -> a list of events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, percentile_filter

from s2s.motion import MotionFeatures
from s2s.spec import TIMING_RATE
from s2s.timing.net import TimingNet, select_cells

WINDOW_TICKS = 12 * TIMING_RATE  # a clip up to this long is looked at in one piece
OVERLAP_TICKS = 2 * TIMING_RATE  # neighbouring windows are cross-faded over this
STILL_SPEED = 0.015  # short sides a second; codec noise of a still clip reaches .006, the slowest true events .028
NEAR_TICKS = TIMING_RATE // 5
LEVEL_TICKS = 10 * TIMING_RATE + 1  # the relative threshold follows the clip over this


@dataclass(frozen=True)
class Detection:
    time_s: float
    confidence: float  # 0 .. 1, the probability at the peak
    strength: float  # 0 .. 1


def detect_events(
    probability: np.ndarray,
    strength: np.ndarray | None = None,
    *,
    threshold_share: float = 0.45,
    floor: float = 0.25,
    gap_s: float = 0.2,
    rate: float = TIMING_RATE,
) -> list[Detection]:
    """Peaks of float (N,) in order of time.

    The threshold is relative, median + share * (98th percentile - median) of the ten seconds around: what a net is sure
    of shifts from one kind of footage to another. `floor` is absolute: where nothing happens, nothing is found.
    Of two peaks closer than `gap_s` the higher one stays. Times are refined below the grid by a parabola.
    """
    p = np.asarray(probability, np.float64)
    if len(p) < 3:
        return []
    low, high = _level(p, 50), _level(p, 98)
    threshold = np.maximum(low + threshold_share * (high - low), floor)
    padded = np.concatenate([[-1.0], p, [-1.0]])
    peaks = np.flatnonzero((p >= padded[:-2]) & (p > padded[2:]) & (p >= threshold))
    kept: list[int] = []
    for peak in sorted(peaks, key=lambda i: (-p[i], i)):
        if all(abs(peak - other) >= gap_s * rate for other in kept):
            kept.append(int(peak))
    found = []
    for i in sorted(kept):
        shift = 0.0
        if 0 < i < len(p) - 1:
            bend = p[i - 1] - 2 * p[i] + p[i + 1]
            shift = float(np.clip(0.5 * (p[i - 1] - p[i + 1]) / bend, -0.5, 0.5)) if bend < 0 else 0.0
        force = 1.0 if strength is None else float(np.clip(strength[i], 0.0, 1.0))
        found.append(Detection(max(0.0, (i + shift) / rate), float(min(1.0, p[i])), force))
    return found


def find_events(motion: MotionFeatures, net: TimingNet, device: str = "cpu") -> list[Detection]:
    """Events of a clip, read with the thresholds that the net's config carries.

    The net sees motion after the clip's own gain, which makes a storm of a still picture's codec noise: where nothing
    truly moves there is no event.
    """
    probability, strength = event_curves(motion, net, device)
    config = net.config
    found = detect_events(
        probability, strength, threshold_share=config.threshold_share, floor=config.floor, gap_s=config.gap_s
    )
    nearby = maximum_filter1d(motion.activity, 2 * NEAR_TICKS + 1)
    return [event for event in found if nearby[min(round(event.time_s * TIMING_RATE), len(nearby) - 1)] >= STILL_SPEED]


@torch.inference_mode()
def event_curves(motion: MotionFeatures, net: TimingNet, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Probability and strength, float32 (N50,) each. Long clips go through in windows that fade into one another."""
    net.eval().to(device)
    n = motion.n_ticks
    total, event, strength = (np.zeros(n, np.float64) for _ in range(3))
    for start, stop in windows(n):
        cells = select_cells(motion.cells[start:stop], net.config.n_cells)
        logits = net(
            torch.from_numpy(cells[None]).to(device), torch.from_numpy(motion.scene[None, start:stop]).to(device)
        )
        fade = np.ones(stop - start)
        ramp = (np.arange(OVERLAP_TICKS) + 0.5) / OVERLAP_TICKS
        if start > 0:
            fade[:OVERLAP_TICKS] = ramp
        if stop < n:
            fade[-OVERLAP_TICKS:] = ramp[::-1]
        for sum_, logit in zip((event, strength), logits, strict=True):
            sum_[start:stop] += fade * torch.sigmoid(logit[0]).cpu().numpy()
        total[start:stop] += fade
    return (event / total).astype(np.float32), (strength / total).astype(np.float32)


def windows(n: int) -> list[tuple[int, int]]:
    """Start and stop of each window over n ticks; neighbours overlap, all but the last are `WINDOW_TICKS` long."""
    step = WINDOW_TICKS - OVERLAP_TICKS
    starts = range(0, max(1, n - OVERLAP_TICKS), step)
    return [(start, min(n, start + WINDOW_TICKS)) for start in starts]


def _level(p: np.ndarray, percent: float) -> np.ndarray | float:
    if len(p) <= LEVEL_TICKS:
        return float(np.percentile(p, percent))
    return percentile_filter(p, percent, size=LEVEL_TICKS, mode="nearest")
