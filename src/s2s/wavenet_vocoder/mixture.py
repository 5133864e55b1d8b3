"""Distributions of a sample: discretised logistic mixture (PixelCNN++, Salimans et al. 2017) and mu-law categorical.

Randomness comes from outside as uniform numbers in (0, 1), so that every sampler and engine draws the same samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2s.wavenet_vocoder.config import WaveNetConfig

UNIFORM_MARGIN = 1e-5  # published: u in 1e-5 .. 1 - 1e-5, so a logistic reaches 11.5 scales at most


def draw_noise(seed: int, start: int, n: int, config: WaveNetConfig) -> np.ndarray:
    """float32 (n, noise_width), uniform in 1e-5 .. 1 - 1e-5, for the samples start .. start + n - 1 of a clip.

    A pure function of the seed and the absolute sample position (counter-based Philox, Salmon et al. 2011): windows of
    a clip draw the same numbers wherever they are cut.
    """
    blocks = -(-config.noise_width // 4)  # Philox gives four 64-bit numbers a count
    raw = np.random.Philox(counter=start * blocks, key=seed).random_raw(n * blocks * 4)
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    uniform = UNIFORM_MARGIN + (1 - 2 * UNIFORM_MARGIN) * uniform.reshape(n, blocks * 4)[:, : config.noise_width]
    return uniform.astype(np.float32)


def sample_value(params: Tensor, noise: Tensor, config: WaveNetConfig) -> Tensor:
    """Distribution parameters (B, out_channels) and uniforms (B, noise_width) -> the next sample (B,), -1 .. 1."""
    if config.distribution == "categorical":
        return decode_mu_law(gumbel_argmax(params, noise), config.out_channels)
    logits, means, log_scales = params.chunk(3, dim=1)
    chosen = gumbel_argmax(logits, noise[:, :-1]).unsqueeze(1)
    mean = means.gather(1, chosen).squeeze(1)
    log_scale = log_scales.gather(1, chosen).squeeze(1).clamp_min(config.log_scale_min)
    u = noise[:, -1]
    return (mean + torch.exp(log_scale) * (torch.log(u) - torch.log(1 - u))).clamp(-1, 1)


def gumbel_argmax(logits: Tensor, uniform: Tensor) -> Tensor:
    """A draw from softmax(logits) along the last dimension -> int64 indices."""
    return (logits - torch.log(-torch.log(uniform))).argmax(dim=-1)


def negative_log_likelihood(params: Tensor, waveform: Tensor, config: WaveNetConfig) -> Tensor:
    """Parameters (B, out_channels, N) and the samples that they tell of (B, N) -> nats a sample, scalar."""
    if config.distribution == "categorical":
        return F.cross_entropy(params, encode_mu_law(waveform, config.out_channels))
    return -mixture_log_prob(params, waveform, config.quantize_levels, config.log_scale_min).mean()


def teacher_inputs(waveform: Tensor, config: WaveNetConfig) -> Tensor:
    """Waveform (B, N) -> what the net hears before it makes each sample, (B, in_channels, N): silence, then the
    sample before, as a number or as a one-hot level."""
    before = F.pad(waveform, (1, 0))[:, :-1]
    if config.scalar_input:
        return before[:, None]
    levels = encode_mu_law(before, config.out_channels)
    return F.one_hot(levels, config.out_channels).float().transpose(1, 2)


def mixture_log_prob(params: Tensor, target: Tensor, levels: int, log_scale_min: float) -> Tensor:
    """Log probability of the level that holds `target`: params (B, 3K, N), target (B, N) in -1 .. 1 -> (B, N)."""
    logits, means, log_scales = params.chunk(3, dim=1)
    log_scales = log_scales.clamp_min(log_scale_min)
    half_level = 1 / (levels - 1)
    centred = target.unsqueeze(1) - means
    inverse_scale = torch.exp(-log_scales)
    above, below = inverse_scale * (centred + half_level), inverse_scale * (centred - half_level)
    inside = torch.sigmoid(above) - torch.sigmoid(below)
    middle = inverse_scale * centred
    # where the level's share is too small to subtract, density times width is exact enough
    density = middle - log_scales - 2 * F.softplus(middle) + math.log(2 * half_level)
    log_probs = torch.where(inside > 1e-5, torch.log(inside.clamp_min(1e-12)), density)
    at_bottom, at_top = target.unsqueeze(1) < -0.999, target.unsqueeze(1) > 0.999
    log_probs = torch.where(at_bottom, F.logsigmoid(above), torch.where(at_top, F.logsigmoid(-below), log_probs))
    return torch.logsumexp(log_probs + F.log_softmax(logits, dim=1), dim=1)


def encode_mu_law(waveform: Tensor, levels: int) -> Tensor:
    """-1 .. 1 -> int64 level 0 .. levels - 1 (ITU-T G.711's curve with mu = levels - 1)."""
    mu = levels - 1
    companded = waveform.sign() * torch.log1p(mu * waveform.abs()) / math.log1p(mu)
    return ((companded.clamp(-1, 1) + 1) / 2 * mu).round().long()


def decode_mu_law(level: Tensor, levels: int) -> Tensor:
    """The inverse of `encode_mu_law`: level -> float32 -1 .. 1."""
    mu = levels - 1
    companded = 2 * level.float() / mu - 1
    return companded.sign() * torch.expm1(companded.abs() * math.log1p(mu)) / mu
