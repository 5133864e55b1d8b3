"""Files that want to harm whoever opens them, each with the codes of the errors that may meet it."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from clips import ffmpeg, film, film_of_levels


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


FTYP = box(b"ftyp", b"isom\0\0\2\0isommp41")


def vint(size: int, length: int = 8) -> bytes:
    return (size | 1 << (7 * length)).to_bytes(length, "big")


def element(code: int, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return code.to_bytes(-(-code.bit_length() // 8), "big") + vint(len(body)) + body


def mp4(*, n_frames: int = 24, timescale: int = 24, delta: int = 1, width: int = 64, height: int = 48,
        entry: bytes = b"avc1", handler: bytes = b"vide", dref: bytes | None = None, edits: bytes = b"",
        stsz: bytes | None = None, stts: bytes | None = None, extra: bytes = b"", mdat: int = 4096) -> bytes:
    """A well-formed index over a picture of rubbish; single fields can be made absurd."""
    describe = box(entry, bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", width, height) + bytes(50))
    table = box(
        b"stbl", box(b"stsd", bytes(4) + struct.pack(">I", 1) + describe),
        stts if stts is not None else box(b"stts", bytes(4), struct.pack(">III", 1, n_frames, delta)),
        stsz if stsz is not None else box(b"stsz", bytes(4), struct.pack(">II", 0, n_frames), bytes(4 * n_frames)),
        box(b"stsc", bytes(4), struct.pack(">IIII", 1, 1, n_frames, 1)),
        box(b"stco", bytes(4), struct.pack(">II", 1, 48)))
    reference = dref if dref is not None else box(b"url ", b"\0\0\0\1")
    media = box(
        b"mdia", box(b"mdhd", bytes(12), struct.pack(">II", timescale, n_frames * delta), bytes(4)),
        box(b"hdlr", bytes(8), handler, bytes(13)),
        box(b"minf", box(b"vmhd", bytes(12)), box(b"dinf", box(b"dref", struct.pack(">II", 0, 1), reference)), table))
    track = box(b"trak", box(b"tkhd", bytes(12) + struct.pack(">I", 1) + bytes(68)), edits, media)
    movie = box(b"mvhd", bytes(12), struct.pack(">II", 1000, 1000), bytes(80))
    return FTYP + box(b"mdat", bytes(mdat)) + box(b"moov", movie, track, extra)


def edit_list(*entries: tuple[int, int]) -> bytes:
    return box(b"edts", box(b"elst", bytes(4) + struct.pack(">I", len(entries)),
                            *(struct.pack(">IiI", units, at, 65536) for units, at in entries)))


def webm(*, doctype: bytes = b"webm", codec: bytes = b"V_VP9", width: int = 64, height: int = 48, n_frames: int = 24,
         track_extra: bytes = b"", step_ms: int = 40) -> bytes:
    blocks = b"".join(element(0xA3, b"\x81" + struct.pack(">h", i % 800 * step_ms) + b"\x80" + bytes(8)) if i % 800 else
                      element(0xE7, struct.pack(">Q", i * step_ms)) + element(0xA3, b"\x81\0\0\x80" + bytes(8))
                      for i in range(n_frames))
    picture = element(0xE0, element(0xB0, struct.pack(">H", width)), element(0xBA, struct.pack(">H", height)))
    track = element(0xAE, element(0xD7, b"\1"), element(0x83, b"\1"), element(0x86, codec), picture, track_extra)
    return (element(0x1A45DFA3, element(0x4282, doctype)) +
            element(0x18538067, element(0x1549A966, element(0x2AD7B1, b"\x0f\x42\x40")), element(0x1654AE6B, track),
                    element(0x1F43B675, blocks)))


@dataclass(frozen=True)
class Hostile:
    path: Path
    codes: frozenset[str]  # any of these is a right answer


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("clip.mp4", b"0" * 1000)
    return data.getvalue()


def corpus(folder: Path, secret: Path) -> list[Hostile]:
    """Write all files into `folder`. `secret` is a file of someone else that some of them point at."""
    good = film(folder / "good.mp4", seconds=1.0).read_bytes()
    whole = film(folder / "good.webm", seconds=1.0, codec="vp8").read_bytes()
    late_index = film(folder / "late.mp4", "-movflags", "-faststart", seconds=1.0).read_bytes()
    film_of_levels(folder / "short.mp4", [0, 40, 80, 120])
    ffmpeg("-f", "lavfi", "-i", "color=s=8192x8192:r=2:d=1", "-c:v", "libx264", "-preset", "ultrafast",
           folder / "huge.mp4")
    huge = (folder / "huge.mp4").read_bytes()
    moov = good.index(b"moov")
    lying = bytearray(huge)  # the index says 64 x 48, the stream itself says 8192 x 8192
    struct.pack_into(">HH", lying, lying.index(b"avc1", lying.index(b"stsd")) + 28, 64, 48)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n".encode()
    zlib = element(0x6D80, element(0x6240, element(0x5034, element(0x4254, b"\0"))))
    ebml = element(0x1A45DFA3, element(0x4282, b"webm"))
    not_video, damaged = {"not_a_video"}, {"not_a_video", "truncated"}
    files: dict[str, tuple[bytes, set[str]]] = {
        "empty.mp4": (b"", not_video),
        "one_byte.mp4": (b"\0", not_video),
        "text.mp4": (b"Dear user, this is not a video.\n" * 40, not_video),
        "nul.mp4": (bytes(5000), not_video),
        "hls.mp4": (playlist, not_video),
        "hls_after_space.mp4": (b"\n \n" + playlist, not_video),
        "concat.mp4": (f"ffconcat version 1.0\nfile '{secret}'\n".encode(), not_video),
        "concat_relative.mp4": (f"ffconcat version 1.0\nfile {secret.name}\n".encode(), not_video),
        "sdp.mp4": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", not_video),
        "dash.mp4": (b'<?xml version="1.0"?><MPD><Period/></MPD>', not_video),
        "playlist_in_mp4.mp4": (box(b"ftyp", b"isom\0\0\2\0isom") + playlist, not_video | {"truncated"}),
        "png.mp4": (b"\x89PNG\r\n\x1a\n" + bytes(100), not_video),
        "jpeg.mp4": (b"\xff\xd8\xff\xe0" + bytes(100), not_video),
        "gif.mp4": (b"GIF89a" + bytes(100), not_video),
        "zip.mp4": (_zip(), not_video),
        "zip_behind_mp4_head.mp4": (FTYP + _zip(), damaged),
        "pdf.mp4": (b"%PDF-1.7\n", not_video),
        "elf.mp4": (b"\x7fELF" + bytes(60), not_video),
        "avi.mp4": (b"RIFF\x10\0\0\0AVI LIST" + bytes(100), {"unsupported_container"}),
        "ogg.mp4": (b"OggS\0\2" + bytes(100), {"unsupported_container"}),
        "flv.mp4": (b"FLV\x01\x05" + bytes(100), {"unsupported_container"}),
        "ts.mp4": ((b"G" + bytes(187)) * 20, {"unsupported_container"}),
        "wav.mp4": (b"RIFF\x10\0\0\0WAVEfmt " + bytes(100), {"no_video_track"}),
        "avif.mp4": (box(b"ftyp", b"avif\0\0\0\0avifmif1miaf") + box(b"meta", bytes(100)), not_video),
        "unknown_brand.mp4": (box(b"ftyp", b"zzzz\0\0\0\0zzzz") + good[moov - 4:], {"unsupported_container"}),
        "no_index.mp4": (FTYP + box(b"mdat", bytes(5000)), {"truncated"}),
        "only_head.mp4": (FTYP, {"truncated"}),
        "cut_in_picture.mp4": (late_index[:len(late_index) // 2], {"truncated"}),
        "cut_in_index.mp4": (good[:moov + 40], {"truncated"}),
        "cut_in_late_index.mp4": (late_index[:late_index.index(b"moov") + 40], {"truncated"}),
        "half.webm": (whole[:len(whole) // 3], {"truncated", "too_short"}),
        "head_only.webm": (whole[:60], {"truncated", "not_a_video"}),
        "too_short.mp4": ((folder / "short.mp4").read_bytes(), {"too_short"}),
        "huge.mp4": (huge, {"picture_too_large"}),
        "huge_but_lying.mp4": (bytes(lying), {"picture_too_large", "truncated"}),
        "huge_entry.mp4": (mp4(width=65535, height=65535), {"picture_too_large"}),
        "no_size.mp4": (mp4(width=0, height=0), not_video),
        "frames_60000.mp4": (mp4(n_frames=60_000, timescale=60_000), {"too_many_frames", "too_long"}),
        "frames_4e9.mp4": (mp4(stsz=box(b"stsz", bytes(4), struct.pack(">II", 0, 0xFFFFFFFF))), not_video),
        "frames_4e9_constant.mp4": (mp4(stsz=box(b"stsz", bytes(4), struct.pack(">II", 1, 0xFFFFFFFF))), not_video),
        "fast_1000_fps.mp4": (mp4(n_frames=1000, timescale=1000), {"too_many_frames"}),
        "time_table_bomb.mp4": (mp4(stts=box(b"stts", bytes(4), struct.pack(">I", 0xFFFFFFFF))), not_video),
        "long_100_hours.mp4": (mp4(delta=24 * 15_000), {"too_long"}),
        "rubbish_picture.mp4": (mp4(), {"truncated", "not_a_video"}),
        "external_url.mp4": (mp4(dref=box(b"url ", bytes(4), f"file://{secret}\0".encode())), {"external_reference"}),
        "external_alias.mp4": (mp4(dref=box(b"alis", bytes(4), bytes(150))), {"external_reference"}),
        "reference_movie.mov": (FTYP + box(b"moov", box(b"rmra", box(b"rmda", bytes(20)))), {"external_reference"}),
        "compressed_index.mov": (FTYP + box(b"moov", box(b"cmov", bytes(40))), {"unsupported_container"}),
        "two_indexes.mp4": (mp4() + mp4()[len(FTYP):], not_video),
        "sound_only.mp4": (mp4(entry=b"mp4a", handler=b"soun"), {"no_video_track"}),
        "encrypted.mp4": (mp4(entry=b"encv"), {"unsupported_codec"}),
        "odd_codec.mp4": (mp4(entry=b"cvid"), {"unsupported_codec"}),
        "edit_bomb.mp4": (mp4(edits=edit_list(*[(1000, 0)] * 5000)), {"unsupported_container"}),
        "tracks_bomb.mp4": (mp4(extra=box(b"trak") * 5000), not_video),
        "box_bomb_top.mp4": (FTYP + box(b"free") * 300_000, not_video),
        "box_bomb_index.mp4": (FTYP + box(b"moov", box(b"free") * 300_000), not_video),
        "deep.mp4": (FTYP + _nested(b"moov", 200), {"no_video_track", "not_a_video", "truncated"}),
        "deep_tracks.mp4": (FTYP + box(b"moov", _nested(b"trak", 200)), {"no_video_track", "not_a_video"}),
        "box_smaller_than_head.mp4": (FTYP + struct.pack(">I4s", 4, b"moov") + bytes(100), not_video),
        "box_of_size_zero_inside.mp4": (FTYP + box(b"moov", struct.pack(">I4s", 0, b"trak") + bytes(100)), damaged |
                                        {"no_video_track"}),
        "box_of_2_to_63.mp4": (FTYP + struct.pack(">I4sQ", 1, b"moov", 1 << 63) + bytes(100), damaged),
        "box_wraps_around.mp4": (FTYP + struct.pack(">I4sQ", 1, b"free", (1 << 64) - 16) + good[len(FTYP):], damaged),
        "child_larger_than_parent.mp4": (FTYP + box(b"moov", struct.pack(">I4s", 1 << 20, b"trak")), not_video),
        "fragment_bomb.mp4": (_fragments(0xFFFFFFF0), {"too_many_frames"}),
        "fragment_without_start.mp4": (FTYP + box(b"moof", bytes(40)), not_video),
        "doctype.webm": (webm(doctype=b"evil"), {"unsupported_container"}),
        "codec.webm": (webm(codec=b"V_MS/VFW/FOURCC"), {"unsupported_codec"}),
        "huge.webm": (webm(width=60000, height=60000), {"picture_too_large"}),
        "frames_60000.webm": (webm(n_frames=60_000, step_ms=1), {"too_many_frames"}),
        "zlib_frames.webm": (webm(track_extra=zlib), {"unsupported_codec"}),
        "sound_only.webm": (webm().replace(b"\x83" + vint(1) + b"\1", b"\x83" + vint(1) + b"\2"), {"no_video_track"}),
        "rubbish_picture.webm": (webm(), {"truncated", "not_a_video"}),
        "element_of_2_to_56.webm": (ebml + b"\x18\x53\x80\x67" + vint((1 << 56) - 2) + b"\x16\x54\xae\x6b" +
                                    vint((1 << 56) - 2), damaged),
        "element_bomb.webm": (ebml + element(0x18538067, b"\xec\x80" * 300_000), not_video),
        "segment_in_segment.webm": (ebml + _segments(300), not_video),
    }
    made = []
    for name, (data, codes) in files.items():
        path = folder / f"hostile_{name}"
        path.write_bytes(data)
        made.append(Hostile(path, frozenset(codes)))
    return made


def _nested(kind: bytes, depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = box(kind, data)
    return data


def _segments(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = element(0x18538067, data)
    return data


def _fragments(count: int) -> bytes:
    start = mp4(n_frames=0, stsz=box(b"stsz", bytes(12)), stts=box(b"stts", bytes(8)),
                extra=box(b"mvex", box(b"trex", bytes(4) + struct.pack(">IIIII", 1, 1, 1, 0, 0))))
    run = box(b"trun", struct.pack(">II", 0, count))
    return start + box(b"moof", box(b"mfhd", bytes(8)), box(b"traf", box(b"tfhd", struct.pack(">II", 0, 1)), run))
