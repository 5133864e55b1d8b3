"""The fast autoregressive WaveNet on a CPU."""

from s2s.wavenet_vocoder.engine.engine import (
    EngineSampler,
    Isa,
    WaveNetEngine,
    available_isas,
    calibrate,
    make_sampler,
    peak_ops,
)

__all__ = ["EngineSampler", "Isa", "WaveNetEngine", "available_isas", "calibrate", "make_sampler", "peak_ops"]
