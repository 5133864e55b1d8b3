import numpy as np
import pytest

from s2s.conditioning import CURVES, DECAYS_S, FALL_NEPERS, choose_take, condition, condition_dim, take_code
from s2s.events import SoundEvent
from s2s.spec import ClipSpec

CLIP = ClipSpec()


def curves(*events: tuple[float, float], n_frames: int = 60) -> np.ndarray:
    """(CURVES, mel frames) of events given as (time, strength)."""
    encoded = condition([SoundEvent(t, "drum", s, 1.0) for t, s in events], np.zeros(2), n_frames, CLIP)
    assert encoded.shape == (n_frames, condition_dim(CLIP, 2))
    folded = encoded[:, :-2].reshape(n_frames, CURVES, CLIP.mel_per_frame)
    return folded.transpose(1, 0, 2).reshape(CURVES, -1)


@pytest.mark.parametrize("time_s", [0.0, 0.4004, 1.0, 1.2345, 2.7])
def test_an_event_is_placed_between_mel_frames_where_it_happened(time_s):
    onset = curves((time_s, 0.8))[0]
    frames = np.arange(len(onset))
    assert onset.sum() == pytest.approx(0.8, abs=1e-5)
    assert (onset * frames).sum() / onset.sum() == pytest.approx(time_s * float(CLIP.mel.frame_rate), abs=1e-3)


def test_nothing_is_heard_before_the_first_event():
    time_s = 1.5
    before = int(time_s * float(CLIP.mel.frame_rate))
    assert not curves((time_s, 1.0))[:, :before].any()


def test_events_outside_the_clip_are_left_out():
    assert not curves((-1.0, 1.0), (99.0, 1.0)).any()


def test_the_kind_is_told_in_every_frame():
    encoded = condition([], np.array([0.25, 0.75]), 7, CLIP)
    assert np.allclose(encoded[:, -2:], [0.25, 0.75])


def test_a_hit_rings_in_straight_lines_that_start_higher_when_it_is_harder():
    rate, at = float(CLIP.mel.frame_rate), 0.5
    soft, hard = curves((at, 0.2))[1:], curves((at, 1.0))[1:]
    start = int(np.ceil(at * rate))
    for row, decay_s in enumerate(DECAYS_S):
        line = hard[row, start : start + 1 + int(decay_s * rate)]
        assert np.allclose(np.diff(line), -1 / (rate * decay_s * FALL_NEPERS), atol=1e-5)
        assert 0 < soft[row, start] < hard[row, start] <= 1
    assert (hard >= 0).all()


def test_a_soft_hit_does_not_cut_the_ring_of_a_hard_one():
    alone, followed = curves((0.5, 1.0)), curves((0.5, 1.0), (0.9, 0.1))
    assert (followed >= alone).all()


def test_the_same_name_is_the_same_take_and_another_name_another():
    assert np.array_equal(take_code("bell/3/0.5", 16), take_code("bell/3/0.5", 16))
    codes = np.stack([take_code(f"bell/{n}/0.5", 16) for n in range(50)])
    assert len(np.unique(codes, axis=0)) == 50
    assert abs(codes.mean()) < 0.1
    assert codes.std() == pytest.approx(1, abs=0.1)


def test_seeds_go_through_the_takes_the_most_convincing_first():
    takes = ("bell/3/0.5", "bell/1/0.25", "bell/7/0.5")
    assert [choose_take(takes, seed) for seed in range(4)] == [*takes, takes[0]]
