"""Which instruments of the sound bank the generator learns to play: those that a general ear takes for their kind.

A kind has two dozen instances, each of any size; some sound like nothing in particular, and a generator that has to
learn all of them learns the average. So a few of each kind are chosen, once, by YAMNet's classes of everyday sound
(AudioSet). The judge of kinds in `s2s.evaluation.kinds` hears through the same network but was taught by recordings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from s2s.data.manifest import write_whole
from s2s.evaluation.alignment import detect_onsets, onset_f1
from s2s.evaluation.yamnet import Yamnet, fetch_yamnet
from s2s.synth.script import KINDS, MATERIALS, ScriptedEvent
from s2s.synth.sounds import SAMPLE_RATE, SoundBank, mix_clip

TAGS: dict[str, tuple[str, ...]] = {
    "drum": ("Drum", "Snare drum", "Bass drum", "Drum kit"),
    "hand_drum": ("Tabla", "Drum"),
    "wood": ("Wood block", "Wood", "Knock", "Tap"),
    "metal": ("Hammer", "Clang", "Cowbell", "Mallet percussion"),
    "glass": ("Glass", "Shatter", "Chink, clink"),
    "ball": ("Basketball bounce", "Thump, thud"),
    "bell": ("Bell", "Church bell", "Tubular bells", "Ding", "Chime", "Jingle bell"),
    "typing": ("Typing", "Computer keyboard"),
    "water": ("Drip", "Plop", "Water", "Splash, splatter", "Pour", "Trickle, dribble"),
    "explosion": ("Explosion", "Gunshot, gunfire", "Fireworks", "Boom", "Firecracker"),
}
SIZES = (0.25, 0.5, 0.75)
AUDITION_S = 4.0
CRISP_S, CRISP = 0.025, 0.9  # F1 above which one take is as crisp as another
PER_MATERIAL = 2  # sizes of one instance, so that another take is another thing


class Take(NamedTuple):
    """One instrument: an instance of a kind, of a size."""

    kind: str
    material: int
    size: float

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.material}/{self.size:g}"

    @classmethod
    def of(cls, name: str) -> Take:
        kind, material, size = name.split("/")
        return cls(kind, int(material), float(size))

    def play(self, event: ScriptedEvent) -> ScriptedEvent:
        """The same moment and strength, by this instrument."""
        return replace(event, kind=self.kind, material=self.material, size=self.size)


def first_takes(per_kind: int) -> dict[str, tuple[str, ...]]:
    """Names by kind without listening: instances in order, of middle size."""
    return {kind: tuple(Take(kind, material, 0.5).name for material in range(per_kind)) for kind in KINDS}


def convincing_takes(
    per_kind: int, bank: SoundBank, ear: Yamnet, on_take: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, tuple[str, ...]]:
    """Names by kind: those whose tags are the furthest above those of every other kind.

    Of these the ones whose hits are heard at their moment come first (a shattering pane takes its time), and then the
    most convincing: the first is what a person hears who asked for nothing else.
    """
    chosen, done = {}, 0
    for kind in KINDS:
        margins: dict[Take, float] = {}
        for material in range(MATERIALS):
            for size in SIZES:
                take = Take(kind, material, size)
                margins[take] = _margin(take, _audition(take, bank), ear)
                done += 1
                on_take(done, len(KINDS) * MATERIALS * len(SIZES))
        best: list[Take] = []
        for take in sorted(margins, key=lambda one: -margins[one]):
            if sum(other.material == take.material for other in best) < PER_MATERIAL:
                best.append(take)
        crisp = {take: crispness(take, _audition(take, bank)) for take in best[:per_kind]}
        chosen[kind] = tuple(take.name for take in sorted(crisp, key=lambda take: -crisp[take]))
    return chosen


def best_played_first(
    takes: Mapping[str, Sequence[str]], play: Callable[[Take, Sequence[ScriptedEvent]], np.ndarray], ear: Yamnet
) -> dict[str, tuple[str, ...]]:
    """The same takes in the order in which `play` (hits of `AUDITION_S` -> float32 (N,)) makes them convincing.

    What was learned is not what was to be learned: a low drum whose tone lies under the mel range comes out as a thud.
    """
    order = {}
    for kind, names in takes.items():
        heard = {}
        for take in map(Take.of, names):
            sound = play(take, _hits(take, _rng(take)))
            heard[take.name] = (crispness(take, sound), _margin(take, sound, ear))
        order[kind] = tuple(sorted(heard, key=heard.get, reverse=True))
    return order


def crispness(take: Take, sound: np.ndarray) -> float:
    """F1 of the onsets that are detected in an audition, within 25 ms of its hits; at most `CRISP`, in tenths."""
    moments = np.array([hit.time_s for hit in _hits(take, _rng(take))])
    return min(CRISP, round(onset_f1(moments, detect_onsets(sound), CRISP_S), 1))


def _margin(take: Take, sound: np.ndarray, ear: Yamnet) -> float:
    """How far the tags of its kind are above those of every other kind."""
    heard = ear.tags(sound, SAMPLE_RATE)
    scores = {other: max(heard[tag] for tag in tags) for other, tags in TAGS.items()}
    return scores.pop(take.kind) - max(scores.values())


def _audition(take: Take, bank: SoundBank) -> np.ndarray:
    """float32 (N,): some hits of different strength."""
    rng = _rng(take)
    return mix_clip(_hits(take, rng), AUDITION_S, bank, rng)[0]


def _rng(take: Take) -> np.random.Generator:
    return np.random.default_rng([7, KINDS.index(take.kind), take.material])


def _hits(take: Take, rng: np.random.Generator) -> list[ScriptedEvent]:
    gap_s, time_s, events = 1.2 if take.kind == "explosion" else 0.55, 0.3, []
    while time_s < AUDITION_S - 0.4:
        events.append(ScriptedEvent(time_s, take.kind, float(rng.uniform(0.6, 1)), take.size, take.material))
        time_s += gap_s * float(rng.uniform(0.8, 1.2))
    return events


def takes_of_run(run_dir: Path, per_kind: int, recorded: Path | None, listen: bool) -> dict[str, tuple[str, ...]]:
    """The choice kept in `run_dir`/takes.json, made there the first time. listen: with YAMNet (fetched by pip)."""
    kept = run_dir / "takes.json"
    if not kept.exists():
        if listen:
            chosen = convincing_takes(per_kind, SoundBank("train", recorded), Yamnet(fetch_yamnet(run_dir)))
        else:
            chosen = first_takes(per_kind)
        write_whole(kept, json.dumps(chosen, indent=1))
    return {kind: tuple(names) for kind, names in json.loads(kept.read_text()).items()}
