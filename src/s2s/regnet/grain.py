"""The fluctuation of noise in a mel spectrogram, which a generator trained with L1 or L2 averages away.

A burst, a crash or a room is noise: its log-mel jumps from frame to frame and bin to bin by several dB, and nobody can
predict how. The best guess is a smooth surface, and a vocoder that knows true mels makes a buzz or a thud of it. So
the generator also says how much the truth fluctuates around its guess (`Generator.spread`, the scale of a Laplace
distribution), and the fluctuation is drawn: what white noise does in the same mel spectrogram, brought to a mean of 1.
What it learns from is the step from frame to frame of what it missed, so that a wrong level is not answered with noise;
nor is a misplaced attack, because nothing fluctuates more than noise does.
"""

from __future__ import annotations

import numpy as np

from s2s.mel import mel_spectrogram
from s2s.spec import MelSpec


class OverlappingNoise:
    """The noise of a clip whose grain is drawn window by window: in what two windows share it is the same.

    Two that differ would average out where the windows cross-fade.
    """

    def __init__(self, rng: np.random.Generator, overlap: int, spec: MelSpec):
        """overlap: frames that a window shares with the one before it."""
        self._rng, self._tail = rng, np.zeros(0, np.float32)
        self._shared = (overlap + 2 * _margin(spec)) * spec.hop_length

    def standard_normal(self, n: int, dtype: type = np.float32) -> np.ndarray:
        numbers = np.concatenate([self._tail, self._rng.standard_normal(n - len(self._tail), dtype=dtype)])
        self._tail = numbers[len(numbers) - self._shared :]
        return numbers


def grain(n_frames: int, rng: np.random.Generator | OverlappingNoise, spec: MelSpec = MelSpec()) -> np.ndarray:
    """float32 (n_mels, n_frames): median 0 and mean absolute value 1 in each bin."""
    margin = _margin(spec)
    noise = 0.1 * rng.standard_normal((n_frames + 2 * margin) * spec.hop_length, dtype=np.float32)
    log_mel = mel_spectrogram(noise, spec)[:, margin : margin + n_frames]
    median, scale = of_noise(spec)
    return ((log_mel - median) / scale).astype(np.float32)


def _margin(spec: MelSpec) -> int:
    """Frames that hear the ends of the noise, on either side."""
    return spec.n_fft // spec.hop_length


def grain_step(spec: MelSpec = MelSpec()) -> np.ndarray:
    """float32 (n_mels,): mean absolute difference of `grain` from one frame to the next."""
    return np.abs(np.diff(grain(8192, np.random.default_rng(1), spec), axis=1)).mean(axis=1)


def of_noise(spec: MelSpec = MelSpec()) -> tuple[np.ndarray, np.ndarray]:
    """Median and mean absolute deviation (n_mels, 1) of each bin, from half a minute of noise."""
    if spec not in _STATISTICS:
        noise = 0.1 * np.random.default_rng(0).standard_normal(30 * spec.sample_rate, dtype=np.float32)
        log_mel = mel_spectrogram(noise, spec)
        median = np.median(log_mel, axis=1, keepdims=True)
        _STATISTICS[spec] = median, np.abs(log_mel - median).mean(axis=1, keepdims=True)
    return _STATISTICS[spec]


_STATISTICS: dict[MelSpec, tuple[np.ndarray, np.ndarray]] = {}
