"""The sound of a scripted event, and a clip's worth of them mixed in a room.

Physics as far as it can be heard: struck things ring in modes whose ratios belong to the thing (circular membrane,
free bar, plate, wine glass, bell), whose decays belong to the material and whose brightness belongs to the blow; what
does not ring is filtered noise (typing, explosion) or bubbles (water). Sources: Rossing & Fletcher, *The Physics of
Musical Instruments*, tables 3.1 (membrane), 2.1 (bar), 21.1 (bell); van den Doel, *Physically based models for liquid
sounds* (2005) for bubbles.

An *instance* is one drum, one bell, one keyboard: `ScriptedEvent.material` selects it, and its physical constants are
drawn once from (split, kind, material). So the instances of "train" and "test" are disjoint by construction. Recorded
instances (`s2s.synth.banks`) are mixed in where a folder of them is given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from s2s.spec import MelSpec
from s2s.synth.banks import Take, load
from s2s.synth.script import KINDS, ScriptedEvent

SAMPLE_RATE = MelSpec().sample_rate  # Hz

Split = Literal["train", "test"]

MEMBRANE = (1.0, 1.594, 2.136, 2.296, 2.653, 2.918, 3.156, 3.501, 3.600, 4.060, 4.154)
LOADED_MEMBRANE = (1.0, 2.0, 2.95, 3.96, 4.94)  # tabla: the paste makes the overtones nearly harmonic
FREE_BAR = (1.0, 2.756, 5.404, 8.933, 13.34)
WINE_GLASS = (1.0, 2.32, 4.25, 6.63, 9.38)
CHURCH_BELL = (0.5, 1.0, 1.2, 1.5, 2.0, 2.5, 2.67, 3.0, 4.0, 5.33, 6.65)


@dataclass(frozen=True)
class SoundRecord:
    """Where one sound came from and whose it is."""

    kind: str
    source: str  # "synthesis" or "package:version:file"
    license: str
    author: str

    def to_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Placed:
    """One event of a mixed clip: what was asked for, the sample it starts at, and where its sound came from."""

    event: ScriptedEvent
    start_sample: int
    record: SoundRecord


# ---------------------------------------------------------------------------------------------------- building blocks


def _times(duration_s: float, sample_rate: int) -> np.ndarray:
    return np.arange(max(1, round(duration_s * sample_rate)), dtype=np.float64) / sample_rate


def _modes(
    freqs: np.ndarray, decays_s: np.ndarray, amps: np.ndarray, duration_s: float, sample_rate: int, glide: float = 0.0
) -> np.ndarray:
    """Sum of decaying sines that start at zero phase (a blow moves nothing at once) -> float64 (n,).

    `glide` raises all pitches by that share at the start; it is gone after some 40 ms (a skin stretched by the blow).
    """
    keep = (freqs > 20) & (freqs < 0.48 * sample_rate) & (amps > 1e-4)
    pole = np.exp((2j * np.pi * freqs[keep] - 1 / decays_s[keep]) / sample_rate)
    # sample 256 a + b of every mode at once: pole^(256 a) pole^b, summed over the modes by one product of matrices
    n = max(1, round(duration_s * sample_rate))
    coarse = pole ** (256 * np.arange(-(-n // 256) + 1 + round(glide * 0.04 * sample_rate) // 256)[:, None])
    fine = amps[keep, None] * pole[:, None] ** np.arange(256)
    ring = (coarse.real @ fine.imag + coarse.imag @ fine.real).ravel()
    if not glide:
        return ring[:n]
    t = np.arange(n)
    settle = 0.04 * sample_rate
    return np.interp(t + glide * settle * (1 - np.exp(-t / settle)), np.arange(len(ring)), ring)


def _noise(
    rng: np.random.Generator, low_hz: float, high_hz: float, decay_s: float, duration_s: float, sample_rate: int,
    rise_s: float = 0.0005,
) -> np.ndarray:
    """A burst of band-passed noise with an exponential end, unit peak -> float64 (n,)."""
    t = _times(duration_s, sample_rate)
    nyquist = 0.48 * sample_rate
    band = (min(max(low_hz, 20), 0.8 * nyquist), min(max(high_hz, 1.2 * low_hz, 40), nyquist))
    noise = sosfilt(_bandpass(round(band[0], 1), round(band[1], 1), sample_rate), rng.standard_normal(len(t) + 64))[64:]
    burst = noise * np.exp(-t / decay_s) * (1 - np.exp(-t / max(rise_s, 1e-5)))
    return burst / (np.abs(burst).max() + 1e-9)


@lru_cache(maxsize=4096)
def _bandpass(low_hz: float, high_hz: float, sample_rate: int) -> np.ndarray:
    return butter(2, (low_hz, high_hz), btype="bandpass", fs=sample_rate, output="sos")


def _lowpass(x: np.ndarray, cutoff_hz: float, sample_rate: int) -> np.ndarray:
    if cutoff_hz >= 0.45 * sample_rate:
        return x
    return sosfilt(butter(1, cutoff_hz, fs=sample_rate, output="sos"), x)


def _peak(x: np.ndarray) -> np.ndarray:
    return x / (np.abs(x).max() + 1e-9)


def _add(parts: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """Sum of (gain, sound) of different lengths."""
    out = np.zeros(max(len(p) for _, p in parts))
    for gain, part in parts:
        out[: len(part)] += gain * part
    return out


@dataclass(frozen=True)
class _Blow:
    """How hard and how large: what an event adds to an instance."""

    strength: float
    pitch: float  # factor on all frequencies: large things are low
    rng: np.random.Generator
    sample_rate: int

    def brightness(self, soft_hz: float, hard_hz: float) -> float:
        """Corner of the blow's spectrum: a harder blow is a shorter contact."""
        return soft_hz * (hard_hz / soft_hz) ** self.strength

    def struck(
        self, freqs: np.ndarray, decays_s: np.ndarray, corner_hz: float, duration_s: float, glide: float = 0.0,
        tilt: float = 0.0,
    ) -> np.ndarray:
        """Modes hit with a spectrum that falls above `corner_hz`; amplitudes vary a little from blow to blow."""
        where = 0.75 + 0.5 * self.rng.random(len(freqs))  # every blow lands elsewhere
        amps = where * (freqs / freqs.min()) ** -tilt / (1 + (freqs / corner_hz) ** 2)
        return _peak(_modes(freqs, decays_s, amps, duration_s, self.sample_rate, glide))

    def burst(self, low_hz: float, high_hz: float, decay_s: float, rise_s: float = 0.0005) -> np.ndarray:
        return _noise(self.rng, low_hz, high_hz, decay_s, 7 * decay_s + 0.004, self.sample_rate, rise_s)


Instance = Callable[[_Blow], np.ndarray]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


# ------------------------------------------------------------------------------------------------------ the ten kinds
# Each function draws one instance and returns how it sounds when hit.


def _drum(rng: np.random.Generator) -> Instance:
    style = ("tom", "snare", "bass")[rng.integers(3)]
    f0 = _log_uniform(rng, *{"tom": (85, 170), "snare": (150, 230), "bass": (48, 75)}[style])
    ratios = np.array(MEMBRANE) * (1 + 0.015 * rng.standard_normal(len(MEMBRANE)))
    ring, damping = _log_uniform(rng, 0.18, 0.5), rng.uniform(0.5, 0.9)
    glide = rng.uniform(0.05, 0.3)
    wires, wire_decay, wire_low = rng.uniform(0.6, 1.0), _log_uniform(rng, 0.07, 0.2), _log_uniform(rng, 1200, 2500)
    click = rng.uniform(0.15, 0.4)

    def hit(blow: _Blow) -> np.ndarray:
        freqs = f0 * blow.pitch * ratios
        decays = ring * (0.4 if style == "snare" else 1.0) * ratios**-damping
        body = blow.struck(freqs, decays, blow.brightness(180, 900), 1.6, glide * blow.strength, tilt=0.5)
        parts = [(1.0, body), (click * (0.4 + blow.strength), blow.burst(1500, blow.brightness(3000, 8000), 0.004))]
        if style == "snare":
            parts.append((wires * (0.5 + 0.6 * blow.strength), blow.burst(wire_low, 9500, wire_decay)))
        return _add(parts)

    return hit


def _hand_drum(rng: np.random.Generator) -> Instance:
    tabla = rng.random() < 0.4
    f0 = _log_uniform(rng, 190, 460)
    ratios = np.array(LOADED_MEMBRANE if tabla else MEMBRANE[:8]) * (1 + 0.01 * rng.standard_normal(5 if tabla else 8))
    ring = _log_uniform(rng, 0.15, 0.4) if tabla else _log_uniform(rng, 0.06, 0.18)
    slap_low, slap_high = _log_uniform(rng, 700, 1300), _log_uniform(rng, 2500, 5000)
    slap, shell = rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.6)

    def hit(blow: _Blow) -> np.ndarray:
        freqs = f0 * blow.pitch * ratios
        body = blow.struck(freqs, ring * ratios**-0.7, blow.brightness(500, 1800), 1.0, 0.04 * blow.strength, tilt=0.2)
        cavity = blow.struck(np.array([f0 * blow.pitch * 0.42]), np.array([0.05]), 400, 0.4)
        skin = blow.burst(slap_low, blow.brightness(1500, slap_high), 0.009, 0.0008)
        return _add([(1.0, body), (shell, cavity), (slap * (0.3 + blow.strength), skin)])

    return hit


def _wood(rng: np.random.Generator) -> Instance:
    f0 = _log_uniform(rng, 280, 1150)
    ratios = np.array(FREE_BAR[:4]) * (1 + 0.06 * rng.standard_normal(4))
    ratios = np.concatenate([ratios, ratios[:3] * rng.uniform(1.3, 1.9)])  # the block's other direction
    ring, knock = _log_uniform(rng, 0.018, 0.06), rng.uniform(0.3, 0.8)

    def hit(blow: _Blow) -> np.ndarray:
        freqs = f0 * blow.pitch * ratios
        body = blow.struck(freqs, ring * ratios**-0.5, blow.brightness(900, 3500), 0.5, tilt=0.3)
        tick = blow.burst(600, blow.brightness(1800, 5000), 0.004)
        return _add([(1.0, body), (knock * (0.3 + 0.7 * blow.strength), tick)])

    return hit


def _metal(rng: np.random.Generator) -> Instance:
    n = int(rng.integers(14, 26))
    f0 = _log_uniform(rng, 420, 1300)
    # modes of a plate are evenly spread in frequency, so neither harmonic nor sparse
    freqs0 = f0 * (1 + np.cumsum(rng.gamma(2.0, 0.5 * rng.uniform(0.25, 0.55), n)) - 0.3)
    ring, spread = _log_uniform(rng, 0.12, 0.55), rng.uniform(0.4, 1.2)
    decays0 = ring * np.exp(spread * rng.standard_normal(n) * 0.5)
    clank = rng.uniform(0.3, 0.8)

    def hit(blow: _Blow) -> np.ndarray:
        freqs = freqs0 * blow.pitch
        body = blow.struck(freqs, decays0, blow.brightness(1500, 7000), 2.0, tilt=0.1)
        return _add([(1.0, body), (clank * (0.3 + 0.7 * blow.strength), blow.burst(2000, 9500, 0.006, 0.0003))])

    return hit


def _glass(rng: np.random.Generator) -> Instance:
    breaks = rng.random() < 0.35
    f0 = _log_uniform(rng, 1700, 3400)
    ratios = np.array(WINE_GLASS[:4]) * (1 + 0.04 * rng.standard_normal(4))
    ratios = np.concatenate([ratios, ratios[:2] * rng.uniform(1.005, 1.02)])  # not quite round: doublets that beat
    ring = _log_uniform(rng, 0.12, 0.5)
    shards = int(rng.integers(14, 40))

    def hit(blow: _Blow) -> np.ndarray:
        freqs = f0 * blow.pitch * ratios
        body = blow.struck(freqs, ring * (0.25 if breaks else 1.0) * ratios**-0.8, blow.brightness(4000, 9000), 1.6)
        tick = blow.burst(4000 * blow.pitch, 10000, 0.003, 0.0002)
        if not breaks:
            return _add([(1.0, body), (0.35, tick)])
        crash = blow.burst(2500 * blow.pitch, 10000, 0.05, 0.0003)
        out = _add([(0.7, body), (0.9, crash), (0.5, tick), (0.0, np.zeros(blow.sample_rate))])
        for _ in range(int(shards * (0.4 + 0.6 * blow.strength))):
            at = int(blow.rng.exponential(0.16) * blow.sample_rate)
            shard = blow.pitch * np.array([_log_uniform(blow.rng, 2000, 8500) for _ in range(2)])
            tinkle = blow.struck(shard, np.full(2, _log_uniform(blow.rng, 0.008, 0.05)), 9000, 0.25)
            end = min(len(out), at + len(tinkle))
            if at < len(out):
                gain = blow.rng.uniform(0.05, 0.35) * np.exp(-at / blow.sample_rate / 0.3)
                out[at:end] += gain * tinkle[: end - at]
        return out

    return hit


def _ball(rng: np.random.Generator) -> Instance:
    f0, hollow = _log_uniform(rng, 75, 150), _log_uniform(rng, 420, 950)
    ratios = np.array(MEMBRANE[:4]) * (1 + 0.03 * rng.standard_normal(4))
    damping, boing, slap = _log_uniform(rng, 0.025, 0.05), rng.uniform(0.08, 0.35), rng.uniform(0.25, 0.6)
    air = np.array([1.0, 1.43, 2.08]) * (1 + 0.02 * rng.standard_normal(3))

    def hit(blow: _Blow) -> np.ndarray:
        freqs = f0 * blow.pitch * ratios
        body = blow.struck(freqs, damping * ratios**-0.3, blow.brightness(140, 350), 0.4, 0.35, tilt=0.5)
        # the air inside a basketball rings on after the thump (Katz 2010, "Thump, ring: the sound of a bouncing ball")
        ring = blow.struck(hollow * blow.pitch * air, np.full(3, 0.09), blow.brightness(500, 1200), 0.7)
        skin = _lowpass(blow.burst(150, blow.brightness(700, 1800), 0.008, 0.0008), 1500, blow.sample_rate)
        return _add([(1.0, body), (boing * (0.4 + 0.6 * blow.strength), ring), (slap, skin)])

    return hit


def _bell(rng: np.random.Generator) -> Instance:
    small = rng.random() < 0.5
    f0 = _log_uniform(rng, 900, 2000) if small else _log_uniform(rng, 280, 700)
    ratios = np.array(CHURCH_BELL[1:9] if small else CHURCH_BELL)
    ratios *= 1 + 0.004 * rng.standard_normal(len(ratios))
    gains = rng.uniform(0.3, 1.0, len(ratios))
    ring = _log_uniform(rng, 0.5, 1.1) if small else _log_uniform(rng, 1.0, 2.2)
    beat = 1 + rng.uniform(0.0004, 0.002, len(ratios))
    clapper = rng.uniform(0.08, 0.2)

    def hit(blow: _Blow) -> np.ndarray:
        freqs = f0 * blow.pitch * ratios
        decays = ring * np.maximum(ratios, 0.5) ** -0.75
        corner = blow.brightness(1.5, 7) * f0
        amps = gains / (1 + (freqs / corner) ** 2)
        both = _modes(np.concatenate([freqs, freqs * beat]), np.tile(decays, 2), np.concatenate([amps, 0.5 * amps]),
                      min(4.0 * ring + 0.3, 6.0), blow.sample_rate)
        return _add([(1.0, _peak(both)), (clapper * (0.4 + blow.strength), blow.burst(2500, 8000, 0.004, 0.0003))])

    return hit


def _typing(rng: np.random.Generator) -> Instance:
    case = np.array([_log_uniform(rng, 250, 500), _log_uniform(rng, 700, 1400), _log_uniform(rng, 1800, 3600)])
    thock, click_low = rng.uniform(0.3, 0.9), _log_uniform(rng, 1500, 3000)
    decay, travel_s = _log_uniform(rng, 0.003, 0.009), rng.uniform(0.004, 0.012)
    hold_s, release = rng.uniform(0.06, 0.12), rng.uniform(0.15, 0.4)

    def hit(blow: _Blow) -> np.ndarray:
        key = 1 + 0.06 * blow.rng.standard_normal()  # every key sits elsewhere on the case
        click = blow.burst(click_low, blow.brightness(5000, 9500), decay, 0.0003)
        knock = blow.struck(case * blow.pitch * key, np.array([0.012, 0.008, 0.005]), blow.brightness(700, 2500), 0.08)
        bottom = _add([(thock, knock), (0.7, blow.burst(800, blow.brightness(3500, 8000), decay * 1.3, 0.0003))])
        up = 0.5 * _add([(thock, blow.struck(case * 1.2 * key, np.array([0.008, 0.006, 0.004]), 2500, 0.06)),
                         (1.0, blow.burst(click_low * 1.2, 9000, decay * 0.8, 0.0003))])

        def late(delay_s: float, part: np.ndarray) -> np.ndarray:
            return np.concatenate([np.zeros(int(delay_s * blow.sample_rate)), part])

        return _add([(0.5, click), (1.0, late(travel_s * (1.3 - blow.strength), bottom)),
                     (release, late(hold_s * blow.rng.uniform(0.8, 1.2), up))])

    return hit


def _water(rng: np.random.Generator) -> Instance:
    f0, rise = _log_uniform(rng, 450, 1500), rng.uniform(2, 12)
    after, splash = int(rng.integers(1, 6)), rng.uniform(0.1, 0.5)
    late_s = rng.uniform(0.0, 0.015)

    def hit(blow: _Blow) -> np.ndarray:
        rate = blow.sample_rate
        out = np.zeros(round(0.9 * rate))

        def bubble(at_s: float, freq: float, gain: float) -> None:
            decay = min(0.08, 0.13 * 400 / freq + 0.012)
            t = _times(8 * decay, rate)
            sweep = 2 * np.pi * freq * (t + rise * t**2 / 2)
            note = np.sin(sweep) * np.exp(-t / decay) * (1 - np.exp(-t / 0.0012))
            start = int(at_s * rate)
            end = min(len(out), start + len(note))
            if end > start:
                out[start:end] += gain * note[: end - start]

        bubble(late_s, f0 * blow.pitch, 1.0)
        for _ in range(round(after * (0.5 + blow.strength))):
            freq = f0 * blow.pitch * _log_uniform(blow.rng, 0.8, 2.6)
            bubble(late_s + blow.rng.exponential(0.07), freq, blow.rng.uniform(0.1, 0.5))
        plop = blow.burst(500, blow.brightness(2000, 6000), 0.012 + 0.06 * splash * blow.strength, 0.001)
        return _add([(1.0, out), (0.25 + splash * blow.strength, plop)])

    return hit


def _explosion(rng: np.random.Generator) -> Instance:
    style = ("gun", "blast", "firework")[rng.integers(3)]
    body_hz = _log_uniform(rng, 38, 75)
    tail_s = {"gun": 0.16, "blast": 0.6, "firework": 0.35}[style] * rng.uniform(0.7, 1.4)
    crack, drive = rng.uniform(0.5, 1.0), rng.uniform(1.5, 4.0)
    rise_s = {"gun": 0.0006, "blast": 0.004, "firework": 0.0015}[style] * rng.uniform(0.7, 1.5)
    crackle = int(rng.integers(20, 60)) if style == "firework" else 0

    def hit(blow: _Blow) -> np.ndarray:
        rate, duration_s = blow.sample_rate, 5 * tail_s + 0.3
        t = _times(duration_s, rate)
        rumble = np.zeros(len(t))
        # the highs die first: air and distance
        for low, high, gain, share in ((25, 160, 1.0, 1.6), (120, 700, 0.8, 1.0), (500, 2500, 0.6, 0.55),
                                       (2000, 9500, 0.5, 0.25)):
            high *= 0.5 + 0.5 * blow.strength
            rumble += gain * _noise(blow.rng, low, high, tail_s * share, duration_s, rate, rise_s)
        modes = np.array([body_hz, body_hz * 1.7]) * blow.pitch
        boom = blow.struck(modes, np.array([tail_s * 0.7, tail_s * 0.4]), 200, duration_s, 0.8)
        snap = blow.burst(900, blow.brightness(4000, 9500), 0.012, rise_s)
        out = np.tanh(drive * _peak(_add([(1.0, rumble), (0.8, boom), (crack * (0.4 + 0.6 * blow.strength), snap)])))
        for _ in range(crackle):
            at = int(blow.rng.uniform(0.15, min(1.4, duration_s - 0.05)) * rate)
            pop = blow.burst(1500, 9500, _log_uniform(blow.rng, 0.001, 0.004), 0.0003)
            end = min(len(out), at + len(pop))
            out[at:end] += blow.rng.uniform(0.05, 0.25) * np.exp(-at / rate / 0.6) * pop[: end - at]
        return out

    return hit


_MAKERS: dict[str, Callable[[np.random.Generator], Instance]] = {
    "drum": _drum, "hand_drum": _hand_drum, "wood": _wood, "metal": _metal, "glass": _glass, "ball": _ball,
    "bell": _bell, "typing": _typing, "water": _water, "explosion": _explosion,
}
_LEVEL_DB = {"typing": -9.0, "water": -6.0, "wood": -3.0, "ball": -2.0, "explosion": 2.0}  # beside a drum as hard
_CRISP = frozenset(KINDS) - {"water", "explosion"}

SYNTHESIS = "synthesis"
STUDIO_SEED, STUDIO_NOISE = 11, 10 ** (-90 / 20)  # of the room of `mix_clip(studio=True)`


# --------------------------------------------------------------------------------------------------------------- bank


class SoundBank:
    """All instances of one split; `recordings` are its recorded takes, those of no kind (`banks.OTHER`) included.

    `recorded_dir` is a folder that `s2s.synth.banks.fetch` filled; None means pure synthesis. A third of the instances
    of a kind are recordings where the split has recordings of that kind.
    """

    def __init__(self, split: Split, recorded_dir: Path | None = None):
        if split not in ("train", "test"):
            raise ValueError(f"no split named {split!r}")
        self.split = split
        self._recordings: dict[str, list[Take]] = {} if recorded_dir is None else load(Path(recorded_dir), split)
        self.recordings = [take for takes in self._recordings.values() for take in takes]
        self._instances: dict[tuple[str, int], Instance] = {}

    def _recording(self, kind: str, material: int) -> Take | None:
        takes = self._recordings.get(kind)
        return takes[(material // 3) % len(takes)] if takes and material % 3 == 2 else None

    def record(self, event: ScriptedEvent) -> SoundRecord:
        """Source and licence of the sound that `render` makes of this event."""
        take = self._recording(event.kind, event.material)
        if take is None:
            return SoundRecord(event.kind, f"{SYNTHESIS}:{self.split}/{event.material}", "Apache-2.0", "this project")
        return SoundRecord(event.kind, take.source, take.license, take.author)

    def render(self, event: ScriptedEvent, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """float32 (n,), mono; sample 0 is the moment of contact. Peak = level of the event, at most 1.

        `rng` gives what differs from blow to blow on the same instance.
        """
        strength = float(np.clip(event.strength, 0.0, 1.0))
        pitch = 2.0 ** (1.0 * (0.5 - float(np.clip(event.size, 0, 1))))  # an octave from small to large
        take = self._recording(event.kind, event.material)
        blow = _Blow(strength, pitch, rng, sample_rate)
        if take is None:
            sound = self._instance(event.kind, event.material)(blow)
        else:
            sound = _replay(take.samples, take.sample_rate, blow)
        sound = _peak(_fade_out(sound, sample_rate))
        if event.kind in _CRISP:
            sound = _crisp(sound, sample_rate)
        level_db = -24.0 + 22.0 * strength + _LEVEL_DB.get(event.kind, 0.0)
        return (sound * min(1.0, 10 ** (level_db / 20))).astype(np.float32)

    def _instance(self, kind: str, material: int) -> Instance:
        key = (kind, material)
        if key not in self._instances:
            digest = hashlib.blake2b(f"{self.split}/{kind}/{material}".encode(), digest_size=8).digest()
            self._instances[key] = _MAKERS[kind](np.random.default_rng(int.from_bytes(digest)))
        return self._instances[key]


def _replay(samples: np.ndarray, rate: int, blow: _Blow) -> np.ndarray:
    """A recording, as small or large as asked (resampled by up to a third) and as bright as the blow."""
    step = blow.pitch**0.6 * rate / blow.sample_rate
    at = np.arange(0, len(samples) - 1, step)
    sound = np.interp(at, np.arange(len(samples)), samples)
    return _lowpass(sound, blow.brightness(1800, 12000), blow.sample_rate)


def _fade_out(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """Cut what is under -66 dB at the end, and end at zero."""
    loud = np.flatnonzero(np.abs(x) > 5e-4 * np.abs(x).max())
    x = x[: (loud[-1] + 1 if len(loud) else 1)].copy()
    n = min(len(x), round(0.01 * sample_rate))
    x[-n:] *= np.linspace(1, 0, n)
    return x


def _crisp(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """The first 3 ms reach at least a third of the peak: a low mode alone rises slower than the blow that moves it."""
    n = round(0.003 * sample_rate)
    early = np.abs(x[:n]).max()
    if early >= 0.34 or len(x) <= 4 * n:
        return x
    # a half-sine of force, as of a mallet's contact, as high as is missing
    push = np.zeros_like(x)
    push[:n] = np.sin(np.pi * np.arange(n) / n) * np.sin(2 * np.pi * np.arange(n) / n * 1.5)
    return _peak(x + (0.4 - early) * push)


# ---------------------------------------------------------------------------------------------------------------- mix


def mix_clip(
    events: Sequence[ScriptedEvent], duration_s: float, bank: SoundBank, rng: np.random.Generator,
    sample_rate: int = SAMPLE_RATE, *, studio: bool = False,
) -> tuple[np.ndarray, list[Placed]]:
    """Place the sounds to the sample, put them in a small room with a quiet noise floor -> float32 (N,), records.

    N = round(duration_s * sample_rate). The peak is at most 0.95; events after the end are left out. studio: always
    the same room, hardly any noise, every kind as loud as a drum, so that only the events and their instruments are
    left to be learned.
    """
    n = round(duration_s * sample_rate)
    dry = np.zeros(n, np.float64)
    placed = []
    for event in sorted(events, key=lambda e: e.time_s):
        start = round(event.time_s * sample_rate)
        if not 0 <= start < n:
            continue
        sound = bank.render(event, rng, sample_rate)
        if studio:
            sound = sound * 10 ** (-_LEVEL_DB.get(event.kind, 0.0) / 20)
        end = min(n, start + len(sound))
        dry[start:end] += sound[: end - start]
        placed.append(Placed(event, start, bank.record(event)))
    room = np.random.default_rng(STUDIO_SEED) if studio else rng
    wet = reverb(dry, room, sample_rate)
    level = 1.0 if studio else 10 ** (rng.uniform(-9, 0) / 20)
    mix = level * wet
    peak = np.abs(mix).max()
    if peak > 0.95:
        mix *= 0.95 / peak
    mix = mix + (STUDIO_NOISE * rng.standard_normal(n) if studio else room_tone(n, rng, sample_rate))
    return np.clip(mix, -0.999, 0.999).astype(np.float32), placed


def reverb(x: np.ndarray, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Direct sound plus the diffuse tail of a small room (RT60 of 0.12-0.5 s, 12-26 dB under the direct sound)."""
    rt60_s = _log_uniform(rng, 0.12, 0.5)
    t = _times(rt60_s, sample_rate)
    tail = _lowpass(rng.standard_normal(len(t)) * 10 ** (-3 * t / rt60_s), rng.uniform(2500, 7000), sample_rate)
    tail[: round(rng.uniform(0.003, 0.012) * sample_rate)] = 0  # nothing comes back sooner
    tail *= 10 ** (rng.uniform(-26, -12) / 20) / (np.sqrt((tail**2).sum()) + 1e-9)
    return x + fftconvolve(x, tail)[: len(x)]


def room_tone(n: int, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """float64 (n,): noise that falls with frequency, -72 to -54 dB below full scale (rms)."""
    cutoff_hz = _log_uniform(rng, 150, 2500)
    tone = _lowpass(rng.standard_normal(n + 256), cutoff_hz, sample_rate)[256:] + 0.05 * rng.standard_normal(n)
    return tone * 10 ** (rng.uniform(-72, -54) / 20) / (tone.std() + 1e-9)
