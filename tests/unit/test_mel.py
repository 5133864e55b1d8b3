"""The one mel of the project, and the way back to a waveform. Published numbers: tests/golden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2s.errors import ProcessingError
from s2s.mel import (
    MelTransform,
    amplitude_to_mel,
    griffin_lim,
    mel_filterbank,
    mel_spectrogram,
    mel_to_amplitude,
    mel_to_magnitude,
)
from s2s.spec import MelSpec


def knocks(seed: int = 0, duration_s: float = 2.0) -> np.ndarray:
    """A few decaying knocks over a noise floor, float64 (N,)."""
    rng = np.random.default_rng(seed)
    waveform = 1e-3 * rng.standard_normal(round(22_050 * duration_s))
    n = np.arange(8000)
    for start in range(3000, len(waveform) - 8000, 9000):
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * n / 22_050)
        waveform[start:start + 8000] += np.exp(-n / 2000) * (tone + 0.1 * rng.standard_normal(8000))
    return waveform


def test_mel_has_one_frame_a_hop_and_stays_between_0_and_1():
    mel = mel_spectrogram(knocks())
    assert mel.dtype == np.float32
    assert mel.shape == (80, 1 + 44_100 // 256)
    assert mel.min() >= 0
    assert 0.5 < mel.max() <= 1


def test_a_mel_frame_is_centred_on_its_sample():
    click = np.zeros(22_050)
    click[40 * 256] = 1
    level = mel_spectrogram(click).sum(axis=0)
    assert level.argmax() == 40
    assert level[39] == pytest.approx(level[41], rel=1e-3)


@pytest.mark.parametrize("n", [2, 300, 513, 1024])
def test_a_clip_shorter_than_the_window_has_a_mel(n):
    assert mel_spectrogram(0.1 * np.ones(n)).shape == (80, 1 + n // 256)


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 100)])
def test_what_is_no_waveform_is_refused(shape):
    with pytest.raises(ProcessingError, match="mono waveform"):
        mel_spectrogram(np.zeros(shape))


def test_batched_mel_is_the_same_mel():
    waveforms = np.stack([knocks(0), knocks(1), np.zeros(44_100)])
    batched = MelTransform()(torch.from_numpy(waveforms).float()).numpy()
    assert np.abs(batched - np.stack([mel_spectrogram(w) for w in waveforms])).max() < 1e-4
    assert not MelTransform().state_dict()


def test_batched_mel_lets_gradients_through_even_for_silence():
    waveform = torch.from_numpy(np.stack([knocks(), np.zeros(44_100)])).float().requires_grad_()
    MelTransform()(waveform).sum().backward()
    assert waveform.grad.isfinite().all()
    assert waveform.grad[0].abs().max() > 0


def test_mel_to_amplitude_undoes_the_decibels():
    amplitude = np.array([1e-4, 1e-3, 0.5, 1.0, 9.0])
    assert np.allclose(mel_to_amplitude(amplitude_to_mel(amplitude)), amplitude, rtol=1e-4)


def test_the_spectrum_found_for_a_mel_has_that_mel():
    mel = mel_spectrogram(knocks())
    magnitude = mel_to_magnitude(mel)
    assert magnitude.shape == (513, mel.shape[1])
    assert (magnitude >= 0).all()
    assert np.abs(amplitude_to_mel(mel_filterbank() @ magnitude) - mel).mean() < 0.002  # 0.2 dB


def test_griffin_lim_sounds_like_its_mel():
    mel = mel_spectrogram(knocks())[:, :172]
    waveform = griffin_lim(mel)
    assert waveform.dtype == np.float32
    assert waveform.shape == (172 * 256,)
    error_db = 100 * np.abs(mel_spectrogram(waveform)[:, :172] - mel).mean()
    assert error_db < 2
    assert error_db < 100 * np.abs(mel_spectrogram(griffin_lim(mel, n_iter=0))[:, :172] - mel).mean() / 2


def test_griffin_lim_depends_on_mel_and_seed_alone():
    mel = mel_spectrogram(knocks())[:, :60]
    first = griffin_lim(mel, n_iter=4, seed=5)
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(griffin_lim(mel, n_iter=4, seed=5), first)
    assert not np.array_equal(griffin_lim(mel, n_iter=4, seed=6), first)


def test_griffin_lim_of_silence_is_silence():
    assert np.abs(griffin_lim(np.zeros((80, 20), np.float32), n_iter=4)).max() == 0


def test_another_spec_is_obeyed():
    spec = MelSpec(sample_rate=16_000, n_fft=512, win_length=512, hop_length=128, n_mels=40, fmax=8000)
    mel = mel_spectrogram(knocks()[:12_800], spec)
    assert mel.shape == (40, 101)
    assert griffin_lim(mel, spec, n_iter=2).shape == (101 * 128,)
