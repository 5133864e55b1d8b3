"""Solid bodies: contacts are where the picture shows them, fakes make no event, seeds and splits are kept."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from s2s.errors import InputError
from s2s.synth import scenes_solid
from s2s.synth.dataset import make_dataset
from s2s.synth.render import Stage
from s2s.synth.scenes import SHORTEST_GAP_S, draw_clip, make_script
from s2s.synth.scenes_curves import StrokeStyle
from s2s.synth.scenes_solid import FALLING, HANDS, STRIKERS, STRUCK, draw_solid_clip, simulate, view_of
from s2s.synth.script import KINDS, ScriptedEvent
from s2s.synth.solids import STEP_S, World, box, draw_world, sphere


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def dropped(height: float, onto: str = "floor", material: str = "rubber", seconds: float = 2.0):
    """A ball of 5 cm let go at 0.1 s so that its underside is `height` above the ground."""
    world = World(rng(0), "train")
    ground = world.add(box("ground", 1, 1, 0.05), onto, (0, 0, -0.05))
    ball = world.add(sphere("ball", 0.05), material, moves=True)
    start = np.array([0, 0, height + 0.05]), np.array([0.0, 0, 0, 1])
    ball.script, ball.release_s = (lambda _: start), 0.1
    return world, ground, ball, world.run(seconds)


def test_a_ball_is_heard_when_it_has_fallen_as_long_as_gravity_says():
    _, _, _, impacts = dropped(0.6)
    assert impacts[0].time_s == pytest.approx(0.1 + (2 * 0.6 / 9.81) ** 0.5, abs=0.004)
    assert len(impacts) >= 3


def test_at_each_contact_the_bodies_touch_and_just_before_they_do_not():
    _, _, ball, impacts = dropped(0.6)
    for impact in impacts[:3]:
        step = round(impact.time_s / STEP_S)
        gaps = ball.places[:, 2] - 0.05
        nearest = step - 20 + int(np.argmin(gaps[step - 20 : step + 20]))
        assert abs(nearest - step) <= 2
        assert abs(gaps[nearest]) < 0.005
        assert gaps[step - 15] > 0.008


def test_a_harder_blow_is_stronger_and_each_bounce_is_weaker():
    soft, hard = dropped(0.05)[3][0].strength, dropped(0.8)[3][0].strength
    assert 0.08 <= soft < hard <= 1
    strengths = [impact.strength for impact in dropped(0.8)[3][:3]]
    assert all(a > b for a, b in pairwise(strengths))


def test_a_thing_that_lies_or_lands_on_something_soft_makes_no_event():
    assert dropped(0.6, onto="cushion")[3] == []
    assert dropped(0.0005, material="wood", seconds=1.0)[3] == []


def test_what_waits_outside_of_the_scene_makes_no_event():
    world = World(rng(0), "train")
    world.add(box("ground", 1, 1, 0.05), "floor", (0, 0, -0.05))
    for _ in range(2):  # parked at one place, inside each other
        ball = world.add(sphere("ball", 0.05), "rubber", moves=True)
        ball.script, ball.release_s = (lambda _: scenes_solid._waits((np.zeros(3), np.eye(4)[3]), 9.0, 0.0)), 9.0
    assert world.run(0.3) == []


def struck(seed: int, kind: str, hits: list[float]) -> tuple[World, list, list]:
    """A world with one target and an arm, the arm's parts that may strike, and the target."""
    world = World(rng(seed), "test" if seed % 2 else "train")
    events = [ScriptedEvent(t, kind, 0.8, 0.5) for t in hits]
    scenes_solid._struck(world, kind, events, np.zeros(3), 3.0)
    bodies = list(world.bodies.values())
    arm = [b for b in bodies[1:] if b.shape.name != "forearm"]
    return world, arm, bodies[0]


@pytest.mark.parametrize("kind", STRUCK)
def test_an_arm_touches_its_target_exactly_at_its_events(kind):
    hits = [0.8, 1.9]
    for seed in range(2):
        world, arm, target = struck(seed, kind, hits)

        def gap(time_s: float, world=world, arm=arm, target=target) -> float:
            for body in arm:
                world.place(body, body.script(time_s))
            return min(world.gap(body, target) for body in arm)

        for t in hits:
            assert abs(gap(t)) < 0.002
            assert gap(t - 0.03) > 0.004
        assert min(gap(t) for t in np.arange(0.0, 3.0, 0.05)) > -0.004  # and it never goes through


def test_strokes_that_only_look_like_strokes_make_no_event(monkeypatch):
    monkeypatch.setattr(
        StrokeStyle, "draw", classmethod(lambda cls, r, endings: cls(endings, 0.9, 0.4, fakes=1.0, tremble=0.0))
    )
    monkeypatch.setattr(scenes_solid, "make_script", lambda *_: [])
    solids = scenes_solid.strike_scene(World(rng(3), "train"), 4.0)
    assert solids.events == []
    handle = next(b for b in solids.world.bodies.values() if b.shape.name in ("handle", "forearm"))
    heights = [handle.script(t)[0][2] for t in np.arange(0, 4, 0.05)]
    assert np.ptp(heights) > 0.02  # though the arm was not still


def test_events_are_in_order_apart_and_of_known_kinds():
    for seed in range(4):
        solids = simulate(rng(seed, 4), "test" if seed % 2 else "train", 1.5)
        for a, b in pairwise(solids.events):
            assert b.time_s - a.time_s >= SHORTEST_GAP_S[b.kind] - 1e-9
        assert all(e.kind in KINDS and 0 < e.strength <= 1 and 0 <= e.time_s < 1.5 for e in solids.events)


def test_something_is_seen_to_move_at_contacts():
    solids = scenes_solid.drop_scene(World(rng(2), "train"), 3.0)
    assert solids.events
    draw = draw_world(solids.world, view_of(rng(1), solids, (96, 54), 3.0))

    def at(time_s: float) -> np.ndarray:
        stage = Stage(np.zeros((54, 96, 3), np.uint8), 54)
        draw(stage, time_s)
        return stage.image.astype(int)

    changes = [np.abs(at(e.time_s) - at(e.time_s - 0.08)).max() for e in solids.events]
    assert np.median(changes) > 20


def test_a_solid_clip_is_the_same_for_the_same_seed_and_another_for_another():
    def made(seed: int):
        events, clip = draw_solid_clip(rng(seed), "train", 0.5, 48)
        return events, [image for _, image in clip.frames]

    (events, frames), (again, same), (_, other) = made(5), made(5), made(6)
    assert events == again
    assert len(frames) == len(same)
    assert all((a == b).all() for a, b in zip(frames, same, strict=True))
    assert len(other) != len(frames) or other[0].shape != frames[0].shape or (other[0] != frames[0]).any()


def test_what_the_test_shows_training_never_showed():
    def names(makers: list) -> set[str]:
        return {make(rng(0)).name for make in makers}

    for table in (FALLING, STRUCK):
        for kind, (_, train, test) in table.items():
            assert not {(kind, n) for n in names(train)} & {(kind, n) for n in names(test)}, kind
    assert not set(STRIKERS[0]) & set(STRIKERS[1])
    assert not set(HANDS[0]) & set(HANDS[1])


def test_a_set_of_solid_clips_is_whole_resumable_and_not_mixed_with_drawn_ones(tmp_path):
    asked = {"seed": 5, "split": "train", "bank": None, "duration_s": 0.5, "short_side_px": 48}
    first = make_dataset(tmp_path, 1, scenes="solid", **asked)
    both = make_dataset(tmp_path, 2, scenes="solid", **asked)
    assert both[0] == first[0]
    assert all(record.video.exists() and record.factors["surfaces"] for record in both)
    with pytest.raises(InputError, match="scenes"):
        make_dataset(tmp_path, 2, **asked)
    with pytest.raises(InputError, match="no 'clay' scenes"):
        make_dataset(tmp_path / "other", 1, scenes="clay", **asked)


@pytest.mark.parametrize(
    ("number", "kind", "split", "seen", "n_frames", "state", "means"),
    [
        (0, "drum", "train", "room", 14, 129324374, (71.8, 63.7, 76.6)),
        (1, "ball", "test", "windows", 15, 903411717, (76.6, 94.2, 82.3)),
        (2, "explosion", "train", "bokeh", 14, 843317786, (5.4, 4.4, 5.0)),
        (3, "glass", "test", "tiles", 16, 726912195, (75.2, 92.9, 90.7)),
    ],
)
def test_drawn_clips_are_what_they_were_before_there_were_photographs(
    number, kind, split, seen, n_frames, state, means
):
    """Published sets and figures rest on them: not one random number more is drawn."""
    r = rng(7, number)
    clip = draw_clip(make_script(r, split, 0.6, kind), 0.6, split, r, 48)
    frames = [image for _, image in clip.frames]
    assert (clip.factors["background"], len(frames)) == (seen, n_frames)
    assert r.bit_generator.state["state"]["state"] % 10**9 == state
    assert frames[-1].reshape(-1, 3).mean(axis=0) == pytest.approx(means, abs=0.5)
