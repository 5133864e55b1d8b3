"""Frames come out small, upright, at their true times, from a process that can be killed."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clips import ROTATIONS, ffmpeg, film, film_of_levels, level_of, rotate
from s2s.config import Limits
from s2s.errors import Canceled, InputError
from s2s.media.ffmpeg import start_worker
from s2s.media.probe import child_limits, probe
from s2s.media.video import decode_frames, grey_size
from s2s.spec import ClipSpec

RATE = ClipSpec().video_rate


def decode(path, limits, **kwargs):
    info = probe(path, limits)
    return info, list(decode_frames(info, limits=limits, **({"rgb_size": (32, 40), "rgb_rate": RATE} | kwargs)))


@pytest.mark.parametrize("rate", ["12", "24", "30000/1001", "60", "120"])
def test_every_frame_has_its_time_at_any_frame_rate(clips, limits, rate):
    info, frames = decode(film(clips / f"rate{rate.replace('/', '_')}.mp4", rate=rate), limits)
    step = 1 / Fraction(rate)
    true = [float(i * step) for i in range(info.n_frames)]
    assert [frame.time_s for frame in frames] == pytest.approx(true, abs=1e-6)
    assert info.duration_s == pytest.approx(float(info.n_frames * step), abs=1e-6)
    assert info.average_fps == pytest.approx(float(Fraction(rate)), rel=1e-4)
    assert not info.variable_frame_rate


def test_variable_frame_rate_keeps_exact_times_and_right_pictures_on_the_grid(clips, limits):
    times = [0, 17, 50, 51, 200, 333, 334, 335, 700, 1000, 1400, 1433]
    info, frames = decode(film_of_levels(clips / "vfr.mp4", times), limits, rgb_rate=Fraction(30))
    assert info.variable_frame_rate
    assert [round(frame.time_s * 1000, 6) for frame in frames] == times
    assert [level_of(frame.grey) for frame in frames] == list(range(len(times)))
    shown = {tick: index for index, frame in enumerate(frames) for tick in frame.rgb_ticks}
    assert shown == {k: max(i for i, t in enumerate(times) if t <= 1000 * k / 30) for k in range(len(shown))}
    assert len(shown) == int(np.ceil(info.duration_s * 30))
    for index, frame in enumerate(frames):
        assert (frame.rgb is not None) == bool(frame.rgb_ticks)
        if frame.rgb is not None:
            assert frame.rgb.shape == (32, 40, 3)
            assert level_of(frame.rgb) == index


@pytest.mark.parametrize(("rate", "seconds"), [("5", 2.0), ("12", 0.5), ("60", 1.3), ("120", 0.5)])
def test_every_tick_is_served_once_in_order_and_agrees_with_the_spec(clips, limits, rate, seconds):
    info, frames = decode(film(clips / f"ticks{rate}.mp4", rate=rate, seconds=seconds), limits)
    ticks = [tick for frame in frames for tick in frame.rgb_ticks]
    assert ticks == list(range(ClipSpec().n_frames(info.duration_s)))


def test_without_a_grid_there_is_no_colour(clips, limits):
    _, frames = decode(film(clips / "grey.mp4"), limits, rgb_size=None, rgb_rate=None)
    assert len(frames) == 24
    assert all(frame.rgb is None and frame.rgb_ticks == () for frame in frames)


@pytest.mark.parametrize("degrees", ROTATIONS)
def test_a_rotated_clip_is_seen_upright_as_a_player_shows_it(clips, limits, degrees):
    path = rotate(film(clips / f"turn{degrees}.mp4", size="160x90"), degrees)
    info, frames = decode(path, limits, rgb_size=(60, 60))
    assert (info.width, info.height) == ((160, 90) if degrees % 180 == 0 else (90, 160))
    assert info.rotation_deg == degrees
    h, w = frames[0].grey.shape
    assert (h, w) == grey_size(info.width, info.height)
    assert (h > w) == (degrees % 180 != 0)
    out = ffmpeg("-i", path, "-frames:v", "1", "-vf", f"scale={w}:{h}:flags=area,format=gray", "-f", "rawvideo", "-")
    player = np.frombuffer(out.stdout, np.uint8).reshape(h, w)
    assert np.abs(player.astype(int) - frames[0].grey).mean() < 4
    exact = "area+accurate_rnd+full_chroma_int+full_chroma_inp"
    out = ffmpeg("-i", path, "-frames:v", "1", "-vf", f"scale=60:60:flags={exact},format=rgb24", "-f", "rawvideo", "-")
    player = np.frombuffer(out.stdout, np.uint8).reshape(60, 60, 3)
    assert np.abs(player.astype(int) - frames[0].rgb).mean() < 6


def test_square_pixels_are_assumed_by_nobody(clips, limits):
    info, frames = decode(film(clips / "sar.mp4", "-vf", "setsar=2", size="96x96"), limits)
    assert (info.width, info.height) == (192, 96)
    assert frames[0].grey.shape == grey_size(192, 96)


def test_a_picture_that_would_be_shown_larger_than_the_limit_is_refused(clips, limits):
    with pytest.raises(InputError) as caught:
        probe(film(clips / "wide.mp4", "-vf", "setsar=16", size="640x96"), limits)
    assert caught.value.code == "picture_too_large"


@pytest.mark.parametrize(("name", "codec", "size"), [
    ("8.webm", "vp8", "128x72"), ("9.webm", "vp9", "101x67"), ("1.webm", "av1", "128x72"),
    ("m.mov", "h264", "128x72"), ("h.mp4", "hevc", "128x72"), ("odd.mov", "prores", "127x71"),
    ("odd.mp4", "mpeg4", "127x71"),
])
def test_codecs_and_odd_sizes_decode(clips, limits, name, codec, size):
    path = film(clips / f"codec_{name}", "-vf", f"scale={size},setsar=1", codec=codec, rate="25", seconds=0.6)
    info, frames = decode(path, limits)
    assert info.video_codec == codec
    assert f"{info.width}x{info.height}" == size
    assert len(frames) == info.n_frames == 15
    assert frames[-1].time_s == pytest.approx(14 / 25, abs=0.002)
    assert not info.has_audio
    assert not info.variable_frame_rate
    assert frames[0].grey.std() > 20


def test_a_late_start_counts_from_the_first_picture(clips, limits):
    path = ffmpeg_late(clips)
    info, frames = decode(path, limits)
    assert info.start_time_s == pytest.approx(0.5, abs=0.001)
    assert frames[0].time_s == 0
    assert info.duration_s == pytest.approx(1.0, abs=0.001)
    assert info.has_audio


def ffmpeg_late(clips):
    silent, path = film(clips / "punctual.mp4"), clips / "late_start.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1.5", "-itsoffset", "0.5", "-i", silent, "-map", "1:v", "-map", "0:a",
           "-c:v", "copy", path)
    return path


def test_a_cut_by_edit_list_is_respected(clips, limits):
    source, path = film(clips / "long.mp4", seconds=3), clips / "cut.mp4"
    ffmpeg("-ss", "1.3", "-i", source, "-c", "copy", path)  # keeps packets from the key frame at 1 s, hides 0.3 s
    info, frames = decode(path, limits)
    assert info.duration_s == pytest.approx(1.7, abs=0.06)
    assert frames[0].time_s == 0
    assert len(frames) == info.n_frames == round(info.duration_s * 24)


def test_damage_within_a_tenth_is_accepted_and_more_is_not(clips, limits, tmp_path):
    data = film(clips / "fast.mp4", "-movflags", "+faststart", seconds=4).read_bytes()
    (tmp_path / "most.mp4").write_bytes(data[:int(len(data) * 0.96)])
    info, frames = decode(tmp_path / "most.mp4", limits)
    assert 3.6 <= info.duration_s < 4
    assert 3.6 <= frames[-1].time_s + 1 / 24 <= 4
    (tmp_path / "less.mp4").write_bytes(data[:int(len(data) * 0.85)])
    with pytest.raises(InputError) as caught:
        decode(tmp_path / "less.mp4", limits)
    assert caught.value.code == "truncated"


def test_a_file_that_breaks_after_the_probe_is_an_input_error(clips, limits, tmp_path):
    data = bytearray(film(clips / "break.mp4", "-bf", "0", "-g", "1000", seconds=4).read_bytes())
    start = data.index(b"mdat") + 4
    middle = start + (len(data) - start) // 3
    data[middle:len(data) - 2000] = bytes(len(data) - 2000 - middle)
    (tmp_path / "broken.mp4").write_bytes(data)
    with pytest.raises(InputError) as caught:
        decode(tmp_path / "broken.mp4", limits)
    assert caught.value.code == "truncated"


@pytest.mark.parametrize(("times", "end", "suffix"), [
    ([0], 3000, ".mp4"), ([0, 4000], 10_000, ".mp4"), ([0, 4000], 10_000, ".mkv"), ([0, 4000, 4500], 10_000, ".mp4"),
    ([40 * i for i in range(50)], 4000, ".mp4"), ([40 * i for i in range(50)], 4000, ".mkv"),
])
def test_a_video_whose_last_picture_stands_long_is_whole(clips, limits, times, end, suffix):
    name = f"stands{len(times)}"
    source, path = film_of_levels(clips / f"{name}_source.mp4", times), clips / (name + suffix)
    stands = f"setts=duration=if(eq(N\\,{len(times) - 1})\\,{end - times[-1]}/1000/TB\\,DURATION)"
    ffmpeg("-i", source, "-c", "copy", "-bsf:v", stands, path)
    info, frames = decode(path, limits)
    assert info.duration_s == pytest.approx(end / 1000, abs=0.002)
    assert info.last_picture_s == pytest.approx(times[-1] / 1000, abs=0.002)
    assert [frame.time_s for frame in frames] == pytest.approx([time / 1000 for time in times], abs=0.002)
    assert [tick for frame in frames for tick in frame.rgb_ticks] == list(range(ClipSpec().n_frames(info.duration_s)))


def test_a_file_of_which_only_the_first_picture_is_left_is_not_whole(clips, limits, tmp_path):
    data = bytearray(film(clips / "first.mp4", "-bf", "0", "-g", "1000", seconds=2).read_bytes())
    with av.open(str(clips / "first.mp4")) as container:
        for packet in [packet for packet in container.demux(video=0) if packet.size][1:]:
            data[packet.pos:packet.pos + packet.size] = bytes(packet.size)
    (tmp_path / "first.mp4").write_bytes(data)
    with pytest.raises(InputError) as caught:
        decode(tmp_path / "first.mp4", limits)
    assert caught.value.code == "truncated"


def test_stop_kills_the_child_at_once(clips, limits):
    info = probe(film(clips / "stop.mp4", seconds=8, size="640x360"), limits)
    seen = []  # what came before the stop is kept: list.extend has taken it in one by one
    with pytest.raises(Canceled):
        seen.extend(decode_frames(info, limits=limits, should_stop=lambda: len(seen) >= 5))
    assert len(seen) < info.n_frames
    # `nothing_is_left_behind` sees to the child


def test_a_consumer_that_walks_away_leaves_no_child(clips, limits):
    frames = decode_frames(probe(film(clips / "leave.mp4", seconds=2), limits), limits=limits)
    next(frames)
    frames.close()


def test_the_child_dies_with_its_parent(clips, limits):
    path = film(clips / "orphan.mp4", seconds=8, size="640x360")
    code = f"""if True:
        import os
        from s2s.config import Limits
        from s2s.media.probe import probe
        from s2s.media.video import decode_frames
        limits = Limits(max_bytes=10**8, max_duration_s=60)
        frames = decode_frames(probe({str(path)!r}, limits), limits=limits)
        next(frames)
        print(open(f"/proc/self/task/{{os.getpid()}}/children").read(), flush=True)
        next(iter(int, 1))
    """
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline().split()[0])
    assert os.path.exists(f"/proc/{child}")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_child_can_open_no_file(clips, limits):
    """Its right to open files is gone, its environment holds nothing of ours, and it cannot gain privileges."""
    path = film(clips / "jail.mp4", seconds=4, size="640x360")
    info = probe(path, limits)
    os.environ["S2S_TEST_SECRET"] = "secret"
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    frames = decode_frames(info, limits=limits)
    next(frames)
    [child] = set(children.read_text().split()) - before
    proc = {name: Path(f"/proc/{child}/{name}").read_text() for name in ("limits", "status", "environ")}
    frames.close()
    del os.environ["S2S_TEST_SECRET"]
    limit = {line[:25].strip(): line[25:].split()[0] for line in proc["limits"].splitlines()}
    assert limit["Max open files"] == "0"
    assert limit["Max file size"] == "0"
    assert limit["Max core file size"] == "0"
    assert int(limit["Max address space"]) < 4 << 30
    assert int(limit["Max cpu time"]) < 600
    assert re.search(r"NoNewPrivs:\s1", proc["status"])
    assert "SECRET" not in proc["environ"]


def test_a_disguised_playlist_finds_nothing_even_past_the_gate(clips, tmp_path, limits):
    """The decode worker alone, without the gate: only the demuxer that was named, only the file that was given."""
    secret = film(clips / "secret.mp4")
    for demuxer, text in [("hls", f"#EXTM3U\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n"), ("mov", "#EXTM3U\n"),
                          ("concat", f"ffconcat version 1.0\nfile '{secret}'\n")]:
        (tmp_path / "list.mp4").write_text(text)
        source = os.open(tmp_path / "list.mp4", os.O_RDONLY)
        request = {"job": "probe", "demuxer": demuxer, "max_pixels": 10**7, "max_frames": 1000}
        with start_worker(request, source, child_limits(100, 100, 20)) as child:
            assert child.read(1) == b"X"
        os.close(source)


def test_memory_of_the_parent_does_not_grow_with_length(clips):
    limits = Limits(max_bytes=10**9, max_duration_s=600)
    path, looped = film(clips / "part.mp4", seconds=4, rate="30", size="96x54"), clips / "long_film.mp4"
    ffmpeg("-stream_loop", "24", "-i", path, "-c", "copy", looped)
    info = probe(looped, limits)
    assert info.duration_s == pytest.approx(100, abs=1)
    peaks = []
    for index, frame in enumerate(decode_frames(info, rgb_size=(64, 64), rgb_rate=RATE, limits=limits)):
        assert frame.grey.dtype == np.uint8
        if index in (300, 2900):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 4096  # KiB; all grey frames together would be 40 MB


def test_a_large_picture_costs_little_memory(clips, limits):
    path = film(clips / "large.mp4", size="4096x2160", rate="4", seconds=0.5)
    _, frames = decode(path, limits)
    assert len(frames) == 2
    assert frames[0].grey.size == pytest.approx(14_400, rel=0.05)
