"""The streamed answer of one request: progress that is not too chatty, never silent for long, and can be stopped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from s2s import wire
from s2s.events import Progress, Stage

PROGRESS_INTERVAL_S = 0.1
CANCEL_POLL_S = 0.2


class LineStream:
    """Sends NDJSON lines of one request, from the generator's thread and a keep-alive thread.

    Progress is thinned to ten lines a second, but the first and the last step of every stage are always told; steps of
    stages that overlap are told only where they bring the whole forward. The first line is held back until the file is
    known to be good, so that bad input is still a plain 4xx. TorchServe kills a worker that is silent for longer than
    responseTimeout, so the last line is repeated every `keep_alive_s`; after `stall_s` without true progress it no
    longer is, and a hung worker gets its restart.
    """

    def __init__(self, send: Callable[[str], None], *, keep_alive_s: float, stall_s: float):
        self.started = False
        self._send, self._keep_alive_s, self._stall_s = send, keep_alive_s, stall_s
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._last: Progress | None = None
        self._fraction, self._told, self._finished = 0.0, set[Stage](), set[Stage]()
        self._last_sent_s = self._last_progress_s = time.monotonic()

    def progress(self, progress: Progress) -> None:
        self._last_progress_s = time.monotonic()
        first, last = progress.stage not in self._told, progress.step >= progress.total
        if (progress.stage == Stage.PROBE and not self.started) or progress.fraction < self._fraction:
            return
        if progress.stage in self._finished:
            return
        if last:
            self._finished.add(progress.stage)
        self._last, self._fraction = progress, progress.fraction
        self._told.add(progress.stage)
        if first or last or time.monotonic() - self._last_sent_s >= PROGRESS_INTERVAL_S:
            self.send(wire.progress_line(progress))

    def send(self, line: str) -> None:
        with self._lock:
            if not self.started:
                self.started = True
                threading.Thread(target=self._keep_alive, name="keep-alive", daemon=True).start()
            self._send(line)
            self._last_sent_s = time.monotonic()

    def close(self) -> None:
        """After this no line is sent any more: the last part of the answer is the handler's return value."""
        self._closed.set()
        with self._lock:
            pass

    def _keep_alive(self) -> None:
        while not self._closed.wait(min(1.0, self._keep_alive_s / 4)):
            now = time.monotonic()
            if now - self._last_progress_s > self._stall_s:
                return
            with self._lock:
                if not self._closed.is_set() and self._last and now - self._last_sent_s >= self._keep_alive_s:
                    self._send(wire.progress_line(self._last))
                    self._last_sent_s = now


class CancelFlag:
    """Somebody's wish to stop: a file named after the request. Removed when the request ends."""

    def __init__(self, folder: Path | None, request_id: str | None):
        self._path = folder / request_id if folder and request_id else None
        self._set, self._asked_s = False, 0.0

    def __enter__(self) -> CancelFlag:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path:
            self._path.unlink(missing_ok=True)

    def is_set(self) -> bool:
        """Cheap enough for an inner loop: looks at the file five times a second."""
        now = time.monotonic()
        if self._path and not self._set and now - self._asked_s >= CANCEL_POLL_S:
            self._set, self._asked_s = self._path.exists(), now
        return self._set
