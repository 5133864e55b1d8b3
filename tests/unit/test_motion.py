"""Motion features: what moved, where and when, whatever the frame rate, the camera or the size of the picture."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

from s2s.media.video import grey_size
from s2s.motion import (
    CELL_CHANNELS,
    GLOBAL_CHANNELS,
    N_CELLS,
    MotionExtractor,
    camera_flow,
    cell_grid,
    fit_camera,
    work_size,
)

RMS = CELL_CHANNELS.index("speed_rms")


def scenery(height: int = 180, width: int = 320, seed: int = 0, grain: float = 2) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), grain), None, 0, 255, cv2.NORM_MINMAX)


def falling_disc(time_s: float, background: np.ndarray) -> np.ndarray:
    """A disc that falls faster and faster and stops dead at 1.5 s."""
    frame = background.copy()
    h, w = frame.shape
    y = 0.2 + 0.6 * min(1.0, (time_s / 1.5) ** 2)
    cv2.circle(frame, (round(w / 2 * 16), round(y * h * 16)), round(0.12 * h * 16), 255, -1, cv2.LINE_AA, 4)
    return frame


def extract(frames, duration_s: float, **kwargs):
    extractor = MotionExtractor(**kwargs)
    for time_s, frame in frames:
        extractor.push(frame, time_s)
    return extractor.finish(duration_s)


def stop_time_s(motion) -> float:
    """Where the motion ends: the last tick above a third of its peak."""
    return float(np.flatnonzero(motion.activity > motion.activity.max() / 3)[-1] / 50)


@pytest.mark.parametrize("rate", [12, 15, 24, 30, 50, 60, 120])
def test_a_stop_is_seen_at_its_moment_at_any_frame_rate(rate):
    background = scenery()
    motion = extract(((k / rate, falling_disc(k / rate, background)) for k in range(3 * rate)), 3.0)
    assert stop_time_s(motion) == pytest.approx(1.5, abs=0.02 + 0.6 / rate)
    assert motion.cells.shape == (150, N_CELLS, len(CELL_CHANNELS))
    assert motion.scene.shape == (150, len(GLOBAL_CHANNELS))
    assert np.isfinite(motion.cells).all()
    assert np.isfinite(motion.scene).all()


def test_repeated_and_missing_frames_change_no_speed():
    background = scenery()
    plain = extract(((k / 30, falling_disc(k / 30, background)) for k in range(90)), 3.0)
    doubled = extract(((k / 60, falling_disc(k // 2 / 30, background)) for k in range(180)), 3.0)
    ragged = extract(((k / 30, falling_disc(k / 30, background)) for k in range(90) if k % 7 != 3), 3.0)
    falling = slice(30, 70)
    for other in (doubled, ragged):
        assert np.median(other.activity[falling] / plain.activity[falling]) == pytest.approx(1.0, abs=0.15)
        assert stop_time_s(other) == pytest.approx(1.5, abs=0.05)


def test_a_long_pause_puts_the_change_at_its_end():
    background = scenery()
    frames = [(0.0, background), (2.0, falling_disc(0.3, background)), (2.04, falling_disc(0.6, background))]
    motion = extract(frames, 3.0)
    assert motion.activity[: round(1.7 * 50)].max() == 0
    assert motion.activity[round(1.85 * 50) : round(2.05 * 50)].max() > 0


def test_a_shaking_camera_is_not_motion_of_the_scene():
    background = scenery(220, 400)
    rng = np.random.default_rng(1)
    shifts = np.cumsum(rng.normal(0, 1.2, (90, 2)), axis=0).clip(-15, 15)

    def frame(k: int, falls: bool) -> np.ndarray:
        stage = falling_disc(k / 30, background) if falls else background
        moved = cv2.warpAffine(stage, np.float32([[1, 0, shifts[k][0]], [0, 1, shifts[k][1]]]), (400, 220))
        return moved[20:200, 40:360]

    shaken = extract(((k / 30, frame(k, False)) for k in range(90)), 3.0)
    falling = extract(((k / 30, frame(k, True)) for k in range(90)), 3.0)
    assert np.median(shaken.activity) < 0.15 * falling.activity.max()
    assert np.abs(shaken.scene[:, GLOBAL_CHANNELS.index("camera_speed")]).mean() > 0.3
    assert stop_time_s(falling) == pytest.approx(1.5, abs=0.06)


def test_camera_motion_is_fitted_behind_a_moving_thing():
    truth = (1.5, -0.8, 0.01, -0.005)
    flow = camera_flow(truth, 90, 160)
    flow[30:70, 60:110] += (4.0, 3.0)  # a sixth of the picture moves on its own
    assert fit_camera(flow, scenery(90, 160)) == pytest.approx(truth, abs=0.02)


def test_a_still_clip_has_no_motion_and_noise_is_not_blown_up():
    background = scenery()
    still = extract(((k / 30, background) for k in range(60)), 2.0)
    assert not still.cells.any()
    rng = np.random.default_rng(0)
    noisy = extract(
        (
            (k / 30, np.clip(background + rng.normal(0, 2, background.shape), 0, 255).astype(np.uint8))
            for k in range(60)
        ),
        2.0,
    )
    moving = extract(((k / 30, falling_disc(k / 30, background)) for k in range(60)), 2.0)
    assert noisy.cells[..., RMS].mean() < 0.3 * moving.cells[..., RMS].max()


def test_portrait_and_landscape_have_as_many_cells():
    assert cell_grid(90, 160) == (6, 8)
    assert cell_grid(160, 90) == (8, 6)
    for size in ((1080, 2048), (720, 576), (1280, 720), (100, 400)):
        h, w = work_size(*size)
        assert h * w == pytest.approx(14_400, rel=0.35)
        assert w / h == pytest.approx(size[1] / size[0], rel=0.05)
    tall = scenery(320, 180)
    assert extract(((k / 30, np.roll(tall, k, 0)) for k in range(30)), 1.0).cells.shape[1] == N_CELLS


@pytest.mark.parametrize("aspect", [15, 16, 20, 28, 31, 60, 256])
def test_a_banner_has_features_too(aspect):
    """A picture less than 32 px high crashes OpenCV's DIS flow, and the process with it."""
    for size in (grey_size(64 * aspect, 64), grey_size(64, 64 * aspect)):
        assert min(work_size(*size)) >= 32
        picture = scenery(*size)
        motion = extract(((k / 25, np.roll(picture, k, 1)) for k in range(4)), 0.2)
        assert np.isfinite(motion.cells).all()


@pytest.mark.parametrize("rate", [4.6, 4.8, 5.0, 6.0])
def test_steady_motion_at_few_frames_a_second_is_steady(rate):
    """No interval is taken for a pause and a jump, of which a timing net would make an event."""
    still, thing = scenery(), scenery(60, 60, seed=1)

    def frame(k: int) -> np.ndarray:
        picture = still.copy()
        picture[60:120, 20 + 4 * k : 80 + 4 * k] = thing
        return picture

    motion = extract(((k / rate, frame(k)) for k in range(int(8 * rate))), 8.0)
    inside = motion.activity[50:350]
    assert inside.min() > 0.2 * np.median(inside)


def test_features_are_the_same_however_often_they_are_made():
    background = scenery()
    first, second = (
        extract(((k / 25, falling_disc(k / 25, background)) for k in range(50)), 2.0, flow_rate=Fraction(22_050, 1024))
        for _ in range(2)
    )
    for name in ("cells", "scene", "activity", "flow"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_kept_flow_adds_up_to_the_way_that_was_gone():
    """A square goes right by 0.25 short sides in 1 s: its flow, summed over the feature frames, says the same."""
    background = scenery()
    rate = Fraction(22_050, 1024)

    def frame(time_s: float) -> np.ndarray:
        picture = background.copy()
        x = 100 + 45 * min(max(time_s, 0), 1)
        square = cv2.warpAffine(scenery(seed=5, grain=7), np.float32([[1, 0, x - 100], [0, 1, 0]]), (320, 180))
        left = round(x)
        picture[30:150, left : left + 110] = square[30:150, left : left + 110]
        return picture

    motion = extract(((k / 30, frame(k / 30)) for k in range(45)), 1.5, flow_rate=rate, flow_size=(48, 48))
    assert motion.flow.shape == (33, 48, 48, 2)
    assert motion.flow.dtype == np.float16
    inside = np.median(motion.flow[:, 18:30, 24:27, 0].astype(np.float64), axis=(1, 2))
    assert inside.sum() / float(rate) == pytest.approx(0.25, rel=0.3)  # the fast preset smooths across edges


def test_a_clip_of_one_frame_still_has_features():
    motion = extract([(0.0, scenery())], 0.5, flow_rate=Fraction(43, 2))
    assert motion.n_ticks == 25
    assert not motion.cells.any()
    assert motion.flow.shape[0] == 11


def test_flow_that_is_taken_on_the_way_is_the_flow_that_is_kept():
    background = scenery()
    frames = [(k / 25, falling_disc(k / 25, background)) for k in range(40)]
    kept = extract(iter(frames), 1.6, flow_rate=Fraction(22_050, 1024))
    extractor, taken = MotionExtractor(Fraction(22_050, 1024)), []
    for time_s, grey in frames:
        extractor.push(grey, time_s)
        taken += extractor.take_flow()
    rest = extractor.finish(1.6)
    assert len(taken) > 30
    np.testing.assert_array_equal(np.concatenate([np.stack(taken), rest.flow]), kept.flow)
    np.testing.assert_array_equal(rest.cells, kept.cells)
    assert MotionExtractor().take_flow() == []
