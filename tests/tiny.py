"""A bundle of the shipped shape with random weights: for promises that do not depend on training."""

from __future__ import annotations

from pathlib import Path

import torch

from s2s.bundle import BundleManifest, save_bundle
from s2s.recognise import Recogniser, RecogniserConfig
from s2s.regnet.generator import Generator
from s2s.spec import ClipSpec
from s2s.synth.script import KINDS
from s2s.timing.net import TimingConfig, TimingNet
from s2s.training.regnet import small_network
from s2s.tsn.config import small_flow, small_rgb
from s2s.tsn.tsn import build_stream
from s2s.wavenet_vocoder.parallel import ParallelWaveNet, ParallelWaveNetConfig


def make_tiny_bundle(path: Path, seed: int = 0) -> Path:
    """Every role of the shipped bundle, small and untrained."""
    torch.manual_seed(seed)
    streams = {}
    for role, config in (("tsn_rgb", small_rgb(KINDS)), ("tsn_flow", small_flow(KINDS))):
        streams[role] = build_stream(config.model_copy(update={"widths": (4, 6, 8), "feature_dim": 16}))
    regnet = small_network(32).model_copy(
        update={"encoder_channels": 16, "lstm_dim": 8, "encoder_dim": 16, "decoder_dim": 16, "postnet_dim": 16}
    )
    vocoder = ParallelWaveNetConfig(layers=3, stacks=1, residual_channels=8, skip_channels=8, cond_channels=8)
    networks = {
        "timing": TimingNet(TimingConfig()),
        **streams,
        "regnet": Generator(regnet),
        "vocoder": ParallelWaveNet(vocoder),
        "recogniser": Recogniser(
            RecogniserConfig(class_names=KINDS, prior={}, input_size=48, n_snippets=3, width=0.25)
        ),
    }
    save_bundle(
        path,
        BundleManifest(name="tiny", clip=ClipSpec(), categories=KINDS, default_vocoder="wavenet", licence="Apache-2.0"),
        networks,
    )
    return path
