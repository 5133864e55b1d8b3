"""The stages of the pipeline on far storage: what they read is brought, what they make is taken back."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
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


def test_a_folder_of_vas_in_storage_is_collected_once(bucket: Path):
    place = "far://bucket/vas"
    folder = bucket.parent / "vas" / "videos" / "hammer"
    folder.mkdir(parents=True)
    film(folder / "video_00000.mp4", seconds=2, rate="25", sound=True)
    first = stages.collect(ROOT, place, workers=1)
    assert first.facts == {"ok": 1}
    [row] = map(json.loads, (bucket / "raw" / "collected.jsonl").read_text().splitlines())
    assert row["source"] == f"{place}/videos/hammer/video_00000.mp4"
    clip = bucket / "raw" / "clips" / "hammer_video_00000.mp4"
    clip.write_bytes(b"as it was")
    assert stages.collect(ROOT, place, workers=1) == first
    assert clip.read_bytes() == b"as it was"


def test_a_stage_that_is_told_to_end_brings_back_what_it_did(bucket: Path):
    def stage() -> None:
        with stages.workspace(ROOT, (), ("run",)) as home:
            (home / "run").mkdir()
            (home / "run" / "checkpoint.pt").write_bytes(b"half-way")
            os.kill(os.getpid(), signal.SIGTERM)

    told, before = [], signal.signal(signal.SIGTERM, lambda *_: told.append(1))  # without it a failure ends pytest
    try:
        with pytest.raises(SystemExit) as ended:
            stage()
        assert ended.value.code == 143
        assert (bucket / "run" / "checkpoint.pt").read_bytes() == b"half-way"
        os.kill(os.getpid(), signal.SIGTERM)
        assert told, "afterwards the signal means what it meant before"
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.timeout(300)
def test_a_grown_collection_is_extracted_and_learned_from_beside_the_old_one(bucket: Path, tmp_path: Path, monkeypatch):
    from tests.tiny import make_tiny_bundle
    from tests.unit.data.test_clips import piece, struck

    from s2s.bundle import read_manifest
    from s2s.data.clips import ClipOptions, make_set

    learned_from: list[tuple[set[str], set[str]]] = []

    def train_quickly(recipe, run, bundle, *, device, clips, features):
        learned_from.append(({path.stem for path in (clips / "audio").iterdir()}, set(features_of(features))))
        manifest = read_manifest(make_tiny_bundle(bundle))
        return manifest.model_copy(update={"metrics": {"rendered_held_out": {"strict_skill": 0.0}}})

    monkeypatch.setattr("s2s.training.run.run_training", train_quickly)
    pieces, made, trained = [], [], []
    for n in range(2):
        pieces.append(piece(struck(tmp_path / f"{n}.mp4", times_s=np.array([0.4, 1.0, 1.5]) + n / 7, seconds=2.2)))
        shutil.rmtree(bucket / "clips", ignore_errors=True)
        assert len(make_set(pieces, bucket / "clips", ClipOptions(short_side_px=64)).clips) == n + 1
        made.append(stages.features(ROOT, recipe="tiny", workers=1))
        trained.append(stages.train(ROOT, recipe="tiny"))
        if n == 0:
            first = bytes_of(bucket)

    assert [one.facts["clips"] for one in made] == [1, 2]
    assert learned_from == [({"0"}, {"0"}), ({"0", "1"}, {"0", "1"})]
    assert len({one.facts["place"] for one in made}) == 2
    assert len({one.facts["place"] for one in trained}) == 2
    latest = json.loads((bucket / "run" / "latest" / "run.json").read_text())
    assert trained[1].facts["place"] == f"{ROOT}/run/{latest['run']}/bundle"
    now = bytes_of(bucket)
    kept = [name for name in first if name.startswith(("features/", "run/")) and "/latest/" not in name]
    assert kept
    assert all(now[name] == first[name] for name in kept), "what the smaller collection made is as it was"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
