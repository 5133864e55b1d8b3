"""A small net that says, for each tick of the 50 Hz grid, whether something sounds there, and how hard.

The same temporal filters look at every cell of the picture, so it does not matter where in the picture a thing is hit;
the cells are then pooled and a dilated head decides.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from s2s.motion import CELL_CHANNELS, GLOBAL_CHANNELS


class TimingConfig(BaseModel):
    """What the timing net is and how its answer is read. It travels in the bundle beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cell_channels: tuple[str, ...] = Field(CELL_CHANNELS, description="what a cell of the picture tells, in order")
    scene_channels: tuple[str, ...] = Field(GLOBAL_CHANNELS, description="what the whole picture tells, in order")
    n_cells: int = Field(32, gt=0, description="most variable cells that are looked at; the rest is background")
    cell_width: int = Field(24, gt=0)
    cell_kernel: int = Field(11, gt=0, description="ticks; three layers see 0.3 s before and after")
    head_width: int = Field(48, gt=0)
    head_dilations: tuple[int, ...] = (1, 2, 4)
    dropout: float = Field(0.1, ge=0, lt=1, description="in training")

    threshold_share: float = Field(
        0.45, description="an event stands so far between the median and the 98th percentile"
    )
    floor: float = Field(0.25, description="no event below this probability, however quiet the clip")
    gap_s: float = Field(0.2, description="two events are at least so far apart")

    @property
    def reach(self) -> int:
        """Ticks on each side that an answer depends on."""
        return 3 * (self.cell_kernel // 2) + sum(self.head_dilations)


class TimingNet(nn.Module):
    """cells (B, N, n_cells, C) and scene (B, N, G) -> logits of event and of strength, each (B, N)."""

    def __init__(self, config: TimingConfig):
        super().__init__()
        self.config = config
        c, k, w = config.cell_width, config.cell_kernel, config.head_width
        channels = [len(config.cell_channels), c, c, c]
        self.cell_layers = nn.ModuleList(nn.Conv1d(a, b, k, padding=k // 2) for a, b in pairwise(channels))
        self.attention = nn.Conv1d(c, 1, 1)
        self.scene_layer = nn.Conv1d(len(config.scene_channels), c, 5, padding=2)
        self.mix = nn.Conv1d(4 * c, w, 1)
        self.head_layers = nn.ModuleList(nn.Conv1d(w, w, 3, padding=d, dilation=d) for d in config.head_dilations)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Conv1d(w, 2, 1)

    def forward(self, cells: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
        b, n, s, channels = cells.shape
        x = cells.permute(0, 2, 3, 1).reshape(b * s, channels, n)
        for number, layer in enumerate(self.cell_layers):
            y = F.gelu(layer(x))
            x = y if number == 0 else x + y
        weight = torch.softmax(self.attention(x).view(b, s, 1, n), dim=1)
        x = x.view(b, s, -1, n)
        pooled = [x.amax(dim=1), x.mean(dim=1), (x * weight).sum(dim=1)]
        h = F.gelu(self.mix(torch.cat([*pooled, F.gelu(self.scene_layer(scene.transpose(1, 2)))], dim=1)))
        for layer in self.head_layers:
            h = h + F.gelu(layer(self.dropout(h)))
        event, strength = self.out(h).unbind(dim=1)
        return event, strength


def select_cells(cells: np.ndarray, n_cells: int) -> np.ndarray:
    """float32 (N, 48, C) -> (N, n_cells, C): the liveliest cells of these ticks."""
    return cells[:, np.sort(np.argsort(-liveliness(cells), kind="stable")[:n_cells])]


def liveliness(cells: np.ndarray) -> np.ndarray:
    """float32 (N, 48, C) -> (48,): how much each cell's speed and change vary over these ticks."""
    speed, change = CELL_CHANNELS.index("speed_rms"), CELL_CHANNELS.index("difference")
    return cells[..., speed].std(axis=0) + 0.5 * cells[..., change].std(axis=0)
