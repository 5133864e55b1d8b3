"""REGNET's losses (reconstruction of both mels, plus the adversarial game)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F


class LossConfig(BaseModel):
    """Defaults are the published recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reconstruction: Literal["mse", "l1"] = "mse"
    reconstruction_weight: float = Field(10_000.0, ge=0)
    gan_weight: float = Field(1.0, ge=0, description="0: no adversarial game")
    attack_weight: float = Field(0.0, ge=0, description="so much more counts an error in the frames around an event")


def discriminator_loss(score_fake: Tensor, score_real: Tensor) -> Tensor:
    """Scores in 0 .. 1 of a generated mel (detached by the caller) and of the true one -> scalar."""
    fake = F.binary_cross_entropy(score_fake, torch.zeros_like(score_fake))
    real = F.binary_cross_entropy(score_real, torch.ones_like(score_real))
    return 0.5 * (fake + real)


def attack_frames(hits: Tensor) -> Tensor:
    """hits (B, M), above 0 in the mel frame of an event -> float (B, 1, M): 1 from 2 frames before to 4 after it.

    A tenth of the frames of a clip, and all that tells when something was hit and how hard.
    """
    return F.max_pool1d(F.pad((hits > 0).float(), (4, 2)), 7, 1)[:, None]


def reconstruction_loss(mel_pred: Tensor, mel_pre_postnet: Tensor, mel_target: Tensor,
                        config: LossConfig = LossConfig(), hits: Tensor | None = None) -> Tensor:
    """Both mels against the truth, unweighted -> scalar. hits: see `attack_frames`, for `config.attack_weight`."""
    distance = F.mse_loss if config.reconstruction == "mse" else F.l1_loss
    if not config.attack_weight or hits is None:
        return distance(mel_pred, mel_target) + distance(mel_pre_postnet, mel_target)
    weight = 1 + config.attack_weight * attack_frames(hits)
    return sum((weight * distance(mel, mel_target, reduction="none")).mean() for mel in (mel_pred, mel_pre_postnet))


def spread_loss(spread: Tensor, fluctuation: Tensor) -> Tensor:
    """Negative log-likelihood of `fluctuation` under a Laplace distribution of scale `spread` -> scalar."""
    return (fluctuation.abs() / spread + spread.log()).mean()


def generator_loss(mel_pred: Tensor, mel_pre_postnet: Tensor, mel_target: Tensor, score_fake: Tensor | None = None,
                   config: LossConfig = LossConfig(), hits: Tensor | None = None) -> Tensor:
    """Weighted reconstruction, plus the wish to be taken for real when `score_fake` is given -> scalar."""
    loss = config.reconstruction_weight * reconstruction_loss(mel_pred, mel_pre_postnet, mel_target, config, hits)
    if score_fake is not None and config.gan_weight:
        loss = loss + config.gan_weight * F.binary_cross_entropy(score_fake, torch.ones_like(score_fake))
    return loss
