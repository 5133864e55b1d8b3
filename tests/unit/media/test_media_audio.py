"""Sound is read where it is heard, and leaves safe to play."""

import importlib
import time
import tracemalloc
import wave

import numpy as np
import pytest

from clips import click_near, clicks, ffmpeg, film
from s2s.errors import InputError
from s2s.media.audio import CEILING, finish, limit_peaks, mix, read_audio, write_wav
from s2s.media.probe import probe

RATE = 22_050


def with_clicks(clips, name, *coder, seconds=2.0, times=(0.2, 0.9, 1.7), video=()):
    """A film whose sound has clicks at `times`, muxed by ffmpeg itself."""
    write_wav(clips / "clicks.wav", clicks(times, seconds, 48_000), 48_000)
    path = clips / name
    codec = {".webm": "vp8", ".mkv": "vp8"}.get(path.suffix, "h264")
    silent = film(clips / f"silent_{name}", codec=codec, seconds=seconds)
    ffmpeg(*video, "-i", silent, "-i", clips / "clicks.wav", "-map", "0:v", "-map", "1:a", "-c:v", "copy", *coder, path)
    return path


@pytest.mark.parametrize(("name", "coder"), [
    ("aac.mp4", ["-c:a", "aac"]), ("opus.webm", ["-c:a", "libopus"]), ("pcm.mov", ["-c:a", "pcm_s16le"]),
    ("mp3.mp4", ["-c:a", "libmp3lame"]), ("vorbis.webm", ["-c:a", "libvorbis"]),
    ("stereo.mp4", ["-c:a", "aac", "-ac", "2"]),
])
def test_a_sound_is_read_at_its_true_time(clips, limits, name, coder):
    path = with_clicks(clips, name, *coder)
    info = probe(path, limits)
    assert info.has_audio
    sound = read_audio(path, RATE, limits, info)
    assert (sound.dtype, sound.shape) == (np.float32, (round(info.duration_s * RATE),))
    for time_s in (0.2, 0.9, 1.7):
        assert click_near(sound, time_s, RATE) == pytest.approx(time_s, abs=0.004)
    free = read_audio(path, RATE, limits)
    assert len(free) == pytest.approx(2 * RATE, abs=0.08 * RATE)


def test_a_sound_that_goes_from_mono_to_stereo_in_the_middle_is_read_on(clips, limits, tmp_path):
    halves = []
    for channels, at in ((1, 0.4), (2, 0.6)):
        write_wav(tmp_path / "one.wav", clicks([at], 1.024, RATE), RATE)
        halves.append(tmp_path / f"{channels}.aac")
        ffmpeg("-i", tmp_path / "one.wav", "-ac", str(channels), "-ar", "44100", "-c:a", "aac", halves[-1])
    (tmp_path / "both.aac").write_bytes(b"".join(half.read_bytes() for half in halves))
    ffmpeg("-i", film(clips / "two_seconds.mp4", seconds=2), "-i", tmp_path / "both.aac", "-map", "0:v", "-map", "1:a",
           "-c", "copy", tmp_path / "change.mkv")
    sound = read_audio(tmp_path / "change.mkv", RATE, limits)
    assert len(sound) == pytest.approx(2.1 * RATE, abs=0.1 * RATE)
    first, second = (click_near(sound, time_s, RATE) for time_s in (0.4, 1.65))
    assert first == pytest.approx(0.4, abs=0.06)  # AAC of its own holds 1,024 or 2,048 samples before its first
    assert second == pytest.approx(1.65, abs=0.1)


def test_a_sound_is_counted_from_the_first_picture(clips, limits):
    path = with_clicks(clips, "late_picture.mp4", "-c:a", "aac", video=["-itsoffset", "0.5"])
    info = probe(path, limits)
    assert info.start_time_s == pytest.approx(0.5, abs=0.002)
    sound = read_audio(path, RATE, limits, info)
    assert click_near(sound, 0.4, RATE) == pytest.approx(0.4, abs=0.004)  # at 0.9 s of the file


def test_a_wav_file_can_be_read_and_written(tmp_path, limits):
    sound = np.sin(np.arange(3 * RATE) / 20).astype(np.float32) * 0.5
    write_wav(tmp_path / "a.wav", sound, RATE)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, RATE, 3 * RATE)
    assert read_audio(tmp_path / "a.wav", RATE, limits) == pytest.approx(sound, abs=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_clip_without_sound_says_so(clips, limits):
    with pytest.raises(InputError, match="no sound track"):
        read_audio(film(clips / "mute.mp4"), RATE, limits)


def test_finish_gives_exactly_the_samples_asked_for():
    sound = np.ones(1000, np.float32)
    for n in (0, 1, 2, 999, 1000, 1001, 5000):
        assert finish(sound, n, RATE).shape == (n,)
    assert finish(np.zeros(0, np.float32), 100, RATE).shape == (100,)


def test_finish_removes_a_constant_and_keeps_a_tone():
    tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(RATE * 2) / RATE).astype(np.float32)
    done = finish(tone + np.float32(0.3), len(tone), RATE)
    middle = slice(RATE // 2, RATE)
    assert abs(done[middle].mean()) < 1e-3
    assert done[middle].std() == pytest.approx(tone[middle].std(), rel=0.01)


def test_finish_never_clips_whatever_comes_in():
    rng = np.random.default_rng(0)
    for loud in (rng.normal(0, 3, 70_000), 10 * clicks([0.5, 1.0], 3, RATE), np.sign(np.sin(np.arange(70_000) / 3)) * 2,
                 np.full(9000, np.nan), np.full(9000, np.inf)):
        done = finish(loud.astype(np.float32), len(loud), RATE, gain_db=12)
        assert np.isfinite(done).all()
        assert np.abs(done).max() <= CEILING + 1e-6
        assert abs(done[0]) < 1e-6
        assert abs(done[-1]) < 1e-6


def test_peaks_between_samples_are_limited_too():
    """A tone at a quarter of the rate, sampled off its crests, is 3 dB louder than its samples."""
    scipy_signal = importlib.import_module("scipy.signal")
    tone = 1.3 * np.sin(np.pi / 2 * np.arange(20_000) + np.pi / 4).astype(np.float32)
    limit_peaks(tone, RATE)
    true = scipy_signal.resample(tone[5000:15_000], 80_000)[8000:-8000]
    assert np.abs(true).max() < 1.0


def test_quiet_sound_is_not_touched_by_the_limiter_and_loud_sound_is_not_distorted():
    quiet = (np.random.default_rng(1).normal(0, 0.05, 400_000)).astype(np.float32)
    limited = quiet.copy()
    limit_peaks(limited, RATE)
    assert np.array_equal(quiet, limited)
    tone = 2 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE).astype(np.float32)
    limit_peaks(tone, RATE)
    spectrum = np.abs(np.fft.rfft(tone[2000:2000 + RATE // 2] * np.hanning(RATE // 2)))
    elsewhere = np.delete(spectrum, np.s_[250 - 8:250 + 9])
    assert spectrum[250 - 4:250 + 5].max() > 300 * elsewhere.max()  # 500 Hz, 50 dB clean


def test_the_limiter_does_the_same_in_blocks_as_in_one_piece(monkeypatch):
    loud = np.random.default_rng(2).normal(0, 0.5, 10_000).astype(np.float32)
    whole, pieces = loud.copy(), loud.copy()
    limit_peaks(whole, RATE)
    monkeypatch.setattr("s2s.media.audio.BLOCK", 700)
    limit_peaks(pieces, RATE)
    assert pieces == pytest.approx(whole, abs=1e-6)


def test_finish_of_ten_minutes_needs_little_extra_memory_and_time():
    sound = np.random.default_rng(3).normal(0, 0.4, 600 * RATE).astype(np.float32)
    finish(sound[:1000], 1000, RATE)  # imports
    tracemalloc.start()
    start = time.process_time()
    done = finish(sound, len(sound), RATE)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < done.nbytes + 50e6
    assert seconds < 15


def test_mixing_adds_the_original_with_its_gain():
    new, old = np.full(1000, 0.1, np.float32), np.full(800, 0.4, np.float32)
    assert mix(new, old, 0.5, RATE)[:800] == pytest.approx(0.3)
    assert mix(new, old, 0.5, RATE)[800:] == pytest.approx(0.1)
    assert np.abs(mix(new, 10 * old, 1.0, RATE)).max() <= CEILING + 1e-6
