"""Mel -> waveform, by whichever vocoder a bundle holds, in windows of bounded memory that join without a seam."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from s2s.errors import ArtifactError, Canceled
from s2s.events import OnProgress, Progress, ShouldStop, Stage, ignore_progress, never_stop
from s2s.mel import griffin_lim
from s2s.spec import MelSpec
from s2s.wavenet_vocoder.engine.engine import int8_pays, library
from s2s.wavenet_vocoder.engine.segments import generate_clip
from s2s.wavenet_vocoder.mixture import draw_noise
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, position_noise
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import WaveNet

METHODS = ("wavenet", "griffinlim")
CHUNK_FRAMES = 864  # 10 s: large enough that the overlap costs little
GRIFFIN_LIM_OVERLAP = 32  # mel frames cross-faded: phases of two windows need not agree


def vocode(
    mel: np.ndarray,
    vocoder: nn.Module | None,
    *,
    seed: int,
    method: str = "wavenet",
    spec: MelSpec = MelSpec(),
    chunk_frames: int = CHUNK_FRAMES,
    on_progress: OnProgress = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> np.ndarray:
    """mel float32 (n_mels, M), published scale -> float32 (M * hop_length,).

    Noise is a function of the seed and the absolute sample position, so the cut into windows is not heard. Progress
    counts samples. Raises ArtifactError when the bundle has no WaveNet, Canceled.
    """
    if method == "griffinlim":
        parts = _griffin_lim(mel, spec, seed, chunk_frames)
    elif isinstance(vocoder, ParallelWaveNet):
        parts = _parallel(mel, vocoder, seed, chunk_frames)
    elif isinstance(vocoder, WaveNet):
        parts = _autoregressive(mel, vocoder, seed, on_progress, should_stop)
    else:
        raise ArtifactError("The bundle holds no WaveNet vocoder.", hint="Use the vocoder griffinlim.")
    n_samples = spec.n_samples(mel.shape[1])
    waveform = np.empty(n_samples, np.float32)
    done = 0
    for part in parts:
        if should_stop():
            raise Canceled("The work was canceled.")
        waveform[done : done + len(part)] = part
        done += len(part)
        on_progress(Progress(Stage.VOCODE, done, n_samples))
    return waveform


@torch.inference_mode()
def _parallel(mel: np.ndarray, net: ParallelWaveNet, seed: int, chunk_frames: int) -> Iterator[np.ndarray]:
    """Windows with the net's receptive field on either side: the same samples as one pass."""
    device, hop, n_mel = next(net.parameters()).device, net.spec.hop_length, mel.shape[1]
    align = net.align_frames
    context = -(-net.receptive_frames // align) * align
    chunk = max(align, chunk_frames // align * align)
    mel = mel.clip(0, 1)  # the scale it was trained on
    for start in range(0, n_mel, chunk):
        end = min(n_mel, start + chunk)
        first, last = max(0, start - context), min(n_mel, end + context)
        noise = position_noise(seed, first * hop, (last - first) * hop)
        window = torch.from_numpy(np.ascontiguousarray(mel[:, first:last]))[None].to(device)
        made = net(window, torch.from_numpy(noise)[None].to(device))[0]
        yield made[(start - first) * hop : (end - first) * hop].cpu().numpy()


def _autoregressive(
    mel: np.ndarray, net: WaveNet, seed: int, on_progress: OnProgress, should_stop: ShouldStop
) -> Iterator[np.ndarray]:
    """By the compiled engine, on all cores; else frame by frame in PyTorch. The state is kept: exact in either.

    The engine plays in 8 bits where the bundle says that nothing audible moves and this processor gains by it.
    """
    config, n_samples = net.config, mel.shape[1] * net.config.hop_length
    device = next(net.parameters()).device
    if device.type == "cpu" and library() is not None:
        yield generate_clip(
            net,
            np.ascontiguousarray(mel),
            seed,
            threads=torch.get_num_threads(),
            scales=net.int8.scales if net.int8 is not None and net.int8.unmoved and int8_pays() else None,
            on_samples=lambda done: on_progress(Progress(Stage.VOCODE, min(done, n_samples), n_samples)),
            should_stop=should_stop,
        )
        return
    sampler = Sampler(net)
    for frame in range(mel.shape[1]):
        part = torch.from_numpy(np.ascontiguousarray(mel[:, frame : frame + 1]))[None].to(device)
        noise = draw_noise(seed, frame * config.hop_length, config.hop_length, config)
        yield sampler.generate(part, torch.from_numpy(noise)[None].to(device))[0].cpu().numpy()


def _griffin_lim(mel: np.ndarray, spec: MelSpec, seed: int, chunk_frames: int) -> Iterator[np.ndarray]:
    """Windows that overlap and cross-fade with equal power: their phases are unrelated."""
    overlap = GRIFFIN_LIM_OVERLAP * spec.hop_length
    angle = np.linspace(0, np.pi / 2, overlap, dtype=np.float32)
    tail = np.zeros(0, np.float32)
    for start in range(0, mel.shape[1], chunk_frames):
        end = min(mel.shape[1], start + chunk_frames)
        reach = min(mel.shape[1], end + GRIFFIN_LIM_OVERLAP)
        made = griffin_lim(mel[:, start:reach].clip(0, 1), spec, seed=seed)
        if len(tail):
            n = min(len(tail), len(made))
            made[:n] = made[:n] * np.sin(angle[:n]) + tail[:n] * np.cos(angle[:n])
        n_kept = (end - start) * spec.hop_length
        yield made[:n_kept]
        tail = made[n_kept:]
