"""Features: computed once, verified, the same bytes after a kill; REGNET's own files on request."""

import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file
from tests.tiny import make_tiny_bundle
from tests.unit.data.test_clips import piece, struck

from s2s.bundle import read_manifest
from s2s.data import features
from s2s.data.clips import PUBLISHED, ClipOptions, make_set
from s2s.data.features import extract, extract_published, features_of
from s2s.errors import ArtifactError, InputError
from s2s.mel import mel_spectrogram
from s2s.spec import ClipSpec
from s2s.training.chain import RECIPES, train_all


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    pieces = [
        piece(struck(folder / f"{i}.mp4", times_s=np.array([0.4, 1.0, 1.5]) + i / 7, seconds=2.2), f"clip{i}")
        for i in range(5)
    ]
    report = make_set(pieces, folder / "set", ClipOptions(short_side_px=64))
    assert len(report.clips) == 5
    return folder / "set"


@pytest.mark.timeout(600)
def test_a_killed_extraction_goes_on_and_ends_with_the_same_bytes(clips, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "s2s.cli", "data", "features", str(clips), "--workers", "1", "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(killed.glob("shard-*/*.safetensors")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(InputError):
        features_of(killed)  # nothing of an unfinished shard is used
    for out in (killed, whole):
        assert extract(clips, out, workers=2) == 5
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert names == [path.relative_to(killed) for path in sorted(killed.rglob("*")) if path.is_file()]
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in names)


def test_features_are_what_training_and_serving_measure_and_damage_is_found(clips, tmp_path):
    extract(clips, tmp_path, bundle_dir=make_tiny_bundle(tmp_path / "bundle"))
    found = features_of(tmp_path)
    held = load_file(found["clip1"])
    n_frames = ClipSpec().n_frames(2.2)
    assert held["rgb"].shape == (n_frames, 96, 96, 3)
    assert held["flow"].shape == (n_frames, 48, 48, 2)
    assert held["visual"].shape == (n_frames, 32)
    assert held["cells"].shape[1] == 48
    sound, _ = soundfile.read(clips / "audio" / "clip1.flac", dtype="float32")
    assert np.abs(held["mel"].astype(np.float32) - mel_spectrogram(sound)).max() < 1e-3
    data = bytearray(found["clip1"].read_bytes())
    data[-1] ^= 1
    found["clip1"].write_bytes(data)
    with pytest.raises(ArtifactError, match="clip1"):
        features_of(tmp_path)
    with pytest.raises(InputError, match="something else"):
        extract(clips, tmp_path)


def test_features_of_another_bundle_of_the_same_name_or_of_another_set_are_not_taken(clips, tmp_path):
    bundles = [make_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    assert len({read_manifest(bundle).name for bundle in bundles}) == 1
    extract(clips, tmp_path / "out", bundle_dir=bundles[0])
    with pytest.raises(InputError, match="something else"):
        extract(clips, tmp_path / "out", bundle_dir=bundles[1])
    assert features_of(tmp_path / "out", clips)
    with pytest.raises(InputError, match="no photographs"):
        features_of(tmp_path / "out", clips, photographs=True)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "manifest.jsonl").write_text(
        "".join((clips / "manifest.jsonl").read_text().splitlines(True)[1:])
    )
    with pytest.raises(InputError, match="of another set"):
        features_of(tmp_path / "out", tmp_path / "set")
    with pytest.raises(InputError, match="of another set"):
        train_all(
            RECIPES["tiny"], tmp_path / "run", tmp_path / "new", clips=tmp_path / "set", features=tmp_path / "out"
        )


def test_the_published_files_have_the_published_shapes(clips, tmp_path, monkeypatch):
    video = struck(tmp_path / "short.mp4", times_s=(0.5,), seconds=3)
    made = make_set([piece(video, "video_00001", label="dog")], tmp_path / "set", PUBLISHED)
    assert len(made.clips) == 1
    with pytest.raises(InputError, match="not imported"):
        extract_published(tmp_path / "set", tmp_path / "out", make_tiny_bundle(tmp_path / "bundle"))

    class Imported:  # no published file can be had here: the networks' own output is tested in tests/golden
        manifest = type("Manifest", (), {"feature_rule": "published"})

    rows = np.random.default_rng(0).random((215, 2048), np.float32)
    monkeypatch.setattr(features, "load_bundle", lambda path: Imported)
    monkeypatch.setattr(features, "watch", lambda *args, **kwargs: type("Seen", (), {"visual": rows}))
    extract_published(tmp_path / "set", tmp_path / "out", tmp_path / "bundle")
    with open(tmp_path / "out/feature_flow_bninception_dim1024_21.5fps/video_00001.pkl", "rb") as file:
        flow = pickle.load(file)  # our own
    assert flow.dtype == np.float32
    assert np.array_equal(flow, rows[:214, 1024:])
    mel = np.load(tmp_path / "out/melspec_10s_22050hz/video_00001_mel.npy")
    assert (mel.shape, mel.dtype) == ((80, 860), np.float64)
    assert np.load(tmp_path / "out/melspec_10s_22050hz/video_00001_audio.npy").shape == (220_500,)
    assert (tmp_path / "out/filelists/dog_train.txt").read_text() == "video_00001\n"
    with pytest.raises(InputError, match="something else"):
        extract_published(tmp_path / "set", tmp_path / "out", make_tiny_bundle(tmp_path / "other", seed=1))
    (tmp_path / "out/features.json").unlink()  # as older versions left it
    with pytest.raises(InputError, match="Nothing tells"):
        extract_published(tmp_path / "set", tmp_path / "out", tmp_path / "bundle")
