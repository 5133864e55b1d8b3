"""ffmpeg is found, its own words are in the error, and it never outlives us."""

import time

import pytest

from s2s.config import Settings
from s2s.errors import ArtifactError, Canceled, ProcessingError
from s2s.media import ffmpeg

FOREVER = ["-re", "-f", "lavfi", "-i", "testsrc=d=600", "-f", "null", "-"]


@pytest.fixture
def fresh(monkeypatch):
    """`find_ffmpeg` without its memory, before and after."""
    ffmpeg.find_ffmpeg.cache_clear()
    yield monkeypatch
    ffmpeg.find_ffmpeg.cache_clear()


def test_the_setting_comes_first_then_the_system_then_pypi(fresh, tmp_path):
    for name in ("mine", "ffmpeg"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    fresh.setattr(ffmpeg, "settings", lambda: Settings(ffmpeg=str(tmp_path / "mine")))
    assert ffmpeg.find_ffmpeg() == str(tmp_path / "mine")
    ffmpeg.find_ffmpeg.cache_clear()
    fresh.setattr(ffmpeg, "settings", lambda: Settings(ffmpeg=""))
    fresh.setenv("PATH", str(tmp_path))
    assert ffmpeg.find_ffmpeg() == str(tmp_path / "ffmpeg")
    ffmpeg.find_ffmpeg.cache_clear()
    fresh.setenv("PATH", "/nowhere")
    assert "imageio_ffmpeg" in ffmpeg.find_ffmpeg()
    ffmpeg.find_ffmpeg.cache_clear()
    fresh.setattr(ffmpeg, "settings", lambda: Settings(ffmpeg="/no/such/ffmpeg"))
    with pytest.raises(ArtifactError):
        ffmpeg.find_ffmpeg()


def test_the_error_holds_what_ffmpeg_said():
    with pytest.raises(ProcessingError, match="/no/such/file"):
        ffmpeg.run_ffmpeg(["-i", "/no/such/file", "-f", "null", "-"])


def test_a_clock_and_a_stop_end_it():
    start = time.monotonic()
    with pytest.raises(ProcessingError, match=r"longer than 0\.3 s"):
        ffmpeg.run_ffmpeg(FOREVER, timeout_s=0.3)
    with pytest.raises(Canceled):
        ffmpeg.run_ffmpeg(FOREVER, should_stop=lambda: time.monotonic() > start + 0.6)
    assert time.monotonic() - start < 30


def test_it_writes_no_more_than_it_may(tmp_path):
    with pytest.raises(ProcessingError):
        ffmpeg.run_ffmpeg(["-f", "lavfi", "-i", "testsrc=d=2", "-f", "rawvideo", str(tmp_path / "big")],
                          file_bytes=100_000)
    assert (tmp_path / "big").stat().st_size <= 100_000


def test_a_talkative_child_does_not_block():
    with pytest.raises(ProcessingError) as caught:
        ffmpeg.run_ffmpeg(["-v", "trace", "-f", "lavfi", "-i", "testsrc=d=3", "-f", "null", "/dev/null", "-i", "/none"])
    assert len(caught.value.message) < 10_000
