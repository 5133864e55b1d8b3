"""The deterministic weights and inputs behind `parity.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = json.loads((Path(__file__).parent / "parity.json").read_text())


def regnet_rule(name: str, tensor: Tensor, s: np.ndarray) -> np.ndarray:
    if name.endswith("running_var"):
        return 1 + 0.5 * s**2
    if name.endswith("running_mean"):
        return 0.1 * s
    if tensor.ndim == 1:
        return 0.1 * s if name.endswith("bias") or "bias_" in name else 1 + 0.1 * s
    return 0.05 * s


def wavenet_rule(name: str, tensor: Tensor, s: np.ndarray) -> np.ndarray:
    if name.endswith("bias"):
        return 0.05 * s
    if name.endswith(("weight_g", "original0")):
        return 1 + 0.1 * s
    return 1 + 0.5 * s if name.startswith("upsample_conv") else s


def bn_inception_rule(name: str, tensor: Tensor, s: np.ndarray) -> np.ndarray:
    if tensor.ndim == 4:
        return 0.95 * math.sqrt(2 / math.prod(tensor.shape[1:])) * s
    return regnet_rule(name, tensor, s)


def fill(module: nn.Module, rule) -> nn.Module:
    """Every tensor of the state_dict by the rule, in order; returns the module in eval mode."""
    with torch.no_grad():
        tensors = [(n, t) for n, t in module.state_dict().items() if not n.endswith("num_batches_tracked")]
        for k, (name, tensor) in enumerate(tensors):
            s = np.sin(0.7 * np.arange(tensor.numel(), dtype=np.float64) + 0.1 * k)
            tensor.copy_(torch.from_numpy(rule(name, tensor, s).astype(np.float32)).reshape(tensor.shape))
    return module.eval()


def wave(shape: tuple[int, ...], scale: float, step: float, offset: float = 0.0, function=np.sin) -> Tensor:
    values = offset + scale * function(step * np.arange(math.prod(shape), dtype=np.float64))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def assert_golden(name: str, output: Tensor, relative: float = 0.0) -> None:
    """Every number of the golden entry, within 1e-4, or `relative` of it where that is more."""
    wanted = GOLDEN["results"][name]
    assert list(output.shape) == wanted["shape"]
    flat = output.detach().double().flatten()
    measured = {"mean": flat.mean(), "std": flat.std(correction=0), "min": flat.min(), "max": flat.max()}
    pairs = [(key, float(measured[key]), wanted[key]) for key in measured]
    pairs += [(f"[{i}]", float(flat[int(i)]), value) for i, value in wanted["at"].items()]
    for key, got, expected in pairs:
        assert abs(got - expected) <= max(1e-4, relative * abs(expected)), f"{name} {key}: {got} != {expected}"
