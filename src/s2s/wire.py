"""JSON between gateway and model server, and the one table from error codes to HTTP status numbers.

Request   {"file": "<base64>", ...Wishes, "stream"?: bool}, or the same inside a list of one, or the video's own bytes
          with the wishes in x-s2s-* headers (what the gateway sends: no third more bytes; a list of events is too long
          for a header). Accept: application/x-ndjson asks for the streamed answer too.
Answer    {"status": "success", "video": "<base64>", ...GenerationReport}
Streamed  NDJSON lines: {"event": "progress", ...Progress} *, {"event": "chunk", "index": i, "data": "<base64>"} *,
          then exactly one of {"event": "done", "video_bytes": n, "video_sha256": hex, "container": "mp4" | "webm",
          ...GenerationReport} and {"event": "error", ...Problem}. A stream that ends without either was cut off.
Cancel    TorchServe tells no handler that its client has gone. A request that carries x-s2s-request-id is stopped by a
          file of that name in the directory S2S_CANCEL_DIR.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2s.config import Limits
from s2s.errors import InputError, S2SError, UpstreamError
from s2s.events import Moment, Progress

CHUNK_BYTES = 750_000  # of video in one NDJSON line, 1 MB as base64; a part above max_response_size kills the worker
NDJSON = "application/x-ndjson"
REQUEST_ID_HEADER = "x-s2s-request-id"
Model = TypeVar("Model", bound=BaseModel)
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # becomes a file name

STATUS_OF_CODE: dict[str, int] = {
    "bad_input": 422, "bad_request": 400, "bad_base64": 400, "too_large": 413, "not_a_video": 415,
    "unsupported_container": 415, "unsupported_codec": 415, "no_video_track": 422, "truncated": 422, "too_long": 422,
    "too_short": 422, "picture_too_large": 422, "too_many_frames": 422, "external_reference": 422, "bad_output": 422,
    "unknown_category": 422, "not_found": 404, "method_not_allowed": 405, "not_ready": 409, "canceled": 409,
    "gone": 410, "unsupported_media_type": 415, "bad_artifact": 500, "processing_failed": 500, "internal": 500,
    "worker_lost": 502, "upstream_failed": 502, "unfetched": 502,
    "upstream_busy": 503, "upstream_unavailable": 503, "queue_full": 503,
    "upstream_timeout": 504, "bad_range": 416, "key_required": 401, "bad_key": 401, "forbidden": 403, "cross_site": 403,
    "too_slow": 408, "head_too_large": 431, "rate_limited": 429, "storage_full": 503, "too_many_uploads": 503,
    "database_away": 503, "storage_away": 503, "no_copy": 422, "bad_webhook": 422, "webhooks_off": 403,
}


class Problem(BaseModel):
    """An error as RFC 9457 problem+json."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    request_id: str | None = None

    @classmethod
    def from_error(cls, exc: BaseException, request_id: str | None = None) -> Problem:
        """Only an error whose message is meant for people is told; anything else becomes a plain "internal"."""
        known = isinstance(exc, S2SError)
        status = STATUS_OF_CODE.get(exc.code, 422 if isinstance(exc, InputError) else 500) if known else 500
        tell = known and status != 500
        code = exc.code if known else "internal"
        return cls(
            type=f"urn:s2s:problem:{code}", title=code.replace("_", " ").capitalize(), status=status, code=code,
            detail=exc.message if tell else "Something failed on our side; the clip was not the cause.",
            hint=exc.hint if tell else "Try again; if it fails again, report the request id.", request_id=request_id,
        )


class Wishes(BaseModel):
    """How a person wants the sound: the options that page, gateway and model server share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, lt=2**63, description="another seed is another take")
    category: str | None = Field(None, max_length=100, description="kind of sound; null: recognised from the picture")
    events: tuple[Moment, ...] | None = Field(
        None, max_length=2000, description="the moments to be heard, instead of those found in the picture")
    offset_ms: float = Field(0, ge=-1000, le=1000, description="all of the sound later (+) or earlier (-)")
    gain_db: float = Field(0, ge=-40, le=20, description="louder (+) or softer (-)")


class PredictionRequest(Wishes):
    file: str = Field(description="the video, base64")
    stream: bool = Field(False, description="answer with NDJSON progress lines")


@dataclass(frozen=True)
class Prediction:
    """One parsed request to the model server."""

    file: bytes
    wishes: Wishes
    stream: bool = False
    request_id: str | None = None


_IN_HEADERS = {name: f"x-s2s-{name.replace('_', '-')}" for name in Wishes.model_fields if name != "events"}


def request_parts(video: Path, wishes: Wishes, request_id: str) -> tuple[dict[str, str], Iterator[bytes]]:
    """Headers and body of a request whose answer is to be streamed; the body is read as it is sent."""
    headers = {REQUEST_ID_HEADER: request_id, "accept": NDJSON}
    size = video.stat().st_size
    if wishes.events is None:
        told = wishes.model_dump(exclude_defaults=True)
        headers |= {_IN_HEADERS[name]: quote(str(value)) for name, value in told.items()}
        return headers | {"content-type": "application/octet-stream", "content-length": str(size)}, _read(video)
    start, end = wishes.model_dump_json(exclude_defaults=True)[:-1].encode() + b',"file":"', b'"}'
    length = len(start) + 4 * -(-size // 3) + len(end)
    body = chain([start], map(base64.b64encode, _read(video)), [end])
    return headers | {"content-type": "application/json", "content-length": str(length)}, body


def _read(video: Path, block: int = 3 << 17) -> Iterator[bytes]:
    """Blocks whose length is a multiple of three, so that their base64 joins without padding between."""
    with video.open("rb") as file:
        while data := file.read(block):
            yield data


def parse_prediction(body: Any, headers: Mapping[str, str], limits: Limits) -> Prediction:
    """What a model server was sent -> Prediction. `body`: parsed JSON, text, or bytes (JSON or a video); header names
    in any case. Raises InputError with codes bad_request, bad_base64 or too_large."""
    headers = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    stream = NDJSON in headers.get("accept", "")
    request_id = headers.get(REQUEST_ID_HEADER)
    if request_id is not None and not _REQUEST_ID.fullmatch(request_id):
        raise InputError(f"Header {REQUEST_ID_HEADER} is not an id.", code="bad_request",
                         hint="Use up to 100 letters, digits, dots, dashes and underscores.")
    if isinstance(body, bytes | bytearray) and not _looks_like_json(body, headers.get("content-type", "")):
        if not body:
            raise InputError("The body is empty.", code="bad_request", hint='Send {"file": "<base64 video>"}.')
        if len(body) > limits.max_bytes:
            raise too_large(limits)
        told = {name: unquote(headers[header]) for name, header in _IN_HEADERS.items() if header in headers}
        return Prediction(bytes(body), validated(Wishes, told), stream, request_id)
    if isinstance(body, str | bytes | bytearray):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise InputError("The body is not valid JSON.", code="bad_request",
                             hint='Send {"file": "<base64 video>"}, or the video itself as video/mp4.') from exc
    request, file = parse_request(body, limits)
    return Prediction(file, wishes_of(request), stream or request.stream, request_id)


def _looks_like_json(body: bytes | bytearray, content_type: str) -> bool:
    """No video container starts with a brace or a bracket, so a missing content type does no harm."""
    if "json" in content_type.lower() or content_type.lower().startswith("text/"):
        return True
    return bytes(body[:64]).lstrip()[:1] in (b"{", b"[")


def parse_request(body: Any, limits: Limits) -> tuple[PredictionRequest, bytes]:
    """Parsed JSON (dict, or list of one dict) -> the request and the decoded file.

    Raises InputError with codes bad_request, bad_base64 or too_large.
    """
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        raise InputError("The body is not a JSON object.", code="bad_request", hint='Send {"file": "<base64 video>"}.')
    request = validated(PredictionRequest, body)
    return request, decode_file(request.file, limits)


def wishes_of(request: PredictionRequest) -> Wishes:
    return Wishes(**{name: getattr(request, name) for name in Wishes.model_fields})


def validated(model: type[Model], body: dict) -> Model:
    """Raises InputError (bad_request) that names the field."""
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InputError(f"Field {where}: {first['msg']}.", code="bad_request",
                         hint=f"Fields are {', '.join(model.model_fields)}.") from exc


def decode_file(text: str, limits: Limits) -> bytes:
    """Strict base64 -> bytes. Raises InputError (bad_base64, too_large) and never decodes more than the limit."""
    if len(text) > -(-limits.max_bytes // 3) * 4:
        raise too_large(limits)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InputError("The file is not valid base64.", code="bad_base64",
                         hint="Encode the whole video with standard base64 and no line breaks.") from exc
    if len(data) > limits.max_bytes:
        raise too_large(limits)
    return data


def too_large(limits: Limits) -> InputError:
    return InputError(f"The file is larger than {limits.max_bytes / 1e6:g} MB.", code="too_large",
                      hint="Send a shorter clip or a smaller picture.")


def encode_file(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def progress_line(progress: Progress) -> str:
    return json.dumps({"event": "progress", **progress.to_dict()}) + "\n"


def chunk_lines(video: bytes) -> Iterator[str]:
    for index, start in enumerate(range(0, len(video), CHUNK_BYTES)):
        data = encode_file(video[start:start + CHUNK_BYTES])
        yield json.dumps({"event": "chunk", "index": index, "data": data}) + "\n"


def done_line(report: dict, video: bytes, container: str) -> str:
    seal = {"video_bytes": len(video), "video_sha256": hashlib.sha256(video).hexdigest(), "container": container}
    return json.dumps({"event": "done", **seal, **report}) + "\n"


def error_line(problem: Problem) -> str:
    return json.dumps({"event": "error", **problem.model_dump(exclude_none=True)}) + "\n"


@dataclass(frozen=True)
class StreamEvent:
    """One parsed NDJSON line. `event` is progress, chunk, done or error; `data` holds the other fields."""

    event: str
    data: dict


def parse_line(line: str) -> StreamEvent:
    """Raises UpstreamError when the model server says something that is not this protocol."""
    try:
        data = json.loads(line)
        event = data.pop("event")
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as exc:
        raise UpstreamError("The model server answered with something unreadable.") from exc
    if event not in ("progress", "chunk", "done", "error"):
        raise UpstreamError(f"The model server sent an unknown event {event!r}.")
    return StreamEvent(event, data)
