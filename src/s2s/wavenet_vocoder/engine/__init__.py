"""The fast autoregressive WaveNet on a CPU."""

from s2s.wavenet_vocoder.engine.engine import (
    EngineSampler,
    Isa,
    WaveNetEngine,
    available_isas,
    calibrate,
    look_ahead_for,
    make_sampler,
    peak_ops,
)
from s2s.wavenet_vocoder.engine.segments import generate_clip

__all__ = [
    "EngineSampler",
    "Isa",
    "WaveNetEngine",
    "available_isas",
    "calibrate",
    "generate_clip",
    "look_ahead_for",
    "make_sampler",
    "peak_ops",
]
