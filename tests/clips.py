"""Small real clips for tests, made by the real ffmpeg and PyAV, and readers that are not the code under test."""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from s2s.media.ffmpeg import find_ffmpeg


def ffmpeg(*args: str | Path) -> subprocess.CompletedProcess:
    done = subprocess.run([find_ffmpeg(), "-nostdin", "-v", "error", "-y", *map(str, args)], timeout=120,
                          stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done


ENCODERS = {
    "h264": ["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "24"],
    "hevc": ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1"],
    "vp8": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"],
    "vp9": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"],
    "av1": ["-c:v", "libaom-av1", "-cpu-used", "8", "-lag-in-frames", "0"],
    "mpeg4": ["-c:v", "mpeg4"], "mjpeg": ["-c:v", "mjpeg", "-strict", "unofficial"], "prores": ["-c:v", "prores_ks"],
}


def film(path: Path, *extra: str, seconds: float = 1.0, rate: str = "24", size: str = "128x72", codec: str = "h264",
         pixels: str = "yuv420p", sound: bool = False) -> Path:
    """A moving test picture; with `sound`, a 440 Hz tone."""
    tone = ["-f", "lavfi", "-i", f"sine=f=440:r=44100:d={seconds}"] if sound else []
    if path.suffix in (".webm", ".mkv"):
        coder = ["-c:a", "libopus"]
    else:
        coder = ["-c:a", "aac"]
    ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={seconds}", *tone, *ENCODERS[codec], "-threads", "1",
           "-pix_fmt", pixels if codec != "prores" else "yuv422p10le", *(coder if sound else []), *extra, path)
    return path


def film_of_levels(path: Path, times_ms: Sequence[int], size: tuple[int, int] = (64, 48)) -> Path:
    """Frame i (of at most 50) is plain grey of luma 30 + 4 i, shown at `times_ms[i]`: tells which frame was seen."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1000, options={"preset": "ultrafast", "qp": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *size, "yuv420p", Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for index, time_ms in enumerate(times_ms):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, level in zip(frame.planes, (30 + 4 * index, 128, 128), strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def level_of(grey: np.ndarray) -> int:
    """Index of the frame of `film_of_levels` that a full-range picture shows."""
    luma = grey.mean() * 219 / 255 + 16
    return round((luma - 30) / 4)


ROTATIONS = {0: (1, 0, 0, 1), 90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}  # counter-clockwise


def rotate(path: Path, degrees: int) -> Path:
    """Write a display matrix into the first track header of an MP4 or MOV file, as a phone does."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (65536 * value for value in ROTATIONS[degrees])
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def edited(source: Path, path: Path, *edits: tuple[float, float]) -> Path:
    """`source`, an MP4 of `film` with its moov at the end, showing only these pieces: (start, length) in seconds."""
    data = bytearray(source.read_bytes())
    movie, track = data.index(b"moov") - 4, data.index(b"trak") - 4
    clock, = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)
    old = data.index(b"elst")
    shift, = struct.unpack_from(">i", data, old + 16)  # of the first picture, which others are decoded before
    data[data.index(b"edts"):data.index(b"edts") + 4] = b"free"
    entries = b"".join(struct.pack(">IiI", round(1000 * length), shift + round(start * clock), 0x10000)
                       for start, length in edits)
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    end = track + struct.unpack_from(">I", data, track)[0]
    data[end:end] = edts
    for box in (movie, track):
        struct.pack_into(">I", data, box, struct.unpack_from(">I", data, box)[0] + len(edts))
    path.write_bytes(data)
    return path


def seen(path: Path) -> list[tuple[Fraction, str]]:
    """When each picture that a player shows is shown, from the first one, and a digest of it."""
    lines = ffmpeg("-i", path, "-map", "0:v:0", "-fps_mode", "passthrough",
                   "-enc_time_base", "1:90000", "-f", "framemd5", "-").stdout.decode()
    clock = Fraction(next(line for line in lines.splitlines() if line.startswith("#tb 0:")).split()[-1])
    rows = [[cell.strip() for cell in line.split(",")] for line in lines.splitlines() if not line.startswith("#")]
    return [((int(row[2]) - int(rows[0][2])) * clock, row[-1]) for row in rows]


def packets(path: Path) -> list[tuple[Fraction, Fraction | None, str]]:
    """(presentation time, decoding time, hash of the bytes) of each packet of the first video track."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        step = stream.time_base
        return [(packet.pts * step, None if packet.dts is None else packet.dts * step,
                 hashlib.sha256(bytes(packet)).hexdigest()) for packet in container.demux(stream) if packet.size]


def heard(path: Path, sample_rate: int) -> np.ndarray:
    """float32 (N,): the sound as ffmpeg's own player timing has it, from time zero of the file."""
    out = ffmpeg("-copyts", "-i", path, "-map", "0:a:0", "-af", "aresample=async=1:first_pts=0", "-ac", "1",
                 "-ar", str(sample_rate), "-f", "f32le", "-")
    return np.frombuffer(out.stdout, "<f4")


def clicks(times_s: Sequence[float], seconds: float, sample_rate: int) -> np.ndarray:
    """float32 (N,): a 2 ms click at each time."""
    sound = np.zeros(round(seconds * sample_rate), np.float32)
    for time_s in times_s:
        at = round(time_s * sample_rate)
        sound[at:at + round(0.002 * sample_rate)] = 0.7
    return sound


def click_near(sound: np.ndarray, time_s: float, sample_rate: int) -> float:
    """Time of the middle of the energy within 60 ms of `time_s`, less the half length of a click."""
    first = max(0, round((time_s - 0.06) * sample_rate))
    part = sound[first:round((time_s + 0.06) * sample_rate)].astype(np.float64) ** 2
    return float((part * np.arange(len(part))).sum() / part.sum() + first) / sample_rate - 0.001
