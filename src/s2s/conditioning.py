"""Events and kinds as the explicit conditioning of RegNet's encoder and decoder, and takes as its z.

Passing timing through visual features alone loses it (an L1-trained decoder answers with the median of all the
moments it finds possible), so what the timing net and the recogniser decided is said outright:

- `condition`: per feature frame, `mel_per_frame` values for each of the event curves below, then one value per kind.
- `take_code`: which instrument (which drum, how large) sounds. REGNET's z is drawn from N(0, 1); here it is a fixed
  N(0, 1) code of the take's name, so that one z is one instrument and not the average of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from s2s.events import SoundEvent
from s2s.spec import ClipSpec

DECAYS_S = (0.015, 0.04, 0.1, 0.25, 0.6, 1.5)  # from the click of a contact to the ring of a bell
FALL_NEPERS = 7.0  # 61 dB: how far a curve falls before it is zero
SOFT_NEPERS = 2.5  # 22 dB: how far under the hardest hit the softest one starts
CURVES = 1 + len(DECAYS_S)


def condition_dim(spec: ClipSpec, n_kinds: int) -> int:
    """Channels of `condition`; the `condition_dim` of a RegNet that was trained with it."""
    return spec.mel_per_frame * CURVES + n_kinds


def condition(events: Sequence[SoundEvent], kinds: np.ndarray, n_frames: int, spec: ClipSpec) -> np.ndarray:
    """Events with times in seconds, kinds float (K,) probabilities -> float32 (n_frames, condition_dim).

    Curve 0 holds the strength of an event, shared between the two mel frames next to its moment, so that a hit can be
    placed between two frames. The others are the logarithm of exponential decays, scaled to 0 .. 1: straight lines
    that start at the event, higher for a harder one. Log-mel of what rings falls just so.
    """
    n_mel = spec.n_mel_frames(n_frames)
    rate = float(spec.mel.frame_rate)
    curves = np.zeros((CURVES, n_mel + 1), np.float32)
    frame_times = np.arange(n_mel + 1) / rate
    for event in events:
        position = event.time_s * rate
        frame = int(np.floor(position))
        if not 0 <= frame < n_mel:
            continue
        late = position - frame
        curves[0, frame] += event.strength * (1 - late)
        curves[0, frame + 1] += event.strength * late
        start = 1 - (1 - event.strength) * SOFT_NEPERS / FALL_NEPERS
        since = frame_times[frame:] - event.time_s
        for row, decay_s in enumerate(DECAYS_S, start=1):
            line = start - np.maximum(since, 0) / (decay_s * FALL_NEPERS)
            line[since < 0] *= 1 - late  # the frame that the hit falls into already hears part of it
            curves[row, frame:] = np.maximum(curves[row, frame:], line)
    folded = curves[:, :n_mel].reshape(CURVES, n_frames, spec.mel_per_frame).transpose(1, 0, 2).reshape(n_frames, -1)
    return np.concatenate([folded, np.tile(kinds.astype(np.float32), (n_frames, 1))], axis=1)


def event_hits(conditions: Tensor, mel_per_frame: int = 4) -> Tensor:
    """`condition` of a batch (B, T, C) -> (B, mel_per_frame * T): above 0 in the mel frames next to an event."""
    return conditions[..., :mel_per_frame].flatten(1)


def take_code(name: str, z_dim: int) -> np.ndarray:
    """float32 (z_dim,): the N(0, 1) code of the take of that name."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return rng.standard_normal(z_dim).astype(np.float32)


def choose_take(takes: Sequence[str], seed: int) -> str:
    """The take that `seed` stands for; the next seed is the next take. Seed 0 is the most convincing one."""
    return takes[seed % len(takes)]
