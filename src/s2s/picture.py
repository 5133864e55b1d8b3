"""A picture of a result: video frames, mel spectrogram and events on one time line (matplotlib, no display needed)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from s2s.config import settings
from s2s.media.probe import probe
from s2s.media.video import decode_frames
from s2s.pipeline import GeneratedSound

N_THUMBNAILS = 8
THUMBNAIL_HEIGHT_PX = 120
WIDTH_IN = 12.0


def thumbnails(video: Path, n: int = N_THUMBNAILS) -> list[np.ndarray]:
    """`n` uint8 (120, W, 3) RGB pictures, evenly spread over the clip, aspect kept."""
    info = probe(video, settings().cli_limits)
    height = THUMBNAIL_HEIGHT_PX
    width = max(2, round(height * info.width / info.height / 2) * 2)
    rate = Fraction(n) / Fraction(info.duration_s).limit_denominator(1000)
    frames = decode_frames(info, rgb_size=(height, width), rgb_rate=rate, limits=settings().cli_limits)
    return [frame.rgb for frame in frames for _ in (frame.rgb_ticks if frame.rgb is not None else ())][:n]


def draw_result(video: Path, sound: GeneratedSound, path: Path) -> None:
    """Writes a PNG: frames above, mel in the middle, waveform below, an event as a line through all three."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pictures = thumbnails(video)
    step = sound.duration_s / max(1, len(pictures))
    strip_in = min(
        3.0, WIDTH_IN / max(1, len(pictures)) / (pictures[0].shape[1] / pictures[0].shape[0]) if pictures else 1
    )
    figure, (top, middle, bottom) = plt.subplots(
        3,
        1,
        figsize=(WIDTH_IN, strip_in + 4.6),
        sharex=True,
        height_ratios=(strip_in, 2.6, 1.1),
        layout="constrained",
    )
    for index, picture in enumerate(pictures):
        top.imshow(picture, extent=(index * step, (index + 0.97) * step, 0, 1), aspect="auto", interpolation="bilinear")
    top.set(ylim=(0, 1), yticks=[], ylabel="picture")
    middle.imshow(
        sound.mel,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=0,
        vmax=1,
        extent=(0, sound.mel.shape[1] * 256 / sound.sample_rate, 0, sound.mel.shape[0]),
    )
    middle.set_ylabel("mel band")
    times = np.arange(len(sound.waveform)) / sound.sample_rate
    bottom.plot(times, sound.waveform, linewidth=0.4, color="#335")
    bottom.set(xlabel="seconds", ylabel="sound", ylim=(-1, 1), xlim=(0, sound.duration_s))
    for event in sound.events:
        for axis in (top, middle, bottom):
            axis.axvline(event.time_s, color="#2ad", linewidth=0.6 + 1.2 * event.strength, alpha=0.9)
    kind = f"{sound.category}, " if sound.category else ""
    top.set_title(f"{kind}{len(sound.events)} events, {sound.duration_s:.1f} s", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
