"""What the networks see of a clip: the same, whatever else goes on while they look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.clips import film
from tests.published import write_published_files
from tests.tiny import make_tiny_bundle

from s2s import features as features_module
from s2s.bundle import Bundle, import_published, load_bundle
from s2s.config import settings
from s2s.errors import Canceled
from s2s.events import Progress, Stage
from s2s.features import StreamReader, watch
from s2s.media.probe import MediaInfo, probe
from s2s.media.video import decode_frames
from s2s.motion import MotionExtractor
from s2s.tsn.config import small_rgb
from s2s.tsn.tsn import build_stream

LIMITS = settings().cli_limits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return load_bundle(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny"))


@pytest.fixture(scope="module")
def info(tmp_path_factory) -> MediaInfo:
    return probe(film(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=2.4, rate="25"), LIMITS)


def test_working_side_by_side_changes_no_bit(bundle: Bundle, info: MediaInfo):
    """Beside decoding and motion: what each network makes when it is run alone, afterwards."""
    rgb, flow = bundle.networks["tsn_rgb"], bundle.networks["tsn_flow"]
    clip, side = bundle.manifest.clip, bundle.networks["recogniser"].config.input_size
    n_frames = clip.n_frames(info.duration_s)
    extractor = MotionExtractor(clip.video_rate, flow.config.input_size)
    pictures = []
    for frame in decode_frames(info, rgb_size=(side, side), rgb_rate=clip.video_rate, limits=LIMITS):
        extractor.push(frame.grey, frame.time_s)
        pictures += [frame.rgb] * len(frame.rgb_ticks)
    motion = extractor.finish(info.duration_s)
    rows = []
    for stream, images in ((rgb, pictures), (flow, motion.flow.astype(np.float32))):
        reader = StreamReader(stream, bundle.device)
        for image in images:
            reader.push(image)
        rows.append(reader.finish()[:n_frames])

    seen = watch(info, bundle, limits=LIMITS)
    assert np.array_equal(seen.visual, np.concatenate(rows, axis=1))
    assert np.array_equal(seen.motion.cells, motion.cells)
    assert np.array_equal(seen.motion.scene, motion.scene)
    assert seen.kind_probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_progress_counts_every_frame_and_never_goes_back(bundle: Bundle, info: MediaInfo):
    told: list[Progress] = []
    watch(info, bundle, limits=LIMITS, on_progress=told.append)
    assert [p.step for p in told if p.stage is Stage.FRAMES] == list(range(1, info.n_frames + 1))
    assert [p.fraction for p in told] == sorted(p.fraction for p in told)
    assert told[-1].stage is Stage.FEATURES
    assert told[-1].step == told[-1].total


def test_an_error_of_a_network_ends_the_pass(bundle: Bundle, info: MediaInfo, monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError("no room for this batch")

    monkeypatch.setattr(StreamReader, "push", fail)
    with pytest.raises(MemoryError, match="no room"):
        watch(info, bundle, limits=LIMITS)


def test_decoding_waits_for_slow_networks(bundle: Bundle, info: MediaInfo, monkeypatch):
    """Pictures that wait take memory: there are never more than promised."""
    waiting = []
    real = features_module._Aside.do

    def do(self, work, *arguments: object) -> None:
        real(self, work, *arguments)
        waiting.append(len(self._waiting))

    monkeypatch.setattr(features_module._Aside, "do", do)
    monkeypatch.setattr(features_module, "WAITING_PICTURES", 3)
    watch(info, bundle, limits=LIMITS)
    assert len(waiting) > 90
    assert max(waiting) <= 3


def test_looking_stops_when_asked(bundle: Bundle, info: MediaInfo):
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    with pytest.raises(Canceled):
        watch(info, bundle, limits=LIMITS, should_stop=should_stop)


@pytest.mark.parametrize("method", ["dis", "tvl1"])
def test_imported_weights_see_the_flow_that_their_bundle_asks_for(tmp_path, info: MediaInfo, monkeypatch, method):
    files, asked = write_published_files(tmp_path / "files"), []
    streams = {role: files[role] for role in ("tsn_rgb", "tsn_flow")}
    import_published(tmp_path / "b", name="x", tvl1=method == "tvl1", **streams)

    def flow(earlier: np.ndarray, later: np.ndarray, method: str) -> np.ndarray:
        asked.append(method)
        return np.zeros((*earlier.shape, 2), np.float32)

    monkeypatch.setattr(features_module, "pair_flow", flow)
    watch(info, load_bundle(tmp_path / "b"), limits=LIMITS)
    assert set(asked) == {method}


def test_a_stream_reader_works_on_the_device_it_is_given(monkeypatch):
    """No picture is left on the CPU: the network's input arrives on the reader's device."""
    stream, seen = build_stream(small_rgb(("drum",))).eval(), []
    reader = StreamReader(stream, torch.device("meta"))

    def network(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs.device.type)
        return torch.zeros(len(inputs), stream.config.feature_dim)

    reader._network = network
    for _ in range(3):
        reader.push(np.zeros((120, 160, 3), np.uint8))
    assert reader.finish().shape == (3, 192)
    assert seen == ["meta"]
