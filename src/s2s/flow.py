"""Flow images for published REGNET weights. Motion for our own networks is `s2s.motion`.

The published images are TV-L1 flow, clipped, in 8 bits, read back from a JPEG file.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from s2s.errors import ArtifactError

FLOW_BOUND = 20.0  # pixels per frame; faster motion saturates
JPEG_QUALITY = 95


def pair_flow(earlier: np.ndarray, later: np.ndarray, method: Literal["dis", "tvl1"] = "dis") -> np.ndarray:
    """uint8 grey (H, W), two frames -> float32 (H, W, 2), pixels per frame, x then y.

    "tvl1" with OpenCV's defaults is the published one, at 4 s a frame on one core; "dis" (Kroeger 2016, medium preset)
    stands in for it at 1/500 of the time. Raises ArtifactError where OpenCV lacks its contrib modules for "tvl1".
    """
    if method == "dis":
        return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(earlier, later, None)
    if not hasattr(cv2, "optflow"):
        raise ArtifactError("This OpenCV has no TV-L1 flow.", hint="Install opencv-contrib-python-headless.")
    return cv2.optflow.DualTVL1OpticalFlow_create().calc(earlier, later, None)


def quantise_flow(flow: np.ndarray, bound: float = FLOW_BOUND) -> np.ndarray:
    """float32, pixels per frame -> uint8 of the same shape: -bound is 0, no motion 128, +bound 255; halves to even."""
    flow = np.clip(np.asarray(flow, dtype=np.float32), -bound, bound)
    return np.rint((flow + np.float32(bound)) * np.float32(255 / (2 * bound))).astype(np.uint8)


def flow_image(flow: np.ndarray) -> np.ndarray:
    """float32 (H, W, 2), pixels per frame -> uint8 (H, W, 2): what a reader of the published JPEG files sees."""
    return np.stack([through_jpeg(plane) for plane in np.moveaxis(quantise_flow(flow), -1, 0)], axis=-1)


def through_jpeg(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) RGB -> the same after JPEG: published networks saw every picture that way."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    read = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(read, cv2.COLOR_BGR2RGB) if image.ndim == 3 else read
