"""The vocoder alone: the true mel of a recording through it, beside Griffin-Lim, against the recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from s2s.evaluation.alignment import detect_onsets, onset_f1
from s2s.evaluation.measures import likeness
from s2s.mel import mel_spectrogram
from s2s.spec import MelSpec
from s2s.synth import banks
from s2s.synth.sounds import room_tone
from s2s.vocode import vocode

FRAMES = 128  # 1.5 s
LEAD_S = 0.1  # of the room, so that an attack has something before it
GRIFFIN_LIM = "Griffin-Lim, 32 iterations"


def held_out_recordings(folder: Path) -> list[np.ndarray]:
    """The test recordings of the bank in `folder`, float32 (FRAMES * 256,) each, at any level in a quiet room.

    Raises ProcessingError where the bank was not fetched.
    """
    rng, n, rate = np.random.default_rng(5), MelSpec().n_samples(FRAMES), MelSpec().sample_rate
    clips = []
    for takes in banks.load(folder, "test").values():
        for take in takes:
            start = round(LEAD_S * rate) + int(rng.integers(512))
            sound = take.samples[: n - start] * rng.uniform(0.2, 0.8)
            clip = room_tone(n, rng).astype(np.float32)
            clip[start : start + len(sound)] += sound
            clips.append(clip)
    return clips


def copy_synthesis(
    vocoder: nn.Module | None,
    recordings: Sequence[np.ndarray],
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """Means of `likeness` and of the onsets' F1 at 50 ms over float32 (N,) recordings, by method."""
    methods = {"this bundle's vocoder": "wavenet", GRIFFIN_LIM: "griffinlim"}
    rows: dict[str, list[dict]] = {name: [] for name in methods}
    for index, true in enumerate(recordings):
        mel = mel_spectrogram(true)[:, :FRAMES]
        for name, method in methods.items():
            made = vocode(mel, vocoder, seed=index, method=method)
            onsets = onset_f1(detect_onsets(true), detect_onsets(made), 0.05)
            rows[name].append({**likeness(true, made), "f1_50ms": onsets})
        on_clip(index + 1, len(recordings))
    return {
        name: {key: float(np.mean([row[key] for row in of_method])) for key in of_method[0]}
        for name, of_method in rows.items()
    }
