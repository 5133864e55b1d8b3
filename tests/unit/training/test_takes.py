"""Which instruments are learned: those that an ear takes for their kind."""

import numpy as np
import pytest

from s2s.evaluation.yamnet import Yamnet, fetch_yamnet
from s2s.synth.script import KINDS, ScriptedEvent
from s2s.synth.sounds import SAMPLE_RATE, SoundBank, mix_clip
from s2s.training import takes
from s2s.training.takes import TAGS, Take, best_played_first, convincing_takes, first_takes, takes_of_run


def test_a_name_is_a_take_and_back():
    take = Take("hand_drum", 7, 0.25)
    assert Take.of(take.name) == take
    played = take.play(ScriptedEvent(1.5, "bell", 0.4, 0.9, 3))
    assert played == ScriptedEvent(1.5, "hand_drum", 0.4, 0.25, 7)


def test_every_kind_is_listened_for():
    assert set(TAGS) == set(KINDS)


class EarForOddMaterials:
    """Takes what it hears for its kind where the (made up) sound says that the material is odd, the larger the more."""

    def tags(self, sound: tuple[str, int, float], sample_rate: int) -> dict[str, float]:
        kind, material, size = sound
        scores = dict.fromkeys([tag for tags in TAGS.values() for tag in tags], 0.1)
        if material % 2:
            scores[TAGS[kind][0]] = 0.3 + 0.01 * material + 0.001 * size
        return scores


def test_the_most_convincing_come_first_and_one_instance_does_not_take_all_places(monkeypatch):
    monkeypatch.setattr(takes, "_audition", lambda take, bank: tuple(take))
    monkeypatch.setattr(takes, "crispness", lambda take, _: 0.5 if take.kind == "glass" and take.size > 0.7 else 1.0)
    chosen = convincing_takes(5, SoundBank("train"), EarForOddMaterials())
    assert chosen["water"] == ("water/23/0.75", "water/23/0.5", "water/21/0.75", "water/21/0.5", "water/19/0.75")
    assert chosen["glass"] == ("glass/23/0.5", "glass/21/0.5", "glass/23/0.75", "glass/21/0.75", "glass/19/0.75")
    assert all(len(names) == 5 for names in chosen.values())


def test_what_comes_out_best_is_played_first(monkeypatch):
    monkeypatch.setattr(takes, "crispness", lambda take, sound: 0.9)
    names = {"bell": ("bell/2/0.5", "bell/5/0.5", "bell/9/0.5"), "wood": ("wood/3/0.5",)}
    order = best_played_first(names, lambda take, hits: tuple(take), EarForOddMaterials())
    assert order == {"bell": ("bell/9/0.5", "bell/5/0.5", "bell/2/0.5"), "wood": ("wood/3/0.5",)}


def test_a_run_keeps_its_choice(tmp_path, monkeypatch):
    chosen = takes_of_run(tmp_path, 3, None, listen=False)
    assert chosen == first_takes(3)
    monkeypatch.setattr(takes, "first_takes", lambda n: pytest.fail("was chosen already"))
    assert takes_of_run(tmp_path, 3, None, listen=False) == chosen


def test_the_ear_names_a_synthesised_explosion_and_glass(tmp_path):
    ear, bank = Yamnet(fetch_yamnet(tmp_path)), SoundBank("train")
    heard = {}
    for kind in ("explosion", "glass"):
        events = [ScriptedEvent(0.3 + 0.9 * n, kind, 0.9, 0.5, 0) for n in range(4)]
        heard[kind] = ear.tags(mix_clip(events, 4.0, bank, np.random.default_rng(1))[0], SAMPLE_RATE)
    assert max(heard["explosion"][tag] for tag in TAGS["explosion"]) > 0.5
    assert max(heard["glass"][tag] for tag in TAGS["explosion"]) < 0.3 < max(heard["glass"][t] for t in TAGS["glass"])
    assert max(ear.tags(np.zeros(SAMPLE_RATE), SAMPLE_RATE).values()) == 0


def test_a_hit_that_is_heard_at_its_moment_is_crisp_and_a_late_one_is_not():
    take = Take("wood", 0, 0.5)
    sound = takes._audition(take, SoundBank("train"))
    assert takes.crispness(take, sound) > 0.8
    assert takes.crispness(take, np.roll(sound, SAMPLE_RATE // 20)) < 0.2
