"""Does an autoregressive WaveNet play in 8 bits what it plays in 32? Asked once a set of weights; the answer travels.

The scales come from one half of the sounds, the questions are asked of the other half: how far the logits are off, and
whether what a listener hears moves, the onsets and the mel spectrogram. Sampling is random, so onsets of the same net
move a little with every seed; 8 bits may move them no further than a seed does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from s2s.errors import InputError
from s2s.evaluation.alignment import detect_onsets, onset_f1
from s2s.mel import mel_spectrogram
from s2s.spec import MelSpec
from s2s.wavenet_vocoder.config import Int8
from s2s.wavenet_vocoder.engine import EngineSampler, calibrate, engine_for, generate_clip
from s2s.wavenet_vocoder.mixture import draw_noise, teacher_inputs
from s2s.wavenet_vocoder.wavenet import WaveNet

WINDOW_FRAMES = 16  # mel frames of each sound, its loudest, that scales and logits are looked at on
ONSET_TOLERANCE_S = 0.025  # two mel frames


def measure_int8(
    net: WaveNet, sounds: Sequence[np.ndarray], *, seed: int = 0, spec: MelSpec = MelSpec(), threads: int = 1
) -> Int8:
    """sounds: float32 (N,) each, at the spec's rate, two or more, each longer than 16 mel frames.

    Raises InputError for too little sound, ArtifactError where the engine is not built.
    """
    sounds = [sound[: len(sound) // spec.hop_length * spec.hop_length].astype(np.float32) for sound in sounds]
    if len(sounds) < 2 or min(map(len, sounds)) <= WINDOW_FRAMES * spec.hop_length:
        raise InputError("Calibration takes two sounds or more, each longer than 0.2 s.", code="bad_request")
    mels = [mel_spectrogram(sound, spec)[:, : len(sound) // spec.hop_length] for sound in sounds]
    windows = [_loudest(mel) for mel in mels]
    parts = torch.from_numpy(np.stack([mel[:, a : a + WINDOW_FRAMES] for mel, a in zip(mels, windows, strict=True)]))
    noise = np.stack([draw_noise(seed + i, 0, WINDOW_FRAMES * spec.hop_length, net.config) for i in range(len(mels))])
    scales = calibrate(net, parts[::2], torch.from_numpy(noise[::2]))

    given = [
        sound[a * spec.hop_length : (a + WINDOW_FRAMES) * spec.hop_length]
        for sound, a in zip(sounds, windows, strict=True)
    ]
    checked = mels[1::2]

    def played(seed: int, scales: Sequence[float] | None = None) -> list[np.ndarray]:
        return [generate_clip(net, mel, seed, scales=scales, threads=threads) for mel in checked]

    exact, coarse, other = played(seed), played(seed, scales), played(seed + 1)
    return Int8(
        scales=tuple(scales),
        sound_s=round(sum(mel.shape[1] for mel in checked) / float(spec.frame_rate), 2),
        logit_snr_db=_logit_snr_db(net, scales, torch.from_numpy(np.stack(given[1::2])), parts[1::2]),
        mel_db=_mel_distance_db(exact, checked, spec),
        int8_mel_db=_mel_distance_db(coarse, checked, spec),
        onset_f1=_onset_agreement(exact, coarse),
        seed_onset_f1=_onset_agreement(exact, other),
    )


def _loudest(mel: np.ndarray) -> int:
    """First frame of the loudest window of a mel (n_mels, M)."""
    level = np.convolve(mel.mean(axis=0), np.ones(WINDOW_FRAMES), "valid")
    return int(level.argmax())


@torch.inference_mode()
def _logit_snr_db(net: WaveNet, scales: Sequence[float], sound: torch.Tensor, mel: torch.Tensor) -> float:
    """Teacher forced: power of what varies in the logits over the power of the error."""
    inputs = teacher_inputs(sound, net.config)
    exact = net(inputs, mel)
    error = EngineSampler(engine_for(net, len(sound), scales), len(sound)).teacher_forced(inputs, mel) - exact
    varying = exact - exact.mean(dim=2, keepdim=True)
    return float(10 * torch.log10(varying.square().mean() / error.square().mean()))


def _mel_distance_db(waves: Sequence[np.ndarray], mels: Sequence[np.ndarray], spec: MelSpec) -> float:
    """Mean distance of what was made from what was asked for, dB."""
    made = [mel_spectrogram(wave, spec)[:, : mel.shape[1]] for wave, mel in zip(waves, mels, strict=True)]
    return float(-spec.min_level_db * np.mean([np.abs(a - b).mean() for a, b in zip(made, mels, strict=True)]))


def _onset_agreement(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    pairs = zip(one, other, strict=True)
    return float(np.mean([onset_f1(detect_onsets(a), detect_onsets(b), ONSET_TOLERANCE_S) for a, b in pairs]))
