"""Promises of the training of the TSN streams."""

import numpy as np
import pytest
import torch

from s2s.events import SoundEvent
from s2s.training import tsn
from s2s.training.tsn import FLOW_PX, RGB_PX, SeenClip, StreamTrainConfig, stream_accuracy, train_stream
from s2s.tsn.config import small_flow, small_rgb
from s2s.tsn.tsn import TsnStream, build_stream

KINDS = ("drum", "bell")


def seen(kind: int) -> SeenClip:
    """Half a second of noise; T = 11."""
    rng = np.random.default_rng(kind)
    return SeenClip(
        rgb=rng.integers(0, 256, (11, RGB_PX, RGB_PX, 3), np.uint8),
        flow=rng.standard_normal((11, FLOW_PX, FLOW_PX, 2)).astype(np.float16),
        photo=np.zeros((0, 1280), np.float32),
        events=[SoundEvent(0.25, KINDS[kind], 1.0, 1.0)],
        kind=kind,
    )


@pytest.mark.parametrize("network", [small_rgb(KINDS), small_flow(KINDS)], ids=["rgb", "flow"])
def test_a_stream_that_was_stopped_ends_as_if_it_had_not_been(tmp_path, monkeypatch, network):
    clips = [seen(0), seen(1)]
    config = StreamTrainConfig(network=network, steps=3, batch_clips=2, snippets=2, checkpoint_minutes=0.0)
    straight = train_stream(config, clips, tmp_path / "straight")
    batches = iter([tsn._batch, tsn._batch])

    def stop_after_two(*args):
        return next(batches)(*args)

    whole = tsn._batch
    monkeypatch.setattr(tsn, "_batch", stop_after_two)
    with pytest.raises(StopIteration):
        train_stream(config, clips, tmp_path / "stopped")
    monkeypatch.setattr(tsn, "_batch", whole)
    resumed = train_stream(config, clips, tmp_path / "stopped")
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_accuracy_is_measured_where_the_stream_is(monkeypatch):
    stream, devices = build_stream(small_rgb(KINDS)).eval().to("meta"), []

    def features(self: TsnStream, inputs: torch.Tensor) -> torch.Tensor:
        devices.append(inputs.device.type)
        return inputs

    monkeypatch.setattr(TsnStream, "features", features)
    monkeypatch.setattr(TsnStream, "class_logits", lambda self, rows: torch.zeros(3, len(KINDS)))
    assert stream_accuracy(stream, [seen(0), seen(1)]) == 0.5
    assert devices == ["meta", "meta"]
