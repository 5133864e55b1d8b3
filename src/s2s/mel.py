"""Waveform <-> mel spectrogram. The only mel of the project: training, inference and measuring all use this one.

The published REGNET front end: magnitude (power 1, never 2) STFT with reflect padding, Slaney mel bands with area
normalisation, 20 log10, minus the reference level, scaled to [0, 1]. There is no per-clip normalisation: silence is 0.
"""

from __future__ import annotations

from functools import lru_cache

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from s2s.errors import ProcessingError
from s2s.spec import MelSpec


@lru_cache(maxsize=8)
def mel_filterbank(spec: MelSpec = MelSpec()) -> np.ndarray:
    """float32 (n_mels, n_fft // 2 + 1), Slaney scale and area normalisation; read only."""
    bank = librosa.filters.mel(sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.fmin,
                               fmax=spec.fmax, htk=False, norm="slaney", dtype=np.float32)
    bank.flags.writeable = False
    return bank


def mel_spectrogram(waveform: np.ndarray, spec: MelSpec = MelSpec()) -> np.ndarray:
    """float (N,) in -1 .. 1 -> float32 (n_mels, 1 + N // hop_length) in 0 .. 1; frame i is centred on sample i * hop.

    A clip of M mel frames keeps the first M columns (`[:, :M]`). Raises ProcessingError for fewer than two samples,
    because reflect padding needs them.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    if waveform.ndim != 1 or waveform.size < 2:
        raise ProcessingError(f"A mel spectrogram needs a mono waveform of two samples or more, got {waveform.shape}.")
    padded = np.pad(waveform, spec.n_fft // 2, mode="reflect")  # numpy's reflects again where the clip is shorter
    window = torch.hann_window(spec.win_length, dtype=torch.float64)
    magnitude = torch.stft(torch.from_numpy(padded), spec.n_fft, spec.hop_length, spec.win_length, window, center=False,
                           return_complex=True).abs().numpy()
    return amplitude_to_mel(mel_filterbank(spec) @ magnitude, spec)


def amplitude_to_mel(amplitude: np.ndarray, spec: MelSpec = MelSpec()) -> np.ndarray:
    """Linear mel amplitude, any shape -> the same shape on the published scale, float32 in 0 .. 1."""
    level_db = 20 * np.log10(np.maximum(_floor_amplitude(spec), amplitude)) - spec.ref_level_db
    return np.clip((level_db - spec.min_level_db) / -spec.min_level_db, 0, 1).astype(np.float32)


def mel_to_amplitude(mel: np.ndarray, spec: MelSpec = MelSpec()) -> np.ndarray:
    """The inverse of `amplitude_to_mel` above its floor: 0 .. 1 -> linear mel amplitude, float32, 1e-4 .. 10."""
    level_db = np.asarray(mel, dtype=np.float64) * -spec.min_level_db + spec.min_level_db + spec.ref_level_db
    return (10 ** (level_db / 20)).astype(np.float32)


def _floor_amplitude(spec: MelSpec) -> float:
    """1e-5 for the published levels; it keeps the logarithm finite, the clip at 0 cuts higher (1e-4)."""
    return 10 ** (spec.min_level_db / 20)


class MelTransform(nn.Module):
    """`mel_spectrogram` for batches on any device, differentiable: float32 (B, N) -> (B, n_mels, 1 + N // hop_length).

    N must exceed n_fft / 2. It holds no weights: its buffers stay out of the state_dict.
    """

    def __init__(self, spec: MelSpec = MelSpec()):
        super().__init__()
        self.spec = spec
        self.register_buffer("filterbank", torch.from_numpy(mel_filterbank(spec).copy()), persistent=False)
        self.register_buffer("window", torch.hann_window(spec.win_length), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        spec = self.spec
        spectrum = torch.stft(waveform, spec.n_fft, spec.hop_length, spec.win_length, self.window, center=True,
                              pad_mode="reflect", return_complex=True)
        amplitude = (self.filterbank @ spectrum.abs()).clamp_min(_floor_amplitude(spec))
        level_db = 20 * torch.log10(amplitude) - spec.ref_level_db
        return ((level_db - spec.min_level_db) / -spec.min_level_db).clamp(0, 1)


def mel_to_magnitude(mel: np.ndarray, spec: MelSpec = MelSpec(), n_iter: int = 40) -> np.ndarray:
    """(n_mels, M) in 0 .. 1 -> float32 (n_fft // 2 + 1, M), a non-negative magnitude spectrum with that mel.

    Multiplicative updates (Lee and Seung 2000) of the non-negative least squares problem: they need no clipping, which
    is where a plain pseudo-inverse loses level.
    """
    bank = mel_filterbank(spec)
    gram = bank.T @ bank
    wanted = bank.T @ np.where(np.asarray(mel) > 0, mel_to_amplitude(mel, spec), 0).astype(np.float32)
    magnitude = wanted.copy()
    for _ in range(n_iter):
        magnitude *= wanted / np.maximum(gram @ magnitude, 1e-12)
    return magnitude


def griffin_lim(mel: np.ndarray, spec: MelSpec = MelSpec(), n_iter: int = 32, seed: int = 0,
                momentum: float = 0.99) -> np.ndarray:
    """(n_mels, M) in 0 .. 1 -> float32 (M * hop_length,). The same mel and seed give the same samples.

    Fast Griffin-Lim (Perraudin 2013): from random phases, each round keeps the wanted magnitudes and takes over the
    phases of a spectrum that a waveform can have, pushed on by `momentum`.
    """
    length = spec.n_samples(np.shape(mel)[1])
    magnitude = mel_to_magnitude(np.pad(mel, ((0, 0), (0, 1)), mode="edge"), spec)  # centred frames: one more than M
    wanted = torch.from_numpy(magnitude)
    shape = {"n_fft": spec.n_fft, "hop_length": spec.hop_length, "win_length": spec.win_length,
             "window": torch.hann_window(spec.win_length)}
    turns = np.random.default_rng(seed).random(magnitude.shape, dtype=np.float32)
    phases = torch.polar(torch.ones_like(wanted), torch.from_numpy(turns) * (2 * torch.pi))
    consistent = torch.zeros_like(phases)
    for _ in range(n_iter):
        previous = consistent
        waveform = torch.istft(wanted * phases, **shape, length=length)
        consistent = torch.stft(waveform, **shape, pad_mode="constant", return_complex=True)
        pushed = consistent - momentum / (1 + momentum) * previous
        phases = pushed / (pushed.abs() + 1e-16)
    return torch.istft(wanted * phases, **shape, length=length).numpy()
