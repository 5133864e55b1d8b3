"""Guns, fireworks and explosions: light, recoil, fire and what flies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2s.synth.render import Cutter, Picture, Stage
from s2s.synth.scenes_curves import Curve, Flashing, Ringing, wander
from s2s.synth.scenes_strike import limb
from s2s.synth.scenes_textures import Colour, Rng, background, colour, dim, hsv, pick, skin, surface
from s2s.synth.script import ScriptedEvent


def flash_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """One of a gun, fireworks, and a blast."""
    way = str(rng.choice(["gun", "firework", "blast"]))
    draw = {"gun": _gun, "firework": _firework, "blast": _blast}[way]
    return draw(rng, split, events, duration_s, stage_shape, unit)


def _glow(stage: Stage, x: float, y: float, radius: float, c: Colour, amount: float) -> None:
    if amount > 0.03:
        for k in (1.0, 0.6, 0.3):
            stage.circle(x, y, radius * k * amount, dim(c, 0.7 + 0.6 * (1 - k)))


def _gun(
    rng: Rng, split: str, events: Sequence[ScriptedEvent], duration_s: float, stage_shape: tuple[int, int], unit: float
) -> Picture:
    name, image = background(rng, split, *stage_shape, dark=rng.random() < 0.3)
    hits = [(e.time_s, e.strength) for e in events]
    long_gun = pick(rng, split, [False, True], [True])
    k = rng.uniform(0.8, 1.5)
    barrel = (0.55 if long_gun else 0.22) * k
    cut = Cutter(-0.35 * k, -0.12, barrel + 0.05, 0.25 * k, unit)
    steel = surface(rng, split, *cut.shape, hsv(rng.uniform(90, 125), rng.uniform(0, 40), rng.uniform(25, 110)))
    cut.fill(np.array([(-0.05, -0.03), (barrel / k, -0.025), (barrel / k, 0.02), (-0.05, 0.05)]) * k, steel)
    cut.fill(
        np.array([(-0.05, 0.0), (0.03, 0.03), (0.0, 0.2), (-0.07, 0.2)]) * k, dim((60, 80, 110), rng.uniform(0.5, 1.2))
    )
    if long_gun:
        cut.fill(np.array([(-0.05, -0.02), (-0.05, 0.06), (-0.32, 0.16), (-0.33, 0.02)]) * k, (50, 80, 120))
    gun = cut.shade(rng, 0.3).done()
    tone = skin(rng)
    arm = limb(rng, split, unit, tone, bare=False)
    x, y = rng.uniform(-0.45, -0.1), rng.uniform(-0.15, 0.15)
    sway = [Curve(wander(rng, duration_s, a, 0.8)) for a in (0.01, 0.015, 0.03)]
    kick, rise = (
        Flashing(hits, rng.uniform(0.05, 0.15), rng.uniform(0.02, 0.08)),
        Ringing(hits, 2.5, 0.12, rng.uniform(0.1, 0.4)),
    )
    fire, light = Flashing(hits, rng.uniform(0.02, 0.05), 1.0), Flashing(hits, 0.03, rng.uniform(0.0, 0.5))
    flame = hsv(rng.uniform(12, 28), rng.uniform(60, 180), 255)
    smoke = rng.random() < 0.5

    def draw(stage: Stage, t: float) -> None:
        px, py, turn = x + sway[0](t) - kick(t), y + sway[1](t), sway[2](t) - rise(t)
        stage.blit_between(arm, (px - 0.03, py + 0.1 * k), (px - 0.6, py + 0.35), 1.0, k)
        stage.blit(gun, px, py, turn)
        stage.circle(px - 0.02, py + 0.1 * k, 0.05 * k, tone)
        tip = np.array([px + barrel * np.cos(turn), py + barrel * np.sin(turn)])
        amount = fire(t)
        if amount > 0.05:
            _glow(stage, tip[0] + 0.06, tip[1], 0.12 * k, flame, amount)
            stage.polygon(tip + np.array([(0, 0), (0.25, -0.05), (0.32, 0), (0.25, 0.05)]) * (k * amount, k), flame)
        if smoke:
            for hit_s, strength in hits:
                age = t - hit_s
                if 0.03 < age < 0.8:
                    stage.circle(
                        tip[0] + 0.08 + 0.2 * age,
                        tip[1] - 0.12 * age,
                        0.03 + 0.1 * age * strength,
                        dim((170, 170, 170), 1 - 0.6 * age),
                    )

    return Picture(
        image,
        [draw],
        light=lambda t: 1 + light(t),
        jolts=hits,
        factors={"background": name, "target": "gun", "mover": "rifle" if long_gun else "pistol"},
    )


def _firework(
    rng: Rng, split: str, events: Sequence[ScriptedEvent], duration_s: float, stage_shape: tuple[int, int], unit: float
) -> Picture:
    name, image = background(rng, split, *stage_shape, dark=True)
    shape = pick(rng, split, ["sphere", "fountain"], ["willow", "ring"])
    bursts = []
    for e in events:
        n = int(rng.integers(16, 44))
        angle = rng.uniform(0, 2 * np.pi, n) if shape != "fountain" else rng.uniform(-np.pi, 0, n)
        speed = rng.uniform(0.25, 1.0, n) if shape != "ring" else np.full(n, 0.8)
        velocity = np.stack([np.cos(angle), np.sin(angle)], 1) * speed[:, None] * (0.4 + 0.8 * e.strength)
        bursts.append(
            (
                e,
                np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.05)]),
                velocity,
                colour(rng, split, (200, 255), (60, 230)),
                rng.uniform(0.3, 0.9),
                float(rng.random() < 0.7),
            )
        )
    light = Flashing([(e.time_s, e.strength) for e in events], 0.08, rng.uniform(0, 0.8))
    fakes = [
        (float(t), rng.uniform(-0.5, 0.5)) for t in rng.uniform(0, duration_s, rng.integers(0, 4))
    ]  # rise and burn out
    drag = rng.uniform(2, 4)
    crowd = rng.random() < 0.4
    heads = [(x, 0.45 + rng.normal(0, 0.03), rng.uniform(0.05, 0.09)) for x in np.linspace(-1, 1, 12)] if crowd else []
    bob = Curve(wander(rng, duration_s, 0.01))

    def draw(stage: Stage, t: float) -> None:
        for t0, x in fakes:
            if t0 - 0.8 < t < t0:
                y = 0.5 - (t - t0 + 0.8) * 0.8
                stage.line((x, y), (x, y + 0.05), (120, 190, 230), 0.008)
        for e, place, velocity, c, life, rocket in bursts:
            age = t - e.time_s
            if rocket and -0.7 < age < 0:
                y = place[1] + (0.55 - place[1]) * (age / 0.7) ** 2
                stage.line((place[0], y), (place[0], y + 0.05), (140, 200, 240), 0.008)
            if 0 <= age < 2.2 * life:
                spread = (1 - np.exp(-drag * age)) / drag
                fall = np.array([0, 0.12 if shape != "willow" else 0.4]) * age * age
                shown = dim(c, max(0.0, 1.1 - age / (2.2 * life)))
                points = place + velocity * 1.6 * spread + fall
                older = place + velocity * 1.6 * (1 - np.exp(-drag * max(0, age - 0.06))) / drag + fall * 0.9
                for a, b in zip(points, older, strict=True):
                    stage.line(a, b, shown, 0.009)
                _glow(stage, *place, 0.16 * e.strength + 0.05, (255, 255, 255), np.exp(-age / 0.05))
        for x, y, r in heads:
            stage.circle(x, y + bob(t + x), r, (8, 8, 8))

    return Picture(
        image,
        [draw],
        light=lambda t: 1 + light(t),
        jolts=[],
        factors={"background": name, "target": "sky", "mover": shape},
    )


def _blast(
    rng: Rng, split: str, events: Sequence[ScriptedEvent], duration_s: float, stage_shape: tuple[int, int], unit: float
) -> Picture:
    name, image = background(rng, split, *stage_shape, dark=rng.random() < 0.2)
    hits = [(e.time_s, e.strength) for e in events]
    target = pick(rng, split, ["ground", "car"], ["barrel"])
    spots = [np.array([rng.uniform(-0.4, 0.4), rng.uniform(0.05, 0.3)]) for _ in events]
    puffs = [(rng.normal(0, 1, (12, 2)), rng.uniform(0.5, 1.2, 12)) for _ in events]
    bits = [(rng.uniform(-np.pi, 0, 14), rng.uniform(0.8, 2.2, 14)) for _ in events]
    light = Flashing(hits, 0.06, rng.uniform(0.1, 0.9))
    fire = hsv(rng.uniform(8, 22), rng.uniform(120, 220), 255)
    body = surface(rng, split, 24, 48, colour(rng, split))
    cut = Cutter(-0.2, -0.12, 0.2, 0.06, unit)
    if target == "car":
        cut.fill(
            [(-0.18, 0), (-0.17, -0.05), (-0.09, -0.1), (0.07, -0.1), (0.13, -0.05), (0.18, -0.04), (0.18, 0.0)], body
        )
        cut.oval(-0.1, 0.01, 0.035, 0.035, (20, 20, 20)).oval(0.1, 0.01, 0.035, 0.035, (20, 20, 20))
    else:
        cut.fill([(-0.06, -0.11), (0.06, -0.11), (0.06, 0.04), (-0.06, 0.04)], body)
    sprite = cut.done() if target != "ground" else None
    hop = Ringing(hits, 1.5, 0.2, 0.1)

    def draw(stage: Stage, t: float) -> None:
        if sprite is not None and spots:
            up = hop(t)
            stage.blit(sprite, spots[0][0], spots[0][1] - max(0.0, up), up * 2)
        for (hit_s, strength), spot, (places, sizes), (angles, speeds) in zip(hits, spots, puffs, bits, strict=True):
            age = t - hit_s
            if not 0 <= age < 1.8:
                continue
            grow = (1 - np.exp(-age / 0.12)) * (0.5 + 0.6 * strength)
            fade = max(0.0, 1 - age / 1.8)
            for place, s in zip(places, sizes, strict=True):
                x, y = spot + place * (0.09, 0.06) * grow - (0, 0.25 * age * s * 0.6)
                hot = np.exp(-age / 0.2)
                c = tuple(
                    int(f * hot + g * (1 - hot))
                    for f, g in zip(dim(fire, 0.6 + 0.5 * s), dim((90, 90, 95), s), strict=True)
                )
                stage.circle(x, y, 0.13 * s * grow * (0.4 + 0.6 * fade) + 0.005, c)
            for angle, speed in zip(angles, speeds, strict=True):
                x, y = spot + np.array([np.cos(angle), np.sin(angle)]) * speed * age * strength + (0, 1.2 * age * age)
                stage.circle(x, y, 0.01, (30, 30, 35))

    return Picture(
        image,
        [draw],
        light=lambda t: 1 + light(t),
        jolts=hits,
        factors={"background": name, "target": target, "mover": "blast"},
    )
