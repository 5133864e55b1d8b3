"""A stretch of a video as a clip of its own: exact start, constant frame rate, upright, square pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from s2s.events import ShouldStop, never_stop
from s2s.media.ffmpeg import run_ffmpeg
from s2s.media.mux import whole_or_not_at_all
from s2s.media.probe import MediaInfo

MAX_FPS = 60


def clip_rate(info: MediaInfo) -> Fraction:
    """Frames a second that a clip of this video gets: its own average, at most 60."""
    return min(Fraction(MAX_FPS), Fraction(info.average_fps).limit_denominator(1001))


def clip_size(info: MediaInfo, short_side_px: int | None) -> tuple[int, int]:
    """(width, height), even, of the upright picture with this short side; never larger than it was."""
    scale = min(1.0, (short_side_px or 10**6) / min(info.width, info.height))
    return max(2, 2 * round(info.width * scale / 2)), max(2, 2 * round(info.height * scale / 2))


def cut_clip(
    info: MediaInfo,
    output: Path,
    *,
    start_s: float,
    duration_s: float,
    fps: Fraction,
    size: tuple[int, int],
    sound: bool = False,
    loop: bool = False,
    crf: int = 18,
    should_stop: ShouldStop = never_stop,
) -> None:
    """Writes `output` (MP4, H.264): `duration_s` of the picture from `start_s` after its first frame.

    Frame k shows the source's frame nearest to start_s + k / fps. sound: its sound comes along as AAC. loop: a picture
    that ends too early starts again from `start_s`. The same input gives the same bytes.

    Raises ProcessingError (ffmpeg's own words), Canceled.
    """
    output = Path(output).absolute()
    chain = [f"fps=fps={fps}:start_time=0:round=near", f"scale={size[0]}:{size[1]}:flags=area", "setsar=1"]
    if loop:
        chain += ["loop=loop=-1:size=32767", f"setpts=N/({fps})/TB"]
    n_frames = round(duration_s * fps)
    with whole_or_not_at_all(output) as part:
        args = ["-y", "-threads", "1", "-f", info.container.demuxer, "-protocol_whitelist", "file"]
        # Absolute time stamps: by itself ffmpeg counts from the earliest track, which may be the sound's.
        args += ["-seek_timestamp", "1", "-ss", f"{info.start_time_s + start_s:.6f}", "-i", f"file:{info.path}"]
        args += ["-map", f"0:{info.stream_index}", "-vf", ",".join([*chain, "format=yuv420p"])]
        args += ["-frames:v", str(n_frames), "-c:v", "libx264", "-preset", "veryfast", "-crf", str(crf)]
        args += ["-threads", "1", "-flags:v", "+bitexact"]
        if sound and info.has_audio:
            args += ["-map", "0:a:0", "-c:a", "aac", "-b:a", "192k", "-flags:a", "+bitexact", "-t", f"{duration_s:.6f}"]
        args += ["-dn", "-sn", "-map_metadata", "-1", "-map_chapters", "-1", "-fflags", "+bitexact"]
        pixels = info.width * info.height
        timeout_s = 120 + 20 * duration_s + 2 * (start_s + duration_s) * pixels / 1e6
        run_ffmpeg([*args, "-movflags", "+faststart", "-f", "mp4", f"file:{part}"], timeout_s, should_stop=should_stop)
