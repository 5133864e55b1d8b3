"""Solid bodies: shapes and what they are made of, physics, contacts, and pictures of where everything was.

Bullet (pybullet, without a window) moves the bodies in steps of a millisecond; TinyRenderer draws them. A world is
built, run once, and then drawn at any time. Lengths are metres, z points up, the floor's top is z = 0.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from s2s.errors import InputError
from s2s.synth.photos import PhotoBank
from s2s.synth.render import Stage
from s2s.synth.scenes_curves import Curve
from s2s.synth.scenes_textures import Rng, colour, hsv, skin, surface

STEP_S = 0.001
AUDIBLE_SPEED = 0.15  # m/s; a softer touch makes no sound
LOUD_SPEED = 8.0  # what a fall from a metre loses and gets back
PARKED = np.array([0.0, 0.0, -50.0])
"""Where bodies wait that are not in the scene yet."""
_RENDER_SHARE = 0.8  # side of the rendered picture / side of the stage
_UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])

Place = tuple[np.ndarray, np.ndarray]  # position, quaternion (x, y, z, w)


# ------------------------------------------------------------------------------------------------- shapes and materials


@dataclass(frozen=True)
class Shape:
    """half: half extents of its box. profile: radius at each height, bottom to top, of what a lathe turns."""

    name: str
    form: str  # "sphere", "box" or "lathe"
    half: tuple[float, float, float]
    profile: tuple[tuple[float, float], ...] = ()  # (radius, z)

    def scaled(self, k: float) -> Shape:
        profile = tuple((r * k, z * k) for r, z in self.profile)
        return Shape(self.name, self.form, tuple(side * k for side in self.half), profile)


def sphere(name: str, radius: float) -> Shape:
    return Shape(name, "sphere", (radius, radius, radius))


def box(name: str, x: float, y: float, z: float) -> Shape:
    return Shape(name, "box", (x, y, z))


def turned(name: str, *profile: tuple[float, float]) -> Shape:
    """A lathe piece, moved so that its origin is the middle of its height."""
    low, high = profile[0][1], profile[-1][1]
    middle, widest = (low + high) / 2, max(r for r, _ in profile)
    return Shape(name, "lathe", (widest, widest, (high - low) / 2), tuple((r, z - middle) for r, z in profile))


def cylinder(name: str, radius: float, half_height: float) -> Shape:
    return turned(name, (radius, -half_height), (radius, half_height))


@dataclass(frozen=True)
class Material:
    """photo: what its photographs are made of; grain: the drawn surface it prefers where there are none."""

    name: str
    photo: str
    grain: str
    bounce: float  # restitution
    friction: float
    density: float  # kg/m3, of the whole body
    soft: bool = False  # lands without a sound


MATERIALS = {
    m.name: m
    for m in (
        Material("rubber", "cloth", "speckle", 0.86, 0.7, 150),
        Material("wood", "wood", "grain", 0.5, 0.5, 600),
        Material("metal", "metal", "brushed", 0.55, 0.35, 2500),
        Material("glass", "glass", "plain", 0.62, 0.3, 1500),
        Material("skin", "skin", "plain", 0.1, 0.8, 900),
        Material("floor", "wood", "grain", 0.9, 0.6, 1000),
        Material("cushion", "cloth", "speckle", 0.03, 1.0, 100, soft=True),
    )
}


def paint(rng: Rng, split: str, material: Material, photos: PhotoBank | None, px: int) -> tuple[str, np.ndarray]:
    """Name and picture (BGR) that covers a body."""
    if material.name == "skin":
        return "skin", surface(rng, "train", px, px, skin(rng), "plain")
    if material.name == "rubber":
        return _rubber(rng, split, px)
    if photos is not None and photos.names(material.photo) and rng.random() < 0.75:
        return photos.surface(rng, material.photo, px, px)
    tone = {
        "wood": hsv(rng.uniform(8, 18), rng.uniform(60, 170), rng.uniform(80, 220)),
        "metal": hsv(rng.uniform(90, 120), rng.uniform(5, 50), rng.uniform(90, 230)),
        "glass": hsv(rng.uniform(40, 110), rng.uniform(15, 110), rng.uniform(140, 245)),
    }.get(material.name) or colour(rng, split, (70, 235))
    if rng.random() < 0.25:
        tone = colour(rng, split, (70, 235))
    return material.grain, surface(rng, split, px, px, tone, material.grain)


def _rubber(rng: Rng, split: str, px: int) -> tuple[str, np.ndarray]:
    """Balls: one colour with lines in training; panels and spots in the test."""
    image = surface(rng, split, px, px, colour(rng, split, (90, 245), (80, 230)))
    other, n = colour(rng, split, (20, 250)), int(rng.integers(2, 5))
    if split == "test":
        for k in range(n):
            cv2.rectangle(image, (k * px // n, 0), (k * px // n + px // (2 * n), px), other, -1)
        return "panels", image
    for k in range(n):
        cv2.line(image, (k * px // n, 0), (k * px // n, px), other, max(1, px // 40))
    cv2.line(image, (0, px // 2), (px, px // 2), other, max(1, px // 40))
    return "lines", image


def drum_paint(shape: Shape, shell: np.ndarray, head: tuple[int, int, int]) -> np.ndarray:
    """A drum's cover: the turned ends are heads of one colour, with a darker rim, around a shell."""
    image, px = shell.copy(), len(shell)
    rows = round(px * shape.half[0] / (2 * shape.half[0] + 2 * shape.half[2]))
    for start, stop, rim in ((0, rows, rows - 1), (px - rows, px, px - rows)):
        image[start:stop] = head
        image[max(0, rim - px // 24) : rim + px // 24] = tuple(c // 3 for c in head)
    return image


def _lathe_mesh(profile: Sequence[tuple[float, float]], n: int = 20) -> str:
    """Wavefront text of a closed turned body with texture coordinates; faces look outwards."""
    rings = [(0.0, profile[0][1]), *profile, (0.0, profile[-1][1])]
    lengths = np.cumsum([0.0, *(math.dist(a, b) for a, b in pairwise(rings))])
    lines = []
    for (radius, z), v in zip(rings, lengths / lengths[-1], strict=True):
        for k in range(n + 1):
            a = 2 * math.pi * k / n
            lines.append(f"v {radius * math.cos(a):.6f} {radius * math.sin(a):.6f} {z:.6f}\nvt {k / n:.4f} {v:.4f}")
    normals = []
    faces = []
    for ring in range(len(rings) - 1):
        (r0, z0), (r1, z1) = rings[ring], rings[ring + 1]
        length = math.hypot(z1 - z0, r1 - r0) or 1.0
        out, up = (z1 - z0) / length, (r0 - r1) / length
        for k in range(n):
            middle = 2 * math.pi * (k + 0.5) / n
            normals.append(f"vn {out * math.cos(middle):.4f} {out * math.sin(middle):.4f} {up:.4f}")
            a, c = ring * (n + 1) + k + 1, (ring + 1) * (n + 1) + k + 1
            m = len(normals)
            faces.append(f"f {a}/{a}/{m} {a + 1}/{a + 1}/{m} {c + 1}/{c + 1}/{m}")
            faces.append(f"f {a}/{a}/{m} {c + 1}/{c + 1}/{m} {c}/{c}/{m}")
    return "\n".join([*lines, *normals, *faces, ""])


# ---------------------------------------------------------------------------------------------------------------- world


@dataclass
class Body:
    """A thing in the world. script: where it is while `held`; physics moves it otherwise (where it has a mass)."""

    index: int
    shape: Shape
    material: Material
    mass: float
    script: Callable[[float], Place] | None = None
    follows: bool = False  # its script looks at other bodies, so it must run with them
    release_s: float = math.inf  # physics takes over here, with the speeds below
    velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    places: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))  # one row a step, or one row for all


@dataclass(frozen=True)
class Impact:
    """Two bodies met: bodies a and b, the speed (m/s) that the lighter one lost or turned."""

    time_s: float
    a: int
    b: int
    speed: float

    @property
    def strength(self) -> float:
        """0.08 .. 1, by the logarithm of the speed."""
        share = math.log(max(self.speed, AUDIBLE_SPEED) / AUDIBLE_SPEED) / math.log(LOUD_SPEED / AUDIBLE_SPEED)
        return float(np.clip(0.08 + 0.92 * share, 0.08, 1.0))


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """What a C library prints goes nowhere."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


class World:
    """Built, run, then drawn. Everything random comes from `rng`; a world of its own for every clip."""

    def __init__(self, rng: Rng, split: str, photos: PhotoBank | None = None):
        self.rng, self.split, self.photos = rng, split, photos
        try:
            with _silent_stdout():  # Bullet says when it was built, and "argv[0]=" for each world
                import pybullet
                from pybullet_utils.bullet_client import BulletClient

                self.bullet = BulletClient(pybullet.DIRECT)  # disconnects when it is collected
        except ImportError as exc:
            raise InputError("Solid bodies need pybullet.", hint="pip install 's2s[train]'") from exc
        self.bullet.setGravity(0, 0, -9.81)
        self.bullet.setPhysicsEngineParameter(
            fixedTimeStep=STEP_S,
            numSolverIterations=50,
            deterministicOverlappingPairs=1,
            enableFileCaching=0,
            # Contacts that are foreseen, or pushed apart by speed, would not bounce as high as they should.
            contactBreakingThreshold=0.0003,
            useSplitImpulse=1,
            splitImpulsePenetrationThreshold=-1e-6,
        )
        self._files = tempfile.TemporaryDirectory(prefix="s2s-solids-")
        self.bodies: dict[int, Body] = {}
        self.surfaces: list[str] = []
        self._drawn: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.light = {
            "lightDirection": [rng.normal(0, 1.2), rng.uniform(-1.6, 0.4), rng.uniform(1.2, 2.5)],
            "lightColor": [1.0, rng.uniform(0.88, 1.0), rng.uniform(0.8, 1.0)],
            "lightAmbientCoeff": rng.uniform(0.4, 0.7),
            "lightDiffuseCoeff": rng.uniform(0.3, 0.6),
            "lightSpecularCoeff": rng.uniform(0.0, 0.3),
            "lightDistance": 4.0,
            "shadow": int(rng.random() < 0.75),
        }

    def add(
        self,
        shape: Shape,
        material: str,
        position: Sequence[float] = tuple(PARKED),
        turn: Sequence[float] = tuple(_UPRIGHT),
        *,
        moves: bool = False,
        touches: bool = True,
        picture: np.ndarray | None = None,
    ) -> Body:
        """moves: physics moves it. touches: it meets other bodies. picture: what covers it instead of its material."""
        made_of, b = MATERIALS[material], self.bullet
        number = len(self.bodies)
        x, y, z = shape.half
        if shape.form == "sphere":
            visual, volume = b.createVisualShape(b.GEOM_SPHERE, radius=x), 4.19 * x**3
            solid = b.createCollisionShape(b.GEOM_SPHERE, radius=x) if touches else -1
        elif shape.form == "box":
            visual, volume = b.createVisualShape(b.GEOM_BOX, halfExtents=shape.half), 8 * x * y * z
            solid = b.createCollisionShape(b.GEOM_BOX, halfExtents=shape.half) if touches else -1
        else:
            path = Path(self._files.name) / f"{number}.obj"
            path.write_text(_lathe_mesh(shape.profile))
            visual, volume = b.createVisualShape(b.GEOM_MESH, fileName=str(path)), 4 * x * y * z
            straight = len(shape.profile) == 2
            solid = (
                -1
                if not touches
                else b.createCollisionShape(b.GEOM_CYLINDER, radius=x, height=2 * z)
                if straight
                else b.createCollisionShape(b.GEOM_MESH, fileName=str(path))
            )
        mass = made_of.density * volume if moves else 0.0
        index = b.createMultiBody(mass, solid, visual, list(position), list(turn))
        b.changeDynamics(
            index,
            -1,
            restitution=made_of.bounce,
            lateralFriction=made_of.friction,
            rollingFriction=0.002 * min(shape.half),
            spinningFriction=0.002 * min(shape.half),
            linearDamping=0.01,
            angularDamping=0.05,
        )
        if picture is None:
            name, picture = paint(self.rng, self.split, made_of, self.photos, 96)
            self.surfaces.append(name)
        path = Path(self._files.name) / f"{number}.png"
        cv2.imwrite(str(path), picture)
        b.changeVisualShape(index, -1, rgbaColor=[1, 1, 1, 1], textureUniqueId=b.loadTexture(str(path)))
        body = Body(index, shape, made_of, mass, places=np.array([[*position, *turn]], float))
        self.bodies[index] = body
        return body

    def place(self, body: Body, at: Place) -> None:
        self.bullet.resetBasePositionAndOrientation(body.index, at[0].tolist(), at[1].tolist())

    def gap(self, a: Body, b: Body) -> float:
        """Distance between two bodies where they are now, m; negative where they overlap."""
        found = self.bullet.getClosestPoints(a.index, b.index, 1.0)
        return min((point[8] for point in found), default=1.0)

    def run(self, duration_s: float) -> list[Impact]:
        """Moves everything from 0 to the end, remembers where it was, and returns what met, in order of time."""
        b = self.bullet
        n = round(duration_s / STEP_S) + 1
        moving = [body for body in self.bodies.values() if body.mass or body.follows]
        for body in moving:
            body.places = np.zeros((n, 7))
        pushes: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for step in range(n):
            time_s = step * STEP_S
            for body in moving:
                if body.script is not None and time_s < body.release_s:
                    self.place(body, body.script(time_s))
                    if body.release_s - time_s <= STEP_S:
                        b.resetBaseVelocity(body.index, list(body.velocity), list(body.spin))
                    elif body.mass:
                        b.resetBaseVelocity(body.index, [0, 0, 0], [0, 0, 0])
                position, turn = b.getBasePositionAndOrientation(body.index)
                body.places[step] = (*position, *turn)
            b.stepSimulation()
            for point in b.getContactPoints():
                if point[9] > 0:
                    pair = (point[1], point[2])
                    pushed = pushes.setdefault(pair, [])
                    if pushed and pushed[-1][0] == step + 1:
                        pushed[-1] = (step + 1, pushed[-1][1] + point[9] * STEP_S)
                    else:
                        pushed.append((step + 1, point[9] * STEP_S))
        return sorted(
            (impact for pair, pushed in pushes.items() for impact in self._impacts(pair, pushed)),
            key=lambda i: i.time_s,
        )

    def _impacts(self, pair: tuple[int, int], pushed: list[tuple[int, float]]) -> list[Impact]:
        """Blows among the pushes (step, N s) of a pair: more than weight, after a moment without a blow."""
        bodies = [self.bodies[index] for index in pair]
        if any(body.material.soft for body in bodies):
            return []
        held = [body.release_s if body.script else 0.0 for body in bodies if body.mass]
        masses = [body.mass for body in bodies if body.mass]
        if not masses:
            return []
        mass, weight = min(masses), 3 * 9.81 * STEP_S
        found: list[Impact] = []
        until = -1
        for number, (step, push) in enumerate(pushed):
            if step < until or push / mass < weight or any(step * STEP_S < s for s in held):
                continue
            blow = sum(p for s, p in pushed[number : number + 4] if s < step + 4) / mass
            if blow >= AUDIBLE_SPEED:
                found.append(Impact(step * STEP_S, *pair, blow))
                until = step + 12
        return found

    # -------------------------------------------------------------------------------------------------------- pictures

    def picture(self, view: View, time_s: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """BGR uint8 (h, w, 3) and which part of each pixel is a body, float32 (h, w), at a time."""
        width, height = size
        b, states, changing = self.bullet, [], []
        for body in self.bodies.values():
            if len(body.places) > 1:
                states.append(body.places[min(max(0, round(time_s / STEP_S)), len(body.places) - 1)])
            elif body.script is not None:
                states.append(np.concatenate(body.script(time_s)))
            else:
                continue
            changing.append(body)
        eye = view.eye_at(time_s)
        state = np.concatenate([eye, np.asarray(view.size_key(size)), *states])
        held = self._drawn
        if held is not None and len(state) == len(held[0]) and np.abs(state - held[0]).max() < 4e-4:
            return held[1:]
        for body, row in zip(changing, states, strict=True):
            self.place(body, (row[:3], row[3:]))
        small = (max(16, round(width * _RENDER_SHARE)), max(16, round(height * _RENDER_SHARE)))
        _, _, rgba, _, owner = b.getCameraImage(
            *small,
            viewMatrix=b.computeViewMatrix(eye.tolist(), view.target.tolist(), [0, 0, 1]),
            projectionMatrix=b.computeProjectionMatrixFOV(view.field_deg, width / height, 0.05, 12.0),
            renderer=b.ER_TINY_RENDERER,
            **self.light,
        )
        image = np.ascontiguousarray(np.reshape(rgba, (small[1], small[0], 4))[..., 2::-1].astype(np.uint8))
        solid = (np.reshape(owner, small[::-1]) >= 0).astype(np.float32)
        drawn = (cv2.resize(image, size), cv2.resize(solid, size))
        self._drawn = (state, *drawn)
        return drawn


@dataclass(frozen=True)
class View:
    """A camera in the world: where it is (it may drift), what it looks at, and its vertical field of view."""

    eye: np.ndarray
    target: np.ndarray
    field_deg: float
    drift: tuple[Curve, Curve, Curve] | None = None

    def eye_at(self, time_s: float) -> np.ndarray:
        return self.eye if self.drift is None else self.eye + np.array([axis(time_s) for axis in self.drift])

    def size_key(self, size: tuple[int, int]) -> tuple[float, ...]:
        return (*size, *self.target, self.field_deg)


def draw_world(world: World, view: View) -> Callable[[Stage, float], None]:
    """Lays the world over what is on the stage."""

    def draw(stage: Stage, time_s: float) -> None:
        height, width = stage.image.shape[:2]
        image, solid = world.picture(view, time_s, (width, height))
        part = solid[..., None]
        stage.image[:] = (image * part + stage.image * (1 - part)).astype(np.uint8)

    return draw
