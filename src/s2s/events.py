"""What the model says it heard in the picture, and how far the work has come. Standard library only.

`SoundEvent` is one event of the generated sound; `Progress` is the one progress event of the project: the terminal
bar, the model server's NDJSON stream, the gateway's SSE and the page all carry it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import ClassVar


@dataclass(frozen=True)
class SoundEvent:
    time_s: float  # from the start of the video
    kind: str  # one of the bundle's categories, or "sound" where the bundle knows none
    strength: float  # 0 .. 1, relative loudness within the clip
    confidence: float  # 0 .. 1

    def to_dict(self) -> dict:
        data = asdict(self)
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in data.items()}


@dataclass(frozen=True)
class Moment:
    """When something is to be heard, where a person says so. Raises ValueError."""

    time_s: float  # from the start of the video
    strength: float = 0.8  # 0 .. 1, relative loudness within the clip

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # read where it is part of a request

    def __post_init__(self) -> None:
        if not 0 <= self.time_s < float("inf"):
            raise ValueError("time_s is in seconds from the start of the video")
        if not 0 < self.strength <= 1:
            raise ValueError("strength is above 0 and at most 1")


class Stage(StrEnum):
    """The steps of the main job, in order."""

    PROBE = "probe"
    FRAMES = "frames"  # decode, optical flow, motion: one streamed pass; counted in video frames
    FEATURES = "features"  # TSN; counted in feature frames
    EVENTS = "events"
    MEL = "mel"  # RegNet; counted in mel frames
    VOCODE = "vocode"  # counted in samples
    MUX = "mux"


STAGE_SHARE = {  # rough share of the wall time, so that one bar moves evenly; only the drawing depends on it
    Stage.PROBE: 0.02, Stage.FRAMES: 0.35, Stage.FEATURES: 0.15, Stage.EVENTS: 0.03,
    Stage.MEL: 0.05, Stage.VOCODE: 0.35, Stage.MUX: 0.05,
}


@dataclass(frozen=True)
class Progress:
    stage: Stage
    step: int  # true count of finished units of this stage
    total: int  # units in this stage

    @property
    def fraction(self) -> float:
        """Share of the whole job done, 0 .. 1; never falls within one run because stages come in order."""
        done = 0.0
        for stage, share in STAGE_SHARE.items():
            if stage == self.stage:
                return round(min(1.0, done + share * min(1.0, self.step / max(1, self.total))), 4)
            done += share
        return 1.0

    def to_dict(self) -> dict:
        return {"stage": str(self.stage), "step": self.step, "total": self.total, "fraction": self.fraction}


OnProgress = Callable[[Progress], None]
ShouldStop = Callable[[], bool]


def ignore_progress(_: Progress) -> None:
    """The default `on_progress`."""


def never_stop() -> bool:
    """The default `should_stop`."""
    return False
