"""How well a sound's onsets lie where the true sound's do, against what chance would reach.

F1 alone says little: onsets of two unrelated clips agree at 100 ms to .36-.52. So F1 at 50 ms is read as a skill,
(F1 - chance) / (1 - chance), where chance is the same onsets shifted in time. Recorded sound lags its picture by a
constant that differs from clip to clip (microphone distance, phones, re-encoding) and that no picture can tell, so the
headline is the lag-corrected skill: the best constant lag within 150 ms, with chance given the same choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import librosa
import numpy as np

ONSET_SAMPLE_RATE = 22_050
ONSET_HOP = 256
MAX_LAG_S = 0.150
LAG_STEP_S = 0.015
MIN_SHIFT_S = 0.3  # chance shifts of the strict skill
MIN_SHIFT_LAG_S = 0.45  # chance shifts of the lag-corrected skill: beyond what a lag could undo
SHIFT_STEP_S = 0.06


@dataclass(frozen=True)
class Alignment:
    """Agreement of candidate onsets with reference onsets. Skills: 0 is chance, 1 is perfect, nan is undefined."""

    f1_50ms: float
    f1_100ms: float
    chance_50ms: float
    strict_skill: float
    lag_corrected_skill: float
    best_lag_s: float  # added to the candidate's onsets for the best agreement
    n_reference: int
    n_candidate: int


def detect_onsets(waveform: np.ndarray, sample_rate: int = ONSET_SAMPLE_RATE) -> np.ndarray:
    """Onset times in seconds, float64 (K,), of a mono waveform float (N,): the reference detector of this project."""
    waveform = np.asarray(waveform, np.float32)
    if sample_rate != ONSET_SAMPLE_RATE:
        waveform = librosa.resample(waveform, orig_sr=sample_rate, target_sr=ONSET_SAMPLE_RATE, res_type="soxr_hq")
    if not np.any(waveform):
        return np.zeros(0)
    strength = librosa.onset.onset_strength(y=waveform, sr=ONSET_SAMPLE_RATE, hop_length=ONSET_HOP)
    return librosa.onset.onset_detect(
        onset_envelope=strength, sr=ONSET_SAMPLE_RATE, hop_length=ONSET_HOP, units="time", delta=0.12, wait=4
    )


def onset_f1(reference_s: np.ndarray, candidate_s: np.ndarray, tolerance_s: float) -> float:
    """F1 of a largest one-to-one matching within the tolerance. Two empty lists agree (1)."""
    reference, candidate = np.sort(reference_s), np.sort(candidate_s)
    if not len(reference) or not len(candidate):
        return float(len(reference) == len(candidate))
    return 2.0 * _n_matches(reference.tolist(), candidate.tolist(), tolerance_s) / (len(reference) + len(candidate))


def score_alignment(reference_s: np.ndarray, candidate_s: np.ndarray, duration_s: float) -> Alignment:
    """Compares candidate onsets with reference onsets (seconds, any order) of a clip of `duration_s`."""
    reference, candidate = np.sort(np.asarray(reference_s, float)), np.sort(np.asarray(candidate_s, float))
    f1_50 = onset_f1(reference, candidate, 0.05)
    f1_100 = onset_f1(reference, candidate, 0.1)
    chance = chance_f1(reference, candidate, duration_s)
    best, lag = _best_lag(reference, candidate, duration_s, 0.0)
    shifts = _shifts(duration_s, MIN_SHIFT_LAG_S)
    best_chance = (
        float(np.mean([_best_lag(reference, candidate, duration_s, s)[0] for s in shifts]))
        if len(shifts)
        else float("nan")
    )
    return Alignment(
        f1_50, f1_100, chance, skill(f1_50, chance), skill(best, best_chance), lag, len(reference), len(candidate)
    )


def chance_f1(reference_s: np.ndarray, candidate_s: np.ndarray, duration_s: float, tolerance_s: float = 0.05) -> float:
    """Mean F1 of the candidate's onsets shifted circularly by 0.3 s ... duration - 0.3 s; nan for a clip too short."""
    shifts = _shifts(duration_s, MIN_SHIFT_S)
    if not len(shifts):
        return float("nan")
    return float(np.mean([onset_f1(reference_s, (candidate_s + s) % duration_s, tolerance_s) for s in shifts]))


def skill(value: float, chance: float) -> float:
    """(value - chance) / (1 - chance); nan where chance is undefined or already perfect."""
    return (value - chance) / (1.0 - chance) if chance < 1.0 else float("nan")


def _best_lag(reference: np.ndarray, candidate: np.ndarray, duration_s: float, shift_s: float) -> tuple[float, float]:
    """Best F1 at 50 ms over constant lags around a shift, and that lag (the middle one of those that are as good)."""
    steps = round(MAX_LAG_S / LAG_STEP_S)
    lags = np.arange(-steps, steps + 1) * LAG_STEP_S
    scores = np.array([onset_f1(reference, (candidate + shift_s + lag) % duration_s, 0.05) for lag in lags])
    tied = lags[scores == scores.max()]
    return float(scores.max()), float(tied[len(tied) // 2])


def _shifts(duration_s: float, smallest_s: float) -> np.ndarray:
    return np.arange(smallest_s, duration_s - smallest_s + 1e-9, SHIFT_STEP_S)


def _n_matches(reference: list[float], candidate: list[float], tolerance_s: float) -> int:
    """Both sorted. Matching the earliest that can still match is largest in one dimension."""
    i = j = matches = 0
    while i < len(reference) and j < len(candidate):
        gap = candidate[j] - reference[i]
        if abs(gap) <= tolerance_s:
            matches += 1
            i += 1
            j += 1
        elif gap < 0:
            j += 1
        else:
            i += 1
    return matches
