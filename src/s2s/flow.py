"""Frames -> the pictures and flow images that published REGNET weights were trained on.

Motion for our own networks is `s2s.motion`; this file only keeps the published rules, odd ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

from s2s.errors import ArtifactError

FLOW_BOUND = 20.0  # pixels per frame; faster motion saturates
IMAGE_SIZE = (340, 256)  # width, height; aspect is not kept
JPEG_QUALITY = 95

FlowFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""uint8 grey (H, W), earlier and later -> float32 (H, W, 2), pixels per frame, x then y."""


def quantise_flow(flow: np.ndarray, bound: float = FLOW_BOUND) -> np.ndarray:
    """float32, pixels per frame -> uint8 of the same shape: -bound 0, no motion 128, +bound 255; halves to even."""
    flow = np.clip(np.asarray(flow, dtype=np.float32), -bound, bound)
    return np.rint((flow + np.float32(bound)) * np.float32(255 / (2 * bound))).astype(np.uint8)


def dequantise_flow(image: np.ndarray, bound: float = FLOW_BOUND) -> np.ndarray:
    """uint8 -> float32 pixels per frame. No motion comes back as 0.08 (128 stands for 127.5)."""
    return image.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def tvl1_flow() -> FlowFunction:
    """TV-L1 with OpenCV's defaults, as published: some 4 s a frame on one core, so nothing uses it unless asked.

    Raises ArtifactError where OpenCV lacks its contrib modules.
    """
    if not hasattr(cv2, "optflow"):
        raise ArtifactError("This OpenCV has no TV-L1 flow.", hint="Install opencv-contrib-python-headless.")
    estimator = cv2.optflow.DualTVL1OpticalFlow_create()
    return lambda earlier, later: estimator.calc(earlier, later, None)


def published_images(frames: Iterable[np.ndarray], flow: FlowFunction) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """N pictures uint8 (H, W, 3) RGB, at 21.5 fps -> N - 1 pairs: uint8 (256, 340, 3) RGB and (256, 340, 2) flow image.

    Pair k shows frame k + 1 and the flow from k to k + 1: the published numbering loses the first frame, and feature
    row r therefore looks one frame ahead. Both go through JPEG, because the networks saw them that way.
    """
    earlier: np.ndarray | None = None
    for frame in frames:
        image = cv2.resize(frame, IMAGE_SIZE, interpolation=cv2.INTER_LINEAR)
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if earlier is not None:
            flow_image = quantise_flow(flow(earlier, grey))
            yield _through_jpeg(image[..., ::-1])[..., ::-1], np.stack(
                [_through_jpeg(flow_image[..., 0]), _through_jpeg(flow_image[..., 1])], axis=-1)
        earlier = grey


def fit_rows(features: np.ndarray, n_frames: int) -> np.ndarray:
    """(T, C) -> (n_frames, C): cut, or zeros at the end, as the published loader does (its 215th row is zeros)."""
    return np.pad(features[:n_frames], ((0, max(0, n_frames - len(features))), (0, 0)))


def _through_jpeg(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) BGR -> what a reader of its JPEG file sees."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
