"""What REGNET's networks promise beyond the published numbers (tests/golden)."""

from __future__ import annotations

import inspect

import pytest
import torch

from s2s.regnet import Discriminator, Generator, RegNetConfig

SMALL = RegNetConfig(visual_dim=12, z_dim=4, encoder_channels=16, lstm_dim=8, encoder_dim=16, aux_dim=6, decoder_dim=16,
                     postnet_dim=16, disc_feature_dim=16, disc_join_dim=8, disc_down_dims=(8, 16, 16))
CONDITIONED = SMALL.model_copy(update={"condition_dim": 5})

NETG_SHAPES = {  # of the published file, aux_dim 32
    "encoder.convolutions.0.0.conv.weight": (2048, 2560, 5), "encoder.convolutions.2.0.conv.weight": (2048, 2048, 5),
    "encoder.convolutions.1.1.running_var": (2048,), "encoder.convolutions.1.1.num_batches_tracked": (),
    "encoder.BiLSTM.weight_ih_l0": (2048, 2048), "encoder.BiLSTM.weight_ih_l1_reverse": (2048, 1024),
    "encoder.BiLSTM.weight_hh_l1": (2048, 512), "encoder.BiLSTM.bias_hh_l1_reverse": (2048,),
    "encoder.BiLSTM_proj.weight": (1024, 1024), "auxiliary.BiLSTM.weight_ih_l0": (128, 80),
    "auxiliary.BiLSTM.weight_ih_l1_reverse": (128, 64), "auxiliary.BiLSTM.weight_hh_l0_reverse": (128, 32),
    "auxiliary.BiLSTM_proj.weight": (32, 32),
    "decoder.model.0.weight": (1056, 512, 4), "decoder.model.1.weight": (512,),
    "decoder.model.3.weight": (512, 512, 5), "decoder.model.6.weight": (512, 80, 4), "decoder.model.7.bias": (80,),
    "decoder.model.9.weight": (80, 80, 5), "postnet.convolutions.0.0.conv.weight": (512, 80, 5),
    "postnet.convolutions.4.0.conv.weight": (80, 512, 5), "postnet.convolutions.4.1.running_mean": (80,),
}
NETD_SHAPES = {
    "feature_conv.0.weight": (2048, 1024, 4), "feature_conv.1.running_mean": (1024,),
    "feature_conv.3.weight": (1024, 64, 4), "mel_conv.weight": (80, 64, 1), "down_sampling.0.weight": (256, 128, 4),
    "down_sampling.2.weight": (512, 256, 4), "down_sampling.3.weight": (512,), "down_sampling.5.weight": (1024, 512, 4),
    "down_sampling.6.weight": (1024,), "down_sampling.8.weight": (1, 1024, 4), "down_sampling.8.bias": (1,),
}


def clip(config: RegNetConfig, frames: int = 10, batch: int = 2) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(frames)
    data = {"visual": torch.randn(batch, frames, config.visual_dim, generator=rng),
            "z": torch.randn(batch, config.z_dim, generator=rng)}
    if config.condition_dim:
        data["condition"] = torch.randn(batch, frames, config.condition_dim, generator=rng)
    return data


@pytest.mark.parametrize(("network", "shapes", "n_keys"),
                         [(Generator, NETG_SHAPES, 115), (Discriminator, NETD_SHAPES, 29)])
def test_keys_and_shapes_are_the_published_ones(network, shapes, n_keys):
    with torch.device("meta"):
        state = network(RegNetConfig()).state_dict()
    assert len(state) == n_keys
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_inference_has_no_way_to_see_a_mel():
    assert list(inspect.signature(Generator.predict_mel).parameters) == ["self", "visual", "z", "condition"]
    generator = Generator(SMALL).eval()
    before = generator.predict_mel(**clip(SMALL))
    with torch.no_grad():
        for parameter in generator.auxiliary.parameters():
            parameter.fill_(float("nan"))
    assert torch.equal(generator.predict_mel(**clip(SMALL)), before)


@pytest.mark.parametrize("aux_type", ["lstm_last", "lstm_sample", "conv"])
def test_training_does_hear_the_mel_through_the_regulariser(aux_type):
    generator = Generator(SMALL.model_copy(update={"aux_type": aux_type})).eval()
    torch.nn.init.normal_(generator.decoder.model[0].weight)
    data, mel = clip(SMALL), torch.rand(2, 80, 40)
    loud, _ = generator(mel_target=mel, **data)
    quiet, _ = generator(mel_target=0.1 * mel, **data)
    assert (loud - quiet).abs().max() > 0
    assert (loud - generator.predict_mel(**data)).abs().max() > 0


@pytest.mark.parametrize("frames", [1, 7, 215, 300])
@pytest.mark.parametrize("aux_type", ["lstm_last", "lstm_sample", "conv"])
def test_any_length_gives_four_mel_frames_a_feature_frame(aux_type, frames):
    config = SMALL.model_copy(update={"aux_type": aux_type})
    generator, data = Generator(config).eval(), clip(config, frames)
    mel, before_postnet = generator(mel_target=torch.rand(2, 80, 4 * frames), **data)
    assert mel.shape == before_postnet.shape == generator.predict_mel(**data).shape == (2, 80, 4 * frames)


def test_training_returns_the_final_mel_first():
    generator, data = Generator(SMALL).eval(), clip(SMALL)
    for layer in generator.postnet.convolutions:
        torch.nn.init.normal_(layer[0].conv.weight)
    mel, before_postnet = generator(mel_target=torch.rand(2, 80, 40), **data)
    assert torch.allclose(mel, before_postnet + generator.postnet(before_postnet))
    assert (mel - before_postnet).abs().max() > 1e-6


def test_the_noise_is_an_argument_and_nothing_else_is_random():
    generator, data = Generator(SMALL).eval(), clip(SMALL)
    assert torch.equal(generator.predict_mel(**data), generator.predict_mel(**data))
    assert not torch.equal(generator.predict_mel(**data), generator.predict_mel(**{**data, "z": -data["z"]}))


def test_conditions_reach_the_decoder_past_the_encoder():
    """An encoder that says nothing cannot hide an event: it arrives at its own frame."""
    generator = Generator(CONDITIONED).eval()
    torch.nn.init.zeros_(generator.encoder.BiLSTM_proj.weight)
    torch.nn.init.normal_(generator.decoder.model[0].weight)
    data = clip(CONDITIONED, frames=40, batch=1)
    moved = {**data, "condition": data["condition"].clone()}
    moved["condition"][:, 20] += 3
    changed = (generator.predict_mel(**moved) - generator.predict_mel(**data)).abs().amax(dim=(0, 1))
    assert changed[80:84].max() > 0
    assert changed[:40].max() == changed[120:].max() == 0


def test_conditions_reach_the_encoder():
    generator, data = Generator(CONDITIONED).eval(), clip(CONDITIONED)
    columns = generator.encoder.convolutions[0][0].conv.weight.shape[1]
    assert columns == CONDITIONED.visual_dim + CONDITIONED.z_dim + CONDITIONED.condition_dim
    torch.nn.init.zeros_(generator.decoder.model[0].weight[CONDITIONED.encoder_dim:])
    moved = {**data, "condition": data["condition"] + 3}
    assert not torch.equal(generator.predict_mel(**moved), generator.predict_mel(**data))


def test_forgotten_conditions_are_an_error_not_zeros():
    data = clip(CONDITIONED)
    with pytest.raises(ValueError, match="5 condition channels"):
        Generator(CONDITIONED).predict_mel(data["visual"], data["z"])
    with pytest.raises(ValueError, match="5 condition channels"):
        Discriminator(CONDITIONED)(data["visual"], torch.rand(2, 80, 40), data["condition"][..., :2])


def test_a_take_leaves_its_own_spectrum_where_its_event_is():
    config = SMALL.model_copy(update={"condition_dim": 4 * 2 + 3, "event_curves": 2, "timbre_dim": 16})
    generator, data = Generator(config).eval(), clip(config, frames=20, batch=1)
    for layer in (generator.decoder.model[-1], generator.postnet.convolutions[-1][0].conv):
        torch.nn.init.zeros_(layer.weight)  # what is left is the timbre
    data["condition"][:] = 0
    data["condition"][:, :, 8] = 1  # the kind
    silent = generator.predict_mel(**data)
    assert torch.equal(silent, silent[..., :1].expand_as(silent)), "without an event nothing moves"
    data["condition"][:, 12, 4 + 3] = 1  # the second curve, last of the four mel frames of frame 12
    rung = generator.predict_mel(**data) - silent
    assert rung[..., 51].abs().max() > 0
    rung[..., 51] = 0
    assert rung.abs().max() == 0
    other = {**data, "z": -data["z"]}
    assert not torch.allclose(generator.predict_mel(**other)[..., 51], generator.predict_mel(**data)[..., 51])


def test_a_take_turns_the_channels_of_the_decoder():
    config = SMALL.model_copy(update={"condition_dim": 4 * 2 + 3, "event_curves": 2, "timbre_dim": 16})
    generator, data = Generator(config).eval(), clip(config)
    torch.nn.init.zeros_(generator.timbre.lines.weight)
    torch.nn.init.zeros_(generator.encoder.BiLSTM_proj.weight)  # z has no other way
    for layer in (generator.decoder.model[0], generator.decoder.model[3], generator.decoder.model[6]):
        torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(generator.decoder.model[9].weight)
    assert not torch.allclose(generator.predict_mel(**data), generator.predict_mel(**{**data, "z": -data["z"]}))


def test_a_net_without_the_regulariser_trains_and_predicts():
    config = SMALL.model_copy(update={"aux_dim": 0})
    generator, data = Generator(config).eval(), clip(config)
    assert torch.equal(generator(mel_target=torch.rand(2, 80, 40), **data)[0], generator.predict_mel(**data))


def test_weights_start_as_published():
    generator = Generator(RegNetConfig(encoder_channels=64, decoder_dim=64, postnet_dim=64))
    for name, parameter in generator.named_parameters():
        if "conv.weight" in name or "BiLSTM_proj.weight" in name or name in ("decoder.model.0.weight",):
            assert parameter.detach().std() == pytest.approx(0.02, rel=0.1), name
        if "conv.bias" in name or "proj.bias" in name:
            assert parameter.abs().max() == 0, name
    assert (generator.decoder.model[1].weight == 1).all()
    assert generator.encoder.BiLSTM.weight_hh_l0.abs().max() <= 1 / 512**0.5


def test_the_discriminator_hears_picture_mel_and_conditions():
    discriminator, data = Discriminator(CONDITIONED).eval(), clip(CONDITIONED)
    visual, mel, condition = data["visual"], torch.rand(2, 80, 40), data["condition"]
    score = discriminator(visual, mel, condition)
    assert score.shape == (2, 1, 8)
    assert ((score > 0) & (score < 1)).all()
    for changed in ((visual + 1, mel, condition), (visual, 1 - mel, condition), (visual, mel, condition + 1)):
        assert not torch.equal(discriminator(*changed), score)
