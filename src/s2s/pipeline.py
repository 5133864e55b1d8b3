"""READ FIRST. The product as code: a silent clip in, the same clip with fitting sound out.

    generator = SoundGenerator.from_bundle(path, device="cpu")
    result = generator.generate_file("clip.mp4", "out.mp4", seed=0)
    # probe -> frames -> flow -> TSN features -> events -> mel (RegNet) -> waveform (WaveNet) -> mux
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s2s.config import Limits
from s2s.events import OnProgress, ShouldStop, SoundEvent, ignore_progress, never_stop


@dataclass(frozen=True)
class Options:
    """How a person wants the sound. The defaults are what most people want."""

    seed: int = 0  # same clip, seed, bundle, engine and instruction set: the same samples
    category: str | None = None  # one of the bundle's kinds; None: recognised from the picture
    vocoder: str | None = None  # "wavenet" or "griffinlim"; None: the bundle's default
    offset_ms: float = 0.0  # later (+) or earlier (-)
    gain_db: float = 0.0
    mix_original: float = 0.0  # linear gain of the clip's own sound, 0: replaced
    reencode: bool = False  # H.264 + AAC that plays anywhere; default: the picture's packets are kept


@dataclass(frozen=True)
class GeneratedSound:
    waveform: np.ndarray  # float32 (N,), mono, -1 .. 1; exactly as long as the video
    sample_rate: int  # Hz
    mel: np.ndarray  # float32 (n_mels, M), published scale 0 .. 1
    events: list[SoundEvent]
    category: str | None  # the kind that was used; None where the bundle knows none
    category_confidence: float  # 0 .. 1; 1 where the person chose
    duration_s: float  # of the video
    seed: int
    notes: list[str] = field(default_factory=list)  # e.g. "No event was found; the sound is quiet room tone."
    stage_seconds: dict[str, float] = field(default_factory=dict)  # wall seconds by stage

    def report(self) -> dict:
        """What travels beside the video: JSON, without the samples."""
        return {
            "duration_s": round(self.duration_s, 4), "sample_rate": self.sample_rate, "seed": self.seed,
            "category": self.category, "category_confidence": round(self.category_confidence, 4),
            "events": [event.to_dict() for event in self.events], "notes": self.notes,
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in self.stage_seconds.items()},
        }


class SoundGenerator:
    """Loaded once, used for many clips. A request's state is local to `generate`."""

    @classmethod
    def from_bundle(cls, path: Path, device: str = "cpu") -> SoundGenerator:
        """Raises ArtifactError when the bundle is missing, damaged or of another version."""
        raise NotImplementedError

    def generate(self, video: Path, *, limits: Limits, options: Options = Options(), on_progress: OnProgress = ignore_progress,
                 should_stop: ShouldStop = never_stop) -> GeneratedSound:
        """Raises InputError (the file or the options), Canceled, ProcessingError."""
        raise NotImplementedError

    def generate_file(self, video: Path, output: Path, *, limits: Limits, options: Options = Options(),
                      on_progress: OnProgress = ignore_progress, should_stop: ShouldStop = never_stop) -> GeneratedSound:
        """`generate`, then the video with its new sound at `output`, written whole or not at all."""
        raise NotImplementedError
