"""The whole training sentence on a handful of clips: real renders, real steps, a bundle that works."""

from pathlib import Path

import pytest
from tests.clips import film

from s2s.bundle import verify_bundle
from s2s.config import settings
from s2s.pipeline import SoundGenerator
from s2s.training.chain import RECIPES, train_all


@pytest.mark.timeout(900)
def test_one_command_makes_a_working_bundle_from_nothing_and_a_second_run_redoes_nothing(tmp_path: Path):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    manifest = train_all(RECIPES["tiny"], run, bundle)
    verify_bundle(bundle)
    assert {"timing", "tsn_rgb", "tsn_flow", "regnet", "vocoder"} <= set(manifest.networks)
    assert "strict_skill" in manifest.metrics["rendered_held_out"]
    assert manifest.trained_on

    made = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix in (".mp4", ".safetensors")}
    again = train_all(RECIPES["tiny"], run, bundle)
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert {role: entry.sha256 for role, entry in again.networks.items()} == {
        role: entry.sha256 for role, entry in manifest.networks.items()}

    sound = SoundGenerator.from_bundle(bundle).generate_file(
        film(tmp_path / "clip.mp4", seconds=1, rate="25"), tmp_path / "out.mp4", limits=settings().cli_limits)
    assert len(sound.waveform) == 22_050
