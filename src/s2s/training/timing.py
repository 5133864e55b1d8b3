"""Trains the timing net on rendered clips.

    python -m s2s.training.timing --data SET... --validation SET --run-dir RUN --minutes 6

Motion features are measured once, by the decoder that serving uses, and kept in RUN/../motion-cache. The best
weights on the validation set (mean F1 at 50 ms, thresholds chosen there too) are RUN/timing.safetensors with
RUN/timing.json, always whole. A killed run goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import torch
import typer
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch.nn import functional as F

from s2s.data.manifest import read_records
from s2s.evaluation.alignment import onset_f1
from s2s.media import decode_worker
from s2s.media.video import grey_size
from s2s.motion import CELL_CHANNELS, FEATURES_VERSION, MotionExtractor, MotionFeatures
from s2s.spec import TIMING_RATE
from s2s.synth.dataset import ClipRecord
from s2s.timing.detect import detect_events, event_curves
from s2s.timing.net import TimingConfig, TimingNet, liveliness
from s2s.training.checkpoint import Ema, load_checkpoint, save_checkpoint
from s2s.training.progress import Reporter

log = logging.getLogger(__name__)


class TimingTraining(BaseModel):
    """How the timing net is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    net: TimingConfig = TimingConfig()
    seed: int = 0
    steps: int = Field(2000, gt=0)
    batch_size: int = 16
    crop_ticks: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    target_sigma_s: float = 0.026
    positive_weight: float = 3.0
    strength_weight: float = 0.3
    n_cells: int = Field(16, gt=0, description="liveliest cells that are shown; the net may be read with more of them")
    overlay: float = Field(0.25, description="share of examples that show two clips at once")
    warp: tuple[float, float] = (0.75, 1.33)
    group_dropout: float = 0.08
    cell_dropout: float = 0.15
    gain_noise: float = 0.3
    slow_share: float = Field(0.3, description="share of examples seen at a lower frame rate")
    slow_ticks: tuple[float, float] = (1.3, 4.5)
    ema: float = 0.995
    validate_every: int = 200


@dataclass(frozen=True)
class Example:
    """One clip as the net sees it."""

    id: str
    cells: np.ndarray  # float16 (N, 48, C)
    scene: np.ndarray  # float16 (N, G)
    order: np.ndarray  # int (48,), cells from the liveliest to the stillest
    times_s: np.ndarray
    strengths: np.ndarray
    duration_s: float

    def motion(self) -> MotionFeatures:
        cells, scene = self.cells.astype(np.float32), self.scene.astype(np.float32)
        return MotionFeatures(self.duration_s, cells, scene, np.zeros(len(cells), np.float32))


def measure_motion(record: ClipRecord) -> MotionFeatures:
    """Motion of a clip that this project rendered, decoded by the code that serving runs.

    Serving runs it in a process of its own with limits, because an upload is not trusted; our own files need no guard.
    """
    request = {
        "threads": 1,
        "rate": None,
        "duration": str(record.duration_s),
        "rotation": 0,
        "n_ticks": 0,
        "rgb": None,
        "grey": grey_size(record.width, record.height),
        "start_units": 0,
        "max_pixels": 10**8,
        "max_frames": 10**6,
    }
    extractor = MotionExtractor()
    with av.open(str(record.video)) as container:
        for kind, header, arrays in decode_worker.frames(container, request):
            if kind == b"F":
                extractor.push(arrays[0], header["time_s"])
    return extractor.finish(record.duration_s)


def load_examples(
    roots: Sequence[Path],
    cache: Path,
    on_clip=lambda done, total: None,
    *,
    split: str | None = None,
    measured: Mapping[str, Path] | None = None,
) -> list[Example]:
    """All clips of the sets, their motion taken from the cache folder where it was measured before.

    split: of sets cut from videos, which hold several. measured: files of `s2s.data.features` by clip id.
    """
    cache.mkdir(parents=True, exist_ok=True)
    records = [(root, record) for root in roots for record in read_records(root, split)]
    examples = []
    for number, (_root, record) in enumerate(records):
        examples.append(_example(record, cache, measured or {}))
        on_clip(number + 1, len(records))
    return examples


def _example(record: ClipRecord, cache: Path, measured: Mapping[str, Path]) -> Example:
    if record.id in measured:
        held = load_file(measured[record.id])
        cells, scene = held["cells"], held["scene"]
    else:
        stat = record.video.stat()
        key = hashlib.sha1(
            f"{record.video.resolve()}/{stat.st_size}/{stat.st_mtime_ns}/{FEATURES_VERSION}".encode()
        ).hexdigest()[:16]
        path = cache / f"{record.id}-{key}.npz"
        if not path.exists():
            motion = measure_motion(record)
            partial = path.with_suffix(".partial.npz")
            np.savez(partial, cells=motion.cells.astype(np.float16), scene=motion.scene.astype(np.float16))
            partial.rename(path)
        with np.load(path) as held:
            cells, scene = held["cells"], held["scene"]
    order = np.argsort(-liveliness(cells.astype(np.float32)), kind="stable")
    return Example(
        record.id,
        cells,
        scene,
        order,
        record.event_times_s,
        np.array([e.strength for e in record.events]),
        record.duration_s,
    )


# ---- examples for one step

_GROUPS = tuple(
    tuple(CELL_CHANNELS.index(name) for name in names)
    for names in (
        ("u", "v"),
        ("speed_mean", "speed_rms", "speed_max"),
        ("difference", "signed_difference"),
        ("acceleration", "speed_drop"),
        ("difference_drop",),
    )
)


def make_batch(examples: Sequence[Example], config: TimingTraining, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """cells (B, T, n_cells, C), scene (B, T, G), target (B, T), strength (B, T) and its weight (B, T), float32."""
    rows = [_crop(examples, config, rng) for _ in range(config.batch_size)]
    return tuple(np.stack(column).astype(np.float32) for column in zip(*rows, strict=True))


def _crop(examples: Sequence[Example], config: TimingTraining, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    n_cells = config.n_cells
    if rng.random() >= config.overlay:
        return _view(examples[int(rng.integers(len(examples)))], n_cells, config, rng)
    share = int(rng.integers(n_cells // 4, 3 * n_cells // 4 + 1))  # two things go on at once, in different cells
    cells, scene, target, strength, weight = _view(
        examples[int(rng.integers(len(examples)))], n_cells - share, config, rng
    )
    other = _view(examples[int(rng.integers(len(examples)))], share, config, rng)
    return (
        np.concatenate([cells, other[0]], axis=1),
        np.where(np.abs(scene) > np.abs(other[1]), scene, other[1]),
        np.maximum(target, other[2]),
        np.where(other[2] > target, other[3], strength),
        np.maximum(weight, other[4]),
    )


def _view(example: Example, n_cells: int, config: TimingTraining, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A stretch of a clip in its liveliest cells: at another speed, turned, louder, with some measurements gone."""
    warp = float(np.exp(rng.uniform(*np.log(config.warp))))  # > 1: everything happens faster
    n = len(example.cells)
    need = config.crop_ticks * warp
    start = rng.uniform(-0.1 * need, max(0.0, n - 0.9 * need))
    at = start + np.arange(config.crop_ticks) * warp
    step = warp * rng.uniform(*config.slow_ticks) if rng.random() < config.slow_share else 0.0
    cells = _sample(example.cells[:, _liveliest(example, n_cells, config, rng)], at, step)
    scene = _sample(example.scene, at, step)
    cells = np.sinh(cells)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.normal(0, 0.15)
    c, s = np.cos(angle), np.sin(angle)
    u, v = cells[..., 0].copy(), cells[..., 1] * (1 if rng.random() < 0.5 else -1)
    cells[..., 0], cells[..., 1] = c * u - s * v, s * u + c * v
    noise = np.exp(rng.normal(0, config.gain_noise, 2))
    cells[..., [0, 1, 2, 3, 4, 7, 8]] *= noise[0]
    cells[..., [5, 6, 9]] *= noise[1]
    if rng.random() < 0.3:
        cells[..., 6] *= -1
    cells = np.arcsinh(cells)
    if rng.random() < 0.3:
        cells = cells + rng.normal(0, 0.05, cells.shape)
    for group in _GROUPS:
        if rng.random() < config.group_dropout:
            cells[..., group] = 0
    if rng.random() < 0.15:
        scene = scene * 0
    ticks = (example.times_s * TIMING_RATE - start) / warp
    sigma = config.target_sigma_s * TIMING_RATE
    grid = np.arange(config.crop_ticks)
    if not len(ticks):
        zero = np.zeros(config.crop_ticks)
        return cells, scene, zero, zero, zero
    bumps = np.exp(-0.5 * ((grid[:, None] - ticks[None, :]) / sigma) ** 2)
    nearest = bumps.argmax(axis=1)
    target = bumps[grid, nearest]
    return cells, scene, target, example.strengths[nearest], (target > 0.5).astype(np.float64)


def _liveliest(example: Example, n_cells: int, config: TimingTraining, rng: np.random.Generator) -> np.ndarray:
    """Indices of the liveliest cells of the clip, half of the time with some of them passed over."""
    order = example.order
    if rng.random() < 0.5:
        order = order[rng.random(len(order)) >= rng.uniform(0, 2 * config.cell_dropout)]
    return np.sort(order[:n_cells])


def _sample(values: np.ndarray, at: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Rows of float16 (N, ...) at fractional places, linear; beyond the ends nothing moves.

    step: ticks between the rows that are looked at, as if the clip had that much lower a frame rate; 0 looks at all.
    """
    if step:
        knots = np.arange(at[0] - step, at[-1] + 2 * step, step)
        return _between(_sample(values, knots), (at - knots[0]) / step)
    inside = ((at >= 0) & (at <= len(values) - 1)).reshape(-1, *[1] * (values.ndim - 1))
    return np.where(inside, _between(values, np.clip(at, 0, len(values) - 1)), 0.0)


def _between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of rows, float32."""
    low = np.floor(at).astype(int)
    share = (at - low).reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    first, second = values[low], values[np.minimum(low + 1, len(values) - 1)]
    return first.astype(np.float32) * (1 - share) + second.astype(np.float32) * share


# ---- the run


def train_timing(
    config: TimingTraining,
    data: Sequence[Path],
    validation: Path,
    run_dir: Path,
    minutes: float | None = None,
    measured: Mapping[str, Path] | None = None,
) -> dict:
    """Trains, or goes on training, and returns the best validation metrics. Deterministic by `config.seed`.

    minutes: stop after so much time in this call, whatever the step.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    cache = run_dir.parent / "motion-cache"
    with Reporter(run_dir, config.steps, every=50) as report:
        train = load_examples(
            data, cache, lambda done, total: report.count("motion", done, total), split="train", measured=measured
        )
        held_out = load_examples([validation], cache)
        torch.manual_seed(config.seed)
        net = TimingNet(config.net)
        ema = Ema(net, config.ema)
        optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        step, best = 0, {"f1_50ms": -1.0}
        state = load_checkpoint(run_dir / "checkpoint.pt")
        if state is not None:
            net.load_state_dict(state["net"])
            ema.weights = state["ema"]
            optimiser.load_state_dict(state["optimiser"])
            step, best = state["step"], state["best"]
            torch.set_rng_state(state["random"])
        while step < config.steps and (minutes is None or time.monotonic() - began < 60 * minutes):
            rate = (
                config.learning_rate
                * min(1.0, (step + 1) / 100)
                * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / config.steps)))
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            batch = make_batch(train, config, np.random.default_rng([config.seed, step]))
            net.train()
            loss, event_loss = _loss(net, [torch.from_numpy(part) for part in batch], config)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            step += 1
            ema.update(net, step)
            report.scalars(step, {"loss": float(loss.detach()), "event_loss": float(event_loss.detach())})
            if step % config.validate_every == 0 or step == config.steps:
                best = _keep_best(config, ema, held_out, run_dir, step, best)
                save_checkpoint(
                    run_dir / "checkpoint.pt",
                    {
                        "net": net.state_dict(),
                        "ema": ema.weights,
                        "optimiser": optimiser.state_dict(),
                        "step": step,
                        "best": best,
                        "random": torch.get_rng_state(),
                    },
                )
    return best


def _loss(net: TimingNet, batch: list[torch.Tensor], config: TimingTraining) -> tuple[torch.Tensor, torch.Tensor]:
    cells, scene, target, strength, weight = batch
    event, force = net(cells, scene)
    event_loss = F.binary_cross_entropy_with_logits(event, target, pos_weight=torch.tensor(config.positive_weight))
    off = (torch.sigmoid(force) - strength) ** 2
    strength_loss = (off * weight).sum() / weight.sum().clamp(min=1.0)
    return event_loss + config.strength_weight * strength_loss, event_loss


def _keep_best(
    config: TimingTraining, ema: Ema, held_out: Sequence[Example], run_dir: Path, step: int, best: dict
) -> dict:
    net = TimingNet(config.net)
    net.load_state_dict(ema.weights)
    chosen, metrics = choose_thresholds(net, held_out)
    metrics["step"] = step
    log.info("step %d: %s", step, metrics)
    with (run_dir / "validation.jsonl").open("a") as file:
        file.write(json.dumps(metrics) + "\n")
    if metrics["f1_50ms"] <= best["f1_50ms"]:
        return best
    save_timing(run_dir / "timing", net, chosen, {**metrics, "seed": config.seed})
    return metrics


def save_timing(stem: Path, net: TimingNet, config: TimingConfig, metrics: dict) -> None:
    """Weights as STEM.safetensors and the config with its metrics as STEM.json, each replaced whole."""
    partial = stem.with_suffix(".safetensors.partial")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, partial)
    partial.replace(stem.with_suffix(".safetensors"))
    partial = stem.with_suffix(".json.partial")
    partial.write_text(json.dumps({"config": config.model_dump(mode="json"), "metrics": metrics}, indent=1) + "\n")
    partial.replace(stem.with_suffix(".json"))


READ_SLACK = 0.02  # of F1 given up for a lower floor


def choose_thresholds(net: TimingNet, examples: Sequence[Example]) -> tuple[TimingConfig, dict]:
    """How to read the net's answer, by mean F1 at 50 ms on these clips, and the metrics of that reading.

    Silent clips count: an event found in one is an F1 of 0, none is 1. Of the readings about as good as the best the
    one with the lowest floor is taken, because a net is less sure of real footage than of renders.
    """
    curves = [event_curves(example.motion(), net) for example in examples]
    scores = {
        (floor, share): _mean_f1(examples, curves, {"threshold_share": share, "floor": floor}, 0.05)
        for floor in (0.1, 0.2, 0.3, 0.4, 0.5)
        for share in (0.3, 0.4, 0.5, 0.6, 0.7)
    }
    enough = max(scores.values()) - READ_SLACK
    lowest = min(floor for (floor, _), score in scores.items() if score >= enough)
    share = max((s for floor, s in scores if floor == lowest), key=lambda s: scores[lowest, s])
    read = {"threshold_share": share, "floor": lowest}
    metrics = {
        "f1_50ms": round(scores[lowest, share], 4),
        "f1_100ms": round(_mean_f1(examples, curves, read, 0.1), 4),
        "n_clips": len(examples),
    }
    return net.config.model_copy(update=read), metrics


def _mean_f1(
    examples: Sequence[Example], curves: Sequence[tuple[np.ndarray, np.ndarray]], read: dict, tolerance_s: float
) -> float:
    return float(
        np.mean(
            [
                onset_f1(example.times_s, np.array([d.time_s for d in detect_events(p, s, **read)]), tolerance_s)
                for example, (p, s) in zip(examples, curves, strict=True)
            ]
        )
    )


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[list[Path], typer.Option(help="folder of a rendered set; may be given more than once")],
    validation: Annotated[Path, typer.Option(help="folder of a rendered set to choose the best weights on")],
    run_dir: Annotated[Path, typer.Option()],
    minutes: Annotated[float | None, typer.Option(help="stop after so many minutes")] = None,
    steps: Annotated[int, typer.Option()] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the timing net."""
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    metrics = train_timing(TimingTraining(steps=steps, seed=seed), data, validation, run_dir, minutes)
    typer.echo(json.dumps(metrics))


if __name__ == "__main__":
    app()
