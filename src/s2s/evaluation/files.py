"""Alignment of sound in files, and of a bundle on a set of clips whose sound is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from s2s.config import settings
from s2s.errors import InputError
from s2s.evaluation.alignment import Alignment, detect_onsets, onset_f1, score_alignment
from s2s.evaluation.baselines import motion_energy_peaks
from s2s.media.audio import read_audio
from s2s.media.probe import probe
from s2s.media.video import decode_frames
from s2s.motion import MotionExtractor
from s2s.pipeline import Options, SoundGenerator
from s2s.synth.dataset import ClipRecord

SAMPLE_RATE = 22_050


def sound_of(path: Path) -> np.ndarray:
    """float32 (N,) mono at 22,050 Hz of a video or WAV file; a video's sound starts and ends with its picture.

    Raises InputError for a file that is missing or has no sound.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist.", code="not_found", hint="Check the path.")
    limits = settings().cli_limits
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"RIFF":
        return read_audio(path, SAMPLE_RATE, limits)
    return read_audio(path, SAMPLE_RATE, limits, info=probe(path, limits))


def score_files(reference: Path, candidate: Path) -> Alignment:
    """Onsets of the candidate's sound against those of the reference's; what outlasts the reference is not heard."""
    true, made = sound_of(reference), sound_of(candidate)
    return score_alignment(detect_onsets(true), detect_onsets(made[: len(true)]), len(true) / SAMPLE_RATE)


def score_bundle(
    generator: SoundGenerator,
    records: Sequence[ClipRecord],
    *,
    vocoder: str | None = None,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """End to end, video file in, waveform out, on rendered clips with exact events: means over clips with events.

    Beside it, on the same clips: `shuffled` (the sound made for another clip of the same kind, else of any) and
    `motion_energy` (peaks of motion as clicks). Raises InputError when no clip has an event.
    """
    limits = settings().cli_limits
    made: list[np.ndarray] = []
    kinds_right, silent_quiet, rows = [], [], []
    for index, record in enumerate(records):
        sound = generator.generate(record.video, limits=limits, options=Options(vocoder=vocoder))
        made.append(detect_onsets(sound.waveform) if sound.events else np.zeros(0))
        kinds = {event.kind for event in record.events}
        if kinds:
            kinds_right.append(sound.category in kinds)
        else:
            silent_quiet.append(not sound.events)
        on_clip(index + 1, len(records))
    for index, record in enumerate(records):
        if not record.events:
            continue
        true = record.event_times_s
        others = [
            i
            for i, other in enumerate(records)
            if i != index and other.events and other.events[0].kind == record.events[0].kind
        ]
        others = others or [i for i in range(len(records)) if i != index]
        other = made[others[index % len(others)]] if others else np.zeros(0)
        score = score_alignment(true, made[index], record.duration_s)
        rows.append(
            (
                score.f1_50ms,
                score.f1_100ms,
                score.strict_skill,
                score.lag_corrected_skill,
                onset_f1(true, other, 0.05),
                score_alignment(true, other, record.duration_s).strict_skill,
                onset_f1(true, _motion_energy(record.video), 0.05),
            )
        )
    names = (
        "f1_50ms",
        "f1_100ms",
        "strict_skill",
        "lag_corrected_skill",
        "shuffled_f1_50ms",
        "shuffled_strict_skill",
        "motion_energy_f1_50ms",
    )
    if not rows:
        raise InputError("None of these clips has an event to be placed.", hint="Give clips in which something sounds.")
    means = dict(zip(names, np.nanmean(np.array(rows, float), axis=0).round(4).tolist(), strict=True))
    return {
        "clips": len(records),
        **means,
        "kind_accuracy": round(float(np.mean(kinds_right)), 4),
        **({"silent_clips_left_quiet": round(float(np.mean(silent_quiet)), 4)} if silent_quiet else {}),
    }


def _motion_energy(video: Path) -> np.ndarray:
    limits = settings().cli_limits
    info, extractor = probe(video, limits), MotionExtractor()
    for frame in decode_frames(info, limits=limits):
        extractor.push(frame.grey, frame.time_s)
    return motion_energy_peaks(extractor.finish(info.duration_s))
