"""A script of events -> the clip that shows them. `make_script` writes one, `draw_clip` films it.

What fools a timing model is here on purpose: strokes that turn or stop short, silent movers, things in front of the
lens, cuts, shake, flicker, repeated frames. Contact times are those of the script, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from s2s.synth.photos import PhotoBank, photographs_behind
from s2s.synth.render import Camera, Draw, Picture, Recording, Shot, Stage, film, stage_size
from s2s.synth.scenes_curves import Curve, Key, curve_times, through, wander
from s2s.synth.scenes_flash import flash_picture
from s2s.synth.scenes_motion import (
    ball_picture,
    clink_picture,
    drop_picture,
    fall_picture,
    swing_picture,
    typing_picture,
)
from s2s.synth.scenes_strike import strike_picture
from s2s.synth.scenes_textures import Rng, colour, pick
from s2s.synth.script import KINDS, MATERIALS, ScriptedEvent

# val: other clips of the training factors; test: backgrounds, surfaces and hues that training never shows, new movers
# and a part of the old ones
SPLITS = ("train", "val", "test")

PICTURES = {  # ways to show a kind, with their shares
    "drum": ((strike_picture, 1.0),),
    "hand_drum": ((strike_picture, 1.0),),
    "wood": ((strike_picture, 0.85), (fall_picture, 0.15)),
    "metal": ((strike_picture, 0.85), (fall_picture, 0.15)),
    "glass": ((strike_picture, 0.45), (clink_picture, 0.35), (fall_picture, 0.2)),
    "ball": ((ball_picture, 1.0),),
    "bell": ((strike_picture, 0.55), (swing_picture, 0.45)),
    "typing": ((typing_picture, 1.0),),
    "water": ((drop_picture, 0.75), (strike_picture, 0.25)),
    "explosion": ((flash_picture, 1.0),),
}

SHORTEST_GAP_S = {
    "typing": 0.09,
    "drum": 0.11,
    "hand_drum": 0.12,
    "wood": 0.14,
    "metal": 0.16,
    "glass": 0.16,
    "ball": 0.13,
    "bell": 0.28,
    "water": 0.2,
    "explosion": 0.22,
}
_SILENT_SHARE = 0.06
_TWO_KINDS_SHARE = 0.08


def make_script(rng: Rng, split: str, duration_s: float = 6.0, kind: str | None = None) -> list[ScriptedEvent]:
    """Events of one clip in order of time; now and then two kinds, one after the other, or none at all.

    kind: the only kind to use; None draws. The rhythm does not depend on the split: only what is seen does.
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {SPLITS}, not {split!r}")
    if kind is None and rng.random() < _SILENT_SHARE:
        return []
    if kind is None and rng.random() < _TWO_KINDS_SHARE:
        first, second = rng.choice(len(KINDS), 2, replace=False)
        cut_s = duration_s * rng.uniform(0.35, 0.65)
        return _events(rng, KINDS[first], 0.1, cut_s - 0.25) + _events(
            rng, KINDS[second], cut_s + 0.25, duration_s - 0.15
        )
    kind = kind or KINDS[int(rng.integers(len(KINDS)))]
    return _events(rng, kind, 0.1, duration_s - 0.15)


def _events(rng: Rng, kind: str, start_s: float, end_s: float) -> list[ScriptedEvent]:
    times, strengths = (
        _bounces(rng, start_s, end_s) if kind == "ball" else _rhythm(rng, SHORTEST_GAP_S[kind], start_s, end_s)
    )
    n_materials = (
        int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
        if kind in ("drum", "hand_drum", "wood", "metal", "glass")
        else 1
    )
    sizes, materials = rng.random(n_materials), rng.choice(MATERIALS, n_materials, replace=False)
    return [
        ScriptedEvent(float(t), kind, float(np.clip(s, 0.08, 1.0)), float(sizes[m]), int(materials[m]))
        for t, s, m in zip(times, strengths, rng.integers(0, n_materials, len(times)), strict=True)
    ]


def _rhythm(rng: Rng, gap_s: float, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Beats, scattered hits, bursts or a few single ones, never closer than the kind allows."""
    manner = rng.choice(["beat", "scattered", "bursts", "single"], p=[0.3, 0.3, 0.15, 0.25])
    span = end_s - start_s
    if manner == "beat":
        period = max(gap_s * 1.3, float(np.exp(rng.uniform(np.log(0.22), np.log(1.3)))))
        times = start_s + rng.uniform(0, min(period, span)) + np.arange(0, span, period)
        times = times[rng.random(len(times)) > rng.choice([0.0, 0.2])] + 0.0
        times = times + rng.normal(0, rng.choice([0.0, 0.02, 0.05]) * period, len(times))
    elif manner == "scattered":
        times = start_s + np.cumsum(gap_s * 1.2 + rng.exponential(rng.uniform(0.25, 0.9), 40))
    elif manner == "bursts":
        steps = []
        while sum(steps) < span:
            steps += [rng.uniform(0.6, 1.4), *(max(gap_s, 0.16) * rng.uniform(1.0, 1.5, rng.integers(2, 6)))]
        times = start_s + np.cumsum(steps)
    else:
        times = start_s + rng.uniform(0.05, 1.0, rng.integers(1, 5)) * span
    times = np.sort(times[(times >= start_s) & (times <= end_s)])
    kept: list[float] = []
    for t in times:
        if not kept or t - kept[-1] >= gap_s:
            kept.append(float(t))
    base, spread = rng.uniform(0.4, 0.9), rng.uniform(0.05, 0.3)
    return np.array(kept), rng.normal(base, spread, len(kept))


def _bounces(rng: Rng, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray]:
    """A ball let fall, bouncing lower each time; or kept going by somebody."""
    times, strengths = [], []
    t = start_s + rng.uniform(0.1, 1.2)
    if rng.random() < 0.4:  # dribbled
        period = rng.uniform(0.35, 0.9)
        while t < end_s:
            times.append(t)
            strengths.append(rng.normal(0.75, 0.1))
            t += period * rng.normal(1, 0.05)
        return np.array(times), np.array(strengths)
    while t < end_s:
        flight, loss = rng.uniform(0.5, 1.1), rng.uniform(0.6, 0.88)
        strength = rng.uniform(0.7, 1.0)
        while flight > SHORTEST_GAP_S["ball"] and t < end_s:
            times.append(t)
            strengths.append(strength)
            t += flight
            flight *= loss
            strength *= loss
        t += rng.uniform(0.9, 2.0)
    return np.array(times), np.array(strengths)


@dataclass(frozen=True)
class Clip:
    """A filmed script: `frames` yields (frame number, BGR uint8 (h, w, 3)) once; `factors` says what was drawn."""

    frames: Iterator[tuple[int, np.ndarray]]
    size: tuple[int, int]  # width, height
    recording: Recording
    factors: dict[str, str]
    photos: tuple[str, ...] = ()  # names of the photographs in it


PHOTO_SHARE = 0.5  # of backgrounds, where there are photographs


def draw_clip(
    events: Sequence[ScriptedEvent],
    duration_s: float,
    split: str,
    rng: Rng,
    short_side_px: int = 144,
    photos: PhotoBank | None = None,
) -> Clip:
    """Films a script. Everything but the events is drawn from `rng`; frames are made as they are taken.

    photos: photographs to put behind half of the shots; without them a seed draws what it always drew.
    """
    width, height = pick(rng, "train", [(16, 9), (16, 9), (16, 9), (4, 3), (4, 3), (1, 1), (9, 16), (3, 4)], [])
    k = short_side_px / min(width, height)
    size = (round(width * k / 2) * 2, round(height * k / 2) * 2)
    recording = Recording.draw(rng)
    shots, factors, behind = [], {}, []
    for start_s, end_s, kind, own in _shots(rng, events, duration_s):
        with photographs_behind(photos, PHOTO_SHARE) as used:
            picture = draw_picture(rng, split, kind, own, duration_s, size)
        behind += used
        shots.append(Shot(picture, Camera.draw(rng, duration_s, picture.jolts), start_s, end_s))
        factors.setdefault("kinds", kind)
        factors |= {k: f"{factors[k]}, {v}" if k in factors else v for k, v in picture.factors.items()}
    factors |= {"shots": str(len(shots)), "rate": str(recording.rate), "crf": str(recording.crf)}
    return Clip(film(shots, recording, size, duration_s, rng), size, recording, factors, tuple(behind))


def draw_picture(
    rng: Rng, split: str, kind: str, events: Sequence[ScriptedEvent], duration_s: float, size: tuple[int, int]
) -> Picture:
    """One shot's picture: a way to show the kind, and what only distracts."""
    ways = PICTURES[kind]
    way = ways[int(rng.choice(len(ways), p=[share for _, share in ways]))][0]
    picture = way(rng, split, kind, events, duration_s, stage_size(size), float(min(size)))
    for _ in range(int(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15]))):
        picture.layers.insert(0, silent_mover(rng, split, duration_s))
    if rng.random() < 0.12:
        picture.layers.append(occluder(rng, split, duration_s))
    return picture


def _shots(
    rng: Rng, events: Sequence[ScriptedEvent], duration_s: float
) -> list[tuple[float, float, str, list[ScriptedEvent]]]:
    """Start, end, kind and events of each shot. A change of kind is a cut; others fall away from events."""
    events = sorted(events, key=lambda e: e.time_s)
    kind = events[0].kind if events else KINDS[int(rng.integers(len(KINDS)))]
    cuts = [(a.time_s + b.time_s) / 2 for a, b in pairwise(events) if a.kind != b.kind]
    if not cuts and rng.random() < 0.15:
        wanted = rng.uniform(0.15, 0.85, rng.integers(1, 4)) * duration_s
        cuts = sorted(float(c) for c in wanted if all(abs(c - e.time_s) > 0.12 for e in events))
    edges = [0.0, *cuts, duration_s + 1.0]
    shots = []
    for start_s, end_s in pairwise(edges):
        own = [e for e in events if start_s <= e.time_s < end_s]
        kind = own[0].kind if own else kind
        shots.append((start_s, end_s, kind, own))
    return shots


def silent_mover(rng: Rng, split: str, duration_s: float) -> Draw:
    """Something that moves behind and makes no sound: it crosses, sways, pumps, or stops and starts."""
    manner = pick(rng, split, ["cross", "sway", "pump", "stop"], ["cross", "sway", "pump", "stop"])
    c, size = colour(rng, split, (20, 250)), rng.uniform(0.03, 0.18)
    x0, y0 = rng.uniform(-0.8, 0.8), rng.uniform(-0.5, 0.4)
    t = curve_times(duration_s)
    if manner == "cross":
        x = Curve(x0 + rng.normal(0, 0.4) * (t - rng.uniform(0, duration_s)))
        y = Curve(y0 + wander(rng, duration_s, 0.03))
    elif manner == "sway":
        rate, amount = rng.uniform(0.3, 2.5), rng.uniform(0.03, 0.2)
        x, y = Curve(x0 + amount * np.sin(6.28 * rate * t)), Curve(y0 + wander(rng, duration_s, 0.02))
    elif manner == "pump":
        rate, amount = rng.uniform(0.5, 2.5), rng.uniform(0.03, 0.25)
        x, y = Curve(x0 + wander(rng, duration_s, 0.02)), Curve(y0 - amount * np.sin(6.28 * rate * t))
    else:
        times = np.sort(rng.uniform(-0.5, duration_s, 6))
        keys = [Key(float(s), x0 + rng.normal(0, 0.2), 0.0, 0.0) for s in times]
        x, y = through(keys, duration_s), Curve(y0 + wander(rng, duration_s, 0.01))
    box = rng.random() < 0.5

    def draw(stage: Stage, time_s: float) -> None:
        px, py = x(time_s), y(time_s)
        if box:
            stage.polygon(
                [
                    (px - size, py - size * 1.6),
                    (px + size, py - size * 1.6),
                    (px + size, py + size * 2),
                    (px - size, py + size * 2),
                ],
                c,
            )
        else:
            stage.ellipse(px, py, size, size * 1.3, c)
            stage.circle(px, py - size * 1.7, size * 0.6, colour_of_head)

    colour_of_head = tuple(min(255, int(v * 1.2)) for v in c)
    return draw


def occluder(rng: Rng, split: str, duration_s: float) -> Draw:
    """Something that passes in front of the lens."""
    c = colour(rng, split, (10, 160))
    cross_s, speed = rng.uniform(0, duration_s), rng.normal(0, 0.8)
    width, tilt = rng.uniform(0.06, 0.3), rng.normal(0, 0.3)

    def draw(stage: Stage, t: float) -> None:
        x = speed * (t - cross_s) + 1.2 * np.sign(speed) * -0.2
        stage.polygon(
            [
                (x - width / 2 - tilt, -1.2),
                (x + width / 2 - tilt, -1.2),
                (x + width / 2 + tilt, 1.2),
                (x - width / 2 + tilt, 1.2),
            ],
            c,
        )

    return draw
