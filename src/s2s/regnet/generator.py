"""REGNET's generator: visual features -> mel (Chen et al. 2020, "Generating Visually Aligned Sound from Videos").

Names inside the modules are the published state_dict and stay as they are. Four mel frames belong to a feature frame.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2s.regnet.config import RegNetConfig
from s2s.regnet.grain import OverlappingNoise, grain, of_noise
from s2s.spec import MelSpec

MEL_PER_FRAME = 4  # two transposed convolutions of stride 2


def init_weights(module: nn.Module) -> None:
    """Published: convolutions and linears N(0, 0.02) with zero bias; LSTM and batch norm as torch has them."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class ConvNorm(nn.Module):
    """A 'same' convolution; only here because the published keys say `.conv`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Encoder(nn.Module):
    """(B, T, visual + z + condition) -> (B, T, encoder_dim)."""

    def __init__(self, config: RegNetConfig):
        super().__init__()
        widths = [config.visual_dim + config.z_dim + config.condition_dim]
        widths += [config.encoder_channels] * config.encoder_layers
        self.convolutions = nn.ModuleList(
            nn.Sequential(ConvNorm(wide_in, wide_out, config.encoder_kernel), nn.BatchNorm1d(wide_out))
            for wide_in, wide_out in pairwise(widths)
        )
        self.BiLSTM = nn.LSTM(widths[-1], config.lstm_dim, config.lstm_layers, batch_first=True, bidirectional=True)
        self.BiLSTM_proj = nn.Linear(2 * config.lstm_dim, config.encoder_dim)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for convolution in self.convolutions:
            x = F.dropout(F.relu(convolution(x)), self.dropout, self.training)
        x, _ = self.BiLSTM(x.transpose(1, 2))
        return self.BiLSTM_proj(x)


class AuxiliaryLast(nn.Module):
    """(B, n_mels, 4T) -> (B, T, aux_dim): one vector of the whole mel, the backward direction's last state."""

    def __init__(self, config: RegNetConfig):
        super().__init__()
        self.BiLSTM = nn.LSTM(config.n_mels, config.aux_dim, 2, batch_first=True, bidirectional=True)
        self.BiLSTM_proj = nn.Linear(config.aux_dim, config.aux_dim)

    def forward(self, mel: Tensor) -> Tensor:
        _, (hidden, _) = self.BiLSTM(mel.transpose(1, 2))
        return self.BiLSTM_proj(hidden[-1]).unsqueeze(1).expand(-1, mel.shape[2] // MEL_PER_FRAME, -1)


class AuxiliarySample(nn.Module):
    """(B, n_mels, 4T) -> (B, T, aux_dim): states sampled every 32 mel frames. The published code tiles them in time."""

    STEP = 32

    def __init__(self, config: RegNetConfig):
        super().__init__()
        self.BiLSTM = nn.LSTM(config.n_mels, config.aux_dim // 2, 2, batch_first=True, bidirectional=True)

    def forward(self, mel: Tensor) -> Tensor:
        states, _ = self.BiLSTM(mel.transpose(1, 2))
        ahead, back = states.chunk(2, dim=2)
        samples = torch.cat([ahead[:, 0::self.STEP], back[:, 1::self.STEP]], dim=2)
        return samples.repeat(1, self.STEP // MEL_PER_FRAME, 1)[:, :mel.shape[2] // MEL_PER_FRAME]


class AuxiliaryConv(nn.Module):
    """(B, n_mels, 4T) -> (B, T, aux_dim) by two strided convolutions."""

    def __init__(self, config: RegNetConfig):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv1d(config.n_mels, 32, 3, stride=2, padding=1), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Conv1d(32, config.aux_dim, 3, stride=2, padding=1), nn.BatchNorm1d(config.aux_dim), nn.ReLU(),
        )

    def forward(self, mel: Tensor) -> Tensor:
        return self.model(mel).transpose(1, 2)


AUXILIARY = {"lstm_last": AuxiliaryLast, "lstm_sample": AuxiliarySample, "conv": AuxiliaryConv}


class Decoder(nn.Module):
    """(B, T, encoder + aux + condition) -> (B, n_mels, 4T)."""

    def __init__(self, config: RegNetConfig):
        super().__init__()
        wide_in = config.encoder_dim + config.aux_dim + config.condition_dim
        wide, n_mels = config.decoder_dim, config.n_mels
        self.model = nn.Sequential(
            nn.ConvTranspose1d(wide_in, wide, 4, stride=2, padding=1),
            nn.BatchNorm1d(wide), nn.ReLU(),
            nn.Conv1d(wide, wide, 5, padding=2), nn.BatchNorm1d(wide), nn.ReLU(),
            nn.ConvTranspose1d(wide, n_mels, 4, stride=2, padding=1), nn.BatchNorm1d(n_mels), nn.ReLU(),
            nn.Conv1d(n_mels, n_mels, 5, padding=2),
        )

    def forward(self, x: Tensor, film: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """film: scale and shift (B, decoder_dim, 1) of the channels in the middle, one instrument's each."""
        x = x.transpose(1, 2)
        if film is None:
            return self.model(x)
        scale, shift = film
        return self.model[6:](self.model[:6](x) * (1 + scale) + shift)


class Timbre(nn.Module):
    """What a take leaves in each mel bin after an event: the partials, drawn before the convolutions add the rest.

    A mode that rings decays exponentially, a straight line in log-mel; the event curves of `s2s.conditioning` are such
    lines at several speeds. So a take is a weight of each curve for each bin, and the same weights hold wherever its
    events are. Convolutions alone, trained with L1, settle for the spectrum that all takes of a kind have in common.
    The decoder's channels are scaled and shifted by the take (feature-wise modulation: Perez et al. 2018, "FiLM").
    """

    def __init__(self, config: RegNetConfig):
        super().__init__()
        self.config = config
        n_kinds = config.condition_dim - MEL_PER_FRAME * config.event_curves
        self.body = nn.Sequential(
            nn.Linear(config.z_dim + n_kinds, config.timbre_dim), nn.ReLU(),
            nn.Linear(config.timbre_dim, config.timbre_dim), nn.ReLU(),
        )
        self.lines = nn.Linear(config.timbre_dim, config.n_mels * (1 + config.event_curves))
        self.film = nn.Linear(config.timbre_dim, 2 * config.decoder_dim)
        self.grain = nn.Linear(config.timbre_dim, config.n_mels * (1 + config.event_curves)) if config.grain else None
        if self.grain is not None:
            scale = torch.from_numpy(of_noise(MelSpec(n_mels=config.n_mels))[1]).float()
            self.register_buffer("noise_scale", scale, persistent=False)
            nn.init.zeros_(self.grain.weight)
            nn.init.zeros_(self.grain.bias)

    def forward(self, z: Tensor, condition: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """z (B, z_dim), condition (B, T, condition_dim) -> mel (B, n_mels, 4T), and the decoder's `film`."""
        take = self._take(z, condition)
        scale, shift = self.film(take).unsqueeze(2).chunk(2, dim=1)
        return self._draw(self.lines(take), condition), (scale, shift)

    def spread(self, z: Tensor, condition: Tensor) -> Tensor:
        """As `forward` -> (B, n_mels, 4T), > 0: how much the truth fluctuates, in units of the mel."""
        # A hit that begins between two frames misses by 15 dB: more than noise does is an error, and drawing it a thud.
        return self.noise_scale * torch.exp(self._draw(self.grain(self._take(z, condition)), condition).clamp(-4, 0))

    def _take(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.body(torch.cat([z, condition[:, 0, MEL_PER_FRAME * self.config.event_curves :]], dim=1))

    def _draw(self, weights: Tensor, condition: Tensor) -> Tensor:
        """Weights (B, n_mels * (1 + curves)) of a constant and of each curve -> their sum (B, n_mels, 4T)."""
        batch, frames = condition.shape[:2]
        curves = condition[..., : MEL_PER_FRAME * self.config.event_curves]
        curves = curves.reshape(batch, frames, self.config.event_curves, MEL_PER_FRAME).transpose(1, 2)
        curves = curves.reshape(batch, self.config.event_curves, -1)
        weights = weights.reshape(batch, self.config.n_mels, -1)
        return weights[:, :, :1] + weights[:, :, 1:] @ curves


class Postnet(nn.Module):
    """(B, n_mels, M) -> a correction of the same shape. Unlike Tacotron 2's it has no dropout."""

    def __init__(self, config: RegNetConfig):
        super().__init__()
        widths = [config.n_mels, *[config.postnet_dim] * (config.postnet_layers - 1), config.n_mels]
        self.convolutions = nn.ModuleList(
            nn.Sequential(ConvNorm(wide_in, wide_out, config.postnet_kernel), nn.BatchNorm1d(wide_out))
            for wide_in, wide_out in pairwise(widths)
        )

    def forward(self, mel: Tensor) -> Tensor:
        for convolution in self.convolutions[:-1]:
            mel = torch.tanh(convolution(mel))
        return self.convolutions[-1](mel)


class Generator(nn.Module):
    """Visual features, noise and explicit conditions -> mel.

    `predict_mel` is inference and cannot see a mel. `forward` is training: the true mel passes through the
    audio-forwarding regulariser, a bottleneck that takes up what the picture cannot tell (off-screen sound), so that
    the visual path need not invent it. At inference its vector is zero, as in the paper.
    """

    def __init__(self, config: RegNetConfig = RegNetConfig()):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.auxiliary = AUXILIARY[config.aux_type](config) if config.aux_dim else None
        self.decoder = Decoder(config)
        self.postnet = Postnet(config)
        init_weights(self)
        self.timbre = Timbre(config) if config.timbre_dim else None  # keeps torch's own, larger start

    def predict_mel(self, visual: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """visual float32 (B, T, visual_dim), z (B, z_dim) ~ N(0, 1), condition (B, T, condition_dim)
        -> float32 (B, n_mels, 4T), published scale, not clamped."""
        aux = visual.new_zeros(*visual.shape[:2], self.config.aux_dim)
        return self._mels(visual, aux, z, condition)[0]

    def spread(self, z: Tensor, condition: Tensor) -> Tensor:
        """How much the truth fluctuates around the mel, (B, n_mels, 4T): the scale of `s2s.regnet.grain`.

        Only of a net whose config says `grain`.
        """
        return self.timbre.spread(z, with_condition(condition, self.config))

    @torch.inference_mode()
    def draw_mel(
        self, visual: np.ndarray, z: np.ndarray, condition: np.ndarray | None,
        noise: np.random.Generator | OverlappingNoise, spec: MelSpec,
    ) -> np.ndarray:
        """One clip, float32 (T, visual_dim), (z_dim,), (T, condition_dim) -> float32 (n_mels, 4T), with its grain."""
        device = self.encoder.BiLSTM_proj.weight.device
        visuals, zs, conditions = (
            None if rows is None else torch.from_numpy(rows)[None].to(device) for rows in (visual, z, condition)
        )
        mel = self.predict_mel(visuals, zs, conditions)[0].float().cpu().numpy()
        if self.config.grain:
            mel += self.spread(zs, conditions)[0].float().cpu().numpy() * grain(mel.shape[1], noise, spec)
        return mel

    def forward(self, visual: Tensor, mel_target: Tensor, z: Tensor, condition: Tensor | None = None,
                heard: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `predict_mel`, with mel_target (B, n_mels, 4T) for the regulariser -> (mel_pred, mel_pre_postnet).

        heard: bool (B,), the clips whose mel the regulariser hears; None: all, as in the paper.
        """
        aux = self.auxiliary(mel_target) if self.auxiliary is not None else visual.new_zeros(*visual.shape[:2], 0)
        if heard is not None:
            aux = aux * heard[:, None, None]
        return self._mels(visual, aux, z, condition)

    def _mels(self, visual: Tensor, aux: Tensor, z: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        conditions = [with_condition(condition, self.config)] if self.config.condition_dim else []
        noise = z.unsqueeze(1).expand(-1, visual.shape[1], -1)
        encoded = self.encoder(torch.cat([visual, noise, *conditions], dim=2))
        lines, film = (0, None) if self.timbre is None else self.timbre(z, conditions[0])
        mel_pre_postnet = lines + self.decoder(torch.cat([encoded, aux, *conditions], dim=2), film)
        return mel_pre_postnet + self.postnet(mel_pre_postnet), mel_pre_postnet


def with_condition(condition: Tensor | None, config: RegNetConfig) -> Tensor:
    """The conditions of a net that needs them. Raises ValueError where the caller forgot: zeros would hide it."""
    if condition is None or condition.shape[2] != config.condition_dim:
        raise ValueError(f"this RegNet needs {config.condition_dim} condition channels a frame")
    return condition
