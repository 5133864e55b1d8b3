"""An upload on its way in: the body goes to disk as it is read, and no further than the limit."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from s2s import wire
from s2s.config import Limits
from s2s.errors import InputError

FIELDS = ("file", *wire.Wishes.model_fields, "webhook_url")
TEXT_FIELD_BYTES = 1000
SLOWEST_BYTES_PER_S = 10_000  # a body that comes in more slowly holds a place that others could use
EVENTS_FIELD_BYTES = 200_000
JSON_VALUES = 20_000  # 2,000 events are 6,000
FORM_ROOM_BYTES = 65_536 + EVENTS_FIELD_BYTES  # for boundaries, part headers and text fields around the file


@dataclass(frozen=True)
class Upload:
    filename: str
    wishes: wire.Wishes
    webhook_url: object = None  # as it was sent; not checked yet


async def receive(
    request: Request, target: Path, limits: Limits, stall_s: float, json_turn: asyncio.Semaphore
) -> Upload:
    """Reads a multipart or JSON body; the video is at `target` afterwards. A body of JSON waits on disk, beside
    `target`, for its turn to be parsed: that takes several times its size of memory.

    Raises InputError with codes too_large, too_slow, bad_request, bad_base64 or unsupported_media_type.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    try:
        if content_type == b"multipart/form-data" and options.get(b"boundary"):
            with target.open("wb") as file:
                form = _Form(options[b"boundary"], file, limits)
                async for data in _body(request, limits.max_bytes + FORM_ROOM_BYTES, limits, stall_s):
                    form.feed(data)
                return form.finish()
        if content_type == b"application/json":
            body = target.with_name(f"{target.name}.json")
            with body.open("wb") as file:
                async for data in _body(request, limits.max_request_bytes, limits, stall_s):
                    file.write(data)
            async with json_turn:
                return await asyncio.to_thread(_from_json, body, target, limits)
    except InputError as exc:
        if exc.code == "too_large":
            await _discard(request, limits.max_bytes, stall_s)
        raise
    raise InputError(
        "This content type is not taken.",
        code="unsupported_media_type",
        hint="Send multipart/form-data with the field `file`, or JSON with the video as base64.",
    )


async def _body(request: Request, limit_bytes: int, limits: Limits, stall_s: float) -> AsyncIterator[bytes]:
    """The body, in parts. It may neither stand still for `stall_s` nor creep."""
    if int(request.headers.get("content-length", "0")) > limit_bytes:
        raise wire.too_large(limits)
    n_bytes, started_s, parts = 0, time.monotonic(), request.stream().__aiter__()
    while True:
        try:
            async with asyncio.timeout(stall_s):
                data = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError as exc:
            raise _too_slow() from exc
        n_bytes += len(data)
        if n_bytes > limit_bytes:
            raise wire.too_large(limits)
        if time.monotonic() - started_s > stall_s + n_bytes / SLOWEST_BYTES_PER_S:
            raise _too_slow()
        if data:
            yield data


def _too_slow() -> InputError:
    return InputError("The upload is too slow.", code="too_slow", hint="Send a shorter clip or use a faster line.")


async def _discard(request: Request, limit_bytes: int, within_s: float) -> None:
    """A client that is still sending would see a reset instead of the answer; so read on for a while, never longer than
    `within_s`: it holds the place of an upload."""
    n_bytes = 0
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: the stream was already read to its end
        async with asyncio.timeout(within_s):
            async for data in request.stream():
                n_bytes += len(data)
                if n_bytes > limit_bytes:
                    return


def _from_json(body: Path, target: Path, limits: Limits) -> Upload:
    told, webhook_url = _json_of(body), None
    asked = told[0] if isinstance(told, list) and len(told) == 1 else told
    if isinstance(asked, dict):  # what follows is what the model server understands too
        webhook_url = asked.pop("webhook_url", None)
    prediction, video = wire.parse_request(told, limits)
    target.write_bytes(video)
    return Upload("video", wire.wishes_of(prediction), webhook_url)


def _json_of(body: Path) -> object:
    """Of many small values each takes up to a hundred times what it takes in the file: so many no upload needs."""
    text = body.read_bytes()
    if sum(text.count(sign) for sign in (b",", b"[", b"{")) > JSON_VALUES:
        raise InputError("This JSON holds too many values.", code="bad_request", hint="See /docs for examples.")
    return _json(text)


def _json(text: str | bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InputError("This is not valid JSON.", code="bad_request", hint="See /docs for examples.") from exc


class _Form:
    """multipart/form-data with one `file` and the wishes as optional text fields (`events` as JSON)."""

    def __init__(self, boundary: bytes, file: BinaryIO, limits: Limits):
        self._file, self._limits = file, limits
        self._name = self._header = ""
        self._headers: dict[str, bytes] = {}
        self._value = bytearray()
        self._fields: dict[str, bytes] = {}
        self._filename: str | None = None
        self._file_bytes = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_headers_finished": self._headers_finished,
                "on_header_begin": self._header_begin,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise _bad_form("The form is damaged.") from exc

    def finish(self) -> Upload:
        if not self._ended:
            raise _bad_form("The form ends too early.")
        if self._filename is None:
            raise _bad_form("The form has no field `file`.")
        fields = {name: value.decode("utf-8", "replace").strip() for name, value in self._fields.items()}
        told: dict[str, object] = {name: value for name, value in fields.items() if value}
        if "events" in told:
            told["events"] = _json(fields["events"])
        webhook_url = told.pop("webhook_url", None)
        return Upload(self._filename, wire.validated(wire.Wishes, told), webhook_url)

    def _header_begin(self) -> None:
        self._header = ""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end].decode("latin-1").lower()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._headers[self._header] = self._headers.get(self._header, b"") + data[start:end]

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._value.clear()
        if self._name not in FIELDS:
            raise _bad_form(f"The form has an unknown field {self._name[:40]!r}.")
        if self._name in self._fields or (self._name == "file" and self._filename is not None):
            raise _bad_form(f"The form has the field {self._name!r} twice.")
        if self._name == "file":
            self._filename = shown_name(options.get(b"filename", b"").decode("utf-8", "replace"))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self._file_bytes += end - start
            if self._file_bytes > self._limits.max_bytes:
                raise wire.too_large(self._limits)
            self._file.write(data[start:end])
        else:
            self._value += data[start:end]
            if len(self._value) > (EVENTS_FIELD_BYTES if self._name == "events" else TEXT_FIELD_BYTES):
                raise _bad_form(f"The field {self._name!r} is too long.")

    def _part_end(self) -> None:
        if self._name != "file":
            self._fields[self._name] = bytes(self._value)

    def _end(self) -> None:
        self._ended = True


def _bad_form(message: str) -> InputError:
    return InputError(message, code="bad_request", hint=f"Fields are {', '.join(FIELDS)}.")


def shown_name(name: str) -> str:
    """What an upload called itself, fit to be shown: never used as a path."""
    name = re.sub(
        r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", "", name.replace("\\", "/").rsplit("/", 1)[-1]
    )
    return name[:200].strip() or "video"
