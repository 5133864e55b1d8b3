"""Probability on the grid -> events."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from s2s.motion import CELL_CHANNELS, GLOBAL_CHANNELS, MotionFeatures
from s2s.timing.detect import WINDOW_TICKS, detect_events, event_curves, find_events, windows
from s2s.timing.net import TimingConfig, TimingNet, select_cells


def bumps(times_s, heights, n: int = 300, base: float = 0.02) -> np.ndarray:
    grid = np.arange(n) / 50
    return base + sum(h * np.exp(-0.5 * ((grid - t) / 0.03) ** 2) for t, h in zip(times_s, heights, strict=True))


def motion_of(cells: np.ndarray, scene: np.ndarray | None = None) -> MotionFeatures:
    n = len(cells)
    scene = np.zeros((n, len(GLOBAL_CHANNELS)), np.float32) if scene is None else scene
    return MotionFeatures(n / 50, cells.astype(np.float32), scene, np.ones(n, np.float32))


def test_peaks_are_placed_between_ticks():
    times = np.array([0.613, 1.507, 3.992])
    found = detect_events(bumps(times, [0.9, 0.8, 0.7]))
    assert [d.time_s for d in found] == pytest.approx(times, abs=0.003)
    assert found[0].confidence == pytest.approx(0.92, abs=0.03)


def test_two_events_are_never_closer_than_the_gap():
    found = detect_events(bumps([1.0, 1.12, 2.0], [0.6, 0.9, 0.8]), gap_s=0.2)
    assert [d.time_s for d in found] == pytest.approx([1.12, 2.0], abs=0.01)


def test_a_faint_clip_is_read_by_its_own_measure_but_not_below_the_floor():
    p = bumps([1.0, 3.0], [0.35, 0.3])
    assert len(detect_events(p, floor=0.2)) == 2
    assert detect_events(0.3 * p, floor=0.2) == []
    assert detect_events(np.full(300, 0.1)) == []


def test_a_single_event_in_a_long_clip_is_found():
    assert len(detect_events(bumps([42.0], [0.9], n=3000))) == 1


def test_very_short_clips_have_no_events_rather_than_an_error():
    assert detect_events(np.array([])) == []
    assert detect_events(np.array([0.9, 0.9])) == []


def test_windows_cover_everything_and_overlap():
    for n in (1, 299, WINDOW_TICKS, WINDOW_TICKS + 1, 5 * WINDOW_TICKS + 17):
        spans = windows(n)
        assert spans[0][0] == 0
        assert spans[-1][1] == n
        assert all(b[0] < a[1] for a, b in pairwise(spans))


def test_a_long_clip_is_read_as_if_in_one_piece():
    """As long as no more cells are lively than the net looks at, windows and the whole agree."""
    torch.manual_seed(0)
    net = TimingNet(TimingConfig(n_cells=16)).eval()
    rng = np.random.default_rng(0)
    n = 2 * WINDOW_TICKS + 130
    cells = np.zeros((n, 48, len(CELL_CHANNELS)))
    cells[:, 10:26] = rng.normal(0, 1, (n, 16, len(CELL_CHANNELS)))
    motion = motion_of(cells, rng.normal(0, 1, (n, len(GLOBAL_CHANNELS))).astype(np.float32))
    windowed, _ = event_curves(motion, net)
    with torch.inference_mode():
        whole = torch.sigmoid(
            net(torch.from_numpy(motion.cells[None, :, 10:26]), torch.from_numpy(motion.scene[None]))[0][0]
        )
    assert net.config.reach < 50
    np.testing.assert_allclose(windowed, whole.numpy(), atol=2e-2)  # the edges of a window are faded out
    assert np.abs(windowed - whole.numpy()).mean() < 1e-3


def test_an_answer_depends_on_no_more_than_the_reach():
    torch.manual_seed(0)
    net = TimingNet(TimingConfig()).eval()
    cells = np.random.default_rng(0).normal(0, 1, (200, 48, len(CELL_CHANNELS)))
    changed = cells.copy()
    changed[150:] *= -1.0
    with torch.inference_mode():
        first, second = (
            net(
                torch.from_numpy(select_cells(c.astype(np.float32), 48)[None]),
                torch.zeros(1, 200, len(GLOBAL_CHANNELS)),
            )[0][0]
            for c in (cells, changed)
        )
    same = 150 - net.config.reach
    torch.testing.assert_close(first[:same], second[:same])
    assert not torch.allclose(first[150:], second[150:])


def test_where_a_thing_is_in_the_picture_does_not_matter():
    torch.manual_seed(0)
    net = TimingNet(TimingConfig()).eval()
    rng = np.random.default_rng(0)
    cells = np.zeros((200, 48, len(CELL_CHANNELS)))
    cells[:, :16] = rng.normal(0, 1, (200, 16, len(CELL_CHANNELS)))
    moved = np.roll(cells, 13, axis=1)
    np.testing.assert_allclose(
        event_curves(motion_of(cells), net)[0], event_curves(motion_of(moved), net)[0], atol=1e-6
    )


def test_events_carry_confidence_and_strength_within_bounds():
    torch.manual_seed(1)
    net = TimingNet(TimingConfig(floor=0.0))
    cells = np.random.default_rng(0).normal(0, 3, (300, 48, len(CELL_CHANNELS)))
    found = find_events(motion_of(cells), net)
    assert found
    assert all(0 <= d.confidence <= 1 and 0 <= d.strength <= 1 and 0 <= d.time_s < 6 for d in found)


def test_the_net_stays_small():
    assert sum(p.numel() for p in TimingNet(TimingConfig()).parameters()) < 50_000


def test_codec_noise_of_a_still_picture_is_no_event():
    torch.manual_seed(1)
    net = TimingNet(TimingConfig(floor=0.0))
    motion = motion_of(np.random.default_rng(0).normal(0, 3, (300, 48, len(CELL_CHANNELS))))
    assert find_events(motion, net)
    assert not find_events(replace(motion, activity=np.full(300, 0.006)), net)
