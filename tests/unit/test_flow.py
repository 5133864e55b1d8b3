"""Flow images of the published recipe."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2s.errors import ArtifactError
from s2s.flow import flow_image, pair_flow, quantise_flow, through_jpeg


def texture(size: tuple[int, int] = (256, 340)) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def test_flow_becomes_the_published_grey_levels():
    flow = np.array([-50, -20, 0, 1, 20, 50, 3 / 6.375 - 20], np.float32)
    assert quantise_flow(flow).tolist() == [0, 0, 128, 134, 255, 255, 3]


def test_halves_go_to_the_even_level():
    levels = quantise_flow((np.array([0.5, 1.5, 2.5]) / 6.375 - 20).astype(np.float32))
    assert set(levels.tolist()) <= {0, 1, 2, 3}
    assert quantise_flow(np.zeros(1)).tolist() == [128]  # 127.5


def test_no_motion_stays_exactly_128_through_jpeg():
    assert (flow_image(np.zeros((256, 340, 2), np.float32)) == 128).all()


def test_a_flow_image_keeps_x_and_y_apart():
    flow = np.zeros((64, 96, 2), np.float32)
    flow[..., 0], flow[..., 1] = 4, -8
    image = flow_image(flow)
    assert image.dtype == np.uint8
    assert image.shape == (64, 96, 2)
    assert np.abs(image.astype(int) - [153, 76]).max() <= 1  # 153.0 and 76.5


def test_jpeg_keeps_the_colours_in_their_channels():
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    assert np.abs(through_jpeg(red).astype(int) - red).max() < 10


def test_flow_of_a_shift_is_the_shift():
    earlier = texture()
    later = np.roll(earlier, (2, 3), axis=(0, 1))
    middle = pair_flow(earlier, later)[60:-60, 60:-60]
    assert middle.dtype == np.float32
    assert np.median(middle[..., 0]) == pytest.approx(3, abs=0.3)
    assert np.median(middle[..., 1]) == pytest.approx(2, abs=0.3)


def test_tvl1_works_or_says_what_to_install():
    earlier = texture((48, 64))
    if hasattr(cv2, "optflow"):
        assert pair_flow(earlier, np.roll(earlier, 1, axis=1), "tvl1").shape == (48, 64, 2)
    else:
        with pytest.raises(ArtifactError, match="opencv-contrib"):
            pair_flow(earlier, earlier, "tvl1")
