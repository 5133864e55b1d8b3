"""The autoregressive WaveNet that r9y9 published and REGNET used: mel -> distribution of the next sample.

Names inside the modules, weight norm's `weight_g` and `weight_v` among them, are the published state_dict.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2s.wavenet_vocoder.config import Int8, WaveNetConfig

SQRT_HALF = math.sqrt(0.5)


class WeightNormed(nn.Module):
    """Parameters of a weight-normalised layer (Salimans and Kingma 2016): weight = g * v / |v|, one g a row of dim 0.

    torch's own parametrisation names its tensors otherwise; these names are the file format.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.bias = nn.Parameter(bias)
        self.weight_g = nn.Parameter(self._norm(weight))
        self.weight_v = nn.Parameter(weight)

    @staticmethod
    def _norm(weight: Tensor) -> Tensor:
        return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))

    @property
    def weight(self) -> Tensor:
        return self.weight_v * (self.weight_g / self._norm(self.weight_v))


class Conv1d(WeightNormed):
    """Causal: (B, in, T) -> (B, out, T), looking (kernel - 1) * dilation samples back."""

    def __init__(self, wide_in: int, wide_out: int, kernel: int = 1, dilation: int = 1):
        weight = nn.init.kaiming_normal_(torch.empty(wide_out, wide_in, kernel), nonlinearity="relu")
        super().__init__(weight, torch.zeros(wide_out))
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        reach = (self.weight_v.shape[2] - 1) * self.dilation
        return F.conv1d(F.pad(x, (reach, 0)) if reach else x, self.weight, self.bias, dilation=self.dilation)


class UpsampleConv(WeightNormed):
    """(B, 1, F, T) -> (B, 1, F, scale * T). Kernel = stride in time, so frames do not mix; in frequency it smooths."""

    def __init__(self, freq_kernel: int, scale: int):
        super().__init__(torch.full((1, 1, freq_kernel, scale), 1 / freq_kernel), torch.zeros(1))
        self.stride, self.padding = (1, scale), (freq_kernel // 2, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class ResidualLayer(nn.Module):
    """One dilated, gated, conditioned layer: (x, conditions) -> (next x, skip)."""

    def __init__(self, config: WaveNetConfig, dilation: int):
        super().__init__()
        half = config.gate_channels // 2
        self.conv = Conv1d(config.residual_channels, config.gate_channels, config.kernel_size, dilation)
        self.conv1x1c = Conv1d(config.cin_channels, config.gate_channels)
        self.conv1x1_out = Conv1d(half, config.residual_channels)
        self.conv1x1_skip = Conv1d(half, config.skip_channels)
        self.dropout = config.dropout

    def forward(self, x: Tensor, gate_condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, residual, T), gate_condition (B, gate, T) = conv1x1c of the mel."""
        gate = self.conv(F.dropout(x, self.dropout, self.training)) + gate_condition
        a, b = gate.chunk(2, dim=1)
        h = torch.tanh(a) * torch.sigmoid(b)
        return (self.conv1x1_out(h) + x) * SQRT_HALF, self.conv1x1_skip(h)


class WaveNet(nn.Module):
    """`forward` is training (teacher forced); `s2s.wavenet_vocoder.sampler` and the engine generate."""

    def __init__(self, config: WaveNetConfig = WaveNetConfig()):
        super().__init__()
        self.config = config
        self.int8: Int8 | None = None  # of these weights; a bundle carries it
        self.first_conv = Conv1d(config.in_channels, config.residual_channels)
        self.conv_layers = nn.ModuleList(ResidualLayer(config, dilation) for dilation in config.dilations)
        self.last_conv_layers = nn.Sequential(
            nn.ReLU(),
            Conv1d(config.skip_channels, config.skip_channels),
            nn.ReLU(),
            Conv1d(config.skip_channels, config.out_channels),
        )
        if config.conditioning == "learned":
            self.upsample_conv = nn.Sequential(
                *(
                    layer
                    for scale in config.upsample_scales
                    for layer in (UpsampleConv(config.freq_axis_kernel_size, scale), nn.ReLU())
                )
            )

    def upsample(self, mel: Tensor) -> Tensor:
        """(B, cin, M) -> (B, cin, M * hop_length)."""
        if self.config.conditioning == "learned":
            return self.upsample_conv(mel.unsqueeze(1)).squeeze(1)
        return mel.repeat_interleave(self.config.hop_length, dim=2)

    def gate_condition(self, layer: ResidualLayer, mel: Tensor, upsampled: Tensor) -> Tensor:
        """What the mel adds to a layer's gates, (B, gate, M * hop_length). Held frames need one product a frame."""
        if self.config.conditioning == "learned":
            return layer.conv1x1c(upsampled)
        return layer.conv1x1c(mel).repeat_interleave(self.config.hop_length, dim=2)

    def forward(self, inputs: Tensor, mel: Tensor) -> Tensor:
        """inputs (B, in_channels, N), waveform in -1 .. 1 or one-hot levels; mel (B, cin, M), N <= M * hop_length
        -> distribution parameters (B, out_channels, N); those at t tell of sample t + 1."""
        n_samples = inputs.shape[2]
        upsampled = self.upsample(mel) if self.config.conditioning == "learned" else mel
        x = self.first_conv(inputs)
        skips: Tensor | None = None
        for layer in self.conv_layers:
            x, skip = layer(x, self.gate_condition(layer, mel, upsampled)[..., :n_samples])
            # scaled after every addition, so early layers count less: published weights rely on it
            skips = skip if skips is None else (skips + skip) * SQRT_HALF
        return self.last_conv_layers(skips)


def fused_weights(net: WaveNet) -> dict[str, np.ndarray]:
    """float32 arrays under the published names with `weight` for weight norm's pair, e.g. `conv_layers.3.conv.weight`
    (out, in, kernel; the last tap is the newest sample) and `conv_layers.3.conv.bias`. Nothing else is folded."""
    weights = {}
    for name, layer in net.named_modules():
        if isinstance(layer, WeightNormed):
            weights[f"{name}.weight"] = layer.weight.detach().float().cpu().contiguous().numpy()
            weights[f"{name}.bias"] = layer.bias.detach().float().cpu().contiguous().numpy()
    return weights
