"""REGNET's losses, against the published formulas written out."""

from __future__ import annotations

import math

import pytest
import torch

from s2s.regnet import Discriminator, Generator, RegNetConfig
from s2s.regnet.losses import LossConfig, attack_frames, discriminator_loss, generator_loss, reconstruction_loss

TINY = RegNetConfig(visual_dim=6, z_dim=2, n_mels=8, encoder_channels=12, lstm_dim=6, encoder_dim=8, aux_dim=2,
                    decoder_dim=8, postnet_dim=8, postnet_layers=2, dropout=0.0, disc_feature_dim=8, disc_join_dim=4,
                    disc_down_dims=(4, 8, 8))


def test_a_discriminator_that_cannot_tell_pays_ln_2():
    half = torch.full((2, 1, 5), 0.5)
    assert float(discriminator_loss(half, half)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(torch.zeros(1), torch.ones(1))) == 0
    assert float(discriminator_loss(torch.ones(1), torch.zeros(1))) == pytest.approx(100)  # torch caps the logarithm


def test_both_mels_are_compared_with_the_truth():
    truth = torch.zeros(1, 8, 4)
    assert float(reconstruction_loss(truth + 2, truth + 1, truth)) == pytest.approx(4 + 1)
    assert float(reconstruction_loss(truth + 2, truth - 1, truth, LossConfig(reconstruction="l1"))) == pytest.approx(3)


def test_the_generator_pays_for_errors_and_for_being_caught():
    truth, score = torch.zeros(1, 8, 4), torch.full((1, 1, 2), 0.25)
    assert float(generator_loss(truth + 0.01, truth, truth)) == pytest.approx(1.0)  # 10,000 * 0.01^2
    assert float(generator_loss(truth, truth, truth, score)) == pytest.approx(math.log(4))
    assert float(generator_loss(truth, truth, truth, score, LossConfig(gan_weight=0))) == 0


def test_the_adversarial_game_trains_both_networks():
    torch.manual_seed(0)
    generator, discriminator = Generator(TINY), Discriminator(TINY)
    visual, mel, z = torch.randn(4, 6, 6), torch.rand(4, 8, 24), torch.randn(4, 2)
    g_steps = torch.optim.Adam(generator.parameters(), 2e-3, betas=(0.5, 0.999))
    d_steps = torch.optim.Adam(discriminator.parameters(), 2e-3, betas=(0.5, 0.999))
    losses = []
    for _ in range(40):
        mel_pred, mel_pre_postnet = generator(visual, mel, z)
        d_loss = discriminator_loss(discriminator(visual, mel_pred.detach()), discriminator(visual, mel))
        d_steps.zero_grad()
        d_loss.backward()
        d_steps.step()
        g_loss = generator_loss(mel_pred, mel_pre_postnet, mel, discriminator(visual, mel_pred))
        g_steps.zero_grad()
        g_loss.backward()
        g_steps.step()
        losses.append(float(g_loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_an_error_around_an_event_counts_more():
    truth, hits = torch.zeros(1, 8, 20), torch.zeros(1, 20)
    hits[0, 8] = 0.7
    frames = attack_frames(hits)[0, 0].nonzero().flatten().tolist()
    assert frames == list(range(6, 13))
    config = LossConfig(reconstruction="l1", attack_weight=3)
    near, far = truth.clone(), truth.clone()
    near[..., 9], far[..., 15] = 1, 1
    losses = [float(reconstruction_loss(mel, mel, truth, config, hits)) for mel in (near, far)]
    assert losses[0] == pytest.approx(4 * losses[1])
    assert float(reconstruction_loss(far, far, truth, config)) == pytest.approx(losses[1]), "no events told: plain L1"
