"""Small clips for the page's tests: a ball that bounces, made by arithmetic, so that nobody's footage is needed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 22_050


def bounces(duration_s: float, period_s: float = 0.8) -> list[float]:
    """Seconds at which the ball touches the ground."""
    return [round(t, 3) for t in np.arange(period_s / 2, duration_s, period_s)]


@cache
def _room(width: int, height: int) -> np.ndarray:
    """float32 (H, W, 3): what does not move."""
    y = np.arange(height, dtype=np.float32)[:, None, None]
    shade = y / height
    image = (1 - shade) * np.array([38, 58, 72], np.float32) + shade * np.array([20, 32, 42], np.float32)
    image = np.where(y > height * 0.8, image * 0.6 + np.array([30, 26, 24], np.float32), image)
    return np.repeat(image, width, axis=1)


def picture(time_s: float, width: int, height: int, period_s: float = 0.8) -> np.ndarray:
    """uint8 (H, W, 3) RGB: the ball at one moment."""
    image, ground = _room(width, height).copy(), height * 0.8
    phase = ((time_s + period_s / 2) % period_s) / period_s
    radius = min(width, height) * 0.11
    lift = 4 * phase * (1 - phase) * height * 0.5
    cx, cy = width * (0.3 + 0.4 * ((time_s / 6) % 1)), ground - radius - lift
    left, right = max(0, int(cx - 4 * radius)), min(width, int(cx + 4 * radius))  # nothing else changes
    top = int(ground - radius)
    y, x = np.mgrid[top:height, left:right].astype(np.float32)
    shadow = np.exp(-(((x - cx) / (radius * 1.3)) ** 2 + ((y - ground - radius * 0.15) / (radius * 0.25)) ** 2))
    image[top:, left:right] *= 1 - 0.5 * shadow[..., None]
    rows, columns = slice(max(0, int(cy - radius) - 2), int(cy + radius) + 3), slice(left, right)
    y, x = np.mgrid[rows, columns].astype(np.float32)
    light = np.clip(1 - np.hypot(x - cx + radius * 0.35, y - cy + radius * 0.4) / (radius * 2), 0, 1)[..., None]
    ball = np.array([196, 74, 30], np.float32) + light * np.array([110, 120, 90], np.float32)
    edge = np.clip(radius - np.hypot(x - cx, y - cy), 0, 1)[..., None]
    image[rows, columns] = image[rows, columns] * (1 - edge) + ball * edge
    return np.clip(image, 0, 255).astype(np.uint8)


def knocks(duration_s: float) -> np.ndarray:
    """float32 (N,) -1 .. 1: one short knock at each bounce."""
    time = np.arange(int(duration_s * SAMPLE_RATE)) / SAMPLE_RATE
    sound = np.zeros_like(time)
    for at in bounces(duration_s):
        after = np.clip(time - at, 0, None)
        sound += (time >= at) * np.exp(-after * 22) * np.sin(2 * np.pi * 180 * after)
    return (0.7 * sound).astype(np.float32)


def make_clip(path: Path, duration_s: float = 3.0, size: tuple[int, int] = (480, 270), fps: int = 25,
              sound: bool = False, codec: str = "libx264") -> Path:
    """Write `codec` (and AAC where `sound`) to `path`, an MP4."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as file:
        options = {"crf": "26", "preset": "ultrafast", "threads": "1"} if codec == "libx264" else {}
        video = file.add_stream(codec, rate=fps, options=options)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if sound else None
        for n in range(round(duration_s * fps)):
            frame = av.VideoFrame.from_ndarray(picture(n / fps, *size), format="rgb24")
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if audio:
            samples = knocks(duration_s)
            for start in range(0, len(samples), 1024):
                frame = av.AudioFrame.from_ndarray(samples[None, start:start + 1024], format="fltp", layout="mono")
                frame.sample_rate, frame.pts = SAMPLE_RATE, start
                file.mux(audio.encode(frame))
            file.mux(audio.encode())
    return path


def make_sound_only(path: Path) -> Path:
    """An MP4 that holds AAC and no picture."""
    with av.open(str(path), "w") as file:
        audio = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(knocks(1.0)[None, :1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        file.mux(audio.encode(frame))
        file.mux(audio.encode())
    return path
