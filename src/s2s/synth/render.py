"""Drawing and filming: sprites, a camera that shakes, an exposure that blurs, a recording that is noisy and compressed.

Places are in scene units: the short side of the picture is 1, the origin its middle, y points down. Pictures are BGR
uint8. A stage is drawn larger than the frame so that the camera can move over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from s2s.synth.scenes_curves import Curve, Hit, Key, Ringing, through, wander
from s2s.synth.scenes_textures import Colour, Rng

BLEED = 1.28  # stage side / frame side
_SUBPIXEL = 4  # bits of sub-pixel accuracy in OpenCV drawing calls


class Stage:
    """A picture to draw on, in scene units."""

    def __init__(self, image: np.ndarray, unit_px: float):
        self.image, self.unit = image, unit_px
        self._middle = np.array([image.shape[1] / 2, image.shape[0] / 2])

    @property
    def half(self) -> np.ndarray:
        """Half width and half height of the stage in scene units."""
        return self._middle / self.unit

    def px(self, points: Sequence) -> np.ndarray:
        return np.asarray(points, float) * self.unit + self._middle

    def _fixed(self, points: Sequence) -> np.ndarray:
        return (self.px(points) * (1 << _SUBPIXEL) + 0.5).astype(np.int32)

    def polygon(self, points: Sequence, c: Colour) -> None:
        cv2.fillPoly(self.image, [self._fixed(points)], c, cv2.LINE_AA, _SUBPIXEL)

    def circle(self, x: float, y: float, radius: float, c: Colour, line: float = 0.0) -> None:
        thickness = max(1, round(line * self.unit)) if line else -1
        r = max(1, round(radius * self.unit * (1 << _SUBPIXEL)))
        cv2.circle(self.image, tuple(int(v) for v in self._fixed((x, y))), r, c, thickness, cv2.LINE_AA, _SUBPIXEL)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, c: Colour, turn: float = 0.0, line: float = 0.0
    ) -> None:
        """turn in radians, clockwise on the screen."""
        a = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        ca, sa = np.cos(turn), np.sin(turn)
        px, py = rx * np.cos(a), ry * np.sin(a)
        points = np.stack([x + px * ca - py * sa, y + px * sa + py * ca], axis=1)
        if line:
            cv2.polylines(
                self.image, [self._fixed(points)], True, c, max(1, round(line * self.unit)), cv2.LINE_AA, _SUBPIXEL
            )
        else:
            self.polygon(points, c)

    def line(self, a: Sequence, b: Sequence, c: Colour, width: float) -> None:
        p, q = self._fixed(a), self._fixed(b)
        cv2.line(
            self.image,
            tuple(int(v) for v in p),
            tuple(int(v) for v in q),
            c,
            max(1, round(width * self.unit)),
            cv2.LINE_AA,
            _SUBPIXEL,
        )

    def blit(
        self, sprite: Sprite, x: float, y: float, turn: float = 0.0, scale: float | tuple[float, float] = 1.0
    ) -> None:
        """Lays a sprite with its pivot at (x, y), turned clockwise by radians, stretched along its own axes."""
        sx, sy = scale if isinstance(scale, tuple) else (scale, scale)
        k = self.unit / sprite.unit
        ca, sa = np.cos(turn) * k, np.sin(turn) * k
        matrix = np.array([[ca * sx, -sa * sy], [sa * sx, ca * sy]])
        at = self.px((x, y))
        h, w = sprite.rgba.shape[:2]
        corners = (np.array([[0, 0], [w, 0], [w, h], [0, h]]) - sprite.pivot) @ matrix.T + at
        low = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, self.image.shape[1::-1])
        if (high <= low).any():
            return
        shift = at - matrix @ sprite.pivot - low
        patch = cv2.warpAffine(sprite.rgba, np.column_stack([matrix, shift]), tuple(int(v) for v in high - low))
        area = self.image[low[1] : high[1], low[0] : high[0]]
        clear = cv2.bitwise_not(cv2.extractChannel(patch, 3))
        behind = cv2.multiply(area, cv2.merge([clear, clear, clear]), scale=1 / 255)
        cv2.add(behind, cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR), dst=behind)
        area[:] = behind

    def blit_between(self, sprite: Sprite, a: Sequence, b: Sequence, length: float, width: float = 1.0) -> None:
        """Lays a sprite that is drawn from its pivot to the right over `length` so that it spans from a to b."""
        d = np.asarray(b, float) - np.asarray(a, float)
        self.blit(sprite, a[0], a[1], float(np.arctan2(d[1], d[0])), (float(np.hypot(*d)) / length, width))


@dataclass
class Sprite:
    """A cut-out: premultiplied BGRA uint8 (h, w, 4) at `unit` pixels a scene unit, held at `pivot` (x, y) in pixels."""

    rgba: np.ndarray
    unit: float
    pivot: np.ndarray


class Cutter:
    """Makes a sprite: shapes are filled with surfaces. Same drawing units as a stage, origin at the pivot."""

    def __init__(self, left: float, top: float, right: float, bottom: float, unit: float):
        self.unit = unit
        w, h = max(4, int((right - left) * unit) + 2), max(4, int((bottom - top) * unit) + 2)
        self.colour, self.alpha = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
        self.pivot = np.array([-left * unit + 1, -top * unit + 1])

    @property
    def shape(self) -> tuple[int, int]:
        return self.alpha.shape

    def fill(self, points: Sequence, paint: np.ndarray | Colour) -> Cutter:
        """points: polygon in scene units. paint: a colour, or a surface picture of any size (cropped or stretched)."""
        mask = np.zeros_like(self.alpha)
        fixed = np.round((np.asarray(points, float) * self.unit + self.pivot) * 16).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, cv2.LINE_AA, 4)
        if isinstance(paint, np.ndarray):
            if paint.shape[:2] != self.shape:
                paint = cv2.resize(paint, self.shape[::-1])
        else:
            paint = np.full((*self.shape, 3), paint, np.uint8)
        share = mask[..., None].astype(np.float32) / 255
        self.colour = (paint * share + self.colour * (1 - share)).astype(np.uint8)
        self.alpha = np.maximum(self.alpha, mask)
        return self

    def oval(self, x: float, y: float, rx: float, ry: float, paint: np.ndarray | Colour) -> Cutter:
        a = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        return self.fill(np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], axis=1), paint)

    def capsule(
        self, x0: float, y0: float, r0: float, x1: float, y1: float, r1: float, paint: np.ndarray | Colour
    ) -> Cutter:
        """A rounded bar from (x0, y0) with radius r0 to (x1, y1) with radius r1."""
        turn = np.arctan2(y1 - y0, x1 - x0)
        a, b = np.linspace(np.pi / 2, 3 * np.pi / 2, 10) + turn, np.linspace(-np.pi / 2, np.pi / 2, 10) + turn
        return self.fill(
            np.concatenate(
                [
                    np.stack([x0 + r0 * np.cos(a), y0 + r0 * np.sin(a)], 1),
                    np.stack([x1 + r1 * np.cos(b), y1 + r1 * np.sin(b)], 1),
                ]
            ),
            paint,
        )

    def shade(self, rng: Rng, amount: float = 0.5) -> Cutter:
        """Light from one side."""
        h, w = self.shape
        angle = rng.uniform(-2.6, -0.5)
        y, x = np.mgrid[:h, :w].astype(np.float32)
        slope = (x / w - 0.5) * np.cos(angle) + (y / h - 0.5) * np.sin(angle)
        self.colour = np.clip(self.colour * (1 + amount * 2 * slope[..., None]), 0, 255).astype(np.uint8)
        return self

    def done(self, opacity: float = 1.0) -> Sprite:
        alpha = (self.alpha * opacity).astype(np.uint8)
        rgb = (self.colour.astype(np.uint16) * alpha[..., None] // 255).astype(np.uint8)
        return Sprite(np.dstack([rgb, alpha]), self.unit, self.pivot)


Draw = Callable[[Stage, float], None]


@dataclass
class Picture:
    """Everything of a shot but the camera: a background and things drawn in order, each a function of time."""

    background: np.ndarray
    layers: list[Draw] = field(default_factory=list)
    light: Callable[[float], float] = lambda _: 1.0  # brightness of the whole scene over time
    jolts: list[Hit] = field(default_factory=list)  # hits that the camera may feel
    factors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Camera:
    """Where the camera looks: all functions of time. Shift in scene units, turn in radians, zoom as a factor."""

    x: Curve
    y: Curve
    turn: Curve
    zoom: Curve
    jolt: Ringing
    jolt_turn: float
    mirror: bool

    @classmethod
    def draw(cls, rng: Rng, duration_s: float, jolts: Sequence[Hit]) -> Camera:
        shake = float(rng.choice([0.0, 0.003, 0.01, 0.025], p=[0.3, 0.25, 0.25, 0.2]))
        rate = rng.uniform(0.5, 3.5)
        x, y = (Curve(wander(rng, duration_s, shake, rate)) for _ in "xy")
        turn = Curve(wander(rng, duration_s, 0.4 * shake, rate) + rng.normal(0, 0.08))
        zoom0 = rng.uniform(0.9, 1.12)
        zoom = through([Key(-1.0, zoom0)], duration_s)
        move = rng.random()
        if move < 0.15:  # a pan that starts and stops
            start = rng.uniform(0, 0.7) * duration_s
            x = x.plus(_ramp(rng, duration_s, start, rng.uniform(-0.1, 0.1)))
            y = y.plus(_ramp(rng, duration_s, start, rng.uniform(-0.06, 0.06)))
        elif move < 0.3:
            zoom = zoom.plus(_ramp(rng, duration_s, rng.uniform(0, 0.6) * duration_s, rng.uniform(-0.1, 0.2)))
        felt = list(jolts) if rng.random() < 0.4 else []
        if rng.random() < 0.15:  # somebody bumps the camera: no sound of ours
            felt += [(float(t), float(rng.uniform(0.3, 1))) for t in rng.uniform(0, duration_s, rng.integers(1, 4))]
        jolt = Ringing(felt, rng.uniform(5, 14), rng.uniform(0.04, 0.15), rng.uniform(0.004, 0.025))
        return cls(x, y, turn, zoom, jolt, float(rng.normal(0, 0.2)), bool(rng.random() < 0.5))

    def film(self, stage: Stage, t: float, size: tuple[int, int]) -> np.ndarray:
        """The stage as the camera sees it: BGR uint8 of size (width, height)."""
        jolt = self.jolt(t)
        zoom = self.zoom(t)
        turn = self.turn(t) + jolt * self.jolt_turn
        ca, sa = np.cos(turn) * zoom, np.sin(turn) * zoom
        sign = -1 if self.mirror else 1
        matrix = np.array([[sign * ca, -sa], [sign * sa, ca]])
        middle = np.array([stage.image.shape[1] / 2, stage.image.shape[0] / 2])
        shift = np.array(size) / 2 - matrix @ middle - np.array([self.x(t), self.y(t) + jolt]) * stage.unit
        return cv2.warpAffine(stage.image, np.column_stack([matrix, shift]), size, borderMode=cv2.BORDER_REFLECT)


def _ramp(rng: Rng, duration_s: float, start_s: float, amount: float) -> np.ndarray:
    return through([Key(start_s, 0.0), Key(start_s + rng.uniform(0.4, 2.5), amount)], duration_s).samples


@dataclass(frozen=True)
class Recording:
    """How the camera records: rate, exposure, dropped and repeated frames, noise, tone, compression."""

    rate: Fraction  # frames a second of the file
    hold: int  # each drawn picture is shown for so many frames
    repeat_share: float  # of frames that repeat the one before
    drop_share: float  # of frames missing from the file
    exposure: float  # share of the frame interval the shutter is open
    noise: float
    soften: float
    gain: float
    gamma: float
    flicker: float
    jpeg: int  # quality, 0 for none
    crf: int

    @classmethod
    def draw(cls, rng: Rng) -> Recording:
        rate = Fraction(
            str(
                rng.choice(
                    ["12", "15", "24", "24000/1001", "25", "30", "30000/1001", "50", "60"],
                    p=[0.05, 0.12, 0.12, 0.08, 0.18, 0.2, 0.13, 0.07, 0.05],
                )
            )
        )
        odd = rng.random()
        return cls(
            rate,
            2 if odd < 0.06 and rate >= 24 else 1,
            rng.uniform(0.02, 0.2) if 0.06 < odd < 0.16 else 0.0,
            rng.uniform(0.02, 0.1) if 0.16 < odd < 0.22 else 0.0,
            rng.uniform(0.15, 1.0),
            float(rng.choice([0, 2, 5, 10], p=[0.3, 0.35, 0.25, 0.1])),
            float(rng.choice([0, 0.6, 1.2], p=[0.6, 0.25, 0.15])),
            rng.uniform(0.6, 1.2),
            rng.uniform(0.75, 1.3),
            float(rng.choice([0, 0.02, 0.06], p=[0.75, 0.15, 0.1])),
            int(rng.choice([0, 25, 50])),
            int(rng.integers(18, 36)),
        )


@dataclass
class Shot:
    """A picture filmed by a camera from `start_s` to `end_s` of the clip."""

    picture: Picture
    camera: Camera
    start_s: float
    end_s: float


def stage_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size (height, width) of the stage for a frame of (width, height)."""
    return round(size[1] * BLEED), round(size[0] * BLEED)


def film(
    shots: Sequence[Shot], recording: Recording, size: tuple[int, int], duration_s: float, rng: Rng
) -> Iterator[tuple[int, np.ndarray]]:
    """Frame number and BGR uint8 (h, w, 3) of each frame that the file will hold, in order."""
    interval_s = float(1 / recording.rate)
    n = round(duration_s / interval_s)
    table = np.clip(255 * (np.arange(256) / 255.0) ** recording.gamma * recording.gain, 0, 255)
    noise = (
        rng.normal(0, recording.noise, (size[1] + 16, size[0] + 16, 3)).astype(np.int16) if recording.noise else None
    )
    last: np.ndarray | None = None
    for number in range(n):
        if number and rng.random() < recording.drop_share:
            continue
        if last is not None and (number % recording.hold or rng.random() < recording.repeat_share):
            yield number, last
            continue
        t = number * interval_s
        image = _expose(shots, t, recording.exposure * interval_s, size)
        if recording.soften:
            image = cv2.GaussianBlur(image, (0, 0), recording.soften)
        flicker = 1 + recording.flicker * float(rng.normal())
        image = cv2.LUT(image, np.clip(table * flicker, 0, 255).astype(np.uint8))
        if noise is not None:
            y, x = rng.integers(0, 16, 2)
            image = np.clip(image + noise[y : y + size[1], x : x + size[0]], 0, 255).astype(np.uint8)
        if recording.jpeg:
            image = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, recording.jpeg])[1], 1)
        last = image
        yield number, image


def _expose(shots: Sequence[Shot], t: float, open_s: float, size: tuple[int, int]) -> np.ndarray:
    """The mean of two or three moments while the shutter is open, around t."""
    shot = next((s for s in shots if s.start_s <= t < s.end_s), shots[-1])
    moments = (
        (t,)
        if open_s < 0.004
        else (t - open_s / 4, t + open_s / 4)
        if open_s < 0.03
        else (t - open_s / 3, t, t + open_s / 3)
    )
    total: np.ndarray | None = None
    unit = min(size)
    for moment in moments:
        stage = Stage(shot.picture.background.copy(), unit)
        for layer in shot.picture.layers:
            layer(stage, moment)
        image = shot.camera.film(stage, moment, size)
        light = shot.picture.light(moment)
        if light != 1.0:
            image = cv2.convertScaleAbs(image, alpha=light)
        total = image.astype(np.uint16) if total is None else total + image
    return (total // len(moments)).astype(np.uint8)


def write_video(
    path: Path, frames: Iterator[tuple[int, np.ndarray]], recording: Recording, size: tuple[int, int]
) -> int:
    """Encodes frames as H.264 in MP4 at the recording's rate; returns how many were written."""
    written = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=recording.rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": str(recording.crf), "preset": "superfast", "threads": "1", "bf": "2"}
        stream.time_base = 1 / recording.rate
        stream.codec_context.time_base = 1 / recording.rate
        for number, image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, 1 / recording.rate
            container.mux(stream.encode(frame))
            written += 1
        container.mux(stream.encode())
    return written
