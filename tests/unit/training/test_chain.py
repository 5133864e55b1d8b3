"""The whole training sentence on a handful of clips: real renders, real steps, a bundle that works."""

from pathlib import Path

import numpy as np
import pytest
from tests.clips import film

from s2s.bundle import verify_bundle
from s2s.config import settings
from s2s.pipeline import SoundGenerator
from s2s.regnet.generator import Generator
from s2s.spec import ClipSpec
from s2s.training.chain import RECIPES, best_takes_first, train_all
from s2s.training.costs import costs_of
from s2s.training.regnet import small_network
from s2s.training.takes import TAGS
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig


@pytest.mark.timeout(900)
def test_one_command_makes_a_working_bundle_from_nothing_and_a_second_run_redoes_nothing(tmp_path: Path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    manifest = train_all(RECIPES["tiny"], run, bundle)
    verify_bundle(bundle)
    assert {"timing", "tsn_rgb", "tsn_flow", "regnet", "vocoder"} <= set(manifest.networks)
    assert "strict_skill" in manifest.metrics["rendered_held_out"]
    assert manifest.trained_on

    stages = ["sounds", "renders", "timing", "recogniser", "tsn_rgb", "tsn_flow", "regnet", "vocoder", "bundle"]
    assert list(costs_of(run)) == stages
    made = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix in (".mp4", ".safetensors")}
    again = train_all(RECIPES["tiny"], run, bundle)
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert {role: entry.sha256 for role, entry in again.networks.items()} == {
        role: entry.sha256 for role, entry in manifest.networks.items()}

    sound = SoundGenerator.from_bundle(bundle).generate_file(
        film(tmp_path / "clip.mp4", seconds=1, rate="25"), tmp_path / "out.mp4", limits=settings().cli_limits)
    assert len(sound.waveform) == 22_050


def test_takes_are_played_by_the_trained_networks_and_put_in_order(monkeypatch):
    monkeypatch.setattr("s2s.training.takes.crispness", lambda take, sound: 0.9)
    regnet = Generator(small_network(8, takes={"bell": ("bell/1/0.5", "bell/2/0.5", "bell/3/0.5")})).eval()
    vocoder = ParallelWaveNet(
        ParallelWaveNetConfig(layers=2, stacks=1, residual_channels=8, skip_channels=8, cond_channels=8, corrections=0)
    ).eval()
    heard: list[np.ndarray] = []

    class Ear:
        """Likes each sound better than the one before."""

        def tags(self, sound: np.ndarray, sample_rate: int) -> dict[str, float]:
            assert sample_rate == 22_050
            heard.append(sound)
            return {tag: 0.1 * len(heard) * (tag == "Bell") for tags in TAGS.values() for tag in tags}

    assert best_takes_first(regnet, vocoder, ClipSpec(), Ear()) is regnet
    assert len(heard) == 3
    assert all(len(sound) >= 4 * 22_050 and sound.any() for sound in heard)
    assert not np.array_equal(heard[0], heard[1]), "another take, another sound"
    assert regnet.config.takes == {"bell": ("bell/3/0.5", "bell/2/0.5", "bell/1/0.5")}
