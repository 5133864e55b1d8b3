"""Temporal segment network (Wang et al. 2016): a stream, its heads and the segment consensus.

Names inside (`base_model`, `new_fc`) are those of the published checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from s2s.tsn.bn_inception import BNInception
from s2s.tsn.config import TsnStreamConfig
from s2s.tsn.small import SmallCnn


class StreamOutput(NamedTuple):
    class_logits: Tensor | None  # (B, classes): mean over the snippets of a clip
    event_logits: Tensor | None  # (B, S): one a snippet


class TsnStream(nn.Module):
    """One stream with its heads. `features` is inference; `forward` is training with segment consensus."""

    def __init__(self, config: TsnStreamConfig):
        super().__init__()
        self.config = config
        if config.arch == "bn_inception":
            self.base_model: nn.Module = BNInception(config.in_channels)
        else:
            self.base_model = SmallCnn(config.in_channels, config.widths)
        self.new_fc = nn.Linear(config.feature_dim, len(config.class_names)) if config.class_names else None
        self.event_fc = nn.Linear(config.feature_dim, 1) if config.event_head else None

    def features(self, inputs: Tensor) -> Tensor:
        """Network inputs float32 (T, in_channels, H, W), see `s2s.tsn.inputs` -> (T, feature_dim)."""
        return self.base_model(inputs)

    def class_logits(self, features: Tensor) -> Tensor:
        """(..., feature_dim) -> (..., classes); average them over a clip for its kind (segment consensus)."""
        if self.new_fc is None:
            raise ValueError("this stream has no class head")
        return self.new_fc(features)

    def event_logits(self, features: Tensor) -> Tensor:
        """(..., feature_dim) -> (...): does something sound in this frame?"""
        if self.event_fc is None:
            raise ValueError("this stream has no event head")
        return self.event_fc(features).squeeze(-1)

    def forward(self, snippets: Tensor) -> StreamOutput:
        """Network inputs (B, S, in_channels, H, W): S snippets of each clip."""
        features = self.features(snippets.flatten(0, 1)).unflatten(0, snippets.shape[:2])
        features = F.dropout(features, self.config.dropout, self.training)
        return StreamOutput(
            self.class_logits(features).mean(dim=1) if self.new_fc is not None else None,
            self.event_logits(features) if self.event_fc is not None else None,
        )


def build_stream(config: TsnStreamConfig) -> TsnStream:
    """The stream that a config describes, with random weights, in training mode."""
    return TsnStream(config)
