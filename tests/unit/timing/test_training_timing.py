"""Training the timing net: real, resumable, deterministic, on what serving would see."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s2s.config import settings
from s2s.media.probe import probe
from s2s.media.video import decode_frames
from s2s.motion import MotionExtractor
from s2s.synth.dataset import make_dataset, read_dataset
from s2s.timing.net import TimingConfig, TimingNet
from s2s.training.timing import TimingTraining, load_examples, make_batch, measure_motion, train_timing

SHORT = TimingTraining(steps=8, batch_size=4, crop_ticks=96, validate_every=4, learning_rate=5e-3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    make_dataset(root, 5, seed=3, split="train", bank=None, duration_s=2.0, short_side_px=72)
    return root


def test_training_sees_what_serving_sees(clips):
    record = read_dataset(clips)[0]
    limits = settings().cli_limits
    info = probe(record.video, limits)
    extractor = MotionExtractor()
    for frame in decode_frames(info, limits=limits):
        extractor.push(frame.grey, frame.time_s)
    served, trained = extractor.finish(record.duration_s), measure_motion(record)
    np.testing.assert_array_equal(served.cells, trained.cells)
    np.testing.assert_array_equal(served.scene, trained.scene)


def test_motion_is_measured_once(clips, tmp_path, monkeypatch):
    first = load_examples([clips], tmp_path)
    monkeypatch.setattr("s2s.training.timing.measure_motion", lambda record: pytest.fail("measured again"))
    again = load_examples([clips], tmp_path)
    assert all((a.cells == b.cells).all() for a, b in zip(first, again, strict=True))


def test_a_batch_holds_finite_numbers_and_targets_at_events(clips, tmp_path):
    examples = load_examples([clips], tmp_path)
    config = TimingTraining(batch_size=24, crop_ticks=96)
    cells, scene, target, strength, weight = make_batch(examples, config, np.random.default_rng(0))
    assert cells.shape == (24, 96, config.n_cells, len(config.net.cell_channels))
    assert scene.shape == (24, 96, len(config.net.scene_channels))
    for part in (cells, scene, target, strength, weight):
        assert np.isfinite(part).all()
    assert 0.9 < target.max() <= 1
    assert target.min() >= 0
    assert (strength[weight > 0] > 0).all()


def test_targets_sit_on_the_events_when_nothing_is_bent(clips, tmp_path):
    examples = [e for e in load_examples([clips], tmp_path) if len(e.times_s)]
    config = TimingTraining(warp=(1.0, 1.0), overlay=0.0, slow_share=0.0, batch_size=8, crop_ticks=100)
    example = examples[0]
    _, _, target, _, _ = make_batch([example], config, np.random.default_rng(1))
    gaps = np.diff(example.times_s * 50)
    for row in target:
        peaks = np.flatnonzero((row[1:-1] > row[:-2]) & (row[1:-1] >= row[2:]) & (row[1:-1] > 0.6)) + 1
        for found in np.diff(peaks):
            assert np.abs(np.subtract.outer(example.times_s, example.times_s) * 50 - found).min() < 1.5
        assert len(peaks) <= len(gaps) + 1


def test_a_killed_run_ends_as_one_that_was_not(clips, tmp_path):
    train_timing(SHORT, [clips], clips, tmp_path / "whole" / "run")
    halves = tmp_path / "halves" / "run"
    train_timing(SHORT.model_copy(update={"steps": 8}), [clips], clips, halves, minutes=0.0)  # killed at once
    calls = iter([0.0] + [1.0] * 4 + [1e9] * 100)  # then after four steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2s.training.timing.time.monotonic", lambda: next(calls))
        train_timing(SHORT, [clips], clips, halves, minutes=60.0)
    assert torch.load(halves / "checkpoint.pt", weights_only=True)["step"] == 4
    train_timing(SHORT, [clips], clips, halves)
    first, second = (torch.load(p / "checkpoint.pt", weights_only=True) for p in (tmp_path / "whole" / "run", halves))
    assert first["step"] == second["step"] == 8
    for name, value in first["net"].items():
        torch.testing.assert_close(value, second["net"][name], rtol=0, atol=0)


def test_what_is_kept_can_be_loaded_and_says_how_good_it_is(clips, tmp_path):
    best = train_timing(SHORT, [clips], clips, tmp_path / "run")
    held = json.loads((tmp_path / "run" / "timing.json").read_text())
    net = TimingNet(TimingConfig(**held["config"]))
    net.load_state_dict(load_file(tmp_path / "run" / "timing.safetensors"))
    assert held["metrics"]["f1_50ms"] == best["f1_50ms"]
    assert 0 <= best["f1_50ms"] <= 1


def test_the_loss_falls(clips, tmp_path):
    config = SHORT.model_copy(update={"steps": 40, "validate_every": 40})
    train_timing(config, [clips], clips, tmp_path / "run")
    net, examples = TimingNet(config.net), load_examples([clips], tmp_path / "motion-cache")
    batch = [torch.from_numpy(part) for part in make_batch(examples, config, np.random.default_rng(99))]
    from s2s.training.timing import _loss

    torch.manual_seed(config.seed)
    untrained = float(_loss(TimingNet(config.net).eval(), batch, config)[1].detach())
    net.load_state_dict(torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["net"])
    assert float(_loss(net.eval(), batch, config)[1].detach()) < 0.9 * untrained
