"""Promises of what is derived from a result: sound alone, peaks, spectrogram, words, H.264. With the real ffmpeg."""

import asyncio
import contextlib
import io
import re
import threading
import wave
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from gateway_kit import REPORT, finished, running, said, send
from tests.clips import film, film_of_levels, heard, seen

from api_service.api import derive
from s2s import wire

SECONDS = 2.0


@pytest.fixture(scope="session")
def sounding(tmp_path_factory) -> bytes:
    """Two seconds with a tone of 440 Hz, as the model server would send them."""
    return film(tmp_path_factory.mktemp("sounding") / "a.mp4", seconds=SECONDS, sound=True).read_bytes()


def made(video: bytes, container: str = "mp4", **report):
    """What the model server says when this is the result."""
    told = REPORT | {"duration_s": SECONDS} | report
    return said(*wire.chunk_lines(video), wire.done_line(told, video, container))


@pytest.fixture
async def job(gateway, model_server, clip, sounding) -> dict:
    model_server.plays = [made(sounding)]
    return await finished(gateway, await send(gateway, clip))


async def test_the_sound_alone_is_a_wav_of_the_clips_length(gateway, job):
    answer = await gateway.get(job["links"]["audio"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] in ("audio/wav", "audio/x-wav")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        assert file.getnframes() == SECONDS * 22050
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    pitch = np.argmax(np.abs(np.fft.rfft(sound))) / SECONDS
    assert pitch == pytest.approx(440, abs=2)
    part = await gateway.get(job["links"]["audio"], headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, answer.content[100:200])
    again = await gateway.get(job["links"]["audio"], headers={"If-None-Match": part.headers["etag"]})
    assert again.status_code == 304
    beyond = await gateway.get(job["links"]["audio"], headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "bad_range")


async def test_sound_that_is_shorter_than_the_clip_is_followed_by_silence(gateway, model_server, clip, sounding):
    model_server.plays = [made(sounding, duration_s=3.0)]
    job = await finished(gateway, await send(gateway, clip))
    with wave.open(io.BytesIO((await gateway.get(job["links"]["audio"])).content)) as file:
        assert file.getnframes() == 3 * 22050
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.abs(sound[: 2 * 22050]).max() > 1000
    assert np.abs(sound[int(2.2 * 22050) :]).max() == 0


async def test_peaks_are_about_a_thousand_pairs_that_follow_the_sound(gateway, job):
    told = (await gateway.get(job["links"]["peaks"])).json()
    assert told["version"] == 1
    assert told["sample_rate"] == 22050
    assert 900 <= len(told["peaks"]) <= 1000
    assert abs(len(told["peaks"]) * told["samples_per_peak"] - SECONDS * 22050) < told["samples_per_peak"]
    low, high = np.array(told["peaks"]).T
    assert (low >= -1).all()
    assert (low <= high).all()
    assert (high <= 1).all()
    assert 0.05 < np.median(high) < 0.3, "the tone's peak is 1/8"


async def test_a_spectrogram_shows_the_tone_where_it_is(gateway, job):
    answer = await gateway.get(job["links"]["spectrogram"])
    assert answer.headers["content-type"] == "image/png"
    with av.open(io.BytesIO(answer.content)) as file:
        picture = next(file.decode(video=0)).to_ndarray(format="rgb24").astype(float).sum(axis=2)
    assert picture.shape == (200, 1200)
    row = picture[:, 600].argmax()
    mel = lambda hz: 2595 * np.log10(1 + hz / 700)  # noqa: E731
    share = (mel(440) - mel(30)) / (mel(11025) - mel(30))
    assert row == pytest.approx((1 - share) * 199, abs=3), "frequency upwards"
    bright = picture[row] > 0.7 * picture.max()
    assert bright[20:-20].mean() > 0.97, "from the first to the last moment"


async def test_the_sound_is_told_in_words(gateway, model_server, clip, sounding):
    events = [
        {"time_s": 0.04, "kind": "drum", "strength": 0.2, "confidence": 0.9},
        {"time_s": 62.07, "kind": "sea_lion", "strength": 1.0, "confidence": 0.9},
    ]
    model_server.plays = [made(sounding, events=events, duration_s=70.0, notes=["A note."])]
    job = await finished(gateway, await send(gateway, clip))
    told = (await gateway.get(job["links"]["description"])).json()
    lines = ["0:00.0 drum hit, quiet", "1:02.1 sea lion, loud"]
    assert told["events"] == [{"time_s": 0.04, "text": lines[0]}, {"time_s": 62.07, "text": lines[1]}]
    assert told["text"].splitlines() == ["2 sounds in 70.0 seconds, made as drum:", *lines, "A note."]
    plain = await gateway.get(job["links"]["description"], headers={"Accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.text == told["text"] + "\n"


async def test_a_webm_can_be_had_as_h264_that_plays_anywhere(gateway, model_server, clip, tmp_path):
    webm = film(tmp_path / "a.webm", seconds=SECONDS, codec="vp8", sound=True, size="127x71").read_bytes()
    model_server.plays = [made(webm, "webm")]
    job = await finished(gateway, await send(gateway, clip))
    address = job["links"]["result"] + "?format=h264"
    first, second = await asyncio.gather(gateway.get(address), gateway.get(address))
    assert first.content == second.content
    assert first.headers["content-type"] == "video/mp4"
    assert "my%20clip-with-sound.mp4" in first.headers["content-disposition"]
    (tmp_path / "h264.mp4").write_bytes(first.content)
    with av.open(str(tmp_path / "h264.mp4")) as file:
        picture, sound = file.streams.video[0], file.streams.audio[0]
        assert (picture.codec_context.name, picture.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sound.codec_context.name == "aac"
        assert sum(1 for _ in file.decode(picture)) == 24 * SECONDS
    assert np.abs(heard(tmp_path / "h264.mp4", 22050)).max() > 0.05
    original = await gateway.get(job["links"]["result"])
    assert original.content == webm
    assert (await gateway.get(job["links"]["result"] + "?format=avi")).status_code == 422


class Memory(threading.Thread):
    """The most that a child of this process holds in RAM meanwhile, bytes."""

    def __enter__(self) -> "Memory":
        self.most, self.over = 0, threading.Event()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.02):
            for listed in Path("/proc/self/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    for child in listed.read_text().split():
                        told = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child}/status").read_text())
                        self.most = max(self.most, int(told[1]) << 10 if told else 0)


@pytest.fixture(scope="module")
def huge(tmp_path_factory) -> Path:
    """As large as an upload may be; twelve frames."""
    return film(tmp_path_factory.mktemp("huge") / "a.mp4", seconds=0.5, size="4096x4096")


def shape_of(path: Path) -> tuple[int, int, int]:
    """Width, height, frames."""
    with av.open(str(path)) as file:
        picture = file.streams.video[0]
        return picture.width, picture.height, sum(1 for _ in file.decode(picture))


def test_a_copy_of_the_largest_picture_is_made_in_the_memory_that_is_there(huge, tmp_path):
    with Memory() as memory:
        derive.write_h264(huge, "mp4", tmp_path / "copy.mp4")
    assert 100 << 20 < memory.most < 400 << 20, "768 MiB less the gateway itself"
    assert shape_of(tmp_path / "copy.mp4") == (1440, 1440, 12)


@pytest.mark.parametrize(("size", "copied"), [("320x240", (320, 240)), ("3840x960", (2880, 720)), ("64x2", (64, 2))])
def test_a_copy_keeps_its_shape_and_is_no_larger_than_it_has_to_be(tmp_path, size, copied):
    derive.write_h264(film(tmp_path / "a.mp4", size=size), "mp4", tmp_path / "copy.mp4")
    assert shape_of(tmp_path / "copy.mp4") == (*copied, 24)


@pytest.mark.parametrize("name", ["screen.mp4", "screen.mkv"])
def test_a_copy_shows_each_picture_when_it_was(tmp_path, name):
    clip = film_of_levels(tmp_path / name, [0, 40, 80, 300, 310, 333, 900, 2000])
    derive.write_h264(clip, "mp4" if name.endswith("mp4") else "webm", tmp_path / "copy.mp4")
    shown = [time_s for time_s, _ in seen(tmp_path / "copy.mp4")]
    assert shown == pytest.approx([time_s for time_s, _ in seen(clip)], abs=0.001)


@pytest.mark.parametrize(("limit", "value"), [("COPY_MEMORY_BYTES", 600 << 20), ("COPIED_PIXELS", 100_000_000)])
async def test_a_clip_that_is_too_large_to_copy_says_so_and_the_original_stays(
    config, model_server, clip, huge, monkeypatch, limit, value
):
    """Whole or not at all: ffmpeg would leave out the frames that it has no memory for."""
    monkeypatch.setattr(derive, limit, value)
    model_server.plays = [made(huge.read_bytes())]
    async with running(config.model_copy(update={"http_max_bytes": 50_000_000}), model_server) as gateway:
        job = await finished(gateway, await send(gateway, clip))
        told = await gateway.get(job["links"]["result"] + "?format=h264")
        assert (told.status_code, told.json()["code"]) == (422, "no_copy")
        assert (await gateway.get(job["links"]["result"])).content == huge.read_bytes()


async def test_copies_are_made_one_after_the_other_and_keep_nothing_else_waiting(
    gateway, model_server, clip, sounding, monkeypatch
):
    model_server.plays = [made(sounding)] * 3
    jobs = [await finished(gateway, await send(gateway, clip)) for _ in range(3)]
    at_once, most, go_on, copy = 0, 0, threading.Event(), derive.write_h264

    def write(*args: object) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        go_on.wait(20)
        copy(*args)
        at_once -= 1

    monkeypatch.setattr(derive, "write_h264", write)
    copies = [asyncio.create_task(gateway.get(job["links"]["result"] + "?format=h264")) for job in jobs]
    while not at_once:
        await asyncio.sleep(0.01)
    assert (await gateway.get(jobs[0]["links"]["peaks"])).status_code == 200
    go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*copies)] == [200] * 3
    assert most == 1


async def test_a_derived_file_is_made_once(gateway, job, monkeypatch):
    first = (await gateway.get(job["links"]["audio"])).content
    monkeypatch.setattr("api_service.api.derive.run_ffmpeg", lambda *args, **kw: pytest.fail("made again"))
    assert (await gateway.get(job["links"]["audio"])).content == first
    assert (await gateway.get(job["links"]["peaks"])).status_code == 200


async def test_a_relative_data_directory_will_do(config, model_server, clip, sounding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # S2S_DATA_DIR's default is relative
    model_server.plays = [made(sounding)]
    async with running(config.model_copy(update={"data_dir": Path("var")}), model_server) as gateway:
        job = await finished(gateway, await send(gateway, clip))
        assert (await gateway.get(job["links"]["audio"])).status_code == 200


@pytest.mark.parametrize("name", ["audio", "peaks", "spectrogram", "description", "result"])
async def test_without_a_result_there_is_nothing_to_derive(gateway, model_server, clip, name):
    model_server.go_on.clear()
    job = await send(gateway, clip)
    answer = await gateway.get(job["links"][name])
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")
    model_server.go_on.set()


async def test_deleting_a_job_deletes_what_was_derived(gateway, job, config):
    await gateway.get(job["links"]["spectrogram"])
    folder = config.data_dir / "blobs" / job["id"]
    assert {path.name for path in folder.iterdir()} == {"in", "out-1", "audio.wav", "spectrogram.png"}
    await gateway.delete(job["links"]["self"])
    assert not folder.exists()
    assert not list((config.data_dir / "scratch").iterdir())


async def test_a_result_that_cannot_be_read_is_our_fault_and_says_no_more(gateway, model_server, clip):
    rubbish = b"\0\0\0\x18ftypisom" + b"\0" * 500
    model_server.plays = [made(rubbish)]
    job = await finished(gateway, await send(gateway, clip))
    answer: httpx.Response = await gateway.get(job["links"]["audio"])
    assert (answer.status_code, answer.json()["code"]) == (500, "processing_failed")
    assert "ffmpeg" not in answer.text
