"""Scenes: what the script says is what is seen, at its moment; tests show what training never showed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2s.synth.render import Camera, Recording, Shot, Stage, film, stage_size
from s2s.synth.scenes import PICTURES, SHORTEST_GAP_S, draw_clip, draw_picture, make_script
from s2s.synth.scenes_curves import Key, StrokeStyle, curve_times, stroke, through
from s2s.synth.scenes_motion import bounce_curve
from s2s.synth.scenes_strike import STRIKES
from s2s.synth.scenes_textures import TEST_BACKGROUNDS, TEST_SURFACES, TRAIN_BACKGROUNDS, TRAIN_SURFACES, colour
from s2s.synth.script import KINDS, ScriptedEvent


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_keeps_its_times_in_order_and_apart(kind):
    for seed in range(20):
        events = make_script(rng(seed), "train", 6.0, kind)
        times = np.array([e.time_s for e in events])
        assert {e.kind for e in events} <= {kind}
        assert (np.diff(times) >= SHORTEST_GAP_S[kind] - 1e-9).all()
        assert ((times >= 0.1) & (times < 6.0)).all()
        assert all(0 < e.strength <= 1 and 0 <= e.size <= 1 for e in events)
        sizes = {e.material: {f.size for f in events if f.material == e.material} for e in events}
        assert all(len(s) == 1 for s in sizes.values())  # one instrument has one size


def test_scripts_are_silent_now_and_then_and_cover_every_kind():
    scripts = [make_script(rng(seed), "train") for seed in range(300)]
    assert 0.02 < np.mean([not s for s in scripts]) < 0.12
    assert {e.kind for s in scripts for e in s} == set(KINDS)
    assert any(len({e.kind for e in s}) == 2 for s in scripts)
    with pytest.raises(ValueError, match="split"):
        make_script(rng(0), "practice")


def test_every_kind_has_at_least_two_pictures():
    for kind in KINDS:
        ways = sum(len(STRIKES[kind]) if way.__name__ == "strike_picture" else 2 for way, _ in PICTURES[kind])
        assert ways >= 2, kind
        assert sum(share for _, share in PICTURES[kind]) == pytest.approx(1.0)


def test_a_stroke_touches_at_its_hits_at_speed_and_nowhere_else():
    """Speed into p = 0 is what makes a sound: fakes turn above the target or are laid down gently."""
    for seed in range(60):
        r = rng(seed)
        hits = [(t, 0.7) for t in (0.8, 1.3, 2.6, 4.9)]
        style = StrokeStyle(("rebound", "dead_stop", "follow"), 0.9, 0.3, 0.8, 0.01)
        curve = stroke(r, hits, 6.0, style)
        for t, _ in hits:
            assert curve(t) == pytest.approx(0.0, abs=0.012)
            assert curve(t - 0.02) > 0.015
        grid = curve_times(6.0)
        values = np.array([curve(t) for t in grid])
        speed = np.gradient(values, grid)
        away = np.all([np.abs(grid - t) > 0.26 for t, _ in hits], axis=0) & (grid > 0) & (grid < 6)
        assert not (away & (values < 0.02) & (speed < -2.0)).any()


def test_stronger_strokes_arrive_faster():
    def arrival(strength: float) -> float:
        speeds = []
        for seed in range(30):
            curve = stroke(rng(seed), [(2.0, strength)], 4.0, StrokeStyle(("dead_stop",), 0.8, 0.3, 0.0, 0.0))
            speeds.append((curve(1.97) - curve(1.995)) / 0.025)
        return float(np.median(speeds))

    assert arrival(1.0) > 1.5 * arrival(0.3)


def test_a_ball_is_on_the_floor_exactly_at_its_events():
    for seed in range(20):
        events = make_script(rng(seed), "train", 6.0, "ball")
        curve = bounce_curve(rng(seed, 1), events, 6.0, 6.0, 0.6)
        for e in events:
            assert curve(e.time_s) == pytest.approx(0.0, abs=0.02)
            assert curve(e.time_s - 0.04) > 0.0
        heights = np.array([curve(t) for t in np.arange(0, events[-1].time_s, 0.01)])
        assert heights.min() >= -1e-6
        assert heights.max() < 1.3


def test_curves_pass_through_their_keys_with_a_break_in_speed():
    curve = through([Key(0.0, 1.0), Key(1.0, 0.0, v_in=-4.0, v_out=2.0), Key(2.0, 0.5)], 2.0)
    assert curve(1.0) == pytest.approx(0.0, abs=1e-3)
    assert (curve(1.0) - curve(0.98)) / 0.02 == pytest.approx(-4.0, abs=0.4)
    assert (curve(1.02) - curve(1.0)) / 0.02 == pytest.approx(2.0, abs=0.4)


def test_test_clips_are_made_of_factors_that_training_never_shows():
    assert not set(TRAIN_BACKGROUNDS) & set(TEST_BACKGROUNDS)
    assert not set(TRAIN_SURFACES) & set(TEST_SURFACES)

    def hues(split: str) -> set[int]:
        picks = np.uint8([[colour(rng(seed), split, (150, 230), (120, 200)) for seed in range(200)]])
        return {int(h) // 4 for h in cv2.cvtColor(picks, cv2.COLOR_BGR2HSV)[0, :, 0]}

    assert not hues("train") & hues("test")
    assert hues("val") <= hues("train")
    for kind, ways in STRIKES.items():
        for way in ways:
            assert set(way.test_movers) - set(way.movers), f"{kind}: the test needs a mover that is new"


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_changes_at_every_event(kind):
    """Around a strong event more of the picture changes than in the quietest stretch of the clip."""
    seen = 0
    for seed in range(6):
        events = [ScriptedEvent(1.0, kind, 1.0, 0.6)]
        r = rng(seed, 7)
        size = (192, 144)
        picture = draw_picture(r, "train", kind, events, 2.0, size)
        assert picture.background.shape[:2] == stage_size(size)

        def at(t: float, picture=picture) -> np.ndarray:
            stage = Stage(picture.background.copy(), 144.0)
            for layer in picture.layers:
                layer(stage, t)
            return stage.image.astype(np.int16) * picture.light(t)

        around = np.abs(at(1.02) - at(0.96)).sum()
        seen += around > 2000
    assert seen >= 5


def test_a_clip_is_the_same_for_the_same_seed_and_another_for_another():
    def frames(seed: int) -> list[np.ndarray]:
        events = make_script(rng(3), "test", 1.0, "drum")
        return [image for _, image in draw_clip(events, 1.0, "test", rng(seed)).frames]

    first, again, other = frames(1), frames(1), frames(2)
    assert len(first) == len(again)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert len(other) != len(first) or other[0].shape != first[0].shape or (other[0] != first[0]).any()


def test_every_split_and_kind_can_be_drawn_in_every_format():
    shapes, rates = set(), set()
    for number, kind in enumerate(KINDS):
        for split in ("train", "test"):
            clip = draw_clip(
                make_script(rng(number, 1), split, 0.6, kind), 0.6, split, rng(number, 2), short_side_px=96
            )
            images = [image for _, image in clip.frames]
            assert images
            assert {image.shape for image in images} == {(clip.size[1], clip.size[0], 3)}
            assert min(clip.size) == 96
            shapes.add(clip.size[0] > clip.size[1])
            rates.add(clip.recording.rate)
    assert shapes == {True, False}
    assert len(rates) > 3


def test_repeated_and_dropped_frames_are_recorded_as_such():
    size = (64, 64)
    r = rng(0)
    picture = draw_picture(r, "train", "ball", [ScriptedEvent(0.5, "ball", 1.0, 0.5)], 1.0, size)
    shots = [Shot(picture, Camera.draw(r, 1.0, []), 0.0, 2.0)]
    plain = Recording(
        rate=30,
        hold=1,
        repeat_share=0,
        drop_share=0,
        exposure=0.5,
        noise=0,
        soften=0,
        gain=1,
        gamma=1,
        flicker=0,
        jpeg=0,
        crf=20,
    )
    held = Recording(**{**plain.__dict__, "hold": 2})
    dropped = Recording(**{**plain.__dict__, "drop_share": 0.3})
    assert [n for n, _ in film(shots, plain, size, 1.0, rng(1))] == list(range(30))
    twice = [image for _, image in film(shots, held, size, 1.0, rng(1))]
    assert all((twice[2 * k] == twice[2 * k + 1]).all() for k in range(15))
    numbers = [n for n, _ in film(shots, dropped, size, 1.0, rng(1))]
    assert len(numbers) < 30
    assert numbers == sorted(set(numbers))
