"""Promises of the parallel WaveNet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2s.mel import MelTransform, mel_spectrogram
from s2s.wavenet_vocoder.parallel import MelCorrection, ParallelWaveNet, ParallelWaveNetConfig, position_noise

TINY = ParallelWaveNetConfig(layers=4, stacks=2, residual_channels=16, skip_channels=16, cond_channels=8, corrections=2)


@pytest.fixture(scope="module")
def net() -> ParallelWaveNet:
    torch.manual_seed(0)
    model = ParallelWaveNet(TINY).eval()
    with torch.no_grad():  # a net that was not trained hardly uses its stack; make it matter
        model.last[-1].weight.mul_(20)
    return model


def _mel(n_frames: int, seed: int = 0) -> torch.Tensor:
    """The mel of clicks and tones, (1, 80, M)."""
    rng = np.random.default_rng(seed)
    n = n_frames * 256
    x = 0.01 * rng.standard_normal(n)
    for start in range(1000, n, 5000):
        t = np.arange(n - start) / 22_050
        x[start:] += 0.5 * np.sin(2 * np.pi * rng.uniform(200, 4000) * t) * np.exp(-t / 0.05)
    return torch.from_numpy(mel_spectrogram(x)[:, :n_frames])[None]


def _noise(n_frames: int, start_frame: int = 0, seed: int = 7) -> torch.Tensor:
    return torch.from_numpy(position_noise(seed, start_frame * 256, n_frames * 256))[None]


@pytest.mark.parametrize("n_frames", [1, 3, 40, 131])
def test_a_mel_frame_becomes_256_samples(net: ParallelWaveNet, n_frames: int):
    with torch.no_grad():
        waveform = net(_mel(n_frames), _noise(n_frames))
    assert waveform.shape == (1, n_frames * 256)
    assert torch.isfinite(waveform).all()


def test_noise_depends_on_seed_and_position_alone():
    whole = position_noise(5, 0, 10_000)
    for start, n in ((0, 10), (1, 7), (4095, 513), (9_990, 10)):
        assert np.array_equal(position_noise(5, start, n), whole[start : start + n])
    assert not np.array_equal(position_noise(6, 0, 100), whole[:100])


def test_noise_is_white_and_of_unit_variance():
    x = position_noise(11, 12_345, 200_000)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 0.01
    assert x.std() == pytest.approx(1, abs=0.01)
    assert max(abs(np.corrcoef(x[lag:], x[:-lag])[0, 1]) for lag in (1, 2, 4, 64)) < 0.01


def test_the_same_noise_gives_the_same_samples_and_other_noise_others(net: ParallelWaveNet):
    mel = _mel(48)
    with torch.no_grad():
        a, b, c = net(mel, _noise(48)), net(mel, _noise(48)), net(mel, _noise(48, seed=8))
    assert torch.equal(a, b)
    assert (a - c).abs().max() > 1e-3


def test_an_aligned_window_gives_the_samples_of_the_whole(net: ParallelWaveNet):
    mel, start, n = _mel(160), 48, 96
    with torch.no_grad():
        whole = net(mel, _noise(160))
        window = net(mel[..., start : start + n], _noise(n, start))
    keep = slice(net.receptive_frames * 256, (n - net.receptive_frames) * 256)
    assert start % net.align_frames == 0
    assert (whole[0, start * 256 : (start + n) * 256][keep] - window[0][keep]).abs().max() < 1e-4


def test_no_sample_depends_on_more_than_the_receptive_field(net: ParallelWaveNet):
    mel = _mel(160)
    changed = mel.clone()
    changed[..., 80] = 0.9
    with torch.no_grad():
        difference = (net(mel, _noise(160)) - net(changed, _noise(160)))[0].abs()
    reach = net.receptive_frames * 256
    assert difference[: 80 * 256 - reach].max() < 1e-5
    assert difference[81 * 256 + reach :].max() < 1e-5
    assert difference.max() > 1e-3


def test_the_correction_brings_the_mel_closer_with_every_round():
    mel = _mel(96)
    correct, transform = MelCorrection(ParallelWaveNet(TINY).spec), MelTransform()
    start = 0.05 * _noise(96)
    errors = [(transform(correct(start, mel, rounds))[..., :96] - mel).abs().mean().item() for rounds in (0, 1, 4, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


def test_the_correction_is_that_of_torchs_own_transforms():
    """The same rounds written with torch.stft and torch.istft, which take twice the time."""
    spec = ParallelWaveNet(TINY).spec
    correct, mel, waveform = MelCorrection(spec), _mel(64), 0.3 * _noise(64)
    made = correct(waveform, mel, 6)
    frames = {"n_fft": spec.n_fft, "hop_length": spec.hop_length, "window": correct.window, "center": True}
    wanted_db, before = 100 * torch.cat([mel, mel[..., -1:]], dim=-1) - 80, None
    for _ in range(6):
        spectrum = torch.stft(waveform, **frames, pad_mode="reflect", return_complex=True)
        pushed = spectrum if before is None else spectrum + correct.MOMENTUM * (spectrum - before)
        has_db = 20 * torch.log10((correct.bank @ pushed.abs()).clamp_min(1e-4))
        missing_db = (wanted_db - has_db).clamp(-correct.LIMIT_DB, correct.LIMIT_DB)
        gain = torch.exp(correct.share @ missing_db * (correct.RELAXATION * np.log(10) / 20))
        waveform, before = torch.istft(pushed * gain, **frames, length=waveform.shape[-1]), spectrum
    assert (made - waveform).abs().max() < 1e-5 * waveform.abs().max()


def test_the_net_runs_on_any_device():
    net = ParallelWaveNet(TINY).to("meta")
    with torch.inference_mode():
        made = net(torch.zeros(2, 80, 32, device="meta"), torch.zeros(2, 32 * 256, device="meta"))
    assert made.device.type == "meta"
    assert made.shape == (2, 32 * 256)


def test_sharpening_takes_the_smear_from_before_an_attack_and_leaves_what_is_steady():
    n, start = 64 * 256, 32 * 256
    rng = np.random.default_rng(0)
    x = 1e-3 * rng.standard_normal(n)
    x[start:] += rng.standard_normal(n - start) * np.exp(-np.arange(n - start) / 6000)
    mel = torch.from_numpy(mel_spectrogram(x)[:, :64])[None]
    model = ParallelWaveNet(TINY)
    smooth = model._upsample(mel, 4 * 64 + 1)
    smooth_db, sharp_db = 100 * smooth - 80, model.sharpen(mel, smooth)
    at, before = start // 64, slice(start // 64 - 6, start // 64 - 2)  # 17 to 9 ms ahead of it
    assert sharp_db[..., before].mean() < smooth_db[..., before].mean() - 5
    assert (sharp_db[..., at + 2] > smooth_db[..., at + 2] - 1).float().mean() > 0.8
    steady = torch.full((1, 80, 32), 0.4)
    assert (model.sharpen(steady, model._upsample(steady, 129)) + 40).abs().max() < 0.1


def test_silence_stays_silent(net: ParallelWaveNet):
    with torch.no_grad():
        waveform = net(torch.zeros(1, 80, 64), _noise(64))
    assert waveform.abs().max() < 2e-3  # 0 on the mel scale is -80 dB


def test_batched_clips_do_not_hear_each_other(net: ParallelWaveNet):
    mels, noises = torch.cat([_mel(40, 1), _mel(40, 2)]), torch.cat([_noise(40, seed=1), _noise(40, seed=2)])
    with torch.no_grad():
        both, alone = net(mels, noises), net(mels[1:], noises[1:])
    assert (both[1] - alone[0]).abs().max() < 1e-5


def test_every_weight_is_reached_by_the_gradient():
    torch.manual_seed(0)
    model = ParallelWaveNet(TINY)
    MelTransform()(model(_mel(24), _noise(24))).square().mean().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []  # the last layer's residual half feeds nobody, so the layer's weight must still get some


def test_the_config_survives_json_and_refuses_what_it_does_not_know():
    assert ParallelWaveNetConfig.model_validate_json(TINY.model_dump_json()) == TINY
    with pytest.raises(ValueError, match="extra"):
        ParallelWaveNetConfig(channels=3)
    with pytest.raises(ValueError, match="stacks"):
        ParallelWaveNet(ParallelWaveNetConfig(layers=5, stacks=2))
