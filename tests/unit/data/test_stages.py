"""The stages of the pipeline on far storage: what they read is brought, what they make is taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from obstore.store import LocalStore
from tests.clips import film

from s2s.data import blobs, stages
from s2s.data.features import features_of
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


def add_videos(folder: Path, names: range) -> str:
    """A folder of VAS."""
    for i in names:
        (folder / "videos" / "hammer").mkdir(parents=True, exist_ok=True)
        film(folder / "videos" / "hammer" / f"video_{i:05d}.mp4", seconds=2 + i / 10, rate="25", sound=True)
    return str(folder)


@pytest.mark.timeout(900)
def test_a_collection_that_grows_is_extracted_anew_beside_what_was_there(bucket: Path, tmp_path: Path):
    def run(names: range) -> str:
        csv = add_videos(tmp_path / "vas", names)
        assert stages.collect(ROOT, csv, labels=["hammer"], workers=1).facts["ok"] == names.stop
        stages.preprocess(ROOT, "published", {"hammer": "hammer"}, workers=1)
        return stages.features(ROOT, "tiny", workers=1).facts["place"].removeprefix(f"{ROOT}/")

    first = run(range(2))
    assert len(features_of(bucket / first)) == 2
    assert run(range(2)) == first, "the same clips, the same features"
    second = run(range(2, 3))
    assert second != first
    assert (len(features_of(bucket / first)), len(features_of(bucket / second))) == (2, 3)
    assert not (tmp_path / "far" / "bucket" / "root" / "features" / "features.json").exists()


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
