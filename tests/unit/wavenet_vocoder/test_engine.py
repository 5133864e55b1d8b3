"""Promises of the fast WaveNet engine: the same sound as the PyTorch loop, whatever the batch, cut or processor."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from s2s.errors import ArtifactError, Canceled
from s2s.wavenet_vocoder.config import WaveNetConfig
from s2s.wavenet_vocoder.engine import engine as engine_module
from s2s.wavenet_vocoder.engine import segments
from s2s.wavenet_vocoder.engine.engine import (
    EngineSampler,
    Isa,
    WaveNetEngine,
    available_isas,
    calibrate,
    look_ahead_for,
    make_sampler,
    upsample,
    upsampling_kernels,
)
from s2s.wavenet_vocoder.mixture import draw_noise, negative_log_likelihood, teacher_inputs
from s2s.wavenet_vocoder.sampler import Sampler
from s2s.wavenet_vocoder.wavenet import WaveNet

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "src/s2s/wavenet_vocoder/engine/build.py"
ISAS = available_isas()
needs_engine = pytest.mark.skipif(not ISAS, reason="the engine is not built here (it needs a C++ compiler)")
each_isa = pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)

# widths that fill no panel of any instruction set, so that every remainder is walked through
ODD = dict(
    layers=8,
    stacks=2,
    residual_channels=40,
    gate_channels=88,
    skip_channels=24,
    cin_channels=20,
    upsample_scales=(8, 4),
)
WIDE = {**ODD, "residual_channels": 80, "gate_channels": 288, "skip_channels": 144}
PANEL = {**ODD, "residual_channels": 64, "gate_channels": 128, "skip_channels": 64, "kernel_size": 2}
CONFIGS = {
    "learned": WaveNetConfig(**ODD),
    "frame": WaveNetConfig(**ODD, conditioning="frame"),
    "kernel-2": WaveNetConfig(**ODD, kernel_size=2, conditioning="frame"),
    "kernel-4": WaveNetConfig(**ODD, kernel_size=4),  # the look-aheads of its taps do not divide each other
    "kernel-5": WaveNetConfig(**ODD, kernel_size=5, conditioning="frame"),
    "wide": WaveNetConfig(**WIDE),
    "panel": WaveNetConfig(**PANEL, conditioning="frame"),
    "categorical": WaveNetConfig(**ODD, distribution="categorical", out_channels=64, scalar_input=False),
    "categorical-scalar": WaveNetConfig(**ODD, distribution="categorical", out_channels=64, conditioning="frame"),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def _net(config: WaveNetConfig, seed: int = 0) -> WaveNet:
    """Random weights with biases, so that a forgotten one shows."""
    torch.manual_seed(seed)
    net = WaveNet(config).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.05)
    return net


def _mel(config: WaveNetConfig, batch: int = 1, frames: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, config.cin_channels, frames, generator=torch.Generator().manual_seed(seed))


def _noise(config: WaveNetConfig, batch: int = 1, frames: int = 8, start: int = 0) -> torch.Tensor:
    n = frames * config.hop_length
    return torch.from_numpy(np.stack([draw_noise(7 + b, start * config.hop_length, n, config) for b in range(batch)]))


@lru_cache
def _reference(config: WaveNetConfig) -> tuple[WaveNet, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Net, mel, noise and what the PyTorch loop makes of them, three clips side by side."""
    net, mel, noise = _net(config), _mel(config, 3), _noise(config, 3)
    return net, mel, noise, Sampler(net, 3).generate(mel, noise)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Nets this small only lose by being shared out, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(one_thread) -> WaveNet:
    """A small net after a short real training on decaying tones: weights and activations as training leaves them."""
    config = WaveNetConfig(
        **{**ODD, "residual_channels": 32, "gate_channels": 64, "skip_channels": 32, "cin_channels": 4},
        conditioning="frame",
        dropout=0.0,
    )
    torch.manual_seed(3)
    net, rng, losses = WaveNet(config).train(), np.random.default_rng(0), []
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(60):
        wave, mel = _tones(rng, 2, 24, config)
        loss = negative_log_likelihood(net(teacher_inputs(wave, config), mel), wave, config)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1  # it has learnt
    return net.eval()


def _tones(
    rng: np.random.Generator, batch: int, frames: int, config: WaveNetConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decaying tones in noise (B, N), and a stand-in for a mel spectrogram that tells their level (B, cin, M)."""
    n = frames * config.hop_length
    t = np.arange(n) / 22_050
    level = np.exp(-((t[None] * 40 + rng.random((batch, 1))) % 1) * 3)
    tone = np.sin(2 * np.pi * rng.uniform(500, 3000, (batch, 1)) * t)
    wave = 0.4 * level * tone + 0.01 * rng.standard_normal((batch, n))
    frame_level = level.reshape(batch, frames, -1).mean(2)
    mel = np.stack([frame_level, frame_level**2, 1 - frame_level, np.ones_like(frame_level)], axis=1)
    return torch.from_numpy(wave).float(), torch.from_numpy(mel).float()


@needs_engine
@each_isa
@each_config
def test_same_noise_gives_the_samples_of_the_pytorch_loop(config: WaveNetConfig, isa: Isa):
    net, mel, noise, expected = _reference(config)
    made = EngineSampler(WaveNetEngine(net, isa=isa), 3).generate(mel, noise)
    assert expected.std() > 0.05
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=0)


@needs_engine
@each_isa
@each_config
def test_logits_are_those_of_the_parallel_forward(config: WaveNetConfig, isa: Isa):
    net = _net(config)
    mel = _mel(config, 2)
    inputs = teacher_inputs(torch.rand(2, 8 * config.hop_length) * 2 - 1, config)
    with torch.inference_mode():
        expected = net(inputs, mel)
    for packed in (False, True):
        logits = EngineSampler(WaveNetEngine(net, isa=isa, packed=packed), 2).teacher_forced(inputs, mel)
        assert (
            logits - expected
        ).abs().max() < 1e-5  # 1e-4 is asked for; grids of 24 bits must cost nothing that shows


@needs_engine
@each_isa
@each_config
@pytest.mark.parametrize("batch", [1, 2])
def test_looking_ahead_and_packing_change_no_bit(config: WaveNetConfig, isa: Isa, batch: int):
    net, mel, noise = _net(config), _mel(config, 2)[:batch], _noise(config, 2)[:batch]
    lengths = (1, look_ahead_for(2, config), look_ahead_for(1, config))
    assert lengths == (1, 8, 32)
    one, *others = (
        EngineSampler(WaveNetEngine(net, isa=isa, look_ahead=n, packed=packed), batch).generate(mel, noise)
        for packed in (False, True)
        for n in lengths
    )
    assert len(others) == 5
    assert all(torch.equal(one, other) for other in others)


@needs_engine
@each_isa
def test_looking_ahead_changes_no_bit_of_8_bits(isa: Isa):
    for config in (CONFIGS["learned"], CONFIGS["kernel-2"], CONFIGS["kernel-4"]):
        net, mel, noise = _net(config), _mel(config), _noise(config)
        scales = calibrate(net, mel, noise, isa=isa)
        one, *others = (
            EngineSampler(WaveNetEngine(net, isa=isa, precision="int8", scales=scales, look_ahead=n)).generate(
                mel, noise
            )
            for n in (1, 8, 32)
        )
        assert all(torch.equal(one, other) for other in others)


@needs_engine
def test_a_look_ahead_that_does_not_divide_a_mel_frame_is_refused():
    for name in ("learned", "frame"):
        with pytest.raises(ArtifactError, match="divide"):
            WaveNetEngine(_net(CONFIGS[name]), look_ahead=24)


@needs_engine
@each_isa
@pytest.mark.parametrize("precision", ["fp32", "packed", "int8"])
@pytest.mark.parametrize(("name", "threads"), [("learned", 1), ("learned", 2), ("learned", 3), ("panel", 1)])
def test_a_clip_sounds_the_same_alone_and_in_a_batch(isa: Isa, precision: str, name: str, threads: int):
    config = CONFIGS[name]
    net, mel, noise = _net(config), _mel(config, 7), _noise(config, 7)
    if precision == "packed":
        engine = WaveNetEngine(net, isa=isa, packed=True)
    else:
        scales = calibrate(net, mel, noise, isa=isa) if precision == "int8" else None
        engine = WaveNetEngine(net, precision=precision, scales=scales, isa=isa)
    batch = EngineSampler(engine, 7, threads=threads).generate(mel, noise)
    for b in range(7):
        assert torch.equal(batch[b : b + 1], EngineSampler(engine).generate(mel[b : b + 1], noise[b : b + 1]))


@needs_engine
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_clip_may_come_in_pieces(precision: str):
    config = CONFIGS["frame"]
    net, mel, noise = _net(config), _mel(config), _noise(config)
    scales = calibrate(net, mel, noise) if precision == "int8" else None
    engine = WaveNetEngine(net, precision=precision, scales=scales)
    whole, pieces, hop = EngineSampler(engine).generate(mel, noise), EngineSampler(engine), config.hop_length
    made = [pieces.generate(mel[..., a:b], noise[:, a * hop : b * hop]) for a, b in ((0, 1), (1, 6), (6, 8))]
    assert torch.equal(torch.cat(made, dim=1), whole)


@needs_engine
@each_isa
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_streams_end_at_their_own_lengths(isa: Isa, precision: str):
    config = CONFIGS["learned"]
    net, mel, noise = _net(config), _mel(config, 5), _noise(config, 5)
    scales = calibrate(net, mel, noise, isa=isa) if precision == "int8" else None
    engine = WaveNetEngine(net, precision=precision, scales=scales, isa=isa)
    lengths = [100, 256, 17, 200, 101]
    whole = EngineSampler(engine, 5).generate(mel, noise)
    sampler = EngineSampler(engine, 5, lengths=lengths, threads=2)
    made = sampler.generate(mel, noise)
    for b, length in enumerate(lengths):
        assert torch.equal(made[b, :length], whole[b, :length])
        assert not made[b, length:].any()
    assert sampler.done == sum(lengths)


@needs_engine
@each_isa
def test_int8_keeps_20_db_on_a_trained_net(trained: WaveNet, isa: Isa):
    config = trained.config
    mel = _tones(np.random.default_rng(5), 2, 24, config)[1]
    scales = calibrate(trained, mel, _noise(config, 2, 24), isa=isa)
    wave, other_mel = _tones(np.random.default_rng(6), 2, 24, config)  # not what it was calibrated on
    inputs = teacher_inputs(wave, config)
    with torch.inference_mode():
        exact = trained(inputs, other_mel)
    engine = WaveNetEngine(trained, precision="int8", scales=scales, isa=isa)
    error = EngineSampler(engine, 2).teacher_forced(inputs, other_mel) - exact
    varying = exact - exact.mean(dim=2, keepdim=True)
    assert 10 * torch.log10(varying.square().mean() / error.square().mean()) > 20


@needs_engine
def test_int8_sums_are_the_same_on_every_instruction_set():
    """Integers do not round: what differs is the last bit of the gates."""
    config = CONFIGS["wide"]
    net, mel = _net(config), _mel(config, 2)
    scales = calibrate(net, mel, _noise(config, 2))
    inputs = teacher_inputs(torch.rand(2, 256) * 2 - 1, config)
    logits = [
        EngineSampler(WaveNetEngine(net, precision="int8", scales=scales, isa=isa), 2).teacher_forced(inputs, mel)
        for isa in ISAS
    ]
    for other in logits[1:]:
        assert (other - logits[0]).abs().median() < 1e-5


@needs_engine
def test_upsampling_by_hand_is_the_transposed_convolution():
    config = WaveNetConfig(**{**ODD, "upsample_scales": (4, 2, 3), "freq_axis_kernel_size": 5})
    net = _net(config)
    with torch.no_grad():
        for layer in net.upsample_conv[::2]:
            layer.weight_v.normal_()
    mel = _mel(config, 2)
    with torch.inference_mode():
        expected = net.upsample(mel)
    assert np.abs(upsample(mel.numpy(), upsampling_kernels(net)) - expected.numpy()).max() < 1e-5


@needs_engine
def test_generating_stops_within_a_sample_when_asked():
    config = CONFIGS["learned"]
    sampler = EngineSampler(WaveNetEngine(_net(config)))
    frames = 4000  # seconds of work

    def stop_once_it_runs() -> None:
        while sampler.done == 0:
            time.sleep(0.001)
        sampler.stop()

    threading.Thread(target=stop_once_it_runs, daemon=True).start()
    with pytest.raises(Canceled):
        sampler.generate(_mel(config, frames=frames), _noise(config, frames=frames))
    assert 0 < sampler.done < frames * config.hop_length


@needs_engine
def test_should_stop_is_looked_at_while_the_engine_runs():
    config = CONFIGS["learned"]
    sampler, asked = EngineSampler(WaveNetEngine(_net(config))), []

    def stop_when_it_has_begun() -> bool:
        asked.append(sampler.done)
        return sampler.done > 0

    with pytest.raises(Canceled):
        sampler.generate(_mel(config, frames=4000), _noise(config, frames=4000), should_stop=stop_when_it_has_begun)
    assert asked
    assert 0 < sampler.done < 4000 * config.hop_length


@needs_engine
def test_progress_counts_samples_and_other_threads_may_look():
    config, seen, looks = CONFIGS["learned"], [], []
    sampler = EngineSampler(WaveNetEngine(_net(config)), 2)
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            looks.append(sampler.done)
            time.sleep(0.001)

    onlooker = threading.Thread(target=look)
    onlooker.start()
    sampler.generate(_mel(config, 2, 4000), _noise(config, 2, 4000), on_samples=seen.append)
    done.set()
    onlooker.join()
    assert seen[-1] == sampler.done == 2 * 4000 * config.hop_length
    assert seen == sorted(seen)
    assert len(set(looks)) > 3  # the loop ran without holding up Python


@needs_engine
def test_rows_of_any_size_lose_less_to_their_grid_than_32_bits_lose_in_a_sum():
    """Published weights have rows, and weights within a row, of very different sizes."""
    config = CONFIGS["learned"]
    net = _net(config)
    with torch.no_grad():
        for layer in net.conv_layers:
            for conv in (layer.conv, layer.conv1x1_out, layer.conv1x1_skip, layer.conv1x1c):
                conv.weight_g.mul_(10 ** torch.empty_like(conv.weight_g).uniform_(-3, 0))
                conv.weight_v[:, ::7].mul_(0.003)
            layer.conv.weight_g[0].zero_()  # a dead row
    mel = _mel(config, 2)
    inputs = teacher_inputs(torch.rand(2, 256) * 2 - 1, config)
    with torch.inference_mode():
        expected = net(inputs, mel)
    logits = EngineSampler(WaveNetEngine(net, packed=True), 2).teacher_forced(inputs, mel)
    assert expected.std() > 0.05
    assert (logits - expected).abs().max() < 1e-5


@needs_engine
def test_one_segment_is_the_exact_clip():
    config = CONFIGS["frame"]
    net, mel = _net(config), _mel(config, 1, 60)
    exact = EngineSampler(WaveNetEngine(net)).generate(mel, torch.from_numpy(draw_noise(4, 0, 60 * 32, config))[None])
    assert np.array_equal(segments.generate_clip(net, mel[0].numpy(), 4, segments=1), exact[0].numpy())


@needs_engine
def test_a_folded_clip_has_no_seam(trained: WaveNet):
    """Spectral flux at the seams is as elsewhere, and as in the exact clip; fades that do not meet are caught."""
    config, frames = trained.config, 400
    hop = config.hop_length
    mel = _tones(np.random.default_rng(8), 1, frames, config)[1][0].numpy()
    seeds = range(4, 8)  # seven cuts of one clip are few: now and then the sound itself jumps there
    folded, exact = ([segments.generate_clip(trained, mel, seed, segments=count) for seed in seeds] for count in (8, 1))
    cuts = np.array([segment.cut * hop for segment in segments.plan_segments(mel, 8, config)[1:]])
    assert len(cuts) == 7
    clumsy = [wave.copy() for wave in exact]
    for cut in cuts:  # the classic mistake: fades that do not meet leave a hole
        for wave in clumsy:
            wave[cut : cut + segments.FADE_FRAMES * hop] = 0

    def flux_at_cuts(wave: np.ndarray) -> float:
        """Share of places where the spectrum changes less than at a cut, mean over the cuts; 0.5 is as elsewhere."""
        spectrum = np.abs(
            torch.stft(torch.from_numpy(wave), 64, 16, window=torch.hann_window(64), return_complex=True).numpy()
        )
        flux = np.maximum(0, np.diff(np.log(spectrum + 1e-3), axis=1)).sum(0)
        near = np.array([flux[cut // 16 - 2 : cut // 16 + segments.FADE_FRAMES * hop // 16 + 2].max() for cut in cuts])
        width = segments.FADE_FRAMES * hop // 16 + 4
        anywhere = np.array([flux[i : i + width].max() for i in range(len(flux) - width)])
        return float(np.mean([np.mean(anywhere < value) for value in near]))

    at_folded, at_exact, at_clumsy = (
        np.mean([flux_at_cuts(wave) for wave in made]) for made in (folded, exact, clumsy)
    )
    assert at_folded < 0.8
    assert at_folded < at_exact + 0.05
    assert at_clumsy > 0.9


def test_cuts_lie_where_it_is_quiet():
    config = CONFIGS["learned"]
    mel = np.full((20, 300), 0.8, np.float32)
    mel[:, 90:95] = mel[:, 205:210] = 0.1
    plan = segments.plan_segments(mel, 3, config)
    assert [segment.cut for segment in plan] == [0, plan[1].cut, plan[2].cut]
    assert 90 <= plan[1].cut < 95 and 205 <= plan[2].cut < 210  # noqa: PT018
    warm = segments.warm_up_frames(config)
    assert all(s.start == max(0, s.cut - warm) for s in plan)
    assert warm * config.hop_length >= config.receptive_field
    assert plan[-1].end == 300


def test_a_fade_keeps_the_power_of_equal_and_of_unrelated_sounds():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 40_000)).astype(np.float32)
    assert np.allclose(segments.cross_fade(a, a), a, atol=1e-4)
    power = np.square(segments.cross_fade(a, b)).reshape(20, -1).mean(1)
    assert np.allclose(power, 1, atol=0.1)


def test_folding_is_for_big_nets_and_long_clips():
    small, big = _net(CONFIGS["frame"]), WaveNet(WaveNetConfig(layers=4, stacks=1, upsample_scales=(16, 16)))
    assert segments.fitting_segments(10_000, small) == 1
    assert segments.fitting_segments(10, big) == 1
    assert 16 <= segments.fitting_segments(860, big) <= 64


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As after an install on a machine without a compiler."""
    monkeypatch.setattr(engine_module, "__file__", str(tmp_path / "engine.py"))
    engine_module.library.cache_clear()
    yield
    engine_module.library.cache_clear()


def test_without_the_engine_pytorch_plays_and_says_so_once(without_engine, caplog: pytest.LogCaptureFixture):
    config = CONFIGS["frame"]
    net, mel, noise = _net(config), _mel(config, frames=2), _noise(config, frames=2)
    with caplog.at_level(logging.WARNING):
        samplers = [make_sampler(net) for _ in range(3)]
    assert all(isinstance(sampler, Sampler) for sampler in samplers)
    notices = [record.getMessage() for record in caplog.records]
    assert len(notices) == 1
    assert "not available" in notices[0] and "g++" in notices[0]  # noqa: PT018
    assert torch.equal(samplers[0].generate(mel, noise), Sampler(net).generate(mel, noise))
    assert len(segments.generate_clip(net, _mel(config, frames=3)[0].numpy(), 1)) == 3 * config.hop_length
    with pytest.raises(ArtifactError):
        WaveNetEngine(net)


def test_a_broken_engine_file_is_named_in_the_notice(without_engine, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "_wavenet_engine.so").write_bytes(b"not a library")
    with caplog.at_level(logging.WARNING):
        assert engine_module.library() is None
    assert "_wavenet_engine.so" in caplog.text


def test_an_install_without_a_compiler_succeeds_with_one_notice(tmp_path: Path):
    """The real build command on a copy of the source, with a compiler that is not there."""
    folder = tmp_path / BUILD.parent.relative_to(ROOT)
    folder.mkdir(parents=True)
    for name in ("build.py", "wavenet_engine.cpp"):
        (folder / name).write_bytes((BUILD.parent / name).read_bytes())
    (tmp_path / "setup.py").write_text(
        "import runpy\n"
        "from setuptools import setup\n"
        "engine = runpy.run_path('src/s2s/wavenet_vocoder/engine/build.py')\n"
        "setup(name='x', package_dir={'': 'src'}, packages=[], ext_modules=[engine['extension']()],\n"
        "      cmdclass={'build_ext': engine['OptionalBuildExt']})\n"
    )
    environment = {**os.environ, "CC": "no-such-compiler", "CXX": "no-such-compiler"}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The fast WaveNet engine was not built") == 1
    assert "g++" in done.stderr
    assert not list(folder.glob("*.so"))
