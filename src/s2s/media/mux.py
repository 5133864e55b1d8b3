"""The picture of a file and a new sound, together in one file. The picture's packets are not touched."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

from s2s.errors import InputError
from s2s.events import ShouldStop, never_stop
from s2s.media.audio import fit_length, whole_or_not_at_all
from s2s.media.ffmpeg import run_ffmpeg
from s2s.media.probe import MediaInfo

MUXER_OF_SUFFIX = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".webm": "webm", ".mkv": "matroska"}
ISO_SUFFIXES, MATROSKA_SUFFIXES = (".mp4", ".mov", ".m4v"), (".webm", ".mkv")
WEBM_CODECS = {"vp8", "vp9", "av1"}
SOUND_CODEC = {  # muxer -> arguments; 96 kbit/s mono is transparent for what the vocoder makes
    "mp4": ["-c:a", "aac", "-b:a", "96k"], "mov": ["-c:a", "aac", "-b:a", "96k"],
    "webm": ["-c:a", "libopus", "-b:a", "96k"], "matroska": ["-c:a", "libopus", "-b:a", "96k"],
}


def playable_picture(most_pixels: int | None = None) -> tuple[str, list[str]]:
    """A filter and an encoder of ffmpeg's: H.264 with 8 bits, 4:2:0 and even sides, which players on phones and in
    browsers want. A picture of more than `most_pixels` is scaled down to as many."""
    width, height = "trunc(iw*sar/2)*2", "trunc(ih/2)*2"
    if most_pixels is not None:
        by = f"min(1,sqrt({most_pixels}/(iw*sar*ih)))"
        width, height = f"'max(2,trunc(iw*sar*{by}/2)*2)'", f"'max(2,trunc(ih*{by}/2)*2)'"
    encoder = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-threads", "2"]
    return f"scale={width}:{height},setsar=1,format=yuv420p", encoder


def reencode_s(n_frames: int, pixels: int, most_pixels: int | None = None) -> float:
    """Seconds that a slow machine may take to decode `n_frames` of `pixels` each and to encode them again."""
    encoded = min(pixels, most_pixels or pixels)
    return n_frames * (0.05 + 0.03 * pixels / 1e6 + 0.3 * encoded / 1e6)


def suffixes_for(info: MediaInfo, reencode: bool = False) -> tuple[str, ...]:
    """Suffixes of files that can hold the picture of `info`; the first is the natural one."""
    if reencode:
        return ISO_SUFFIXES
    if info.container.family == "mp4":
        return (".mov",) if info.container.video_codec == "prores" else ISO_SUFFIXES
    return MATROSKA_SUFFIXES if info.container.video_codec in WEBM_CODECS else (".mkv",)


def check_output(info: MediaInfo, output: Path | str, reencode: bool = False) -> None:
    """Call before the work. Raises InputError (bad_output) when no file of this name can hold the picture."""
    output = Path(output)
    if info.container.n_edits > 1 and not reencode:
        raise InputError("The clip is put together from several pieces of its film, which only a re-encoded picture "
                         "can show.", code="bad_output", hint="Use --reencode, or export the clip as one piece.")
    able = suffixes_for(info, reencode)
    if output.suffix.lower() not in able:
        kind = "re-encoded" if reencode else info.video_codec.upper()
        hint = f"Name it *{able[0]}" + ("." if reencode else ", or use --reencode for an MP4 that plays anywhere.")
        raise InputError(f"A {output.suffix or 'name without a suffix'} file cannot hold this {kind} picture.",
                         code="bad_output", hint=hint)
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {str(output.parent)!r}.", code="bad_output", hint="Make it first.")
    if output.is_dir():
        raise InputError(f"{str(output)!r} is a folder.", code="bad_output", hint="Give the name of a file.")
    if output.exists() and output.samefile(info.path):
        raise InputError("The result would overwrite the clip itself.", code="bad_output", hint="Choose another name.")


def add_sound(info: MediaInfo, waveform: np.ndarray, sample_rate: int, output: Path | str, *,
              reencode: bool = False, timeout_s: float | None = None, should_stop: ShouldStop = never_stop) -> None:
    """Write `output`: the video track of `info.path` and `waveform`, float32 (N,) mono, as its only sound.

    The video's packets keep their bytes and time stamps (`reencode`: H.264 and AAC that play anywhere, from time zero).
    The sound starts with the first picture and is cut or filled with silence to the video's length. Metadata, chapters
    and all other tracks are dropped. The same input gives the same bytes. The file appears whole or not at all.

    Raises InputError (bad_output), ProcessingError, Canceled.
    """
    output = Path(output).absolute()
    check_output(info, output, reencode)
    sound = fit_length(waveform, round(info.duration_s * sample_rate))
    size, pixels = info.path.stat().st_size, max(info.width * info.height, info.container.width * info.container.height)
    muxer = MUXER_OF_SUFFIX[output.suffix.lower()]
    with whole_or_not_at_all(output) as part, _as_file(sound) as samples:
        args = ["-y", "-f", info.container.demuxer, "-protocol_whitelist", "file",
                "-codec_whitelist", info.video_codec if info.video_codec != "av1" else "av1,libdav1d",
                "-max_pixels", str(2 * pixels + 65536)]
        if not reencode:
            args += ["-copyts"]
        args += ["-i", f"file:{info.path}", "-f", "f32le",
                 "-ar", str(sample_rate), "-ac", "1", "-protocol_whitelist", "file",
                 "-i", f"file:/proc/self/fd/{samples}", "-map", f"0:{info.stream_index}", "-map", "1:0"]
        if reencode:
            playable, encoder = playable_picture()
            args += ["-vf", f"setpts=PTS-STARTPTS,{playable}", *encoder, "-flags:v", "+bitexact"]
            if info.variable_frame_rate:  # the clip's own clock; the encoder's is the rate that ffmpeg guesses
                step = info.time_base
                args += ["-enc_time_base", f"{step.numerator}:{step.denominator}", "-bf", "0"]
                if muxer in ("mp4", "mov"):
                    args += ["-video_track_timescale", str(step.denominator)]
        else:
            args += ["-c:v", "copy"]
            if info.start_units:  # a filter, because -itsoffset is lost on raw samples together with -copyts
                args += ["-af", f"asetpts=PTS+{float(info.start_units * info.time_base):.9f}/TB"]
        args += [*SOUND_CODEC[muxer], "-flags:a", "+bitexact", "-fflags", "+bitexact", "-map_metadata", "-1",
                 "-map_chapters", "-1", "-dn", "-sn"]
        if muxer in ("mp4", "mov"):
            args += ["-movflags", "+faststart"]
            if not reencode:  # the same clock as before, also for the edit lists, so that no time stamp is rounded
                clock = info.time_base.denominator
                args += ["-video_track_timescale", str(clock), "-movie_timescale", str(clock * -(-1000 // clock))]
                args += ["-strict", "unofficial"]  # an MP4 then keeps what is said of Dolby Vision and of 360 degrees
        else:  # WebM or Matroska, whose picture is never encoded again
            # Opus starts 6.5 ms early; older ffmpegs would move the picture for that.
            args += ["-avoid_negative_ts", "disabled"]
            if info.has_alpha:  # a fact of the picture, which players go by
                args += ["-metadata:s:v:0", "alpha_mode=1"]
        wall_s = 60 + size / 5e6 + info.duration_s + (reencode_s(info.n_frames, pixels) if reencode else 0)
        room = (4 if reencode else 1) * size + int(info.duration_s * 50_000) + (64 << 20)
        run_ffmpeg([*args, "-f", muxer, f"file:{part}"], timeout_s or wall_s, file_bytes=room, pass_fds=[samples],
                   should_stop=should_stop, memory_bytes=(3 << 30) + (400 * pixels if reencode else 0))
        if muxer in ("mp4", "mov") and not reencode:
            _end_picture(part, info.exact_duration)


def _end_picture(file: Path, duration: Fraction) -> None:
    """Make the edit list of a muxed MP4 or MOV show its picture for `duration` seconds (ISO 14496-12, 8.6.6).

    Where the clip was trimmed, the track holds pictures from after its end that others are decoded from; the muxer
    would show them.
    """
    with open(file, "r+b") as opened, mmap.mmap(opened.fileno(), 0) as data:
        movie = next(box for kind, *box in _boxes(data, 0, len(data)) if kind == b"moov")
        inside = list(_boxes(data, *movie))
        header = next(start for kind, start, _ in inside if kind == b"mvhd")
        long = data[header]
        clock = struct.unpack_from(">I", data, header + (20 if long else 12))[0]
        lasts = []
        for track in (box for kind, *box in inside if kind == b"trak"):
            parts = {kind: box for kind, *box in _boxes(data, *track)}
            media = {kind: box for kind, *box in _boxes(data, *parts[b"mdia"])}
            lasting = _duration_field(data, parts[b"tkhd"][0], 20, 28)
            handler = media[b"hdlr"][0] + 8
            if data[handler:handler + 4] == b"vide" and b"edts" in parts:
                edits = next(start for kind, start, _ in _boxes(data, *parts[b"edts"]) if kind == b"elst")
                units, entry_bytes = (">Q", 20) if data[edits] else (">I", 12)
                number = struct.unpack_from(">I", data, edits + 4)[0]
                places = [edits + 8 + index * entry_bytes for index in range(number)]
                late = sum(struct.unpack_from(units, data, place)[0] for place in places[:-1])  # an empty edit
                shown = round(duration * clock)
                struct.pack_into(units, data, places[-1], shown)
                struct.pack_into(*lasting, late + shown)
            lasts.append(struct.unpack_from(*lasting)[0])
        struct.pack_into(*_duration_field(data, header, 16, 24), max(lasts))


def _boxes(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each box of a file that ffmpeg wrote."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        yield kind, start + head, start + size
        start += size


def _duration_field(data: mmap.mmap, start: int, at: int, long_at: int) -> tuple[str, mmap.mmap, int]:
    """Where the header of a movie or a track says how long it lasts, for struct."""
    return (">Q", data, start + long_at) if data[start] else (">I", data, start + at)


@contextmanager
def _as_file(sound: np.ndarray) -> Iterator[int]:
    """A descriptor of an unnamed file in memory with the samples; nothing is left of it, whatever happens."""
    descriptor = os.memfd_create("sound", 0)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(np.ascontiguousarray(sound, "<f4").data)
        yield descriptor
    finally:
        os.close(descriptor)
