"""Which kind does it sound like? A linear probe on YAMNet's embeddings, taught by recordings alone.

Never by a sound of ours and never by a package that training used (`s2s.evaluation.recordings`): a judge that learned
from generated sound would find it convincing. How good the judge is stands beside every verdict: its accuracy on the
true sounds of the same clips, and on recordings of packages that were kept from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from s2s.evaluation.recordings import Recording, fetch, load
from s2s.evaluation.yamnet import Yamnet, fetch_yamnet
from s2s.synth.banks import SAMPLE_RATE
from s2s.synth.script import KINDS
from s2s.synth.sounds import reverb, room_tone

CLIPS_PER_KIND = 40
CLIP_S = 4.0
SEED = 5
PENALTY = 1e5  # of the probe; chosen on recordings of packages that were held out (.48; .43 with 100, .45 with 3000)
FORMAT = 2  # raised when the same recordings make another judge


class KindJudge:
    """`name` says the kind of a waveform; `embed` is the view that distances between sets are measured in."""

    def __init__(self, yamnet: Yamnet, mean: np.ndarray, weights: np.ndarray, bias: np.ndarray, held_out: float):
        self._yamnet, self._mean, self._weights, self._bias = yamnet, mean, weights, bias
        self.held_out_accuracy = held_out  # on recordings of packages that were kept from it, mean over kinds

    def name(self, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> str | None:
        """float (N,) -> one of KINDS; None for silence."""
        windows = self.embed(waveform, sample_rate)
        if not len(windows):
            return None
        return KINDS[int(((summarise(windows) - self._mean) @ self._weights + self._bias).argmax())]

    def embed(self, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """float (N,) -> float32 (W, 1024)."""
        return self._yamnet.windows(waveform, sample_rate)


def summarise(windows: np.ndarray) -> np.ndarray:
    """Embeddings float32 (W, 1024) of a clip -> (2048,): their mean and their largest values."""
    return np.concatenate([windows.mean(axis=0), windows.max(axis=0)])


def kind_judge(folder: Path, on_clip: Callable[[int, int], None] = lambda done, total: None) -> KindJudge:
    """The judge kept in `folder`; made there the first time (0.4 GB of downloads, about a CPU-minute)."""
    folder = Path(folder)
    yamnet, home = Yamnet(fetch_yamnet(folder)), folder / f"kinds-{FORMAT}.npz"
    if not home.exists():
        fetch(folder / "recordings")
        clips = recorded_clips(load(folder / "recordings"))
        features, kinds, packages = [], [], []
        for number, (recording, waveform) in enumerate(clips, start=1):
            windows = yamnet.windows(waveform, SAMPLE_RATE)
            if len(windows):
                features.append(summarise(windows))
                kinds.append(KINDS.index(recording.kind))
                packages.append(recording.package)
            on_clip(number, len(clips))
        x, y, groups = np.stack(features), np.array(kinds), np.array(packages)
        mean, weights, bias = train_probe(x, y)
        (folder / f"kinds-{FORMAT}.json").write_text(json.dumps(leave_packages_out(x, y, groups), indent=2))
        partial = home.with_suffix(".partial.npz")
        np.savez(partial, mean=mean, weights=weights, bias=bias)
        partial.replace(home)
    held_out = json.loads((folder / f"kinds-{FORMAT}.json").read_text())
    return KindJudge(yamnet, **np.load(home), held_out=held_out["accuracy"])


def recorded_clips(recordings: Sequence[Recording]) -> list[tuple[Recording, np.ndarray]]:
    """`CLIPS_PER_KIND` clips a kind, each of one recording hit in some rhythm, in some room: float32 (N,) each.

    Packages of a kind come equally often, however many takes they hold.
    """
    clips = []
    for kind in KINDS:
        packages: dict[str, list[Recording]] = {}
        for recording in recordings:
            if recording.kind == kind:
                packages.setdefault(recording.package, []).append(recording)
        names = sorted(packages)
        for number in range(CLIPS_PER_KIND if names else 0):
            rng = np.random.default_rng([SEED, KINDS.index(kind), number])
            takes = packages[names[number % len(names)]]
            recording = takes[rng.integers(len(takes))]
            clips.append((recording, _perform(recording.samples, rng)))
    return clips


def _perform(take: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 (n,) of one hit -> float32 (N,): hits at any distance, as loud and high as they come."""
    n = round(CLIP_S * SAMPLE_RATE)
    x = np.zeros(n)
    step = 2 ** rng.uniform(-0.25, 0.25)  # one instrument a clip, of any size
    take = np.interp(np.arange(0, len(take) - 1, step), np.arange(len(take)), take)
    gap_s, at_s = np.exp(rng.uniform(np.log(0.2), np.log(2.0))), rng.uniform(0, 1.0)
    while at_s < CLIP_S - 0.2:
        start = round(at_s * SAMPLE_RATE)
        part = take[: n - start]
        x[start : start + len(part)] += part * 10 ** (rng.uniform(-15, 0) / 20)
        at_s += gap_s * rng.uniform(0.7, 1.4)
    if rng.random() < 0.7:
        x = reverb(x, rng)
    return (0.7 * x / np.abs(x).max() + room_tone(n, rng)).astype(np.float32)


def train_probe(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, d), kinds (n,) -> mean (d,), weights (d, 10), bias (10,) with the scaling folded in."""
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=PENALTY, class_weight="balanced")).fit(x, y)
    scaler, probe = model[0], model[1]
    weights, bias = np.zeros((x.shape[1], len(KINDS))), np.full(len(KINDS), -1e9)  # a kind never heard is never named
    coefficients, intercepts = probe.coef_, probe.intercept_
    if len(probe.classes_) == 2:  # scikit-learn keeps one row then
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    weights[:, probe.classes_], bias[probe.classes_] = (coefficients / scaler.scale_).T, intercepts
    return scaler.mean_, weights, bias


def leave_packages_out(x: np.ndarray, y: np.ndarray, packages: np.ndarray) -> dict:
    """Accuracy on each package by a probe that has not heard it; kinds that only this package holds are left out."""
    rows = []
    for package in sorted(set(packages)):
        out = packages == package
        known = out & np.isin(y, y[~out])
        if known.any():
            mean, weights, bias = train_probe(x[~out], y[~out])
            rows += zip(y[known], ((x[known] - mean) @ weights + bias).argmax(axis=1), strict=True)
    true, named = np.array(rows).T
    by_kind = {KINDS[k]: round(float((named[true == k] == k).mean()), 4) for k in sorted(set(true))}
    return {"accuracy": round(float(np.mean(list(by_kind.values()))), 4), "by_kind": by_kind}
