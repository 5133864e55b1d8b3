"""The procedural set on disk: shards of clips with picture, sound and exact events.

    OUT/dataset.json                 what was asked for
    OUT/shard-0000/index.jsonl       one clip a line, see `ClipRecord`
    OUT/shard-0000/video/ID.mp4      H.264
    OUT/shard-0000/audio/ID.flac     22,050 Hz mono, where a sound bank was given
    OUT/shard-0000/COMPLETE          written last
    OUT/contact-sheet.png            what the clips look like around an event
    OUT/licences.json                whose every sound and photograph is (`s2s data synth`)

A clip depends on (seed, split, number) alone, so a killed run goes on where it stopped and makes the same set.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import soundfile

from s2s.errors import InputError
from s2s.synth.photos import PhotoBank
from s2s.synth.render import write_video
from s2s.synth.scenes import SPLITS, draw_clip, make_script
from s2s.synth.scenes_solid import draw_solid_clip
from s2s.synth.script import ScriptedEvent
from s2s.synth.sounds import SAMPLE_RATE, SoundBank, mix_clip

log = logging.getLogger(__name__)

SCENES = ("drawn", "solid")
SHARD_CLIPS = 100
FORMAT = 2  # raised when the same seed makes other clips


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a set. Paths are absolute when read; in the index they are relative to the shard."""

    id: str
    split: str
    duration_s: float
    width: int
    height: int
    n_frames: int
    events: list[ScriptedEvent]
    factors: dict[str, str]
    video: Path
    audio: Path | None
    sounds: list[dict] = field(default_factory=list)  # source, licence and author of each sound heard
    photos: list[dict] = field(default_factory=list)  # and of each photograph seen

    @property
    def event_times_s(self) -> np.ndarray:
        """float64 (K,), in order."""
        return np.array([e.time_s for e in self.events])

    def to_json(self) -> str:
        data = asdict(self)
        data["video"] = f"video/{self.video.name}"
        data["audio"] = f"audio/{self.audio.name}" if self.audio else None
        if not self.photos:
            del data["photos"]
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, line: str, shard: Path) -> ClipRecord:
        data = json.loads(line)
        data["events"] = [ScriptedEvent(**event) for event in data["events"]]
        data["video"] = shard / data["video"]
        data["audio"] = shard / data["audio"] if data["audio"] else None
        return cls(**data)


def make_dataset(
    out: Path,
    n_clips: int,
    seed: int,
    split: str,
    bank: SoundBank | None,
    *,
    duration_s: float = 6.0,
    short_side_px: int = 144,
    scenes: str = "drawn",
    photos: Path | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> list[ClipRecord]:
    """Makes, or finishes, a set of `n_clips` under `out`; more clips may be asked of the same set later.

    bank: where sounds come from; None makes silent films. on_clip(done, total) is called after each clip.
    scenes: "drawn" or "solid". photos: folder of photographs (`s2s.synth.photos`) for backgrounds and surfaces.
    Raises InputError when `out` holds a set that was asked for differently.
    """
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}.", hint=f"Splits are {', '.join(SPLITS)}.")
    if scenes not in SCENES:
        raise InputError(f"There are no {scenes!r} scenes.", hint=f"Scenes are {' or '.join(SCENES)}.")
    out.mkdir(parents=True, exist_ok=True)
    asked = {
        "format": FORMAT,
        "seed": seed,
        "split": split,
        "sound": bank is not None,
        "duration_s": duration_s,
        "short_side_px": short_side_px,
    }
    if bank is not None and bank.recordings:
        asked["recordings"] = True
    if scenes != "drawn":
        asked["scenes"] = scenes
    if photos is not None:
        asked["photos"] = True
    _agree(out / "dataset.json", asked)
    album = PhotoBank(photos, split) if photos is not None else None
    records: list[ClipRecord] = []
    for start in range(0, n_clips, SHARD_CLIPS):
        numbers = range(start, min(n_clips, start + SHARD_CLIPS))
        shard = out / f"shard-{start // SHARD_CLIPS:04d}"
        for folder in ("video", "audio"):
            (shard / folder).mkdir(parents=True, exist_ok=True)
        done = {record.id: record for record in read_shard(shard)}
        with open(shard / "index.jsonl", "a", encoding="utf-8") as index:
            for number in numbers:
                clip_id = f"{split}-{seed}-{number:06d}"
                if clip_id not in done:
                    done[clip_id] = make_clip(
                        shard, clip_id, seed, number, split, bank, duration_s, short_side_px, scenes, album
                    )
                    index.write(done[clip_id].to_json() + "\n")
                    index.flush()
                records.append(done[clip_id])
                on_clip(len(records), n_clips)
        if len(numbers) == SHARD_CLIPS or numbers.stop == n_clips:
            (shard / "COMPLETE").write_text(f"{len(numbers)}\n")
        cv2.imwrite(str(out / "contact-sheet.png"), contact_sheet(records[-24:]))
    return records


def make_clip(
    shard: Path,
    clip_id: str,
    seed: int,
    number: int,
    split: str,
    bank: SoundBank | None,
    duration_s: float,
    short_side_px: int,
    scenes: str = "drawn",
    album: PhotoBank | None = None,
) -> ClipRecord:
    """One clip, drawn, filmed, sounded and written."""
    script_rng, picture_rng, sound_rng = (
        np.random.default_rng([seed, SPLITS.index(split), number, part]) for part in range(3)
    )
    if scenes == "solid":
        events, clip = draw_solid_clip(picture_rng, split, duration_s, short_side_px, album)
    else:
        events = make_script(script_rng, split, duration_s)
        clip = draw_clip(events, duration_s, split, picture_rng, short_side_px, album)
    video = shard / "video" / f"{clip_id}.mp4"
    part = video.with_suffix(".part.mp4")
    n_frames = write_video(part, clip.frames, clip.recording, clip.size)
    part.rename(video)
    audio, sounds = None, []
    if bank is not None:
        waveform, placed = mix_clip(events, duration_s, bank, sound_rng)
        audio = shard / "audio" / f"{clip_id}.flac"
        soundfile.write(audio, waveform, SAMPLE_RATE)
        sounds = list({p.record.source: p.record.to_dict() for p in placed}.values())
    seen = [album.credit(name) for name in sorted(set(clip.photos))] if album else []
    return ClipRecord(
        clip_id, split, duration_s, *clip.size, n_frames, events, clip.factors, video, audio, sounds, seen
    )


def write_licences(out: Path, records: list[ClipRecord]) -> None:
    """OUT/licences.json: every sound and photograph of the set, whose it is, its licence, and in how many clips."""
    heard, seen = (
        _counted(owned for record in records for owned in part(record))
        for part in (lambda record: record.sounds, lambda record: record.photos)
    )
    pictures = {"source": "drawn by s2s.synth", "license": "Apache-2.0", "clips": len(records)}
    found = {"pictures": pictures, "sounds": heard, **({"photographs": seen} if seen else {})}
    (out / "licences.json").write_text(json.dumps(found, indent=1) + "\n")


def _counted(owned: Iterable[dict]) -> list[dict]:
    counts: dict[str, dict] = {}
    for one in owned:
        counts.setdefault(json.dumps(one, sort_keys=True), {**one, "clips": 0})["clips"] += 1
    return [counts[key] for key in sorted(counts)]


def read_shard(shard: Path) -> list[ClipRecord]:
    """The clips of a shard whose files are there, finished or not. A line cut off by a kill is left out."""
    index = shard / "index.jsonl"
    if not index.exists():
        return []
    lines = index.read_text(encoding="utf-8").split("\n")
    if lines[-1]:  # cut off: what comes next must start on a line of its own
        index.write_text("\n".join([*lines[:-1], ""]), encoding="utf-8")
    return [ClipRecord.from_json(line, shard) for line in lines[:-1] if line]


def read_dataset(root: Path, complete_only: bool = True) -> list[ClipRecord]:
    """All clips of a set in order. Raises InputError when there is none."""
    shards = sorted(p for p in root.glob("shard-*") if not complete_only or (p / "COMPLETE").exists())
    records = [record for shard in shards for record in read_shard(shard)]
    if not records:
        raise InputError(f"{root} holds no finished shard of clips.", hint="Make one with `s2s data synth`.")
    return records


def contact_sheet(records: list[ClipRecord], height_px: int = 96) -> np.ndarray:
    """BGR uint8 picture: a row a clip, six moments around one of its events; the fourth is the contact."""
    rows = []
    for record in records:
        times = record.event_times_s
        contact_s = float(times[len(times) // 2]) if len(times) else record.duration_s / 2
        frames = _frames_near(record.video, [contact_s + d for d in (-0.3, -0.15, -0.06, 0.0, 0.06, 0.15)])
        cells = []
        for frame in frames:
            width = min(height_px * 16 // 9, round(frame.shape[1] * height_px / frame.shape[0]))
            cell = np.zeros((height_px, height_px * 16 // 9, 3), np.uint8)
            cell[:, :width] = cv2.resize(frame, (width, height_px), interpolation=cv2.INTER_AREA)
            cells.append(cell)
        kinds = ",".join(sorted({e.kind for e in record.events})) or "silent"
        text = f"{kinds}: {record.factors.get('target', '')} {record.factors.get('mover', '')}"
        cv2.putText(cells[0], text[:32], (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.33, (0, 255, 255), 1, cv2.LINE_AA)
        rows.append(np.hstack(cells))
    return np.vstack(rows)


def _frames_near(video: Path, times_s: list[float]) -> list[np.ndarray]:
    best: list[tuple[float, np.ndarray | None]] = [(1e9, None)] * len(times_s)
    for time_s, image in _decode(video):
        for i, wanted in enumerate(times_s):
            if abs(time_s - wanted) < best[i][0]:
                best[i] = (abs(time_s - wanted), image)
    return [image for _, image in best if image is not None]


def _decode(video: Path) -> Iterator[tuple[float, np.ndarray]]:
    import av

    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            yield float(frame.time), frame.to_ndarray(format="bgr24")


def _agree(path: Path, asked: dict) -> None:
    if path.exists():
        held = json.loads(path.read_text())
        if held != asked:
            differing = sorted(k for k in {*asked, *held} if held.get(k) != asked.get(k))
            raise InputError(
                f"{path.parent} holds a set made with another {', '.join(differing)}.",
                hint="Choose an empty folder, or ask for the same set.",
            )
    else:
        path.write_text(json.dumps(asked, indent=1) + "\n")
