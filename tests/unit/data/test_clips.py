"""Sets of clips: exact cuts, honest splits, what is left out and why, nothing done twice."""

import json
import os
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st
from tests.clips import click_near, clicks, film
from typer.testing import CliRunner

from s2s.cli import app
from s2s.config import settings
from s2s.data import blobs
from s2s.data.clips import PUBLISHED, ClipOptions, Piece, assign_splits, make_set
from s2s.data.folder import ids_of, pieces_of_folder, spans_of_onsets
from s2s.data.heard import SAMPLE_RATE, hear
from s2s.data.manifest import SPLITS, read_clips, read_records, verify_set
from s2s.errors import InputError
from s2s.media.mux import add_sound
from s2s.media.probe import probe
from s2s.media.video import decode_frames


def struck(path: Path, times_s=(1.0, 2.0, 3.0), seconds=4.0, gain=1.0, **how) -> Path:
    """A film with a click at each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    silent = film(path.with_name(path.stem + ".silent.mp4"), seconds=seconds, rate="25", **how)
    rng = np.random.default_rng(0)
    sound = clicks(times_s, seconds, SAMPLE_RATE) * gain + 1e-4 * gain * rng.standard_normal(
        round(seconds * SAMPLE_RATE)
    )
    add_sound(probe(silent, settings().cli_limits), sound.astype(np.float32), SAMPLE_RATE, path)
    silent.unlink()
    return path


def piece(video: Path, name: str = "", **changes) -> Piece:
    made = Piece(name or video.stem, video, 0.0, None, "metal", str(video), 0.0, "train", "CC0-1.0")
    return replace(made, **changes)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.sampled_from([*SPLITS, None])), max_size=40), seed=st.integers(0, 5)
)
def test_no_source_video_is_in_two_splits_and_no_test_clip_in_training(rows, seed):
    pieces = [
        Piece(str(i), Path("x"), 0, None, "", f"video {source}", 0, split) for i, (source, split) in enumerate(rows)
    ]
    splits = assign_splits(pieces, ClipOptions(seed=seed))
    kept = [(one.source, one.split, splits[one.id]) for one in pieces if splits[one.id]]
    for source in {source for source, _, _ in kept}:
        assert len({split for other, _, split in kept if other == source}) == 1
    assert all(said in (None, split) for _, said, split in kept)  # a data set's own split is never overruled
    assert not {s for s, _, split in kept if split == "train"} & {one.source for one in pieces if one.split == "test"}
    assert splits == assign_splits(pieces[::-1], ClipOptions(seed=seed))


def test_a_cut_starts_where_it_should_and_keeps_picture_and_sound_together(tmp_path):
    video = struck(tmp_path / "in" / "long.mp4", times_s=(3.5, 4.25), seconds=6)
    made = make_set([piece(video, start_s=3.04, duration_s=2.0)], tmp_path / "set").clips[0]
    sound, rate = soundfile.read(made.audio, dtype="float32")
    assert rate == 22_050
    assert len(sound) == round(made.duration_s * rate)
    assert click_near(sound, 0.46, rate) == pytest.approx(0.46, abs=0.004)
    assert made.onsets_s == pytest.approx([0.46, 1.21], abs=0.03)
    limits = settings().cli_limits
    info = probe(made.video, limits)
    assert not info.has_audio
    first = next(decode_frames(info, limits=limits)).grey.astype(float)
    source = {round(f.time_s * 25): f.grey.astype(float) for f in decode_frames(probe(video, limits), limits=limits)}
    assert min(source, key=lambda n: np.abs(source[n] - first).mean()) == 76  # 3.04 s at 25 fps
    assert verify_set(tmp_path / "set") == 1
    assert read_records(tmp_path / "set")[0].events[0].kind == "metal"


def test_silent_damaged_short_and_repeated_clips_are_left_out_with_their_reason(tmp_path):
    good = struck(tmp_path / "good.mp4")
    (tmp_path / "damaged.mp4").write_bytes(good.read_bytes()[:4000])
    quieter = struck(tmp_path / "quieter.mp4", gain=0.3)  # the same clip at another level
    mute = film(tmp_path / "mute.mp4", seconds=2, rate="25")
    silent = struck(tmp_path / "silent.mp4", times_s=(), gain=0.01)
    pieces = [
        piece(good, split="test"),
        piece(quieter),
        piece(tmp_path / "damaged.mp4"),
        piece(mute),
        piece(silent),
        piece(good, "short", duration_s=0.4, source="another"),
    ]
    report = make_set(pieces, tmp_path / "set")
    assert [clip.id for clip in report.clips] == ["good"]  # the test clip stays, its twin in training goes
    said = {json.loads(line)["id"]: json.loads(line)["flags"] for line in (tmp_path / "set/dropped.jsonl").open()}
    assert said == {
        "quieter": ["duplicate"],
        "damaged": ["broken"],
        "mute": ["no_sound"],
        "silent": ["silent"],
        "short": ["short"],
    }
    assert {path.stem for path in (tmp_path / "set" / "clips").iterdir()} == {"good"}


def test_videos_get_ids_of_their_own_whatever_their_names_are_and_a_plain_name_is_its_id():
    names = ["rex.mp4", "dog/rex.mp4", "dog/rex 1.mp4", "дождь.mp4", "雨声.mp4", "鼓声.mp4", "IMG_1.mov", "IMG_1.mp4"]
    ids = ids_of([Path(name) for name in names])
    assert ids[:2] == ["rex", "dog-rex"]
    assert ids[2].startswith("dog-rex-1-")
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", one) for one in ids)
    assert ids_of([Path("鼓声.mp4")]) == [ids[5]], "whatever lies beside it"


def test_two_pieces_with_one_id_are_refused_by_the_names_of_their_sources(tmp_path):
    pieces = [piece(tmp_path / name, "same") for name in ("a.mp4", "b.mp4")]
    with pytest.raises(InputError, match=r"a\.mp4 and .*b\.mp4 get the same id, same"):
        make_set(pieces, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_a_video_that_is_over_a_limit_is_left_out_for_that_reason(tmp_path):
    longest_s = settings().cli_max_duration_s
    (tmp_path / "in").mkdir()
    film(tmp_path / "in" / "evening.mp4", seconds=longest_s + 60, rate="2", size="64x36", sound=True)
    report = make_set(pieces_of_folder(tmp_path / "in", label="metal"), tmp_path / "set")
    assert report.reasons == {"too_long": 1}


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path):
    pieces = [piece(struck(tmp_path / "a.mp4")), piece(film(tmp_path / "b.mp4", seconds=2, rate="25"))]
    planned = make_set(pieces, tmp_path / "set", dry_run=True)
    assert not (tmp_path / "set").exists()
    made = make_set(pieces, tmp_path / "set")
    assert [clip.id for clip in planned.clips] == [clip.id for clip in made.clips] == ["a"]
    assert planned.reasons == made.reasons == {"no_sound": 1}


def test_a_second_run_redoes_nothing_and_other_options_are_refused(tmp_path):
    pieces = [piece(struck(tmp_path / "a.mp4"))]
    make_set(pieces, tmp_path / "set")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "set" / "clips").iterdir()}
    manifest = (tmp_path / "set" / "manifest.jsonl").read_bytes()
    make_set(pieces, tmp_path / "set", workers=2)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    assert manifest == (tmp_path / "set" / "manifest.jsonl").read_bytes()
    with pytest.raises(InputError, match="other options"):
        make_set(pieces, tmp_path / "set", ClipOptions(min_s=2))


def test_a_duplicate_whose_twin_is_not_asked_for_any_more_is_made_again(tmp_path):
    twins = [piece(struck(tmp_path / "a.mp4")), piece(struck(tmp_path / "b.mp4", gain=0.3))]
    assert [clip.id for clip in make_set(twins, tmp_path / "set").clips] == ["a"]
    assert [clip.id for clip in make_set(twins[1:], tmp_path / "set").clips] == ["b"]
    assert verify_set(tmp_path / "set") == 1
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "set" / "clips").iterdir()}
    make_set(twins[1:], tmp_path / "set")
    assert made == {path: path.stat().st_mtime_ns for path in made}


def test_what_is_said_of_a_piece_later_is_what_holds(tmp_path):
    old = piece(struck(tmp_path / "a.mp4"), licence="unknown")
    make_set([old], tmp_path / "set")
    said = replace(old, label="wood", licence="CC0-1.0", split="val")
    make_set([said], tmp_path / "set")
    clip = read_clips(tmp_path / "set")[0]
    assert (clip.label, clip.kind, clip.licence, clip.split) == ("wood", "wood", "CC0-1.0", "val")
    struck(tmp_path / "a.mp4", times_s=(0.7, 1.5, 2.2))  # another film of the same name
    make_set([said], tmp_path / "set")
    assert read_clips(tmp_path / "set")[0].onsets_s == pytest.approx([0.7, 1.5, 2.2], abs=0.03)
    assert verify_set(tmp_path / "set") == 1


def test_a_source_that_becomes_a_test_source_leaves_training(tmp_path):
    video = struck(tmp_path / "a.mp4", times_s=(0.5, 2.5, 3.1))
    first = piece(video, "a", source="one video", duration_s=2.0)
    second = piece(video, "b", source="one video", start_s=2.0, split="test")
    assert [clip.id for clip in make_set([first], tmp_path / "set").clips] == ["a"]
    report = make_set([first, second], tmp_path / "set")
    assert [(clip.id, clip.split) for clip in report.clips] == [("b", "test")]
    assert report.reasons == {"source_in_other_split": 1}
    assert not (tmp_path / "set" / "clips" / "a.mp4").exists()


def test_quiet_and_loud_recordings_come_out_equally_loud(tmp_path):
    pieces = [
        piece(struck(tmp_path / f"{gain}.mp4", times_s=np.arange(0.5, 3.5, 0.5 + 0.2 * i), gain=gain), f"g{i}")
        for i, gain in enumerate((0.1, 1.0))
    ]
    clips = make_set(pieces, tmp_path / "set").clips
    peaks = [np.abs(soundfile.read(clip.audio)[0]).max() for clip in clips]
    assert len(peaks) == 2
    assert max(peaks) / min(peaks) < 1.5
    assert max(peaks) <= 1.0


def test_the_published_recipe_loops_short_clips_to_215_frames_and_ten_seconds(tmp_path):
    video = struck(tmp_path / "short.mp4", times_s=(0.5,), seconds=3)
    clip = make_set([piece(video)], tmp_path / "set", PUBLISHED).clips[0]
    limits = settings().cli_limits
    info = probe(clip.video, limits)
    assert (info.width, info.height, info.n_frames, clip.duration_s) == (340, 256, 215, 10.0)
    sound, _ = soundfile.read(clip.audio, dtype="float32")
    assert len(sound) == 220_500
    assert [round(click_near(sound, at, 22_050), 2) for at in (0.5, 3.5, 6.5, 9.5)] == [0.5, 3.5, 6.5, 9.5]


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.lists(st.floats(0, 60), max_size=60).map(lambda times: np.array(sorted(times))),
    st.sampled_from([2.0, 6.0, 10.0]),
)
def test_pieces_hold_every_onset_once_are_short_enough_and_do_not_overlap(onsets, clip_s):
    spans = spans_of_onsets(onsets, 60.0, clip_s)
    assert all(0 <= start < end <= 60 and end - start <= clip_s + 0.002 for start, end in spans)
    assert all(a[1] <= b[0] + 1e-6 for a, b in pairwise(spans))
    held = [sum(start - 0.002 <= onset <= end + 0.002 for start, end in spans) for onset in onsets]
    assert all(count >= 1 for count in held)
    between = [sum(start + 0.002 < onset < end - 0.002 for start, end in spans) for onset in onsets]
    assert all(count <= 1 for count in between)


@pytest.mark.parametrize("clip_s", [2.0, 3.0, 6.0])
def test_dense_sound_is_cut_into_pieces_that_are_kept(clip_s):
    spans = spans_of_onsets(np.arange(0.1, 60, 0.2), 60.0, clip_s)
    assert min(end - start for start, end in spans[:-1]) >= ClipOptions().min_s


def test_isolated_hits_give_pieces_of_several_seconds():
    assert spans_of_onsets(np.array([2.5]), 5.0, 6.0) == [(1.0, 5.0)]
    spans = spans_of_onsets(np.arange(1.0, 26, 3.2), 27.0, 6.0)
    assert all(end - start >= 3 for start, end in spans)


def test_hits_of_one_thing_before_one_camera_are_not_duplicates(tmp_path):
    video = struck(tmp_path / "in" / "bell" / "tripod.mp4", times_s=np.arange(1.0, 24, 3.2), seconds=26)
    report = make_set(pieces_of_folder(tmp_path / "in"), tmp_path / "set")
    assert "duplicate" not in report.reasons, "moments of one video are different moments"
    twice = [piece(video, "a", start_s=0.0, duration_s=4.0), piece(video, "b", start_s=0.02, duration_s=4.0)]
    assert make_set(twice, tmp_path / "twice").reasons == {"duplicate": 1}, "the same moment cut twice is one"


@pytest.mark.parametrize("way", ["pull", "push"])
def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path, way):
    gone = tmp_path / "typo"
    result = CliRunner().invoke(app, ["data", way, str(gone), str(tmp_path / "out")])
    assert "is no folder" in str(result.exception)
    assert not gone.exists()


def test_names_that_no_text_file_holds_stop_no_set(tmp_path):
    good = struck(tmp_path / "good.mp4")
    other = struck(tmp_path / "other.mp4", times_s=(0.4, 0.9, 3.1))
    sources = [os.fsdecode(b"caf\xe9.mp4"), "line\u2028end"]
    make_set([piece(good, "a", source=sources[0]), piece(other, "b", source=sources[1])], tmp_path / "set")
    assert [clip.source for clip in read_clips(tmp_path / "set")] == sources


def test_a_folder_is_cut_where_something_sounds_and_its_sub_folders_are_labels(tmp_path):
    struck(tmp_path / "in" / "bell" / "two parts.mp4", times_s=(1.0, 1.5, 8.0, 8.3, 9.1), seconds=12)
    struck(tmp_path / "in" / "loose.mp4", times_s=(0.6, 1.2), seconds=3)
    pieces = pieces_of_folder(tmp_path / "in", label="metal", licence="CC0-1.0")
    parts = [one for one in pieces if one.label == "bell"]
    found = [time_s for one in parts for time_s in (one.start_s, one.start_s + one.duration_s)]
    assert found == pytest.approx([0.5, 4.5, 7.5, 11.5], abs=0.1)
    assert [one.label for one in pieces if one not in parts] == ["metal"]
    clips = make_set(pieces, tmp_path / "set").clips
    assert {clip.kind for clip in clips} == {"bell", "metal"}
    assert len({clip.split for clip in clips if clip.label == "bell"}) == 1
    assert len(read_clips(tmp_path / "set", clips[0].split)) >= 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video"):
        pieces_of_folder(tmp_path / "empty")


def voice(seconds: float = 5.0) -> np.ndarray:
    """Syllables: a buzz whose pitch goes up and down, through two formants, four times a second."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 140 * 2 ** (0.25 * np.sin(2 * np.pi * 0.9 * t) + 0.08 * np.sin(2 * np.pi * 2.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.2 * buzz * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)


def test_speech_alone_is_told_from_struck_and_ringing_things():
    from s2s.synth.scenes import make_script
    from s2s.synth.script import KINDS
    from s2s.synth.sounds import SoundBank, mix_clip

    assert hear(voice()).speech_only
    bank = SoundBank("train")
    for kind in KINDS:
        rng = np.random.default_rng(1)
        sound, _ = mix_clip(make_script(rng, "train", 6.0, kind), 6.0, bank, rng)
        assert not hear(sound.astype(np.float32)).speech_only, kind
    assert hear(np.zeros(22_050, np.float32)).silent


def test_a_folder_in_storage_gets_what_is_new_and_the_naming_files_last(tmp_path):
    here, there, again = tmp_path / "here", (tmp_path / "there").as_uri(), tmp_path / "again"
    (here / "clips").mkdir(parents=True)
    (here / "clips" / "a.mp4").write_bytes(b"clip")
    (here / "manifest.jsonl").write_text("{}\n")
    assert blobs.push(here, there) == 2
    assert blobs.push(here, there) == 1  # a manifest may have changed, a clip never does
    assert blobs.pull(there, again) == 2
    assert (again / "clips" / "a.mp4").read_bytes() == b"clip"
    with pytest.raises(InputError):
        blobs.pull("nowhere://bucket", again)


def test_what_is_rewritten_at_the_same_size_is_copied_again_and_marks_come_last(tmp_path, monkeypatch):
    import obstore

    names = ["vocoder/done", "finished", "vocoder/checkpoint.pt", "vocoder/best.json", "vocoder/best.safetensors"]
    names += ["report/own/sounds/a.0.flac", "bundles/current.json", "bundles/x/bundle.json"]
    fixed = ["data/a.mp4", "seen/a.safetensors", "shard-0000/a.safetensors", "bundles/x/regnet-0123abcd.safetensors"]
    here, there, again = tmp_path / "here", (tmp_path / "there").as_uri(), tmp_path / "again"
    sent, put = [], obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, name, path: sent.append(name) or put(store, name, path))
    for text in ("old", "new"):
        sent.clear()
        for name in names + fixed:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text("one" if name in fixed else text)
        blobs.push(here, there)
        blobs.pull(there, again)
        assert all((again / name).read_bytes() == (here / name).read_bytes() for name in names + fixed)
        assert set(sent[-2:]) == {"vocoder/done", "finished"}
        for earlier, later in (
            ("vocoder/best.safetensors", "vocoder/best.json"),
            ("vocoder/best.json", "vocoder/checkpoint.pt"),
            ("bundles/x/bundle.json", "bundles/current.json"),
        ):
            assert sent.index(earlier) < sent.index(later)
    assert set(sent) == set(names), "what cannot have changed is not sent twice"
