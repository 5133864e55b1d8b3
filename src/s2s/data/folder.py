"""Any folder of videos with sound -> pieces cut where something sounds, for `s2s.data.clips.make_set`.

DIR/dog/rex.mp4    label "dog"
DIR/rex.mp4        label: the name of DIR, or what the caller says
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from s2s.config import settings
from s2s.data.clips import Piece, in_parallel
from s2s.data.heard import SAMPLE_RATE, hear
from s2s.errors import InputError
from s2s.media.audio import read_audio
from s2s.media.probe import probe

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".webm", ".mkv"}
QUIET_S = 2.0  # without an onset: here a piece may end
BEFORE_S, AFTER_S = 0.5, 1.0  # kept around the first and the last onset


def find_videos(root: Path) -> list[Path]:
    """All videos below `root`, in order of name. Raises InputError when there is none."""
    if not root.is_dir():
        raise InputError(f"{root} is no folder.", code="not_found", hint="Check the path.")
    videos = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not videos:
        raise InputError(
            f"{root} holds no video.", code="not_a_video", hint=f"Looked for {', '.join(sorted(VIDEO_SUFFIXES))}."
        )
    return videos


def pieces_of_folder(
    root: Path,
    *,
    label: str | None = None,
    clip_s: float = 6.0,
    licence: str = "unknown",
    workers: int = 1,
    on_video: Callable[[int, int], None] = lambda done, total: None,
) -> list[Piece]:
    """Pieces of all videos of a folder, at most `clip_s` long. A file that cannot be read is one piece, to be reported.

    label: of videos that lie in no sub-folder; None: the name of `root`.
    """
    videos = find_videos(root)
    ids = dict(zip(videos, ids_of([video.relative_to(root) for video in videos]), strict=True))
    found: dict[Path, list[Piece]] = {}
    for done, (video, spans) in enumerate(in_parallel(lambda video: _spans(video, clip_s), videos, workers)):
        inner = video.relative_to(root)
        name = inner.parts[0] if len(inner.parts) > 1 else label or root.resolve().name
        found[video] = [
            Piece(
                id=f"{ids[video]}-{round(1000 * start):07d}",
                video=video.resolve(),
                start_s=start,
                duration_s=None if end is None else end - start,
                label=name,
                source=inner.as_posix(),
                source_start_s=start,
                licence=licence,
            )
            for start, end in spans
        ]
        on_video(done + 1, len(videos))
    return [piece for video in videos for piece in found[video]]


def ids_of(paths: Sequence[Path]) -> list[str]:
    """An id for each relative path of a folder, of A-Z, a-z, 0-9, _ and - only.

    It is the path without its suffix, folders joined by "-". A part of a hash of the whole path follows where that does
    not tell files apart: names with other characters, and names that come to the same.
    """
    plain = [path.with_suffix("").as_posix().replace("/", "-") for path in paths]
    named = [re.sub(r"[^A-Za-z0-9_-]+", "-", name) for name in plain]
    count = Counter(named)
    return [
        name if name == spelt and count[name] == 1 else f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        for path, spelt, name in zip(map(Path.as_posix, paths), plain, named, strict=True)
    ]


def _spans(video: Path, clip_s: float) -> Sequence[tuple[float, float | None]]:
    """[(start, end)] of the stretches that are worth keeping; the whole file where that cannot be said."""
    limits = settings().cli_limits
    try:
        info = probe(video, limits)
        if not info.has_audio:
            return [(0.0, None)]
        onsets = hear(read_audio(video, SAMPLE_RATE, limits, info)).onsets_s
    except InputError:
        return [(0.0, None)]
    return spans_of_onsets(onsets, info.duration_s, clip_s) or [(0.0, None)]


def spans_of_onsets(onsets_s: np.ndarray, duration_s: float, clip_s: float) -> list[tuple[float, float]]:
    """Stretches with something to hear, in order, not overlapping, each at most `clip_s` long.

    Onsets closer than QUIET_S belong together; what is longer than `clip_s` is cut between two onsets.
    """
    spans: list[tuple[float, float]] = []
    group: list[float] = []
    ends = [*np.sort(onsets_s).tolist(), float("inf")]
    for onset, following in pairwise(ends):
        group.append(onset)
        longer = following + AFTER_S - max(0.0, group[0] - BEFORE_S) > clip_s
        if following - onset > QUIET_S or longer:
            start = max(group[0] - BEFORE_S, spans[-1][1] if spans else 0.0, 0.0)
            end = min(onset + AFTER_S, duration_s, (onset + following) / 2 if following < float("inf") else duration_s)
            spans.append((round(start, 3), round(min(end, start + clip_s), 3)))
            group = []
    return spans
