"""A run folder belongs to what it began to learn from."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from tests.tiny import make_tiny_bundle

from s2s.bundle import read_manifest
from s2s.data.manifest import Clip, write_manifest
from s2s.errors import InputError
from s2s.training.chain import RECIPES
from s2s.training.run import run_training

TINY = RECIPES["tiny"]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch) -> list[str]:
    """Names of the recipes that were trained, quickly."""
    names: list[str] = []

    def train_quickly(recipe, run, bundle, **_):
        names.append(recipe.name)
        return read_manifest(make_tiny_bundle(bundle))

    monkeypatch.setattr("s2s.training.run.train_all", train_quickly)
    return names


def test_another_recipe_over_a_run_folder_is_refused_and_more_steps_are_not(tmp_path: Path, trained: list[str]):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    run_training(TINY, run, bundle)
    for change in (
        {"seed": 2},
        {"photographs": True},
        {"timing": TINY.timing.model_copy(update={"learning_rate": 1.0})},
        {"vocoder": TINY.vocoder.model_copy(update={"seed": 5})},
    ):
        with pytest.raises(InputError, match="another recipe"):
            run_training(TINY.model_copy(update=change), run, bundle)
    assert len(trained) == 1
    more = {
        "report_clips": 9,
        "stream_steps": {"tsn_rgb": 9, "tsn_flow": 9},
        "timing": TINY.timing.model_copy(update={"steps": 99}),
        "regnet": TINY.regnet.model_copy(update={"steps": 99, "checkpoint_minutes": 1.0}),
        "vocoder": TINY.vocoder.model_copy(update={"steps": 99, "checkpoint_every_s": 1.0}),
    }
    run_training(TINY.model_copy(update=more), run, bundle)
    assert len(trained) == 2


@pytest.mark.parametrize(("kind", "said"), [(None, "no training clip of a known kind"), ("bell", None)])
def test_clips_that_teach_nothing_are_refused_before_hours_of_training(tmp_path: Path, trained, kind, said):
    clip = Clip(
        **{"id": "a", "split": "train", "label": "x", "kind": kind, "source": "a.mp4", "source_start_s": 0.0},
        **{"licence": "unknown", "duration_s": 4.0, "width": 64, "height": 36, "fps": 25.0, "onsets_s": [1.0]},
        **{"strengths": [1.0], "video": tmp_path / "set/a.mp4", "audio": tmp_path / "set/a.flac"},
        **{"video_sha256": "", "audio_sha256": ""},
    )
    write_manifest(tmp_path / "set", [clip], [], {})
    train = partial(run_training, TINY, tmp_path / "run", tmp_path / "bundle")
    if said:
        with pytest.raises(InputError, match=said):
            train(clips=tmp_path / "set")
    else:
        train(clips=tmp_path / "set")
    assert len(trained) == (0 if said else 1)
    with pytest.raises(InputError, match="no finished set"):
        train(clips=tmp_path / "nowhere")


def test_a_run_folder_that_kept_no_recipe_goes_on_and_keeps_it_from_then_on(tmp_path: Path, trained: list[str]):
    run = tmp_path / "run"
    run.mkdir()
    (run / "asked.json").write_text(json.dumps({"clips_sha256": None}))
    run_training(TINY, run, tmp_path / "bundle")
    assert trained == [TINY.name]
    with pytest.raises(InputError, match="another recipe"):
        run_training(TINY.model_copy(update={"seed": 2}), run, tmp_path / "bundle")
    (run / "asked.json").write_text(json.dumps({"clips_sha256": "of other clips"}))
    with pytest.raises(InputError, match="other clips"):
        run_training(TINY, run, tmp_path / "bundle")
