"""Surfaces, backgrounds and colours, each with the split it belongs to: what is tested on is never drawn in training.

All pictures are BGR uint8, as OpenCV draws them. Everything comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from s2s.synth.photos import photograph_behind

Colour = tuple[int, int, int]
Rng = np.random.Generator


def pick(rng: Rng, split: str, train: list, test: list):
    """One of the values that belong to the split; validation clips draw from the training factors."""
    values = test if split == "test" else train
    return values[int(rng.integers(len(values)))]


def colour(
    rng: Rng, split: str, value: tuple[float, float] = (60, 230), saturation: tuple[float, float] = (20, 200)
) -> Colour:
    """A random colour whose hue training (reds, blues, violets) or the test (yellows, greens) owns."""
    hue = (
        rng.uniform(22, 82) if split == "test" else (rng.uniform(88, 180) if rng.random() < 0.6 else rng.uniform(0, 20))
    )
    return hsv(hue, rng.uniform(*saturation), rng.uniform(*value))


def hsv(hue: float, saturation: float, value: float) -> Colour:
    pixel = np.uint8([[[int(hue) % 180, int(np.clip(saturation, 0, 255)), int(np.clip(value, 0, 255))]]])
    return tuple(int(c) for c in cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0])


def skin(rng: Rng) -> Colour:
    """A skin tone, light to dark."""
    return hsv(rng.uniform(4, 14), rng.uniform(70, 150), rng.uniform(70, 235))


def dim(c: Colour, factor: float) -> Colour:
    return tuple(int(np.clip(v * factor, 0, 255)) for v in c)


def fractal(rng: Rng, h: int, w: int, octaves: int = 4, base: int = 3) -> np.ndarray:
    """Smooth noise in [0, 1], float32 (h, w)."""
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        n = base * 2**octave
        total += (
            cv2.resize(rng.random((n, max(2, n * w // max(h, 1))), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
            / 2**octave
        )
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(1e-6, high - low)


def tint(grey: np.ndarray, dark: Colour, light: Colour) -> np.ndarray:
    """float (h, w) in [0, 1] -> BGR uint8 between two colours."""
    grey = grey[..., None].astype(np.float32)
    return np.clip(grey * np.float32(light) + (1 - grey) * np.float32(dark), 0, 255).astype(np.uint8)


# ---- surfaces of objects: (rng, h, w, colour) -> BGR uint8 (h, w, 3)


def _plain(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    return tint(0.5 + 0.2 * (fractal(rng, h, w, 2) - 0.5), dim(c, 0.6), dim(c, 1.4))


def _grain(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    bend = fractal(rng, h, w, 3) * rng.uniform(4, 10)
    lines = 0.5 + 0.5 * np.sin(np.arange(h, dtype=np.float32)[:, None] * rng.uniform(0.4, 1.2) + bend * 2)
    return tint(0.6 * lines + 0.4 * fractal(rng, h, w, 5), dim(c, 0.6), dim(c, 1.15))


def _brushed(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    lines = cv2.blur(rng.random((h, w), np.float32), (max(3, w // 3), 1))
    shine = np.linspace(0, np.pi * rng.uniform(1, 2), h, dtype=np.float32)[:, None]
    return tint(np.clip(0.5 + 2 * (lines - 0.5) + 0.4 * np.sin(shine), 0, 1), dim(c, 0.5), dim(c, 1.5))


def _speckle(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    return tint(
        np.clip(0.5 + 0.25 * cv2.GaussianBlur(rng.normal(0, 1.6, (h, w)).astype(np.float32), (0, 0), 0.8), 0, 1),
        dim(c, 0.55),
        dim(c, 1.4),
    )


def _stripes(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    angle, step = rng.uniform(0, np.pi), rng.uniform(5, 14)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    return tint(
        (np.sin((x * np.cos(angle) + y * np.sin(angle)) * 6.28 / step) > 0) * 0.7 + 0.2, dim(c, 0.5), dim(c, 1.3)
    )


def _patches(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    points = rng.random((24, 2)) * (h, w)
    y, x = np.mgrid[:h, :w]
    owner = np.argmin((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2, axis=-1)
    return tint(rng.random(24)[owner], dim(c, 0.55), dim(c, 1.3))


def _rust(rng: Rng, h: int, w: int, c: Colour) -> np.ndarray:
    return tint(
        (fractal(rng, h, w, 5, 5) > rng.uniform(0.4, 0.6)) * 0.5 + 0.5 * fractal(rng, h, w, 4, 8),
        dim(c, 0.4),
        dim(c, 1.3),
    )


SURFACES: dict[str, Callable[[Rng, int, int, Colour], np.ndarray]] = {
    "plain": _plain,
    "grain": _grain,
    "brushed": _brushed,
    "speckle": _speckle,
    "stripes": _stripes,
    "patches": _patches,
    "rust": _rust,
}
TRAIN_SURFACES, TEST_SURFACES = ["plain", "grain", "brushed", "speckle"], ["stripes", "patches", "rust"]


def surface(rng: Rng, split: str, h: int, w: int, c: Colour, prefer: str | None = None) -> np.ndarray:
    """A surface of the split; `prefer` is taken two times in three where the split owns it (wood has grain)."""
    names = TEST_SURFACES if split == "test" else TRAIN_SURFACES
    name = prefer if prefer in names and rng.random() < 0.67 else names[int(rng.integers(len(names)))]
    return SURFACES[name](rng, h, w, c)


# ---- backgrounds: (rng, split, h, w) -> BGR uint8 (h, w, 3)


def _room(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = tint(fractal(rng, h, w, 4), colour(rng, split, (50, 140), (5, 80)), colour(rng, split, (110, 230), (5, 80)))
    floor = int(h * rng.uniform(0.55, 0.8))
    image[floor:] = _grain(rng, h - floor, w, colour(rng, split, (60, 180), (20, 120)))
    for _ in range(rng.integers(0, 4)):
        x, y = rng.integers(0, w), rng.integers(0, floor)
        size = rng.integers(h // 10, h // 3, 2)
        cv2.rectangle(image, (x, y), (x + int(size[0]), y + int(size[1])), colour(rng, split), -1, cv2.LINE_AA)
    return image


def _planks(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = _grain(rng, h, w, colour(rng, split, (70, 190), (30, 140)))
    step = int(rng.uniform(0.1, 0.3) * h)
    for y in range(int(rng.integers(step)), h, step):
        image[y : y + 2] = image[y : y + 2] // 3
        image[y : y + step] = np.clip(image[y : y + step] * rng.uniform(0.8, 1.15), 0, 255).astype(np.uint8)
    return image


def _bricks(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = np.full((h, w, 3), colour(rng, split, (120, 200), (5, 40)), np.uint8)
    c, bh = colour(rng, split, (80, 190), (40, 160)), max(6, int(rng.uniform(0.05, 0.12) * h))
    for row, y in enumerate(range(0, h, bh)):
        for x in range(-(row % 2) * bh, w, bh * 2):
            cv2.rectangle(image, (x + 1, y + 1), (x + 2 * bh - 2, y + bh - 2), dim(c, rng.uniform(0.75, 1.2)), -1)
    return np.clip(image * (0.7 + 0.5 * fractal(rng, h, w, 5)[..., None]), 0, 255).astype(np.uint8)


def _hills(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = tint(
        np.linspace(0, 1, h, dtype=np.float32)[:, None] * np.ones((1, w), np.float32),
        colour(rng, split, (150, 240), (10, 90)),
        colour(rng, split, (150, 250), (5, 60)),
    )
    for level in np.sort(rng.uniform(0.3, 0.9, 4)):
        ridge = (h * level + h * 0.12 * (fractal(rng, 2, w, 4)[0] - 0.5)).astype(int)
        mask = np.arange(h)[:, None] >= ridge[None, :]
        image[mask] = _speckle(rng, h, w, colour(rng, split, (40, 160), (40, 160)))[mask]
    return image


def _bokeh(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = tint(fractal(rng, h, w, 3), (10, 10, 12), colour(rng, split, (40, 110)))
    for _ in range(rng.integers(10, 40)):
        cv2.circle(
            image,
            (int(rng.integers(w)), int(rng.integers(h))),
            int(rng.uniform(0.01, 0.08) * h),
            colour(rng, split, (90, 255)),
            -1,
            cv2.LINE_AA,
        )
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 5))


def _leaves(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = tint(fractal(rng, h, w, 5), (10, 20, 10), colour(rng, split, (60, 120)))
    c = colour(rng, split, (60, 200), (60, 200))
    for _ in range(250):
        cv2.ellipse(
            image,
            (int(rng.integers(w)), int(rng.integers(h))),
            (int(rng.uniform(0.01, 0.05) * h), int(rng.uniform(0.005, 0.02) * h)),
            rng.uniform(0, 360),
            0,
            360,
            dim(c, rng.uniform(0.4, 1.3)),
            -1,
            cv2.LINE_AA,
        )
    return image


def _clutter(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = tint(fractal(rng, h, w, 5), colour(rng, split, (20, 120)), colour(rng, split, (100, 240)))
    for _ in range(rng.integers(10, 45)):
        x, y, c = int(rng.integers(w)), int(rng.integers(h)), colour(rng, split, (20, 250))
        a, b = int(rng.uniform(0.02, 0.2) * h) + 1, int(rng.uniform(0.02, 0.25) * h) + 1
        if rng.random() < 0.5:
            cv2.rectangle(image, (x, y), (x + a, y + b), c, -1)
        else:
            cv2.ellipse(image, (x, y), (a, b), rng.uniform(0, 180), 0, 360, c, -1, cv2.LINE_AA)
    return image


def _blur_wall(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    return tint(
        fractal(rng, h, w, 2, 2), colour(rng, split, (20, 120), (0, 90)), colour(rng, split, (100, 245), (0, 90))
    )


def _tiles(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    step = max(8, int(rng.uniform(0.08, 0.25) * h))
    image = _plain(rng, h, w, colour(rng, split, (130, 240), (5, 80)))
    image[::step] = image[::step] // 2
    image[:, ::step] = image[:, ::step] // 2
    return image


def _curtain(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    x = np.arange(w, dtype=np.float32)[None, :] + 6 * fractal(rng, h, w, 2)
    folds = 0.5 + 0.5 * np.sin(x * rng.uniform(0.1, 0.5))
    return tint(folds * 0.8 + 0.2 * fractal(rng, h, w, 4), colour(rng, split, (20, 90)), colour(rng, split, (120, 230)))


def _gravel(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    grey = fractal(rng, h, w, 3, 24)
    return tint(
        cv2.Laplacian(grey, cv2.CV_32F, ksize=3) * 1.5 + 0.5,
        colour(rng, split, (40, 110), (5, 60)),
        colour(rng, split, (140, 230), (5, 60)),
    )


def _windows(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = _plain(rng, h, w, colour(rng, split, (40, 150), (5, 80)))
    step_y, step_x = max(8, int(h * rng.uniform(0.1, 0.2))), max(8, int(h * rng.uniform(0.08, 0.2)))
    for y in range(3, h, step_y):
        for x in range(3, w, step_x):
            cv2.rectangle(
                image, (x, y), (x + step_x // 2, y + int(step_y * 0.6)), colour(rng, split, (30, 255), (0, 120)), -1
            )
    return image


def _clouds(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    return tint(
        np.clip(fractal(rng, h, w, 6, 2) * 1.6 - 0.4, 0, 1), colour(rng, split, (90, 200), (30, 140)), (240, 240, 240)
    )


def _shelves(rng: Rng, split: str, h: int, w: int) -> np.ndarray:
    image = _plain(rng, h, w, colour(rng, split, (30, 110), (10, 100)))
    step = int(h * rng.uniform(0.2, 0.4))
    for y in range(step, h + step, step):
        x = 0
        while x < w:
            width = int(rng.uniform(0.02, 0.08) * h) + 2
            cv2.rectangle(
                image, (x, y - int(step * rng.uniform(0.4, 0.85))), (x + width, y), colour(rng, split, (40, 230)), -1
            )
            x += width + int(rng.integers(0, 4))
        cv2.rectangle(image, (0, y), (w, y + 3), (20, 30, 40), -1)
    return image


BACKGROUNDS: dict[str, Callable[[Rng, str, int, int], np.ndarray]] = {
    "room": _room,
    "planks": _planks,
    "bricks": _bricks,
    "hills": _hills,
    "bokeh": _bokeh,
    "leaves": _leaves,
    "clutter": _clutter,
    "blur_wall": _blur_wall,
    "tiles": _tiles,
    "curtain": _curtain,
    "gravel": _gravel,
    "windows": _windows,
    "clouds": _clouds,
    "shelves": _shelves,
}
TRAIN_BACKGROUNDS = ["room", "planks", "bricks", "hills", "bokeh", "leaves", "clutter", "blur_wall"]
TEST_BACKGROUNDS = ["tiles", "curtain", "gravel", "windows", "clouds", "shelves"]


def background(rng: Rng, split: str, h: int, w: int, dark: bool = False) -> tuple[str, np.ndarray]:
    """Name and picture; now and then out of focus; `dark` for night scenes."""
    if photograph := photograph_behind(rng, h, w):
        name, image = photograph
    else:
        name = pick(rng, split, TRAIN_BACKGROUNDS, TEST_BACKGROUNDS)
        image = BACKGROUNDS[name](rng, split, h, w)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 4))
    light = 0.55 + 0.75 * fractal(rng, h, w, 1, 2)[..., None]
    return name, np.clip(image * (light * (rng.uniform(0.08, 0.3) if dark else 1.0)), 0, 255).astype(np.uint8)
