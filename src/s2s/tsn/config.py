"""What one TSN stream (RGB or flow) expects and gives. It travels in the bundle."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TsnStreamConfig(BaseModel):
    """One stream: how its input is made from pictures, which network reads it, which heads it has.

    Network input = (value - mean) * scale, values as they come: 0 .. 255 for pictures and published flow images,
    the motion unit of the caller for float flow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: Literal["bn_inception", "small"]
    modality: Literal["rgb", "flow"]
    channel_order: Literal["rgb", "bgr", "xy"]
    input_size: tuple[int, int] = Field(description="width, height in pixels; aspect is not kept")
    frames_per_stack: int = Field(1, gt=0, description="consecutive pictures behind one another, oldest first")
    stack_start: int = Field(0, description="first picture of frame t's stack, relative to t (0: t .. t+n-1)")
    mean: tuple[float, ...] = Field(description="one a channel of one picture, in `channel_order`")
    scale: float = 1.0
    widths: tuple[int, int, int] = Field((24, 48, 96), description="channels of the small network's three scales")
    feature_dim: int = Field(gt=0)
    class_names: tuple[str, ...] = Field((), description="empty: the stream has no class head")
    event_head: bool = Field(False, description="a logit a frame: does something sound now?")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the heads, in training")

    @property
    def in_channels(self) -> int:
        return len(self.channel_order) * self.frames_per_stack

    @model_validator(mode="after")
    def _sizes_agree(self) -> TsnStreamConfig:
        if (self.modality == "flow") != (self.channel_order == "xy"):
            raise ValueError("a flow stream has channel_order xy, an RGB stream rgb or bgr")
        if len(self.mean) != len(self.channel_order):
            raise ValueError(f"mean needs {len(self.channel_order)} numbers")
        expected = 1024 if self.arch == "bn_inception" else 2 * self.widths[-1]
        if self.feature_dim != expected:
            raise ValueError(f"feature_dim of {self.arch} is {expected}")
        return self


PUBLISHED_RGB = TsnStreamConfig(
    arch="bn_inception",
    modality="rgb",
    channel_order="bgr",
    input_size=(224, 224),
    mean=(104.0, 117.0, 128.0),
    feature_dim=1024,
)
PUBLISHED_FLOW = TsnStreamConfig(
    arch="bn_inception",
    modality="flow",
    channel_order="xy",
    input_size=(224, 224),
    mean=(128.0, 128.0),
    feature_dim=1024,
)


def small_rgb(class_names: tuple[str, ...]) -> TsnStreamConfig:
    """A stream that a CPU can train: one 96 px picture."""
    return TsnStreamConfig(
        arch="small",
        modality="rgb",
        channel_order="rgb",
        input_size=(96, 96),
        mean=(114.0,) * 3,
        scale=1 / 64,
        feature_dim=192,
        class_names=class_names,
        event_head=True,
        dropout=0.2,
    )


def small_flow(class_names: tuple[str, ...]) -> TsnStreamConfig:
    """A stream that a CPU can train: five 48 px flows around the frame, as float flow."""
    return TsnStreamConfig(
        arch="small",
        modality="flow",
        channel_order="xy",
        input_size=(48, 48),
        frames_per_stack=5,
        stack_start=-2,
        mean=(0.0, 0.0),
        feature_dim=192,
        class_names=class_names,
        event_head=True,
        dropout=0.2,
    )
