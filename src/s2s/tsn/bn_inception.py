"""BN-Inception as the TSN authors converted it from Caffe (Ioffe and Szegedy 2015; Wang et al. 2016).

The flat names are the published state_dict. Caffe rounds pooled sizes up, hence `ceil_mode`; every convolution has a
bias although a batch norm follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Block(NamedTuple):
    """Output channels of an inception block's layers. `one` = 0: the block halves the picture and has no 1x1 path."""

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool_proj: int
    pool: str = "avg"


BLOCKS = {
    "3a": Block(64, 64, 64, 64, 96, 32),
    "3b": Block(64, 64, 96, 64, 96, 64),
    "3c": Block(0, 128, 160, 64, 96, 0),
    "4a": Block(224, 64, 96, 96, 128, 128),
    "4b": Block(192, 96, 128, 96, 128, 128),
    "4c": Block(160, 128, 160, 128, 160, 128),
    "4d": Block(96, 128, 192, 160, 192, 128),
    "4e": Block(0, 128, 192, 192, 256, 0),
    "5a": Block(352, 192, 320, 160, 224, 128),
    "5b": Block(352, 192, 320, 192, 224, 128, "max"),
}


class BNInception(nn.Module):
    """float32 (N, C, 224, 224) -> (N, 1024): the global pool. Other multiples of 32 work too."""

    feature_dim = 1024

    def __init__(self, in_channels: int = 3):
        super().__init__()
        self._conv("conv1_7x7_s2", in_channels, 64, 7, stride=2)
        self._conv("conv2_3x3_reduce", 64, 64, 1)
        self._conv("conv2_3x3", 64, 192, 3)
        wide = 192
        for name, block in BLOCKS.items():
            wide = self._inception(f"inception_{name}", wide, block)

    def _conv(self, name: str, wide_in: int, wide_out: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(wide_in, wide_out, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(wide_out))

    def _inception(self, name: str, wide_in: int, block: Block) -> int:
        """Registers a block's layers in the published order; returns its output channels."""
        stride = 1 if block.one else 2
        if block.one:
            self._conv(f"{name}_1x1", wide_in, block.one, 1)
        self._conv(f"{name}_3x3_reduce", wide_in, block.three_reduce, 1)
        self._conv(f"{name}_3x3", block.three_reduce, block.three, 3, stride)
        self._conv(f"{name}_double_3x3_reduce", wide_in, block.double_reduce, 1)
        self._conv(f"{name}_double_3x3_1", block.double_reduce, block.double, 3)
        self._conv(f"{name}_double_3x3_2", block.double, block.double, 3, stride)
        if block.pool_proj:
            self._conv(f"{name}_pool_proj", wide_in, block.pool_proj, 1)
        return block.one + block.three + block.double + (block.pool_proj or wide_in)

    def _apply_conv(self, name: str, x: Tensor) -> Tensor:
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)))

    def _apply_inception(self, name: str, x: Tensor, block: Block) -> Tensor:
        three = self._apply_conv(f"{name}_3x3", self._apply_conv(f"{name}_3x3_reduce", x))
        double = self._apply_conv(f"{name}_double_3x3_1", self._apply_conv(f"{name}_double_3x3_reduce", x))
        double = self._apply_conv(f"{name}_double_3x3_2", double)
        if not block.one:
            return torch.cat([three, double, F.max_pool2d(x, 3, stride=2, ceil_mode=True)], dim=1)
        pool = F.max_pool2d if block.pool == "max" else F.avg_pool2d
        pooled = self._apply_conv(f"{name}_pool_proj", pool(x, 3, stride=1, padding=1, ceil_mode=True))
        return torch.cat([self._apply_conv(f"{name}_1x1", x), three, double, pooled], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] % 32 or images.shape[3] % 32:  # else rounded-up pools and strided convolutions disagree
            raise ValueError(f"BN-Inception takes multiples of 32 pixels, not {tuple(images.shape[2:])}")
        x = F.max_pool2d(self._apply_conv("conv1_7x7_s2", images), 3, stride=2, ceil_mode=True)
        x = self._apply_conv("conv2_3x3", self._apply_conv("conv2_3x3_reduce", x))
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        for name, block in BLOCKS.items():
            x = self._apply_inception(f"inception_{name}", x, block)
        return x.mean(dim=(2, 3))  # the published 7x7 average pool, for any size


class FoldedBNInception(BNInception):
    """The same network for inference alone: batch norms folded into the convolutions, channels last, and on a CPU the
    ReLU within the product. Half of a CPU's peak where the plain form reaches a fifth; equal to rounding.

    `net` must be in eval mode. Later changes of its weights do not reach this copy.
    """

    def __init__(self, net: BNInception):
        nn.Module.__init__(self)
        for name, conv in net.named_children():
            if isinstance(conv, nn.Conv2d):
                self.add_module(name, fuse_conv_bn_eval(conv, getattr(net, f"{name}_bn")))
        self.to(memory_format=torch.channels_last).requires_grad_(False).eval()

    def _apply_conv(self, name: str, x: Tensor) -> Tensor:
        conv = getattr(self, name)
        if x.device.type == "cpu" and _CONV_RELU is not None:
            return _CONV_RELU(x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, 1, "relu", [], "")
        return F.relu_(conv(x))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.contiguous(memory_format=torch.channels_last))


# What torch's own compiler calls for a convolution with its ReLU on a CPU; builds without oneDNN lack it.
_CONV_RELU = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if torch.backends.mkldnn.is_available() else None
