"""How strikers move: strokes that meet the target exactly at an event, and everything that only looks like one.

A stroke is one number over time, p: 0 is contact, 1 fully raised, negative beyond the target. It is a chain of cubic
pieces whose speed may jump, which is what a contact is: fast in, then thrown back, stopped dead or slowed on the way
through. Fakes are made of the same pieces: turned smoothly above the target, stopped in the air, laid down gently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

RATE = 400  # samples a second of a curve
MARGIN_S = 1.0  # a curve also holds before 0 and after the clip's end

Hit = tuple[float, float]  # (time_s, strength)


@dataclass(frozen=True)
class Key:
    """The curve passes through `value` at `time_s`, arriving with speed `v_in`, leaving with `v_out` (per second)."""

    time_s: float
    value: float
    v_in: float = 0.0
    v_out: float = 0.0


class Curve:
    """A sampled function of time, float -> float, linear between samples and constant outside."""

    def __init__(self, samples: np.ndarray):
        self.samples = samples

    def __call__(self, time_s: float) -> float:
        position = (time_s + MARGIN_S) * RATE
        index = int(position)
        if index < 0:
            return float(self.samples[0])
        if index >= len(self.samples) - 1:
            return float(self.samples[-1])
        share = position - index
        return float(self.samples[index] * (1 - share) + self.samples[index + 1] * share)

    def plus(self, other: np.ndarray) -> Curve:
        return Curve(self.samples + other)


def through(keys: Sequence[Key], duration_s: float) -> Curve:
    """Cubic Hermite pieces between keys."""
    keys = sorted(keys, key=lambda k: k.time_s)
    t = curve_times(duration_s)
    times = np.array([k.time_s for k in keys])
    index = np.clip(np.searchsorted(times, t, side="right") - 1, 0, max(0, len(keys) - 2))
    if len(keys) == 1:
        return Curve(np.full(len(t), keys[0].value))
    value = np.array([k.value for k in keys])
    v_in, v_out = np.array([k.v_in for k in keys]), np.array([k.v_out for k in keys])
    span = np.maximum(times[index + 1] - times[index], 1e-4)
    s = np.clip((t - times[index]) / span, 0, 1)
    out = (
        (1 + 2 * s) * (1 - s) ** 2 * value[index]
        + s * (1 - s) ** 2 * span * v_out[index]
        + s * s * (3 - 2 * s) * value[index + 1]
        + s * s * (s - 1) * span * v_in[index + 1]
    )
    return Curve(out)


def curve_times(duration_s: float) -> np.ndarray:
    return np.arange(round((duration_s + 2 * MARGIN_S) * RATE)) / RATE - MARGIN_S


def wander(rng: np.random.Generator, duration_s: float, amount: float, rate_hz: float = 1.5) -> np.ndarray:
    """Smooth noise on a curve's time grid: hands tremble, cameras float. Standard deviation about `amount`."""
    t = curve_times(duration_s)
    knots = max(4, int((t[-1] - t[0]) * rate_hz * 2))
    coarse = rng.normal(0, amount, knots + 3)
    x = np.linspace(0, knots - 1, len(t)) + 1
    i, s = x.astype(int), x - x.astype(int)
    a, b, c, d = (coarse[np.clip(i + k, 0, knots + 2)] for k in (-1, 0, 1, 2))
    return b + 0.5 * s * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))


def glide(points: Sequence[tuple[float, float]], duration_s: float, seconds: float = 0.25) -> Curve:
    """Stays at each value until `seconds` before the next point's time, then glides there: a hand changes target."""
    keys = [Key(points[0][0] - 2 * seconds, points[0][1])]
    for (t0, v0), (t1, v1) in pairwise(points):
        leave = max(t0 + 0.35 * (t1 - t0), t1 - seconds)
        keys += [Key(leave, v0), Key(t0 + 0.9 * (t1 - t0), v1)]
    return through(keys, duration_s)


@dataclass(frozen=True)
class StrokeStyle:
    """The manner of one striker."""

    endings: tuple[str, ...]  # of "rebound", "dead_stop", "follow"
    height: float  # how far it is raised for the strongest stroke
    rest: float  # where it waits
    fakes: float  # chance of a fake in a pause that has room
    tremble: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, endings: tuple[str, ...] = ("rebound", "dead_stop", "follow")
    ) -> StrokeStyle:
        main = str(rng.choice(endings))
        chosen = (main,) if rng.random() < 0.75 else endings
        return cls(
            chosen,
            rng.uniform(0.5, 1.0),
            rng.uniform(0.08, 0.8),
            rng.choice([0.0, 0.4, 0.8]),
            rng.choice([0.0, 0.01, 0.025]),
        )


def stroke(rng: np.random.Generator, hits: Sequence[Hit], duration_s: float, style: StrokeStyle) -> Curve:
    """p over time: 0 exactly at each hit, fakes in the pauses, never 0 at speed anywhere else."""
    keys = [Key(-MARGIN_S, style.rest)]
    free_from = -MARGIN_S + 0.1
    for number, (t, strength) in enumerate(hits):
        gap = t - free_from
        down_s = min(rng.uniform(0.08, 0.32) * (1.25 - 0.6 * strength), 0.55 * gap)
        height = style.height * (0.22 + 0.78 * strength) * float(np.clip(gap / 0.35, 0.3, 1.0))
        keys += pause(rng, free_from, t - down_s, style, keys[-1].value)
        keys.append(Key(t - down_s, height))
        v_in = -rng.uniform(1.3, 2.5) * height / down_s
        next_gap = (hits[number + 1][0] if number + 1 < len(hits) else duration_s + MARGIN_S) - t
        ending = str(rng.choice(style.endings))
        if ending == "dead_stop":
            hold_s = min(rng.uniform(0.04, 0.5), 0.35 * next_gap)
            keys += [Key(t, 0.0, v_in, 0.0), Key(t + hold_s, 0.0)]
            free_from = t + hold_s
        elif ending == "follow":
            through_s = min(rng.uniform(0.08, 0.2), 0.25 * next_gap)
            depth = -min(0.5, 0.3 * abs(v_in) * through_s)
            keys += [Key(t, 0.0, v_in, v_in * rng.uniform(0.4, 0.85)), Key(t + through_s, depth)]
            free_from = t + through_s
        else:
            back = rng.uniform(0.3, 0.85)
            up_s = min(rng.uniform(0.08, 0.25), 0.35 * next_gap)
            v_out = back * abs(v_in)
            keys += [Key(t, 0.0, v_in, v_out), Key(t + up_s, min(0.6 * v_out * up_s, height * rng.uniform(0.4, 1.1)))]
            free_from = t + up_s
    keys += pause(rng, free_from, duration_s + 0.6, style, keys[-1].value)
    curve = through(keys, duration_s)
    if style.tremble:
        curve = curve.plus(wander(rng, duration_s, style.tremble) * tremble_mask(hits, duration_s))
    return curve


def tremble_mask(hits: Sequence[Hit], duration_s: float) -> np.ndarray:
    """0 at hits, so that trembling never moves a contact, 1 away from them."""
    t = curve_times(duration_s)
    mask = np.ones(len(t))
    for time_s, _ in hits:
        mask = np.minimum(mask, np.clip((np.abs(t - time_s) - 0.03) / 0.1, 0, 1))
    return mask


def pause(rng: np.random.Generator, start_s: float, end_s: float, style: StrokeStyle, value: float) -> list[Key]:
    """Keys for the time between strokes: waiting, or something that looks like a stroke and makes no sound."""
    keys: list[Key] = []
    t = start_s
    while end_s - t > 0.55:
        if rng.random() > style.fakes:
            wait_s = min(end_s - t - 0.25, rng.uniform(0.3, 1.2))
            settle_s = min(0.5 * wait_s, rng.uniform(0.15, 0.5))
            level = max(0.05, style.rest * rng.uniform(0.8, 1.2))
            keys += [Key(t + settle_s, level), Key(t + wait_s, level)]
            t += wait_s
            continue
        kind = rng.choice(["turn", "stop", "touch"], p=[0.5, 0.3, 0.2])
        up_s, down_s = rng.uniform(0.15, 0.35), rng.uniform(0.1, 0.3)
        height = style.height * rng.uniform(0.4, 1.0)
        if t + up_s + down_s + (0.65 if kind == "touch" else 0.3) > end_s:
            break
        keys.append(Key(t + up_s, height))
        t += up_s + down_s
        if kind == "turn":  # as fast as a real stroke, reversed smoothly before the target
            keys.append(Key(t, height * rng.uniform(0.15, 0.5)))
        elif kind == "stop":  # stops abruptly, in the air
            low = height * rng.uniform(0.25, 0.6)
            keys += [Key(t, low, -1.5 * (height - low) / down_s, 0.0), Key(t + 0.15, low)]
            t += 0.15
        else:  # laid on the target without a sound
            t += 0.35
            keys += [Key(t, 0.0), Key(t + 0.1, 0.0)]
            t += 0.1
    return keys


class Ringing:
    """The sum of decaying swings that hits set off: how a target, a camera or a body answers.

    hits: times and strengths. Returns 0 before the first hit, and swings that start at 0 with full speed.
    """

    def __init__(self, hits: Sequence[Hit], rate_hz: float, decay_s: float, amount: float = 1.0):
        self._hits = list(hits)
        self._rate, self._decay, self._amount = 2 * np.pi * rate_hz, decay_s, amount

    def __call__(self, time_s: float) -> float:
        total = 0.0
        for hit_s, strength in self._hits:
            age = time_s - hit_s
            if 0 <= age < 5 * self._decay:
                total += strength * np.exp(-age / self._decay) * np.sin(self._rate * age)
        return float(total * self._amount)


class Flashing(Ringing):
    """The same with a jump that fades: light, heat."""

    def __init__(self, hits: Sequence[Hit], decay_s: float, amount: float = 1.0):
        super().__init__(hits, 0.0, decay_s, amount)

    def __call__(self, time_s: float) -> float:
        ages = ((time_s - hit_s, strength) for hit_s, strength in self._hits)
        return float(sum(s * np.exp(-a / self._decay) for a, s in ages if 0 <= a < 6 * self._decay) * self._amount)
