"""REGNET's discriminator: does this mel belong to these visual features?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2s.regnet.config import RegNetConfig
from s2s.regnet.generator import init_weights, with_condition


class Discriminator(nn.Module):
    """Scores short stretches of the mel (34 frames each). Names inside are the published state_dict."""

    def __init__(self, config: RegNetConfig = RegNetConfig()):
        super().__init__()
        self.config = config
        wide, join = config.disc_feature_dim, config.disc_join_dim
        first, second, third = config.disc_down_dims
        self.feature_conv = nn.Sequential(
            nn.ConvTranspose1d(config.visual_dim + config.condition_dim, wide, 4, stride=2, padding=1),
            nn.BatchNorm1d(wide), nn.LeakyReLU(0.2),
            nn.ConvTranspose1d(wide, join, 4, stride=2, padding=1),
        )
        self.mel_conv = nn.ConvTranspose1d(config.n_mels, join, 1)
        self.down_sampling = nn.Sequential(
            nn.Conv1d(2 * join, first, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv1d(first, second, 4, stride=2, padding=1), nn.BatchNorm1d(second), nn.LeakyReLU(0.2),
            nn.Conv1d(second, third, 4, padding=1), nn.BatchNorm1d(third), nn.LeakyReLU(0.2),
            nn.Conv1d(third, 1, 4, padding=1),
        )
        init_weights(self)

    def forward(self, visual: Tensor, mel: Tensor, condition: Tensor | None = None) -> Tensor:
        """visual (B, T, visual_dim), mel (B, n_mels, 4T), condition (B, T, condition_dim) -> 0 .. 1 (B, 1, T - 2)."""
        if self.config.condition_dim:
            visual = torch.cat([visual, with_condition(condition, self.config)], dim=2)
        seen = self.feature_conv(visual.transpose(1, 2))
        return torch.sigmoid(self.down_sampling(torch.cat([seen, self.mel_conv(mel)], dim=1)))
