"""The autoregressive WaveNet: causal, conditioned, the same step by step as at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.mixture import (
    decode_mu_law,
    draw_noise,
    encode_mu_law,
    gumbel_argmax,
    mixture_log_prob,
    negative_log_likelihood,
    sample_value,
    teacher_inputs,
)
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import SQRT_HALF, WaveNet, fused_weights

SIZES = {
    "layers": 6,
    "stacks": 2,
    "residual_channels": 12,
    "gate_channels": 16,
    "skip_channels": 10,
    "cin_channels": 8,
    "upsample_scales": (4, 4),
    "dropout": 0.0,
}
CONFIGS = {
    "published way": WaveNetConfig(**SIZES),
    "held frames": WaveNetConfig(**SIZES, conditioning="frame"),
    "kernel 2": WaveNetConfig(**{**SIZES, "kernel_size": 2}),
    "scalar categorical": WaveNetConfig(**SIZES, distribution="categorical", out_channels=32),
    "one-hot categorical": WaveNetConfig(**SIZES, distribution="categorical", out_channels=32, scalar_input=False),
}
CONFIG = CONFIGS["published way"]


def net_of(config: WaveNetConfig, seed: int = 0) -> WaveNet:
    """A net with random biases and gains too, so that nothing hides behind a zero."""
    torch.manual_seed(seed)
    net = WaveNet(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def noise_of(config: WaveNetConfig, n: int, seeds: tuple[int, ...] = (0,)) -> torch.Tensor:
    return torch.from_numpy(np.stack([draw_noise(seed, 0, n, config) for seed in seeds]))


def test_published_keys_and_shapes():
    with torch.device("meta"):
        state = WaveNet(WaveNetConfig()).state_dict()
    shapes = {
        "first_conv.weight_v": (512, 1, 1),
        "conv_layers.23.conv.weight_v": (512, 512, 3),
        "conv_layers.0.conv.weight_g": (512, 1, 1),
        "conv_layers.0.conv1x1c.weight_v": (512, 80, 1),
        "conv_layers.0.conv1x1_out.weight_v": (512, 256, 1),
        "conv_layers.0.conv1x1_skip.weight_v": (256, 256, 1),
        "conv_layers.0.conv1x1_skip.bias": (256,),
        "last_conv_layers.1.weight_g": (256, 1, 1),
        "last_conv_layers.3.weight_v": (30, 256, 1),
        "upsample_conv.0.weight_v": (1, 1, 3, 4),
        "upsample_conv.6.weight_g": (1, 1, 1, 1),
        "upsample_conv.6.bias": (1,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert list(state)[:3] == ["first_conv.bias", "first_conv.weight_g", "first_conv.weight_v"]


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_step_by_step_equals_all_at_once(name):
    config, net = CONFIGS[name], net_of(CONFIGS[name])
    mel, waveform = torch.rand(2, 8, 6), torch.rand(2, 96) * 2 - 1
    inputs = teacher_inputs(waveform, config)
    parallel = net(inputs, mel)
    assert (Sampler(net, batch=2).teacher_forced(inputs, mel) - parallel).abs().max() < 1e-5
    assert parallel.std() > 0.01


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_what_is_generated_is_what_the_net_predicts(name):
    """Fed back its own samples, the parallel net gives the distributions that the samples were drawn from."""
    config, net = CONFIGS[name], net_of(CONFIGS[name])
    mel, noise = torch.rand(2, 8, 6), noise_of(config, 96, (0, 1))
    samples = Sampler(net, batch=2).generate(mel, noise)
    assert samples.shape == (2, 96)
    assert samples.std() > 0.01
    assert samples.abs().max() <= 1
    params = net(teacher_inputs(samples, config), mel)
    expected = torch.stack([sample_value(params[..., t], noise[:, t], config) for t in range(96)], dim=1)
    assert (samples - expected).abs().max() < 1e-4


def test_a_clip_made_in_pieces_or_in_a_batch_is_the_same_clip():
    net = net_of(CONFIG)
    mel, noise = torch.rand(2, 8, 6), noise_of(CONFIG, 96, (3, 4))
    whole = Sampler(net, batch=2).generate(mel, noise)
    sampler = Sampler(net, batch=2)
    pieces = [sampler.generate(mel[..., a:b], noise[:, 16 * a : 16 * b]) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    alone = Sampler(net).generate(mel[1:], noise[1:])
    assert (alone - whole[1:]).abs().max() < 1e-4


def test_an_output_depends_on_its_receptive_field_and_nothing_later():
    net = net_of(CONFIG)
    inputs = torch.rand(1, 1, 96, requires_grad=True)
    net(inputs, torch.rand(1, 8, 6))[0, :, 60].sum().backward()
    seen = inputs.grad[0, 0].nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (60 - CONFIG.receptive_field + 1, 60)
    assert CONFIG.receptive_field == 2 * 2 * (1 + 2 + 4) + 1


def test_frames_condition_their_own_samples_only():
    for name in ("published way", "held frames"):
        net = net_of(CONFIGS[name])
        mel = torch.rand(1, 8, 6)
        changed = mel.clone()
        changed[..., 3] += 1
        differs = (net.upsample(mel) - net.upsample(changed)).abs().amax(dim=(0, 1))
        assert differs[48:64].min() > 0
        assert differs[:48].max() == differs[64:].max() == 0


def test_later_layers_weigh_more_in_the_sum_of_skips():
    """The published quirk: the sum is scaled after every addition, not once."""
    net = net_of(CONFIG)
    inputs, mel = torch.rand(1, 1, 32), torch.rand(1, 8, 2)
    captured = []
    net.last_conv_layers[0].register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    with torch.inference_mode():
        skips = []
        for layer in net.conv_layers:
            layer.conv1x1_skip.register_forward_hook(lambda _, __, out: skips.append(out))
        net(inputs, mel)
    powers = [5, 5, 4, 3, 2, 1]
    expected = sum(skip * SQRT_HALF**power for skip, power in zip(skips, powers, strict=True))
    assert torch.allclose(captured[0], expected, atol=1e-5)


def test_fused_weights_are_the_effective_weights():
    net = net_of(CONFIG)
    weights = fused_weights(net)
    v, g = net.conv_layers[2].conv.weight_v, net.conv_layers[2].conv.weight_g
    expected = torch.stack([g[i] * v[i] / v[i].norm() for i in range(len(v))])
    assert np.allclose(weights["conv_layers.2.conv.weight"], expected.detach().numpy(), atol=1e-6)
    v, g = net.upsample_conv[0].weight_v, net.upsample_conv[0].weight_g
    assert np.allclose(weights["upsample_conv.0.weight"], (g * v / v.norm()).detach().numpy(), atol=1e-6)
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in weights.values())
    assert len(weights) == 2 * (1 + 4 * CONFIG.layers + 2 + 2)


def test_weight_norm_starts_as_the_plain_weight():
    net = WaveNet(CONFIG)
    assert torch.allclose(net.first_conv.weight, net.first_conv.weight_v)
    assert torch.allclose(net.upsample_conv[0].weight.sum(dim=2), torch.ones(1, 1, 4))  # levels are kept at first


@pytest.mark.parametrize(
    "wrong", [{"layers": 5}, {"gate_channels": 15}, {"out_channels": 31}, {"scalar_input": False}, {"kernel_size": 16}]
)
def test_sizes_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValidationError):
        WaveNetConfig(**{**SIZES, **wrong})


# ---- noise and distributions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["published way", "one-hot categorical"])
def test_noise_is_a_function_of_seed_and_absolute_position(name):
    config = CONFIGS[name]
    whole = draw_noise(7, 0, 1000, config)
    assert whole.shape == (1000, config.noise_width)
    assert np.array_equal(draw_noise(7, 400, 300, config), whole[400:700])
    assert not np.array_equal(draw_noise(8, 0, 1000, config), whole)
    assert draw_noise(2**62, 10**12, 1, config).shape == (1, config.noise_width)


def test_noise_is_uniform_inside_the_published_margin():
    noise = draw_noise(0, 0, 100_000, CONFIG)
    assert noise.dtype == np.float32
    assert noise.min() >= np.float32(1e-5)
    assert noise.max() <= np.float32(1 - 1e-5)
    assert np.allclose(noise.mean(axis=0), 0.5, atol=0.005)
    assert np.allclose(np.histogram(noise, 10, (0, 1))[0] / noise.size, 0.1, atol=0.002)
    assert np.abs(np.corrcoef(noise.T) - np.eye(noise.shape[1])).max() < 0.02
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.02


def test_a_gumbel_choice_follows_the_softmax():
    logits = torch.tensor([2.0, 0.0, -1.0]).log_softmax(dim=0)
    drawn = gumbel_argmax(logits.expand(100_000, 3), torch.from_numpy(draw_noise(0, 0, 100_000, CONFIG)[:, :3]))
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.allclose(shares, logits.exp(), atol=0.01)


def test_a_mixture_draws_its_own_logistics():
    params = torch.zeros(1, 30)
    params[:, 10:20] = torch.linspace(-0.9, 0.9, 10)
    params[:, 20:] = -50.0  # a scale far below the floor
    params[:, 3] = 40.0  # certainly the fourth
    noise = noise_of(CONFIG, 50)[0]
    drawn = sample_value(params.expand(50, -1), noise, CONFIG)
    assert torch.allclose(drawn, torch.tensor(-0.9 + 3 * 0.2), atol=1e-5)
    params[:, 20:] = -3.0
    drawn = sample_value(params.expand(50, -1), noise, CONFIG)
    u = noise[:, -1]
    assert torch.allclose(drawn, -0.3 + np.exp(-3) * torch.log(u / (1 - u)), atol=1e-5)
    params[:, 20:] = 5.0
    assert sample_value(params.expand(50, -1), noise, CONFIG).abs().max() == 1  # clamped


@pytest.mark.parametrize("log_scale", [-1.0, -4.0, -7.0])
def test_probabilities_of_all_levels_add_up_to_one(log_scale):
    levels = 4096
    params = torch.zeros(1, 6, levels, dtype=torch.float64)
    params[:, 2], params[:, 3], params[:, 4:] = -0.3, 0.7, log_scale
    target = torch.linspace(-1, 1, levels, dtype=torch.float64)[None]
    # the published loss gives the two ends to everything beyond +-0.999: only the very last levels there are true ones
    inner = (target > -0.999) & (target < 0.999)
    inner[0, 0] = inner[0, -1] = True
    total = mixture_log_prob(params, target, levels, -32.0).exp()[inner].sum()
    assert float(total) == pytest.approx(1, abs=2e-3)


def test_the_loss_is_low_where_the_sample_was_foretold_and_survives_extremes():
    waveform = torch.tensor([[0.5, -0.25, 1.0, -1.0]])
    params = torch.zeros(1, 30, 4)
    params[:, 10:20] = waveform[:, None]
    params[:, 20:] = -6.0
    right = negative_log_likelihood(params, waveform, CONFIG)
    params[:, 10:20] = waveform.roll(1)[:, None]
    assert right < negative_log_likelihood(params, waveform, CONFIG) - 5
    params[:, 20:] = -80.0
    params.requires_grad_()
    loss = negative_log_likelihood(params, waveform, CONFIG)
    loss.backward()
    assert loss.isfinite()
    assert params.grad.isfinite().all()


def test_mu_law_goes_there_and_back():
    waveform = torch.linspace(-1, 1, 1001)
    error = (decode_mu_law(encode_mu_law(waveform, 256), 256) - waveform).abs()
    assert error.max() < 0.023
    assert error[waveform.abs() < 0.01].max() < 5e-4
    levels = torch.arange(256)
    assert torch.equal(encode_mu_law(decode_mu_law(levels, 256), 256), levels)


@pytest.mark.parametrize("name", ["published way", "one-hot categorical"])
def test_training_lowers_the_loss(name):
    config = CONFIGS[name]
    torch.manual_seed(0)
    net = WaveNet(config)
    waveform = 0.5 * torch.sin(0.3 * torch.arange(192.0)).expand(2, -1)
    mel = torch.rand(2, 8, 12)
    steps, losses = torch.optim.Adam(net.parameters(), 5e-3), []
    for _ in range(40):
        loss = negative_log_likelihood(net(teacher_inputs(waveform, config), mel), waveform, config)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1
