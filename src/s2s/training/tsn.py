"""Trains the TSN streams and the recogniser's head on rendered clips, and extracts the features RegNet trains on.

A stream learns the kind (segment consensus over snippets, as published) and, per frame, whether something sounds: with
classes alone a stream forgets when things happened (linear probe for events .69 instead of .78 AUC).

Pictures are read by the same decoder and the same flow as serving uses, once, and kept in a cache folder.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from s2s.config import settings
from s2s.events import SoundEvent
from s2s.features import StreamReader
from s2s.media.probe import probe
from s2s.media.video import decode_frames
from s2s.motion import MotionExtractor
from s2s.recognise import Recogniser, prepare, snippet_ticks
from s2s.spec import ClipSpec
from s2s.training.checkpoint import load_checkpoint, save_checkpoint
from s2s.training.progress import Reporter
from s2s.tsn.config import TsnStreamConfig
from s2s.tsn.inputs import stack_frames, stream_images
from s2s.tsn.tsn import TsnStream, build_stream

RGB_PX, FLOW_PX = 96, 48
HEAD_SNIPPETS = 6  # pictures of a clip that the recogniser's head learns from


@dataclass(frozen=True)
class SeenClip:
    """One clip as the streams read it. T feature frames."""

    rgb: np.ndarray  # uint8 (T, 96, 96, 3)
    flow: np.ndarray  # float16 (T, 48, 48, 2), see `s2s.motion`
    photo: np.ndarray  # float32 (HEAD_SNIPPETS, 1280), the recogniser's backbone; (0, 1280) without one
    events: Sequence[SoundEvent]
    kind: int


def see_clip(video: Path, cache: Path, clip: ClipSpec, backbone: Recogniser | None) -> dict[str, np.ndarray]:
    """rgb, flow and photo of `SeenClip`, from `cache` when it was read before."""
    if cache.exists():
        return load_file(cache)
    limits = settings().cli_limits
    info = probe(video, limits)
    n_frames = clip.n_frames(info.duration_s)
    side = backbone.config.input_size if backbone is not None else RGB_PX
    looked_at = snippet_ticks(n_frames, HEAD_SNIPPETS)
    motion = MotionExtractor(clip.video_rate, (FLOW_PX, FLOW_PX))
    rgb, photos = np.zeros((n_frames, RGB_PX, RGB_PX, 3), np.uint8), []
    for frame in decode_frames(info, rgb_size=(side, side), rgb_rate=clip.video_rate, limits=limits):
        motion.push(frame.grey, frame.time_s)
        for tick in frame.rgb_ticks:
            rgb[tick] = cv2.resize(frame.rgb, (RGB_PX, RGB_PX), interpolation=cv2.INTER_AREA)
            if tick in looked_at:
                photos.append(frame.rgb)
    photo = np.zeros((0, 1280), np.float32)
    if backbone is not None:
        with torch.inference_mode():
            photo = backbone.features(prepare(photos, backbone.config)).numpy()
    seen = {"rgb": rgb, "flow": motion.finish(info.duration_s).flow[:n_frames], "photo": photo}
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_suffix(".partial")
    save_file({name: np.ascontiguousarray(value) for name, value in seen.items()}, partial)
    partial.rename(cache)
    return seen


def event_target(events: Sequence[SoundEvent], n_frames: int, clip: ClipSpec, width_s: float = 0.035) -> np.ndarray:
    """float32 (n_frames,): 1 in the frame of an event, falling off as a Gaussian of `width_s`."""
    times = (np.arange(n_frames) + 0.5) / float(clip.video_rate)
    target = np.zeros(n_frames, np.float32)
    for event in events:
        target = np.maximum(target, np.exp(-0.5 * ((times - event.time_s) / width_s) ** 2))
    return target


class StreamTrainConfig(BaseModel):
    """The small CPU recipe of one stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: TsnStreamConfig
    seed: int = 0
    steps: int = 1500
    batch_clips: int = 12
    snippets: int = Field(4, gt=0, description="frames of a clip seen at once, half of them near an event")
    learning_rate: float = 2e-3
    event_weight: float = 1.0
    weight_decay: float = 1e-4
    checkpoint_minutes: float = 3.0


def train_stream(
    config: StreamTrainConfig,
    clips: Sequence[SeenClip],
    run_dir: Path,
    *,
    clip: ClipSpec = ClipSpec(),
    device: str = "cpu",
    minutes: float | None = None,
) -> TsnStream:
    """Trains until `steps` or `minutes`; resumes from `run_dir`."""
    torch.manual_seed(config.seed)
    stream = build_stream(config.network).to(device)
    optimiser = torch.optim.AdamW(stream.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    step = 0
    if (saved := load_checkpoint(run_dir / "checkpoint.pt")) is not None:
        stream.load_state_dict(saved["stream"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]

    def save() -> None:
        save_checkpoint(
            run_dir / "checkpoint.pt",
            {"step": step, "stream": stream.state_dict(), "optimiser": optimiser.state_dict()},
        )

    targets = [event_target(seen.events, len(seen.flow), clip) for seen in clips]
    start = saved_at = time.monotonic()
    with Reporter(run_dir, config.steps) as report:
        while step < config.steps and (minutes is None or time.monotonic() - start < 60 * minutes):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps)) + 1e-5
            torch.manual_seed((config.seed * 1_000_003 + step) % 2**31)
            inputs, kinds, sounds = _batch(config, clips, targets, np.random.default_rng([config.seed, 31, step]))
            output = stream.train()(inputs.to(device))
            loss_kind = F.cross_entropy(output.class_logits, kinds.to(device), label_smoothing=0.05)
            loss_event = F.binary_cross_entropy_with_logits(
                output.event_logits, sounds.to(device), pos_weight=torch.tensor(2.0, device=device)
            )
            optimiser.zero_grad()
            (loss_kind + config.event_weight * loss_event).backward()
            optimiser.step()
            step += 1
            accuracy = float((output.class_logits.argmax(1).cpu() == kinds).float().mean())
            report.scalars(
                step,
                {
                    "loss_kind": float(loss_kind.detach()),
                    "loss_event": float(loss_event.detach()),
                    "accuracy": accuracy,
                },
            )
            if time.monotonic() - saved_at > 60 * config.checkpoint_minutes:
                save()
                saved_at = time.monotonic()
        save()
    return stream.eval()


def _batch(
    config: StreamTrainConfig, clips: Sequence[SeenClip], targets: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """-> inputs (B, S, C, h, w), kinds (B,), event targets (B, S). Mirrored, cropped and restyled at random."""
    network = config.network
    inputs, kinds, sounds = [], [], []
    for index in rng.integers(len(clips), size=config.batch_clips):
        seen, target = clips[index], targets[index]
        ticks = rng.integers(len(target), size=config.snippets)
        near = np.flatnonzero(target > 0.3)
        if len(near):
            half = config.snippets // 2
            ticks[:half] = rng.choice(near, size=half)
        mirror, speed, style = rng.random() < 0.5, rng.uniform(0.6, 1.6), _style(rng)
        side = FLOW_PX if network.modality == "flow" else RGB_PX
        height, width = (round(side * share) for share in rng.uniform(0.65, 1.0, size=2))
        top, left = (int(rng.integers(side - size + 1)) for size in (height, width))
        bottom, right = top + height, left + width
        rows = []
        for tick in ticks:
            window = np.arange(network.frames_per_stack) + network.stack_start + tick
            window = window.clip(0, len(target) - 1)
            pictures = (seen.flow if network.modality == "flow" else seen.rgb)[window]
            if mirror:
                pictures = pictures[:, :, ::-1]
            pictures = pictures[:, top:bottom, left:right]
            if network.modality == "flow":
                zoom = FLOW_PX / height * np.float32([-1 if mirror else 1, 1]) * speed
                pictures = [cv2.resize(p.astype(np.float32), (FLOW_PX, FLOW_PX)) * zoom for p in pictures]
            else:
                pictures = [_restyled(cv2.resize(p, (RGB_PX, RGB_PX)), style) for p in pictures]
            rows.append(stream_images(list(pictures), network).flatten(0, 1))
        inputs.append(torch.stack(rows))
        kinds.append(seen.kind)
        sounds.append(target[ticks])
    return torch.stack(inputs).float(), torch.tensor(kinds), torch.from_numpy(np.stack(sounds))


@dataclass(frozen=True)
class _Style:
    """How a clip's pictures are recoloured. What renders are painted with must not matter, their shapes should."""

    colours: np.ndarray  # float32 (3, 3)
    shift: np.ndarray  # float32 (3,)
    gamma: float
    texture: np.ndarray  # float32 (96, 96, 1)
    blur: float  # pixels; 0: none


def _style(rng: np.random.Generator) -> _Style:
    colours = np.eye(3) * rng.uniform(0.6, 1.4, size=3)
    if rng.random() < 0.5:  # hues change places
        colours = colours[rng.permutation(3)] * 0.7 + rng.uniform(-0.3, 0.6, size=(3, 3)) * 0.5
    if rng.random() < 0.25:
        colours = np.tile(colours.mean(axis=0), (3, 1))
    shift = rng.uniform(-30, 30, size=3)
    if rng.random() < 0.15:  # a negative
        colours, shift = -colours, shift + 255
    cells = int(rng.integers(2, 32))
    texture = cv2.resize(rng.standard_normal((cells, cells)), (RGB_PX, RGB_PX), interpolation=cv2.INTER_CUBIC)
    strength = rng.uniform(0, 30) if rng.random() < 0.5 else 0.0
    return _Style(
        colours.astype(np.float32), shift.astype(np.float32), 2 ** rng.uniform(-0.7, 0.7),
        np.float32(texture[..., None] * strength), rng.uniform(0.4, 1.5) if rng.random() < 0.25 else 0.0,
    )  # fmt: skip


def _restyled(picture: np.ndarray, style: _Style) -> np.ndarray:
    """uint8 (96, 96, 3) -> the same shape and type."""
    x = 255 * (picture / np.float32(255)) ** style.gamma
    x = x @ style.colours.T + style.shift + style.texture
    if style.blur:
        x = cv2.GaussianBlur(x, (0, 0), style.blur)
    return x.clip(0, 255).astype(np.uint8)


@torch.inference_mode()
def stream_accuracy(stream: TsnStream, clips: Sequence[SeenClip]) -> float:
    """Share of clips whose kind the stream names, by consensus over every fourth frame."""
    hits, device = 0, next(stream.parameters()).device
    for seen in clips:
        pictures = seen.flow.astype(np.float32) if stream.config.modality == "flow" else seen.rgb
        stacked = stack_frames(stream_images(list(pictures), stream.config), stream.config)[::4].to(device)
        hits += int(stream.class_logits(stream.features(stacked)).mean(0).argmax()) == seen.kind
    return hits / max(1, len(clips))


def visual_features(seen: SeenClip, rgb: TsnStream | None, flow: TsnStream | None) -> np.ndarray:
    """float32 (T, visual_dim) as `s2s.features.watch` makes them."""
    parts = []
    for stream, pictures in ((rgb, seen.rgb), (flow, seen.flow)):
        if stream is not None:
            reader = StreamReader(stream, next(stream.parameters()).device)
            for picture in pictures:
                reader.push(picture if stream is rgb else picture.astype(np.float32))
            parts.append(reader.finish())
    return np.concatenate(parts, axis=1)


def restyled_looks(
    clips: Sequence[SeenClip],
    recogniser: Recogniser,
    cache: Path,
    *,
    copies: int = 2,
    seed: int = 0,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """float32 (clips, copies * HEAD_SNIPPETS, 1280): the backbone's features of recoloured, cropped, mirrored pictures.

    Features learned from photographs tell what a thing is painted with rather than what it is shaped like (Geirhos et
    al. 2019); the head learns to look past the paint (held-out kinds: .43 of clips named, with these .56).
    """
    if cache.exists():
        return load_file(cache)["looks"]
    looks = []
    for index, seen in enumerate(clips):
        rng = np.random.default_rng([seed, 37, index])
        pictures = []
        for tick in rng.integers(len(seen.rgb), size=copies * HEAD_SNIPPETS):
            height, width = (round(RGB_PX * share) for share in rng.uniform(0.6, 1.0, size=2))
            top, left = (int(rng.integers(RGB_PX - size + 1)) for size in (height, width))
            picture = seen.rgb[tick, top : top + height, left : left + width]
            picture = picture[:, ::-1] if rng.random() < 0.5 else picture
            picture = _restyled(cv2.resize(picture, (RGB_PX, RGB_PX)), _style(rng))
            pictures.append(cv2.resize(picture, (recogniser.config.input_size,) * 2, interpolation=cv2.INTER_CUBIC))
        looks.append(recogniser.look(pictures).cpu().numpy())
        on_clip(index + 1, len(clips))
    cache.parent.mkdir(parents=True, exist_ok=True)
    save_file({"looks": np.stack(looks)}, cache.with_suffix(".partial"))
    cache.with_suffix(".partial").rename(cache)
    return np.stack(looks)


def train_head(
    recogniser: Recogniser, looks: np.ndarray, kinds: Sequence[int], *, steps: int = 1500, seed: int = 0
) -> float:
    """Fits the head on features (clips, pictures, 1280); returns the share of these clips that it names."""
    torch.manual_seed(seed)
    features, targets, head = torch.from_numpy(looks.astype(np.float32)), torch.tensor(kinds), recogniser.head.train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows, columns = torch.randint(len(targets), (64,)), torch.randint(features.shape[1], (64,))
        loss = F.cross_entropy(head(features[rows, columns]), targets[rows], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    head.eval()
    with torch.no_grad():
        return float((head(features).mean(dim=1).argmax(dim=1) == targets).float().mean())
