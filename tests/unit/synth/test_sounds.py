"""Promises of the sounds of procedural clips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from s2s.errors import ProcessingError
from s2s.mel import mel_spectrogram
from s2s.synth import banks
from s2s.synth.script import KINDS, ScriptedEvent
from s2s.synth.sounds import SAMPLE_RATE, SoundBank, mix_clip

CRISP = [kind for kind in KINDS if kind not in ("water", "explosion")]


def _hit(kind: str, *, strength: float = 0.7, size: float = 0.5, material: int = 0) -> ScriptedEvent:
    return ScriptedEvent(0.0, kind, strength, size, material)


def _render(kind: str, split: str = "train", seed: int = 0, **event: float) -> np.ndarray:
    return SoundBank(split).render(_hit(kind, **event), np.random.default_rng(seed))


def _centroid_hz(x: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(x)) ** 2
    return float((power * np.fft.rfftfreq(len(x), 1 / SAMPLE_RATE)).sum() / power.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_is_finite_mono_and_not_clipped(kind: str):
    for material in range(8):
        x = _render(kind, material=material, strength=1.0)
        assert x.dtype == np.float32
        assert x.ndim == 1
        assert np.isfinite(x).all()
        assert 0.05 < np.abs(x).max() <= 1.0


@pytest.mark.parametrize("kind", CRISP)
def test_an_impact_sounds_within_3_ms_of_its_contact(kind: str):
    for material in range(12):
        x = np.abs(_render(kind, material=material, strength=0.8))
        assert x[: round(0.003 * SAMPLE_RATE)].max() > 0.25 * x.max(), material


@pytest.mark.parametrize("kind", KINDS)
def test_a_harder_blow_is_louder_and_brighter(kind: str):
    soft = [_render(kind, material=m, strength=0.1) for m in range(12)]
    hard = [_render(kind, material=m, strength=0.95) for m in range(12)]
    assert all(np.abs(h).max() > 3 * np.abs(s).max() for s, h in zip(soft, hard, strict=True))
    assert np.median([_centroid_hz(h) / _centroid_hz(s) for s, h in zip(soft, hard, strict=True)]) > 1.05


@pytest.mark.parametrize("kind", ["drum", "hand_drum", "wood", "metal", "glass", "ball", "bell", "water"])
def test_a_larger_thing_sounds_lower(kind: str):
    ratios = [_centroid_hz(_render(kind, material=m, size=0.05)) / _centroid_hz(_render(kind, material=m, size=0.95))
              for m in range(12)]
    assert np.median(ratios) > 1.15


def test_the_same_seed_gives_the_same_samples_and_another_seed_another_blow():
    for kind in KINDS:
        assert np.array_equal(_render(kind, seed=3), _render(kind, seed=3))
        a, b = _render(kind, seed=3), _render(kind, seed=4)
        n = min(len(a), len(b))
        assert not np.array_equal(a[:n], b[:n])


def test_one_material_sounds_more_alike_than_two():
    def colour(material: int, seed: int, kind: str) -> np.ndarray:
        mel = mel_spectrogram(np.pad(_render(kind, material=material, seed=seed), (0, 2048)))
        return mel.max(axis=1)

    for kind in ("drum", "wood", "metal", "bell"):
        same = np.mean([np.abs(colour(m, 0, kind) - colour(m, 1, kind)).mean() for m in range(8)])
        other = np.mean([np.abs(colour(m, 0, kind) - colour(m + 1, 1, kind)).mean() for m in range(8)])
        assert same < 0.7 * other


def test_a_kind_is_told_from_instances_of_the_other_split():
    """Nearest neighbour on level-free spectra over time: what is learned on "train" names what "test" plays."""

    def look(kind: str, split: str, material: int) -> np.ndarray:
        x = np.concatenate([np.zeros(512, np.float32), _render(kind, split, seed=material, material=material)])
        mel = mel_spectrogram(np.pad(x, (0, SAMPLE_RATE)))[:, :64]
        mel = np.maximum(mel - mel.max() + 0.6, 0)
        return np.concatenate([mel[:, a:b].mean(axis=1) for a, b in ((1, 4), (4, 8), (8, 16), (16, 32), (32, 64))])

    known = [(kind, look(kind, "train", m)) for kind in KINDS for m in range(20)]
    right = [min(known, key=lambda k: float(np.abs(k[1] - asked).sum()))[0] == kind
             for kind in KINDS for m in range(6) for asked in [look(kind, "test", m)]]
    assert np.mean(right) > 0.75


def test_no_instance_is_in_both_splits():
    for kind in KINDS:
        train = [_render(kind, "train", material=m, seed=0) for m in range(12)]
        for m in range(12):
            x = _render(kind, "test", material=m, seed=0)
            for y in train:
                n = min(len(x), len(y), 4096)
                assert not np.allclose(x[:n], y[:n], atol=1e-4)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split"):
        SoundBank("validation")


# ----------------------------------------------------------------------------------------------------------------- mix


def _script(n: int, kinds: list[str], spacing_s: float = 0.45) -> list[ScriptedEvent]:
    rng = np.random.default_rng(n)
    times = 0.3 + spacing_s * np.arange(n) + rng.uniform(0, 0.1, n)
    materials = rng.integers(24, size=n)
    return [ScriptedEvent(float(t), kinds[i % len(kinds)], 0.8, 0.5, int(materials[i])) for i, t in enumerate(times)]


def _first_loud_sample(x: np.ndarray, around: int) -> int:
    """Where the level next to `around` first passes a third of its highest value within 40 ms."""
    window = np.abs(x[around - 441 : around + 882])
    before = window[:300].max()
    return around - 441 + int(np.argmax(window > max(1.5 * before, window.max() / 3)))


def test_onsets_lie_at_the_event_times_to_5_ms():
    events = _script(16, ["wood", "typing", "glass", "metal", "ball", "hand_drum", "drum"])
    clip, placed = mix_clip(events, 8.0, SoundBank("train"), np.random.default_rng(1))
    assert len(placed) == 16
    for event, item in zip(events, placed, strict=True):
        assert item.start_sample == round(event.time_s * SAMPLE_RATE)
        if event.kind != "typing":  # the key is heard when it reaches its bottom
            late = _first_loud_sample(clip, item.start_sample) - item.start_sample
            assert abs(late) < 0.005 * SAMPLE_RATE, event


def test_nothing_sounds_before_the_first_event():
    event = ScriptedEvent(1.0, "drum", 1.0, 0.5)
    clip, _ = mix_clip([event], 2.0, SoundBank("train"), np.random.default_rng(0))
    assert np.abs(clip[: SAMPLE_RATE - 1]).max() < 0.02  # room tone
    assert np.abs(clip[SAMPLE_RATE:]).max() > 0.1


def test_a_crowded_clip_does_not_clip_and_has_the_asked_length():
    events = [ScriptedEvent(0.5 + 0.001 * i, "explosion", 1.0, 0.5, i) for i in range(12)]
    clip, _ = mix_clip(events, 3.1234, SoundBank("train"), np.random.default_rng(0))
    assert len(clip) == round(3.1234 * SAMPLE_RATE)
    assert clip.dtype == np.float32
    assert 0.5 < np.abs(clip).max() < 1.0


def test_events_outside_of_the_clip_are_left_out():
    events = [ScriptedEvent(t, "wood", 0.5, 0.5) for t in (-0.1, 0.5, 2.5)]
    _, placed = mix_clip(events, 2.0, SoundBank("train"), np.random.default_rng(0))
    assert [p.event.time_s for p in placed] == [0.5]


def test_every_sound_of_a_clip_has_a_source_and_a_licence():
    _, placed = mix_clip(_script(10, list(KINDS)), 6.0, SoundBank("train"), np.random.default_rng(0))
    for item in placed:
        record = item.record.to_dict()
        assert record["kind"] == item.event.kind
        assert record["license"] == "Apache-2.0"
        assert record["source"].startswith("synthesis:train/")


# --------------------------------------------------------------------------------------------------------------- banks


@pytest.fixture
def recorded(tmp_path):
    """A fetched bank as `fetch` leaves it, with two made-up recordings of a bell."""
    records = []
    for split, hz in (("train", 700.0), ("test", 1100.0)):
        t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        soundfile.write(tmp_path / f"{split}.flac", 0.9 * np.sin(2 * np.pi * hz * t) * np.exp(-5 * t), SAMPLE_RATE)
        records.append({"file": f"{split}.flac", "kind": "bell", "split": split, "package": "bells", "version": "1",
                        "original": f"{hz:.0f}.wav", "license": "CC0", "author": "A. Ringer", "sha256": ""})
    (tmp_path / "bank.json").write_text(json.dumps(records))
    return tmp_path


def test_recordings_join_in_their_own_split_only_and_bring_their_licence(recorded):
    for split, hz in (("train", 700), ("test", 1100)):
        bank = SoundBank(split, recorded)
        made = [bank.record(_hit("bell", material=m)) for m in range(24)]
        taken = [r for r in made if not r.source.startswith("synthesis")]
        assert len(taken) == 8
        assert {(r.source, r.license, r.author) for r in taken} == {(f"bells:1:{hz}.wav", "CC0", "A. Ringer")}


def test_a_recorded_sound_obeys_strength_and_size(recorded):
    bank = SoundBank("train", recorded)

    def play(**event: float) -> np.ndarray:
        return bank.render(_hit("bell", material=2, **event), np.random.default_rng(0))

    assert np.abs(play(strength=0.9)).max() > 2 * np.abs(play(strength=0.2)).max()
    assert _centroid_hz(play(size=0.0)) > 1.2 * _centroid_hz(play(size=1.0))


def test_a_missing_bank_says_how_to_fetch_it(tmp_path):
    with pytest.raises(ProcessingError, match=r"s2s\.synth\.banks"):
        SoundBank("train", tmp_path / "nowhere")


def test_a_recording_is_cut_to_its_onset():
    rate = 44_100
    x = np.zeros(2 * rate)
    at = round(0.3 * rate)
    x[at:] = np.sin(np.arange(len(x) - at) * 0.1) * np.exp(-np.arange(len(x) - at) / 4000)
    x += 0.004 * np.random.default_rng(0).standard_normal(len(x))
    cut = banks.trim(x, rate, seconds=1.0)
    assert np.argmax(np.abs(cut) > 0.3) < 0.003 * SAMPLE_RATE
    assert np.abs(cut).max() == pytest.approx(1.0)
    assert len(cut) <= SAMPLE_RATE
    assert abs(cut[-1]) < 1e-3


def test_licences_are_read_from_a_debian_copyright_file():
    text = """Files: *
Copyright: 2016 Someone
License: MIT

Files: etc/doc/*
 etc/examples/*
Copyright:
 2016 Someone
License: CC-BY-SA-4.0

Files: etc/samples/bd_808.flac
Copyright: 2013 EKVelika
Source: http://example.org
License: CC0
"""
    owners = banks.parse_debian_copyright(text)
    assert owners["bd_808.flac"] == ("CC0", "2013 EKVelika")
    assert owners["*"] == ("MIT", "2016 Someone")


def test_no_file_is_chosen_for_both_splits():
    names = ["drum_tom_mid_hard.flac", "drum_tom_lo_soft.flac", "tabla_tun1.flac", "tabla_ghe8.flac", "tabla_ghe1.flac"]
    splits = [banks._choose(name, banks._SONIC_PI).split for name in names]
    assert splits == ["test", "train", "test", "test", "train"]
    assert banks._choose("misc_burp.flac", banks._SONIC_PI) is None
