"""Checkpoints of a training run: written whole or not at all, and read without running anybody's code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from s2s.errors import ArtifactError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, strings and containers of these. A kill at any moment leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any] | None:
    """What `save_checkpoint` wrote, or None where there is no file.

    Raises ArtifactError for a file that is damaged or holds anything but data (`weights_only`).
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as exc:  # torch passes on whatever a damaged archive or a forbidden object raises
        raise ArtifactError(f"The checkpoint {path} cannot be read.", code="bad_checkpoint",
                            hint="Delete it to start again.") from exc


class Ema:
    """Exponential moving average of a model's weights; what is shipped. Young averages forget faster."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)
