"""The stages of the pipeline on far storage: what they read is brought, what they make is taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from obstore.store import LocalStore

from s2s.data import blobs, stages
from s2s.errors import InputError

ROOT = "far://bucket/root"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch) -> Path:
    """A folder that is far away: it is reached by the blob layer alone."""

    def store(place: str) -> LocalStore:
        folder = tmp_path / "far" / place.removeprefix("far://") if place.startswith("far://") else Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder)

    monkeypatch.setattr(blobs, "_store", store)
    return tmp_path / "far" / "bucket" / "root"


def test_a_stage_without_what_it_reads_says_which_stage_makes_it(bucket: Path, tmp_path: Path):
    for stage, words in (
        (stages.features, "data preprocessor"),
        (stages.train, "data preprocessor"),
        (stages.evaluate, "training stage"),
        (stages.export, "training stage"),
        (stages.deploy, "training stage"),
    ):
        with pytest.raises(InputError) as told:
            stage(ROOT)
        assert words in told.value.hint


def test_what_was_promoted_is_brought_back_and_the_bundle_of_the_last_run_is_the_one(bucket: Path, tmp_path: Path):
    from tests.tiny import make_tiny_bundle

    for seed in (0, 1):
        make_tiny_bundle(bucket / "run" / str(seed) / "bundle", seed=seed)
        (bucket / "run" / "latest").mkdir(exist_ok=True)
        (bucket / "run" / "latest" / "run.json").write_text(json.dumps({"run": str(seed)}))
        made = stages.deploy(ROOT, force=True)
        served = bucket / "bundles" / made.facts["served"]
        assert json.loads((bucket / "bundles" / "current.json").read_text())["bundle"] == served.name
        of_run = (bucket / "run" / str(seed) / "bundle" / "bundle.json").read_bytes()
        assert (served / "bundle.json").read_bytes() == of_run
