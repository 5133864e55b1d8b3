import numpy as np
import pytest

from s2s.conditioning import CURVES, choose_take, condition, condition_dim, take_code
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


def test_the_same_seed_is_the_same_take_and_another_seed_another():
    assert np.array_equal(choose_take("bell", 3, 16), choose_take("bell", 3, 16))
    takes = {choose_take("bell", seed, 16).tobytes() for seed in range(20)}
    assert len(takes) == 20


def test_a_take_is_one_that_training_saw():
    known = {take_code("wood", material, 0.5, 16)[:-1].tobytes() for material in range(24)}
    assert all(choose_take("wood", seed, 16)[:-1].tobytes() in known for seed in range(30))
