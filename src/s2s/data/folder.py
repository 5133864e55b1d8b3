"""Any folder of videos with sound -> pieces cut where something sounds, for `s2s.data.clips.make_set`.

DIR/dog/rex.mp4    label "dog"
DIR/rex.mp4        label: the name of DIR, or what the caller says
"""

from __future__ import annotations

import hashlib
import math
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
from s2s.media.gate import VIDEO_SUFFIXES
from s2s.media.probe import probe

QUIET_S = 2.0  # without an onset: here a piece may end
BEFORE_S, AFTER_S = 0.5, 1.0  # kept around the first and the last onset
LEAST_S = 4.0  # a piece takes in the quiet around it up to this: what learns from pieces needs 3 or 4 s of each


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

    Onsets closer than QUIET_S belong together; what is longer than `clip_s` is cut between two onsets. A stretch
    shorter than LEAST_S takes in its neighbour, where both are not too long, or the quiet around it.
    """
    onsets = np.sort(onsets_s).tolist()
    sounding: list[tuple[float, float]] = []
    first, least_s = 0, min(LEAST_S, clip_s)
    for last, onset in enumerate(onsets):
        start = max(onsets[first] - BEFORE_S, sounding[-1][1] if sounding else 0.0, 0.0)
        following = onsets[last + 1] if last + 1 < len(onsets) else math.inf
        end = _end(onsets, last, duration_s)
        is_enough = following - onset > QUIET_S and end - start >= least_s
        if math.isinf(following) or is_enough or _end(onsets, last + 1, duration_s) - start > clip_s:
            sounding.append((start, min(end, start + clip_s)))
            first = last + 1
    spans: list[tuple[float, float]] = []
    free_from = 0.0
    free_until = [(a[1] + b[0]) / 2 for a, b in pairwise(sounding)]
    for (start, end), until in zip(sounding, [*free_until, duration_s], strict=False):
        end = max(end, min(until, start + least_s))
        start = min(start, max(free_from, end - least_s))
        spans.append((round(start, 3), round(end, 3)))
        free_from = end
    return spans


def _end(onsets_s: Sequence[float], index: int, duration_s: float) -> float:
    """Where a stretch ends whose last onset is this one: before the next."""
    following = onsets_s[index + 1] if index + 1 < len(onsets_s) else math.inf
    return min(onsets_s[index] + AFTER_S, (onsets_s[index] + following) / 2, duration_s)
