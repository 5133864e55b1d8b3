"""READ FIRST. The product as code: a silent clip in, the same clip with fitting sound out.

    generator = SoundGenerator.from_bundle(path, device="cpu")
    sound = generator.generate_file("clip.mp4", "out.mp4", limits=settings().cli_limits)
    # probe -> frames -> flow -> TSN features -> events -> mel (RegNet) -> waveform (WaveNet) -> mux

The clip's own sound is never looked at before the new one is finished.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from s2s.bundle import Bundle, load_bundle
from s2s.conditioning import choose_take, condition, take_code
from s2s.config import Limits
from s2s.errors import ArtifactError, Canceled, InputError
from s2s.events import Moment, OnProgress, Progress, ShouldStop, SoundEvent, Stage, ignore_progress, never_stop
from s2s.features import Seen, watch
from s2s.media.audio import finish, mix, read_audio
from s2s.media.mux import add_sound, check_output
from s2s.media.probe import MediaInfo, probe
from s2s.regnet.grain import OverlappingNoise
from s2s.timing.detect import find_events
from s2s.vocode import METHODS, vocode

WINDOW_S = 20.0  # of feature frames that RegNet sees at once
OVERLAP_S = 2.0  # shared by two windows and cross-faded
LONGEST_PUBLISHED_S = 10.0
TARGET_PEAK = 0.7  # full scale is 1; what a listener expects of a finished sound
LARGEST_RISE = 10.0  # 20 dB: more would lift the noise under a faint sound into a hiss
ROOM_TONE_NOTE = "No event was found in the picture; the sound is quiet room tone."
MOVED_OUT_NOTE = "The offset moved every event out of the clip."


@dataclass(frozen=True)
class Options:
    """How a person wants the sound. The defaults are what most people want."""

    seed: int = 0  # same clip, seed, bundle, engine, instruction set and threads: the same samples
    category: str | None = None  # one of the bundle's kinds; None: recognised from the picture
    events: tuple[Moment, ...] | None = None  # the moments to be heard; None: those found in the picture
    vocoder: str | None = None  # "wavenet" or "griffinlim"; None: the bundle's default
    offset_ms: float = 0.0  # later (+) or earlier (-)
    gain_db: float = 0.0
    mix_original: float = 0.0  # linear gain of the clip's own sound, 0: replaced
    reencode: bool = False  # H.264 + AAC that plays anywhere; default: the picture's packets are kept


@dataclass(frozen=True)
class GeneratedSound:
    waveform: np.ndarray  # float32 (N,), mono, -1 .. 1; exactly as long as the video
    sample_rate: int  # Hz
    mel: np.ndarray  # float32 (n_mels, M), published scale 0 .. 1
    events: list[SoundEvent]
    category: str | None  # the kind that was used; None where the bundle knows none
    category_confidence: float  # 0 .. 1; 1 where the person chose
    duration_s: float  # of the video
    seed: int
    notes: list[str] = field(default_factory=list)  # sentences for a person, e.g. ROOM_TONE_NOTE
    stage_seconds: dict[str, float] = field(default_factory=dict)  # wall seconds by stage

    def report(self) -> dict:
        """What travels beside the video: JSON, without the samples."""
        return {
            "duration_s": round(self.duration_s, 4),
            "sample_rate": self.sample_rate,
            "seed": self.seed,
            "category": self.category,
            "category_confidence": round(self.category_confidence, 4),
            "events": [event.to_dict() for event in self.events],
            "notes": self.notes,
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in self.stage_seconds.items()},
        }


class SoundGenerator:
    """Loaded once, used for many clips. A request's state is local to `generate`."""

    def __init__(self, bundle: Bundle):
        if "regnet" not in bundle.networks:
            raise ArtifactError(f"The bundle at {bundle.path} has no RegNet.", hint="Import one into it, or train it.")
        self._bundle = bundle
        self._clip = bundle.manifest.clip
        self.categories: tuple[str, ...] = tuple(bundle.manifest.categories)

    @classmethod
    def from_bundle(cls, path: Path, device: str = "cpu") -> SoundGenerator:
        """Raises ArtifactError when the bundle is missing, damaged, of another version or without a RegNet."""
        return cls(load_bundle(path, device))

    def generate(
        self,
        video: Path | MediaInfo,
        *,
        limits: Limits,
        options: Options = Options(),
        on_progress: OnProgress = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> GeneratedSound:
        """Raises InputError (the file or the options), Canceled, ProcessingError."""
        self._check(options)
        clock = _Clock(on_progress, should_stop)
        info = video
        if not isinstance(info, MediaInfo):
            with clock.stage(Stage.PROBE):
                info = probe(video, limits, should_stop)
        with clock.stage(Stage.FRAMES):  # FEATURES is part of the same pass
            seen = watch(info, self._bundle, limits=limits, on_progress=on_progress, should_stop=should_stop)
        with clock.stage(Stage.EVENTS):
            kinds, category, confidence = self._recognise(seen, options.category)
            events = self._find_events(seen, category) if options.events is None else _asked(options.events, category)
            events = [event for event in events if event.time_s < info.duration_s]
        with clock.stage(Stage.MEL):
            mel = self._predict_mel(seen, events, kinds, category, options.seed, should_stop)
        n_frames = len(seen.visual)
        del seen  # 80 MB for ten minutes
        with clock.stage(Stage.VOCODE):
            waveform = vocode(
                mel,
                self._bundle.networks.get("vocoder"),
                seed=options.seed,
                method=options.vocoder or self._bundle.manifest.default_vocoder,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        rate = self._clip.mel.sample_rate
        waveform = _in_time(waveform, round(n_frames / self._clip.video_rate * rate), rate)
        placed = options.events is not None or self._bundle.networks.get("timing") is not None
        if events or not placed:
            waveform = _levelled(waveform)
        waveform = _shift(waveform, round(options.offset_ms * rate / 1000))
        waveform = finish(waveform, round(info.duration_s * rate), rate, gain_db=options.gain_db)
        if not placed:
            events = _heard_events(waveform, category)
        else:
            events = [replace(event, time_s=event.time_s + options.offset_ms / 1000) for event in events]
        kept = [event for event in events if 0 <= event.time_s < info.duration_s]
        return GeneratedSound(
            waveform=waveform,
            sample_rate=rate,
            mel=mel,
            events=kept,
            category=category,
            category_confidence=confidence,
            duration_s=info.duration_s,
            seed=options.seed,
            notes=[] if kept else [MOVED_OUT_NOTE if events else ROOM_TONE_NOTE],
            stage_seconds=clock.seconds,
        )

    def generate_file(
        self,
        video: Path,
        output: Path,
        *,
        limits: Limits,
        options: Options = Options(),
        on_progress: OnProgress = ignore_progress,
        should_stop: ShouldStop = never_stop,
    ) -> GeneratedSound:
        """`generate`, then the video with its new sound at `output`, written whole or not at all."""
        clock = _Clock(on_progress, should_stop)
        with clock.stage(Stage.PROBE):
            info = probe(video, limits, should_stop)
            check_output(info, output, options.reencode)
        sound = self.generate(info, limits=limits, options=options, on_progress=on_progress, should_stop=should_stop)
        with clock.stage(Stage.MUX):
            if options.mix_original and info.has_audio:
                original = read_audio(video, sound.sample_rate, limits=limits, info=info, should_stop=should_stop)
                mixed = mix(sound.waveform, original, options.mix_original, sound.sample_rate)
                sound = replace(sound, waveform=mixed)
            add_sound(
                info, sound.waveform, sound.sample_rate, output, reencode=options.reencode, should_stop=should_stop
            )
        return replace(sound, stage_seconds={**clock.seconds, **sound.stage_seconds, "mux": clock.seconds["mux"]})

    def _check(self, options: Options) -> None:
        if options.category is not None and options.category not in self.categories:
            known = ", ".join(self.categories) or "none: this bundle does not know kinds"
            raise InputError(
                f"There is no kind of sound called {options.category!r}.",
                code="unknown_category",
                hint=f"Choose one of: {known}.",
            )
        if options.vocoder is not None and options.vocoder not in METHODS:
            raise InputError(
                f"There is no vocoder called {options.vocoder!r}.",
                code="bad_request",
                hint=f"Choose one of: {', '.join(METHODS)}.",
            )
        if options.events is not None and not self._bundle.networks["regnet"].config.condition_dim:
            raise InputError(
                "This bundle hears its moments in the picture and cannot be told them.",
                code="bad_request",
                hint="Leave out events, or use a bundle whose RegNet is conditioned on them.",
            )

    def _recognise(self, seen: Seen, chosen: str | None) -> tuple[np.ndarray, str | None, float]:
        """-> kind probabilities float32 (K,), the kind, how sure."""
        if not self.categories:
            return np.zeros(0, np.float32), None, 0.0
        if chosen is None and seen.kind_probabilities is not None:
            kind = int(seen.kind_probabilities.argmax())
            confidence = float(seen.kind_probabilities[kind])
        else:
            kind, confidence = self.categories.index(chosen or self.categories[0]), float(chosen is not None)
        # One kind sounds, not a mixture: a decoder fed with half a drum and half a bell plays neither.
        return np.eye(len(self.categories), dtype=np.float32)[kind], self.categories[kind], confidence

    def _find_events(self, seen: Seen, category: str | None) -> list[SoundEvent]:
        timing = self._bundle.networks.get("timing")
        if timing is None:
            return []
        return [
            SoundEvent(
                time_s=found.time_s, kind=category or "sound", strength=found.strength, confidence=found.confidence
            )
            for found in find_events(seen.motion, timing, str(self._bundle.device))
        ]

    def _predict_mel(
        self,
        seen: Seen,
        events: list[SoundEvent],
        kinds: np.ndarray,
        category: str | None,
        seed: int,
        should_stop: ShouldStop,
    ) -> np.ndarray:
        """-> float32 (n_mels, M) by windows that overlap and cross-fade; a clip of one window is one pass."""
        regnet, clip = self._bundle.networks["regnet"], self._clip
        n_frames = len(seen.visual)
        conditions = condition(events, kinds, n_frames, clip) if regnet.config.condition_dim else None
        takes = regnet.config.takes.get(category or "")
        if takes:
            z = take_code(choose_take(takes, seed), regnet.config.z_dim)
        else:
            z = torch.randn(regnet.config.z_dim, generator=torch.Generator().manual_seed(seed)).numpy()
        mel = np.zeros((clip.mel.n_mels, clip.n_mel_frames(n_frames)), np.float32)
        window, overlap = (round(seconds * float(clip.video_rate)) for seconds in (WINDOW_S, OVERLAP_S))
        rng = np.random.Generator(np.random.Philox(key=seed % 2**64))
        noise = OverlappingNoise(rng, overlap * clip.mel_per_frame, clip.mel)
        for start, end in _windows(n_frames, window, overlap):
            if should_stop():
                raise Canceled("The work was canceled.")
            told = None if conditions is None else conditions[start:end]
            part = regnet.draw_mel(seen.visual[start:end], z, told, noise, clip.mel)
            fade = np.ones(part.shape[1], np.float32)
            if start:
                fade[: overlap * clip.mel_per_frame] = np.linspace(0, 1, overlap * clip.mel_per_frame, dtype=np.float32)
            if end < n_frames:
                fade[-overlap * clip.mel_per_frame :] = np.linspace(
                    1, 0, overlap * clip.mel_per_frame, dtype=np.float32
                )
            mel[:, start * clip.mel_per_frame : end * clip.mel_per_frame] += part * fade
        return mel


class _Clock:
    """Wall seconds by stage; says the start and the end of each; stops between stages when asked to."""

    def __init__(self, on_progress: OnProgress, should_stop: ShouldStop):
        self.seconds: dict[str, float] = {}
        self._on_progress, self._should_stop = on_progress, should_stop

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        if self._should_stop():
            raise Canceled("The work was canceled.")
        self._on_progress(Progress(stage, 0, 1))
        start = time.perf_counter()
        yield
        self.seconds[str(stage)] = time.perf_counter() - start
        if stage is not Stage.FRAMES:  # that pass ends with its own count of FEATURES
            self._on_progress(Progress(stage, 1, 1))


def _asked(moments: tuple[Moment, ...], category: str | None) -> list[SoundEvent]:
    """A person's own moments in order of time; they are sure of them."""
    ordered = sorted(moments, key=lambda moment: moment.time_s)
    return [SoundEvent(moment.time_s, category or "sound", moment.strength, 1.0) for moment in ordered]


def _windows(n: int, window: int, overlap: int) -> Iterator[tuple[int, int]]:
    """(start, end) of windows that cover 0 .. n and share exactly `overlap`; the last may be longer than `window`."""
    start = 0
    while True:
        end = start + window
        if end + window // 2 >= n:
            yield start, n
            return
        yield start, end
        start = end - overlap


def _in_time(waveform: np.ndarray, n: int, rate: int) -> np.ndarray:
    """As long as its frames were to be seen, n samples. Published weights have 86 mel frames a second of picture, which
    play in 0.9985 s: nothing in the ten seconds they were made for, a second in ten minutes."""
    if len(waveform) == n or n <= LONGEST_PUBLISHED_S * rate:
        return waveform
    import librosa  # costs a second

    return librosa.resample(waveform, orig_sr=len(waveform), target_sr=n, res_type="soxr_hq")


def _levelled(waveform: np.ndarray) -> np.ndarray:
    """The loudest moment at `TARGET_PEAK`; one gain for the whole clip, so that soft events stay softer."""
    peak = float(max(waveform.max(initial=0.0), -waveform.min(initial=0.0)))
    if peak > 0:
        waveform *= np.float32(min(LARGEST_RISE, TARGET_PEAK / peak))  # in place: 53 MB for ten minutes
    return waveform


def _shift(waveform: np.ndarray, n: int) -> np.ndarray:
    """Later by n samples (earlier if negative), same length."""
    n = max(-len(waveform), min(n, len(waveform)))  # an offset may be longer than the clip
    if n == 0:
        return waveform
    shifted = np.zeros_like(waveform)
    if n > 0:
        shifted[n:] = waveform[: len(waveform) - n]
    else:
        shifted[:n] = waveform[-n:]
    return shifted


def _heard_events(waveform: np.ndarray, category: str | None) -> list[SoundEvent]:
    """Events of a bundle without a timing net: the onsets of the sound it made."""
    from s2s.evaluation.alignment import detect_onsets  # librosa's onset code costs a second to import

    level = np.abs(waveform)
    peak = float(level.max()) or 1.0
    onsets = detect_onsets(waveform)
    return [
        SoundEvent(
            float(t),
            category or "sound",
            strength=float(level[int(t * 22_050) : int(t * 22_050) + 2205].max(initial=0) / peak),
            confidence=1.0,
        )
        for t in onsets
    ]
