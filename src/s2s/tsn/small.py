"""A narrow stand-in for BN-Inception that one CPU core trains in minutes (some 250 k parameters)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _conv(wide_in: int, wide_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide_in, wide_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(wide_out),
        nn.ReLU(inplace=True),
    )


class SmallCnn(nn.Module):
    """float32 (N, C, H, W) -> (N, 2 * widths[-1]): average pool, then max pool. Any size from 16 px on.

    The maximum keeps a small moving thing visible that the average would dilute: timing lives there.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int] = (24, 48, 96)):
        super().__init__()
        first, second, third = widths
        self.feature_dim = 2 * third
        self.body = nn.Sequential(
            _conv(in_channels, first, 5, stride=2),
            _conv(first, second, stride=2),
            _conv(second, second),
            _conv(second, third, stride=2),
            _conv(third, third),
            _conv(third, third),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images.contiguous(memory_format=torch.channels_last))  # 1.5 times as fast on a CPU
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
