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


def discriminator_loss(score_fake: Tensor, score_real: Tensor) -> Tensor:
    """Scores in 0 .. 1 of a generated mel (detached by the caller) and of the true one -> scalar."""
    fake = F.binary_cross_entropy(score_fake, torch.zeros_like(score_fake))
    real = F.binary_cross_entropy(score_real, torch.ones_like(score_real))
    return 0.5 * (fake + real)


def reconstruction_loss(mel_pred: Tensor, mel_pre_postnet: Tensor, mel_target: Tensor,
                        config: LossConfig = LossConfig()) -> Tensor:
    """Both mels against the truth, unweighted -> scalar."""
    distance = F.mse_loss if config.reconstruction == "mse" else F.l1_loss
    return distance(mel_pred, mel_target) + distance(mel_pre_postnet, mel_target)


def spread_loss(spread: Tensor, fluctuation: Tensor) -> Tensor:
    """Negative log-likelihood of `fluctuation` under a Laplace distribution of scale `spread` -> scalar."""
    return (fluctuation.abs() / spread + spread.log()).mean()


def generator_loss(mel_pred: Tensor, mel_pre_postnet: Tensor, mel_target: Tensor, score_fake: Tensor | None = None,
                   config: LossConfig = LossConfig()) -> Tensor:
    """Weighted reconstruction, plus the wish to be taken for real when `score_fake` is given -> scalar."""
    loss = config.reconstruction_weight * reconstruction_loss(mel_pred, mel_pre_postnet, mel_target, config)
    if score_fake is not None and config.gan_weight:
        loss = loss + config.gan_weight * F.binary_cross_entropy(score_fake, torch.ones_like(score_fake))
    return loss
