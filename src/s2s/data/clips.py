"""Pieces of videos -> a set of clips (`s2s.data`): cut, one frame rate, one loudness, flags, splits, no duplicates.

    SET/.rows/ID.json        what became of a piece, written after its files: a killed run goes on from these, and a
                             piece that says something else than its row, or whose files are missing, is made again

Nothing depends on the order in which workers finish.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field

from s2s.config import settings
from s2s.data.heard import SAMPLE_RATE, Heard, hear
from s2s.data.manifest import SPLITS, Clip, agree, sha256_of, strengths_of, write_manifest, write_whole
from s2s.errors import InputError, ProcessingError
from s2s.media.audio import limit_peaks, read_audio
from s2s.media.cut import clip_rate, clip_size, cut_clip
from s2s.media.probe import MediaInfo, probe
from s2s.media.video import decode_frames
from s2s.mel import mel_spectrogram
from s2s.synth.script import KINDS

OVER_A_LIMIT = ("too_long", "too_large", "too_many_frames", "picture_too_large")  # codes: other limits let it in
FLAGS_THAT_DROP = (
    *("broken", *OVER_A_LIMIT, "no_sound", "short", "silent", "speech", "no_onset", "duplicate"),
    "source_in_other_split",
)
SIGNATURE_DISTANCE = 3  # bits of 64 of the sound
PICTURE_DISTANCE = 8  # bits of 64 of the middle picture
APART_SLACK_S = 0.1  # a clip lasts up to a picture longer than its piece


class ClipOptions(BaseModel):
    """What a clip of a set is like. `PUBLISHED` is REGNET's own recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fps: Fraction | None = Field(None, description="None: each clip keeps its own, at most 60")
    size: tuple[int, int] | None = Field(None, description="width, height, aspect not kept; None: see short_side_px")
    short_side_px: int = Field(256, gt=0)
    min_s: float = Field(1.0, description="shorter pieces are left out")
    loop_to_s: float | None = Field(None, description="shorter pieces start again until they last so long")
    keep_level: bool = Field(False, description="leave the loudness as it is")
    need_onsets: bool = Field(True, description="pieces in which nothing starts to sound are left out")
    keep_speech: bool = False
    val_share: float = Field(0.05, ge=0, lt=1, description="of the sources that have no split of their own")
    test_share: float = Field(0.1, ge=0, lt=1)
    seed: int = 0


PUBLISHED = ClipOptions(
    fps=Fraction(43, 2),
    size=(340, 256),
    loop_to_s=10.0,
    keep_level=True,
    need_onsets=False,
    keep_speech=True,
    min_s=0.5,
)

RECIPES = {"own": ClipOptions(), "published": PUBLISHED}


@dataclass(frozen=True)
class Piece:
    """A stretch of a video file that is to become a clip."""

    id: str
    video: Path
    start_s: float
    duration_s: float | None  # None: to the end
    label: str
    source: str  # the original video: pieces of one source share a split
    source_start_s: float
    split: str | None = None  # None: by the hash of the source
    licence: str = "unknown"


@dataclass(frozen=True)
class SetReport:
    clips: list[Clip]
    dropped: list[Clip]

    @property
    def reasons(self) -> dict[str, int]:
        """How many were dropped for what; the first flag counts."""
        counts: dict[str, int] = {}
        for clip in self.dropped:
            reason = next(flag for flag in clip.flags if flag in FLAGS_THAT_DROP)
            counts[reason] = counts.get(reason, 0) + 1
        return counts


def make_set(
    pieces: Sequence[Piece],
    root: Path,
    options: ClipOptions = ClipOptions(),
    *,
    kinds: Mapping[str, str] | None = None,
    workers: int = 1,
    dry_run: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> SetReport:
    """Makes, or finishes, the set at `root`. dry_run: looks and listens, but writes nothing.

    kinds: label -> kind; labels that are kinds need no entry. Raises InputError when `root` holds a set that was asked
    for differently, or when a kind is none of ours.
    """
    kinds = dict(kinds or {})
    if unknown := sorted(set(kinds.values()) - set(KINDS)):
        raise InputError(f"{unknown[0]!r} is no kind of sound.", hint=f"Kinds are {', '.join(KINDS)}.")
    by_id: dict[str, Piece] = {}
    for piece in pieces:
        if (other := by_id.setdefault(piece.id, piece)) is not piece:
            raise InputError(
                f"{other.source} and {piece.source} get the same id, {piece.id}.", hint="Rename one of the files."
            )
    asked = {"options": options.model_dump(mode="json"), "kinds": kinds}
    if not dry_run:
        refusal = f"{root} holds a set that was made with other options."
        agree(root / ".rows" / "asked.json", asked, dict.fromkeys(asked, refusal))
    splits = assign_splits(pieces, options)
    sha256_of_source = cache(sha256_of)  # many pieces are of one video
    rows: dict[str, dict] = {}

    def source_of(piece: Piece) -> str | None:
        return sha256_of_source(piece.video) if piece.video.is_file() else None

    def make(piece: Piece) -> dict:
        path = root / ".rows" / f"{piece.id}.json"
        if not dry_run:
            path.unlink(missing_ok=True)  # a kill must not leave the old row beside new files
        row = _make_clip(piece, root, splits[piece.id], options, kinds, dry_run)
        if not dry_run:
            row["said"], row["source"] = _said(piece, splits[piece.id]), source_of(piece)
            write_whole(path, json.dumps(row, sort_keys=True))
        return row

    def work(piece: Piece) -> dict:
        path = root / ".rows" / f"{piece.id}.json"
        if not dry_run and path.exists():
            row = json.loads(path.read_text(encoding="utf-8"))
            # A source that is gone since cannot be cut again, and has not changed either.
            if row.get("said") == _said(piece, splits[piece.id]) and source_of(piece) in (None, row["source"]):
                return row
        return make(piece)

    for done, (piece, row) in enumerate(in_parallel(work, pieces, workers)):
        rows[piece.id] = row
        on_clip(done + 1, len(pieces))
    kept, dropped = _sorted_out(rows, root, options)
    if not dry_run:
        # One that was the duplicate of a piece that is not asked for any more.
        gone = {clip.id for clip in kept if not (clip.video.is_file() and clip.audio.is_file())}
        again = [piece for piece in pieces if piece.id in gone]
        if again:
            rows.update((piece.id, row) for piece, row in in_parallel(make, again, workers))
            kept, dropped = _sorted_out(rows, root, options)
        for clip in dropped:  # a duplicate has files
            clip.video.unlink(missing_ok=True)
            clip.audio.unlink(missing_ok=True)
        write_manifest(root, kept, dropped, asked)
    return SetReport(kept, dropped)


def _said(piece: Piece, split: str | None) -> str:
    """A digest of what is said of a piece, which decides with the options and its file what becomes of it."""
    said = {**asdict(piece), "video": None, "split": split}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _sorted_out(rows: Mapping[str, dict], root: Path, options: ClipOptions) -> tuple[list[Clip], list[Clip]]:
    """The clips that are kept and those that are dropped, in order of id."""
    found = [Clip.from_json(json.dumps(row["clip"]), root) for _, row in sorted(rows.items())]
    kept, dropped = [], []
    for clip in _mark_duplicates(found, {name: row["signature"] for name, row in rows.items()}):
        (dropped if set(clip.flags) & _dropping(options) else kept).append(clip)
    return kept, dropped


def in_parallel(work: Callable, items: Iterable, workers: int) -> Iterator[tuple]:
    """(item, work(item)) as they finish; no more than a few items wait at once, so that memory stays flat."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        running: dict = {}
        try:
            for item in items:
                running[pool.submit(work, item)] = item
                if len(running) >= 2 * max(1, workers):
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


def assign_splits(pieces: Iterable[Piece], options: ClipOptions) -> dict[str, str | None]:
    """Split of each piece by id; None where its source belongs to another split.

    A source that the data set names in two splits belongs to the stricter one (test, then val): its other pieces are
    dropped, never moved, so that the data set's own test set stays what it is.
    """
    pieces = list(pieces)
    strictest: dict[str, str] = {}
    for piece in pieces:
        split = piece.split or _hashed_split(piece.source, options)
        if split not in SPLITS:
            raise InputError(f"There is no split {split!r}.", hint=f"Splits are {', '.join(SPLITS)}.")
        strictest[piece.source] = max(strictest.get(piece.source, split), split, key=SPLITS.index)
    return {
        piece.id: strictest[piece.source] if piece.split in (None, strictest[piece.source]) else None
        for piece in pieces
    }


def _hashed_split(source: str, options: ClipOptions) -> str:
    digest = hashlib.sha256(f"{options.seed}/{source}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    if share < options.test_share:
        return "test"
    return "val" if share < options.test_share + options.val_share else "train"


def _dropping(options: ClipOptions) -> set[str]:
    spared = {"speech"} if options.keep_speech else set()
    return set(FLAGS_THAT_DROP) - spared - (set() if options.need_onsets else {"no_onset"})


def _make_clip(
    piece: Piece, root: Path, split: str | None, options: ClipOptions, kinds: Mapping[str, str], dry_run: bool
) -> dict:
    """{"clip": its line of the manifest, "signature": [sound, picture] or None}. Files are written where it is kept."""
    video, audio = root / "clips" / f"{piece.id}.mp4", root / "audio" / f"{piece.id}.flac"
    kind = kinds.get(piece.label, piece.label if piece.label in KINDS else None)
    clip = Clip(
        id=piece.id,
        split=split or "train",
        label=piece.label,
        kind=kind,
        source=piece.source,
        source_start_s=piece.source_start_s,
        licence=piece.licence,
        duration_s=0.0,
        width=0,
        height=0,
        fps=0.0,
        onsets_s=[],
        strengths=[],
        video=video,
        audio=audio,
        video_sha256="",
        audio_sha256="",
    )
    flags = ["source_in_other_split"] if split is None else []
    signature = None
    if not flags:
        try:
            clip, signature = _fill(clip, piece, options, dry_run)
        except (InputError, ProcessingError) as exc:
            flags = [exc.code if exc.code in OVER_A_LIMIT else "broken"]
    return {"clip": json.loads(replace(clip, flags=[*flags, *clip.flags]).to_json(root)), "signature": signature}


def _fill(clip: Clip, piece: Piece, options: ClipOptions, dry_run: bool) -> tuple[Clip, list[int] | None]:
    limits = settings().cli_limits
    info = probe(piece.video, limits)
    fps = options.fps or clip_rate(info)
    there_s = min(piece.duration_s or info.duration_s, info.duration_s - piece.start_s)
    duration_s = max(there_s, options.loop_to_s or 0.0) if there_s > 0 else 0.0
    if options.loop_to_s:
        duration_s = min(duration_s, options.loop_to_s)
    n_frames = int(Fraction(duration_s).limit_denominator(10**6) * fps)
    duration_s = float(n_frames / fps)
    clip = replace(clip, duration_s=round(duration_s, 6), fps=round(float(fps), 6))
    if there_s < options.min_s or n_frames < 1:
        return replace(clip, flags=["short"]), None
    if not info.has_audio:
        return replace(clip, flags=["no_sound"]), None
    waveform = stretch_of(read_audio(piece.video, SAMPLE_RATE, limits, info), piece.start_s, there_s, duration_s)
    heard = hear(waveform)
    flags = _flags(heard)
    size = options.size or clip_size(info, options.short_side_px)
    clip = replace(
        clip,
        width=size[0],
        height=size[1],
        onsets_s=[round(float(time_s), 4) for time_s in heard.onsets_s],
        strengths=strengths_of(waveform, heard.onsets_s, SAMPLE_RATE),
        gain_db=0.0 if options.keep_level else heard.gain_db,
        flags=flags,
    )
    if set(flags) & _dropping(options):
        return clip, None
    signature = [sound_signature(waveform), picture_signature(info, piece.start_s + there_s / 2)]
    if dry_run:
        return clip, signature
    clip.video.parent.mkdir(parents=True, exist_ok=True)
    clip.audio.parent.mkdir(parents=True, exist_ok=True)
    cut_clip(
        info,
        clip.video,
        start_s=piece.start_s,
        duration_s=duration_s,
        fps=fps,
        size=size,
        loop=bool(options.loop_to_s) and there_s < duration_s,
    )
    if not options.keep_level:
        waveform = waveform * np.float32(10 ** (heard.gain_db / 20))
        limit_peaks(waveform, SAMPLE_RATE)
    write_flac(clip.audio, waveform)
    clip = replace(clip, video_sha256=sha256_of(clip.video), audio_sha256=sha256_of(clip.audio))
    return clip, signature


def _flags(heard: Heard) -> list[str]:
    if heard.silent:
        return ["silent"]
    return [
        *(["speech"] if heard.speech_only else []),
        *([] if len(heard.onsets_s) else ["no_onset"]),
    ]


def stretch_of(waveform: np.ndarray, start_s: float, there_s: float, duration_s: float) -> np.ndarray:
    """float32 (N,) -> `duration_s` of it from `start_s`; what is longer than `there_s` starts again from the start."""
    start, there, n = (round(seconds * SAMPLE_RATE) for seconds in (start_s, there_s, duration_s))
    part = waveform[start : start + there]
    return np.resize(part, n).astype(np.float32) if len(part) else np.zeros(n, np.float32)


def write_flac(path: Path, waveform: np.ndarray) -> None:
    """16 bits, mono; whole or not at all."""
    part = path.with_suffix(".part")
    soundfile.write(part, waveform, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    part.replace(path)


def sound_signature(waveform: np.ndarray) -> int:
    """64 bits that survive another codec, level or size: does each of 8 bands rise from ninth to ninth of the time?"""
    mel = mel_spectrogram(waveform)
    near = np.clip(mel - mel.max(), -0.4, 0).astype(
        np.float32
    )  # 40 dB below the loudest is silence, whatever the level
    coarse = cv2.resize(near, (9, 8), interpolation=cv2.INTER_AREA)
    return _bits(coarse[:, 1:] > coarse[:, :-1] + 0.005)


def picture_signature(info: MediaInfo, time_s: float) -> int:
    """64 bits of the picture at `time_s`: does each of 8 x 8 places get brighter to the right?"""
    limits, picture = settings().cli_limits, None
    for frame in decode_frames(info, limits=limits):
        picture = frame.grey
        if frame.time_s >= time_s:
            break
    coarse = cv2.resize(picture.astype(np.float32), (9, 8), interpolation=cv2.INTER_AREA)
    return _bits(coarse[:, 1:] > coarse[:, :-1])


def _bits(signs: np.ndarray) -> int:
    return int.from_bytes(np.packbits(signs.ravel()).tobytes())


def _mark_duplicates(clips: list[Clip], signatures: Mapping[str, list[int] | None]) -> list[Clip]:
    """Flags clips that sound and look like an earlier one. Test clips come first, so that training gives way.

    Two 64-bit signatures within 3 bits agree in at least one of four 16-bit words: only those are compared. Hits of one
    thing before a camera on a tripod are alike in both signatures: different moments of one video are no duplicates.
    """
    marked: dict[str, Clip] = {}
    seen: dict[tuple[int, int], list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: (-SPLITS.index(clip.split), clip.id)):
        mine = signatures[clip.id]
        marked[clip.id] = clip
        if mine is None:
            continue
        words = [(place, mine[0] >> 16 * place & 0xFFFF) for place in range(4)]
        twins = {twin.id: twin for word in words for twin in seen.get(word, ())}.values()
        if any(_alike(mine, signatures[twin.id]) and not _apart(clip, twin) for twin in twins):
            marked[clip.id] = replace(clip, flags=[*clip.flags, "duplicate"])
            continue
        for word in words:
            seen.setdefault(word, []).append(clip)
    return [marked[clip.id] for clip in clips]


def _alike(a: list[int], b: list[int]) -> bool:
    return (a[0] ^ b[0]).bit_count() <= SIGNATURE_DISTANCE and (a[1] ^ b[1]).bit_count() <= PICTURE_DISTANCE


def _apart(a: Clip, b: Clip) -> bool:
    """Are two clips different moments of one video?"""
    if a.source != b.source:
        return False
    ends = min(a.source_start_s + a.duration_s, b.source_start_s + b.duration_s)
    return ends <= max(a.source_start_s, b.source_start_s) + APART_SLACK_S


def report_rows(report: SetReport) -> list[dict]:
    """What `--dry-run` and `--json` print: a row a clip."""
    return [
        {
            key: value
            for key, value in asdict(clip).items()
            if key in ("id", "split", "label", "kind", "duration_s", "flags")
        }
        | {"onsets": len(clip.onsets_s), "kept": kept}
        for kept, group in ((True, report.clips), (False, report.dropped))
        for clip in group
    ]
