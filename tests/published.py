"""Random weights in the published file formats, and a bundle imported from them.

The shapes are the published ones, or shrunken where a shape allows it (BN-Inception's does not), so that a test of the
whole pipeline takes seconds. What they make is noise; the formats are real.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from s2s.bundle import BundleManifest, import_published
from s2s.regnet import Discriminator, Generator, RegNetConfig
from s2s.tsn.bn_inception import BNInception
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.wavenet import WaveNet

SMALL_REGNET = RegNetConfig(encoder_channels=32, lstm_dim=16, encoder_dim=32, decoder_dim=32, postnet_dim=32,
                            disc_feature_dim=32, disc_down_dims=(8, 16, 32))
SMALL_WAVENET = WaveNetConfig(layers=8, stacks=4, residual_channels=16, gate_channels=16, skip_channels=8)


def caffe_state(net: BNInception) -> dict[str, torch.Tensor]:
    """As `bn_inception-*.pth` has it: batch norm vectors (1, C), no counters, ImageNet's classifier."""
    state = {name: tensor.unsqueeze(0) if "_bn." in name else tensor
             for name, tensor in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    return {**state, "fc_action.1.weight": torch.zeros(1000, 1024), "fc_action.1.bias": torch.zeros(1000)}


def regnet_file(state: dict[str, torch.Tensor], part: str) -> dict:
    """REGNET's own dict: the network's weights lie under the optimiser's name."""
    return {"iteration": 41_000, "learning_rate": -2.2e-7, f"optimizer_{part}": state}


def write_published_files(folder: Path, seed: int = 0, small: bool = True) -> dict[str, Path]:
    """Files named and laid out as published, by the argument of `import_published` that takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = SMALL_REGNET if small else RegNetConfig()
        vocoder = WaveNet(SMALL_WAVENET if small else WaveNetConfig())
        contents = {
            "regnet": ("checkpoint_041000_netG", regnet_file(Generator(config).state_dict(), "netG")),
            "discriminator": ("checkpoint_041000_netD", regnet_file(Discriminator(config).state_dict(), "netD")),
            "wavenet": ("dog_checkpoint_step000200000_ema.pth", {
                "state_dict": vocoder.state_dict(), "optimizer": {"state": {}, "param_groups": []},
                "global_step": 200_000, "global_epoch": 900, "global_test_step": 0}),
            "tsn_rgb": ("bn_inception-9f5701afb96c8044.pth", caffe_state(BNInception(3))),
        }
    files = {}
    for role, (name, content) in contents.items():
        files[role] = folder / name
        torch.save(content, files[role], _use_new_zipfile_serialization=role != "regnet")  # 2019 wrote the older format
    return {**files, "tsn_flow": files["tsn_rgb"]}  # published: one ImageNet file for both streams


def make_random_published(path: Path, seed: int = 0, small: bool = True) -> BundleManifest:
    """A bundle of published shape and random weights at `path`, imported from files in the published formats."""
    with tempfile.TemporaryDirectory() as scratch:
        return import_published(path, name="random-published", categories=("dog",),
                                **write_published_files(Path(scratch), seed, small))
