"""One's own clips make a bundle of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import make_tiny_bundle

from s2s.bundle import load_bundle, verify_bundle
from s2s.config import settings
from s2s.errors import InputError
from s2s.media.mux import add_sound
from s2s.media.probe import probe
from s2s.pipeline import SoundGenerator
from s2s.synth.dataset import make_dataset
from s2s.synth.sounds import SAMPLE_RATE, SoundBank, mix_clip
from s2s.training.finetune import FineTuning, fine_tune

SMALL = FineTuning(steps=30, rehearsed_clips=6, batch_size=4, clip_s=2.0, learning_rate=2e-3)


@pytest.fixture(scope="module")
def own_videos(tmp_path_factory) -> Path:
    """Three films with sound, as somebody's phone would leave them: no set, no labels."""
    folder, bank = tmp_path_factory.mktemp("own") / "drums", SoundBank("train")
    folder.mkdir()
    records = make_dataset(folder.parent / "films", 8, 5, "train", None, duration_s=3.0, short_side_px=96)
    for record in [record for record in records if record.events][:3]:
        sound, _ = mix_clip(record.events, record.duration_s, bank, np.random.default_rng(1))
        add_sound(probe(record.video, settings().cli_limits), sound, SAMPLE_RATE, folder / f"{record.id}.mp4")
    return folder


@pytest.mark.timeout(900)
def test_a_folder_of_videos_makes_a_bundle_that_comes_closer_to_their_sound(own_videos: Path, tmp_path: Path):
    old = make_tiny_bundle(tmp_path / "old")
    manifest = fine_tune(old, own_videos, tmp_path / "new", kind="drum", config=SMALL, run_dir=tmp_path / "run")
    verify_bundle(tmp_path / "new")
    gained = manifest.metrics["fine_tuning"]
    assert gained["mel_l1_db_after"] < gained["mel_l1_db_before"] - 1
    before, after = load_bundle(old), load_bundle(tmp_path / "new")
    changed = {
        role
        for role, network in before.networks.items()
        if not all(
            np.allclose(a.numpy(), b.numpy(), atol=2e-3)
            for a, b in zip(network.state_dict().values(), after.networks[role].state_dict().values(), strict=True)
        )
    }
    assert changed == {"regnet"}
    assert any("drums" in source.name for source in manifest.trained_on)
    sound = SoundGenerator(after).generate(next(own_videos.glob("*.mp4")), limits=settings().cli_limits)
    assert len(sound.waveform) == 3 * SAMPLE_RATE


@pytest.mark.timeout(600)
def test_a_folder_whose_kind_nobody_said_is_refused_with_a_hint(own_videos: Path, tmp_path: Path):
    old = make_tiny_bundle(tmp_path / "old")
    with pytest.raises(InputError, match="--kind"):
        fine_tune(old, own_videos, tmp_path / "new", config=SMALL, run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="no kind of sound"):
        fine_tune(old, own_videos, tmp_path / "new", kind="kazoo", config=SMALL, run_dir=tmp_path / "run")
    too_long = SMALL.model_copy(update={"clip_s": 9.0})
    with pytest.raises(InputError, match=r"None of the 3 clips .* lasts 9 s"):
        fine_tune(old, own_videos, tmp_path / "new", kind="drum", config=too_long, run_dir=tmp_path / "run")
    few = SMALL.model_copy(update={"steps": 2})  # what the hint says works in the same folder
    fine_tune(old, own_videos, tmp_path / "new", kind="drum", config=few, run_dir=tmp_path / "run")
    verify_bundle(tmp_path / "new")
    # the set made above without --kind, as DIR: what the clips are can still be said
    manifest = fine_tune(
        old, tmp_path / "run" / "set", tmp_path / "of-set", kind="drum", config=few, run_dir=tmp_path / "run-2"
    )
    assert manifest.metrics["fine_tuning"]["clips"] == 3
    assert manifest.licence.endswith("; clips it learned from: unknown"), "nobody said what the clips may be used for"


@pytest.mark.timeout(600)
def test_a_run_folder_goes_on_with_more_steps_and_refuses_other_clips_or_bundles(own_videos: Path, tmp_path: Path):
    old, run = make_tiny_bundle(tmp_path / "old"), tmp_path / "run"
    config = SMALL.model_copy(update={"steps": 2})

    def tune(bundle: Path = old, clips: Path = own_videos, **changes):
        changed = config.model_copy(update=changes)
        return fine_tune(bundle, clips, tmp_path / "new", kind="drum", config=changed, run_dir=run)

    tune()
    fewer = tmp_path / "fewer"  # a set of its own: all clips but one
    shutil.copytree(run / "set-drum", fewer)
    lines = (fewer / "manifest.jsonl").read_text().splitlines(keepends=True)
    (fewer / "manifest.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(InputError, match="other clips"):
        tune(clips=fewer)
    with pytest.raises(InputError, match="another bundle"):
        tune(bundle=make_tiny_bundle(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match="differently"):
        tune(learning_rate=1e-3)
    before = load_bundle(tmp_path / "new").networks["regnet"].state_dict()
    tune(steps=4)
    after = load_bundle(tmp_path / "new").networks["regnet"].state_dict()
    assert any(not bool((before[name] == after[name]).all()) for name in before)
