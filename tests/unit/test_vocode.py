"""Promises of mel -> waveform."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2s.errors import ArtifactError, Canceled
from s2s.events import Progress, Stage
from s2s.mel import mel_spectrogram
from s2s.vocode import METHODS, vocode
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig
from s2s.wavenet_vocoder.wavenet import WaveNet


@pytest.fixture(scope="module")
def net() -> ParallelWaveNet:
    torch.manual_seed(0)
    config = ParallelWaveNetConfig(
        layers=4, stacks=2, residual_channels=16, skip_channels=16, cond_channels=8, corrections=2
    )
    return ParallelWaveNet(config).eval()


@pytest.fixture(scope="module")
def mel() -> np.ndarray:
    """Six seconds of decaying tones, float32 (80, 512)."""
    rng = np.random.default_rng(0)
    x = 0.003 * rng.standard_normal(512 * 256)
    for start in range(2000, len(x), 9000):
        t = np.arange(min(9000, len(x) - start)) / 22_050
        x[start : start + len(t)] += 0.5 * np.sin(2 * np.pi * rng.uniform(200, 4000) * t) * np.exp(-t / 0.08)
    return mel_spectrogram(x)[:, :512]


@pytest.mark.parametrize("chunk_frames", [64, 100, 384])
def test_windows_give_the_samples_of_one_pass(net: ParallelWaveNet, mel: np.ndarray, chunk_frames: int):
    whole = vocode(mel, net, seed=3, chunk_frames=mel.shape[1])
    assert whole.shape == (512 * 256,)
    assert whole.dtype == np.float32
    assert np.abs(vocode(mel, net, seed=3, chunk_frames=chunk_frames) - whole).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_every_sample(net: ParallelWaveNet, mel: np.ndarray, method: str):
    first, again, other = (vocode(mel[:, :96], net, seed=s, method=method) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_sound_has_the_mel_that_was_asked_for(net: ParallelWaveNet, mel: np.ndarray, method: str):
    made = mel_spectrogram(vocode(mel, net, seed=0, method=method))[:, : mel.shape[1]]
    assert 100 * np.abs(made - mel).mean() < 4  # dB


def test_a_predicted_mel_that_leaves_the_scale_is_no_louder_than_the_scale(net: ParallelWaveNet, mel: np.ndarray):
    wild = mel[:, :96].copy()
    wild[10, 40], wild[:, 60] = 3.0, -2.0
    made = vocode(wild, net, seed=0)
    assert np.array_equal(made, vocode(wild.clip(0, 1), net, seed=0))


def test_an_autoregressive_net_is_run_by_the_same_call(mel: np.ndarray):
    torch.manual_seed(0)
    config = WaveNetConfig(
        layers=4,
        stacks=2,
        residual_channels=8,
        gate_channels=16,
        skip_channels=8,
        kernel_size=2,
        out_channels=6,
        conditioning="frame",
    )
    made = vocode(mel[:, :5], WaveNet(config).eval(), seed=0)
    assert made.shape == (5 * 256,)
    assert np.abs(made).max() <= 1


def test_progress_counts_the_samples_that_are_done(net: ParallelWaveNet, mel: np.ndarray):
    seen: list[Progress] = []
    vocode(mel, net, seed=0, chunk_frames=128, on_progress=seen.append)
    assert [p.step for p in seen] == [128 * 256 * i for i in (1, 2, 3, 4)]
    assert {(p.stage, p.total) for p in seen} == {(Stage.VOCODE, 512 * 256)}


def test_work_stops_within_one_window_when_asked(net: ParallelWaveNet, mel: np.ndarray):
    seen: list[Progress] = []
    with pytest.raises(Canceled):
        vocode(mel, net, seed=0, chunk_frames=64, on_progress=seen.append, should_stop=lambda: len(seen) >= 2)
    assert len(seen) == 2


def test_a_bundle_without_a_wavenet_says_so(mel: np.ndarray):
    with pytest.raises(ArtifactError, match="WaveNet"):
        vocode(mel, None, seed=0)
    assert len(vocode(mel[:, :8], None, seed=0, method="griffinlim")) == 8 * 256
