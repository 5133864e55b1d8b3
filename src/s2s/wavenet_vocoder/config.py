"""Sizes of the autoregressive WaveNet. They travel in the bundle; the defaults are the published vocoders."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class WaveNetConfig(BaseModel):
    """A mel-conditioned WaveNet (van den Oord et al. 2016; r9y9's variant)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(24, gt=0)
    stacks: int = Field(4, gt=0, description="the dilation starts again at 1 in each stack")
    residual_channels: int = Field(512, gt=0)
    gate_channels: int = Field(512, gt=0, description="both halves together")
    skip_channels: int = Field(256, gt=0)
    kernel_size: int = Field(3, gt=1, lt=16, description="the engine has room for 15 taps")
    cin_channels: int = Field(80, gt=0, description="mel bands")
    out_channels: int = Field(30, gt=0, description="3 a logistic, or one a level of a categorical")
    distribution: Literal["logistic_mixture", "categorical"] = "logistic_mixture"
    scalar_input: bool = Field(True, description="samples go in as numbers; False: one-hot levels of a categorical")
    conditioning: Literal["learned", "frame"] = Field(
        "learned", description="mel to sample rate by transposed convolutions (published), or held for each frame"
    )
    upsample_scales: tuple[int, ...] = Field((4, 4, 4, 4), description="product: samples a mel frame, in both modes")
    freq_axis_kernel_size: int = 3
    log_scale_min: float = Field(math.log(1e-14), description="floor of a logistic's log scale")
    quantize_levels: int = Field(65_536, description="levels of the mixture's loss (16 bit)")
    dropout: float = Field(0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _sizes_agree(self) -> WaveNetConfig:
        if self.layers % self.stacks:
            raise ValueError("layers must be a multiple of stacks")
        if self.gate_channels % 2:
            raise ValueError("gate_channels must be even")
        if self.distribution == "logistic_mixture" and (self.out_channels % 3 or not self.scalar_input):
            raise ValueError("a logistic mixture has 3 outputs a logistic and takes scalar input")
        return self

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2 ** (layer % (self.layers // self.stacks)) for layer in range(self.layers))

    @property
    def receptive_field(self) -> int:
        """Samples that one output depends on; 505 (22.9 ms) as published."""
        return (self.kernel_size - 1) * sum(self.dilations) + 1

    @property
    def hop_length(self) -> int:
        """Samples a mel frame."""
        return math.prod(self.upsample_scales)

    @property
    def in_channels(self) -> int:
        return 1 if self.scalar_input else self.out_channels

    @property
    def n_mixtures(self) -> int:
        return self.out_channels // 3

    @property
    def noise_width(self) -> int:
        """Uniform numbers a sample: one a choice (Gumbel), and for a mixture one for the logistic's value, last."""
        return self.n_mixtures + 1 if self.distribution == "logistic_mixture" else self.out_channels

    @property
    def int8_widths(self) -> tuple[int, ...]:
        """Channels of what goes into products as 8 bits: each layer's input, each layer's gate output, the mel."""
        half = self.gate_channels // 2
        return (*[self.residual_channels] * self.layers, *[half] * self.layers, self.cin_channels)


PUBLISHED = WaveNetConfig()
SMALL = WaveNetConfig(  # one clip in real time on one core, exactly
    layers=16,
    stacks=2,
    residual_channels=64,
    gate_channels=128,
    skip_channels=64,
    kernel_size=2,
    conditioning="frame",
    dropout=0.0,
)


class Int8(BaseModel):
    """8-bit scales of one set of weights, and what was heard when they were tried (s2s.evaluation.int8)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    MIN_SNR_DB: ClassVar[float] = 20.0
    MEL_MARGIN_DB: ClassVar[float] = 0.2
    ONSET_MARGIN: ClassVar[float] = 0.02

    scales: tuple[float, ...] = Field(description="of each channel of the tensors of WaveNetConfig.int8_widths")
    sound_s: float = Field(description="seconds of sound that were listened to")
    logit_snr_db: float
    mel_db: float = Field(description="distance of the 32-bit sound from the mel that was asked for")
    int8_mel_db: float = Field(description="of the 8-bit sound")
    onset_f1: float = Field(description="agreement of 8-bit with 32-bit onsets, same noise")
    seed_onset_f1: float = Field(description="agreement of 32-bit onsets of two seeds: what chance moves")

    @property
    def unmoved(self) -> bool:
        """Whether 8 bits may be used without being asked for."""
        return (
            self.logit_snr_db >= self.MIN_SNR_DB
            and self.int8_mel_db <= self.mel_db + self.MEL_MARGIN_DB
            and self.onset_f1 >= self.seed_onset_f1 - self.ONSET_MARGIN
        )
