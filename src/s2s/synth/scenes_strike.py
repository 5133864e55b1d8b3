"""Somebody hits something: drum and stick, hand and bongo, fist and door, hammer and anvil, spoon and glass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from s2s.synth.render import Cutter, Draw, Picture, Sprite, Stage
from s2s.synth.scenes_curves import Curve, Hit, Ringing, StrokeStyle, glide, stroke, wander
from s2s.synth.scenes_textures import Colour, Rng, background, colour, dim, hsv, pick, skin, surface
from s2s.synth.script import ScriptedEvent

# ---- targets: the pivot of the sprite is the point that is hit; size 0 (small) .. 1 (large)

Target = tuple[Sprite, float]  # the sprite and how wide the place is that may be hit, scene units
TargetMaker = Callable[[Rng, str, float, float], Target]  # rng, split, size, pixels a scene unit


def _wood(rng: Rng, split: str) -> Colour:
    return (
        hsv(rng.uniform(8, 20), rng.uniform(60, 170), rng.uniform(80, 210)) if split != "test" else colour(rng, split)
    )


def _steel(rng: Rng) -> Colour:
    return hsv(rng.uniform(90, 125), rng.uniform(0, 50), rng.uniform(80, 210))


def snare(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A drum from the side and a little above: shell, rims, bright head."""
    r, tilt, depth = 0.16 + 0.16 * size, rng.uniform(0.15, 0.4), (0.1 + 0.25 * size) * rng.uniform(0.7, 1.3)
    cut = Cutter(-r - 0.03, -r * tilt - 0.03, r + 0.03, r * tilt + depth + 0.05, unit)
    shell = surface(rng, split, *cut.shape, colour(rng, split))
    cut.oval(0, depth, r, r * tilt, shell).fill([(-r, 0), (r, 0), (r, depth), (-r, depth)], shell)
    rim = _steel(rng)
    cut.shade(rng, 0.6)
    cut.oval(0, 0.015, r + 0.02, r * tilt + 0.02, dim(rim, 0.6)).oval(0, 0, r + 0.02, r * tilt + 0.015, rim)
    head = hsv(rng.uniform(0, 30), rng.uniform(0, 50), rng.uniform(170, 250)) if rng.random() < 0.8 else (40, 40, 40)
    cut.oval(0, 0, r, r * tilt, surface(rng, split, *cut.shape, head))
    for x in np.linspace(-0.85, 0.85, 5) * r:
        cut.fill([(x, 0.03), (x + 0.012, 0.03), (x + 0.012, depth * 0.8), (x, depth * 0.8)], dim(rim, 1.2))
    return cut.done(), 0.6 * r


def drum_top(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A drum looked at from above, or a bass drum from the front."""
    r = 0.18 + 0.2 * size
    cut = Cutter(-r - 0.04, -r - 0.04, r + 0.04, r + 0.04, unit)
    cut.oval(0, 0, r + 0.03, r + 0.03, surface(rng, split, *cut.shape, colour(rng, split)))
    cut.oval(
        0, 0, r, r, surface(rng, split, *cut.shape, hsv(rng.uniform(0, 30), rng.uniform(0, 60), rng.uniform(150, 245)))
    )
    if rng.random() < 0.5:
        cut.oval(0, 0, r * 0.3, r * 0.3, colour(rng, split))
    return cut.shade(rng, 0.3).done(), 0.5 * r


def bongo(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A hand drum: tall tapering body of wood, pale skin."""
    r, tilt, depth = 0.12 + 0.12 * size, rng.uniform(0.25, 0.45), 0.3 + 0.3 * size
    cut = Cutter(-r - 0.03, -r * tilt - 0.03, r + 0.03, depth + 0.05, unit)
    body, waist = surface(rng, split, *cut.shape, _wood(rng, split), "grain"), rng.uniform(0.45, 0.95)
    cut.fill([(-r, 0), (r, 0), (r * waist, depth), (-r * waist, depth)], body).shade(rng, 0.6)
    for level in (0.04, rng.uniform(0.08, 0.14)):
        cut.fill([(-r, level), (r, level), (r, level + 0.02), (-r, level + 0.02)], dim(colour(rng, split), 0.8))
    cut.oval(0, 0, r, r * tilt, surface(rng, split, *cut.shape, hsv(18, rng.uniform(20, 90), rng.uniform(170, 245))))
    return cut.done(), 0.45 * r


def cajon(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A wooden box whose front is slapped."""
    r, h = 0.18 + 0.08 * size, 0.35 + 0.15 * size
    cut = Cutter(-r - 0.02, -0.12, r + 0.02, h, unit)
    cut.fill([(-r, -0.1), (r, -0.1), (r, h), (-r, h)], surface(rng, split, *cut.shape, _wood(rng, split), "grain"))
    cut.oval(0, h * 0.6, 0.05, 0.05, (15, 15, 15))
    return cut.shade(rng, 0.4).done(), 0.6 * r


def block(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A wood block or beam from the side."""
    r, h = 0.13 + 0.2 * size, 0.07 + 0.12 * size
    cut = Cutter(-r - 0.02, -0.06, r + 0.02, h + 0.02, unit)
    c = _wood(rng, split)
    cut.fill([(-r, 0), (r, 0), (r, h), (-r, h)], surface(rng, split, *cut.shape, c, "grain"))
    cut.fill([(-r, 0), (-r * 0.85, -0.05), (r * 0.93, -0.05), (r, 0)], dim(c, 1.3))
    if rng.random() < 0.5:
        cut.fill([(-r * 0.8, h * 0.5), (r * 0.8, h * 0.5), (r * 0.8, h * 0.65), (-r * 0.8, h * 0.65)], dim(c, 0.3))
    return cut.shade(rng, 0.4).done(), 0.6 * r


def stump(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A chopping block with year rings, a log standing on it."""
    r, h = 0.16 + 0.14 * size, 0.4
    cut = Cutter(-r - 0.02, -0.12 - 0.02, r + 0.02, h, unit)
    c = _wood(rng, split)
    cut.fill([(-r, 0.1), (r, 0.1), (r, h), (-r, h)], surface(rng, split, *cut.shape, dim(c, 0.7), "speckle"))
    for k, s in enumerate((1.0, 0.8, 0.55, 0.3)):
        cut.oval(0, 0.1, r * s, r * s * 0.3, dim(c, 1.3 - 0.25 * (k % 2)))
    w = r * rng.uniform(0.3, 0.5)
    cut.fill([(-w, 0), (w, 0), (w, 0.12), (-w, 0.12)], surface(rng, split, *cut.shape, c, "grain"))
    return cut.shade(rng, 0.4).done(), 0.3 * w


def door(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A door or table top that fills much of the picture; knocked on."""
    w, h = 0.32 + 0.1 * size, 0.6
    cut = Cutter(-w, -h, w, h, unit)
    c = _wood(rng, split)
    cut.fill([(-w, -h), (w, -h), (w, h), (-w, h)], surface(rng, split, *cut.shape, c, "grain"))
    for y0, y1 in ((-0.5, -0.15), (0.1, 0.5)):
        for x0, x1 in ((-w * 0.8, -w * 0.1), (w * 0.1, w * 0.8)):
            cut.fill([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dim(c, rng.uniform(0.7, 0.9)))
    cut.oval(w * 0.85, 0.05, 0.025, 0.025, hsv(25, 120, 220))
    return cut.shade(rng, 0.3).done(), 0.12


def anvil(rng: Rng, split: str, size: float, unit: float) -> Target:
    k = 0.7 + 0.6 * size
    cut = Cutter(-0.32 * k, -0.03, 0.32 * k, 0.36 * k, unit)
    c = dim(_steel(rng), 0.5)
    shape = [
        (-0.3, 0),
        (0.22, 0),
        (0.22, 0.08),
        (0.08, 0.12),
        (0.08, 0.2),
        (0.2, 0.26),
        (0.2, 0.33),
        (-0.2, 0.33),
        (-0.2, 0.26),
        (-0.08, 0.2),
        (-0.08, 0.12),
        (-0.18, 0.08),
    ]
    cut.fill(np.array(shape) * k, surface(rng, split, *cut.shape, c, "brushed"))
    cut.fill(
        np.array([(-0.1, -0.025), (0.1, -0.025), (0.1, 0.005), (-0.1, 0.005)]) * k,
        hsv(rng.uniform(2, 12), 230, 240) if rng.random() < 0.4 else dim(c, 2.0),
    )
    return cut.shade(rng, 0.5).done(), 0.06 * k


def nail(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A nail or stake standing in a beam."""
    h, w = 0.08 + 0.1 * size, 0.45
    cut = Cutter(-w, -0.02, w, h + 0.3, unit)
    c = _steel(rng)
    cut.fill([(-0.012, 0), (0.012, 0), (0.008, h), (-0.008, h)], c).fill(
        [(-0.03, -0.01), (0.03, -0.01), (0.03, 0.01), (-0.03, 0.01)], c
    )
    cut.fill(
        [(-w, h), (w, h), (w, h + 0.3), (-w, h + 0.3)], surface(rng, split, *cut.shape, _wood(rng, split), "grain")
    )
    return cut.shade(rng, 0.3).done(), 0.0


def pan(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A pot or pan, upside down or upright."""
    r, h = 0.14 + 0.14 * size, 0.12 + 0.15 * size
    cut = Cutter(-r - 0.25, -0.08, r + 0.03, h + 0.06, unit)
    metal = surface(rng, split, *cut.shape, _steel(rng), "brushed")
    cut.fill([(-r, 0), (r, 0), (r * 0.9, h), (-r * 0.9, h)], metal).oval(0, h, r * 0.9, 0.04, metal)
    cut.oval(0, 0, r, 0.05, dim(_steel(rng), 1.2))
    cut.capsule(-r, 0.03, 0.02, -r - 0.22, 0.02, 0.018, (30, 30, 35))
    return cut.shade(rng, 0.6).done(), 0.5 * r


def pipe(rng: Rng, split: str, size: float, unit: float) -> Target:
    r, w = 0.02 + 0.03 * size, rng.uniform(0.25, 0.6)
    cut = Cutter(-w, -0.01, w, 2 * r + 0.02, unit)
    cut.fill([(-w, 0), (w, 0), (w, 2 * r), (-w, 2 * r)], surface(rng, split, *cut.shape, _steel(rng), "brushed"))
    return cut.shade(rng, 0.8).done(), 0.4 * w


def tumbler(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A glass of drink: see-through, bright edges."""
    r, h = 0.07 + 0.07 * size, 0.2 + 0.2 * size
    cut = Cutter(-r - 0.05, -0.04, r + 0.05, h + 0.03, unit)
    pale = hsv(rng.uniform(85, 115), rng.uniform(5, 50), 220)
    if rng.random() < 0.5:
        cut.fill([(-r, 0), (r, 0), (r * 0.75, h), (-r * 0.75, h)], pale)
        level = rng.uniform(0.2, 0.8) * h
        cut.fill([(-r * 0.93, level), (r * 0.93, level), (r * 0.75, h), (-r * 0.75, h)], colour(rng, split, (120, 240)))
    else:  # a stemmed glass
        cut.fill(
            [(-r, 0), (r, 0), (r * 0.8, h * 0.4), (0.012, h * 0.55), (-0.012, h * 0.55), (-r * 0.8, h * 0.4)], pale
        )
        cut.fill([(-0.01, h * 0.5), (0.01, h * 0.5), (0.01, h), (-0.01, h)], pale).oval(0, h, r * 0.7, 0.015, pale)
    for x in (-r * 0.9, r * 0.6):
        cut.fill([(x, 0.02), (x + 0.02, 0.02), (x + 0.014, h * 0.4), (x, h * 0.4)], (255, 255, 255))
    cut.oval(0, 0, r, 0.018, (250, 250, 250)).oval(0, 0.002, r * 0.86, 0.011, dim(pale, 0.8))
    return cut.done(rng.uniform(0.55, 0.8)), 0.7 * r


def bottle(rng: Rng, split: str, size: float, unit: float) -> Target:
    r, h = 0.06 + 0.04 * size, 0.4 + 0.15 * size
    cut = Cutter(-r - 0.02, -0.02, r + 0.02, h, unit)
    c = colour(rng, split, (60, 200), (40, 160))
    cut.fill(
        [
            (-r * 0.35, 0),
            (r * 0.35, 0),
            (r * 0.4, h * 0.3),
            (r, h * 0.45),
            (r, h),
            (-r, h),
            (-r, h * 0.45),
            (-r * 0.4, h * 0.3),
        ],
        c,
    )
    cut.fill([(-r * 0.7, h * 0.5), (-r * 0.5, h * 0.5), (-r * 0.5, h * 0.95), (-r * 0.7, h * 0.95)], (245, 250, 250))
    cut.fill(
        [(-r * 0.95, h * 0.6), (r * 0.95, h * 0.6), (r * 0.95, h * 0.85), (-r * 0.95, h * 0.85)], colour(rng, split)
    )
    return cut.done(rng.uniform(0.7, 0.9)), 0.3 * r


def call_bell(rng: Rng, split: str, size: float, unit: float) -> Target:
    """The bell on a counter: a dome with a button on top."""
    r = 0.12 + 0.1 * size
    cut = Cutter(-r - 0.03, -0.02, r + 0.03, r + 0.08, unit)
    a = np.linspace(np.pi, 2 * np.pi, 24)
    brass = hsv(rng.uniform(18, 28), rng.uniform(90, 200), rng.uniform(150, 245)) if split != "test" else _steel(rng)
    cut.capsule(0, 0.0, 0.02, 0, 0.06, 0.012, dim(brass, 0.7))
    cut.fill(
        np.stack([r * np.cos(a), 0.04 + r * 0.85 + r * 0.85 * np.sin(a)], 1),
        surface(rng, split, *cut.shape, brass, "brushed"),
    )
    cut.fill(
        [
            (-r - 0.02, 0.04 + r * 0.85),
            (r + 0.02, 0.04 + r * 0.85),
            (r + 0.02, 0.08 + r * 0.85),
            (-r - 0.02, 0.08 + r * 0.85),
        ],
        (25, 25, 30),
    )
    return cut.shade(rng, 0.7).done(), 0.0


def hung_bell(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A bell that hangs and is struck on its side, the pivot at the rim."""
    k = 0.6 + 0.6 * size
    cut = Cutter(-0.42 * k, -0.42 * k, 0.03, 0.08 * k, unit)
    outline = [
        (0, 0),
        (-0.05, -0.1),
        (-0.09, -0.28),
        (-0.16, -0.34),
        (-0.24, -0.34),
        (-0.31, -0.28),
        (-0.35, -0.1),
        (-0.4, 0),
        (-0.2, 0.03),
    ]
    brass = hsv(rng.uniform(16, 28), rng.uniform(90, 200), rng.uniform(110, 230)) if split != "test" else _steel(rng)
    cut.fill(np.array(outline) * k, surface(rng, split, *cut.shape, brass, "brushed"))
    cut.oval(-0.2 * k, -0.37 * k, 0.03 * k, 0.04 * k, dim(brass, 0.6))
    return cut.shade(rng, 0.7).done(), 0.0


def basin(rng: Rng, split: str, size: float, unit: float) -> Target:
    """A basin or pool of water seen from a little above."""
    r = 0.28 + 0.2 * size
    cut = Cutter(-r - 0.03, -0.16, r + 0.03, 0.3, unit)
    cut.fill(
        [(-r, 0), (r, 0), (r * 0.85, 0.27), (-r * 0.85, 0.27)], surface(rng, split, *cut.shape, colour(rng, split))
    )
    cut.oval(0, 0, r, 0.12, (225, 225, 230)).oval(
        0, 0.01, r * 0.94, 0.105, hsv(rng.uniform(85, 112), rng.uniform(60, 150), rng.uniform(110, 210))
    )
    return cut.shade(rng, 0.2).done(), 0.3 * r


# ---- strikers: drawn from the hand at the origin to the right; the tip that touches is at (length, face)

Tool = tuple[Sprite, float, float]


def tool(name: str, rng: Rng, split: str, unit: float) -> Tool:
    length = rng.uniform(0.26, 0.45)
    cut = Cutter(-0.06, -0.16, length + 0.12, 0.16, unit)
    wood, steel = (
        surface(rng, split, *cut.shape, _wood(rng, split), "grain"),
        surface(rng, split, *cut.shape, _steel(rng), "brushed"),
    )
    face = 0.0
    if name == "stick":
        cut.capsule(-0.04, 0, 0.013, length - 0.012, 0, 0.008, wood).oval(length - 0.012, 0, 0.014, 0.011, wood)
        face = 0.01
    elif name == "brush":
        cut.capsule(-0.04, 0, 0.014, length * 0.5, 0, 0.012, colour(rng, split))
        for spread in np.linspace(-0.05, 0.05, 7):
            cut.fill(
                [(length * 0.5, -0.004), (length * 0.5, 0.004), (length, spread + 0.004), (length, spread - 0.004)],
                _steel(rng),
            )
        face = 0.04
    elif name == "mallet":
        r = rng.uniform(0.03, 0.055)
        cut.capsule(-0.04, 0, 0.01, length - r, 0, 0.009, wood).oval(
            length - r, 0, r, r * 0.9, surface(rng, split, *cut.shape, colour(rng, split))
        )
        length, face = length - r, r * 0.9
    elif name in ("hammer", "sledge"):
        k = 1.0 if name == "hammer" else 1.5
        handle = surface(rng, split, *cut.shape, colour(rng, split)) if rng.random() < 0.5 else wood
        cut.capsule(-0.04, 0, 0.018, length, 0, 0.014, handle)
        cut.fill(
            np.array([(length - 0.03, -0.08), (length + 0.02, -0.08), (length + 0.03, 0.07), (length - 0.04, 0.07)])
            * (1, k),
            steel,
        )
        face = 0.07 * k
    elif name == "axe":
        cut.capsule(-0.05, 0, 0.016, length, 0, 0.016, wood)
        cut.fill([(length - 0.03, -0.04), (length + 0.03, -0.04), (length + 0.06, 0.1), (length - 0.05, 0.1)], steel)
        face = 0.1
    elif name == "spoon":
        cut.capsule(-0.05, 0, 0.011, length - 0.06, 0, 0.008, steel).oval(length - 0.035, 0, 0.05, 0.03, steel)
        face, length = 0.03, length - 0.03
    elif name == "knife":
        cut.capsule(-0.05, 0, 0.018, 0.06, 0, 0.016, (30, 30, 40))
        cut.fill([(0.06, -0.03), (length, -0.02), (length + 0.03, 0.03), (0.06, 0.035)], steel)
        face = 0.03
    elif name == "wrench":
        cut.capsule(-0.05, 0, 0.018, length - 0.03, 0, 0.018, steel).oval(length - 0.01, 0, 0.05, 0.05, steel)
        cut.oval(length + 0.03, 0, 0.025, 0.02, (20, 20, 20))
        face = 0.05
    elif name == "pen":
        cut.capsule(-0.05, 0, 0.012, length * 0.6, 0, 0.012, colour(rng, split)).capsule(
            length * 0.6, 0, 0.012, length * 0.68, 0, 0.003, steel
        )
        length, face = length * 0.68, 0.004
    else:
        raise ValueError(name)
    return cut.shade(rng, 0.4).done(), length, face


def body_part(name: str, rng: Rng, split: str, unit: float, tone: Colour) -> Tool:
    """A hand or foot that touches at the origin and whose arm leaves to the right; length and face place the wrist."""
    k = rng.uniform(0.8, 1.3)
    cut = Cutter(-0.22, -0.26, 0.3, 0.2, unit * 1.1)
    c = tone
    paint = surface(rng, split, *cut.shape, c, "plain")
    if name == "glove":
        paint, name = surface(rng, split, *cut.shape, colour(rng, split)), str(rng.choice(["fist", "palm"]))
    if name == "fist":
        cut.fill(
            np.array(
                [(-0.0, 0.0), (-0.09, -0.01), (-0.1, -0.08), (-0.07, -0.14), (0.06, -0.15), (0.1, -0.1), (0.09, -0.02)]
            )
            * k,
            paint,
        )
        for x in (-0.06, -0.02, 0.02):
            cut.fill(np.array([(x, -0.01), (x + 0.006, -0.01), (x + 0.006, -0.07), (x, -0.07)]) * k, dim(c, 0.55))
        wrist = (0.09 * k, -0.08 * k)
    elif name == "palm":
        cut.capsule(0.0, -0.06 * k, 0.06 * k, 0.1 * k, -0.08 * k, 0.05 * k, paint)
        for y, reach in zip((-0.1, -0.07, -0.035, -0.0), (0.13, 0.17, 0.16, 0.12), strict=True):
            cut.capsule(0, y * k - 0.005, 0.02 * k, -reach * k, (y * 0.9) * k - 0.01, 0.014 * k, paint)
            cut.fill(
                np.array([(0.0, y + 0.012), (-reach * 0.9, y + 0.01), (-reach * 0.9, y + 0.014), (0.0, y + 0.018)]) * k,
                dim(c, 0.6),
            )
        wrist = (0.1 * k, -0.08 * k)
    elif name == "finger":
        cut.capsule(0, -0.016 * k, 0.016 * k, 0.08 * k, -0.1 * k, 0.02 * k, paint).oval(
            0.12 * k, -0.13 * k, 0.07 * k, 0.05 * k, paint
        )
        for y in (-0.15, -0.12, -0.09):
            cut.capsule(0.1 * k, y * k, 0.02 * k, 0.05 * k, (y + 0.01) * k, 0.018 * k, dim(c, 0.85))
        wrist = (0.15 * k, -0.15 * k)
    elif name == "shoe":
        c = colour(rng, split, (30, 220))
        sole = surface(rng, split, *cut.shape, c)
        cut.fill(
            np.array([(-0.13, 0), (0.09, 0), (0.09, -0.14), (0.02, -0.14), (0, -0.08), (-0.1, -0.06), (-0.14, -0.03)])
            * k,
            sole,
        )
        cut.fill(np.array([(-0.14, 0.0), (0.1, 0.0), (0.1, -0.02), (-0.14, -0.02)]) * k, (230, 230, 230))
        wrist = (0.055 * k, -0.13 * k)
    else:
        raise ValueError(name)
    sprite = cut.shade(rng, 0.4).done()
    return sprite, float(np.hypot(*wrist)), float(np.arctan2(wrist[1], wrist[0]))


TOOLS = ("stick", "brush", "mallet", "hammer", "sledge", "axe", "spoon", "knife", "wrench", "pen")


def limb(rng: Rng, split: str, unit: float, tone: Colour, bare: bool) -> Sprite:
    """A forearm of length 1 drawn from the wrist to the right, sleeve from some way up."""
    cut = Cutter(-0.05, -0.1, 1.05, 0.1, unit)
    r = rng.uniform(0.03, 0.045)
    cut.capsule(0, 0, r, 1, 0, r * 1.5, surface(rng, split, *cut.shape, tone, "plain"))
    if not bare or rng.random() < 0.6:
        start = rng.uniform(0.02, 0.5)
        cut.capsule(start, 0, r * 1.25, 1, 0, r * 1.9, surface(rng, split, *cut.shape, colour(rng, split, (30, 230))))
    return cut.shade(rng, 0.5).done()


@dataclass
class Striker:
    """One tool or limb with its stroke, its place over time and the side it comes from (+1 right, -1 left)."""

    name: str
    sprite: Sprite
    length: float
    face: float
    arm: Sprite
    p: Curve
    x: Curve
    y: Curve
    side: int
    reach: float  # radians of a swing, scene units of a push
    tilt: float  # how the tool lies at contact, radians from level
    aim: np.ndarray  # unit vector of a push towards contact
    grow: float  # seen from above, what is raised comes nearer
    elbow: np.ndarray
    sway: Curve
    size: float
    hand: Colour
    raises: float  # sense of a swing: 1 lifts the tip, -1 draws it back to the side

    def __call__(self, stage: Stage, t: float) -> None:
        p = self.p(t)
        at = np.array([self.x(t), self.y(t)])
        if self.name in TOOLS:
            self._swing(stage, at, p, t)
        else:
            self._push(stage, at, p, t)

    def _swing(self, stage: Stage, at: np.ndarray, p: float, t: float) -> None:
        scale = self.size * (1 + self.grow * p)
        level = self.tilt if self.side < 0 else np.pi - self.tilt
        tip = np.array([self.length, self.face * -self.side]) * self.size  # the face points down on the screen
        pivot = at - _turned(tip, level)
        pivot = (
            pivot
            + np.array([0.1 * self.side, (-0.5 - self.grow) * max(0.0, self.raises)])
            * p
            * 0.3
            * self.length
            * self.size
        )
        angle = level + self.side * self.raises * p * self.reach * (0.25 if self.grow else 1.0)
        elbow = self.elbow + np.array([self.sway(t), 0.3 * (pivot[1] - at[1])])
        stage.blit_between(self.arm, pivot, elbow, 1.0, scale)
        stage.blit(self.sprite, pivot[0], pivot[1], angle, (scale, -scale * self.side))
        stage.circle(pivot[0], pivot[1], 0.045 * scale, self.hand)

    def _push(self, stage: Stage, at: np.ndarray, p: float, t: float) -> None:
        scale = self.size * (1 + self.grow * p)
        place = at - self.aim * p * self.reach
        turn = self.tilt * self.side + 0.5 * p * self.side * self.reach
        wrist = place + _turned(
            np.array([np.cos(self.face), np.sin(self.face)]) * self.length * (self.side, 1.0) * scale, turn
        )
        stage.blit_between(self.arm, wrist, self.elbow + np.array([self.sway(t), 0.5 * (wrist[1] - at[1])]), 1.0, scale)
        stage.blit(self.sprite, place[0], place[1], turn, (scale * self.side, scale))


def _turned(v: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([v[0] * c - v[1] * s, v[0] * s + v[1] * c])


@dataclass(frozen=True)
class Strike:
    """One way to make a kind of sound by hitting."""

    target: TargetMaker
    movers: tuple[str, ...]  # drawn in training
    test_movers: tuple[str, ...]
    endings: tuple[str, ...] = ("rebound", "dead_stop")
    above: bool = False  # looked at from above: raised means nearer
    pairs: bool = False  # often two strikers
    row: bool = False  # may stand in a row of up to three
    debris: str = ""  # "chips", "sparks", "drops"
    give: float = 0.012  # how far the target is knocked, scene units
    sideways: bool = False  # struck from the side


STRIKES: dict[str, tuple[Strike, ...]] = {
    "drum": (
        Strike(snare, ("stick", "stick", "brush"), ("mallet", "stick"), pairs=True, row=True),
        Strike(drum_top, ("stick",), ("mallet",), above=True, pairs=True, row=True),
        Strike(drum_top, ("stick", "brush"), ("mallet",), give=0.02, sideways=True),
    ),
    "hand_drum": (
        Strike(bongo, ("palm", "finger"), ("glove", "fist"), pairs=True, row=True),
        Strike(drum_top, ("palm",), ("glove",), above=True, pairs=True),
        Strike(cajon, ("palm", "fist"), ("glove", "fist"), pairs=True, give=0.004),
    ),
    "wood": (
        Strike(block, ("stick", "hammer"), ("mallet", "spoon"), pairs=False, row=True, debris=""),
        Strike(door, ("fist",), ("glove", "fist"), above=True, give=0.004),
        Strike(stump, ("axe",), ("axe", "sledge"), endings=("dead_stop", "follow"), debris="chips"),
        Strike(block, ("knife", "fist"), ("knife", "shoe"), endings=("dead_stop", "rebound"), give=0.004),
    ),
    "metal": (
        Strike(anvil, ("hammer",), ("sledge", "hammer"), debris="sparks", give=0.004),
        Strike(nail, ("hammer",), ("sledge", "wrench"), endings=("dead_stop", "rebound"), give=0.01),
        Strike(pan, ("spoon", "stick"), ("wrench", "knife"), row=True, give=0.02),
        Strike(pipe, ("hammer", "spoon"), ("wrench",), give=0.01),
    ),
    "glass": (
        Strike(tumbler, ("spoon", "finger"), ("knife", "pen"), row=True, give=0.006),
        Strike(bottle, ("spoon", "stick"), ("pen", "knife"), row=True, give=0.008),
    ),
    "bell": (
        Strike(call_bell, ("finger", "palm"), ("fist", "glove"), give=0.006),
        Strike(
            hung_bell,
            ("hammer", "stick"),
            ("mallet",),
            endings=("rebound", "dead_stop", "follow"),
            give=0.06,
            sideways=True,
        ),
    ),
    "water": (
        Strike(basin, ("palm", "shoe"), ("fist", "shoe"), endings=("follow", "dead_stop"), debris="drops", give=0.0),
    ),
}


def strike_picture(
    rng: Rng,
    split: str,
    kind: str,
    events: Sequence[ScriptedEvent],
    duration_s: float,
    stage_shape: tuple[int, int],
    unit: float,
) -> Picture:
    """Somebody hits something of the kind at the events. stage_shape (height, width) px; unit px a scene unit."""
    ways = STRIKES[kind]
    number = int(rng.integers(len(ways)))
    way = ways[number]
    background_name, image = background(rng, split, *stage_shape)
    mover = pick(rng, split, list(way.movers), list(way.test_movers))
    materials = sorted({e.material for e in events}) or [0]
    if not way.row:
        materials = materials[:1]
    size_of = {e.material: e.size for e in events} or {0: float(rng.random())}
    zoom = float(np.exp(rng.uniform(np.log(0.6), np.log(1.9))))
    made = [way.target(rng, split, size_of.get(m, 0.5), unit * zoom) for m in materials]
    spacing = min(0.42, 0.95 * 2 * stage_shape[1] / (2 * unit * 1.28) / (len(made) + 0.5))
    base_x, base_y = rng.uniform(-0.15, 0.15), rng.uniform(-0.02, 0.2) if not way.above else rng.uniform(-0.1, 0.12)
    if way.target is door:
        base_y = rng.uniform(-0.15, 0.1)
    places = {
        m: np.array([base_x + (i - (len(made) - 1) / 2) * spacing * zoom, base_y + rng.normal(0, 0.02)])
        for i, m in enumerate(materials)
    }
    answers = {
        m: Ringing(
            [(e.time_s, e.strength) for e in events if (e.material if way.row else materials[0]) == m],
            rng.uniform(6, 16),
            rng.uniform(0.04, 0.15),
            way.give * rng.choice([0.0, 1.0, 1.0, 2.0]),
        )
        for m in materials
    }

    def targets(stage: Stage, t: float) -> None:
        for m, (sprite, _) in zip(materials, made, strict=True):
            x, y = places[m]
            push = answers[m](t)
            if way.sideways:
                stage.blit(sprite, x - push, y, push * 2.0, zoom)
            else:
                stage.blit(sprite, x, y + push, push * 1.2, zoom)

    n_strikers = 1 if not way.pairs else int(rng.choice([1, 2, 3], p=[0.35, 0.6, 0.05]))
    layers: list[Draw] = []
    if way.target is not door and not way.above and rng.random() < 0.6:
        lay_table(image, rng, split, base_y + 0.1 * zoom + rng.uniform(0.1, 0.3), unit)
    performer_at = len(layers)
    layers.append(targets)
    spread = {m: w * zoom for m, (_, w) in zip(materials, made, strict=True)}
    for turn in range(n_strikers):
        own = [e for i, e in enumerate(events) if i % n_strikers == turn]
        layers.append(
            _striker(rng, split, way, mover, own, turn, n_strikers, places, spread, materials, duration_s, unit, zoom)
        )
    hits = [(e.time_s, e.strength) for e in events]
    strikers = [layer for layer in layers if isinstance(layer, Striker)]
    if not way.above and not way.sideways and mover != "shoe" and rng.random() < 0.5:
        layers.insert(performer_at, Performer(rng, split, strikers, duration_s, unit, zoom))
    if way.debris and rng.random() < 0.85:
        origin = places[materials[0]]
        layers.append(Debris(rng, split, way.debris, hits, origin))
    factors = {
        "background": background_name,
        "target": way.target.__name__,
        "mover": mover,
        "view": "above" if way.above else "side",
        "strikers": str(n_strikers),
    }
    return Picture(image, layers, jolts=hits, factors=factors)


def _striker(
    rng: Rng,
    split: str,
    way: Strike,
    mover: str,
    own: Sequence[ScriptedEvent],
    turn: int,
    n: int,
    places: dict[int, np.ndarray],
    spread: dict[int, float],
    materials: list[int],
    duration_s: float,
    unit: float,
    zoom: float,
) -> Striker:
    side = 1 if (n == 1 and rng.random() < 0.75) or (n > 1 and turn % 2 == 0) else -1
    if way.sideways:
        side = 1
    style = StrokeStyle.draw(rng, way.endings)
    p = stroke(rng, [(e.time_s, e.strength) for e in own], duration_s, style)
    home = places[materials[turn % len(materials)]]
    shift = side * (0.5 if n > 1 else 0.0) * spread[materials[0]]
    roam = rng.choice([0.1, 0.3, 0.8])
    xs, ys = [(-1.0, home[0] + shift)], [(-1.0, home[1])]
    for e in own:
        m = e.material if e.material in places else materials[0]
        jitter = rng.normal(0, roam) * spread[m]
        xs.append((e.time_s, places[m][0] + shift + float(np.clip(jitter, -spread[m], spread[m]))))
        ys.append((e.time_s, places[m][1] + (rng.normal(0, 0.02) if way.above else 0.0)))
    tone = skin(rng)
    arm = limb(rng, split, unit, tone, bare=True)
    if mover in TOOLS:
        sprite, length, face = tool(mover, rng, split, unit * 1.3)
        reach = rng.uniform(0.7, 1.7)
        tilt = rng.uniform(0.0, 0.6) if not way.sideways else rng.uniform(0.9, 1.4)
        if way.above:
            tilt = rng.uniform(-1.2, -0.5)
    else:
        sprite, length, face = body_part(mover, rng, split, unit, tone)
        reach = rng.uniform(0.18, 0.45)
        tilt = rng.uniform(-0.3, 0.3) if not way.above else rng.uniform(0.2, 1.0)
    aim_angle = rng.normal(np.pi / 2, 0.3)
    aim = np.array([np.cos(aim_angle), np.sin(aim_angle)])
    if way.sideways:
        aim = np.array([-1.0, 0.2])
    if way.above:
        aim = np.array([-0.3 * side, -0.6]) * rng.uniform(0.2, 0.8)
    if way.above:
        elbow = np.array([home[0] + side * rng.uniform(0.2, 0.6), rng.uniform(0.9, 1.2)])
    elif mover == "shoe":
        elbow = np.array([home[0] + side * rng.uniform(-0.1, 0.4), -0.9])
    else:
        elbow = np.array([home[0] + side * rng.uniform(1.0, 1.5), rng.uniform(-0.4, 0.9)])
    return Striker(
        mover,
        sprite,
        length,
        face,
        arm,
        p,
        glide(xs, duration_s),
        glide(ys, duration_s),
        side,
        reach,
        tilt,
        aim,
        rng.uniform(0.2, 0.5) if way.above else 0.0,
        elbow,
        Curve(wander(rng, duration_s, 0.02)),
        zoom * rng.uniform(0.8, 1.15),
        tone,
        -1.0 if way.sideways and way.target is hung_bell else 1.0,
    )


def lay_table(image: np.ndarray, rng: Rng, split: str, y: float, unit: float) -> None:
    """Draws a floor or table top from height y down, into the background itself."""
    top = max(0, int(y * unit + image.shape[0] / 2))
    if top < image.shape[0]:
        image[top:] = surface(rng, split, image.shape[0] - top, image.shape[1], colour(rng, split), "grain")


class Performer:
    """Head and body of the one who strikes: they sway, lean back with the raised arm and nod with the stroke."""

    def __init__(self, rng: Rng, split: str, strikers: Sequence[Striker], duration_s: float, unit: float, zoom: float):
        k = zoom * rng.uniform(0.9, 1.5)
        cut = Cutter(-0.25 * k, -0.5 * k, 0.25 * k, 0.7 * k, unit)
        cloth = surface(rng, split, *cut.shape, colour(rng, split, (30, 230)))
        cut.capsule(0, -0.05 * k, 0.19 * k, 0, 0.7 * k, 0.2 * k, cloth)
        tone = strikers[0].hand
        cut.capsule(0, -0.25 * k, 0.05 * k, 0, -0.18 * k, 0.06 * k, tone)
        cut.oval(0, -0.35 * k, 0.085 * k, 0.115 * k, surface(rng, split, *cut.shape, tone, "plain"))
        cut.fill(
            np.array([(-0.09, -0.36), (-0.07, -0.46), (0.07, -0.46), (0.09, -0.36), (0, -0.42)]) * k, dim(tone, 0.3)
        )
        self._sprite = cut.shade(rng, 0.4).done()
        self._strikers = strikers
        first = strikers[0]
        middle = first.x(0.0) + (0.0 if len(strikers) > 1 else first.side * rng.uniform(0.2, 0.6))
        self._place = np.array([middle, first.y(0.0) - rng.uniform(0.0, 0.35) * k])
        self._x, self._y = (Curve(wander(rng, duration_s, 0.02, rng.uniform(0.4, 1.5))) for _ in "xy")
        self._lean, self._nod = rng.uniform(0.0, 0.25), rng.uniform(-0.04, 0.08)

    def __call__(self, stage: Stage, t: float) -> None:
        raised = sum(s.p(t) for s in self._strikers) / len(self._strikers)
        x, y = self._place + np.array([self._x(t), self._y(t) - self._nod * raised])
        stage.blit(self._sprite, x, y, self._strikers[0].side * self._lean * raised * 0.6 + self._x(t))


class Debris:
    """Chips, sparks or drops that fly from a place at each hit."""

    def __init__(self, rng: Rng, split: str, kind: str, hits: Sequence[Hit], origin: np.ndarray):
        self._life = {"chips": 0.5, "sparks": 0.25, "drops": 0.6, "shards": 0.7}[kind]
        self._sparks = kind == "sparks"
        self._bursts = []
        base = {
            "chips": hsv(14, 120, 190),
            "sparks": (80, 200, 255),
            "drops": (235, 225, 215),
            "shards": (240, 245, 245),
        }[kind]
        for hit_s, strength in hits:
            n = int(rng.integers(4, 14) * (0.4 + strength))
            angle, speed = rng.uniform(-np.pi, 0, n), rng.uniform(0.3, 1.6, n) * (0.4 + 0.8 * strength)
            self._bursts.append(
                (hit_s, np.stack([np.cos(angle), np.sin(angle)], 1) * speed[:, None], rng.uniform(0.004, 0.014, n))
            )
        self._colour, self._origin = base, np.asarray(origin, float)

    def __call__(self, stage: Stage, t: float) -> None:
        for hit_s, speed, radius in self._bursts:
            age = t - hit_s
            if 0 <= age < self._life:
                places = self._origin + speed * age + np.array([0, 2.2]) * age * age
                for (x, y), (vx, vy), r in zip(places, speed, radius, strict=True):
                    if self._sparks:
                        stage.line((x, y), (x - vx * 0.02, y - (vy + 4.4 * age) * 0.02), self._colour, 0.008)
                    else:
                        stage.circle(x, y, r, self._colour)
