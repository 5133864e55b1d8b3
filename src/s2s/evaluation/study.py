"""A bundle on a set of clips whose true sound is known: every measure, beside everything it has to beat.

    clips = rendered_clips(Path("var/evaluation/renders"), 60, recorded)
    study = run_study(load_bundle(path), clips, kind_judge(Path("var/evaluation")), Path("report"))

Systems that stand beside the bundle's sound (`SYSTEMS`): silence; the true sound of another clip of the same kind; the
true sound of the clip whose picture and motion are most alike (retrieval); peaks of motion energy as clicks; and the
true mel spectrogram through the bundle's vocoder and through Griffin-Lim, which is what a perfect decoder would reach.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import soundfile
from torch import nn

from s2s.bundle import Bundle
from s2s.config import settings
from s2s.data.manifest import read_clips
from s2s.errors import InputError
from s2s.evaluation.alignment import detect_onsets
from s2s.evaluation.baselines import motion_energy, peaks_of_energy
from s2s.evaluation.files import sound_of
from s2s.evaluation.kinds import KindJudge
from s2s.evaluation.measures import at_level_of, clicks, frechet_distance, likeness, onset_ap, placement
from s2s.media.gate import VIDEO_SUFFIXES
from s2s.media.mux import add_sound
from s2s.media.probe import probe
from s2s.media.video import decode_frames
from s2s.mel import mel_spectrogram
from s2s.motion import MotionExtractor
from s2s.pipeline import Options, SoundGenerator
from s2s.spec import MelSpec
from s2s.synth.dataset import make_dataset
from s2s.synth.script import KINDS
from s2s.synth.sounds import SoundBank, mix_clip
from s2s.vocode import vocode

RATE = MelSpec().sample_rate
OURS, TRUE = "this bundle", "true sound"
SYSTEMS = (
    OURS, "silence", "another clip of the same kind", "retrieval", "motion-energy clicks", "true mel, vocoder",
    "true mel, Griffin-Lim 32", TRUE,
)  # fmt: skip
RENDER_SEED = 3  # no training uses it
THUMBNAIL_PX = (16, 12)


@dataclass(frozen=True)
class JudgedClip:
    """A clip whose sound is known. `kind` is None where nothing sounds or nobody said."""

    name: str
    video: Path
    sound: np.ndarray  # float32 (N,), 22,050 Hz
    onsets_s: np.ndarray  # the true moments: exact for renders, detected in the true sound elsewhere
    kind: str | None
    duration_s: float


@dataclass(frozen=True)
class _Look:
    """What the picture alone tells: peaks of motion, its course (50 Hz), a small grey picture."""

    peaks_s: np.ndarray
    energy: np.ndarray
    thumbnail: np.ndarray


def rendered_clips(
    folder: Path, n_clips: int, recorded: Path | None, on_clip: Callable[[int, int], None] = lambda done, total: None
) -> list[JudgedClip]:
    """Renders of factors that training never saw, sounded by instances and recordings that it never heard."""
    bank = SoundBank("test", recorded)
    clips = []
    for number, record in enumerate(make_dataset(folder, n_clips, RENDER_SEED, "test", None, on_clip=on_clip)):
        sound, _ = mix_clip(record.events, record.duration_s, bank, np.random.default_rng([RENDER_SEED, number]))
        kinds = sorted({event.kind for event in record.events})
        kind = kinds[0] if len(kinds) == 1 else None
        clips.append(JudgedClip(record.id, record.video, sound, record.event_times_s, kind, record.duration_s))
    return clips


def clips_of_folder(folder: Path) -> list[JudgedClip]:
    """The test clips of a set (`s2s data folder`; all clips where none is for testing), or any folder of videos with
    sound. True onsets are detected in the true sound. Raises InputError for a folder without either, or none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.", code="not_found", hint="Check the path.")
    clips = []
    if (folder / "manifest.jsonl").is_file():
        held = read_clips(folder)
        for clip in [c for c in held if c.split == "test"] or held:
            sound = soundfile.read(clip.audio, dtype="float32", always_2d=True)[0].mean(axis=1)
            clips.append(
                JudgedClip(clip.id, clip.video, sound, np.array(clip.onsets_s), clip.kind, float(clip.duration_s))
            )
    else:
        for video in sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES):
            if probe(video, settings().cli_limits).has_audio:
                sound = sound_of(video)
                clips.append(JudgedClip(video.name, video, sound, detect_onsets(sound), None, len(sound) / RATE))
    if not clips:
        raise InputError(f"{folder} holds no video with sound.", hint="Give a set of `s2s data folder`, or videos.")
    return clips


def run_study(
    bundle: Bundle,
    clips: Sequence[JudgedClip],
    judge: KindJudge | None,
    out: Path,
    *,
    vocoder: str | None = None,
    extra_seeds: int = 8,
    leak_checks: int = 4,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Every measure as JSON-able numbers; sounds are kept as `out`/sounds/NAME.SYSTEM.flac for the report.

    extra_seeds: how many clips are made once more with another seed; leak_checks: once more with a foreign sound track.
    """
    limits, generator = settings().cli_limits, SoundGenerator(bundle)
    (out / "sounds").mkdir(parents=True, exist_ok=True)
    looks = [_look(clip.video) for clip in clips]
    rows, kinds_named, embedded = [], [], {system: [] for system in SYSTEMS}
    diversity, leaks = [], []
    for index, clip in enumerate(clips):
        made = generator.generate(clip.video, limits=limits, options=Options(vocoder=vocoder))
        sounds = _sounds(bundle.networks.get("vocoder"), clips, looks, index, made.waveform)
        row = {
            "clip": clip.name,
            "kind": clip.kind,
            "category": made.category,
            "video": str(clip.video),
            "duration_s": clip.duration_s,
            "onsets_s": clip.onsets_s.round(3).tolist(),
            "events_s": [round(event.time_s, 3) for event in made.events],
            "systems": {},
        }
        named = {}
        for system, sound in sounds.items():
            soundfile.write(out / "sounds" / f"{clip.name}.{SYSTEMS.index(system)}.flac", sound, RATE)
            heard = np.zeros(0) if system == OURS and not made.events else detect_onsets(sound)
            measured = likeness(clip.sound, at_level_of(clip.sound, sound))
            if len(clip.onsets_s):
                measured |= placement(clip.onsets_s, heard, looks[index].peaks_s, clip.duration_s)
                measured["onset_ap"] = onset_ap(clip.onsets_s, heard, sound)
            row["systems"][system] = {name: _number(value) for name, value in measured.items()}
            if judge is not None and clip.kind is not None and system not in ("silence", "motion-energy clicks"):
                named[system] = judge.name(sound)
                embedded[system].append(judge.embed(sound))
        row["named"] = named
        if named:
            kinds_named.append((clip.kind, made.category, named))
        rows.append(row)
        if len(diversity) < extra_seeds and made.events:
            other = generator.generate(clip.video, limits=limits, options=Options(vocoder=vocoder, seed=1))
            diversity.append(100 * float(np.abs(other.mel - made.mel).mean()))
        in_one_piece = probe(clip.video, limits).container.n_edits == 1  # its packets can be muxed as they are
        if len(leaks) < leak_checks and made.events and in_one_piece:
            leaks.append(_leak(generator, clip, made.waveform, Options(vocoder=vocoder)))
        on_clip(index + 1, len(clips))
    return {
        "clips": len(clips),
        "clips_with_events": sum(len(clip.onsets_s) > 0 for clip in clips),
        "means": {system: _means([row["systems"][system] for row in rows if system in row["systems"]])
                  for system in SYSTEMS},
        "kinds": _kind_report(kinds_named, judge),
        "frechet_distance_yamnet_pca32": {
            system: _number(frechet_distance(*(np.concatenate(embedded[s]) for s in (TRUE, system))))
            for system in SYSTEMS if embedded[system] and embedded[TRUE] and system != TRUE
        },
        "diversity_mel_l1_db": {"same clip, two seeds": _number(np.mean(diversity)) if diversity else None},
        "leak_guard": {name: max(leak[name] for leak in leaks) for name in leaks[0]} if leaks else {},
        "rows": rows,
    }  # fmt: skip


def _sounds(
    vocoder: nn.Module | None, clips: Sequence[JudgedClip], looks: Sequence[_Look], index: int, ours: np.ndarray
) -> dict[str, np.ndarray]:
    """The sound of every system for one clip, float32 (N,) each. Systems that need other clips need other clips."""
    clip, n = clips[index], len(clips[index].sound)
    mel = mel_spectrogram(clip.sound)[:, : -(-n // MelSpec().hop_length)]
    sounds = {OURS: ours, "silence": np.zeros(n, np.float32), TRUE: clip.sound}
    sounds["motion-energy clicks"] = clicks(looks[index].peaks_s, n)
    sounds["true mel, Griffin-Lim 32"] = vocode(mel, None, seed=0, method="griffinlim")
    if vocoder is not None:
        sounds["true mel, vocoder"] = vocode(mel, vocoder, seed=0)
    others = [i for i in range(len(clips)) if i != index and len(clips[i].onsets_s)]
    alike = [i for i in others if clips[i].kind == clip.kind and clip.kind is not None]
    if alike or others:
        pool = alike or others
        sounds["another clip of the same kind"] = clips[pool[index % len(pool)]].sound
        nearest = max(others, key=lambda i: _resemblance(looks[index], looks[i]))
        sounds["retrieval"] = clips[nearest].sound
    return {system: _fit(sounds[system], n) for system in SYSTEMS if system in sounds}


def _fit(sound: np.ndarray, n: int) -> np.ndarray:
    return np.pad(sound[:n], (0, max(0, n - len(sound)))).astype(np.float32)


def _look(video: Path) -> _Look:
    limits = settings().cli_limits
    info, extractor, thumbnail = probe(video, limits), MotionExtractor(), None
    for frame in decode_frames(info, limits=limits):
        extractor.push(frame.grey, frame.time_s)
        if thumbnail is None:
            thumbnail = cv2.resize(frame.grey, THUMBNAIL_PX, interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    energy = motion_energy(extractor.finish(info.duration_s))
    return _Look(peaks_of_energy(energy), energy, thumbnail)


def _resemblance(a: _Look, b: _Look) -> float:
    """Correlation of the course of motion plus correlation of the first picture, -2 .. 2."""
    n = min(len(a.energy), len(b.energy))
    return sum(
        float(np.corrcoef(x, y)[0, 1]) if x.std() > 1e-9 and y.std() > 1e-9 else 0.0
        for x, y in ((a.energy[:n], b.energy[:n]), (a.thumbnail, b.thumbnail))
    )


def _leak(generator: SoundGenerator, clip: JudgedClip, made: np.ndarray, options: Options) -> dict:
    """The same picture with a foreign sound track: the sound made for it must not change by a sample."""
    rng = np.random.default_rng(0)
    foreign = clicks(rng.uniform(0, clip.duration_s, 8), len(clip.sound)) * 3
    with tempfile.TemporaryDirectory() as scratch:
        dubbed = Path(scratch) / f"dubbed{clip.video.suffix}"
        add_sound(probe(clip.video, settings().cli_limits), foreign, RATE, dubbed)
        again = generator.generate(dubbed, limits=settings().cli_limits, options=options).waveform
    n = min(len(again), len(made))
    change = float(np.abs(again[:n] - made[:n]).max())
    return {"largest_change": change, "length_change": float(abs(len(again) - len(made)))}


def _kind_report(named: list, judge: KindJudge | None) -> dict | None:
    """Accuracy by system, the recogniser's own accuracy, and who is taken for whom on true sounds and on ours."""
    if judge is None or not named:
        return None
    systems = sorted({system for _, _, names in named for system in names}, key=SYSTEMS.index)
    accuracy = {
        system: _number(np.mean([names[system] == kind for kind, _, names in named if system in names]))
        for system in systems
    }
    tables = {
        "true": lambda kind, category, names: names[TRUE],
        "ours": lambda kind, category, names: names[OURS],
        "recognised from the picture": lambda kind, category, names: category,
    }
    right = [(category, names) for kind, category, names in named if category == kind]
    return {
        "judge_on_recordings_of_unheard_packages": judge.held_out_accuracy,
        "accuracy": accuracy,
        "share_of_true": _number(accuracy[OURS] / accuracy[TRUE]) if accuracy.get(TRUE) else None,
        "picture_recognised": _number(np.mean([category == kind for kind, category, _ in named])),
        "accuracy_where_the_picture_was_recognised": (
            {s: _number(np.mean([names[s] == category for category, names in right])) for s in (OURS, TRUE)}
            if right else None
        ),
        "confusion": {
            title: {
                kind: _counts([read(*item) for item in named if item[0] == kind])
                for kind in KINDS if any(item[0] == kind for item in named)
            }
            for title, read in tables.items()
        },
    }  # fmt: skip


def _counts(names: Sequence[str | None]) -> dict[str, int]:
    return {str(name): names.count(name) for name in sorted(set(names), key=lambda n: -names.count(n))}


def _means(rows: Sequence[dict]) -> dict:
    """Mean of each measure over the clips where it is defined; offsets by their median."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    means = {}
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        means[name] = _number((np.median if name.endswith("offset_ms") else np.mean)(values)) if values else None
    return means


def _number(value: float) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def save_study(study: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(study, indent=1))
