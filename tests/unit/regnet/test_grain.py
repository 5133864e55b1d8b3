"""Noise keeps its grain: what is drawn fluctuates as noise does in a mel spectrogram."""

import numpy as np
import pytest
import torch

from s2s.mel import mel_spectrogram
from s2s.regnet import Generator, RegNetConfig
from s2s.regnet.grain import OverlappingNoise, grain, grain_step, of_noise
from s2s.regnet.losses import spread_loss
from s2s.spec import MelSpec


def test_it_is_of_median_0_and_mean_1_in_every_bin_and_skewed_as_noise_is():
    drawn = grain(4000, np.random.default_rng(3))
    assert drawn.shape == (80, 4000)
    assert drawn.dtype == np.float32
    assert np.abs(np.median(drawn, axis=1)).max() < 0.15
    assert np.abs(drawn).mean(axis=1) == pytest.approx(1, abs=0.1)
    deepest, highest = np.quantile(drawn[:10], (0.01, 0.99))
    assert -deepest > 1.2 * highest, "low bins fall further than they rise: the logarithm of power"


def test_windows_that_overlap_share_their_grain():
    """Else it would average out where they cross-fade."""
    noise = OverlappingNoise(np.random.default_rng(4), 20, MelSpec())
    first, second, third = (grain(n, noise) for n in (100, 60, 21))
    assert np.allclose(first[:, -20:], second[:, :20], atol=1e-4)
    assert np.allclose(second[:, -20:], third[:, :20], atol=1e-4)
    assert np.array_equal(first, grain(100, np.random.default_rng(4)))
    assert np.abs(second[:, 20:40] - first[:, 20:40]).mean() > 0.5


def test_it_hangs_together_in_time_like_noise_does():
    noise = mel_spectrogram(0.1 * np.random.default_rng(5).standard_normal(22_050 * 20).astype(np.float32))
    drawn = grain(noise.shape[1], np.random.default_rng(6))

    def neighbours(mel: np.ndarray) -> float:
        mel = mel - mel.mean(axis=1, keepdims=True)
        return float((mel[:, 1:] * mel[:, :-1]).mean() / (mel**2).mean())

    assert neighbours(drawn) == pytest.approx(neighbours(noise), abs=0.05)
    assert grain_step() == pytest.approx(np.abs(np.diff(drawn, axis=1)).mean(axis=1), rel=0.1)


def test_the_same_rng_draws_the_same_and_another_another():
    same = [grain(50, np.random.default_rng(1)) for _ in range(2)]
    assert np.array_equal(*same)
    assert not np.array_equal(same[0], grain(50, np.random.default_rng(2)))


def test_the_loss_is_least_at_the_true_scale():
    straying = torch.from_numpy(np.random.default_rng(0).laplace(scale=0.03, size=20_000))
    scales = torch.tensor([0.01, 0.02, 0.03, 0.045, 0.09], dtype=torch.float64)
    losses = [float(spread_loss(scale, straying)) for scale in scales]
    assert losses.index(min(losses)) == 2


def test_a_new_net_says_what_noise_usually_does():
    config = RegNetConfig(visual_dim=4, z_dim=4, condition_dim=4 * 2 + 3, event_curves=2, timbre_dim=8, grain=True,
                          encoder_channels=8, lstm_dim=4, encoder_dim=8, decoder_dim=8, postnet_dim=8)
    spread = Generator(config).spread(torch.randn(2, 4), torch.randn(2, 9, 11))
    assert spread.shape == (2, 80, 36)
    assert torch.allclose(spread, torch.from_numpy(of_noise()[1]).float().expand_as(spread))


def test_nothing_fluctuates_more_than_noise_whatever_was_learned():
    config = RegNetConfig(visual_dim=4, z_dim=4, condition_dim=4 * 2 + 3, event_curves=2, timbre_dim=8, grain=True,
                          encoder_channels=8, lstm_dim=4, encoder_dim=8, decoder_dim=8, postnet_dim=8)
    net = Generator(config)
    torch.nn.init.normal_(net.timbre.grain.weight, std=9)
    spread = net.spread(torch.randn(2, 4), torch.randn(2, 9, 11))
    assert float(spread.std()) > 0.001
    assert bool((spread <= torch.from_numpy(of_noise()[1]).float() * 1.0001).all())
