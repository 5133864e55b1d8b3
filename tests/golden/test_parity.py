"""The networks and the mel reproduce the published code's numbers."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch
from tests.golden.fill import GOLDEN, assert_golden, bn_inception_rule, fill, regnet_rule, wave, wavenet_rule

from s2s.mel import MelTransform, mel_filterbank, mel_spectrogram
from s2s.regnet import Discriminator, Generator, RegNetConfig
from s2s.spec import PUBLISHED_CLIP, MelSpec
from s2s.tsn.bn_inception import BNInception
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import WaveNet


@pytest.fixture(scope="module")
def visual():
    return wave((1, 215, 2048), 0.5, 0.013, 0.5)


@pytest.fixture(scope="module")
def mel():
    return wave((1, 80, 860), 0.5, 0.017, 0.5)


@torch.inference_mode()
def test_generator_gives_the_published_numbers(visual, mel):
    with torch.device("meta"):
        generator = Generator(RegNetConfig())
    generator = fill(generator.to_empty(device="cpu"), regnet_rule)
    z = wave((1, 512), 1.0, 0.11, function=np.cos)
    assert sum(p.numel() for p in generator.parameters()) == 94_095_184
    assert len(generator.state_dict()) == 115

    noise = z.unsqueeze(1).expand(-1, 215, -1)
    assert_golden("G.encoder", generator.encoder(torch.cat([visual, noise], dim=2)))
    assert_golden("G.auxiliary(mel)", generator.auxiliary(mel))
    without_aux = generator._mels(visual, torch.zeros(1, 215, 32), z, None)
    assert_golden("G.decoder_out (aux_zero)", without_aux[1])
    assert_golden("G.mel_out (aux_zero)", without_aux[0])
    assert_golden("G.mel_out (aux_zero)", generator.predict_mel(visual, z))
    assert_golden("G.mel_out (aux on)", generator(visual, mel, z)[0])


@torch.inference_mode()
def test_discriminator_gives_the_published_numbers(visual, mel):
    discriminator = fill(Discriminator(RegNetConfig()), regnet_rule)
    assert sum(p.numel() for p in discriminator.parameters()) == 11_420_545
    assert len(discriminator.state_dict()) == 29
    assert_golden("D(x,mel)", discriminator(visual, mel))


@pytest.mark.parametrize("channels", [3, 2])
@torch.inference_mode()
def test_bn_inception_gives_the_published_numbers(channels):
    net = fill(BNInception(channels), bn_inception_rule)
    assert len(net.state_dict()) == 483
    if channels == 3:
        assert sum(p.numel() for p in net.parameters()) == 10_270_240
    features = net(wave((1, channels, 224, 224), 128.0, 0.021))
    assert_golden(f"BNInception(in={channels})", features[:, :, None, None], relative=1e-3)


@torch.inference_mode()
def test_wavenet_gives_the_published_numbers(mel):
    net = fill(WaveNet(WaveNetConfig()), wavenet_rule)
    assert sum(p.numel() for p in net.parameters()) == 24_737_396
    assert len(net.state_dict()) == 309
    assert net.config.receptive_field == 505
    condition, audio = mel[:, :, :4], wave((1, 1, 1024), 0.3, 0.05)
    assert_golden("W.upsampled_c", net.upsample(condition))
    parallel = net(audio, condition)
    assert_golden("W.forward(a,c)", parallel)
    step_by_step = Sampler(net).teacher_forced(audio[..., :64], condition)
    assert (step_by_step - parallel[..., :64]).abs().max() < 1e-5


def golden_signals() -> dict[str, np.ndarray]:
    n = np.arange(220_500)
    short = 0.1 * np.sin(2 * np.pi * 440 * n / 22_050)
    short[110_250:] = 0
    impulse = np.zeros(220_500)
    impulse[100_000] = 1
    return {
        "sine1k_0.5": 0.5 * np.sin(2 * np.pi * 1000 * n / 22_050),
        "chirpish": 0.3 * np.sin(2 * np.pi * (200 + 0.01 * n) * n / 22_050),
        "silence": np.zeros(220_500), "impulse@100000": impulse, "short 5s sine440_0.1": short,
    }


@pytest.mark.parametrize("name", GOLDEN["mel_pipeline"])
def test_mel_gives_the_published_numbers(name):
    signal, wanted = golden_signals()[name], GOLDEN["mel_pipeline"][name]
    mel = mel_spectrogram(signal)
    assert mel.shape == (80, wanted["frames_before_trim"])
    mel = mel[:, :PUBLISHED_CLIP.n_mel_frames(215)]
    assert list(mel.shape) == wanted["shape"]
    assert mel.mean() == pytest.approx(wanted["mean"], abs=1e-5)
    assert mel.max() == pytest.approx(wanted["max"], abs=1e-4)
    assert mel[:, 400].argmax() == wanted["argmax_bin_at_frame400"]
    for place, value in wanted["v"].items():
        row, column = map(int, place.strip("[]").split(","))
        assert mel[row, column] == pytest.approx(value, abs=1e-4)

    batched = MelTransform()(torch.from_numpy(signal).float()[None])[0, :, :860].numpy()
    assert np.abs(batched - mel).max() < 1e-4


@pytest.mark.parametrize("name", GOLDEN["mel_pipeline"])
def test_a_power_mel_is_not_our_mel(name):
    """The mistake that doubles the contrast: we know its numbers, and ours are others."""
    signal, wanted = golden_signals()[name], GOLDEN["mel_pipeline"][name]
    power = np.abs(librosa.stft(signal, n_fft=1024, hop_length=256, pad_mode="reflect")) ** 2
    wrong = np.clip((20 * np.log10(np.maximum(1e-5, mel_filterbank() @ power)) + 80) / 100, 0, 1)[:, :860]
    assert wrong.mean() == pytest.approx(wanted["power2_mean"], abs=1e-5)
    assert wrong.max() == pytest.approx(wanted["power2_max"], abs=1e-4)
    if name != "silence":
        assert np.abs(wrong - mel_spectrogram(signal)[:, :860]).max() > 0.05
    constant = np.abs(librosa.stft(signal, n_fft=1024, hop_length=256, pad_mode="constant"))
    constant = np.clip((20 * np.log10(np.maximum(1e-5, mel_filterbank() @ constant)) + 80) / 100, 0, 1)[:, :860]
    differs = np.abs(constant - mel_spectrogram(signal)[:, :860]).max(axis=0)
    assert differs.max() == pytest.approx(wanted["maxabs_reflect_vs_constant"], abs=1e-4)
    assert np.flatnonzero(differs > 1e-4).tolist() == wanted["cols_differing"]


def test_filterbank_is_the_published_one():
    bank = mel_filterbank(MelSpec())
    assert np.count_nonzero(bank) == 680
    assert bank.max() == pytest.approx(0.0282357, abs=1e-7)
    assert (bank.sum(axis=1) > 0).all()
