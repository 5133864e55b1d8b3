"""Video -> what the networks see of it, in one streamed pass: motion on the timing grid, features on the feature grid.

Three things go on at once: a child process decodes, this thread measures motion, another runs the networks. Each gets
the same pictures in the same order and batches as if it were alone. Frames are looked at and dropped; what is kept
grows by some 100 kB a second of video.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from s2s.bundle import Bundle
from s2s.config import Limits
from s2s.errors import Canceled
from s2s.events import OnProgress, Progress, ShouldStop, Stage, ignore_progress, never_stop
from s2s.flow import flow_image, pair_flow, through_jpeg
from s2s.media.probe import MediaInfo
from s2s.media.video import decode_frames
from s2s.motion import MotionExtractor, MotionFeatures
from s2s.recognise import BATCH as RECOGNISER_BATCH
from s2s.recognise import Recogniser, snippet_ticks
from s2s.tsn.bn_inception import BNInception, FoldedBNInception
from s2s.tsn.inputs import stream_images
from s2s.tsn.tsn import TsnStream

PUBLISHED_FRAME_SIZE = (256, 340)  # height, width; the published frames are squashed to this before anything else
BATCH_FRAMES = 32
LONG_FRAMES = 2000  # a minute and a half
WAITING_PICTURES = 2 * BATCH_FRAMES  # that decoding may be ahead of the networks


@dataclass(frozen=True)
class Seen:
    """What the networks saw of one clip."""

    visual: np.ndarray  # float32 (T, visual_dim): RGB features, then flow features
    kind_probabilities: np.ndarray | None  # float32 (K,), sums to 1; None where no network knows kinds
    motion: MotionFeatures


class StreamReader:
    """Feeds pictures one by one to a TSN stream, in batches, and keeps the features only."""

    def __init__(self, stream: TsnStream, device: torch.device):
        self._config, self._device = stream.config, device
        network = stream.base_model
        self._network = FoldedBNInception(network) if isinstance(network, BNInception) else network
        self._images: list[Tensor] = []  # converted pictures from index `_first` on
        self._first = 0
        self._features: list[Tensor] = []
        self._done = 0

    def push(self, image: np.ndarray) -> None:
        """uint8 (H, W, 3) RGB, uint8 (H, W, 2) flow image, or float (H, W, 2) flow."""
        self._images.append(stream_images([image], self._config)[0])
        ahead = max(0, self._config.stack_start + self._config.frames_per_stack - 1)
        if self._first + len(self._images) - ahead - self._done >= BATCH_FRAMES:
            self._run(self._first + len(self._images) - ahead)

    def finish(self) -> np.ndarray:
        """float32 (T, feature_dim), one row a picture pushed."""
        self._run(self._first + len(self._images))
        if not self._features:
            return np.zeros((0, self._config.feature_dim), np.float32)
        return torch.cat(self._features).numpy()

    @torch.inference_mode()
    def _run(self, until: int) -> None:
        last = self._first + len(self._images) - 1
        frames = torch.arange(self._done, until)
        if not len(frames):
            return
        offsets = torch.arange(self._config.frames_per_stack) + self._config.stack_start
        # Past either end the outermost picture is repeated; the start of the clip is never dropped before it is used.
        rows = (frames[:, None] + offsets).clamp(0, last) - self._first
        inputs = torch.stack(self._images)[rows].flatten(1, 2)
        self._features.append(self._network(inputs.to(self._device)).float().cpu())
        self._done = until
        keep_from = max(self._first, until + min(0, self._config.stack_start))
        del self._images[: keep_from - self._first]
        self._first = keep_from


class _Aside:
    """Calls made one after the other in a second thread, at most `most` ahead of the first. Use as a context manager.

    The first error of a call comes out of a later `do` or of `wait`; leaving the context drops what has not begun.
    """

    def __init__(self, most: int, should_stop: ShouldStop):
        self._pool, self._most, self._should_stop = ThreadPoolExecutor(1, "networks"), most, should_stop
        self._waiting: deque[Future] = deque()

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, work: Callable, *arguments: object) -> None:
        while len(self._waiting) >= self._most or (self._waiting and self._waiting[0].done()):
            self._next()
        self._waiting.append(self._pool.submit(work, *arguments))

    def wait(self) -> None:
        while self._waiting:
            self._next()

    def _next(self) -> None:
        if self._should_stop():
            raise Canceled("The work was canceled.")
        self._waiting.popleft().result()


def watch(
    info: MediaInfo,
    bundle: Bundle,
    *,
    limits: Limits,
    on_progress: OnProgress = ignore_progress,
    should_stop: ShouldStop = never_stop,
) -> Seen:
    """One pass over the video. T = clip.n_frames(duration). Raises InputError (damaged file) and Canceled."""
    rgb, flow, recogniser = (bundle.networks.get(role) for role in ("tsn_rgb", "tsn_flow", "recogniser"))
    clip, published = bundle.manifest.clip, bundle.manifest.feature_rule == "published"
    n_frames = clip.n_frames(info.duration_s)
    looked_at = snippet_ticks(n_frames, recogniser.config.n_snippets) if recogniser is not None else set()
    extractor = (
        MotionExtractor(clip.video_rate, flow.config.input_size)
        if flow is not None and not published
        else MotionExtractor()
    )
    readers = {stream: StreamReader(stream, bundle.device) for stream in (rgb, flow) if stream is not None}
    rgb_size = _rgb_size(rgb, flow, recogniser, published)
    frames = decode_frames(
        info, rgb_size=rgb_size, rgb_rate=clip.video_rate if rgb_size else None, limits=limits, should_stop=should_stop
    )
    previous: np.ndarray | None = None
    snippets: list[np.ndarray] = []  # pictures for the recogniser's next look
    looks: list[Tensor] = []
    n_flow = 0
    with _Aside(WAITING_PICTURES, should_stop) as networks, closing(frames):

        def push(stream: TsnStream, image: np.ndarray) -> None:
            networks.do(readers[stream].push, image)

        def push_flow(pictures: Iterable[np.ndarray]) -> None:
            nonlocal n_flow
            for picture in pictures:
                if n_flow < n_frames:
                    push(flow, picture.astype(np.float32))
                    n_flow += 1

        def look() -> None:
            nonlocal snippets
            pictures, snippets = snippets, []
            networks.do(lambda: looks.append(recogniser.look(pictures)))

        for index, frame in enumerate(frames):
            extractor.push(frame.grey, frame.time_s)
            push_flow(extractor.take_flow())
            for tick in frame.rgb_ticks if frame.rgb is not None else ():
                if published:
                    _push_published(frame.rgb, previous, push, rgb, flow, bundle.manifest.published_flow)
                    previous = frame.rgb
                elif rgb is not None:
                    push(rgb, frame.rgb)
                if tick in looked_at:
                    snippets.append(frame.rgb)
                    if len(snippets) == RECOGNISER_BATCH:
                        look()
            on_progress(Progress(Stage.FRAMES, min(index + 1, info.n_frames), info.n_frames))
        on_progress(Progress(Stage.FEATURES, 0, n_frames))
        if n_frames > LONG_FRAMES:
            _return_memory()
        motion = extractor.finish(info.duration_s)
        if flow is not None and not published:
            push_flow(motion.flow)
            motion = replace(motion, flow=None)
        if snippets:
            look()
        networks.wait()
    features = {stream: _to_length(reader.finish(), n_frames) for stream, reader in readers.items()}
    if recogniser is not None:  # it has seen photographs, which the streams have not
        probabilities = recogniser.recognise(looks)
    else:
        probabilities = _consensus(features)
    if n_frames > LONG_FRAMES:
        _return_memory()
    on_progress(Progress(Stage.FEATURES, n_frames, n_frames))
    visual = [features[stream] for stream in (rgb, flow) if stream is not None]
    return Seen(
        visual=np.concatenate(visual, axis=1) if visual else np.zeros((n_frames, 0), np.float32),
        kind_probabilities=probabilities,
        motion=motion,
    )


def _return_memory() -> None:
    """Back to the system what was freed between things that stay: some 150 MB after ten minutes of pictures.

    glibc does not do that by itself; other C libraries lack the call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _rgb_size(
    rgb: TsnStream | None, flow: TsnStream | None, recogniser: Recogniser | None, published: bool
) -> tuple[int, int] | None:
    """(H, W) of the colour frames that somebody looks at; None where nobody does."""
    if published:
        return PUBLISHED_FRAME_SIZE if rgb is not None or flow is not None else None
    if recogniser is not None:
        return (recogniser.config.input_size, recogniser.config.input_size)
    return rgb.config.input_size[::-1] if rgb is not None else None


def _push_published(
    picture: np.ndarray,
    previous: np.ndarray | None,
    push: Callable[[TsnStream, np.ndarray], None],
    rgb: TsnStream | None,
    flow: TsnStream | None,
    method: Literal["dis", "tvl1"],
) -> None:
    """The published rule: row r sees frame r + 1 and the flow from frame r to it; the last row stays zero."""
    if previous is None:
        return
    if rgb is not None:
        push(rgb, through_jpeg(picture))
    if flow is not None:
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (previous, picture)]
        push(flow, flow_image(pair_flow(*grey, method)))


def _to_length(features: np.ndarray, n_frames: int) -> np.ndarray:
    """Cut, or padded with zero rows at the end as the published loader does."""
    short = n_frames - len(features)
    return np.pad(features, ((0, short), (0, 0))) if short > 0 else features[:n_frames]


@torch.inference_mode()
def _consensus(features: dict[TsnStream, np.ndarray]) -> np.ndarray | None:
    """TSN's segment consensus over all frames, averaged over the streams that have classes: float32 (K,)."""
    logits = [
        stream.class_logits(torch.from_numpy(rows).to(next(stream.parameters()).device)).mean(dim=0).float().cpu()
        for stream, rows in features.items()
        if stream.config.class_names
    ]
    return torch.stack(logits).mean(dim=0).softmax(dim=0).numpy() if logits else None
