"""Events and kinds as the explicit conditioning of RegNet's encoder and decoder, and takes as its z.

Passing timing through visual features alone loses it (an L1-trained decoder answers with the median of all the
moments it finds possible), so what the timing net and the TSN streams decided is said outright:

- `condition`: per feature frame, `mel_per_frame` values for each of the event curves below, then one value per kind.
- `take_code`: which instance of a kind (which drum, how large) sounds. REGNET's z is drawn from N(0, 1); here it is a
  fixed N(0, 1) code of (kind, material) plus the size, so that one z is one instrument and not the average of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from s2s.events import SoundEvent
from s2s.spec import ClipSpec

DECAYS_S = (0.08, 0.4, 1.6)  # how long ago the last event was, at three speeds: attack, body, tail
CURVES = 1 + len(DECAYS_S)
MATERIALS = 24  # takes of each kind that the shipped bundle was trained on


def condition_dim(spec: ClipSpec, n_kinds: int) -> int:
    """Channels of `condition`; the `condition_dim` of a RegNet that was trained with it."""
    return spec.mel_per_frame * CURVES + n_kinds


def condition(events: Sequence[SoundEvent], kinds: np.ndarray, n_frames: int, spec: ClipSpec) -> np.ndarray:
    """Events with times in seconds, kinds float (K,) probabilities -> float32 (n_frames, condition_dim).

    Curve 0 holds the strength of an event, shared between the two mel frames next to its moment, so that a hit can be
    placed between two frames. The others jump to the strength at the event and decay.
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
        since = frame_times[frame:] - event.time_s
        for row, decay_s in enumerate(DECAYS_S, start=1):
            tail = event.strength * np.exp(-np.maximum(since, 0) / decay_s)
            tail[since < 0] *= 1 - late  # the frame that the hit falls into already hears part of it
            curves[row, frame:] = np.maximum(curves[row, frame:], tail)
    folded = curves[:, :n_mel].reshape(CURVES, n_frames, spec.mel_per_frame).transpose(1, 0, 2).reshape(n_frames, -1)
    return np.concatenate([folded, np.tile(kinds.astype(np.float32), (n_frames, 1))], axis=1)


def take_code(kind: str, material: int, size: float, z_dim: int) -> np.ndarray:
    """float32 (z_dim,): N(0, 1) code of one instance of a kind; the last entry is its size (0 .. 1), scaled to +-2."""
    digest = hashlib.blake2b(f"{kind}/{material}".encode(), digest_size=16).digest()
    code = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).standard_normal(z_dim)
    code[-1] = 4 * size - 2
    return code.astype(np.float32)


def choose_take(kind: str, seed: int, z_dim: int) -> np.ndarray:
    """float32 (z_dim,): the take that `seed` stands for. Another seed is another take."""
    digest = hashlib.blake2b(f"{kind}/{seed}".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return take_code(kind, int(rng.integers(MATERIALS)), float(rng.uniform(0.2, 0.8)), z_dim)
