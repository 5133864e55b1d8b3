"""What happens in a procedural clip: written first, then drawn (`s2s.synth.scenes`) and sounded (`s2s.synth.sounds`).

The script is the only thing that picture and sound share, so both are right by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("drum", "hand_drum", "wood", "metal", "glass", "ball", "bell", "typing", "water", "explosion")
"""The kinds of sound that the shipped bundle knows. Their order is the class index and part of the bundle."""


MATERIALS = 24
"""Instances of each kind that scripts choose from."""


@dataclass(frozen=True)
class ScriptedEvent:
    time_s: float  # the moment of contact, exact
    kind: str  # one of KINDS
    strength: float  # 0 .. 1; seen as speed, heard as level and brightness
    size: float  # 0 (small) .. 1 (large); seen as size, heard as pitch
    material: int = 0  # which instance of the kind: the same index sounds alike within a clip
