"""The fast autoregressive WaveNet on a CPU."""

from s2s.wavenet_vocoder.engine.engine import (
    EngineSampler,
    Isa,
    WaveNetEngine,
    available_isas,
    calibrate,
    engine_for,
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
    "engine_for",
    "generate_clip",
    "make_sampler",
    "peak_ops",
]
