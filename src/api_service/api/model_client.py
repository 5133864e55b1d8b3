"""The only place that talks to the model server, and the only one that believes it: everything it says is checked.

Its failures are translated here, once, into the error tree:
  InputError            the clip is at fault; never retried
  Canceled              it was asked to stop, and did
  UpstreamBusy          every worker is at work: later
  UpstreamUnavailable   nobody answers, or the model is not there: later
  UpstreamTimeout       it was silent for too long
  UpstreamError         the worker died, the stream was cut off, or the answer makes no sense
  ProcessingError       the generator itself failed
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from api_service.api.schemas import JobProgress, Report
from s2s import wire
from s2s.config import Settings
from s2s.errors import (
    Canceled,
    InputError,
    ProcessingError,
    S2SError,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from s2s.events import Progress

MAX_LINE_BYTES = 4_000_000
ROOM_FOR_SOUND_BYTES = 16_000_000  # an answer may be larger than the largest upload by so much
MAGIC = {"mp4": (4, b"ftyp"), "webm": (0, b"\x1a\x45\xdf\xa3")}


@dataclass(frozen=True)
class Generated:
    """A result that was received whole: its bytes are in the file that the caller named."""

    report: dict
    container: str  # mp4 or webm
    n_bytes: int
    sha256: str


class ModelClient:
    """`transport` is the seam for tests: httpx.MockTransport plays the model server."""

    def __init__(self, config: Settings, transport: httpx.AsyncBaseTransport | None = None):
        self._path = f"/predictions/{config.model_name}"
        self._max_bytes = config.http_max_bytes + ROOM_FOR_SOUND_BYTES
        timeout = httpx.Timeout(10.0, read=config.response_timeout_s + 5.0, write=60.0)
        self._http = httpx.AsyncClient(
            base_url=config.model_server_url, timeout=timeout, transport=transport, trust_env=False
        )  # a proxy has no business between gateway and model server

    async def close(self) -> None:
        await self._http.aclose()

    async def generate(
        self,
        video: Path,
        output: Path,
        *,
        request_id: str,
        wishes: wire.Wishes,
        on_progress: Callable[[Progress], Awaitable[None]],
    ) -> Generated:
        """Sends `video`, writes the result to `output`. Raises what the module's docstring lists."""
        headers, body = wire.request_parts(video, wishes, request_id)
        try:
            async with self._http.stream("POST", self._path, content=_sent(body), headers=headers) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await _head(answer))
                return await self._receive(answer, output, on_progress)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
            raise UpstreamUnavailable("The model server cannot be reached.") from exc
        except httpx.TimeoutException as exc:
            raise UpstreamTimeout("The model server was silent for too long.") from exc
        except httpx.TransportError as exc:
            raise _worker_lost() from exc

    async def _receive(
        self, answer: httpx.Response, output: Path, on_progress: Callable[[Progress], Awaitable[None]]
    ) -> Generated:
        digest, n_bytes, next_index = hashlib.sha256(), 0, 0
        with output.open("wb") as file:
            async for line in _lines(answer):
                event = wire.parse_line(line)
                if event.event == "progress":
                    await on_progress(_progress(event.data))
                elif event.event == "chunk":
                    data = _chunk(event.data, next_index)
                    next_index, n_bytes = next_index + 1, n_bytes + len(data)
                    if n_bytes > self._max_bytes:
                        raise UpstreamError("The model server's answer is larger than any result can be.")
                    if next_index == 1:
                        head = data[:16]
                    digest.update(data)
                    file.write(data)
                elif event.event == "error":
                    raise _error(event.data)
                else:
                    seal = {name: event.data.pop(name, None) for name in ("video_bytes", "video_sha256", "container")}
                    if n_bytes == 0 or seal["video_bytes"] != n_bytes or seal["video_sha256"] != digest.hexdigest():
                        raise UpstreamError("The model server's result did not arrive whole.")
                    if not _is_container(head, seal["container"]):
                        raise UpstreamError("The model server's result is not a video.")
                    return Generated(_report(event.data), seal["container"], n_bytes, digest.hexdigest())
        raise _worker_lost()


async def _sent(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _head(answer: httpx.Response, limit: int = 65_536) -> bytes:
    data = b""
    async for part in answer.aiter_bytes():
        data += part
        if len(data) > limit:
            break
    return data[:limit]


async def _lines(answer: httpx.Response) -> AsyncIterator[str]:
    """Lines of bounded length; an unfinished last line is not a line."""
    buffer = bytearray()
    async for part in answer.aiter_bytes():
        buffer += part
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            if line.strip():
                yield line.decode("utf-8", "replace")
        if len(buffer) > MAX_LINE_BYTES:
            raise UpstreamError("The model server sent a line without end.")


def _refusal(status: int, body: bytes) -> S2SError:
    """An answer that is not 200: our handler's problem, or one of TorchServe's own."""
    try:
        return _error(wire.Problem.model_validate_json(body).model_dump())
    except ValidationError:
        pass
    if status == 413:
        return InputError("The file is larger than the model server takes.", code="too_large", hint="Cut it shorter.")
    if status == 503 and b"ServiceUnavailable" in body:
        return UpstreamBusy("The model server is busy.")
    if status in (404, 503):
        return UpstreamUnavailable("The model is not being served.")
    return _worker_lost()


def _error(data: dict) -> S2SError:
    try:
        problem = wire.Problem.model_validate(data)
    except ValidationError as exc:
        raise UpstreamError("The model server sent an error that is none.") from exc
    if problem.code == "canceled":
        return Canceled(problem.detail)
    if 400 <= problem.status < 500:
        return InputError(problem.detail, code=problem.code, hint=problem.hint)
    return ProcessingError(problem.detail, code=problem.code if problem.code in wire.STATUS_OF_CODE else None)


def _worker_lost() -> UpstreamError:
    return UpstreamError(
        "The model's worker was lost in the middle of the work.",
        code="worker_lost",
        hint="Send the clip again; if it happens again, it may be the clip.",
    )


def _progress(data: dict) -> Progress:
    try:
        told = JobProgress.model_validate(data)
    except ValidationError as exc:
        raise UpstreamError("The model server told progress that makes no sense.") from exc
    return Progress(told.stage, told.step, told.total)


def _chunk(data: dict, index: int) -> bytes:
    try:
        if data["index"] != index:
            raise UpstreamError("A piece of the model server's answer is missing.")
        return base64.b64decode(data["data"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError) as exc:
        raise UpstreamError("A piece of the model server's answer is unreadable.") from exc


def _is_container(head: bytes, container: object) -> bool:
    start, magic = MAGIC.get(container, (0, b"?")) if isinstance(container, str) else (0, b"?")
    return head[start : start + len(magic)] == magic


def _report(data: dict) -> dict:
    try:
        return Report.model_validate(data).model_dump(mode="json")
    except ValidationError as exc:
        raise UpstreamError("The model server's report makes no sense.") from exc
