"""VGG-Sound csv or VAS folders -> raw clips with their sound, and one row a clip that says what became of it.

    RAW/collected.jsonl     finished last: a line a clip in the order of the list, see `Row`
    RAW/journal.sqlite      the same while it works; a killed run goes on from here
    RAW/clips/ID.mp4        exact cut, the picture as large as it was, sound as AAC

A dead link is reported and stays dead; what could not be reached, or is more than a limit lets in, is tried again by
the next run. A clip of which the list says another source or start than its row is collected again; another label or
split is written into its row. Rows hold no times and no counts of tries, so a disturbed run ends with the same file as
an undisturbed one.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from s2s.config import settings
from s2s.data.clips import OVER_A_LIMIT, Piece, in_parallel
from s2s.data.manifest import read_lines, sha256_of
from s2s.errors import InputError, ProcessingError, S2SError
from s2s.media.cut import clip_rate, clip_size, cut_clip
from s2s.media.probe import probe

log = logging.getLogger(__name__)
_silent = logging.getLogger("s2s.data.yt_dlp")
_silent.setLevel(logging.CRITICAL + 1)

YOUTUBE = "https://www.youtube.com/watch?v={id}"
CLIP_S = 10.0
SOURCE_MAX_S = 12 * 3600.0  # a source is only looked at where it is cut, so it may be much longer than a clip
VAS_TEST = {"gun": 64, "sneeze": 64, "cough": 64, "hammer": 64}  # the last n of a category are its test set
VAS_TEST_DEFAULT = 128


class Wanted(NamedTuple):
    """One clip of a list."""

    id: str
    source: str  # address, or absolute path
    start_s: float
    label: str
    split: str | None


@dataclass(frozen=True)
class Row:
    """What became of one clip."""

    id: str
    source: str
    start_s: float
    label: str
    split: str | None
    state: str  # ok, dead (will never come), failed (may come later)
    reason: str = ""  # of dead and failed: http_404, unavailable, unreachable, broken, too_short, ...
    licence: str = "unknown"
    duration_s: float = 0.0
    sha256: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)


Fetch = Callable[[str, Path], tuple[Path, str]]
"""(address, folder) -> (file, licence); what is brought here goes into that folder. Raises Unfetched."""


class Unfetched(S2SError):
    """A source did not come. `dead`: it never will."""

    default_code = "unfetched"

    def __init__(self, reason: str, dead: bool):
        super().__init__(reason)
        self.reason, self.dead = reason, dead


# ---- lists


def read_vggsound(path: Path, address: str = YOUTUBE, labels: Collection[str] = ()) -> Iterator[Wanted]:
    """Rows of the published csv, one by one: id, start second, label, split. labels: only these; none means all.

    Raises InputError naming the line that is none.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.", code="not_found", hint="Check the path.")
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or (labels and len(row) > 2 and row[2] not in labels):
                continue
            try:
                video, start, label, split = (part.strip() for part in row)
                wanted = Wanted(
                    f"{_plain(video)}_{int(float(start)):06d}",
                    address.format(id=video),
                    float(start),
                    label,
                    {"train": "train", "val": "val", "test": "test"}[split],
                )
            except (ValueError, KeyError) as exc:
                raise InputError(
                    f"Line {number} of {path} is no clip: {','.join(row)[:80]!r}.",
                    hint="Expected: id, start second, label, train or test.",
                ) from exc
            yield wanted


def read_vas(root: Path, labels: Collection[str] = ()) -> Iterator[Wanted]:
    """Videos of both known layouts, ROOT/videos/CATEGORY/*.mp4 and ROOT/CATEGORY/videos/*.mp4.

    Split as published: by the number in the name, the last 128 (64 of the small categories) are for the test.
    """
    folders = {folder.name: folder for folder in sorted((root / "videos").glob("*")) if folder.is_dir()}
    folders |= {folder.parent.name: folder for folder in sorted(root.glob("*/videos")) if folder.is_dir()}
    found = False
    for category, folder in sorted(folders.items()):
        videos = sorted(folder.glob("*.mp4"), key=lambda path: (_last_number(path.stem), path.stem))
        n_train = len(videos) - VAS_TEST.get(category, VAS_TEST_DEFAULT)
        for index, video in enumerate(videos):
            found = True
            if not labels or category in labels:
                yield Wanted(
                    f"{category}_{_plain(video.stem)}",
                    str(video.resolve()),
                    0.0,
                    category,
                    "train" if index < n_train else "test",
                )
    if not found:
        raise InputError(f"{root} holds no VAS videos.", hint="Expected ROOT/videos/CATEGORY/video_00000.mp4.")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)


def _last_number(stem: str) -> int:
    digits = stem.rsplit("_", 1)[-1]
    return int(digits) if digits.isdigit() else -1


# ---- the run


def collect(
    wanted: Iterator[Wanted],
    root: Path,
    *,
    fetch: Fetch,
    duration_s: float = CLIP_S,
    workers: int = 2,
    cut: Callable[[Path, Path, float, float], float] | None = None,
    on_clip: Callable[[int, str], None] = lambda done, state: None,
) -> dict[str, int]:
    """Works the list off; returns how many are ok, dead and failed. Memory does not grow with the list.

    cut: (video, clip, start_s, duration_s) -> seconds made. on_clip(done, state) is called after each.
    """
    (root / "clips").mkdir(parents=True, exist_ok=True)
    for left in root.glob(".fetch-*"):  # of a killed run
        shutil.rmtree(left, ignore_errors=True)
    cut = cut or cut_raw
    with closing(sqlite3.connect(root / "journal.sqlite", isolation_level=None, check_same_thread=False)) as journal:
        journal.execute("PRAGMA journal_mode=WAL")
        journal.execute("PRAGMA synchronous=NORMAL")
        journal.execute("CREATE TABLE IF NOT EXISTS rows (place INTEGER, id TEXT PRIMARY KEY, state TEXT, json TEXT)")
        journal.execute("CREATE TEMP TABLE listed (id TEXT PRIMARY KEY, place INTEGER)")
        lock = threading.Lock()

        def todo() -> Iterator[tuple[int, Wanted]]:
            for place, one in enumerate(wanted):
                with lock:
                    fresh = journal.execute("INSERT OR IGNORE INTO listed VALUES (?, ?)", (one.id, place)).rowcount
                    found = journal.execute("SELECT json FROM rows WHERE id = ?", (one.id,)).fetchone()
                if not fresh:
                    raise InputError(f"{one.id} is in the list twice.", hint="Take one of the lines out.")
                row = Row(**json.loads(found[0])) if found else None
                if row and (row.source, row.start_s) != (one.source, one.start_s):
                    with lock:  # first, so that a kill leaves no row that says something else than its clip is
                        journal.execute("DELETE FROM rows WHERE id = ?", (one.id,))
                    (root / "clips" / f"{one.id}.mp4").unlink(missing_ok=True)
                elif row and _is_settled(row, root):
                    if (row.label, row.split) != (one.label, one.split):
                        row = replace(row, label=one.label, split=one.split)
                        with lock:
                            journal.execute("UPDATE rows SET json = ? WHERE id = ?", (row.to_json(), one.id))
                    continue
                yield place, one

        work = in_parallel(lambda item: _collect_one(item[1], root, fetch, cut, duration_s), todo(), workers)
        for done, ((place, one), row) in enumerate(work, start=1):
            with lock:
                journal.execute("REPLACE INTO rows VALUES (?, ?, ?, ?)", (place, one.id, row.state, row.to_json()))
            on_clip(done, row.state)
        part = root / "collected.jsonl.part"
        with open(part, "w", encoding="utf-8") as file:
            for (line,) in journal.execute("SELECT json FROM rows JOIN listed USING (id) ORDER BY listed.place"):
                file.write(line + "\n")
        os.replace(part, root / "collected.jsonl")
        return dict(
            journal.execute("SELECT state, count(*) FROM rows JOIN listed USING (id) GROUP BY state").fetchall()
        )


def _is_settled(row: Row, root: Path) -> bool:
    """Another try would end with the same row."""
    if row.state == "ok":
        return (root / "clips" / f"{row.id}.mp4").exists()
    return row.state == "dead" and row.reason not in OVER_A_LIMIT


def _collect_one(one: Wanted, root: Path, fetch: Fetch, cut: Callable, duration_s: float) -> Row:
    facts = {"id": one.id, "source": one.source, "start_s": one.start_s, "label": one.label, "split": one.split}
    target = root / "clips" / f"{one.id}.mp4"
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=root) as scratch:
        try:
            video, licence = fetch(one.source, Path(scratch))
            made_s = cut(video, target, one.start_s, duration_s)
        except Unfetched as exc:
            return Row(**facts, state="dead" if exc.dead else "failed", reason=exc.reason)
        except InputError as exc:
            return Row(**facts, state="failed" if exc.code in OVER_A_LIMIT else "dead", reason=exc.code)
        except ProcessingError as exc:
            log.warning("%s: %s", one.id, exc)
            return Row(**facts, state="dead", reason="broken")
    return Row(**facts, state="ok", licence=licence, duration_s=round(made_s, 3), sha256=sha256_of(target))


def cut_raw(video: Path, target: Path, start_s: float, duration_s: float) -> float:
    """An exact cut with sound, no larger than 720 pixels on the short side. Raises InputError: too_short, ..."""
    info = probe(video, settings().cli_limits.model_copy(update={"max_duration_s": SOURCE_MAX_S}))
    there_s = min(duration_s, info.duration_s - start_s)
    if there_s < 1.0:
        raise InputError(f"{video.name} ends before second {start_s:g}.", code="too_short")
    rate = clip_rate(info)
    n_frames = int(Fraction(there_s).limit_denominator(10**6) * rate)
    cut_clip(
        info,
        target,
        start_s=start_s,
        duration_s=float(n_frames / rate),
        fps=rate,
        size=clip_size(info, 720),
        sound=True,
        crf=16,
    )
    return float(n_frames / rate)


def read_rows(root: Path) -> Iterator[Row]:
    """Rows of a finished collection. Raises InputError when it is not finished."""
    path = root / "collected.jsonl"
    if not path.is_file():
        raise InputError(f"{root} holds no finished collection.", hint="Make one with `s2s data collect`.")
    for line in read_lines(path):
        yield Row(**json.loads(line))


def pieces_of_collection(root: Path) -> list[Piece]:
    """What was collected, whole, for `s2s.data.clips.make_set`; its source is the original video."""
    return [
        Piece(
            id=row.id,
            video=(root / "clips" / f"{row.id}.mp4").resolve(),
            start_s=0.0,
            duration_s=None,
            label=row.label,
            source=row.source,
            source_start_s=row.start_s,
            split=row.split,
            licence=row.licence,
        )
        for row in read_rows(root)
        if row.state == "ok"
    ]


# ---- downloads


class Downloader:
    """yt-dlp behind a pace: any address it knows, at most 480 lines, retries with growing pauses. A path is a file.

    Answers of a server that say "gone" are dead at once; everything that may be a mood of the network is tried
    `tries` times and then left to the next run.
    """

    GONE = re.compile(
        r"video unavailable|private video|removed|no longer available|terminated|copyright|"
        r"sign in to confirm your age|members-only|not available in your country|unsupported url",
        re.I,
    )

    def __init__(self, *, per_minute: float = 30.0, tries: int = 3, pause_s: float = 2.0, licence: str = "unknown"):
        self._gap_s, self._tries, self._pause_s, self._licence = 60.0 / per_minute, tries, pause_s, licence
        self._lock, self._next_s = threading.Lock(), 0.0

    def __call__(self, address: str, folder: Path) -> tuple[Path, str]:
        if "://" not in address:
            return Path(address), self._licence
        for attempt in range(self._tries):
            if attempt:
                time.sleep(self._pause_s * 2 ** (attempt - 1))
            self._wait()
            try:
                return self._download(address, folder)
            except Unfetched as exc:
                if exc.dead or exc.reason in OVER_A_LIMIT or attempt + 1 == self._tries:
                    raise
                log.info("%s: %s, trying again", address, exc.reason)
        raise AssertionError("unreachable: the last try returns or raises")

    def _wait(self) -> None:
        """Starts of downloads are at least a gap apart, whoever starts them."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_s)
            self._next_s = start + self._gap_s
        time.sleep(start - now)

    def _download(self, address: str, folder: Path) -> tuple[Path, str]:
        import yt_dlp

        from s2s.media.ffmpeg import find_ffmpeg

        options = {
            "format": "bv*[height<=480][ext=mp4]+ba[ext=m4a]/b[height<=480]/bv*+ba/b",
            "outtmpl": str(folder / "source.%(ext)s"),
            "ffmpeg_location": find_ffmpeg(),
            "noplaylist": True,
            "quiet": True,
            "noprogress": True,
            "no_warnings": True,
            "logger": _silent,  # reasons are told in the rows
            "retries": 0,
            "socket_timeout": 20,
            "max_filesize": settings().cli_max_bytes,
            "cachedir": False,
        }
        try:
            with yt_dlp.YoutubeDL(options) as downloader:
                info = downloader.extract_info(address, download=True)
        except yt_dlp.utils.DownloadError as exc:
            raise self._reason(exc) from exc
        files = [path for path in folder.iterdir() if path.suffix != ".part"]
        if not files:
            raise Unfetched("too_large", dead=False)
        return files[0], (info or {}).get("license") or self._licence

    def _reason(self, exc: Exception) -> Unfetched:
        cause = (getattr(exc, "exc_info", None) or (None, None, None))[1]
        while cause is not None and not hasattr(cause, "status"):
            cause = getattr(cause, "cause", None) or cause.__cause__
        status = getattr(cause, "status", None)
        if status is None and (said := re.search(r"HTTP Error (\d{3})", str(exc))):
            status = int(said[1])
        if status is not None:
            return Unfetched(f"http_{status}", dead=400 <= status < 500 and status not in (403, 408, 425, 429))
        return (
            Unfetched("unavailable", dead=True) if self.GONE.search(str(exc)) else Unfetched("unreachable", dead=False)
        )
