"""What a file holds, found out safely: the gate first, then the decode worker in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from s2s.config import Limits
from s2s.errors import InputError, ProcessingError
from s2s.events import ShouldStop, never_stop
from s2s.media import gate
from s2s.media.ffmpeg import Child, ChildLimits, ChildTimeout, start_worker

KEPT = 0.9  # share of the promised duration that a damaged file must still have


@dataclass(frozen=True)
class MediaInfo:
    """A video file that passed the gate and whose first picture was decoded."""

    path: Path
    container: gate.Container
    duration_s: float  # of the video track as presented; what the generated sound must last
    width: int  # as displayed: after rotation, with square pixels
    height: int
    rotation_deg: int  # counter-clockwise turn that makes the stored picture upright: 0, 90, 180 or 270
    n_frames: int  # estimate: packets that are shown
    average_fps: float
    video_codec: str
    has_audio: bool
    has_alpha: bool  # a WebM or Matroska file says that its picture is transparent in places
    start_time_s: float  # when the first picture is shown, on the file's own clock
    last_picture_s: float  # when the last picture is shown, from the start of the video; it may stand for long
    variable_frame_rate: bool  # of the times between pictures; how long the last one stands does not count
    stream_index: int = 0  # of the video track
    time_base: Fraction = Fraction(1, 1000)  # seconds per unit of the video track's clock
    start_units: int = 0  # start_time_s in units of time_base
    exact_duration: Fraction = field(default=Fraction(0))  # duration_s, not rounded


def probe(path: Path | str, limits: Limits, should_stop: ShouldStop = never_stop) -> MediaInfo:
    """Gate the file, then read its packets' times and decode its first picture.

    Raises InputError with the codes of `check_container`; Canceled.
    """
    path = Path(path).resolve()
    source = gate.open_regular(path)
    try:
        container = gate.check_descriptor(source, limits)
        request = {"job": "probe", "demuxer": container.demuxer, "max_pixels": max_pixels(limits),
                   "max_frames": limits.max_frames}
        wall_s = 30 + os.fstat(source).st_size / 20e6
        child_may = child_limits(container.width, container.height, wall_s)
        with contextlib.closing(run_worker(request, source, child_may, should_stop)) as records:
            _, answer, _ = next(records)
    finally:
        os.close(source)
    if max(answer["width"], answer["height"]) > limits.max_long_side_px:
        raise gate.picture_too_large(answer["width"], answer["height"], limits)
    duration, step = Fraction(answer["duration"]), Fraction(answer["time_base"])
    if duration < KEPT * container.duration_s or (duration < limits.min_duration_s < container.duration_s):
        raise gate.truncated(f"Only {float(duration):.1f} s of {container.duration_s:.1f} s of the video are there.")
    gate.check_duration(float(duration), limits)
    width, height = max(1, round(answer["width"] * Fraction(answer["pixel_aspect"]))), answer["height"]
    if width > limits.max_long_side_px:
        raise gate.picture_too_large(width, height, limits)
    rotation = 90 * round(answer["rotation"] / 90) % 360
    if rotation % 180:
        width, height = height, width
    return MediaInfo(
        path=path, container=container, duration_s=float(duration), width=width, height=height, rotation_deg=rotation,
        n_frames=answer["n_frames"], average_fps=float(answer["n_frames"] / duration), video_codec=answer["codec"],
        has_audio=answer["has_audio"], has_alpha=answer["has_alpha"], start_time_s=float(answer["start_units"] * step),
        last_picture_s=answer["last_s"], variable_frame_rate=answer["variable"],
        stream_index=answer["stream_index"], time_base=step, start_units=answer["start_units"], exact_duration=duration)


def max_pixels(limits: Limits) -> int:
    return limits.max_long_side_px**2


def child_limits(width: int, height: int, wall_s: float) -> ChildLimits:
    """Memory for the decoder's reference pictures (24 of them, 4 bytes a pixel) on top of the libraries."""
    return ChildLimits(wall_s=wall_s, cpu_s=int(2 * wall_s) + 1, memory_bytes=(3 << 29) + 96 * width * height)


def run_worker(request: dict, source: int, limits: ChildLimits,
               should_stop: ShouldStop) -> Iterator[tuple[bytes, dict, Child]]:
    """(kind, header, child) of each record; the arrays of a record must be read from the child before the next one.

    The child is gone when this generator ends, is closed or raises. Raises InputError, Canceled, ProcessingError.
    """
    with start_worker(request, source, limits, should_stop) as child:
        try:
            while True:
                start = child.read(5)
                if len(start) < 5:
                    break
                kind, length = struct.unpack("<cI", start)
                header = json.loads(bytes(child.read(length)))
                if kind == b"X":
                    raise InputError(header["message"], code=header["code"], hint=header["hint"])
                yield kind, header, child
                if kind in b"IE":
                    return
            code = child.finish()
        except ChildTimeout as exc:
            raise _too_heavy() from exc
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            raise _too_heavy()
        if code < 0 or "MemoryError" in child.errors:
            raise InputError("The video could not be decoded: it broke the decoder.", code="not_a_video",
                             hint="Convert it to MP4 (H.264) and try again.")
        raise ProcessingError(f"The decode worker ended with code {code}: {child.errors}")


def _too_heavy() -> InputError:
    return InputError("The video takes too long to decode.", hint="Scale it down or cut a shorter piece.")


def read_array(child: Child, shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray:
    """The next array of a record, writable."""
    data = child.read(int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).reshape(shape)
