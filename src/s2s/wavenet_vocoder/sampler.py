"""The straightforward sampler: one Python step a sample. The reference for, and the stand-in of, the fast engine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from s2s.wavenet_vocoder.mixture import encode_mu_law, sample_value
from s2s.wavenet_vocoder.wavenet import SQRT_HALF, WaveNet, fused_weights


class _Layer(NamedTuple):
    """A layer's weights as matrices, and its past inputs."""

    taps: Tensor  # (kernel * residual, gate), oldest tap first
    out: tuple[Tensor, Tensor]  # weight (gate / 2, residual), bias
    skip: tuple[Tensor, Tensor]
    dilation: int
    ring: Tensor  # (slots, B, residual): the input of time t lies in slot t modulo slots


class Sampler:
    """Generates B clips side by side, mel by mel: state is kept between calls, so that a clip may come in pieces.

    Weight norm is fused when it is made; `net` must not change afterwards.
    """

    def __init__(self, net: WaveNet, batch: int = 1):
        self.net, self.config = net, net.config
        device = net.first_conv.bias.device
        w = {name: torch.from_numpy(array).to(device) for name, array in fused_weights(net).items()}

        def linear(name: str) -> tuple[Tensor, Tensor]:
            return w[f"{name}.weight"].squeeze(2).T.contiguous(), w[f"{name}.bias"]

        self._first = linear("first_conv")
        self._last = [linear("last_conv_layers.1"), linear("last_conv_layers.3")]
        self._layers = [
            _Layer(
                taps=w[f"conv_layers.{i}.conv.weight"].permute(2, 1, 0).flatten(0, 1).contiguous(),
                out=linear(f"conv_layers.{i}.conv1x1_out"),
                skip=linear(f"conv_layers.{i}.conv1x1_skip"),
                dilation=dilation,
                ring=torch.zeros(
                    (self.config.kernel_size - 1) * dilation + 1, batch, self.config.residual_channels, device=device
                ),
            )
            for i, dilation in enumerate(self.config.dilations)
        ]
        self._gate_bias = torch.stack([w[f"conv_layers.{i}.conv.bias"] for i in range(self.config.layers)])
        self._time = 0
        self._previous = torch.zeros(batch, device=device)  # the sample fed back; a clip starts from 0.0

    @torch.inference_mode()
    def generate(self, mel: Tensor, noise: Tensor) -> Tensor:
        """mel (B, cin, M), noise uniform (B, M * hop_length, noise_width), see `draw_noise`
        -> float32 (B, M * hop_length), the samples after those of the calls before."""
        hop = self.config.hop_length
        samples = torch.empty(mel.shape[0], mel.shape[2] * hop, device=mel.device)
        for frame in range(mel.shape[2]):  # conditions of one frame at a time: a clip's would take gigabytes
            conditions = self._conditions(mel[..., frame : frame + 1])
            for step in range(hop):
                params = self._step(self._as_input(self._previous), conditions[step])
                self._previous = sample_value(params, noise[:, frame * hop + step], self.config)
                samples[:, frame * hop + step] = self._previous
        return samples

    @torch.inference_mode()
    def teacher_forced(self, inputs: Tensor, mel: Tensor) -> Tensor:
        """As `WaveNet.forward`, step by step: inputs (B, in_channels, N), mel (B, cin, M) -> (B, out_channels, N)."""
        hop, params = self.config.hop_length, []
        for t in range(inputs.shape[2]):
            if t % hop == 0:
                conditions = self._conditions(mel[..., t // hop : t // hop + 1])
            params.append(self._step(inputs[..., t], conditions[t % hop]))
        return torch.stack(params, dim=2)

    def _as_input(self, sample: Tensor) -> Tensor:
        if self.config.scalar_input:
            return sample.unsqueeze(1)
        return F.one_hot(encode_mu_law(sample, self.config.out_channels), self.config.out_channels).float()

    def _conditions(self, mel: Tensor) -> Tensor:
        """One mel frame (B, cin, 1) -> what it and the biases add to the gates, (hop_length, layers, B, gate)."""
        upsampled = self.net.upsample(mel)
        gates = torch.stack([self.net.gate_condition(layer, mel, upsampled) for layer in self.net.conv_layers])
        return (gates + self._gate_bias[:, None, :, None]).permute(3, 0, 1, 2).contiguous()

    def _step(self, x: Tensor, conditions: Tensor) -> Tensor:
        """Input (B, in_channels) and conditions (layers, B, gate) of now -> parameters of the next sample (B, out)."""
        x = torch.addmm(self._first[1], x, self._first[0])
        skips: Tensor | None = None
        for layer, condition in zip(self._layers, conditions, strict=True):
            slots = len(layer.ring)
            layer.ring[self._time % slots] = x
            past = [
                layer.ring[(self._time - back * layer.dilation) % slots]
                for back in range(self.config.kernel_size - 1, -1, -1)
            ]
            a, b = torch.addmm(condition, torch.cat(past, dim=1), layer.taps).chunk(2, dim=1)
            h = torch.tanh(a) * torch.sigmoid(b)
            skip = torch.addmm(layer.skip[1], h, layer.skip[0])
            skips = skip if skips is None else (skips + skip) * SQRT_HALF
            x = (torch.addmm(layer.out[1], h, layer.out[0]) + x) * SQRT_HALF
        self._time += 1
        for weight, bias in self._last:
            skips = torch.addmm(bias, torch.relu(skips), weight)
        return skips
