"""Is this file a video that we are willing to open? Decided in pure Python before any C code sees a byte.

`check_container` walks the box or element structure of MP4/MOV (ISO 14496-12) and WebM/Matroska (RFC 9559) with a
budget for boxes, depth and memory, and refuses everything else: playlists and scripts that make a player open other
files, pictures, archives, absurd sizes. Standard library only, so the gateway needs nothing else installed for it.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from s2s.config import Limits
from s2s.errors import InputError
from s2s.wire import too_large

BOXES_PER_FRAME = 8  # looked at in one file; a live recording has one fragment a frame
MAX_INDEX_BYTES = 48 << 20  # a moov of 600 s at 120 frames/s with sound has about 3 MB
MAX_FRAGMENT_BYTES = 4 << 20  # one moof
MAX_TRACKS = 32
MAX_EDITS = 32
DURATION_SLACK_S = 0.05  # recorders stop a frame late
STILL_THERE = 0.8  # a file that lost more than a fifth of its bytes is refused without trying to decode it

CODEC_OF_SAMPLE_ENTRY = {
    b"avc1": "h264", b"avc3": "h264", b"hvc1": "hevc", b"hev1": "hevc", b"dvh1": "hevc", b"dvhe": "hevc",
    b"vp09": "vp9", b"av01": "av1", b"mp4v": "mpeg4", b"jpeg": "mjpeg", b"mjpa": "mjpeg",
    b"apcn": "prores", b"apch": "prores", b"apcs": "prores", b"apco": "prores", b"ap4h": "prores", b"ap4x": "prores",
}
CODEC_OF_CODEC_ID = {
    "V_VP8": "vp8", "V_VP9": "vp9", "V_AV1": "av1", "V_MPEG4/ISO/AVC": "h264", "V_MPEGH/ISO/HEVC": "hevc",
    "V_MPEG4/ISO/ASP": "mpeg4", "V_MPEG4/ISO/SP": "mpeg4", "V_MJPEG": "mjpeg",
}
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".webm", ".mkv"})  # of the files that a folder is searched for
PICTURE_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx ",
                  b"jp2 ", b"jpx ", b"jpm "}
VIDEO_BRAND = re.compile(rb"iso[m0-9a-z]|mp4[12]|mp71|avc1|hvc1|av01|M4[AVBP] |M4V[HP]|qt  |3g[2pers][0-9a-z]|3ge[0-9]|"
                         rb"dash|MSNV|mmp4|f4v |F4V |XAVC|cmf[cfs2]|NDS[CHMPSX]|dby1|CAEP|niko|pana", re.S)
HINT_CONVERT = "Convert it to MP4 (H.264) or WebM and try again."
HINT_SEND = "Send an MP4, MOV or WebM video."
HINT_WHOLE = "Copy or download it again, or export it again from the program that made it."
HINT_SHORTER = "Cut a shorter piece and try again."


@dataclass(frozen=True)
class Container:
    """What the structure of the file promises. The decoder may still find that the promise is not kept."""

    family: str  # "mp4" (MP4, MOV and relatives) or "webm" (WebM, Matroska)
    demuxer: str  # libavformat's name of the only demuxer that may open the file: "mov" or "matroska"
    brand: str  # "mp4", "mov", "webm" or "matroska", for people
    duration_s: float  # of the first video track as presented
    width: int  # coded pixels, before rotation
    height: int
    video_codec: str  # a value of CODEC_OF_SAMPLE_ENTRY or CODEC_OF_CODEC_ID
    n_frames: int  # samples of the video track
    has_audio: bool
    n_edits: int = 1  # pieces of the film that are shown one after the other; 1 unless an edit list says more


def check_container(path: Path | str, limits: Limits) -> Container:
    """Look at the file's structure; bounded time and memory on any input.

    Raises InputError: not_a_video, unsupported_container, unsupported_codec, no_video_track, truncated, too_long,
    too_short, picture_too_large, too_many_frames, external_reference, too_large; bad_input when there is no such file.
    """
    descriptor = open_regular(path)
    try:
        return check_descriptor(descriptor, limits)
    finally:
        os.close(descriptor)


def open_regular(path: Path | str) -> int:
    """A read-only descriptor of a regular file (never a pipe or a device, which could block)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else "the name is not valid"
        raise InputError(f"{Path(str(path)).name!r} cannot be read: {reason}.", hint="Check the name.") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{Path(str(path)).name!r} is not a file.", hint="Give the path of a video file.")
    return descriptor


def check_descriptor(descriptor: int, limits: Limits) -> Container:
    """`check_container` for a file that is already open."""
    source = _Source(descriptor)
    if source.size > limits.max_bytes:
        raise too_large(limits)
    head = source.read(0, 4096)
    family = _family(head, source.size)
    tracks, brand, whole = (_Mp4 if family == "mp4" else _WebM)(source, limits).walk(head)
    video = next((track for track in tracks if track.kind == "video"), None)
    if video is None:
        raise InputError("The file has no video track.", code="no_video_track", hint="Send a clip with a picture.")
    if video.codec is None:
        raise InputError(f"The picture is coded as {video.codec_tag}, which is not supported.",
                         code="unsupported_codec", hint=HINT_CONVERT)
    _check_track(video, limits, whole)
    return Container(family, "mov" if family == "mp4" else "matroska", brand, video.duration_s, video.width,
                     video.height, video.codec, video.n_frames, any(track.kind == "audio" for track in tracks),
                     video.n_edits)


# --- what both families share -----------------------------------------------------------------------------------------

@dataclass
class _Track:
    kind: str = "other"  # "video", "audio" or "other"
    number: int = 0
    codec: str | None = None
    codec_tag: str = "an unknown format"
    width: int = 0
    height: int = 0
    n_frames: int = 0
    n_edits: int = 1
    duration_s: float = 0.0


def _check_track(track: _Track, limits: Limits, whole: bool) -> None:
    if track.width < 1 or track.height < 1:
        raise _damaged("its picture has no size")
    if max(track.width, track.height) > limits.max_long_side_px:
        raise picture_too_large(track.width, track.height, limits)
    if track.n_frames > limits.max_frames:
        raise too_many_frames(track.n_frames, limits)
    if track.n_frames == 0:
        if not whole:
            raise truncated()
        raise InputError("The video track holds no pictures.", code="no_video_track", hint=HINT_WHOLE)
    check_duration(track.duration_s, limits)
    rate = (track.n_frames - 2) / track.duration_s
    if rate > 1.02 * limits.max_frames_per_s:
        raise InputError(f"The clip has {rate:.0f} frames a second; {limits.max_frames_per_s:g} is the limit.",
                         code="too_many_frames", hint="Convert it to a lower frame rate.")


def check_duration(duration_s: float, limits: Limits) -> None:
    """Raises InputError too_long or too_short."""
    if duration_s > limits.max_duration_s + DURATION_SLACK_S:
        raise InputError(f"The clip is {duration_s:.1f} s long; {limits.max_duration_s:g} s is the limit.",
                         code="too_long", hint=HINT_SHORTER)
    if duration_s < limits.min_duration_s - 1e-3:
        raise InputError(f"The clip is {duration_s:.2f} s long; it must be at least {limits.min_duration_s:g} s.",
                         code="too_short", hint="Send a longer clip.")


def picture_too_large(width: int, height: int, limits: Limits) -> InputError:
    return InputError(f"The picture is {width} x {height} pixels; its long side may be {limits.max_long_side_px}.",
                      code="picture_too_large", hint="Scale it down and try again.")


def too_many_frames(n_frames: int, limits: Limits) -> InputError:
    return InputError(f"The clip holds {n_frames} frames; {limits.max_frames} is the limit.", code="too_many_frames",
                      hint="Cut a shorter piece or convert it to a lower frame rate.")


def truncated(what: str = "The file is cut off: a part of the video is missing.") -> InputError:
    return InputError(what, code="truncated", hint=HINT_WHOLE)


def _damaged(what: str) -> InputError:
    return InputError(f"The file is not a video that can be read: {what}.", code="not_a_video", hint=HINT_WHOLE)


KNOWN_HEADS: list[tuple[bytes, str, str]] = [
    (rb"#EXTM3U|\[playlist\]", "a playlist that points at other files", "not_a_video"),
    (rb"ffconcat", "a script that points at other files", "not_a_video"),
    (rb"v=0\r?\n|RTSP", "a description of a network stream", "not_a_video"),
    (rb"<", "an XML or HTML text", "not_a_video"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP", "a picture", "not_a_video"),
    (rb"PK\x03\x04|PK\x05\x06|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ", "an archive", "not_a_video"),
    (rb"%PDF", "a PDF document", "not_a_video"),
    (rb"\x7fELF|MZ", "a program", "not_a_video"),
    (rb"RIFF....WAVE|ID3|\xff[\xfb\xf3\xf2\xf1\xf9]|fLaC", "a sound file", "no_video_track"),
    (rb"OggS.{24,26}(OpusHead|\x01vorbis)", "a sound file", "no_video_track"),
    (rb"RIFF....AVI ", "an AVI video", "unsupported_container"),
    (rb"OggS", "an Ogg video", "unsupported_container"),
    (rb"FLV\x01", "a Flash video", "unsupported_container"),
    (rb"0&\xb2u\x8ef\xcf\x11", "a Windows Media video", "unsupported_container"),
    (rb"\0\0\x01[\xba\xb3]|G.{187}G", "an MPEG program or transport stream", "unsupported_container"),
    (rb"\0\0\0\x01[\x67\x27\x40\x42\x46]|DKIF", "a raw video stream", "unsupported_container"),
    (rb"\.RMF", "a RealMedia video", "unsupported_container"),
]
TOP_LEVEL_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"moof", b"styp", b"sidx",
                   b"ssix", b"mfra", b"meta", b"pdin", b"emsg", b"prft", b"udta", b"PICT"}


def _family(head: bytes, size: int) -> str:
    """The family that the first bytes claim, or an InputError that names what the file is instead."""
    if size == 0:
        raise InputError("The file is empty.", code="not_a_video", hint=HINT_WHOLE)
    if head[:4] == b"\x1aE\xdf\xa3":
        return "webm"
    if len(head) >= 8 and head[4:8] in TOP_LEVEL_BOXES:
        return "mp4"
    for pattern, name, code in KNOWN_HEADS:
        if re.match(pattern, head.lstrip() if head[:1].isspace() else head, re.S):
            if code == "unsupported_container":
                raise InputError(f"The file is {name}, a kind that cannot be used here.", code=code, hint=HINT_CONVERT)
            raise InputError(f"The file is {name}, not a video.", code=code, hint=HINT_SEND)
    raise InputError("The file is not a video.", code="not_a_video", hint=HINT_SEND)


class _Source:
    """Reads at offsets from an open file, through one small window so that walking tiny boxes is cheap."""

    WINDOW = 1 << 16

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._start, self._window = 0, b""

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file."""
        if count > self.WINDOW // 4:
            return os.pread(self.descriptor, count, offset)
        at = offset - self._start
        if at < 0 or at + count > len(self._window):
            self._start, self._window, at = offset, os.pread(self.descriptor, self.WINDOW, offset), 0
        return self._window[at:at + count]


class _Budget:
    """Counts boxes; a box bomb runs out of it."""

    def __init__(self, limits: Limits):
        self.left = 20_000 + BOXES_PER_FRAME * limits.max_frames

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _damaged("it is made of too many parts")


# --- MP4, MOV ---------------------------------------------------------------------------------------------------------

@dataclass
class _Mp4Track(_Track):
    timescale: int = 0
    media_units: int = 0  # duration of all samples, in 1/timescale s
    edited_s: float = 0.0  # what the edit list presents; 0: all of it
    default_units: int = 0  # of a fragment's sample


@dataclass
class _Mp4:
    source: _Source
    limits: Limits
    tracks: list[_Mp4Track] = field(default_factory=list)
    movie_timescale: int = 0
    fragmented: bool = False

    def __post_init__(self) -> None:
        self.budget = _Budget(self.limits)

    def walk(self, head: bytes) -> tuple[list[_Mp4Track], str, bool]:
        """(tracks, brand, the file is whole)."""
        source, position = self.source, 0
        brand, whole, have_moov, have_data = "mov", True, False, False
        while position + 8 <= source.size:
            self.budget.spend()
            size, kind = struct.unpack(">I4s", source.read(position, 8))
            header = 8
            if size == 1:
                wide = source.read(position + 8, 8)
                size, header = int.from_bytes(wide, "big") if len(wide) == 8 else 0, 16
            elif size == 0:
                size = source.size - position
            if not all(32 <= byte < 127 or byte == 0xA9 for byte in kind) or size < header:
                if have_moov and have_data:
                    break  # padding or rubbish after a complete file
                raise _damaged("its parts have impossible sizes")
            end = position + size
            if end > source.size:
                whole = False
                if kind in (b"moov", b"moof"):
                    if have_moov and kind == b"moof":
                        break  # the last fragment is cut off; what came before it counts
                    raise truncated()
                if kind != b"mdat" and not have_moov:
                    raise truncated()
                much_is_lost = not have_moov or source.size - position < STILL_THERE * size
                if kind == b"mdat" and much_is_lost and not self.fragmented:
                    raise truncated()
            if kind == b"ftyp":
                brand = self._brand(source.read(position + header, min(size - header, 1024)))
            elif kind == b"moov":
                if have_moov:
                    raise _damaged("it has more than one index")
                have_moov = True
                self._moov(self._load(position + header, end, MAX_INDEX_BYTES))
            elif kind == b"moof":
                if not have_moov:
                    raise _damaged("it is a fragment without its beginning")
                self._moof(self._load(position + header, end, MAX_FRAGMENT_BYTES))
            elif kind == b"mdat":
                have_data = True
            position = end
        if not have_moov:
            raise truncated("The file has no index (moov): it was cut off, or its recording was never finished.")
        for track in self.tracks:
            self._finish(track)
        return self.tracks, brand, whole

    def _load(self, start: int, end: int, limit: int) -> bytes:
        if end - start > limit:
            raise _damaged("its index is absurdly large")
        return self.source.read(start, end - start)

    @staticmethod
    def _brand(body: bytes) -> str:
        brands = [body[:4], *(body[at:at + 4] for at in range(8, len(body) - 3, 4))]
        if brands[0] in PICTURE_BRANDS:
            raise InputError("The file is a picture, not a video.", code="not_a_video", hint=HINT_SEND)
        if not any(VIDEO_BRAND.fullmatch(brand) for brand in brands):
            raise InputError("The file is of a kind of MP4 that is not supported.", code="unsupported_container",
                             hint=HINT_CONVERT)
        return "mov" if brands[0] == b"qt  " else "mp4"

    def _boxes(self, data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
        """(type, start and end of the body) of each box in `data[start:end]`."""
        end = len(data) if end is None else end
        while start + 8 <= end:
            self.budget.spend()
            size, kind = struct.unpack_from(">I4s", data, start)
            header = 8
            if size == 1 and start + 16 <= end:
                size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
            elif size == 0:
                if kind == b"\0\0\0\0":
                    return  # QuickTime ends lists of boxes with four zero bytes
                size = end - start
            if size < header or start + size > end:
                raise _damaged("its parts do not fit into each other")
            yield kind, start + header, start + size
            start += size

    def _moov(self, data: bytes) -> None:
        top = list(self._boxes(data))
        kinds = {kind for kind, _, _ in top}
        if kinds & {b"rmra", b"rmda"}:
            raise external_reference()
        if b"cmov" in kinds:
            raise InputError("The index of the file is compressed, which is not supported.",
                             code="unsupported_container", hint=HINT_CONVERT)
        self.fragmented = b"mvex" in kinds
        for kind, start, end in top:
            if kind == b"mvhd":
                self.movie_timescale = self._header(data, start, end)[0]
        for kind, start, end in top:
            if kind == b"trak":
                if len(self.tracks) == MAX_TRACKS:
                    raise _damaged("it has too many tracks")
                self.tracks.append(self._trak(data, start, end))
        for kind, start, end in top:
            if kind == b"mvex":
                for inner, at, stop in self._boxes(data, start, end):
                    if inner == b"trex" and stop - at >= 24:
                        number, _, units = struct.unpack_from(">III", data, at + 4)
                        for track in self.tracks:
                            if track.number == number:
                                track.default_units = units

    @staticmethod
    def _header(data: bytes, start: int, end: int) -> tuple[int, int]:
        """(timescale, duration) of a mvhd or mdhd box."""
        version = data[start] if end > start else 0
        need, at, code = (32, 20, ">IQ") if version == 1 else (20, 12, ">II")
        if end - start < need:
            raise _damaged("a header is too short")
        return struct.unpack_from(code, data, start + at)

    def _trak(self, data: bytes, start: int, end: int) -> _Mp4Track:
        track = _Mp4Track()
        boxes = {}
        for kind, at, stop in self._boxes(data, start, end):
            boxes.setdefault(kind, (at, stop))
        if b"tkhd" in boxes:
            at, stop = boxes[b"tkhd"]
            offset = 20 if data[at:at + 1] == b"\1" else 12
            if stop - at < offset + 4:
                raise _damaged("a header is too short")
            track.number = struct.unpack_from(">I", data, at + offset)[0]
        if b"edts" in boxes:
            for kind, at, stop in self._boxes(data, *boxes[b"edts"]):
                if kind == b"elst":
                    track.edited_s, track.n_edits = self._edits(data, at, stop)
        if b"mdia" not in boxes:
            return track
        media: dict[bytes, tuple[int, int]] = {}
        for kind, at, stop in self._boxes(data, *boxes[b"mdia"]):
            media.setdefault(kind, (at, stop))
        if b"hdlr" in media:
            at, stop = media[b"hdlr"]
            track.kind = {b"vide": "video", b"soun": "audio"}.get(data[at + 8:min(at + 12, stop)], "other")
        if b"mdhd" in media:
            track.timescale, track.media_units = self._header(data, *media[b"mdhd"])
        if b"minf" in media:
            for kind, at, stop in self._boxes(data, *media[b"minf"]):
                if kind == b"dinf":
                    self._data_references(data, at, stop)
                elif kind == b"stbl":
                    self._sample_table(track, data, at, stop)
        return track

    def _edits(self, data: bytes, start: int, end: int) -> tuple[float, int]:
        """Seconds that the edit list presents, and in how many pieces; empty edits (a late start) do not count."""
        if end - start < 8:
            raise _damaged("an edit list is too short")
        version, count = data[start], struct.unpack_from(">I", data, start + 4)[0]
        code = struct.Struct(">Qq4x" if version == 1 else ">Ii4x")
        if count > MAX_EDITS:
            raise InputError("The clip is made of too many edits.", code="unsupported_container",
                             hint="Export it as one piece.")
        if start + 8 + count * code.size > end:
            raise _damaged("an edit list is too short")
        shown = [units for units, media_time in code.iter_unpack(data[start + 8:start + 8 + count * code.size])
                 if media_time >= 0]
        pieces = max(1, sum(units > 0 for units in shown))
        return sum(shown) / self.movie_timescale if self.movie_timescale else 0.0, pieces

    def _data_references(self, data: bytes, start: int, end: int) -> None:
        for kind, at, stop in self._boxes(data, start, end):
            if kind != b"dref":
                continue
            for entry, inner, inner_end in self._boxes(data, at + 8, stop):
                within = inner_end - inner >= 4 and data[inner + 3] & 1
                if not within and (entry != b"url " or data[inner + 4:inner_end].strip(b"\0")):
                    raise external_reference()

    def _sample_table(self, track: _Mp4Track, data: bytes, start: int, end: int) -> None:
        for kind, at, stop in self._boxes(data, start, end):
            if kind == b"stsd":
                self._sample_entry(track, data, at, stop)
            elif kind in (b"stsz", b"stz2"):
                if stop - at < 12:
                    raise _damaged("its sample table is too short")
                each, count = struct.unpack_from(">II", data, at + 4)
                bits = 0 if kind == b"stsz" and each else 32 if kind == b"stsz" else each & 0xFF
                if (bits and count * bits // 8 > stop - at) or (not bits and count * each > 2 * self.source.size):
                    raise _damaged("its sample table promises more than the file holds")
                track.n_frames = count
            elif kind == b"stts" and track.kind == "video":
                count = struct.unpack_from(">I", data, at + 4)[0] if stop - at >= 8 else 0
                if at + 8 + 8 * count > stop or count > self.limits.max_frames:
                    raise _damaged("its time table promises more than the file holds")
                total = sum(n * units for n, units in struct.iter_unpack(">II", data[at + 8:at + 8 + 8 * count]))
                track.media_units = total or track.media_units

    def _sample_entry(self, track: _Mp4Track, data: bytes, start: int, end: int) -> None:
        for index, (kind, at, stop) in enumerate(self._boxes(data, start + 8, end)):
            if index >= 16:
                raise _damaged("it has too many sample descriptions")
            if track.kind != "video":
                continue
            codec = CODEC_OF_SAMPLE_ENTRY.get(kind)
            if index == 0:
                track.codec = codec
            if codec is None or codec != track.codec:  # of several descriptions, all must be of the one codec
                track.codec = None
                track.codec_tag = "encrypted" if kind == b"encv" else ascii(kind.decode("latin-1").strip())
            if stop - at < 28:
                raise _damaged("its picture has no description")
            width, height = struct.unpack_from(">HH", data, at + 24)
            track.width, track.height = max(track.width, width), max(track.height, height)

    def _moof(self, data: bytes) -> None:
        for kind, start, end in self._boxes(data):
            if kind != b"traf":
                continue
            track, units = None, 0  # whose samples, and how long one of them lasts
            for inner, at, stop in self._boxes(data, start, end):
                if inner == b"tfhd" and stop - at >= 8:
                    flags, number = struct.unpack_from(">II", data, at)
                    track = next((t for t in self.tracks if t.number == number), None)
                    skip = 8 + 8 * bool(flags & 1) + 4 * bool(flags & 2)
                    units = track.default_units if track else 0
                    if flags & 8 and stop - at >= skip + 4:
                        units = struct.unpack_from(">I", data, at + skip)[0]
                elif inner == b"trun" and track is not None and stop - at >= 8:
                    self._run(track, data, at, stop, units)

    def _run(self, track: _Mp4Track, data: bytes, start: int, end: int, units: int) -> None:
        flags, count = struct.unpack_from(">II", data, start)
        start += 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4)
        width = 4 * (flags & 0xF00).bit_count()
        track.n_frames += count
        most = self.limits.max_frames if track.kind == "video" else 10 * self.limits.max_frames + 1000
        if track.n_frames > most:
            raise too_many_frames(track.n_frames, self.limits)
        if start + count * width > end:
            raise _damaged("a fragment promises more than it holds")
        if flags & 0x100:
            track.media_units += sum(struct.unpack_from(">I", data, start + i * width)[0] for i in range(count))
        else:
            track.media_units += count * units

    def _finish(self, track: _Mp4Track) -> None:
        if track.kind != "video":
            return
        if max(track.width, track.height) > self.limits.max_long_side_px:  # of any picture track: players open them all
            raise picture_too_large(track.width, track.height, self.limits)
        media_s = track.media_units / track.timescale if track.timescale else 0.0
        track.duration_s = min(media_s, track.edited_s) if track.edited_s and not self.fragmented else media_s


def external_reference() -> InputError:
    return InputError("The file keeps its picture or sound in another file.", code="external_reference",
                      hint="Export it as one self-contained file.")


# --- WebM, Matroska ---------------------------------------------------------------------------------------------------

EBML, SEGMENT, INFO, TRACKS, CLUSTER, BLOCK_GROUP = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675, 0xA0
TIMESTAMP, SIMPLE_BLOCK, BLOCK = 0xE7, 0xA3, 0xA1
MASTERS = {0xE0, 0x6D80, 0x6240, 0x5034}  # Video, ContentEncodings, ContentEncoding, ContentCompression


@dataclass
class _WebMTrack(_Track):
    default_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0


@dataclass
class _WebM:
    source: _Source
    limits: Limits
    tracks: dict[int, _WebMTrack] = field(default_factory=dict)
    scale_s: float = 1e-3
    promised_s: float = 0.0

    def __post_init__(self) -> None:
        self.budget = _Budget(self.limits)

    def walk(self, head: bytes) -> tuple[list[_WebMTrack], str, bool]:
        """(tracks, brand, the file is whole). Flat: a master element is entered, so unknown sizes need no care."""
        brand, seen, cluster_s, whole = "", set(), 0.0, True
        position = 0
        while position < self.source.size:
            self.budget.spend()
            element, body, size = self._element(self.source.read(position, 12), position)
            if element is None:
                if TRACKS not in seen:
                    raise _damaged("its parts have impossible sizes")
                whole = False  # rubbish after clusters: what came before it counts
                break
            if element in (SEGMENT, CLUSTER, BLOCK_GROUP):
                if element == SEGMENT and SEGMENT in seen:
                    raise _damaged("it has more than one beginning")
                whole = whole and (size is None or body + size <= self.source.size)
                seen.add(element)
                position = body
                continue
            if size is None:
                raise _damaged("a part has no size")
            end = body + size
            if end > self.source.size:
                whole = False
                if element not in (SIMPLE_BLOCK, BLOCK) and CLUSTER not in seen:
                    raise truncated()
                break
            if element in (EBML, INFO, TRACKS):
                if element in seen or size > MAX_FRAGMENT_BYTES:
                    raise _damaged("its header is repeated or absurdly large")
                seen.add(element)
                data = self.source.read(body, size)
                if element == EBML:
                    brand = self._doctype(data)
                elif element == INFO:
                    self._info(data)
                else:
                    self._tracks(data)
            elif element == TIMESTAMP:
                cluster_s = int.from_bytes(self.source.read(body, min(size, 8)), "big") * self.scale_s
            elif element in (SIMPLE_BLOCK, BLOCK):
                self._block(self.source.read(body, min(size, 16)), cluster_s)
            elif size > MAX_INDEX_BYTES:
                raise _damaged("a part is absurdly large")
            position = end
        if TRACKS not in seen:
            raise truncated()
        return self._finish(whole), brand, whole

    @staticmethod
    def _element(data: bytes, position: int) -> tuple[int | None, int, int | None]:
        """(id, where the body starts, size of the body); size None: unknown; id None: not an element."""
        if not data or data[0] < 0x10:
            return None, position, None
        id_length = 9 - data[0].bit_length()
        at = id_length
        if at >= len(data) or data[at] == 0:
            return None, position, None
        size_length = 9 - data[at].bit_length()
        if at + size_length > len(data):
            return None, position, None
        mask = (1 << (7 * size_length)) - 1
        size = int.from_bytes(data[at:at + size_length], "big") & mask
        return int.from_bytes(data[:id_length], "big"), position + at + size_length, None if size == mask else size

    def _fields(self, data: bytes, depth: int = 0) -> Iterator[tuple[int, bytes]]:
        """(id, body) of the elements in `data`; masters are entered and also yielded, before their children."""
        position = 0
        while position < len(data):
            self.budget.spend()
            element, body, size = self._element(data[position:position + 12], position)
            if element is None or size is None or body + size > len(data):
                raise _damaged("its parts do not fit into each other")
            yield element, data[body:body + size]
            if element in MASTERS and depth < 6:
                yield from self._fields(data[body:body + size], depth + 1)
            position = body + size

    def _doctype(self, data: bytes) -> str:
        fields = dict(self._fields(data))
        doctype = fields.get(0x4282, b"").rstrip(b"\0")
        if doctype not in (b"webm", b"matroska"):
            raise InputError("The file is neither WebM nor Matroska.", code="unsupported_container", hint=HINT_CONVERT)
        if _uint(fields.get(0x42F2, b"\4")) > 4 or _uint(fields.get(0x42F3, b"\x08")) > 8:
            raise _damaged("its parts have impossible sizes")
        return doctype.decode()

    def _info(self, data: bytes) -> None:
        fields = dict(self._fields(data))
        scale = _uint(fields.get(0x2AD7B1, b"")) or 1_000_000
        self.scale_s = scale / 1e9
        self.promised_s = _float(fields.get(0x4489, b"")) * self.scale_s

    def _tracks(self, data: bytes) -> None:
        for element, body in self._fields(data):
            if element != 0xAE:
                continue
            if len(self.tracks) == MAX_TRACKS:
                raise _damaged("it has too many tracks")
            fields: dict[int, bytes] = {}
            algorithms = []
            for inner, value in self._fields(body):
                fields.setdefault(inner, value)
                if inner == 0x4254:
                    algorithms.append(_uint(value))
                elif inner == 0x5034 and 0x4254 not in dict(self._fields(value)):
                    algorithms.append(0)  # the default is zlib
            number = _uint(fields.get(0xD7, b""))
            track = _WebMTrack({1: "video", 2: "audio"}.get(_uint(fields.get(0x83, b"")), "other"), number)
            name = fields.get(0x86, b"").rstrip(b"\0").decode("latin-1")
            track.codec, track.codec_tag = CODEC_OF_CODEC_ID.get(name), ascii(name[:32])
            track.width, track.height = _uint(fields.get(0xB0, b"")), _uint(fields.get(0xBA, b""))
            track.default_s = _uint(fields.get(0x23E383, b"")) / 1e9
            if track.kind == "video":
                if 0x5035 in fields or any(algorithm != 3 for algorithm in algorithms):
                    track.codec, track.codec_tag = None, "encrypted or compressed"
                if max(track.width, track.height) > self.limits.max_long_side_px:
                    raise picture_too_large(track.width, track.height, self.limits)
            self.tracks.setdefault(number, track)

    def _block(self, head: bytes, cluster_s: float) -> None:
        if not head or head[0] == 0:
            return
        length = 9 - head[0].bit_length()
        if length + 4 > len(head):
            return
        track = self.tracks.get(int.from_bytes(head[:length], "big") & ((1 << (7 * length)) - 1))
        if track is None:
            return
        time_s = cluster_s + int.from_bytes(head[length:length + 2], "big", signed=True) * self.scale_s
        track.first_s = min(track.first_s, time_s) if track.n_frames else time_s
        track.last_s = max(track.last_s, time_s)
        track.n_frames += head[length + 3] + 1 if head[length + 2] & 0x06 else 1  # lacing: several frames in one block
        if track.kind == "video" and track.n_frames > self.limits.max_frames:
            raise too_many_frames(track.n_frames, self.limits)

    def _finish(self, whole: bool) -> list[_WebMTrack]:
        seen_s = 0.0
        for track in self.tracks.values():
            span = track.last_s - track.first_s
            one = track.default_s or (span / (track.n_frames - 1) if track.n_frames > 1 else 0.0)
            track.duration_s = span + one if track.n_frames else 0.0
            seen_s = max(seen_s, track.last_s)
        if not whole and self.promised_s:
            if seen_s < STILL_THERE * self.promised_s:
                raise truncated()
            for track in self.tracks.values():
                track.duration_s = max(track.duration_s, self.promised_s - track.first_s)
        return list(self.tracks.values())


def _uint(data: bytes) -> int:
    return int.from_bytes(data[:8], "big")


def _float(data: bytes) -> float:
    value = struct.unpack(">f" if len(data) == 4 else ">d", data)[0] if len(data) in (4, 8) else 0.0
    return value if 0 <= value < 1e15 else 0.0
