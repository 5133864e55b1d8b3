"""What is made from a result on demand: its sound as WAV, peaks to draw, a spectrogram, a version that plays anywhere.

All functions block and are to be called in a thread. ffmpeg is told the demuxer and opens nothing but the file. It
works beside the gateway in the same container: of 768 MiB the gateway takes 250.
Raises ProcessingError when ffmpeg fails.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from s2s.config import Limits
from s2s.errors import InputError, ProcessingError
from s2s.media.ffmpeg import run_ffmpeg
from s2s.media.gate import check_container
from s2s.media.mux import playable_picture, reencode_s

DEMUXER = {"mp4": "mov", "webm": "matroska"}
PLAIN = [
    "-map_metadata",
    "-1",
    "-map_chapters",
    "-1",
    "-fflags",
    "+bitexact",
    "-flags:v",
    "+bitexact",
    "-flags:a",
    "+bitexact",
]
COPY_PIXELS = 1920 * 1080  # a larger picture is scaled down to as many; in whatever shape
COPIED_PIXELS = 30_000_000_000  # of all frames together: two minutes of 3840x2160 at 30 frames/s, or of 1080p at 120
COPY_MEMORY_BYTES = 900 << 20  # of address space, of which ffmpeg was seen to fill 480 MiB at most
LENIENT_PIXELS = 2_500_000  # no codec comes near that limit with pictures of so many
LEAN = ["-x264-params", "rc-lookahead=8:bframes=0:ref=1:sync-lookahead=0"]  # frames that x264 keeps
CLOCK = 90_000  # ticks a second: pictures of a changing rate are shown when they were
ANY = Limits(max_bytes=1 << 40, max_duration_s=1e6, min_duration_s=0.0, max_long_side_px=1 << 16, max_frames_per_s=1e4)
N_PEAKS = 1000
SPECTROGRAM_WIDTH, SPECTROGRAM_HEIGHT = 1200, 200
WINDOW = 1024  # samples: 46 ms at 22050 Hz
RANGE_DB = 70.0  # quieter than this under the loudest is black
BLACK_TO_YELLOW = np.array([[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]])


def write_wav(result: Path, container: str, duration_s: float, sample_rate: int, target: Path) -> None:
    """16-bit mono WAV, exactly as long as the clip."""
    n_samples = round(duration_s * sample_rate)
    fit = f"aresample={sample_rate},apad=whole_len={n_samples},atrim=end_sample={n_samples}"
    options = ["-map", "0:a:0", "-ac", "1", "-af", fit, "-c:a", "pcm_s16le", *PLAIN, "-f", "wav"]
    _convert(result, DEMUXER[container], options, target)


def write_h264(result: Path, container: str, target: Path) -> None:
    """H.264 with 8 bits and 4:2:0, and AAC: what phones, browsers and editors play. A copy to play, so a picture larger
    than 1080p is scaled down to that.

    Raises InputError no_copy where that would take too much time or memory; what a frame needs depends on the codec
    (depth of colours, frames that are kept), so that ffmpeg may find out only while it works. It would go on without
    the frames that it had no room for, hence -xerror; small pictures have room, and may be damaged a little.
    """
    clip = check_container(result, ANY)
    pixels = clip.width * clip.height
    if clip.n_frames * pixels > COPIED_PIXELS:
        raise _no_copy()
    playable, encoder = playable_picture(COPY_PIXELS)
    before = ["-threads", "1", "-max_pixels", str(2 * pixels + 65536)]
    picture = ["-map", "0:v:0", "-vf", playable, "-filter_threads", "1", *encoder, *LEAN]
    picture += ["-enc_time_base", f"1:{CLOCK}", "-video_track_timescale", str(CLOCK)]
    sound = ["-map", "0:a:0?", "-c:a", "aac", "-b:a", "96k"]
    options = [*picture, *sound, *PLAIN, "-movflags", "+faststart", "-f", "mp4"]
    lenient = pixels <= LENIENT_PIXELS
    try:
        _convert(
            result,
            DEMUXER[container],
            options,
            target,
            before if lenient else ["-xerror", *before],
            timeout_s=60 + reencode_s(clip.n_frames, pixels, COPY_PIXELS),
            memory_bytes=COPY_MEMORY_BYTES,
        )
    except ProcessingError as exc:
        if lenient:
            raise
        raise _no_copy() from exc


def _no_copy() -> InputError:
    return InputError("This clip is too large to be converted here.", code="no_copy", hint="Take the original.")


def _convert(
    source: Path, demuxer: str, options: list[str], target: Path, before: Sequence[str] = (), **limits: float
) -> None:
    given = ["-y", "-f", demuxer, *before, "-protocol_whitelist", "file", "-i", f"file:{source}"]
    run_ffmpeg([*given, *options, f"file:{target}"], **{"timeout_s": 600.0, **limits})


def write_peaks(wav: Path, target: Path) -> None:
    """{"peaks": [[lowest, highest], ...]} of equal stretches of the sound, -1 .. 1; about N_PEAKS of them."""
    sound, sample_rate = _read_wav(wav)
    per_peak = max(1, -(-len(sound) // N_PEAKS))
    padded = np.pad(sound, (0, -len(sound) % per_peak)).reshape(-1, per_peak)
    pairs = np.stack([padded.min(axis=1, initial=0), padded.max(axis=1, initial=0)], axis=1) / 32768
    told = {"version": 1, "sample_rate": sample_rate, "samples_per_peak": per_peak, "peaks": pairs.round(4).tolist()}
    target.write_text(json.dumps(told, separators=(",", ":")))


def write_spectrogram(wav: Path, target: Path) -> None:
    """PNG without axes: time to the right, exactly the clip's length; frequency upwards, on the mel scale."""
    sound, sample_rate = _read_wav(wav)
    window = np.hanning(WINDOW)
    padded = np.pad(sound.astype(np.float32) / 32768, WINDOW // 2)
    starts = ((np.arange(SPECTROGRAM_WIDTH) + 0.5) * len(sound) / SPECTROGRAM_WIDTH).astype(int)
    frames = np.stack([padded[start : start + WINDOW] for start in starts])
    bins = np.abs(np.fft.rfft(frames * window)).T  # (frequency, time)
    mels = np.linspace(_mel(30.0), _mel(sample_rate / 2), SPECTROGRAM_HEIGHT)
    at = 700 * (10 ** (mels / 2595) - 1) * WINDOW / sample_rate
    low = np.clip(at.astype(int), 0, len(bins) - 2)
    share = (at - low).clip(0, 1)[:, None]
    level = 20 * np.log10(bins[low] * (1 - share) + bins[low + 1] * share + 1e-5)
    loudest = max(float(level.max()), -40.0)  # silence stays black
    shade = np.clip(1 + (level - loudest) / RANGE_DB, 0, 1)[::-1]
    anchors = np.linspace(0, 1, len(BLACK_TO_YELLOW))
    picture = np.stack([np.interp(shade, anchors, BLACK_TO_YELLOW[:, colour]) for colour in range(3)], axis=2)
    raw = target.with_suffix(".rgb")
    raw.write_bytes(picture.round().astype(np.uint8).tobytes())
    size = f"{SPECTROGRAM_WIDTH}x{SPECTROGRAM_HEIGHT}"
    as_png = ["-frames:v", "1", "-c:v", "png", "-f", "image2", "-update", "1"]
    _convert(raw, "rawvideo", as_png, target, before=("-pixel_format", "rgb24", "-video_size", size))
    raw.unlink()


def _mel(hz: float) -> float:
    return 2595 * np.log10(1 + hz / 700)


def _read_wav(path: Path) -> tuple[np.ndarray, int]:
    """int16 (N,), Hz."""
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()
