"""The judge of kinds: what it has heard, it names; what nobody taught it, it never says."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from s2s.evaluation.kinds import leave_packages_out, recorded_clips, summarise, train_probe
from s2s.evaluation.recordings import CHOICES, Recording, soundfont_samples
from s2s.evaluation.yamnet import DIM, HOP, SAMPLE_RATE, Yamnet, fetch_yamnet
from s2s.synth import banks
from s2s.synth.script import KINDS


@pytest.fixture(scope="module")
def yamnet(tmp_path_factory) -> Yamnet:
    return Yamnet(fetch_yamnet(tmp_path_factory.mktemp("yamnet")))


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal(n).astype(np.float32)


def test_the_ear_tells_noise_from_a_tone_whatever_the_level_and_hears_nothing_in_silence(yamnet: Yamnet):
    rng, t = np.random.default_rng(0), np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone, hiss = np.sin(2 * np.pi * 880 * t), noise(rng, len(t))
    sounds = {"tone": tone, "soft tone": 0.01 * tone, "hiss": hiss, "more hiss": noise(rng, len(t))}
    windows = {name: yamnet.windows(x, SAMPLE_RATE).mean(axis=0) for name, x in sounds.items()}
    assert yamnet.windows(tone, SAMPLE_RATE).shape == (1 + (len(t) - 2 * HOP) // HOP, DIM)
    distance = lambda a, b: np.linalg.norm(windows[a] - windows[b])  # noqa: E731
    assert distance("tone", "soft tone") < 0.1 * distance("tone", "hiss")
    assert distance("hiss", "more hiss") < 0.5 * distance("tone", "hiss")
    assert len(yamnet.windows(np.zeros(SAMPLE_RATE), SAMPLE_RATE)) == 0


def test_a_probe_names_what_it_was_taught_and_never_a_kind_it_has_not_heard():
    rng = np.random.default_rng(1)
    heard = [KINDS.index(kind) for kind in ("wood", "glass", "water")]
    centres = rng.standard_normal((len(KINDS), 2 * DIM))
    y = np.repeat(heard, 20)
    x = centres[y] + rng.standard_normal((len(y), 2 * DIM))
    mean, weights, bias = train_probe(x, y)
    fresh = np.concatenate([centres[y], centres + 0.0]) + 0.5 * rng.standard_normal((len(y) + len(KINDS), 2 * DIM))
    named = ((fresh - mean) @ weights + bias).argmax(axis=1)
    assert (named[: len(y)] == y).all()
    assert set(named) <= set(heard)


def test_a_package_is_judged_by_a_probe_that_has_not_heard_it():
    rng = np.random.default_rng(2)
    y = np.tile([0, 1], 40)
    packages = np.repeat(["a", "b"], 40)
    x = rng.standard_normal((80, 2 * DIM))  # nothing to learn but which example it was
    assert leave_packages_out(x, y, packages)["accuracy"] == pytest.approx(0.5, abs=0.25)


def test_packages_of_a_kind_come_equally_often_and_every_clip_sounds():
    rng = np.random.default_rng(3)
    burst = noise(rng, 4000) * np.exp(-np.arange(4000) / 500)
    takes = [Recording("wood", "large", str(i), burst) for i in range(9)] + [Recording("wood", "small", "x", burst)]
    clips = recorded_clips(takes)
    packages = [recording.package for recording, _ in clips]
    assert packages.count("small") == packages.count("large")
    assert all(0.3 < np.abs(waveform).max() < 1.1 for _, waveform in clips)


def test_no_package_that_training_uses_teaches_the_judge():
    source = Path(banks.__file__).read_text()
    assert "sonic-pi-samples" in source
    assert not [package for package in CHOICES if f'"{package}"' in source]


def test_samples_of_a_soundfont_are_read_by_name(tmp_path: Path):
    pcm = (np.arange(-50, 50) * 100).astype("<i2").tobytes()
    heads = [("Low Bell", 10, 60, 44_100), ("EOS", 0, 0, 0)]
    headers = b"".join(
        struct.pack("<20sIIIIIBbHH", name.encode(), start, end, 0, 0, rate, 60, 0, 0, 1)
        for name, start, end, rate in heads
    )
    font = tmp_path / "font.sf2"
    font.write_bytes(
        b"RIFF....sfbk"
        + b"smpl"
        + struct.pack("<I", len(pcm))
        + pcm
        + b"shdr"
        + struct.pack("<I", len(headers))
        + headers
    )
    ((name, samples, rate),) = soundfont_samples(font)
    assert (name, len(samples), rate) == ("Low Bell", 50, 44_100)
    assert samples[0] == pytest.approx(-4000 / 32768)
    assert summarise(np.ones((2, DIM), np.float32)).shape == (2 * DIM,)
