"""What the true sound of a clip is like: how loud, where it is struck, whether it is only somebody speaking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, sosfiltfilt

from s2s.evaluation.alignment import detect_onsets
from s2s.spec import MelSpec

SAMPLE_RATE = MelSpec().sample_rate
TARGET_DB = -23.0  # level of the active part of every clip of a set, dBFS
PEAK_DB = -1.0
MOST_GAIN_DB = 30.0  # more would only be noise
SILENT_DB = -55.0  # the loudest 50 ms of a clip are below this: silent
FRAME = 512  # samples, 23 ms
SPEECH_SHARE = 0.45  # of the active frames that must sound like a voice


@dataclass(frozen=True)
class Heard:
    """Facts of a waveform at 22,050 Hz."""

    loudest_db: float  # of 50 ms, dBFS
    gain_db: float  # brings the active part to TARGET_DB, as far as peaks and MOST_GAIN_DB allow
    voiced_share: float  # of the active frames: a pitch of 70 to 400 Hz that glides
    onsets_s: np.ndarray  # float64 (K,)

    @property
    def silent(self) -> bool:
        return self.loudest_db < SILENT_DB

    @property
    def speech_only(self) -> bool:
        return self.voiced_share > SPEECH_SHARE


def hear(waveform: np.ndarray) -> Heard:
    """float32 (N,) mono at 22,050 Hz -> facts. An empty or silent waveform has no onsets and no gain."""
    level = _levels_db(waveform)
    loudest = float(level.max(initial=-120.0))
    if loudest < SILENT_DB:
        return Heard(loudest, 0.0, 0.0, np.zeros(0))
    active = level > loudest - 35
    mean_db = 10 * np.log10(np.mean(10 ** (level[active] / 10)))
    peak_db = 20 * np.log10(float(np.abs(waveform).max()) + 1e-9)
    gain = min(TARGET_DB - mean_db, PEAK_DB - peak_db, MOST_GAIN_DB)
    return Heard(loudest, round(float(gain), 3), _voiced_share(waveform, active), detect_onsets(waveform))


def _frames(waveform: np.ndarray, length: int) -> np.ndarray:
    """(N,) -> (F, length) every FRAME samples; the end is padded with silence."""
    n = max(1, -(-len(waveform) // FRAME))
    padded = np.zeros((n - 1) * FRAME + length, np.float32)
    padded[: min(len(waveform), len(padded))] = waveform[: len(padded)]
    return np.lib.stride_tricks.sliding_window_view(padded, length)[::FRAME]


def _levels_db(waveform: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(_frames(waveform, 1024).astype(np.float64) ** 2, axis=1) + 1e-12)


def _voiced_share(waveform: np.ndarray, active: np.ndarray) -> float:
    """Share of active frames with a pitch in a voice's range that moves; a bell's stands still."""
    if active.sum() < 20:
        return 0.0
    low = sosfiltfilt(butter(2, (60, 1000), btype="bandpass", fs=SAMPLE_RATE, output="sos"), waveform)
    frames = _frames(low.astype(np.float32), 2048)[active]
    spectrum = np.fft.rfft(frames * np.hanning(2048).astype(np.float32), 4096, axis=1)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :1024]
    correlation /= correlation[:, :1] + 1e-12
    lags = np.arange(SAMPLE_RATE // 400, SAMPLE_RATE // 70)
    # a window's own correlation falls with the lag; undo that
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(2048), 4096)) ** 2)[:1024]
    clear = correlation[:, lags] / (window[lags] / window[0])
    best = clear.argmax(axis=1)
    voiced = clear[np.arange(len(clear)), best] > 0.6
    pitch = np.log2(SAMPLE_RATE / lags[best])
    step = np.diff(pitch, append=pitch[-1:])
    gliding = voiced & (np.abs(step) > 0.004) & (np.abs(step) < 0.12)  # an octave is 1; lags are whole samples
    up, down = (np.convolve(gliding & side, np.ones(17), mode="same") >= 2 for side in (step > 0, step < 0))
    return float(np.mean(voiced & up & down))  # a struck skin's pitch only falls
