"""Clips of solid bodies: things that fall, bounce, roll, swing, topple and are struck, filmed in three dimensions.

Where physics moves the bodies, the events are its contacts, to the millisecond. Where an arm strikes, the script comes
first (`make_script`) and the arm touches exactly at its events; in between it also turns short of the target, stops in
the air, or is laid down, which makes no sound. The picture is filmed as drawn scenes are (`s2s.synth.render`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import cv2
import numpy as np

from s2s.synth.photos import PhotoBank
from s2s.synth.render import Camera, Picture, Recording, Shot, film, stage_size
from s2s.synth.scenes import SHORTEST_GAP_S, Clip, make_script, occluder, silent_mover
from s2s.synth.scenes_curves import Curve, Ringing, StrokeStyle, stroke, wander
from s2s.synth.scenes_textures import Rng, background, hsv, pick
from s2s.synth.script import MATERIALS as N_INSTANCES
from s2s.synth.script import ScriptedEvent
from s2s.synth.solids import (
    AUDIBLE_SPEED,
    PARKED,
    Body,
    Impact,
    Place,
    Shape,
    View,
    World,
    box,
    cylinder,
    draw_world,
    drum_paint,
    paint,
    sphere,
    turned,
)
from s2s.synth.solids import MATERIALS as SOLID_MATERIALS

Vector = Sequence[float]


@dataclass(frozen=True)
class Solids:
    """A world that has been run, what sounds in it, and where a camera should look."""

    world: World
    events: list[ScriptedEvent]
    middle: tuple[float, float, float]
    reach: float  # half the height that should be seen, m
    facing: float  # how far the camera may go around from the front, radians
    factors: dict[str, str]


# --------------------------------------------------------------------------------------------------------------- bodies


def _ball(rng: Rng) -> Shape:
    return sphere("ball", rng.uniform(0.04, 0.11))


def _big_ball(rng: Rng) -> Shape:
    return sphere("big ball", rng.uniform(0.07, 0.14))


def _block(rng: Rng) -> Shape:
    return box("block", *rng.uniform(0.03, 0.09, 3))


def _stick(rng: Rng) -> Shape:
    return box("stick", rng.uniform(0.12, 0.22), rng.uniform(0.01, 0.02), rng.uniform(0.01, 0.02))


def _can(rng: Rng) -> Shape:
    return cylinder("can", rng.uniform(0.03, 0.06), rng.uniform(0.04, 0.09))


def _cup(rng: Rng) -> Shape:
    r, h = rng.uniform(0.03, 0.05), rng.uniform(0.07, 0.13)
    return turned("cup", (0.7 * r, 0), (0.8 * r, 0.3 * h), (r, h))


def _marble(rng: Rng) -> Shape:
    return sphere("marble", rng.uniform(0.02, 0.04))


def _plank(rng: Rng) -> Shape:
    return box("plank", rng.uniform(0.14, 0.25), rng.uniform(0.03, 0.06), rng.uniform(0.008, 0.015))


def _log(rng: Rng) -> Shape:
    return cylinder("log", rng.uniform(0.03, 0.05), rng.uniform(0.08, 0.15))


def _bar(rng: Rng) -> Shape:
    return box("bar", rng.uniform(0.12, 0.22), rng.uniform(0.012, 0.03), rng.uniform(0.008, 0.015))


def _plate(rng: Rng) -> Shape:
    return cylinder("plate", rng.uniform(0.07, 0.13), rng.uniform(0.006, 0.012))


def _bottle(rng: Rng) -> Shape:
    r, h = rng.uniform(0.03, 0.045), rng.uniform(0.18, 0.28)
    return turned("bottle", (0.9 * r, 0), (r, 0.04 * h), (r, 0.6 * h), (0.35 * r, 0.78 * h), (0.35 * r, h))


def _bowl(rng: Rng) -> Shape:
    r, h = rng.uniform(0.06, 0.09), rng.uniform(0.04, 0.07)
    return turned("bowl", (0.45 * r, 0), (0.85 * r, 0.5 * h), (r, h))


FALLING: dict[str, tuple[str, list, list]] = {  # kind: material, bodies of training, bodies of the test
    "ball": ("rubber", [_ball], [_big_ball]),
    "wood": ("wood", [_block, _stick], [_plank, _log]),
    "metal": ("metal", [_can, _stick], [_bar, _plate]),
    "glass": ("glass", [_cup, _marble], [_bottle, _bowl]),
}


def _drum(rng: Rng) -> Shape:
    return cylinder("drum", rng.uniform(0.12, 0.2), rng.uniform(0.06, 0.16))


def _frame_drum(rng: Rng) -> Shape:
    return cylinder("frame drum", rng.uniform(0.14, 0.22), rng.uniform(0.02, 0.035))


def _bell(rng: Rng) -> Shape:
    r = rng.uniform(0.07, 0.13)
    return turned("bell", (r, 0), (0.75 * r, 0.3 * r), (0.6 * r, 1.1 * r), (0.25 * r, 1.4 * r))


def _bowl_bell(rng: Rng) -> Shape:
    r = rng.uniform(0.08, 0.13)
    return turned("bowl bell", (0.5 * r, 0), (0.95 * r, 0.4 * r), (r, 0.8 * r))


def _pan(rng: Rng) -> Shape:
    return cylinder("pan", rng.uniform(0.1, 0.15), rng.uniform(0.02, 0.04))


def _anvil(rng: Rng) -> Shape:
    return box("anvil", rng.uniform(0.08, 0.15), rng.uniform(0.05, 0.08), rng.uniform(0.04, 0.08))


def _chunk(rng: Rng) -> Shape:
    return box("chunk", rng.uniform(0.08, 0.18), rng.uniform(0.06, 0.1), rng.uniform(0.03, 0.08))


STRUCK: dict[str, tuple[str, list, list]] = {
    "drum": ("wood", [_drum], [_frame_drum]),
    "hand_drum": ("wood", [_drum], [_frame_drum]),
    "wood": ("wood", [_chunk], [_log]),
    "metal": ("metal", [_anvil, _can], [_pan, _plate]),
    "glass": ("glass", [_cup], [_bottle, _bowl]),
    "bell": ("metal", [_bell], [_bowl_bell]),
}
STRIKERS = (["hammer", "stick", "drumstick"], ["mallet", "rod"])
HANDS = (["fist"], ["palm"])


# --------------------------------------------------------------------------------------------------------------- scenes


def _floor(world: World) -> str:
    """A ground that fills the picture, or a table; its top is z = 0."""
    rng = world.rng
    if rng.random() < 0.5:
        use, half, name = pick(rng, world.split, ["wood", "stone", "ground"], ["stone", "ground"]), 1.6, "ground"
    else:
        use, half, name = pick(rng, world.split, ["wood", "stone"], ["wood", "metal"]), rng.uniform(0.5, 0.9), "table"
    picture = None
    if world.photos is not None and rng.random() < 0.8:
        found, picture = world.photos.surface(rng, use, 384, 384)
        world.surfaces.append(found)
        picture = cv2.GaussianBlur(np.tile(picture, (2, 2, 1)) if name == "ground" else picture, (0, 0), 1.2)
    world.add(box(name, half, half * rng.uniform(0.6, 1.0), 0.05), "floor", (0, 0, -0.05), picture=picture)
    return name


def _falling_body(world: World, kind: str) -> Body:
    material, *shapes = FALLING[kind]
    make = pick(world.rng, world.split, *shapes)
    return world.add(make(world.rng).scaled(world.rng.uniform(1.0, 1.8)), material, moves=True)


def _any_turn(rng: Rng) -> np.ndarray:
    q = rng.normal(size=4)
    return q / np.linalg.norm(q)


def drop_scene(world: World, duration_s: float) -> Solids:
    """Bodies come to the floor one after another: let go by a hand, or from above the picture, some onto a cushion."""
    rng = world.rng
    floor = _floor(world)
    kind = str(rng.choice(list(FALLING), p=[0.34, 0.26, 0.2, 0.2]))
    middle_z, spread = rng.uniform(0.12, 0.28), 0.25
    cushion = None
    if rng.random() < 0.3:
        cushion = (rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.1))
        height = rng.uniform(0.01, 0.05)
        world.add(box("cushion", 0.16, 0.16, height), "cushion", (*cushion, height))
    time_s, names = rng.uniform(0.05, 0.9), set()
    for _ in range(int(rng.integers(1, 7))):
        if time_s > duration_s - 0.3:
            break
        body = _falling_body(world, kind)
        names.add(body.shape.name)
        x, y = rng.uniform(-spread, spread), rng.uniform(-0.12, 0.12)
        if cushion and rng.random() < 0.4:
            x, y = cushion
        turn = _any_turn(rng)
        if rng.random() < 0.45:
            _handed(world, body, np.array([x, y, rng.uniform(0.25, 0.5)]), turn, time_s)
        else:
            body.script = partial(_waits, (np.array([x, y, rng.uniform(0.7, 1.3)]), turn), time_s)
            body.release_s = time_s
            body.velocity = (rng.normal(0, 0.15), rng.normal(0, 0.1), -rng.uniform(0, 2))
            body.spin = tuple(rng.normal(0, 3, 3))
        time_s += rng.uniform(0.35, 1.9)
    events = _heard(world.run(duration_s), lambda _: kind, duration_s, rng)
    mover = "+".join(sorted(names)) or "nothing"
    return Solids(world, events, (0, 0, middle_z), 0.36, 0.8, {"target": floor, "mover": f"falling {mover}"})


def _waits(at: Place, until_s: float, time_s: float) -> Place:
    """Out of the world until a step before it is let go."""
    return at if time_s > until_s - 0.0025 else (PARKED, at[1])


def _handed(world: World, body: Body, at: np.ndarray, turn: np.ndarray, release_s: float) -> None:
    """A hand brings it down into the picture, holds it, opens, and goes up again."""
    rng = world.rng
    bring_s, side = rng.uniform(0.4, 0.9), rng.choice([-1, 1])
    hand = world.add(sphere("hand", rng.uniform(0.03, 0.045)), "skin", touches=False)
    arm = world.add(cylinder("arm", 0.028, 0.25), "skin", touches=False)
    lift = body.shape.half[2] if body.shape.form == "sphere" else max(body.shape.half) * 0.6
    away = np.array([0.6 * side, 0.2, 0.75])
    trembling = Curve(wander(rng, release_s + 3, rng.choice([0.0, 0.004]), 2.0))
    tilt = _turn_to(away)

    def offset(time_s: float) -> np.ndarray:
        if time_s < release_s:
            share = np.clip((release_s - 0.12 - time_s) / bring_s, 0, 1)
        else:
            share = np.clip((time_s - release_s - 0.05) / bring_s, 0, 1)
        return at + away * (share * share * (3 - 2 * share)) + trembling(time_s)

    top = np.array([0, 0, lift + 0.02])
    body.script = lambda t: (offset(t), turn)
    body.release_s = release_s
    hand.script = lambda t: (offset(t) + top, np.array([0.0, 0, 0, 1]))
    arm.script = lambda t: (offset(t) + top + away / np.linalg.norm(away) * 0.25, tilt)


def _turn_to(direction: Vector) -> np.ndarray:
    """The quaternion that turns z into a direction."""
    d = np.asarray(direction, float) / np.linalg.norm(direction)
    q = np.array([-d[1], d[0], 0.0, 1.0 + d[2]])
    return q / np.linalg.norm(q) if q[3] > 1e-6 else np.array([1.0, 0, 0, 0])


def throw_scene(world: World, duration_s: float) -> Solids:
    """Bodies fly in from a side and meet a wall and the floor; some pass, or land on something soft."""
    rng = world.rng
    _floor(world)
    kind = str(rng.choice(["ball", "ball", "wood", "metal"]))
    wall_x = rng.uniform(0.25, 0.45)
    soft = rng.random() < 0.15
    world.add(box("wall", 0.04, rng.uniform(0.25, 0.6), 0.5), "cushion" if soft else "floor", (wall_x + 0.04, 0, 0.5))
    time_s, names = rng.uniform(0.05, 0.8), set()
    for _ in range(int(rng.integers(1, 6))):
        if time_s > duration_s - 0.4:
            break
        body = _falling_body(world, kind)
        names.add(body.shape.name)
        start = np.array([-1.0, rng.uniform(-0.08, 0.08), rng.uniform(0.15, 0.5)])
        body.script = partial(_waits, (start, _any_turn(rng)), time_s)
        body.release_s = time_s
        flight_s = rng.uniform(0.2, 0.5)
        body.velocity = ((wall_x + 1.0) / flight_s, rng.normal(0, 0.15), 9.81 * flight_s / 2 + rng.normal(0, 0.3))
        body.spin = tuple(rng.normal(0, 5, 3))
        time_s += rng.uniform(0.5, 1.8)
    events = _heard(world.run(duration_s), lambda _: kind, duration_s, rng)
    mover = "+".join(sorted(names)) or "nothing"
    return Solids(
        world, events, (0, 0, 0.28), 0.42, 0.5, {"target": "soft wall" if soft else "wall", "mover": f"thrown {mover}"}
    )


def roll_scene(world: World, duration_s: float) -> Solids:
    """Marbles and balls roll over the floor into each other and into things that stand there."""
    rng = world.rng
    floor = _floor(world)
    kind = str(rng.choice(["glass", "glass", "wood", "metal"]))
    material = FALLING[kind][0]
    size = rng.uniform(0.025, 0.045)
    for x in rng.permutation([-0.2, -0.07, 0.07, 0.2])[
        : rng.integers(1, 5)
    ]:  # apart, so that none starts inside another
        y = rng.uniform(-0.12, 0.12)
        if rng.random() < 0.6:
            world.add(sphere("marble", size * rng.uniform(0.8, 1.2)), material, (x, y, size * 1.2), moves=True)
        else:
            shape = pick(world.rng, world.split, *FALLING[kind][1:])(rng)
            world.add(shape, material, (x, y, shape.half[2] + 0.001), moves=True)
    time_s = rng.uniform(0.05, 0.8)
    for _ in range(int(rng.integers(1, 6))):
        if time_s > duration_s - 0.3:
            break
        body = world.add(sphere("marble", size), material, moves=True)
        side = rng.choice([-1, 1])
        start = np.array([0.85 * side, rng.uniform(-0.12, 0.12), size + 0.0005])
        aim = np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1), start[2]]) - start
        speed = rng.uniform(0.6, 2.5)
        body.script = partial(_waits, (start, np.array([0.0, 0, 0, 1])), time_s)
        body.release_s = time_s
        body.velocity = tuple(aim / np.linalg.norm(aim) * speed)
        body.spin = (-body.velocity[1] / size, body.velocity[0] / size, 0.0)
        time_s += rng.uniform(0.4, 1.8)
    on_floor = next(index for index, body in world.bodies.items() if body.shape.name == floor)
    met = [i for i in world.run(duration_s) if on_floor not in (i.a, i.b) or i.speed > 0.5]
    events = _heard(met, lambda _: kind, duration_s, rng)
    return Solids(world, events, (0, 0, 0.05), 0.28, 1.2, {"target": floor, "mover": f"rolling {kind}"})


def domino_scene(world: World, duration_s: float) -> Solids:
    """A row of blocks; something pushes the first; a gap may save the rest. One row, or two."""
    rng = world.rng
    floor = _floor(world)
    kind = str(rng.choice(["wood", "wood", "metal"]))
    high, thick, wide = rng.uniform(0.09, 0.16), rng.uniform(0.008, 0.014), rng.uniform(0.03, 0.05)
    step, n = high * 2 * rng.uniform(0.4, 0.62), int(rng.integers(3, 9))
    first_x = -step * (n - 1) / 2
    start_s = rng.uniform(0.05, 0.5) * duration_s
    for k in range(n):
        world.add(box("domino", thick, wide, high), kind, (first_x + k * step, 0, high + 0.0005), moves=True)
    ball = world.add(sphere("ball", 0.035), kind, moves=True)
    ball.script = partial(_waits, (np.array([first_x - 0.9, 0, 0.9]), np.array([0.0, 0, 0, 1])), start_s)
    ball.release_s = start_s
    flight_s = rng.uniform(0.3, 0.36)
    ball.velocity = (
        (0.9 - thick - 0.035) / flight_s,
        0.0,
        (high * 1.6 - 0.9 + 0.5 * 9.81 * flight_s**2) / flight_s,
    )
    events = _heard(world.run(duration_s), lambda _: kind, duration_s, rng)
    return Solids(
        world, events, (0, 0, high), max(0.3, 0.6 * step * n / 1.4), 0.9, {"target": floor, "mover": f"{n} dominoes"}
    )


def pendulum_scene(world: World, duration_s: float) -> Solids:
    """A bob on a rod swings against a bell, a block or another bob, lower each time; or just past it."""
    rng, b = world.rng, world.bullet
    floor = _floor(world)
    kind = str(rng.choice(["bell", "bell", "wood", "metal", "glass"]))
    material, *shapes = STRUCK[kind]
    shape = pick(rng, world.split, *shapes)(rng)
    radius, length = rng.uniform(0.025, 0.05), rng.uniform(0.22, 0.5)
    height = shape.half[2] + rng.uniform(0.0, 0.5) * shape.half[2]
    misses = rng.random() < 0.15
    target = world.add(shape, material, (shape.half[0], 0, shape.half[2]))
    b.changeDynamics(target.index, -1, restitution=0.9)
    pivot = np.array([-radius - 0.001, (shape.half[1] + 2.5 * radius) * misses, height + length])
    bob = world.add(sphere("bob", radius), "metal" if kind != "wood" else "wood", moves=True)
    rod = world.add(cylinder("rod", 0.006, length / 2), "metal", touches=False)
    angle = rng.uniform(0.5, 1.2)
    release_s = rng.uniform(0.03, 0.35) * duration_s
    start = pivot + length * np.array([-np.sin(angle), 0, -np.cos(angle)])
    bob.script, bob.release_s = (lambda _: (start, np.array([0.0, 0, 0, 1]))), release_s
    b.changeDynamics(bob.index, -1, restitution=rng.uniform(0.6, 0.95), linearDamping=rng.uniform(0.02, 0.3))
    world.place(bob, (start, np.array([0.0, 0, 0, 1])))
    b.createConstraint(bob.index, -1, -1, -1, b.JOINT_POINT2POINT, [0, 0, 0], (pivot - start).tolist(), pivot.tolist())

    def follow(_: float) -> Place:
        at = np.array(b.getBasePositionAndOrientation(bob.index)[0])
        return (at + pivot) / 2, _turn_to(pivot - at)

    rod.script, rod.follows = follow, True
    events = _heard(world.run(duration_s), lambda _: kind, duration_s, rng)
    return Solids(
        world,
        events,
        (-0.05, 0, (height + length) * 0.5),
        (height + length) * 0.62,
        0.5,
        {"target": f"{floor} {shape.name}", "mover": "bob that misses" if misses else "bob"},
    )


def strike_scene(world: World, duration_s: float) -> Solids:
    """One or two arms strike a drum, a block, a plate, a glass or a bell at the script's events and nowhere else."""
    rng = world.rng
    floor = _floor(world)
    kind = str(rng.choice(list(STRUCK)))
    events = [] if rng.random() < 0.06 else make_script(rng, world.split, duration_s, kind)
    n = 1 if rng.random() < 0.65 else 2
    names, seat = [], rng.uniform(0.0, 0.12)
    for k in range(n):
        own = [e for e in events if e.material % n == k]
        x = 0.0 if n == 1 else (k - 0.5) * 0.5
        names.append(_struck(world, kind, own, np.array([x, 0.0, seat]), duration_s))
    return Solids(
        world,
        events,
        (0, 0, seat + 0.18),
        0.3 if n == 1 else 0.5,
        1.0,
        {"target": f"{floor} {names[0][0]}", "mover": names[0][1]},
    )


def _struck(
    world: World, kind: str, events: Sequence[ScriptedEvent], at: np.ndarray, duration_s: float
) -> tuple[str, str]:
    """A target on a seat, and the arm that strikes it. Returns their names."""
    rng = world.rng
    material, *shapes = STRUCK[kind]
    shape = pick(rng, world.split, *shapes)(rng)
    if shape.name == "log":
        shape = cylinder("log", shape.half[2] * 0.7, shape.half[0])  # on its end, as a stump
    if at[2] > 0.01:
        world.add(box("seat", 0.7 * shape.half[0], 0.7 * shape.half[1], at[2] / 2), "wood", (at[0], at[1], at[2] / 2))
    middle = at + np.array([0, 0, shape.half[2]])
    cover = None
    if kind in ("drum", "hand_drum"):
        name, shell = paint(
            rng, world.split, SOLID_MATERIALS["wood" if rng.random() < 0.6 else "metal"], world.photos, 96
        )
        world.surfaces.append(name)
        cover = drum_paint(shape, shell, hsv(rng.uniform(10, 30), rng.uniform(5, 70), rng.uniform(150, 250)))
    target = world.add(shape, material, middle, picture=cover)
    hits = [(e.time_s, e.strength) for e in events]
    parts, striker = _striker(world, hand=kind == "hand_drum")
    # The arm turns in a vertical plane about its wrist, elbow or shoulder; it comes from behind or from a side.
    around = rng.uniform(0.15, np.pi - 0.15)
    # The hand stays clear of the target; a short arm meets it off its middle.
    distance = max(*(x for _, x, _ in parts), float(np.hypot(*shape.half[:2])) + 0.06)
    above = shape.half[2] + rng.uniform(0.0, 0.08)
    pivot = middle + np.array([distance * np.cos(around), distance * np.sin(around), above])
    pivot += np.array([*rng.uniform(-0.2, 0.2, 2) * shape.half[0], 0.0])
    raise_by = rng.uniform(0.6, 1.4)
    p = stroke(rng, hits, duration_s, StrokeStyle.draw(rng, ("rebound", "dead_stop")))

    def pose(body_x: float, own_turn: np.ndarray, angle: float) -> Place:
        """The arm lies along -`around` from the pivot, raised by an angle."""
        ahead = np.array([-np.cos(around) * np.cos(angle), -np.sin(around) * np.cos(angle), np.sin(angle)])
        side = np.array([np.sin(around), -np.cos(around), 0.0])
        frame = np.stack([ahead, np.cross(side, ahead) * -1, side], axis=1)
        frame[:, 1] = np.cross(frame[:, 2], frame[:, 0])
        return pivot + ahead * body_x, _product(_quaternion(frame), own_turn)

    def gap(angle: float) -> float:
        for body, x, own_turn in parts:
            world.place(body, pose(x, own_turn, angle))
        return min(world.gap(body, target) for body, _, _ in parts if body.shape.name != "forearm")

    touch = _first_touch(gap)
    sways = [Ringing(hits, rng.uniform(4, 11), rng.uniform(0.05, 0.15), rng.choice([0.0, 0.02, 0.06]))]
    for body, x, own_turn in parts:
        body.script = lambda t, x=x, q=own_turn: pose(x, q, touch + raise_by * max(0.0, p(t)))
    if kind in ("bell", "glass", "metal") and events:
        side = np.array([np.sin(around), -np.cos(around), 0.0])

        def rocks(time_s: float) -> Place:
            angle = sways[0](time_s)
            return middle, np.array([*(side * np.sin(angle / 2)), np.cos(angle / 2)])

        target.script = rocks
    return shape.name, striker


def _striker(world: World, hand: bool) -> tuple[list[tuple[Body, float, np.ndarray]], str]:
    """Parts of an arm: body, how far along the arm its middle is, and how it is turned there."""
    rng = world.rng
    name = pick(rng, world.split, *(HANDS if hand else STRIKERS))
    along = np.array([0.0, np.sin(np.pi / 4), 0.0, np.cos(np.pi / 4)])  # z to x: along the arm
    across = np.array([-np.sin(np.pi / 4), 0.0, 0.0, np.cos(np.pi / 4)])  # z to the plane's y: head of a hammer
    still = np.array([0.0, 0, 0, 1])
    if hand:
        length = rng.uniform(0.22, 0.3)
        arm = world.add(cylinder("forearm", rng.uniform(0.025, 0.035), length / 2), "skin")
        tip = (
            world.add(sphere("fist", rng.uniform(0.035, 0.045)), "skin")
            if name == "fist"
            else world.add(box("palm", 0.07, 0.014, 0.045), "skin")
        )
        return [(arm, length / 2, along), (tip, length + 0.04, still)], name
    length, thick = rng.uniform(0.22, 0.34), rng.uniform(0.006, 0.012)
    handle = world.add(cylinder("handle", thick, length / 2), "wood")
    held = world.add(sphere("hand", rng.uniform(0.03, 0.04)), "skin", touches=True)
    arm = world.add(cylinder("forearm", 0.028, 0.15), "skin")
    parts = [(handle, length / 2, along), (held, 0.0, still), (arm, -0.17, along)]
    if name == "hammer":
        head = world.add(cylinder("head", rng.uniform(0.018, 0.028), rng.uniform(0.04, 0.06)), "metal")
        parts.append((head, length, across))
    elif name == "mallet":
        parts.append((world.add(sphere("head", rng.uniform(0.025, 0.04)), "rubber"), length, still))
    elif name == "drumstick":
        parts.append((world.add(sphere("tip", thick * 1.5), "wood"), length, still))
    return parts, name


def _first_touch(gap: Callable[[float], float]) -> float:
    """The angle, coming from above, at which the arm begins to touch."""
    high = 1.2
    low = next((a for a in np.arange(1.2, -1.0, -0.04) if gap(a) <= 0), -1.0)
    high = low + 0.04
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) <= 0 else (low, middle)
    return float(high)


def _quaternion(frame: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) -> quaternion (x, y, z, w)."""
    m = frame
    k = np.array([
        [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
        [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
        [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
    ])  # fmt: skip
    return np.linalg.eigh(k / 3)[1][:, -1]


def _product(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The turn q followed by p."""
    v = p[3] * q[:3] + q[3] * p[:3] + np.cross(p[:3], q[:3])
    return np.array([*v, p[3] * q[3] - p[:3] @ q[:3]])


SCENES = (
    (strike_scene, 0.34),
    (drop_scene, 0.3),
    (throw_scene, 0.12),
    (pendulum_scene, 0.1),
    (roll_scene, 0.08),
    (domino_scene, 0.06),
)


def _heard(
    impacts: Sequence[Impact], kind_of: Callable[[Impact], str], duration_s: float, rng: Rng
) -> list[ScriptedEvent]:
    """What an ear makes of impacts: of those closer than the kind's shortest gap the first, or a much louder one."""
    kept: list[tuple[Impact, str]] = []
    for impact in impacts:
        kind = kind_of(impact)
        if impact.speed < AUDIBLE_SPEED or not 0.05 <= impact.time_s < duration_s - 0.02:
            continue
        if kept and impact.time_s - kept[-1][0].time_s < SHORTEST_GAP_S[kind]:
            if impact.speed < 2 * kept[-1][0].speed:
                continue
            kept.pop()
        kept.append((impact, kind))
    size, instance = float(rng.random()), int(rng.integers(N_INSTANCES))
    return [ScriptedEvent(i.time_s, kind, i.strength, size, instance) for i, kind in kept]


# ----------------------------------------------------------------------------------------------------------------- film


def simulate(rng: Rng, split: str, duration_s: float, photos: PhotoBank | None = None) -> Solids:
    """One of the scenes, run. Raises InputError where pybullet is not installed."""
    scene = SCENES[int(rng.choice(len(SCENES), p=[share for _, share in SCENES]))][0]
    return scene(World(rng, split, photos), duration_s)


def view_of(rng: Rng, solids: Solids, size: tuple[int, int], duration_s: float) -> View:
    """A camera that sees the action: from the front, around it and above it as far as the scene allows."""
    field = np.radians(rng.uniform(28, 62))  # of the stage, across its shorter side
    aspect = size[0] / size[1]
    vertical = field if aspect >= 1 else 2 * np.arctan(np.tan(field / 2) / aspect)
    distance = min(4.0, solids.reach * rng.uniform(0.9, 1.5) / np.tan(field / 2))
    around, above = rng.uniform(-1, 1) * solids.facing, np.radians(rng.uniform(6, 38))
    target = np.array(solids.middle) + rng.normal(0, 0.1 * solids.reach, 3)
    toward = np.array([np.sin(around) * np.cos(above), -np.cos(around) * np.cos(above), np.sin(above)])
    drift = None
    if rng.random() < 0.35:
        amount, rate = distance * rng.choice([0.004, 0.012, 0.03]), rng.uniform(0.2, 1.0)
        drift = tuple(Curve(wander(rng, duration_s, amount, rate)) for _ in range(3))
    return View(target + toward * distance, target, float(np.degrees(vertical)), drift)


def draw_solid_clip(
    rng: Rng, split: str, duration_s: float, short_side_px: int = 144, photos: PhotoBank | None = None
) -> tuple[list[ScriptedEvent], Clip]:
    """What happens in a clip of solid bodies, and its film, in the formats and with the faults of drawn clips."""
    width, height = pick(rng, "train", [(16, 9), (16, 9), (16, 9), (4, 3), (4, 3), (1, 1), (9, 16), (3, 4)], [])
    k = short_side_px / min(width, height)
    size = (round(width * k / 2) * 2, round(height * k / 2) * 2)
    recording = Recording.draw(rng)
    solids = simulate(rng, split, duration_s, photos)
    cut_s = rng.uniform(0.3, 0.7) * duration_s
    cuts = [cut_s] if rng.random() < 0.12 and all(abs(cut_s - e.time_s) > 0.12 for e in solids.events) else []
    edges = [0.0, *cuts, duration_s + 1.0]
    jolts = [(e.time_s, e.strength) for e in solids.events]
    shots, names = [], []
    for start_s, end_s in pairwise(edges):
        stage = stage_size(size)
        if photos is not None and rng.random() < 0.8:
            name, image = photos.backdrop(rng, *stage)
            solids.world.surfaces.append(name)
        else:
            name, image = background(rng, split, *stage)
        names.append(name)
        layers = [draw_world(solids.world, view_of(rng, solids, size, duration_s))]
        if rng.random() < 0.3:
            layers.insert(0, silent_mover(rng, split, duration_s))
        if rng.random() < 0.1:
            layers.append(occluder(rng, split, duration_s))
        shots.append(Shot(Picture(image, layers), Camera.draw(rng, duration_s, jolts), start_s, end_s))
    factors = {
        "background": ", ".join(names),
        **solids.factors,
        "kinds": ", ".join(sorted({e.kind for e in solids.events})),
        "surfaces": ", ".join(sorted(set(solids.world.surfaces))),
        "shots": str(len(shots)),
        "rate": str(recording.rate),
        "crf": str(recording.crf),
    }
    seen = tuple(name for name in solids.world.surfaces if photos is not None and name in photos.records)
    return solids.events, Clip(film(shots, recording, size, duration_s, rng), size, recording, factors, seen)
