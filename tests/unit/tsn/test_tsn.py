"""The streams: published names and rules, heads, consensus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from s2s.tsn import bn_inception
from s2s.tsn.bn_inception import BLOCKS, BNInception, FoldedBNInception
from s2s.tsn.config import PUBLISHED_FLOW, PUBLISHED_RGB, TsnStreamConfig, small_flow, small_rgb
from s2s.tsn.inputs import stack_frames, stream_images
from s2s.tsn.tsn import build_stream

KINDS = ("drum", "gun", "dog")
BLOCK_CHANNELS = {
    "3a": 256,
    "3b": 320,
    "3c": 576,
    "4a": 576,
    "4b": 576,
    "4c": 608,
    "4d": 608,
    "4e": 1056,
    "5a": 1024,
    "5b": 1024,
}


def published_keys() -> list[str]:
    convs = ["conv1_7x7_s2", "conv2_3x3_reduce", "conv2_3x3"]
    for block in BLOCK_CHANNELS:
        halves = block in ("3c", "4e")
        parts = [] if halves else ["1x1"]
        parts += ["3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2"]
        convs += [f"inception_{block}_{part}" for part in parts + ([] if halves else ["pool_proj"])]
    ends = ["weight", "bias"]
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    return [key for conv in convs for key in [f"{conv}.{e}" for e in ends] + [f"{conv}_bn.{e}" for e in norm]]


def test_bn_inception_has_the_published_keys_in_order():
    with torch.device("meta"):
        net = BNInception(3)
    assert list(net.state_dict()) == published_keys()
    assert len(published_keys()) == 483


@torch.inference_mode()
def test_every_block_has_its_published_width_and_size():
    net = BNInception(3).eval()
    x = torch.zeros(1, 192, 28, 28)
    for name, block in BLOCKS.items():
        x = net._apply_inception(f"inception_{name}", x, block)
        size = 28 if name in ("3a", "3b") else 7 if name in ("4e", "5a", "5b") else 14
        assert x.shape == (1, BLOCK_CHANNELS[name], size, size), name


def test_sizes_of_whole_32_pixels_work_and_others_say_so():
    net = BNInception(2).eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 2, 64, 96)).shape == (2, 1024)
        with pytest.raises(ValueError, match="multiples of 32"):
            net(torch.zeros(1, 2, 75, 91))


@pytest.mark.parametrize(("config", "size"), [(small_rgb(KINDS), 96), (small_flow(KINDS), 48)])
def test_the_small_stream_is_small_and_has_both_heads(config, size):
    stream = build_stream(config).eval()
    assert 200_000 < sum(p.numel() for p in stream.parameters()) < 300_000
    with torch.inference_mode():
        features = stream.features(torch.randn(4, config.in_channels, size, size))
        assert features.shape == (4, config.feature_dim)
        assert stream.class_logits(features).shape == (4, 3)
        assert stream.event_logits(features).shape == (4,)


def test_the_kind_of_a_clip_is_the_consensus_of_its_snippets():
    stream = build_stream(small_flow(KINDS)).eval()
    snippets = torch.randn(2, 3, 10, 48, 48)
    with torch.inference_mode():
        classes, events = stream(snippets)
        features = torch.stack([stream.features(clip) for clip in snippets])
        assert torch.allclose(classes, stream.class_logits(features).mean(dim=1), atol=1e-5)
        assert torch.allclose(events, stream.event_logits(features), atol=1e-5)


def test_a_stream_without_heads_says_so():
    stream = build_stream(small_rgb(()).model_copy(update={"event_head": False}))
    assert stream(torch.randn(1, 2, 3, 96, 96)) == (None, None)
    with pytest.raises(ValueError, match="no class head"):
        stream.class_logits(torch.zeros(1, 192))
    with pytest.raises(ValueError, match="no event head"):
        stream.event_logits(torch.zeros(1, 192))


def test_a_small_thing_in_the_picture_is_not_averaged_away():
    torch.manual_seed(0)
    stream = build_stream(small_flow(KINDS)).eval()
    still, moving = torch.zeros(1, 10, 48, 48), torch.zeros(1, 10, 48, 48)
    moving[..., 20:26, 20:26] = 3
    with torch.inference_mode():
        change = (stream.features(moving) - stream.features(still)).abs()[0]
    assert change[96:].mean() > 4 * change[:96].mean()  # maxima against averages


def test_small_streams_learn_kinds_and_events():
    """Three kinds by direction, an event where there is motion: a few steps are enough to tell them."""
    torch.manual_seed(0)
    stream = build_stream(small_flow(KINDS).model_copy(update={"dropout": 0.0}))
    directions = torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]])
    kinds, active = torch.arange(12) % 3, (torch.arange(36) % 2).float().reshape(12, 3)
    flow = directions[kinds][:, None, None, :, None, None] * active[:, :, None, None, None, None]
    snippets = flow.expand(12, 3, 5, 2, 48, 48).flatten(2, 3) + 0.1 * torch.randn(12, 3, 10, 48, 48)
    steps = torch.optim.Adam(stream.parameters(), 2e-3)
    for _ in range(12):
        output = stream(snippets)
        loss = torch.nn.functional.cross_entropy(output.class_logits, kinds)
        loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(output.event_logits, active)
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert (output.class_logits.argmax(dim=1) == kinds).all()
    assert ((output.event_logits > 0) == active.bool()).all()


def test_published_pictures_are_squashed_bgr_and_centred():
    picture = np.random.default_rng(0).integers(0, 256, (256, 340, 3), dtype=np.uint8)
    images = stream_images([picture, picture], PUBLISHED_RGB)
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 224, 224)
    squashed = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BILINEAR)).astype(np.float32)
    assert np.array_equal(images[0, 0].numpy(), squashed[..., 2] - 104)
    assert np.array_equal(images[0, 2].numpy(), squashed[..., 0] - 128)


def test_published_flow_images_are_centred_on_no_motion():
    flow = np.full((256, 340, 2), 128, np.uint8)
    flow[..., 1] = 200
    images = stream_images([flow], PUBLISHED_FLOW)
    assert images.shape == (1, 2, 224, 224)
    assert (images[:, 0] == 0).all()
    assert (images[:, 1] == 72).all()


def test_float_flow_keeps_its_values():
    images = stream_images([np.full((96, 96, 2), (0.25, -0.5), np.float32)], small_flow(()))
    assert images.shape == (1, 2, 48, 48)
    assert torch.allclose(images[0, :, 0, 0], torch.tensor([0.25, -0.5]))


def test_a_stack_repeats_the_outermost_picture():
    images = torch.arange(6.0)[:, None, None, None].expand(6, 2, 4, 4)
    centred = stack_frames(images, small_flow(()))
    assert centred.shape == (6, 10, 4, 4)
    assert centred[0, ::2, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert centred[5, ::2, 0, 0].tolist() == [3, 4, 5, 5, 5]
    ahead = stack_frames(images, PUBLISHED_FLOW.model_copy(update={"frames_per_stack": 5}))
    assert ahead[3, ::2, 0, 0].tolist() == [3, 4, 5, 5, 5]


@pytest.mark.parametrize("wrong", [{"channel_order": "rgb"}, {"mean": (1.0,)}, {"feature_dim": 7}, {"arch": "resnet"}])
def test_a_contradictory_config_is_refused(wrong):
    with pytest.raises(ValidationError):
        TsnStreamConfig.model_validate({**PUBLISHED_FLOW.model_dump(), **wrong})


@pytest.mark.parametrize("in_channels", [3, 2])
def test_folded_batch_norms_change_no_feature(in_channels):
    torch.manual_seed(1)
    plain = BNInception(in_channels).eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    folded = FoldedBNInception(plain)
    pictures = torch.randn(2, in_channels, 64, 96)
    with torch.inference_mode():
        wanted, made = plain(pictures), folded(pictures)
    assert torch.allclose(made, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_the_folded_network_needs_no_private_product(monkeypatch):
    """Where torch lacks its fused convolution, the public ones give the same features."""
    torch.manual_seed(2)
    folded = FoldedBNInception(BNInception(3).eval())
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = folded(pictures)
        monkeypatch.setattr(bn_inception, "_CONV_RELU", None)
        assert torch.allclose(folded(pictures), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def test_the_folded_network_runs_on_any_device():
    folded = FoldedBNInception(BNInception(3).eval()).to("meta")
    assert folded(torch.zeros(2, 3, 64, 64, device="meta")).device.type == "meta"
