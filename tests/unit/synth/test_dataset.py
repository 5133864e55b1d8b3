"""The procedural set on disk: exact, whole, resumable, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import soundfile

from s2s.errors import InputError
from s2s.evaluation.alignment import detect_onsets, onset_f1
from s2s.synth import dataset
from s2s.synth.dataset import make_dataset, read_dataset, read_shard
from s2s.synth.sounds import SAMPLE_RATE, SoundBank

MADE = {"seed": 5, "split": "train", "duration_s": 1.5, "short_side_px": 64}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(out: Path, n_clips: int, sound: bool = False, **changes):
    return make_dataset(out, n_clips, bank=SoundBank("train") if sound else None, **{**MADE, **changes})


def test_a_clip_on_disk_is_what_its_record_says(tmp_path):
    records = make(tmp_path, 3, sound=True)
    assert [r.id for r in records] == [r.id for r in read_dataset(tmp_path)]
    for record in read_dataset(tmp_path):
        with av.open(str(record.video)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            times = [float(frame.time) for frame in container.decode(video=0)]
            assert (stream.width, stream.height) == (record.width, record.height)
        assert len(times) == record.n_frames
        assert times[0] == 0
        assert times[-1] < record.duration_s
        waveform, rate = soundfile.read(record.audio)
        assert rate == SAMPLE_RATE
        assert len(waveform) == round(record.duration_s * rate)
        assert record.factors["background"]
        assert all({"source", "license", "author"} <= set(sound) for sound in record.sounds)
        assert bool(record.sounds) == bool(record.events)
    sheet = cv2.imread(str(tmp_path / "contact-sheet.png"))
    assert sheet.shape[0] == 3 * 96


def test_the_sound_starts_at_the_moment_of_contact(tmp_path):
    sharp = ("drum", "hand_drum", "metal", "wood", "glass", "bell")
    made = make(tmp_path, 12, sound=True, duration_s=3.0)
    records = [r for r in made if r.events and r.events[0].kind in sharp]
    assert records
    scores = []
    for record in records:
        waveform, _ = soundfile.read(record.audio)
        scores.append(onset_f1(record.event_times_s, detect_onsets(waveform), 0.05))
    assert np.mean(scores) > 0.7


def test_the_same_seed_makes_the_same_files_and_another_does_not(tmp_path):
    first, again, other = make(tmp_path / "a", 2), make(tmp_path / "b", 2), make(tmp_path / "c", 2, seed=6)
    assert [digest(r.video) for r in first] == [digest(r.video) for r in again]
    assert [r.events for r in first] == [r.events for r in again]
    assert digest(other[0].video) != digest(first[0].video)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = make(tmp_path / "whole", 4)
    killed = tmp_path / "killed"
    make_clip = dataset.make_clip
    made = []

    def dies_at_the_third(shard, clip_id, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(clip_id)
        return make_clip(shard, clip_id, *rest)

    monkeypatch.setattr(dataset, "make_clip", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(killed, 4)
    monkeypatch.setattr(dataset, "make_clip", make_clip)
    index = killed / "shard-0000" / "index.jsonl"
    with open(index, "a") as file:
        file.write('{"id": "cut o')  # the kill came in the middle of a line
    with pytest.raises(InputError, match="no finished shard"):
        read_dataset(killed)
    assert len(read_shard(killed / "shard-0000")) == 2
    resumed = make(killed, 4)
    assert [digest(r.video) for r in resumed] == [digest(r.video) for r in whole]
    assert len(index.read_text().splitlines()) == 4
    assert all(json.loads(line) for line in index.read_text().splitlines())


def test_a_folder_with_another_set_is_not_mixed_with_this_one(tmp_path):
    make(tmp_path, 1)
    with pytest.raises(InputError, match="seed"):
        make(tmp_path, 1, seed=9)
    with pytest.raises(InputError, match="split"):
        make(tmp_path / "x", 1, split="practice")
