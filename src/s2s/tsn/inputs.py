"""Pictures and flow -> what a stream's network reads: resized, reordered, centred, stacked."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from s2s.tsn.config import TsnStreamConfig


def stream_images(images: Sequence[np.ndarray], config: TsnStreamConfig) -> Tensor:
    """Pictures, one a frame: uint8 (H, W, 3) RGB, uint8 (H, W, 2) flow images, or float32 (H, W, 2) flow, x then y
    -> float32 (T, channels, h, w), centred and scaled but not stacked.

    The whole picture is squashed to the input size, as published. 8-bit pictures are resized by Pillow (bilinear with
    antialias, the published way), float flow by area; the caller keeps flow in a unit that does not depend on size.
    """
    width, height = config.input_size
    resized = np.stack([_resize(image, width, height) for image in images]).astype(np.float32)
    if config.channel_order == "bgr":
        resized = resized[..., ::-1]
    resized = (resized - np.array(config.mean, dtype=np.float32)) * np.float32(config.scale)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(0, 3, 1, 2)))


def stack_frames(images: Tensor, config: TsnStreamConfig) -> Tensor:
    """(T, channels, h, w) -> (T, in_channels, h, w): frame t's pictures t + start .. t + start + n - 1, oldest first.

    Past either end the outermost picture is repeated (the rule of the published TSN loader).
    """
    frames = torch.arange(len(images))[:, None] + config.stack_start + torch.arange(config.frames_per_stack)
    return images[frames.clamp(0, len(images) - 1)].flatten(1, 2)


def _resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    if image.dtype != np.uint8:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if image.shape[2] == 3 and width * height < image.shape[0] * image.shape[1] / 2:  # the same bytes in half the time
        return np.asarray(
            Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
        )
    planes = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(image.shape[2])]
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR)) for plane in planes], axis=-1)
