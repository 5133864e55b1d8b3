"""Things that sound by their own motion: balls, swinging bells, clinking glasses, keys, drops, what breaks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from s2s.synth.render import Cutter, Draw, Picture, Sprite, Stage
from s2s.synth.scenes_curves import MARGIN_S, Curve, Key, Ringing, StrokeStyle, curve_times, stroke, through, wander
from s2s.synth.scenes_strike import Debris, _steel, body_part, bottle, lay_table, limb, tumbler
from s2s.synth.scenes_textures import Rng, background, colour, dim, hsv, pick, skin, surface
from s2s.synth.script import ScriptedEvent


def _hits(events: Sequence[ScriptedEvent]) -> list[tuple[float, float]]:
    return [(e.time_s, e.strength) for e in events]


def _size(events: Sequence[ScriptedEvent], rng: Rng) -> float:
    return events[0].size if events else float(rng.random())


# ---- balls


def ball_sprite(rng: Rng, split: str, radius: float, unit: float) -> tuple[str, Sprite]:
    name = pick(rng, split, ["basketball", "tennis", "plain"], ["football", "beach"])
    cut = Cutter(-radius - 0.01, -radius - 0.01, radius + 0.01, radius + 0.01, unit * 1.4)
    a = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    if name == "basketball":
        cut.oval(
            0,
            0,
            radius,
            radius,
            surface(rng, split, *cut.shape, hsv(rng.uniform(5, 14), 200, rng.uniform(140, 230)), "speckle"),
        )
        for x0, x1 in ((-0.03, 0.03),):
            cut.fill(np.array([(x0, -1), (x1, -1), (x1, 1), (x0, 1)]) * radius, (20, 20, 25))
            cut.fill(np.array([(-1, x0), (-1, x1), (1, x1), (1, x0)]) * radius, (20, 20, 25))
    elif name == "tennis":
        cut.oval(
            0,
            0,
            radius,
            radius,
            surface(rng, split, *cut.shape, hsv(rng.uniform(30, 38), 170, rng.uniform(180, 245)), "speckle"),
        )
        for side in (-1, 1):
            points = np.stack([side * (radius * 1.1 + 0 * a) + 0.75 * radius * np.cos(a), 0.75 * radius * np.sin(a)], 1)
            cut.fill(points, (230, 240, 235))
    elif name == "football":
        cut.oval(0, 0, radius, radius, (235, 235, 235))
        for angle in np.arange(0, 6.28, 1.2566):
            cut.oval(
                0.65 * radius * np.cos(angle), 0.65 * radius * np.sin(angle), radius * 0.2, radius * 0.2, (25, 25, 25)
            )
        cut.oval(0, 0, radius * 0.25, radius * 0.25, (25, 25, 25))
    elif name == "beach":
        cut.oval(0, 0, radius, radius, (240, 240, 240))
        for k in range(3):
            start = k * 2.094
            wedge = [
                (0, 0),
                *[(radius * np.cos(start + d), radius * np.sin(start + d)) for d in np.linspace(0, 1.05, 8)],
            ]
            cut.fill(wedge, colour(rng, split, (120, 240), (120, 230)))
    else:
        cut.oval(0, 0, radius, radius, surface(rng, split, *cut.shape, colour(rng, split, (90, 240), (60, 230))))
    # What is drawn beyond the ball is cut away again.
    keep = Cutter(-radius - 0.01, -radius - 0.01, radius + 0.01, radius + 0.01, unit * 1.4).oval(
        0, 0, radius, radius, (255, 255, 255)
    )
    cut.alpha = np.minimum(cut.alpha, keep.alpha)
    return name, cut.shade(rng, 0.5).done()


def bounce_curve(rng: Rng, events: Sequence[ScriptedEvent], duration_s: float, gravity: float, ceiling: float) -> Curve:
    """Height of a ball that is on the floor exactly at the events and flies freely in between.

    gravity: scene units / s^2. No flight is higher than `ceiling`: a long pause is a catch, held and let go again.
    """
    t = curve_times(duration_s)
    height = np.zeros(len(t))
    times = [e.time_s for e in events]
    hold = rng.uniform(0.5, 0.95) * ceiling
    if not times:
        return Curve(np.maximum(0.03, hold + wander(rng, duration_s, 0.06)))
    fall_s = min(np.sqrt(2 * hold / gravity), times[0] + MARGIN_S)
    before = t <= times[0]
    age = np.clip(t - (times[0] - fall_s), 0, None)
    height[before] = np.maximum(0, 0.5 * gravity * fall_s**2 - 0.5 * gravity * age**2)[before]
    for t0, t1 in pairwise(times):
        inside = (t > t0) & (t <= t1)
        span = t1 - t0
        own = min(gravity, 8 * ceiling / span**2)
        if own >= 0.45 * gravity:
            height[inside] = 0.5 * own * (t - t0)[inside] * (t1 - t)[inside]
        else:  # caught and dropped again
            rise_s = min(np.sqrt(2 * hold / gravity), 0.45 * span)
            top = 0.5 * gravity * rise_s**2
            early, late = np.clip(t - t0, 0, rise_s), np.clip(t1 - t, 0, rise_s)
            height[inside] = np.minimum(
                gravity * rise_s * early - 0.5 * gravity * early**2, gravity * rise_s * late - 0.5 * gravity * late**2
            )[inside]
            height[inside] = np.minimum(height[inside], top)
    # After the last bounce it rolls, or rises once more and is caught.
    after = t > times[-1]
    if rng.random() < 0.5 and events[-1].strength > 0.25:
        speed = np.sqrt(2 * gravity * ceiling) * 0.5
        age = np.clip(t - times[-1], 0, speed / gravity)
        height[after] = (speed * age - 0.5 * gravity * age**2)[after]
    return Curve(height)


def ball_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """A ball bouncing on a floor or against a wall, dribbled by a hand, or only carried."""
    name, image = background(rng, split, *stage_shape)
    size = _size(events, rng)
    radius = (0.035 + 0.1 * size) * rng.uniform(0.6, 1.6)
    ball_name, sprite = ball_sprite(rng, split, radius, unit)
    floor = rng.uniform(0.2, 0.45)
    ceiling = rng.uniform(0.45, 0.75)
    gravity = rng.uniform(3, 9) if rng.random() < 0.8 else rng.uniform(1.2, 3)  # now and then in slow motion
    height = bounce_curve(rng, events, duration_s, gravity, ceiling)
    hits = _hits(events)
    wall = rng.random() < 0.2
    manner = "wall" if wall else str(rng.choice(["free", "dribble", "free"]))
    start, drift = rng.uniform(-0.35, 0.35), rng.normal(0, 0.08) if manner == "free" else 0.0
    x = Curve(
        start
        + drift * (curve_times(duration_s) - duration_s / 2)
        + wander(rng, duration_s, 0.015 if manner != "free" else 0.0, 0.8)
    )
    spin = rng.normal(0, 4)
    squash = Ringing(hits, 7, 0.03, rng.choice([0.0, 0.15, 0.3]))
    layers: list[Draw] = []
    if not wall:
        lay_table(image, rng, split, floor, unit)
    else:
        wall_x = rng.uniform(0.25, 0.45)
        c = colour(rng, split)
        layers.append(lambda stage, t: stage.polygon([(wall_x, -2), (2, -2), (2, 2), (wall_x, 2)], c))
    hand, length, face = body_part("palm", rng, split, unit, skin(rng))
    arm = limb(rng, split, unit, skin(rng), bare=False)
    shadow = rng.random() < 0.6

    def draw(stage: Stage, t: float) -> None:
        h = height(t)
        s = squash(t) if h < radius else 0.0
        if wall:
            stage.blit(
                sprite,
                wall_x - radius * (1 - max(0, s)) - h,
                0.3 * start + 0.25 * h * h,
                spin * t,
                (1 - max(0, s), 1 + max(0, s)),
            )
            return
        if shadow:
            stage.ellipse(x(t), floor + 0.01, radius * (1 + 0.4 * h), radius * 0.25, (30, 30, 30))
        y = floor - radius - h
        stage.blit(sprite, x(t), y + max(0, s) * radius, spin * t, (1 + max(0.0, s), 1 - max(0.0, s)))
        if manner == "dribble":
            hand_y = min(y - radius, floor - radius * 2 - 0.55 * ceiling)
            wrist = (x(t) + length * np.cos(face), hand_y + length * np.sin(face))
            stage.blit_between(arm, wrist, (x(t) + 0.6, hand_y - 0.4), 1.0)
            stage.blit(hand, x(t), hand_y)

    layers.append(draw)
    return Picture(image, layers, jolts=hits, factors={"background": name, "target": manner, "mover": ball_name})


# ---- a bell that swings


def swing_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """A church bell or a hand bell: it sounds where its swing turns and the clapper meets the rim."""
    name, image = background(rng, split, *stage_shape)
    k = 0.55 + 0.6 * _size(events, rng)
    brass = hsv(rng.uniform(16, 28), rng.uniform(90, 200), rng.uniform(110, 240)) if split != "test" else _steel(rng)
    hand_bell = rng.random() < 0.5
    cut = Cutter(-0.3 * k, -0.05, 0.3 * k, 0.55 * k, unit * 1.2)
    outline = np.array(
        [
            (-0.06, 0.05),
            (0.06, 0.05),
            (0.13, 0.12),
            (0.15, 0.3),
            (0.24, 0.42),
            (-0.24, 0.42),
            (-0.15, 0.3),
            (-0.13, 0.12),
        ]
    )
    cut.fill(outline * k, surface(rng, split, *cut.shape, brass, "brushed")).shade(rng, 0.7)
    cut.fill(np.array([(-0.24, 0.39), (0.24, 0.39), (0.25, 0.43), (-0.25, 0.43)]) * k, dim(brass, 0.7))
    cut.capsule(0, 0, 0.03 * k, 0, 0.1 * k, 0.03 * k, dim(brass, 0.5))
    bell = cut.done()
    amount = rng.uniform(0.35, 0.8)
    side, keys = 1, [Key(-MARGIN_S, 0.0)]
    hits = _hits(events)
    for number, (t, strength) in enumerate(hits):
        previous = hits[number - 1][0] if number else -MARGIN_S
        swing = amount * (0.35 + 0.65 * strength)
        if t - previous > 1.4:  # it comes to rest in between, then is swung back before the stroke
            keys += [Key(previous + 0.6, 0.0), Key(t - 0.45, 0.02), Key(t - 0.25, -0.5 * swing * side)]
        hard = rng.uniform(0.0, 1.0)
        keys.append(Key(t, swing * side, hard * swing * side * 4, -hard * swing * side * 2))
        side = -side
    end = hits[-1][0] if hits else 0.0
    keys += [Key(end + 0.5 + 0.01, 0.05 * side), Key(max(duration_s, end) + 0.9, 0.0)]
    if not hits:  # carried without a sound
        angle = Curve(wander(rng, duration_s, 0.12, 0.7))
    else:
        angle = through(keys, duration_s)
    x, y = rng.uniform(-0.25, 0.25), (rng.uniform(-0.45, -0.2) if not hand_bell else rng.uniform(-0.1, 0.1))
    clapper_lag = rng.uniform(0.03, 0.07)
    tone = skin(rng)
    arm = limb(rng, split, unit, tone, bare=False)
    bob_x = Curve(wander(rng, duration_s, 0.02))
    frame = colour(rng, split, (20, 140))

    def draw(stage: Stage, t: float) -> None:
        a = angle(t)
        px, py = x + bob_x(t) * hand_bell, y
        clapper = np.clip(angle(t - clapper_lag) + 1.2 * (angle(t) - angle(t - clapper_lag)), a - 0.4, a + 0.4)
        tip = (px - np.sin(clapper) * 0.43 * k, py + np.cos(clapper) * 0.43 * k)
        if hand_bell:
            stage.blit_between(arm, (px, py), (px + 0.5, -0.75), 1.0)
        else:
            stage.line((px - 0.5, py - 0.02), (px + 0.5, py - 0.02), frame, 0.05)
        stage.line((px, py), tip, (40, 40, 40), 0.015)
        stage.circle(*tip, 0.03 * k, (50, 50, 55))
        stage.blit(bell, px, py, a)
        if hand_bell:
            stage.circle(px, py, 0.055, tone)

    return Picture(
        image,
        [draw],
        jolts=[],
        factors={"background": name, "target": "hand bell" if hand_bell else "church bell", "mover": "swing"},
    )


# ---- two things that meet


def clink_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """Two glasses held by hands meet rim to rim; or one is set down hard on a table."""
    name, image = background(rng, split, *stage_shape)
    size = _size(events, rng)
    maker = pick(rng, split, [tumbler], [tumbler, bottle])
    style = StrokeStyle.draw(rng, ("rebound", "dead_stop"))
    hits = _hits(events)
    p = stroke(rng, hits, duration_s, style)
    k = rng.uniform(1.0, 1.7)
    sprites = [maker(rng, split, size, unit * k)[0] for _ in range(2)]
    r = (0.07 + 0.07 * size) * k
    x, y = rng.uniform(-0.1, 0.1), rng.uniform(-0.2, 0.05)
    reach = rng.uniform(0.15, 0.4)
    down = rng.random() < 0.3
    height = (0.2 + 0.2 * size) * k if maker is tumbler else (0.4 + 0.15 * size) * k
    tones = [skin(rng), skin(rng)]
    arms = [limb(rng, split, unit, tone, bare=False) for tone in tones]
    share = rng.choice([0.0, 0.5, 1.0])
    ring = Ringing(hits, rng.uniform(8, 15), 0.06, 0.03)
    sway = Curve(wander(rng, duration_s, 0.02))
    layers: list[Draw] = []
    if down:
        lay_table(image, rng, split, y + height, unit)

    def draw(stage: Stage, t: float) -> None:
        q = p(t)
        if down:
            yy = y - 0.8 * reach * q
            stage.blit(sprites[0], x, yy, 0.2 * q + ring(t), k)
            stage.blit_between(arms[0], (x + r, yy + height * 0.5), (x + 0.8, y + 0.2), 1.0)
            stage.circle(x + r * 0.5, yy + height * 0.5, r * 0.6, tones[0])
            return
        for side, sprite, arm, tone, part in (
            (-1, sprites[0], arms[0], tones[0], 1 - share),
            (1, sprites[1], arms[1], tones[1], share),
        ):
            xx = x + side * (r + reach * q * part) + sway(t)
            turn = side * (0.15 + 0.4 * q * part) + ring(t)
            yy = y + 0.15 * q * part
            stage.blit_between(arm, (xx + side * 0.02, yy + height * 0.6), (xx + side * 0.7, yy + 0.5), 1.0)
            stage.blit(sprite, xx, yy, turn, k)
            stage.circle(xx + side * r * 0.3, yy + height * 0.6, r * 0.55, tone)

    layers.append(draw)
    return Picture(
        image,
        layers,
        jolts=[],
        factors={"background": name, "target": "set down" if down else "clink", "mover": maker.__name__},
    )


def fall_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """Something falls onto the floor at each event: glass breaks, wood and metal hop; a soft thing falls too."""
    name, image = background(rng, split, *stage_shape)
    floor = rng.uniform(0.2, 0.42)
    gravity = rng.uniform(3, 8)
    size = _size(events, rng)
    thing_name = (
        pick(rng, split, ["block", "can"], ["bar", "disc"])
        if kind != "glass"
        else pick(rng, split, ["tumbler"], ["bottle"])
    )
    if kind == "glass":
        sprite = {"tumbler": tumbler, "bottle": bottle}[thing_name](rng, split, size, unit * 1.4)[0]
        half = (0.2 + 0.2 * size) * 1.4 if thing_name == "tumbler" else (0.4 + 0.15 * size) * 1.4
        lift = half
    else:
        w, h = {"block": (0.1, 0.06), "can": (0.06, 0.09), "bar": (0.18, 0.025), "disc": (0.09, 0.09)}[thing_name]
        k = 0.7 + 0.8 * size
        cut = Cutter(-w * k - 0.01, -h * k - 0.01, w * k + 0.01, h * k + 0.01, unit * 1.4)
        base = hsv(14, 140, rng.uniform(90, 200)) if kind == "wood" else _steel(rng)
        paint = surface(rng, split, *cut.shape, base, "grain" if kind == "wood" else "brushed")
        if thing_name == "disc":
            cut.oval(0, 0, w * k, h * k, paint)
        else:
            cut.fill(np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) * k, paint)
        sprite, lift = cut.shade(rng, 0.5).done(), h * k
    falls = []
    hits = _hits(events)
    for number, (t, strength) in enumerate(hits):
        drop = 0.25 + 0.9 * strength
        falls.append(
            (
                t,
                np.sqrt(2 * drop / gravity),
                drop,
                rng.uniform(-0.45, 0.45),
                rng.normal(0, 5),
                strength,
                hits[number + 1][0] if number + 1 < len(hits) else duration_s + 1,
            )
        )
    soft = [
        (float(t), rng.uniform(-0.5, 0.5)) for t in rng.uniform(0.5, duration_s, rng.integers(0, 3))
    ]  # a feather, a paper
    shards = Debris(rng, split, "shards" if kind == "glass" else "chips", [], (0, 0))
    bursts = (
        [Debris(rng, split, "shards", [(f[0], min(1.0, 0.5 + f[5]))], (f[3], floor - 0.05)) for f in falls]
        if kind == "glass"
        else [shards]
    )

    def draw(stage: Stage, t: float) -> None:
        for t0, x in soft:
            if t0 - 1.5 < t < t0 + 2:
                y = min(floor - 0.02, floor - 0.02 + (t - t0) * 0.5)
                stage.ellipse(
                    x + 0.08 * np.sin(3 * (t - t0)) * (y < floor - 0.03),
                    y,
                    0.06,
                    0.015,
                    (235, 235, 230),
                    np.sin(3 * t) * 0.4,
                )
        for hit_s, fall_s, drop, x, spin, strength, leave_s in falls:
            age = t - hit_s
            if not -fall_s - 0.8 <= age < max(0.3, leave_s - hit_s - 0.15):
                continue
            if age < 0:
                fallen = max(0.0, age + fall_s)
                stage.blit(
                    sprite,
                    x,
                    floor - lift - drop + 0.5 * gravity * fallen**2 * (drop / (0.5 * gravity * fall_s**2)),
                    spin * min(age, 0),
                )
            elif kind == "glass":
                continue
            else:  # one small hop, then it lies
                hop = 0.12 * strength
                up = max(0.0, hop * (1 - (2 * age / 0.25 - 1) ** 2)) if age < 0.25 else 0.0
                stage.blit(sprite, x + 0.1 * min(age, 0.25), floor - lift - up, 0.3 * spin * min(age, 0.25) * (up > 0))
        for burst in bursts:
            burst(stage, t)

    lay_table(image, rng, split, floor, unit)
    return Picture(image, [draw], jolts=hits, factors={"background": name, "target": "floor", "mover": thing_name})


# ---- typing


def typing_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """Hands over a keyboard, from above or aslant: a finger dips at each event and its key goes down."""
    name, image = background(rng, split, *stage_shape)
    board_name = pick(rng, split, ["keyboard", "keyboard", "typewriter"], ["keyboard", "calculator"])
    rows, columns = (4, 12) if board_name != "calculator" else (5, 4)
    zoom = rng.uniform(0.8, 1.5)
    key = (0.075 if board_name != "calculator" else 0.13) * zoom
    squeeze = rng.uniform(0.6, 1.0)  # how aslant it is seen
    base = colour(rng, split, (20, 230), (0, 80))
    cap = colour(rng, split, (30, 250), (0, 90))
    x0, y0 = -columns * key / 2 + rng.normal(0, 0.05), rng.uniform(-0.1, 0.12)
    board = Cutter(x0 - 0.04, y0 - 0.05, x0 + columns * key + 0.04, y0 + rows * key * squeeze + 0.05, unit)
    board.fill(
        [
            (x0 - 0.03, y0 - 0.04),
            (x0 + columns * key + 0.03, y0 - 0.04),
            (x0 + columns * key + 0.03, y0 + rows * key * squeeze + 0.04),
            (x0 - 0.03, y0 + rows * key * squeeze + 0.04),
        ],
        surface(rng, split, *board.shape, base),
    )

    def box(row: int, column: int, sink: float) -> list[tuple[float, float]]:
        a, b = x0 + (column + 0.12) * key, y0 + (row + 0.1 + sink * 0.25) * key * squeeze
        return [(a, b), (a + key * 0.78, b), (a + key * 0.78, b + key * squeeze * 0.75), (a, b + key * squeeze * 0.75)]

    for row in range(rows):
        for column in range(columns):
            board.fill(box(row, column, 0), dim(cap, rng.uniform(0.9, 1.1)))
    Stage(image, unit).blit(board.done(), 0, 0)
    n_hands = 1 if board_name == "calculator" or rng.random() < 0.3 else 2
    fingers = []
    tone = skin(rng)
    per_hand = int(rng.choice([1, 3, 4])) if split != "test" else int(rng.choice([1, 2]))
    for hand in range(n_hands):
        for finger in range(per_hand):
            centre = x0 + columns * key * ((hand + 0.5) / n_hands) + (finger - (per_hand - 1) / 2) * key * 1.15
            fingers.append([hand, centre, []])
    presses = []
    for e in events:
        chosen = fingers[int(rng.integers(len(fingers)))]
        chosen[2].append((e.time_s, e.strength))
        row, column = int(rng.integers(rows)), int(np.clip((chosen[1] - x0) / key, 0, columns - 1))
        presses.append((e.time_s, rng.uniform(0.06, 0.12), row, column))
    style = StrokeStyle(
        ("rebound", "dead_stop"),
        rng.uniform(0.5, 1.0),
        rng.uniform(0.15, 0.5),
        float(rng.choice([0.0, 0.3, 0.6])),
        0.01,
    )
    curves = [stroke(rng, hits, duration_s, style) for _, _, hits in fingers]
    drifts = [
        (Curve(wander(rng, duration_s, 0.04 * zoom, 0.7)), Curve(wander(rng, duration_s, 0.02 * zoom, 0.7)))
        for _ in range(n_hands)
    ]
    reach = rng.uniform(0.05, 0.13) * zoom
    y_tip = y0 + rows * key * squeeze * rng.uniform(0.35, 0.6)
    width = key * rng.uniform(0.24, 0.34)
    arm = limb(rng, split, unit, tone, bare=False)

    def draw(stage: Stage, t: float) -> None:
        for hit_s, hold_s, row, column in presses:
            if -0.01 <= t - hit_s < hold_s:
                stage.polygon(box(row, column, 0), dim(base, 0.5))
                stage.polygon(box(row, column, 1), dim(cap, 0.75))
        for hand in range(n_hands):
            dx, dy = drifts[hand][0](t), drifts[hand][1](t)
            middle = x0 + columns * key * ((hand + 0.5) / n_hands) + dx
            palm_y = y_tip + 0.28 * zoom + dy
            stage.blit_between(
                arm, (middle, palm_y), (middle + (0.25 if hand == n_hands - 1 else -0.25), 0.95), 1.0, 1.3 * zoom
            )
            for (owner, centre, _), curve in zip(fingers, curves, strict=True):
                if owner == hand:
                    p = curve(t)
                    tip = (centre + dx, y_tip + dy - reach * p)
                    stage.line((middle + (centre + dx - middle) * 0.7, palm_y), tip, tone, width * (1 + 0.3 * p))
                    stage.circle(*tip, width * 0.5, dim(tone, 1.15))
            stage.ellipse(middle, palm_y, per_hand * key * 0.55 + 0.04, 0.09 * zoom, tone)

    return Picture(
        image,
        [draw],
        jolts=[],
        factors={"background": name, "target": board_name, "mover": f"{n_hands}x{per_hand} fingers"},
    )


# ---- water


def drop_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """Drops from a tap, or stones that are thrown, meet water: a ring runs out, a crown rises."""
    name, image = background(rng, split, *stage_shape)
    size = _size(events, rng)
    surface_y, squeeze = rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.5)
    blue = hsv(rng.uniform(85, 115), rng.uniform(40, 160), rng.uniform(90, 210))
    stone = rng.random() < 0.4
    reach = rng.uniform(0.25, 0.9)
    radius = (0.012 + 0.025 * size) * (1.8 if stone else 1.0)
    gravity = rng.uniform(4, 10)
    width = stage_shape[1] / unit
    full = rng.random() < 0.5  # a lake fills the lower picture; else a basin or glass
    r_pool = width if full else rng.uniform(0.25, 0.5)
    paint = surface(rng, split, 64, 128, blue)
    cut = Cutter(-r_pool, -r_pool * squeeze, r_pool, 0.7, unit * 0.8)
    if full:
        cut.fill([(-r_pool, -0.15), (r_pool, -0.15), (r_pool, 0.7), (-r_pool, 0.7)], paint)
    else:
        rim = colour(rng, split)
        cut.fill(
            [(-r_pool, 0), (r_pool, 0), (r_pool * 0.8, 0.4), (-r_pool * 0.8, 0.4)], surface(rng, split, *cut.shape, rim)
        )
        cut.oval(0, 0, r_pool, r_pool * squeeze, dim(rim, 1.2)).oval(
            0, 0.01, r_pool * 0.94, r_pool * squeeze * 0.9, paint
        )
    tap_x, tap_y = rng.uniform(-0.2, 0.2), rng.uniform(-0.5, -0.3)
    Stage(image, unit).blit(cut.done(), tap_x * (not full), surface_y)
    metal = _steel(rng)
    light = dim(blue, 1.6) if rng.random() < 0.5 else (240, 240, 240)
    colour_of = hsv(rng.uniform(0, 30), rng.uniform(0, 60), rng.uniform(50, 160)) if stone else dim(blue, 1.3)
    hits = _hits(events)
    places = [
        (
            tap_x if not stone else float(rng.uniform(-0.4, 0.4)) * min(1.0, r_pool),
            surface_y + (0 if not stone else rng.uniform(0, 0.08)),
        )
        for _ in hits
    ]
    sides = rng.uniform(-1.2, 1.2, len(hits))
    crowns = [Debris(rng, split, "drops", [hit], place) for hit, place in zip(hits, places, strict=True)]
    forming_s = rng.uniform(0.15, 0.5)

    def draw(stage: Stage, t: float) -> None:
        for (hit_s, strength), (x, y), side, crown in zip(hits, places, sides, crowns, strict=True):
            age = t - hit_s
            if 0 <= age < 1.4:
                for delay in (0.0, 0.12, 0.24):
                    if age > delay:
                        r = 0.02 + 0.32 * (age - delay) * (0.6 + 0.6 * strength)
                        if (full or r < r_pool * 0.9) and r < 0.45:
                            stage.ellipse(
                                x,
                                y,
                                r,
                                r * squeeze,
                                light if (age < 0.5) else dim(light, 0.8),
                                0,
                                0.012 * max(0.3, 1 - age),
                            )
                if age < 0.25:
                    column = np.sin(np.pi * age / 0.25) * (0.04 + 0.12 * strength)
                    stage.polygon([(x - 0.03, y), (x + 0.03, y), (x, y - column)], light)
                crown(stage, t)
            elif stone:
                fall_s = min(0.7, np.sqrt(2 * reach / gravity))
                if -fall_s < age < 0:
                    stage.circle(x + side * age, y - reach * (1 - ((age + fall_s) / fall_s) ** 2), radius, colour_of)
            else:
                fall_s = np.sqrt(2 * (y - tap_y) / gravity)
                if -fall_s <= age < 0:
                    fallen = (age + fall_s) ** 2 * gravity / 2
                    stage.ellipse(x, tap_y + fallen, radius * 0.8, radius * 1.3, colour_of)
                elif -fall_s - forming_s < age < -fall_s:
                    stage.ellipse(x, tap_y, radius * 0.8, radius * (1.3 + (age + fall_s) / forming_s), colour_of)
        if not stone:
            stage.line((tap_x, tap_y), (tap_x, tap_y - 0.08), metal, 0.06)
            stage.line((tap_x, tap_y - 0.08), (tap_x + 0.35, tap_y - 0.1), metal, 0.06)

    return Picture(
        image,
        [draw],
        jolts=[],
        factors={"background": name, "target": "lake" if full else "basin", "mover": "stone" if stone else "drop"},
    )
