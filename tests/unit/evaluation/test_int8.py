"""8 bits are used where a measured check found that nothing audible moves, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from s2s import vocode as vocode_module
from s2s.bundle import MANIFEST_NAME, BundleManifest, load_bundle, read_manifest, save_bundle, save_int8
from s2s.cli import app
from s2s.errors import InputError
from s2s.evaluation.int8 import _logit_snr_db, measure_int8
from s2s.media.audio import write_wav
from s2s.mel import mel_spectrogram
from s2s.vocode import vocode
from s2s.wavenet_vocoder.config import Int8, WaveNetConfig
from s2s.wavenet_vocoder.engine import available_isas, calibrate, generate_clip
from s2s.wavenet_vocoder.mixture import draw_noise
from s2s.wavenet_vocoder.wavenet import WaveNet

needs_engine = pytest.mark.skipif(not available_isas(), reason="the engine is not built here (install g++)")
SMALL = WaveNetConfig(
    layers=4,
    stacks=2,
    residual_channels=16,
    gate_channels=32,
    skip_channels=16,
    kernel_size=2,
    conditioning="frame",
    dropout=0.0,
)
UNMOVED = Int8(
    scales=(0.01,) * sum(SMALL.int8_widths),
    sound_s=8,
    logit_snr_db=25,
    mel_db=9,
    int8_mel_db=9.1,
    onset_f1=0.9,
    seed_onset_f1=0.85,
)


@pytest.fixture
def net() -> WaveNet:
    torch.manual_seed(0)
    return WaveNet(SMALL).eval()


def _hits(n: int) -> list[np.ndarray]:
    """Decaying noise bursts, 0.5 s each."""
    rng = np.random.default_rng(4)
    t = np.arange(11_025) / 22_050
    return [
        (0.5 * rng.standard_normal(len(t)) * np.exp(-((t * (3 + i)) % 1) * 12)).astype(np.float32) for i in range(n)
    ]


def _bundle(path: Path, net: WaveNet) -> Path:
    save_bundle(path, BundleManifest(name="ar", licence="Apache-2.0", default_vocoder="wavenet"), {"vocoder": net})
    return path


@needs_engine
def test_what_8_bits_change_is_measured_on_sounds_that_gave_no_scale(net: WaveNet):
    sounds = _hits(4)
    found = measure_int8(net, sounds)
    assert len(found.scales) == sum(SMALL.int8_widths)
    assert found.sound_s == pytest.approx(1.0, abs=0.03)  # two of the four
    assert found.logit_snr_db > 15
    assert abs(found.int8_mel_db - found.mel_db) < 1
    louder = [sounds[0], sounds[1] * 1.5, sounds[2], sounds[3] * 1.5]
    assert measure_int8(net, louder).scales == found.scales


@needs_engine
def test_a_channel_that_stays_small_is_not_drowned_in_the_steps_of_a_large_one(net: WaveNet):
    with torch.no_grad():
        net.first_conv.weight_g[0] *= 30
        for layer in net.conv_layers:  # which nothing needs
            layer.conv.weight_v[:, 0] *= 0.01
    sounds = _hits(2)
    sound = torch.from_numpy(np.stack(sounds))[:, :4096]
    mel = torch.from_numpy(np.stack([mel_spectrogram(each)[:, :16] for each in sounds]))
    noise = np.stack([draw_noise(seed, 0, 4096, SMALL) for seed in range(2)])
    scales = calibrate(net, mel, torch.from_numpy(noise))
    widths = np.cumsum(SMALL.int8_widths)[:-1]
    one_a_tensor = [max(part) for part in np.split(np.array(scales), widths) for _ in part]
    assert _logit_snr_db(net, scales, sound, mel) > _logit_snr_db(net, one_a_tensor, sound, mel) + 3


@needs_engine
def test_too_little_sound_is_refused(net: WaveNet):
    with pytest.raises(InputError, match="two sounds"):
        measure_int8(net, _hits(1))


@pytest.mark.parametrize("change", [{"logit_snr_db": 19.9}, {"int8_mel_db": 9.3}, {"onset_f1": 0.82}])
def test_one_thing_that_moves_is_enough_against_8_bits(change: dict):
    assert UNMOVED.unmoved
    assert not UNMOVED.model_copy(update=change).unmoved


@needs_engine
def test_a_bundle_carries_its_scales_and_plays_with_them(net: WaveNet, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(vocode_module, "int8_pays", lambda: True)  # also where VNNI is missing
    folder, mel = _bundle(tmp_path / "ar", net), np.random.default_rng(1).random((80, 6), np.float32)
    exact = vocode(mel, load_bundle(folder).networks["vocoder"], seed=3)
    found = measure_int8(net, _hits(2)).model_copy(update={"logit_snr_db": 25.0, "onset_f1": 1.0, "int8_mel_db": 0.0})
    save_int8(folder, found)
    loaded = load_bundle(folder).networks["vocoder"]
    assert loaded.int8 == found
    coarse = vocode(mel, loaded, seed=3)
    assert not np.array_equal(coarse, exact)
    assert np.array_equal(coarse, generate_clip(net, mel, 3, scales=found.scales))

    save_int8(folder, found.model_copy(update={"logit_snr_db": 3.0}))
    assert np.array_equal(vocode(mel, load_bundle(folder).networks["vocoder"], seed=3), exact)


@needs_engine
def test_8_bits_are_left_alone_where_the_processor_gains_nothing(net: WaveNet, monkeypatch):
    mel = np.random.default_rng(1).random((80, 4), np.float32)
    exact = vocode(mel, net, seed=3)
    net.int8 = measure_int8(net, _hits(2)).model_copy(update={"logit_snr_db": 25.0, "onset_f1": 1.0, "int8_mel_db": 0})
    monkeypatch.setattr(vocode_module, "int8_pays", lambda: False)
    assert np.array_equal(vocode(mel, net, seed=3), exact)


def test_a_saved_bundle_keeps_the_scales_of_its_weights(net: WaveNet, tmp_path: Path):
    net.int8 = UNMOVED
    folder = _bundle(tmp_path / "ar", net)
    assert read_manifest(folder).networks["vocoder"].int8 == UNMOVED
    assert load_bundle(folder).networks["vocoder"].int8 == UNMOVED


def test_scales_of_another_network_are_left_alone_and_said(net: WaveNet, tmp_path: Path, caplog):
    folder = _bundle(tmp_path / "ar", net)
    data = json.loads((folder / MANIFEST_NAME).read_text())
    data["networks"]["vocoder"]["int8"] = {**UNMOVED.model_dump(), "scales": [0.1] * 3}
    (folder / MANIFEST_NAME).write_text(json.dumps(data))
    assert load_bundle(folder).networks["vocoder"].int8 is None
    assert "plays in 32 bits" in caplog.text


@needs_engine
def test_the_command_calibrates_on_files_of_sound(net: WaveNet, tmp_path: Path):
    folder, options = _bundle(tmp_path / "ar", net), []
    for i, sound in enumerate(_hits(2)):
        write_wav(tmp_path / f"{i}.wav", sound, 22_050)
        options += ["--sound", str(tmp_path / f"{i}.wav")]
    result = CliRunner().invoke(app, ["bundle", "calibrate", str(folder), *options])
    assert result.exit_code == 0, result.output
    told, kept = json.loads(result.stdout), read_manifest(folder).networks["vocoder"].int8
    assert told["used_by_default"] is kept.unmoved
    assert told["logit_snr_db"] == kept.logit_snr_db
