"""Sizes of REGNET. They travel in the bundle; the defaults are the published dog model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RegNetConfig(BaseModel):
    """Generator and discriminator of REGNET (Chen et al. 2020). `condition_dim=0` keeps the published keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    visual_dim: int = Field(2048, gt=0, description="channels of a visual feature frame, RGB then flow")
    condition_dim: int = Field(0, ge=0, description="events and kinds, channels a feature frame; published: 0")
    event_curves: int = Field(0, ge=0, description="of the condition, 4 channels each, before the kinds; 0: no timbre")
    timbre_dim: int = Field(0, ge=0, description="hidden channels of what a take sounds like; 0: none, as published")
    grain: bool = Field(False, description="says how much the truth fluctuates, see s2s.regnet.grain")
    takes: dict[str, tuple[str, ...]] = Field(
        {}, description="instruments by kind that z may stand for, the most convincing first; none: z ~ N(0, 1)")
    z_dim: int = Field(512, ge=0, description="channels of the noise vector")
    n_mels: int = Field(80, gt=0)
    encoder_channels: int = 2048
    encoder_layers: int = 3
    encoder_kernel: int = 5
    lstm_dim: int = Field(512, description="of one direction")
    lstm_layers: int = 2
    encoder_dim: int = Field(1024, description="channels out of the encoder")
    aux_type: Literal["lstm_last", "lstm_sample", "conv"] = "lstm_last"
    aux_dim: int = Field(32, ge=0, description="channels of the audio-forwarding regulariser; 0: none")
    decoder_dim: int = 512
    postnet_dim: int = 512
    postnet_layers: int = 5
    postnet_kernel: int = 5
    dropout: float = Field(0.5, ge=0, lt=1)
    disc_feature_dim: int = 1024
    disc_join_dim: int = 64
    disc_down_dims: tuple[int, int, int] = (256, 512, 1024)
