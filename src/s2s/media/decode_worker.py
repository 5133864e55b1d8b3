"""The child process that decodes. `s2s.media.ffmpeg` starts it: `python -m s2s.media.decode_worker DESCRIPTOR REQUEST`.

It reads the one file whose descriptor it was given, through the one demuxer that the gate chose. Before it reads a byte
it gives up the right to open anything else (`sandbox`, and RLIMIT_NOFILE 0 once the container is open), so a file that
names other files, or that takes the decoder over, finds none, nor a network, nor another program. The limits on memory
and time were set before this interpreter started.

What it writes to standard output, all little-endian:
    record  = kind (1 byte), length of the JSON (uint32), JSON, then the arrays that the kind promises
    "I"     the answer to "probe": the JSON is the answer
    "F"     a frame: {time_s, ticks: [first, end]}; uint8 grey (h, w); uint8 rgb (H, W, 3) when ticks are not empty
    "A"     sound: {n}; float32 (n,)
    "E"     the end: of pictures {n_frames, last_s}, the time of the last one; of sound {n_samples}
    "X"     an InputError: {message, code, hint}
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import resource
import statistics
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction

import av
import av.sidedata.encparams
import av.sidedata.motionvectors
import av.subtitles.codeccontext
import av.subtitles.stream  # av imports these when it first needs them: too late in a sandbox
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter

from s2s.errors import InputError
from s2s.media import sandbox

VIDEO_DECODERS = {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores"}
AUDIO_DECODERS = {
    "aac", "opus", "libopus", "vorbis", "libvorbis", "mp3", "mp3float", "mp2", "mp2float", "alac", "flac", "ac3",
    "eac3", "amrnb", "amrwb", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be",
    "pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_u8", "pcm_s8", "pcm_mulaw", "pcm_alaw",
}
# Colour at full resolution: half of it sideways would make an upright clip differ from the same clip stored lying.
SCALING = Interpolation.AREA | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
GAP_S = 0.04  # sound that is later or earlier than its time stamps say by more than this is moved


def main(source: int, request: dict) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints cannot enter the protocol
    try:
        with _open(source, request) as container:
            for kind, header, arrays in JOBS[request["job"]](container, request):
                text = json.dumps(header).encode()
                out.write(struct.pack("<cI", kind, len(text)) + text)
                for array in arrays:
                    out.write(np.ascontiguousarray(array).data)
                out.flush()
    except (FFmpegError, MemoryError, InputError) as exc:
        error = exc if isinstance(exc, InputError) else _not_decodable()
        text = json.dumps({"message": error.message, "code": error.code, "hint": error.hint}).encode()
        out.write(struct.pack("<cI", b"X", len(text)) + text)
        out.flush()


def _not_decodable() -> InputError:
    return InputError("The video could not be decoded.", code="truncated",
                      hint="Copy or download it again, or convert it to MP4 (H.264).")


def _open(source: int, request: dict) -> av.container.InputContainer:
    av.logging.set_level(av.logging.PANIC)
    sandbox.enter()
    pixels = str(request["max_pixels"])
    container = av.open(
        os.fdopen(source, "rb", buffering=0), format=request["demuxer"], buffer_size=1 << 18,
        container_options={"protocol_whitelist": "none", "codec_whitelist": ",".join(VIDEO_DECODERS | AUDIO_DECODERS),
                           "max_streams": "64"},
        stream_options=[{"max_pixels": pixels, "threads": "1"}] * 64)
    for stream in container.streams.video:
        stream.codec_context.options = {"max_pixels": pixels}
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    return container


def _video(container: av.container.InputContainer, threads: int) -> av.video.stream.VideoStream:
    """The first picture track that is not a cover picture, all other tracks switched off."""
    attached = av.stream.Disposition.attached_pic
    found = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not found:
        raise InputError("The file has no video track.", code="no_video_track", hint="Send a clip with a picture.")
    stream = found[0]
    if stream.codec_context is None or stream.codec_context.name not in VIDEO_DECODERS:
        raise InputError("The picture is coded in a way that is not supported.", code="unsupported_codec",
                         hint="Convert it to MP4 (H.264) or WebM and try again.")
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = threads
    return stream


def _sounds(container: av.container.InputContainer) -> list[av.audio.stream.AudioStream]:
    """The sound tracks that can be decoded."""
    return [stream for stream in container.streams.audio
            if stream.codec_context is not None and stream.codec_context.name in AUDIO_DECODERS]


def _packets(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.Packet]:
    """Packets until the end or until the file is damaged beyond reading; the last one is the flush packet."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            packet = None
        if packet is None or packet.size == 0:
            break
        yield packet
    yield av.Packet()


def _decode(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.frame.Frame]:
    """Frames in order of presentation; packets that cannot be decoded are left out."""
    for packet in _packets(container, stream):
        try:
            yield from stream.codec_context.decode(packet if packet.size else None)
        except FFmpegError as exc:
            if isinstance(exc, MemoryError | av.error.MemoryError):
                raise


def probe(container: av.container.InputContainer, request: dict) -> Iterator[tuple]:
    stream = _video(container, threads=1)
    first, times, last_units = None, [], 0
    for packet in _packets(container, stream):
        if first is None:
            try:
                first = next(iter(stream.codec_context.decode(packet if packet.size else None)), None)
            except FFmpegError:
                first = None
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is not None and packet.size and not packet.is_discard:
            if not times or stamp >= max(times[-1], times[0]):
                last_units = packet.duration or 0
            times.append(stamp)
            if len(times) > request["max_frames"]:
                raise InputError(f"The clip holds more than {request['max_frames']} frames.", code="too_many_frames",
                                 hint="Cut a shorter piece or convert it to a lower frame rate.")
    if first is None or not times:
        raise _not_decodable()
    times.sort()
    gaps = [b - a for a, b in itertools.pairwise(times) if b > a]
    usual = statistics.median(gaps) if gaps else last_units
    step = Fraction(stream.time_base)
    duration = (times[-1] - times[0] + (last_units or Fraction(usual))) * step
    aspect = stream.sample_aspect_ratio or Fraction(1)
    # One time stamp of rounding is no variation: 1/30 s is 33 or 34 in units of a millisecond.
    varies = any(abs(gap - usual) > max(1.01, 0.1 * usual) for gap in gaps)
    yield b"I", {
        "stream_index": stream.index, "time_base": str(step), "start_units": times[0], "duration": str(duration),
        "last_s": float((times[-1] - times[0]) * step), "n_frames": len(times), "width": first.width,
        "height": first.height, "rotation": int(first.rotation) % 360,
        "pixel_aspect": str(aspect), "codec": stream.codec_context.codec.canonical_name, "variable": varies,
        "has_audio": bool(_sounds(container)), "has_alpha": stream.metadata.get("alpha_mode") == "1",
    }, ()


def frames(container: av.container.InputContainer, request: dict) -> Iterator[tuple]:
    stream = _video(container, request["threads"])
    step, rate = Fraction(stream.time_base), Fraction(request["rate"] or 0)
    duration, turns = Fraction(request["duration"]), request["rotation"] // 90
    n_ticks = request["n_ticks"]
    paint_grey, paint_rgb = _Painter(request["grey"], "gray8", turns), _Painter(request["rgb"], "rgb24", turns)
    count, tick, held, held_at = 0, 0, None, Fraction(-1)

    def record(frame: av.VideoFrame, at: Fraction, until: int) -> tuple:
        nonlocal tick
        ticks, tick = [tick, max(tick, until)], max(tick, until)
        arrays = [paint_grey(frame)]
        if ticks[1] > ticks[0]:
            arrays.append(paint_rgb(frame))
        return b"F", {"time_s": float(at), "ticks": ticks}, arrays

    for frame in _decode(container, stream):
        if frame.width * frame.height > request["max_pixels"]:
            raise InputError(f"The picture grows to {frame.width} x {frame.height} pixels.", code="picture_too_large",
                             hint="Scale it down and try again.")
        if frame.pts is None:
            continue
        at = max(Fraction(0), (frame.pts - request["start_units"]) * step)
        if at <= held_at or at >= duration + 1:
            continue  # a repeated or impossible time stamp
        if held is not None:
            yield record(held, held_at, min(n_ticks, math.ceil(at * rate)))
        held, held_at = frame, at
        count += 1
        if count > request["max_frames"]:
            raise InputError(f"The clip holds more than {request['max_frames']} frames.", code="too_many_frames",
                             hint="Cut a shorter piece or convert it to a lower frame rate.")
    if held is None:
        raise _not_decodable()
    yield record(held, held_at, n_ticks)
    yield b"E", {"n_frames": count, "last_s": float(held_at)}, ()


class _Painter:
    """Scales frames to one size and format with libswscale, before any conversion of colour, and turns them upright."""

    def __init__(self, size: list[int] | None, pixel_format: str, turns: int):
        self.size, self.format, self.turns = size, pixel_format, turns
        self.scaler = VideoReformatter()  # keeps its tables from frame to frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 (h, w) or (h, w, 3), upright."""
        height, width = self.size if self.turns % 2 == 0 else self.size[::-1]
        small = self.scaler.reformat(frame, width=width, height=height, format=self.format, threads=1,
                                     interpolation=SCALING)
        return np.rot90(small.to_ndarray(), self.turns)


def audio(container: av.container.InputContainer, request: dict) -> Iterator[tuple]:
    found = _sounds(container)
    if not found:
        raise InputError("The file has no sound track that can be read.", hint="Send a file with sound.")
    stream, rate = found[0], request["sample_rate"]
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    start, written, most = Fraction(request["start"]), 0, int(request["max_s"] * rate)

    for said_s, pieces in _mono(_decode(container, stream), rate):
        at = written
        if said_s is not None:
            said = round((said_s - start) * rate)
            if written == 0 or abs(said - written) > GAP_S * rate:
                at = said
        if at > most:
            break
        for samples in pieces:
            if at < written:
                samples, at = samples[written - at:], at + len(samples)
            elif at > written:
                samples, at = np.concatenate([np.zeros(at - written, "f4"), samples]), at + len(samples)
            samples = samples[:most - written]
            written += len(samples)
            if len(samples):
                yield b"A", {"n": len(samples)}, [samples.astype("<f4")]
        if written >= most:
            break
    yield b"E", {"n_samples": written}, ()


def _mono(sounds: Iterator[av.AudioFrame], rate: int) -> Iterator[tuple[Fraction | None, list[np.ndarray]]]:
    """When each frame says that it is heard, and float32 (n,) of its sound; None: what was held back of those before.

    A broadcast may go from one to two channels in the middle: each kind of frame gets a resampler of its own.
    """
    resampler, kind = None, None
    for frame in itertools.chain(sounds, [None]):
        now = frame and (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is not None and now != kind:
            yield None, [small.to_ndarray()[0] for small in resampler.resample(None)]
            resampler = None
        if frame is None:
            return
        if resampler is None:
            resampler, kind = av.AudioResampler(format="flt", layout="mono", rate=rate), now
        said_s = None if frame.pts is None else frame.pts * Fraction(frame.time_base)
        frame.pts = None  # the resampler would stretch the sound to fit
        yield said_s, [small.to_ndarray()[0] for small in resampler.resample(frame)]


JOBS = {"probe": probe, "frames": frames, "audio": audio}


if __name__ == "__main__":
    gc.freeze()
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
