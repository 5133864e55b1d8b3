"""Promises of the vocoder's training, on a net and batches small enough for a test."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s2s.errors import ArtifactError
from s2s.synth.sounds import SoundBank
from s2s.training.checkpoint import Ema, load_checkpoint, save_checkpoint
from s2s.training.vocoder import (
    MultiResolutionStft,
    VocoderTrainConfig,
    VocoderTrainer,
    main,
    train_vocoder,
    training_batch,
    validation_set,
)
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig

TINY = VocoderTrainConfig(
    model=ParallelWaveNetConfig(layers=4, stacks=2, residual_channels=16, skip_channels=16, cond_channels=8,
                                corrections=1),
    steps=6, batch=2, segment_frames=16, sounds_per_batch=2, corrections=1, warmup_steps=2, validate_every=3,
    validation_clips=2, discriminator_channels=4,
)


def _weights(trainer: VocoderTrainer) -> torch.Tensor:
    parts = [*trainer.model.state_dict().values(), *trainer.ema.weights.values(),
             *trainer.discriminator.state_dict().values()]
    return torch.cat([p.flatten() for p in parts])


def test_a_run_leaves_weights_that_load_and_a_picture(tmp_path):
    scores = train_vocoder(TINY, tmp_path)
    assert np.isfinite(scores["total"])
    config = ParallelWaveNetConfig.model_validate_json((tmp_path / "best.json").read_text())
    ParallelWaveNet(config).load_state_dict(load_file(tmp_path / "best.safetensors"))
    assert (tmp_path / "copies.png").stat().st_size > 1000
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("adversarial_from", [None, 2])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path, adversarial_from: int | None):
    config = TINY.model_copy(update={"adversarial_from": adversarial_from})
    straight = VocoderTrainer(config)
    for _ in range(5):
        straight.step_once()
    broken = VocoderTrainer(config)
    for _ in range(3):
        broken.step_once()
    save_checkpoint(tmp_path / "checkpoint.pt", broken.state())
    resumed = VocoderTrainer(config)
    resumed.restore(load_checkpoint(tmp_path / "checkpoint.pt"))
    for _ in range(2):
        resumed.step_once()
    assert resumed.step == straight.step == 5
    assert torch.equal(_weights(resumed), _weights(straight))


def test_a_finished_run_is_not_trained_again(tmp_path):
    train_vocoder(TINY, tmp_path)
    before = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    train_vocoder(TINY, tmp_path)
    after = load_checkpoint(tmp_path / "checkpoint.pt")["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_steps_bring_the_loss_down():
    model = TINY.model.model_copy(update={"corrections": 0})  # the net alone
    config = TINY.model_copy(update={"model": model, "corrections": 0, "learning_rate": 5e-3, "steps": 1000})
    trainer = VocoderTrainer(config)
    clips = validation_set(config)
    start, _ = trainer.validate(clips)
    for _ in range(60):
        trainer.step_once()
    end, copies = trainer.validate(clips)
    assert end["total"] < 0.97 * start["total"]
    assert copies.shape == clips.shape


def test_a_batch_depends_on_seed_and_step_alone():
    a = training_batch(TINY, SoundBank("train"), 7)
    assert a.shape == (2, 16 * 256)
    assert a.dtype == np.float32
    assert np.array_equal(a, training_batch(TINY, SoundBank("train"), 7))
    assert not np.array_equal(a, training_batch(TINY, SoundBank("train"), 8))
    assert not np.array_equal(a, training_batch(TINY.model_copy(update={"seed": 1}), SoundBank("train"), 7))


def test_training_hears_loud_quiet_and_nothing():
    config = TINY.model_copy(update={"batch": 8})
    peaks = np.concatenate([np.abs(training_batch(config, SoundBank("train"), i)).max(axis=1) for i in range(12)])
    assert peaks.max() > 0.5
    assert (peaks < 0.01).any()
    assert peaks.max() <= 1


def test_the_stft_loss_is_zero_for_the_same_sound_and_grows_with_the_difference():
    x = torch.from_numpy(validation_set(TINY))
    loss, noise = MultiResolutionStft(), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    values = [loss(x + level * noise, x).item() for level in (0, 0.001, 0.01, 0.1)]
    assert values[0] < 1e-6
    assert values == sorted(values)


def test_the_command_trains_for_the_asked_time_and_goes_on_later(tmp_path, monkeypatch):
    config = tmp_path / "tiny.json"
    config.write_text(TINY.model_copy(update={"steps": 10_000}).model_dump_json())
    run = tmp_path / "run"
    command = ["s2s.training.vocoder", "--run-dir", str(run), "--config", str(config), "--minutes", "0.001"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    first = load_checkpoint(run / "checkpoint.pt")["step"]
    assert 0 < first < 10_000
    assert json.loads((run / "best.json").read_text())["kind"] == "parallel"
    main()
    assert first < load_checkpoint(run / "checkpoint.pt")["step"] < 10_000


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_no_checkpoint_means_a_fresh_start(tmp_path):
    assert load_checkpoint(tmp_path / "none.pt") is None


def test_a_damaged_checkpoint_is_named_and_not_half_read(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1, "w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(ArtifactError, match=r"checkpoint\.pt"):
        load_checkpoint(path)


class _Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('ran')",)


def test_a_checkpoint_cannot_run_code(tmp_path):
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Payload()))
    torch.save({"step": _Payload()}, tmp_path / "zip.pt")
    for name in ("plain.pt", "zip.pt"):
        with pytest.raises(ArtifactError):
            load_checkpoint(tmp_path / name)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": lambda: None})
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_average_follows_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    ema = Ema(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(10.0)
    for step in range(200):
        ema.update(model, step)
    assert ema.weights["weight"].item() == pytest.approx(10.0, abs=1e-3)
