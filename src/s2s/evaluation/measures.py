"""What is measured of one sound beside the true one, and of sets of sounds. Pure functions of waveforms and times."""

from __future__ import annotations

import librosa
import numpy as np
import torch
from scipy.linalg import sqrtm

from s2s.evaluation.alignment import ONSET_HOP, ONSET_SAMPLE_RATE, score_alignment
from s2s.mel import mel_spectrogram
from s2s.training.vocoder import MultiResolutionStft

SAMPLE_RATE = ONSET_SAMPLE_RATE
NEAR_S = 0.1
FRECHET_DIMS = 32
ENVELOPE_S = 0.02


def placement(reference_s: np.ndarray, onsets_s: np.ndarray, motion_s: np.ndarray, duration_s: float) -> dict:
    """Where the onsets of a sound lie: reference (R,), found in the sound (K,), peaks of motion in the picture (P,)."""
    score = score_alignment(reference_s, onsets_s, duration_s)
    return {
        "f1_50ms": score.f1_50ms,
        "f1_100ms": score.f1_100ms,
        "strict_skill": score.strict_skill,
        "lag_corrected_skill": score.lag_corrected_skill,
        "onset_count_accuracy": float(len(reference_s) == len(onsets_s)),
        "av_align": av_align(onsets_s, motion_s),
        "offset_ms": offset_ms(reference_s, onsets_s),
        "abs_offset_ms": abs(offset_ms(reference_s, onsets_s)),
    }


def onset_ap(reference_s: np.ndarray, onsets_s: np.ndarray, waveform: np.ndarray) -> float:
    """Average precision of onsets ranked by their strength, 0.1 s around each true one.

    The mean over the true onsets of the precision at the rank where each was found; 0 for one that was not found.
    After CondFoleyGen (Du et al. 2023) and not comparable with its figures: there an onset that was not found costs
    nothing, matches are made in the order of time, and onsets are ranked by the peak of the waveform.
    """
    if not len(reference_s):
        return float("nan")
    free, precisions = list(np.asarray(reference_s, float)), []
    for rank, index in enumerate(np.argsort(-onset_confidence(onsets_s, waveform), kind="stable"), start=1):
        near = [t for t in free if abs(t - onsets_s[index]) <= NEAR_S]
        if near:
            free.remove(min(near, key=lambda t: abs(t - onsets_s[index])))
            precisions.append((len(precisions) + 1) / rank)
    return sum(precisions) / len(reference_s)


def onset_confidence(onsets_s: np.ndarray, waveform: np.ndarray) -> np.ndarray:
    """float64 (K,): how strongly the sound sets in at each onset, 0 .. 1 within the clip."""
    if not len(onsets_s):
        return np.zeros(0)
    strength = librosa.onset.onset_strength(y=np.asarray(waveform, np.float32), sr=SAMPLE_RATE, hop_length=ONSET_HOP)
    at = np.clip(np.round(onsets_s * SAMPLE_RATE / ONSET_HOP).astype(int), 0, len(strength) - 1)
    return strength[at] / max(float(strength.max()), 1e-9)


def av_align(onsets_s: np.ndarray, motion_s: np.ndarray) -> float:
    """Intersection over union of onsets and peaks of motion, 0.1 s apart at most.

    After AV-Align (Yariv et al. 2023) and not comparable with its figures: there it is one frame at most, and every
    local maximum of the motion counts.
    """
    if not len(onsets_s) and not len(motion_s):
        return 1.0
    if not len(onsets_s) or not len(motion_s):
        return 0.0
    near = np.abs(onsets_s[:, None] - motion_s[None]) <= NEAR_S
    heard, seen = near.any(axis=1).sum(), near.any(axis=0).sum()
    union = len(onsets_s) + len(motion_s) - min(heard, seen)
    return float((heard + seen) / (2 * union))


def offset_ms(reference_s: np.ndarray, onsets_s: np.ndarray) -> float:
    """Median of (onset - nearest true onset) where they are 0.1 s apart at most, ms; nan for none. + is late."""
    if not len(reference_s) or not len(onsets_s):
        return float("nan")
    gaps = np.asarray(onsets_s)[:, None] - np.asarray(reference_s)[None]
    nearest = gaps[np.arange(len(gaps)), np.abs(gaps).argmin(axis=1)]
    near = nearest[np.abs(nearest) <= NEAR_S]
    return 1000 * float(np.median(near)) if len(near) else float("nan")


def likeness(true: np.ndarray, made: np.ndarray) -> dict:
    """How much alike two waveforms float32 (N,) at 22,050 Hz are: envelope, mel, short-time spectra."""
    n = min(len(true), len(made))
    true, made = true[:n], made[:n]
    with torch.inference_mode():
        stft = MultiResolutionStft()(*(torch.from_numpy(np.ascontiguousarray(x))[None].float() for x in (made, true)))
    return {
        "envelope_correlation": envelope_correlation(true, made),
        "mel_l1_db": 100 * float(np.abs(mel_spectrogram(true) - mel_spectrogram(made)).mean()),
        "multi_resolution_stft": float(stft),
    }


def at_level_of(true: np.ndarray, made: np.ndarray) -> np.ndarray:
    """`made` as loud (root mean square) as `true`: how far away the microphone stood is in no picture."""
    level = float(np.sqrt((made.astype(np.float64) ** 2).mean()))
    return made * np.float32(np.sqrt((true.astype(np.float64) ** 2).mean()) / level) if level > 1e-6 else made


def envelope_correlation(true: np.ndarray, made: np.ndarray) -> float:
    """Pearson correlation of the root mean square in steps of 20 ms; 0 where one of them does not vary."""
    step = round(ENVELOPE_S * SAMPLE_RATE)
    a, b = (
        np.sqrt((x[: len(x) // step * step].astype(np.float64).reshape(-1, step) ** 2).mean(axis=1))
        for x in (true, made)
    )
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def frechet_distance(true: np.ndarray, made: np.ndarray) -> float:
    """Between Gaussians fitted to embeddings (n, d) and (m, d), in the 32 main directions of the true ones.

    Small sets make it large: compare numbers of sets of the same size only.
    """
    if min(len(true), len(made)) < 2:
        return float("nan")
    centre = true.mean(axis=0)
    _, _, axes = np.linalg.svd(true - centre, full_matrices=False)
    a, b = ((x - centre) @ axes[:FRECHET_DIMS].T for x in (true, made))
    spread_a, spread_b = (np.cov(x, rowvar=False) for x in (a, b))
    root = np.real(sqrtm(spread_a @ spread_b))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(spread_a + spread_b - 2 * root))


def clicks(times_s: np.ndarray, n: int) -> np.ndarray:
    """float32 (n,): a short burst of noise at each time."""
    x = np.zeros(n, np.float32)
    burst = np.random.default_rng(0).standard_normal(600).astype(np.float32) * np.exp(-np.arange(600) / 120)
    for time_s in times_s:
        start = round(time_s * SAMPLE_RATE)
        part = burst[: max(0, n - start)]
        x[start : start + len(part)] += 0.2 * part
    return x
