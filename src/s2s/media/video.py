"""A video file as a stream of small frames; memory does not grow with its length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from s2s.config import Limits
from s2s.events import ShouldStop, never_stop
from s2s.media import gate
from s2s.media.probe import KEPT, MediaInfo, child_limits, max_pixels, read_array, run_worker

THREADS = max(1, min(2, len(os.sched_getaffinity(0))))  # of the decoder


@dataclass(slots=True)
class DecodedFrame:
    time_s: float  # of presentation, from the start of the video
    grey: np.ndarray  # uint8 (h, w), upright, full range
    rgb: np.ndarray | None  # uint8 (H, W, 3), upright, squashed; None when no tick shows this frame
    rgb_ticks: tuple[int, ...]  # indices k of the rgb grid, at k / rgb_rate seconds, that show this frame


def grey_size(width: int, height: int, pixels: int = 14_400) -> tuple[int, int]:
    """(h, w), both even, of about `pixels` pixels with the aspect of `width` x `height`."""
    aspect = width / height
    size = (math.sqrt(pixels / aspect), math.sqrt(pixels * aspect))
    h, w = (max(16, 2 * round(side / 2)) for side in size)
    return h, w


def n_ticks(duration: Fraction | float, rate: Fraction) -> int:
    """Ticks k of a grid with k / rate < duration; at least one. The same count as `ClipSpec.n_frames`."""
    return max(1, math.ceil(Fraction(float(duration)).limit_denominator(10**9) * rate))


def decode_frames(info: MediaInfo, *, grey_pixels: int = 14_400, rgb_size: tuple[int, int] | None = None,
                  rgb_rate: Fraction | None = None, limits: Limits, should_stop: ShouldStop = never_stop,
                  ) -> Iterator[DecodedFrame]:
    """Every frame, in order of presentation, small and grey; and in colour where the grid of `rgb_rate` looks.

    The tick k of the grid shows the last frame with time <= k / rgb_rate, so slow videos repeat and fast ones skip.
    Every tick before the end of the video is served exactly once, in order. `rgb_size` is (H, W).

    Raises InputError: truncated when less than 90 % of the promised duration, or less than the shortest clip, can be
    decoded; too_many_frames, picture_too_large, bad_input when it takes too long. Raises Canceled. The child is gone
    when the generator ends, for whatever reason.
    """
    wants_rgb = rgb_size is not None and rgb_rate is not None
    height, width = grey_size(info.width, info.height, grey_pixels)
    request = {
        "job": "frames", "demuxer": info.container.demuxer, "max_pixels": max_pixels(limits),
        "max_frames": limits.max_frames, "start_units": info.start_units, "duration": str(info.exact_duration),
        "rotation": info.rotation_deg, "threads": THREADS, "grey": (height, width),
        "rgb": rgb_size if wants_rgb else None, "rate": str(rgb_rate) if wants_rgb else None,
        "n_ticks": n_ticks(info.duration_s, rgb_rate) if wants_rgb else 0,
    }
    source, end_s = gate.open_regular(info.path), 0.0
    stored = info.container
    wall_s = 60 + info.n_frames * (0.02 + 0.1e-6 * stored.width * stored.height)
    records = run_worker(request, source, child_limits(stored.width, stored.height, wall_s), should_stop)
    try:
        for kind, header, child in records:
            if kind == b"E":
                end_s = _end_s(info, header["n_frames"], header["last_s"])
                break
            grey = read_array(child, (height, width))
            ticks = tuple(range(*header["ticks"]))
            yield DecodedFrame(header["time_s"], grey, read_array(child, (*rgb_size, 3)) if ticks else None, ticks)
    finally:
        records.close()
        os.close(source)
    if end_s < KEPT * info.duration_s or end_s < limits.min_duration_s - 0.1:
        raise gate.truncated(f"Only {end_s:.1f} s of {info.duration_s:.1f} s of the video can be decoded.")


def _end_s(info: MediaInfo, n_frames: int, last_s: float) -> float:
    """Until when the video was decoded, from the count of its pictures and the time of the last one.

    The last picture of a whole video stands as long as the file says, that of a damaged one for one usual frame. Half
    a frame is let go: the second field of an interlaced picture is a packet of its own, but no picture.
    """
    usual_s = last_s / (n_frames - 1) if n_frames > 1 else 0.0
    whole = info.last_picture_s - last_s <= usual_s / 2
    return info.duration_s if whole else last_s + usual_s
