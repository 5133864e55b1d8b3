"""The picture is untouched, the sound is heard when it should be, the file is whole or absent."""

import os
import stat
import struct
import tracemalloc

import av
import numpy as np
import pytest

from clips import click_near, clicks, edited, ffmpeg, film, film_of_levels, heard, packets, rotate, seen
from hostile import box
from s2s.errors import Canceled, InputError, ProcessingError
from s2s.media import mux
from s2s.media.audio import read_audio
from s2s.media.mux import add_sound, check_output
from s2s.media.probe import probe

RATE = 22_050


def streams(path):
    with av.open(str(path)) as container:
        return [(s.type, s.codec_context.name if s.codec_context else None) for s in container.streams]


def make(clips, kind):
    """(clip, suffix of the result) of one kind of honest clip."""
    path = clips / f"in_{kind}"
    if kind == "late.mp4":
        silent = film(clips / "late_source.mp4", seconds=1.5)
        ffmpeg("-f", "lavfi", "-i", "sine=d=2", "-itsoffset", "0.437", "-i", silent, "-map", "1:v", "-map", "0:a",
               "-c:v", "copy", path)
    elif kind == "late_silent.mp4":
        silent = film(clips / "late_source2.mp4", seconds=1.5)
        ffmpeg("-copyts", "-itsoffset", "0.437", "-i", silent, "-c", "copy", path)
    elif kind == "cut.mp4":
        ffmpeg("-ss", "1.3", "-i", film(clips / "cut_source.mp4", seconds=3), "-c", "copy", path)
    elif kind == "turned.mp4":
        rotate(film(path, seconds=1.5), 90)
    elif kind == "vfr.mp4":
        film_of_levels(path, [0, 17, 50, 51, 200, 333, 700, 1000, 1400, 1433])
    elif kind == "half_second.mp4":
        film(path, seconds=0.5)
    elif kind == "live.webm":
        film(path, "-live", "1", seconds=1.5, codec="vp8", rate="30")
    elif kind == "fragmented.mp4":
        film(path, "-movflags", "frag_keyframe+empty_moov", seconds=1.5)
    elif kind == "25.mov":
        film(path, "-video_track_timescale", "25", seconds=1.5, rate="25", sound=True)
    elif kind == "ntsc.mp4":
        film(path, seconds=1.5, rate="30000/1001", sound=True)
    else:
        codecs = {"8.webm": "vp8", "9.webm": "vp9", "1.webm": "av1", "h.mp4": "hevc", "p.mov": "prores"}
        film(path, seconds=1.5, codec=codecs.get(kind, "h264"), sound=kind == "8.webm")
    return path


KINDS = ["plain.mp4", "ntsc.mp4", "25.mov", "h.mp4", "p.mov", "late.mp4", "late_silent.mp4", "cut.mp4", "turned.mp4",
         "vfr.mp4", "half_second.mp4", "fragmented.mp4", "8.webm", "9.webm", "1.webm", "live.webm", "x.mkv"]


@pytest.mark.parametrize("kind", KINDS)
def test_packets_stay_and_a_click_is_heard_at_its_time(clips, limits, kind):
    path = make(clips, kind)
    info = probe(path, limits)
    times = [t for t in (0.1, 0.31, 0.9, 1.2) if t < info.duration_s - 0.1]
    output = clips / f"out_{kind}"
    add_sound(info, clicks(times, info.duration_s, RATE), RATE, output)

    before, after = packets(path), packets(output)
    assert [data for _, _, data in after] == [data for _, _, data in before]
    assert [shown for shown, _, _ in after] == [shown for shown, _, _ in before]
    if path.suffix != ".mkv":  # Matroska keeps no decoding times; readers invent them
        assert [decoded for _, decoded, _ in after] == [decoded for _, decoded, _ in before]

    done = probe(output, limits)
    assert (done.width, done.height, done.rotation_deg) == (info.width, info.height, info.rotation_deg)
    assert done.exact_duration == info.exact_duration
    assert done.start_time_s == info.start_time_s
    assert streams(output)[1:] == [("audio", "aac" if path.suffix in (".mp4", ".mov") else "opus")]

    ours, players = read_audio(output, RATE, limits, done), heard(output, RATE)
    for time_s in times:
        assert click_near(ours, time_s, RATE) == pytest.approx(time_s, abs=0.005)
        at = done.start_time_s + time_s
        assert click_near(players, at, RATE) == pytest.approx(at, abs=0.01)

    with av.open(str(output)) as container:
        sound = container.streams.audio[0]
        spans = [(p.pts * sound.time_base, (p.pts + p.duration) * sound.time_base)
                 for p in container.demux(sound) if p.size]
    one_frame = 1024 / RATE if path.suffix in (".mp4", ".mov") else 0.02
    assert info.start_time_s - one_frame - 0.002 <= float(spans[0][0]) <= info.start_time_s + 0.002
    assert float(spans[-1][1]) - info.start_time_s == pytest.approx(info.duration_s, abs=one_frame + 0.008)
    assert len(players) / RATE - done.start_time_s == pytest.approx(info.duration_s, abs=one_frame + 0.002)


@pytest.mark.parametrize("pieces", [[(0.0, 1.5)], [(0.7, 1.5)]])
@pytest.mark.parametrize("frames_between", ["0", "2"])
def test_what_was_trimmed_away_stays_away(clips, limits, tmp_path, pieces, frames_between):
    source = film(clips / f"whole{frames_between}.mp4", "-bf", frames_between, seconds=3)
    path = edited(source, tmp_path / "trimmed.mp4", *pieces)
    info = probe(path, limits)
    assert (info.duration_s, info.n_frames) == (1.5, 36)
    add_sound(info, clicks([0.5], 1.5, RATE), RATE, tmp_path / "out.mp4")
    assert seen(tmp_path / "out.mp4") == seen(path)
    assert probe(tmp_path / "out.mp4", limits).exact_duration == info.exact_duration
    assert click_near(heard(tmp_path / "out.mp4", RATE), 0.5, RATE) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["plain.mp4", "late_silent.mp4", "fine.mp4", "25.mov"])
def test_edits_are_played_at_their_own_speed_and_last_as_long_as_the_clip(clips, limits, tmp_path, kind):
    if kind == "fine.mp4":  # a clock that makes the muxer write 64-bit boxes
        path = film(clips / kind, "-video_track_timescale", "1000000000", seconds=3)
    else:
        path = make(clips, kind)
    info, out = probe(path, limits), tmp_path / f"out{path.suffix}"
    add_sound(info, np.zeros(round(info.duration_s * RATE), np.float32), RATE, out)
    data = out.read_bytes()
    movie, edits = data.index(b"mvhd") + 4, data.index(b"elst") + 4
    clock, lasts = struct.unpack_from(">IQ" if data[movie] else ">II", data, movie + (20 if data[movie] else 12))
    entry = struct.Struct(">QqI" if data[edits] else ">IiI")
    number = struct.unpack_from(">I", data, edits + 4)[0]
    entries = [entry.unpack_from(data, edits + 8 + index * entry.size) for index in range(number)]
    assert {rate for *_, rate in entries} == {0x10000}
    assert entries[-1][0] == info.exact_duration * clock
    assert (data[edits] == 1) == (kind == "fine.mp4")
    assert lasts >= sum(units for units, *_ in entries)


def test_a_long_film_is_not_read_into_memory_for_its_edit_list(clips, limits, tmp_path):
    info, out = probe(film(clips / "short_of_many.mp4"), limits), tmp_path / "out.mp4"
    add_sound(info, np.zeros(RATE, np.float32), RATE, out)
    with open(out, "ab") as file:
        file.write(struct.pack(">I4s", 64 << 20, b"free"))
        file.truncate(file.tell() - 8 + (64 << 20))
    tracemalloc.start()
    mux._end_picture(out, info.exact_duration)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 20


@pytest.mark.parametrize("pieces", [[(0, 0), (0, 2)], [(0, 2), (0, 0)]])
def test_a_piece_of_no_length_is_none(clips, limits, tmp_path, pieces):
    path = edited(film(clips / "none_source.mp4", seconds=2), tmp_path / "in.mp4", *pieces)
    assert probe(path, limits).container.n_edits == 1
    check_output(probe(path, limits), tmp_path / "out.mp4")


@pytest.mark.parametrize("pieces", [[(0, 1), (2.5, 0.5)], [(0, 1), (0, 1)], [(0, 1.5), (1, 1.5)]])
def test_a_clip_of_several_pieces_is_shown_as_they_are_strung_together(clips, limits, tmp_path, pieces):
    path = edited(film(clips / "strung_source.mp4", seconds=3), tmp_path / "strung.mp4", *pieces)
    info = probe(path, limits)
    assert (info.container.n_edits, info.n_frames) == (2, 24 * sum(length for _, length in pieces))
    with pytest.raises(InputError, match="several pieces") as caught:
        check_output(info, tmp_path / "out.mp4")
    assert "--reencode" in caught.value.hint
    add_sound(info, clicks([0.5], info.duration_s, RATE), RATE, tmp_path / "out.mp4", reencode=True)
    assert [time_s for time_s, _ in seen(tmp_path / "out.mp4")] == [time_s for time_s, _ in seen(path)]
    assert probe(tmp_path / "out.mp4", limits).exact_duration == info.exact_duration


def test_a_reencoded_picture_of_a_changing_rate_is_shown_when_it_was(clips, limits, tmp_path):
    path = film_of_levels(tmp_path / "in.mp4", [0, 40, 80, 300, 310, 333, 900, 2000])
    info = probe(path, limits)
    assert info.variable_frame_rate
    add_sound(info, clicks([0.5], info.duration_s, RATE), RATE, tmp_path / "out.mp4", reencode=True)
    assert [time_s for time_s, _ in seen(tmp_path / "out.mp4")] == [time_s for time_s, _ in seen(path)]
    done = probe(tmp_path / "out.mp4", limits)
    assert (done.n_frames, done.exact_duration) == (info.n_frames, info.exact_duration)


def test_what_a_file_says_of_dolby_vision_and_of_360_degrees_is_kept(clips, limits, tmp_path):
    flat = film(clips / "flat.mp4", codec="hevc", pixels="yuv420p10le").read_bytes()
    vision = box(b"dvvC", bytes([1, 0, 8 << 1, 4 << 3 | 5, 0x40]) + bytes(19))  # profile 8.4, as phones record it
    sphere = box(b"st3d", bytes(5)) + box(b"sv3d", box(b"svhd", bytes(4) + b"x\0"),
                                          box(b"proj", box(b"prhd", bytes(16)), box(b"equi", bytes(20))))
    for name, said, words in [("vision", vision, [b"dvvC"]), ("sphere", sphere, [b"st3d", b"sv3d"])]:
        path, out = tmp_path / f"{name}.mp4", tmp_path / f"{name}.out.mp4"
        path.write_bytes(said_of_picture(flat, b"hev1", said))
        add_sound(probe(path, limits), np.zeros(RATE, np.float32), RATE, out)
        assert all(word in out.read_bytes() for word in words)
        assert packets(out) == packets(path)


def said_of_picture(data, entry, said):
    """An MP4 with its moov at the end and `said` added to its sample entry."""
    data = bytearray(data)
    holders = [data.index(kind) - 4 for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", entry)]
    end = holders[-1] + int.from_bytes(data[holders[-1]:][:4], "big")
    data[end:end] = said
    for at in holders:
        data[at:at + 4] = (int.from_bytes(data[at:at + 4], "big") + len(said)).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("letter", ["東", "\N{DRUM WITH DRUMSTICKS}", "ü"])
def test_the_longest_names_of_any_script_can_be_written(clips, limits, tmp_path, letter):
    info = probe(film(clips / "short_name.mp4", seconds=0.5), limits)
    output = tmp_path / (letter * (251 // len(letter.encode())) + ".mp4")
    add_sound(info, np.zeros(RATE, np.float32), RATE, output)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_the_same_input_gives_the_same_bytes(clips, limits):
    for name, codec in [("same.mp4", "h264"), ("same.webm", "vp8")]:
        info = probe(film(clips / name, codec=codec, seconds=0.6), limits)
        sound = np.random.default_rng(0).normal(0, 0.1, 13_230).astype(np.float32)
        results = []
        for n in (1, 2):
            add_sound(info, sound, RATE, clips / f"again{n}_{name}")
            results.append((clips / f"again{n}_{name}").read_bytes())
        assert results[0] == results[1]


def test_metadata_and_other_tracks_are_dropped(clips, limits, tmp_path):
    subtitles = tmp_path / "s.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nwhere I live\n")
    silent = film(clips / "meta_source.mp4", sound=True)
    ffmpeg("-i", silent, "-i", subtitles, "-map", "0", "-map", "1", "-map", "0:a", "-c", "copy", "-c:s", "mov_text",
           "-metadata", "title=secret place", "-metadata", "location=+48.85+002.35/",
           "-metadata:s:v", "handler_name=my phone", clips / "meta.mp4")
    assert len(streams(clips / "meta.mp4")) == 4
    assert b"secret place" in (clips / "meta.mp4").read_bytes()
    info = probe(clips / "meta.mp4", limits)
    add_sound(info, np.zeros(RATE, np.float32), RATE, tmp_path / "out.mp4")
    assert streams(tmp_path / "out.mp4") == [("video", "h264"), ("audio", "aac")]
    data = (tmp_path / "out.mp4").read_bytes()
    for private in (b"secret place", b"48.85", b"where I live", b"my phone"):
        assert private not in data
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_transparent_picture_stays_transparent(clips, limits, tmp_path):
    clip, out = clips / "glass.webm", tmp_path / "out.webm"
    half = "testsrc=d=1.5:r=25:s=64x48,format=yuva420p,geq=lum='lum(X,Y)':cb=128:cr=128:a='255*X/W'"
    ffmpeg("-f", "lavfi", "-i", half, "-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", clip)
    add_sound(probe(clip, limits), np.zeros(RATE, np.float32), RATE, out)
    alpha_mode = b"\x53\xc0\x81\x01"  # Matroska's element and its value, 1
    assert [file.read_bytes().count(alpha_mode) for file in (clip, out)] == [1, 1]
    digests = [ffmpeg("-c:v", "libvpx-vp9", "-i", file, "-map", "0:v", "-pix_fmt", "yuva420p", "-f", "md5", "-").stdout
               for file in (clip, out)]
    assert digests[0] == digests[1] != b""


def test_the_old_sound_is_replaced(clips, limits, tmp_path):
    info = probe(film(clips / "tone.mp4", sound=True), limits)
    add_sound(info, np.zeros(round(info.duration_s * RATE), np.float32), RATE, tmp_path / "a.mp4")
    assert np.abs(read_audio(tmp_path / "a.mp4", RATE, limits)).max() < 1e-3


@pytest.mark.parametrize("kind", ["9.webm", "p.mov", "turned.mp4", "late.mp4", "odd.mov"])
def test_reencode_plays_anywhere(clips, limits, tmp_path, kind):
    if kind == "odd.mov":
        path = film(clips / "re_odd.mov", "-vf", "scale=101x67,setsar=1", codec="mpeg4")
    else:
        path = make(clips, kind)
    info = probe(path, limits)
    add_sound(info, clicks([0.3], info.duration_s, RATE), RATE, tmp_path / "out.mp4", reencode=True)
    assert streams(tmp_path / "out.mp4") == [("video", "h264"), ("audio", "aac")]
    done = probe(tmp_path / "out.mp4", limits)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert (done.width, done.height) == (info.width // 2 * 2, info.height // 2 * 2)
    assert done.rotation_deg == 0
    assert done.n_frames == info.n_frames
    assert done.duration_s == pytest.approx(info.duration_s, abs=0.05)
    assert click_near(heard(tmp_path / "out.mp4", RATE), 0.3, RATE) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("kind", "good", "bad"), [
    ("plain.mp4", [".mp4", ".mov", ".m4v", ".MP4"], [".webm", ".mkv", ".avi", ".wav", ""]),
    ("p.mov", [".mov"], [".mp4", ".webm"]),
    ("9.webm", [".webm", ".mkv"], [".mp4", ".mov"]), ("x.mkv", [".mkv"], [".webm", ".mp4"]),
])
def test_a_name_that_cannot_hold_the_picture_is_refused_early(clips, limits, tmp_path, kind, good, bad):
    info = probe(make(clips, kind), limits)
    for suffix in good:
        check_output(info, tmp_path / f"out{suffix}")
    for suffix in bad:
        with pytest.raises(InputError) as caught:
            check_output(info, tmp_path / f"out{suffix}")
        assert caught.value.code == "bad_output"
    check_output(info, tmp_path / "out.mp4", reencode=True)
    for output in (info.path, tmp_path / "absent" / f"a{good[0]}", tmp_path):
        with pytest.raises(InputError) as caught:
            check_output(info, output)
        assert caught.value.code == "bad_output"


def test_a_failure_leaves_the_old_file_and_nothing_else(clips, limits, tmp_path, monkeypatch):
    info = probe(film(clips / "fail.mp4", seconds=2, size="640x360"), limits)
    sound, output = np.zeros(2 * RATE, np.float32), tmp_path / "out.mp4"
    output.write_bytes(b"old")
    with pytest.raises(Canceled):
        add_sound(info, sound, RATE, output, should_stop=lambda: True)
    with pytest.raises(ProcessingError, match="longer than"):
        add_sound(info, sound, RATE, output, reencode=True, timeout_s=0.05)
    monkeypatch.setitem(mux.SOUND_CODEC, "mp4", ["-c:a", "no_such_codec"])
    with pytest.raises(ProcessingError, match="no_such_codec"):
        add_sound(info, sound, RATE, output)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert output.read_bytes() == b"old"


def test_the_result_is_an_ordinary_file(clips, limits, tmp_path):
    info = probe(film(clips / "mode.mp4"), limits)
    add_sound(info, np.zeros(RATE, np.float32), RATE, tmp_path / "out.mp4")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "out.mp4").stat().st_mode) == 0o666 & ~umask


def test_names_that_look_like_options_or_protocols_are_only_names(clips, limits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-i.mp4", "concat:a|b.mp4", "http:x.mp4", "%03d.mp4", "ein Film mit Umlaut ü.mp4"):
        source = tmp_path / name
        source.write_bytes(film(clips / "named.mp4", seconds=0.5).read_bytes())
        add_sound(probe(name, limits), np.zeros(RATE, np.float32), RATE, f"out {name}")
        assert probe(f"out {name}", limits).has_audio
