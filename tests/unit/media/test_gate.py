"""The gate says yes to honest videos and one clear line to everything else, in bounded time and memory."""

import os
import subprocess
import sys
import time

import pytest

from clips import film
from hostile import corpus, mp4, webm
from s2s.config import Limits
from s2s.errors import InputError
from s2s.media.gate import check_container
from s2s.media.probe import probe
from s2s.wire import STATUS_OF_CODE


@pytest.fixture(scope="module")
def hostile(clips):
    folder = clips / "hostile"
    folder.mkdir()
    secret = clips / "somebody_elses.mp4"
    film(secret)
    return corpus(folder, secret)


@pytest.mark.parametrize(("name", "codec", "family", "demuxer"), [
    ("a.mp4", "h264", "mp4", "mov"), ("a.mov", "h264", "mp4", "mov"), ("b.mov", "prores", "mp4", "mov"),
    ("m.mov", "mjpeg", "mp4", "mov"), ("p.mp4", "mpeg4", "mp4", "mov"), ("v8.webm", "vp8", "webm", "matroska"),
    ("v9.webm", "vp9", "webm", "matroska"), ("a1.webm", "av1", "webm", "matroska"), ("a1.mp4", "av1", "mp4", "mov"),
    ("x.mkv", "h264", "webm", "matroska"), ("h.mp4", "hevc", "mp4", "mov"),
])
def test_an_honest_video_passes_with_its_facts(clips, limits, name, codec, family, demuxer):
    container = check_container(film(clips / f"gate_{name}", codec=codec, sound=True), limits)
    assert (container.family, container.demuxer, container.video_codec) == (family, demuxer, codec)
    assert (container.width, container.height, container.n_frames) == (128, 72, 24)
    assert container.duration_s == pytest.approx(1.0, abs=0.002)
    assert container.has_audio


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe+empty_moov+default_base_moof",
                                   "frag_every_frame+empty_moov", "frag_keyframe", "dash"])
def test_a_fragmented_file_is_counted(clips, limits, flags):
    container = check_container(film(clips / f"{flags}.mp4", "-movflags", flags, seconds=2), limits)
    assert container.n_frames == 48
    assert container.duration_s == pytest.approx(2.0, abs=0.1)


def test_a_live_recording_without_a_written_length_is_measured(clips, limits):
    container = check_container(film(clips / "live.webm", "-live", "1", codec="vp8", seconds=2), limits)
    assert container.duration_s == pytest.approx(2.0, abs=0.01)


def test_every_hostile_file_meets_one_clear_line(hostile, limits, clips):
    assert len(hostile) >= 60
    outcomes = {}
    for bad in hostile:
        start = time.process_time()
        try:
            check_container(bad.path, limits)
            with pytest.raises(InputError) as caught:  # structure is sound: the decoder must find out
                probe(bad.path, limits)
            error = caught.value
        except InputError as exc:
            error = exc
            assert time.process_time() - start < 2, bad.path.name
        outcomes[bad.path.name] = error.code
        assert error.code in bad.codes, (bad.path.name, error)
        assert error.code in STATUS_OF_CODE
        assert error.message.endswith(".")
        assert error.hint.endswith(".")
        assert "\n" not in str(error)
        assert len(str(error)) < 200
    assert len(set(outcomes.values())) >= 10, outcomes


def test_limits_on_length_size_and_bytes_are_the_callers(clips):
    path = film(clips / "limited.mp4", seconds=2, rate="30", size="320x180")
    fine = {"max_bytes": 10**7, "max_duration_s": 10.0}
    for change, code in [({"max_bytes": 1000}, "too_large"), ({"max_duration_s": 1.5}, "too_long"),
                         ({"min_duration_s": 3.0}, "too_short"), ({"max_long_side_px": 319}, "picture_too_large"),
                         ({"max_frames_per_s": 20.0}, "too_many_frames")]:
        with pytest.raises(InputError) as caught:
            check_container(path, Limits(**(fine | change)))
        assert caught.value.code == code
    assert check_container(path, Limits(**fine)).n_frames == 60


def test_what_is_not_a_file_does_not_block(tmp_path, limits):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path, tmp_path / "absent.mp4", tmp_path / "n\0ul.mp4", "/dev/zero"):
        with pytest.raises(InputError) as caught:
            check_container(path, limits)
        assert caught.value.code == "bad_input"


def test_mutated_files_end_in_an_answer_or_an_input_error(clips, limits, tmp_path):
    import random

    rng = random.Random(7)
    seeds = [film(clips / "mutate.mp4", seconds=0.6).read_bytes(), mp4(), webm(),
             film(clips / "mutate.webm", seconds=0.6, codec="vp8").read_bytes(),
             film(clips / "mutate_frag.mp4", "-movflags", "frag_keyframe+empty_moov", seconds=0.6).read_bytes()]
    path = tmp_path / "mutated"
    slowest, codes = 0.0, set()
    for round_ in range(600):
        data = bytearray(seeds[round_ % len(seeds)])
        spots = [i for i in range(len(data) - 4) if data[i:i + 1].isalpha()] if round_ % 2 else range(len(data))
        for _ in range(rng.randint(1, 8)):
            at = rng.choice(spots)
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        if round_ % 5 == 0:
            del data[rng.randrange(len(data)):]
        path.write_bytes(data)
        start = time.process_time()
        try:
            check_container(path, limits)
        except InputError as exc:
            codes.add(exc.code)
        slowest = max(slowest, time.process_time() - start)
    assert slowest < 2
    assert codes <= set(STATUS_OF_CODE)


def test_the_gate_needs_neither_numpy_nor_av():
    code = "import sys, s2s.media.gate; assert not {'numpy', 'av', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
