"""The manifest of a set of clips (`s2s.data` shows the folder), and files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from s2s.errors import InputError
from s2s.synth.dataset import ClipRecord, read_dataset
from s2s.synth.script import KINDS, ScriptedEvent

FORMAT = 1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Clip:
    """One clip of a set. Paths are absolute when read; in the manifest they are relative to the set."""

    id: str
    split: str  # one of SPLITS; all clips of one source are in the same
    label: str  # as the data set or the folder says it, such as "playing drum kit"
    kind: str | None  # one of `s2s.synth.script.KINDS`, where the label is one of them or was said to mean one
    source: str  # the video it was cut from: address, or path
    source_start_s: float
    licence: str  # "unknown" where nobody said
    duration_s: float
    width: int
    height: int
    fps: float
    onsets_s: list[float]  # of the true sound, from the start of the clip
    strengths: list[float]  # 0 .. 1 each, relative loudness within the clip
    video: Path
    audio: Path
    video_sha256: str
    audio_sha256: str
    gain_db: float = 0.0  # what the sound was turned up by
    flags: list[str] = field(default_factory=list)  # silent, speech, duplicate, ...

    def to_json(self, root: Path) -> str:
        data = asdict(self)
        for name in ("video", "audio"):
            data[name] = data[name].relative_to(root).as_posix()
        return json.dumps(data, sort_keys=True)  # ASCII: names of files may hold what no text file can

    @classmethod
    def from_json(cls, line: str, root: Path) -> Clip:
        data = json.loads(line)
        return cls(**{**data, "video": root / data["video"], "audio": root / data["audio"]})

    def record(self) -> ClipRecord:
        """The same clip as training reads it: an onset is an event of the clip's kind, of middle size."""
        events = [
            ScriptedEvent(time_s, self.kind or self.label, strength, 0.5)
            for time_s, strength in zip(self.onsets_s, self.strengths, strict=True)
        ]
        return ClipRecord(
            id=self.id,
            split=self.split,
            duration_s=self.duration_s,
            width=self.width,
            height=self.height,
            n_frames=round(self.duration_s * self.fps),
            events=events,
            factors={"label": self.label},
            video=self.video,
            audio=self.audio,
            sounds=[{"kind": self.kind or self.label, "source": self.source, "license": self.licence, "author": ""}],
        )


def read_clips(root: Path, split: str | None = None) -> list[Clip]:
    """All clips of a set, or of one split, in order of id. Raises InputError when `root` is no finished set."""
    path = root / "manifest.jsonl"
    if not path.is_file():
        raise InputError(f"{root} holds no finished set of clips.", hint="Make one with `s2s data folder`.")
    clips = [Clip.from_json(line, root) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n") if line]
    return [clip for clip in clips if split in (None, clip.split)]


def read_records(root: Path, split: str | None = None) -> list[ClipRecord]:
    """A set of either format, rendered or cut from videos, as training reads it.

    split: of clips that were cut from videos; a rendered set is one split as a whole. Clips cut from videos whose label
    is no kind of ours are left out. Raises InputError when there is no set.
    """
    if (root / "manifest.jsonl").is_file():
        return [clip.record() for clip in read_clips(root, split) if clip.kind in KINDS]
    return read_dataset(root)


def write_manifest(root: Path, clips: Iterable[Clip], dropped: Iterable[Clip], asked: dict) -> None:
    """Writes the three files of a set; `manifest.jsonl` last, which makes the set a finished one."""
    write_whole(root / "dataset.json", json.dumps({"format": FORMAT, "kind": "clips", **asked}, indent=1) + "\n")
    for name, rows in (("dropped.jsonl", dropped), ("manifest.jsonl", clips)):
        lines = [clip.to_json(root) + "\n" for clip in sorted(rows, key=lambda clip: clip.id)]
        write_whole(root / name, "".join(lines))


def verify_set(root: Path) -> int:
    """Checks every file of a set against its sha256; how many clips. Raises InputError naming the first bad one."""
    clips = read_clips(root)
    for clip in clips:
        for path, expected in ((clip.video, clip.video_sha256), (clip.audio, clip.audio_sha256)):
            if not path.is_file() or sha256_of(path) != expected:
                raise InputError(f"{path} is not the file that the manifest describes.", hint="Make the set again.")
    return len(clips)


def strengths_of(waveform: np.ndarray, onsets_s: np.ndarray, sample_rate: int) -> list[float]:
    """Loudest 30 ms level after each onset, float (N,) waveform -> 0 .. 1 each, relative to the loudest."""
    if not len(onsets_s):
        return []
    n = max(1, round(0.03 * sample_rate))
    levels = []
    for time_s in onsets_s:
        start = round(time_s * sample_rate)
        part = waveform[start : start + 3 * n].astype(np.float64)
        power = np.convolve(part**2, np.ones(min(n, max(1, len(part)))) / n, mode="valid") if len(part) else np.zeros(1)
        levels.append(float(np.sqrt(power.max(initial=0.0))))
    loudest = max(levels) or 1.0
    # 30 dB below the loudest is as good as nothing
    return [round(float(np.clip(1 + 20 * np.log10(max(level, 1e-9) / loudest) / 30, 0, 1)), 4) for level in levels]


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """The file is there with all of `text` or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def agree(path: Path, asked: dict, refusals: Mapping[str, str], may_lack: Collection[str] = ()) -> None:
    """Keeps in the file what a folder is made from. Raises InputError, refusals[key], where it was begun from else.

    may_lack: keys that files of older versions do not have; what they would say is as asked.
    """
    asked = json.loads(json.dumps(asked))
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        for key, value in asked.items():
            differs = held[key] != value if key in held else key not in may_lack
            if differs:
                raise InputError(refusals[key], hint="Choose an empty folder.")
    write_whole(path, json.dumps(asked, indent=1) + "\n")


def read_lines(path: Path) -> Iterator[str]:
    """Whole lines of an append-only file; a last line cut off by a kill is taken off the file first."""
    if not path.exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
    with open(path, encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)
