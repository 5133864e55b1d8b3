"""Promises of the autoregressive WaveNet's training, on a net and batches small enough for a test."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from s2s.bundle import BundleManifest, load_bundle, save_bundle
from s2s.config import settings
from s2s.training.checkpoint import load_checkpoint, save_checkpoint
from s2s.training.vocoder import validation_set
from s2s.training.wavenet import (
    RECIPES,
    WaveNetTrainConfig,
    WaveNetTrainer,
    load_wavenet,
    main,
    train_wavenet,
)
from s2s.vocode import vocode
from s2s.wavenet_vocoder.config import PUBLISHED, SMALL, WaveNetConfig
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig

NET = WaveNetConfig(
    layers=4, stacks=2, residual_channels=16, gate_channels=32, skip_channels=16, kernel_size=2, conditioning="frame"
)
TINY = WaveNetTrainConfig(
    model=NET,
    steps=4,
    batch=2,
    segment_frames=4,
    sounds_per_batch=2,
    warmup_steps=2,
    validate_every=2,
    validation_clips=2,
    heard_clips=1,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    settings.cache_clear()


def _weights(trainer: WaveNetTrainer) -> torch.Tensor:
    return torch.cat([p.flatten() for p in (*trainer.model.state_dict().values(), *trainer.ema.weights.values())])


def test_steps_bring_the_loss_down():
    config = TINY.model_copy(update={"learning_rate": 1e-2, "steps": 1000})
    trainer = WaveNetTrainer(config)
    clips = validation_set(config)[:, : 16 * 256]
    start, _ = trainer.validate(clips)
    for _ in range(60):
        trainer.step_once()
    end, copies = trainer.validate(clips)
    assert end["total"] < start["total"] - 1  # nats a sample
    assert copies.shape == (1, 16 * 256)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path, dropout: float):
    config = TINY.model_copy(update={"model": NET.model_copy(update={"dropout": dropout})})
    straight, broken, resumed = (WaveNetTrainer(config) for _ in range(3))
    for _ in range(4):
        straight.step_once()
    for _ in range(2):
        broken.step_once()
    save_checkpoint(tmp_path / "checkpoint.pt", broken.state())
    resumed.restore(load_checkpoint(tmp_path / "checkpoint.pt"))
    for _ in range(2):
        resumed.step_once()
    assert resumed.step == straight.step == 4
    assert torch.equal(_weights(resumed), _weights(straight))
    assert not torch.equal(_weights(resumed), _weights(broken))


def test_the_recipes_are_the_small_and_the_published_net():
    assert {name: recipe.model for name, recipe in RECIPES.items()} == {"small": SMALL, "published": PUBLISHED}
    assert SMALL.conditioning == "frame"
    assert PUBLISHED.conditioning == "learned"


def test_a_net_of_another_mel_is_refused(tmp_path: Path):
    other = TINY.model_copy(update={"model": NET.model_copy(update={"upsample_scales": (4, 4)})})
    with pytest.raises(ValueError, match="mel"):
        train_wavenet(other, tmp_path)


def test_the_command_leaves_a_bundle_that_plays_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    served, run, config = tmp_path / "served", tmp_path / "run", tmp_path / "tiny.json"
    parallel = ParallelWaveNet(ParallelWaveNetConfig(layers=2, stacks=1, residual_channels=8, skip_channels=8))
    save_bundle(served, BundleManifest(name="x", licence="Apache-2.0"), {"vocoder": parallel})
    monkeypatch.setenv("S2S_BUNDLE", str(served))
    settings.cache_clear()
    config.write_text(TINY.model_copy(update={"steps": 3}).model_dump_json())
    monkeypatch.setattr(sys, "argv", ["wavenet", "--run-dir", str(run), "--config", str(config)])
    main()
    assert load_checkpoint(run / "checkpoint.pt")["step"] == 3
    assert (run / "copies.png").stat().st_size > 1000
    trained, shipped = load_wavenet(run / "best"), load_bundle(run / "bundle").networks["vocoder"]
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), shipped.parameters(), strict=True))
    mel = np.random.default_rng(0).random((80, 4), np.float32)
    assert vocode(mel, shipped, seed=1).std() > 0
    before = (run / "best.safetensors").read_bytes()
    main()  # finished: not trained again
    assert (run / "best.safetensors").read_bytes() == before
