"""RegNet's training: the published recipe is there, and a killed run ends as an undisturbed one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2s.conditioning import take_code
from s2s.regnet.config import RegNetConfig
from s2s.spec import ClipSpec
from s2s.synth.script import KINDS
from s2s.training.regnet import (
    PUBLISHED,
    Clips,
    RegNetTrainer,
    fit_spread,
    make_scripted,
    mel_error,
    small_network,
    small_recipe,
    train_regnet,
)

NETWORK = small_network(8).model_copy(update={
    "encoder_channels": 12, "lstm_dim": 6, "encoder_dim": 12, "decoder_dim": 12, "postnet_dim": 8, "timbre_dim": 16,
    "disc_feature_dim": 8, "disc_join_dim": 4, "disc_down_dims": (8, 8, 8)})  # fmt: skip
TINY = small_recipe(NETWORK, clip_s=1.0, steps=6, scripted_clips=6, batch_size=3, gan_from_step=4,
                    rendered_from_step=0, frozen_norms_from_step=3)  # fmt: skip


class Silent:
    def count(self, *_args) -> None: ...


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_scripted(6, TINY, ClipSpec(), None, Silent())


def test_the_published_recipe_is_the_papers():
    assert PUBLISHED.network == RegNetConfig()
    assert (PUBLISHED.batch_size, PUBLISHED.betas, PUBLISHED.gan_from_step) == (64, (0.5, 0.999), 0)
    assert PUBLISHED.loss.reconstruction == "mse"
    assert PUBLISHED.loss.reconstruction_weight == 10_000
    assert PUBLISHED.aux_dropout == PUBLISHED.visual_dropout == PUBLISHED.scripted_clips == 0
    rates = [PUBLISHED.learning_rate_at(step) for step in (0, 4_000, 22_550, 41_000)]
    assert rates == pytest.approx([2e-4, 2e-4, 1e-4, 0])


def test_the_published_recipe_trains(clips: Clips, tmp_path):
    small = RegNetConfig(visual_dim=8, z_dim=4, encoder_channels=12, lstm_dim=6, encoder_dim=12, decoder_dim=12,
                         postnet_dim=8, disc_feature_dim=8, disc_join_dim=4, disc_down_dims=(8, 8, 8))  # fmt: skip
    recipe = PUBLISHED.model_copy(update={"network": small, "batch_size": 3})
    rng = np.random.default_rng(0)
    pairs = Clips(rng.random((6, 21, 8)).astype(np.float16), np.zeros((6, 21, 0), np.float16),
                  rng.standard_normal((6, 4)).astype(np.float32), clips.mel[:, :, :84])  # fmt: skip
    trainer = RegNetTrainer(recipe, tmp_path)
    scalars = [trainer.train_step([pairs]) for _ in range(40)]
    assert "loss_d" in scalars[0], "the adversarial game is on from the start"
    assert scalars[-1]["mel_l1"] < 0.6 * scalars[0]["mel_l1"]


def test_scripts_are_played_by_the_takes_of_the_network(clips: Clips):
    again = make_scripted(6, TINY, ClipSpec(), None, Silent())
    assert all(np.array_equal(a, b) for a, b in zip((clips.mel, clips.z), (again.mel, again.z), strict=True))
    for index in range(6):
        kind = clips.condition[index, 0, -len(KINDS):].argmax()
        assert KINDS[kind] == KINDS[index % len(KINDS)]
        codes = [take_code(name, NETWORK.z_dim) for name in NETWORK.takes[KINDS[kind]]]
        assert any(np.array_equal(clips.z[index], code) for code in codes)


def test_a_killed_run_ends_as_an_undisturbed_one(clips: Clips, tmp_path):
    whole, halves = RegNetTrainer(TINY, tmp_path / "whole"), RegNetTrainer(TINY, tmp_path / "halves")
    for _ in range(6):
        whole.train_step([clips])
    for _ in range(3):
        halves.train_step([clips])
    halves.save()
    resumed = RegNetTrainer(TINY, tmp_path / "halves")
    assert resumed.step == 3
    for _ in range(3):
        resumed.train_step([clips])
    for a, b in zip(whole.generator.state_dict().values(), resumed.generator.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_batch_norms_keep_their_statistics_in_the_last_part(clips: Clips, tmp_path):
    trainer = RegNetTrainer(TINY, tmp_path)

    def statistics() -> list[torch.Tensor]:
        return [value.clone() for name, value in trainer.generator.state_dict().items() if "running" in name]

    before = statistics()
    for _ in range(3):
        trainer.train_step([clips])
    moved = statistics()
    assert not all(torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    weights = trainer.generator.decoder.model[0].weight.detach().clone()
    trainer.train_step([clips])
    assert all(torch.equal(a, b) for a, b in zip(moved, statistics(), strict=True))
    assert not torch.equal(weights, trainer.generator.decoder.model[0].weight)


def test_the_spread_is_learned_without_a_change_of_the_mel(clips: Clips, tmp_path):
    trainer = RegNetTrainer(TINY.model_copy(update={"grain_steps": 150}), tmp_path)
    before = mel_error(trainer.generator, clips)
    fit_spread(trainer, [clips])
    assert mel_error(trainer.generator, clips) == before
    z, condition = (torch.from_numpy(part[:1].astype(np.float32)) for part in (clips.z, clips.condition))
    spread = trainer.generator.spread(z, condition)
    assert 0.003 < float(spread.detach().mean()) < 0.2
    assert not torch.allclose(spread, spread.mean())


def test_training_comes_closer_to_the_sounds_and_leaves_the_generator_ready(tmp_path):
    recipe = TINY.model_copy(update={"steps": 60, "gan_from_step": 60, "frozen_norms_from_step": 30})
    start = mel_error(RegNetTrainer(recipe, tmp_path / "untrained").generator,
                      make_scripted(6, recipe, ClipSpec(), None, Silent()))  # fmt: skip
    generator = train_regnet(recipe, tmp_path / "run")
    assert not generator.training
    assert (tmp_path / "run" / "generator.safetensors").exists()
    assert mel_error(generator, make_scripted(6, recipe, ClipSpec(), None, Silent())) < 0.5 * start
