"""Grey frames -> what moved, where and when, on a 50 Hz grid: the input of the timing net and of the TSN flow stream.

One streamed pass at the clip's own frame rate. Each frame pair gives dense flow (OpenCV DIS, fast preset, on about
14,400 pixels), the camera's own shift, zoom and rotation are fitted robustly and removed, and what is left is pooled
over 6 x 8 cells. Speeds are in short picture sides a second and samples lie on a fixed time grid, so neither picture
size nor frame rate is an input of what follows. Memory grows by 1.3 kB a tick of the grid and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np

from s2s.spec import TIMING_RATE

N_CELLS = 48
FEATURES_VERSION = 2  # raised when the same frames give other features: caches are then measured anew
WORK_AREA_PX = 14_400  # flow at a higher resolution placed events no better
LEAST_SIDE_PX = 32  # of a lower picture OpenCV's DIS flow reads outside of its pyramids, and crashes
MIN_INTERVAL_S = 0.015  # frames closer than this (above 60 fps) are passed over
MAX_INTERVAL_S = 0.2  # after a longer pause the picture changed at the end of the pause, not all along it
MAX_REPEAT_S = 0.12  # a picture repeated for longer is a still scene, not a dropped frame
REPEAT_GREY = 0.35  # mean change of the most changed cell, grey levels, below which a frame counts as repeated

CELL_CHANNELS = (
    "u",
    "v",
    "speed_mean",
    "speed_rms",
    "speed_max",
    "difference",
    "signed_difference",
    "acceleration",
    "speed_drop",
    "difference_drop",
)
GLOBAL_CHANNELS = (
    "camera_speed",
    "camera_zoom",
    "camera_turn",
    "speed_mean",
    "speed_max",
    "difference",
    "brightness_change",
    "histogram_change",
    "camera_jolt",
    "speed_drop",
    "cells_moving",
)
_BASE = 7  # cell channels measured on each frame pair; the others are differences in time, made at the end
_SUBTICKS = 4  # samples of the interpolated signal averaged into one tick


@dataclass(frozen=True)
class MotionFeatures:
    """What a clip's picture did. Rows are ticks of the 50 Hz grid: row k is the mean over 20 ms around k/50 s."""

    duration_s: float
    cells: np.ndarray  # float32 (N50, 48, 10), CELL_CHANNELS, after the clip's gain and asinh
    scene: np.ndarray  # float32 (N50, 11), GLOBAL_CHANNELS, likewise
    activity: np.ndarray  # float32 (N50,) fastest cell's rms speed, short sides a second, before any gain
    flow: np.ndarray | None = None  # float16 (T, h, w, 2) camera-free flow x, y; short sides a second; see `take_flow`

    @property
    def n_ticks(self) -> int:
        return len(self.cells)


def work_size(height: int, width: int) -> tuple[int, int]:
    """Size (h, w) of the picture that flow is computed on: about 14,400 px, aspect kept; a picture near that stays."""
    scale = math.sqrt(WORK_AREA_PX / (height * width))
    if 0.85 < scale < 1.15 and min(height, width) >= LEAST_SIDE_PX:
        return height, width
    return max(LEAST_SIDE_PX, round(height * scale)), max(LEAST_SIDE_PX, round(width * scale))


def cell_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the 48 cells: the longer side has eight."""
    return (6, 8) if width >= height else (8, 6)


class MotionExtractor:
    """Collects `MotionFeatures` from frames pushed in time order; holds one small frame and the features so far.

    flow_rate: rate in Hz at which camera-free flow is also kept for the TSN flow stream; None keeps none.
    flow_size: (width, height) of the kept flow in pixels.
    """

    def __init__(self, flow_rate: Fraction | None = None, flow_size: tuple[int, int] = (48, 48)):
        self._dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._size: tuple[int, int] | None = None
        self._grid = (6, 8)
        self._previous: np.ndarray | None = None
        self._previous_s = 0.0
        self._cells = _TimeGrid(TIMING_RATE, (N_CELLS, _BASE))
        self._scene = _TimeGrid(TIMING_RATE, (len(GLOBAL_CHANNELS) - 3,))
        self._flow = _FlowGrid(flow_rate, flow_size) if flow_rate else None

    def push(self, grey: np.ndarray, time_s: float) -> None:
        """Adds one frame: uint8 (h, w), any size, at its time in seconds. Doubled time stamps are passed over."""
        cv2.setNumThreads(1)  # the same samples on every machine, and no fight for cores
        frame = self._fit(grey)
        if self._previous is None:
            self._previous, self._previous_s = frame, time_s
            return
        interval_s = time_s - self._previous_s
        if interval_s < MIN_INTERVAL_S:
            return
        change = cv2.absdiff(frame, self._previous)
        repeated = float(cv2.resize(change, self._grid[::-1], interpolation=cv2.INTER_AREA).max()) <= 1 and (
            float(_pool_mean(change.astype(np.float32), self._grid).max()) < REPEAT_GREY
        )
        if repeated and interval_s < MAX_REPEAT_S:
            return  # the next frame's motion then spans both intervals, at its true speed
        start_s = self._previous_s
        if interval_s > MAX_INTERVAL_S + 0.02:  # else what stands still is shorter than a tick
            start_s = time_s - MAX_INTERVAL_S
            self._add_still(self._previous_s, start_s)
        if repeated:
            self._add_still(start_s, time_s)
        else:
            self._add(frame, start_s, time_s)
        self._previous, self._previous_s = frame, time_s

    def finish(self, duration_s: float) -> MotionFeatures:
        """Features of the whole clip on ceil(duration_s * 50) ticks, the clip's gain applied."""
        n = max(1, math.ceil(duration_s * TIMING_RATE - 1e-6))
        base = self._cells.take(n).astype(np.float32)
        scene = _finish_scene(self._scene.take(n).astype(np.float32), base)
        cells, activity = _finish_cells(base)
        flow = None if self._flow is None else self._flow.take(duration_s)
        return MotionFeatures(duration_s, cells, scene, activity, flow)

    def take_flow(self) -> list[np.ndarray]:
        """Flow that is complete, float16 (h, w, 2) a tick of `flow_rate`, each handed out once: `finish` then gives the
        rest. Ten minutes of it are 240 MB, which a caller that reads on need not keep."""
        return [] if self._flow is None else self._flow.take_closed()

    def _fit(self, grey: np.ndarray) -> np.ndarray:
        if self._size is None:
            self._size = work_size(*grey.shape)
            self._grid = cell_grid(*grey.shape)
        h, w = self._size
        if grey.shape != (h, w):
            return cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(grey)

    def _add_still(self, start_s: float, end_s: float) -> None:
        middle_s = (start_s + end_s) / 2
        for knot_s in (start_s + 0.01, middle_s, end_s - 0.01):
            self._cells.add(knot_s, 0.0)
            self._scene.add(knot_s, 0.0)
        if self._flow is not None:
            self._flow.add(start_s, end_s, None)

    def _add(self, frame: np.ndarray, start_s: float, end_s: float) -> None:
        h, w = frame.shape
        seconds = end_s - start_s
        flow = self._dis.calc(self._previous, frame, None)
        camera = fit_camera(flow, self._previous)
        flow -= camera_flow(camera, h, w)
        rate = 1.0 / (min(h, w) * seconds)  # pixels of this interval -> short sides a second
        flow *= rate
        x_shift, y_shift, zoom, turn = camera
        # A pixel (x, y) of the previous frame is found at (x, y) + camera flow in this one.
        cx, cy = (w - 1) / 2, (h - 1) / 2
        matrix = np.array(
            [[1 + zoom, -turn, x_shift - zoom * cx + turn * cy], [turn, 1 + zoom, y_shift - turn * cx - zoom * cy]]
        )
        steady = self._previous
        if abs(x_shift) + abs(y_shift) + (abs(zoom) + abs(turn)) * w > 0.03:  # px; less cannot be seen
            steady = cv2.warpAffine(steady, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE)
        difference = (frame.astype(np.float32) - steady) / (255.0 * seconds * 10.0)
        speed_squared = flow[..., 0] ** 2 + flow[..., 1] ** 2
        speed = np.sqrt(speed_squared)
        size_difference = np.abs(difference)
        planes = (flow[..., 0], flow[..., 1], speed, speed_squared, size_difference, difference)
        u, v, mean, square, change, signed = (_pool_mean(np.ascontiguousarray(p), self._grid) for p in planes)
        fastest = _pool_max(speed, self._grid)
        cells = np.stack([u, v, mean, np.sqrt(square), fastest, change, signed], axis=-1).reshape(N_CELLS, _BASE)
        histogram_change = np.abs(_histogram(frame) - _histogram(self._previous)).sum() / 2
        scene = np.array(
            [
                x_shift * rate,
                y_shift * rate,
                zoom / seconds,
                turn / seconds,
                mean.mean(),
                change.mean(),
                signed.mean(),
                histogram_change / (seconds * 10.0),
            ]
        )
        middle_s = (start_s + end_s) / 2
        self._cells.add(middle_s, cells)
        self._scene.add(middle_s, scene)
        if self._flow is not None:
            self._flow.add(start_s, end_s, flow)


def fit_camera(flow: np.ndarray, grey: np.ndarray) -> tuple[float, float, float, float]:
    """Camera motion in dense flow: float32 (h, w, 2) px -> shift x, shift y (px), zoom and turn (per px from centre).

    Iteratively reweighted least squares (Cauchy weights, scale from the median residual) on every fifth pixel,
    pixels with texture counting more. What moves against the background is an outlier and hardly counts.
    """
    design = _camera_design(*grey.shape)
    n = len(design) // 2
    wanted = flow[2::5, 2::5].reshape(n, 2).T.ravel().astype(np.float64)
    here = grey[2::5, 2::5].astype(np.float64)
    right, below = grey[2::5, 4::5].astype(np.float64), grey[4::5, 2::5].astype(np.float64)
    texture = np.zeros_like(here)
    texture[:, : right.shape[1]] += (right - here[:, : right.shape[1]]) ** 2
    texture[: below.shape[0]] += (below - here[: below.shape[0]]) ** 2
    trust = 0.02 + (texture / (texture + 200.0)).ravel()
    textured = trust >= _median(trust)
    theta = np.array([_median(wanted[:n][textured]), _median(wanted[n:][textured]), 0.0, 0.0])
    for _ in range(4):
        off = wanted - design @ theta
        residual = off[:n] ** 2 + off[n:] ** 2
        weight = trust / (1.0 + residual / max(0.04, 2.0 * _median(residual)))
        weighted = design.T * np.concatenate([weight, weight])
        theta = np.linalg.solve(weighted @ design + _RIDGE, weighted @ wanted)
    return tuple(float(value) for value in theta)


@lru_cache(maxsize=8)
def _camera_design(h: int, w: int) -> np.ndarray:
    """float64 (2n, 4): x flows, then y flows, of every fifth pixel under a unit shift x, shift y, zoom and turn."""
    y, x = np.mgrid[2:h:5, 2:w:5].astype(np.float64)
    x, y = x.ravel() - (w - 1) / 2, y.ravel() - (h - 1) / 2
    one, none = np.ones_like(x), np.zeros_like(x)
    return np.concatenate([np.stack([one, none, x, -y], axis=1), np.stack([none, one, y, x], axis=1)])


_RIDGE = 1e-6 * np.eye(4)


def _median(values: np.ndarray) -> float:
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def camera_flow(camera: tuple[float, float, float, float], h: int, w: int) -> np.ndarray:
    """The flow of a camera motion as `fit_camera` gives it: float32 (h, w, 2) px."""
    shift_x, shift_y, zoom, turn = camera
    x = (np.arange(w, dtype=np.float32) - (w - 1) / 2)[None, :]
    y = (np.arange(h, dtype=np.float32) - (h - 1) / 2)[:, None]
    moved = np.empty((h, w, 2), np.float32)
    moved[..., 0] = shift_x + zoom * x - turn * y
    moved[..., 1] = shift_y + zoom * y + turn * x
    return moved


def _pool_mean(plane: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    return cv2.resize(plane, grid[::-1], interpolation=cv2.INTER_AREA)


def _pool_max(plane: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The largest of some eighty places in each cell, each the mean of the pixels around it."""
    fine = cv2.resize(plane, (grid[1] * 9, grid[0] * 9), interpolation=cv2.INTER_AREA)
    return fine.reshape(grid[0], 9, grid[1], 9).max(axis=(1, 3))


def _histogram(grey: np.ndarray) -> np.ndarray:
    return cv2.calcHist([grey], [0], None, [16], [0, 256]).ravel() / grey.size


def _finish_cells(base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, 48, 7) -> float32 (N, 48, 10) after gain and asinh, and the activity float32 (N,)."""
    rms, change = base[..., 3], base[..., 5]
    activity = rms.max(axis=1)
    speed_gain = _gain(activity, floor=0.04)
    change_gain = _gain(change.max(axis=1), floor=0.008)
    cells = np.empty((*base.shape[:2], len(CELL_CHANNELS)), np.float32)  # worked on in place: 58 MB for ten minutes
    np.divide(base[..., :5], speed_gain, out=cells[..., :5], dtype=np.float32)
    np.divide(base[..., 5:], change_gain, out=cells[..., 5:_BASE], dtype=np.float32)
    np.hypot(_step(cells[..., 0]), _step(cells[..., 1]), out=cells[..., 7])
    np.maximum(0.0, -_step(cells[..., 3]), out=cells[..., 8])
    np.maximum(0.0, -_step(cells[..., 5]), out=cells[..., 9])
    return np.arcsinh(cells, out=cells), activity


def _finish_scene(scene: np.ndarray, base: np.ndarray) -> np.ndarray:
    """float32 (N, 8) and the cells' float32 (N, 48, 7) -> float32 (N, 11), GLOBAL_CHANNELS."""
    shift = scene[:, :2]
    camera = np.linalg.norm(shift, axis=1)
    jolt = np.linalg.norm(_step(shift), axis=1)
    rms = base[..., 3]
    fastest = rms.max(axis=1)
    speed_gain, change_gain = _gain(fastest, floor=0.04), _gain(base[..., 5].max(axis=1), floor=0.008)
    moving = (rms > 0.5 * speed_gain).mean(axis=1) * 4.0
    columns = [
        camera / 0.1,
        scene[:, 2] / 0.1,
        scene[:, 3] / 0.1,
        scene[:, 4] / speed_gain,
        fastest / speed_gain,
        scene[:, 5] / change_gain,
        scene[:, 6] / change_gain,
        scene[:, 7] / 0.2,
        jolt / 0.1,
        np.maximum(0.0, -_step(scene[:, 4])) / speed_gain,
        moving,
    ]
    return np.arcsinh(np.stack(columns, axis=1)).astype(np.float32)


def _gain(values: np.ndarray, floor: float) -> float:
    """The clip's own scale: its 80th percentile, kept up by rare strong motion and by what noise reaches (`floor`)."""
    p80, p99 = np.percentile(values, [80, 99])
    return float(max(p80, 0.2 * p99, floor))


def _step(values: np.ndarray) -> np.ndarray:
    """Change over two ticks (40 ms), centred, same length."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    return padded[2:] - padded[:-2]


class _TimeGrid:
    """Knots at any times -> means over ticks of the linear interpolation, kept as float16."""

    def __init__(self, rate: int, shape: tuple[int, ...]):
        self._sub_rate = rate * _SUBTICKS
        self._shape = shape
        self._rows: list[np.ndarray] = []
        self._sum = np.zeros(shape, np.float64)
        self._next = 0  # index of the next sub-sample; number i lies at (i - 1.5) / sub_rate seconds
        self._knot_s: float | None = None
        self._knot = np.zeros(shape, np.float64)

    def add(self, knot_s: float, value: np.ndarray | float) -> None:
        value = np.broadcast_to(np.asarray(value, np.float64), self._shape)
        if self._knot_s is None:
            self._fill(knot_s, value, value)  # before the first knot its value holds
        elif knot_s > self._knot_s:
            self._fill(knot_s, self._knot, value)
        self._knot_s, self._knot = knot_s, value

    def _fill(self, until_s: float, start: np.ndarray, end: np.ndarray) -> None:
        begin_s = self._knot_s if self._knot_s is not None else until_s - 1.0
        while (at_s := (self._next - 1.5) / self._sub_rate) <= until_s:
            share = min(1.0, max(0.0, (at_s - begin_s) / (until_s - begin_s)))
            self._put(start + share * (end - start))

    def _put(self, sample: np.ndarray) -> None:
        self._sum += sample
        self._next += 1
        if self._next % _SUBTICKS == 0:
            self._rows.append((self._sum / _SUBTICKS).clip(-6e4, 6e4).astype(np.float16))
            self._sum = np.zeros(self._shape, np.float64)

    def take(self, n: int) -> np.ndarray:
        """The first n ticks, float16 (n, ...); the last value holds for a twentieth of a second, then nothing moves."""
        if self._knot_s is not None:
            hold = self._knot
            self.add(self._knot_s + 0.05, hold)
            self.add(self._knot_s + 0.02, 0.0)
        while len(self._rows) < n:
            self._put(np.zeros(self._shape))
        return np.stack(self._rows[:n])


class _FlowGrid:
    """Camera-free flow averaged between ticks of the feature rate, at a small size, kept as float16."""

    def __init__(self, rate: Fraction, size: tuple[int, int]):
        self._rate, self._size = rate, size
        self._sum = np.zeros((size[1], size[0], 2), np.float32)
        self._rows: list[np.ndarray] = []
        self._taken = 0  # rows handed out before those

    def add(self, start_s: float, end_s: float, flow: np.ndarray | None) -> None:
        """flow: float32 (h, w, 2) a second over the interval, or None for none."""
        small = None if flow is None else cv2.resize(flow, self._size, interpolation=cv2.INTER_AREA)
        at_s = start_s
        while at_s < end_s:
            close_s = float((self._taken + len(self._rows) + 1) / self._rate)
            until_s = min(end_s, close_s)
            if small is not None and until_s > at_s:
                self._sum += small * np.float32((until_s - at_s) * float(self._rate))
            if close_s <= end_s:
                self._close()
            at_s = max(at_s, until_s)
            if close_s > end_s:
                break

    def _close(self) -> None:
        self._rows.append(self._sum.astype(np.float16))
        self._sum = np.zeros_like(self._sum)

    def take_closed(self) -> list[np.ndarray]:
        rows, self._rows = self._rows, []
        self._taken += len(rows)
        return rows

    def take(self, duration_s: float) -> np.ndarray:
        n = max(1, math.ceil(Fraction(duration_s).limit_denominator(10**9) * self._rate)) - self._taken
        while len(self._rows) < n:
            self._close()
        return np.stack(self._rows[:n]) if n > 0 else np.zeros((0, *self._sum.shape), np.float16)
