"""JSON between gateway and model server, and the one table from error codes to HTTP status numbers.

Request   {"file": "<base64>", "seed"?: int, "category"?: str, "stream"?: bool} or the same inside a list of one.
Answer    {"status": "success", "video": "<base64 mp4>", ...GenerationReport}
Streamed  NDJSON lines: {"event": "progress", ...Progress} *, {"event": "chunk", "index": i, "data": "<base64>"} *,
          then exactly one of {"event": "done", ...GenerationReport} and {"event": "error", ...Problem}.
          A stream that ends without either was cut off.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from s2s.config import Limits
from s2s.errors import InputError, S2SError, UpstreamError
from s2s.events import Progress

CHUNK_BYTES = 1_000_000  # of video in one NDJSON line; a part above TorchServe's max_response_size kills its worker

STATUS_OF_CODE: dict[str, int] = {
    "bad_input": 422, "bad_request": 400, "bad_base64": 400, "too_large": 413, "not_a_video": 415,
    "unsupported_container": 415, "unsupported_codec": 415, "no_video_track": 422, "truncated": 422, "too_long": 422,
    "too_short": 422, "picture_too_large": 422, "too_many_frames": 422, "external_reference": 422, "bad_output": 422,
    "unknown_category": 422, "not_found": 404, "not_ready": 409, "gone": 410, "canceled": 409,
    "bad_artifact": 500, "processing_failed": 500, "internal": 500,
    "upstream_failed": 502, "upstream_busy": 503, "upstream_unavailable": 503, "upstream_timeout": 504,
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


class PredictionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="the video, base64")
    seed: int = Field(0, ge=0, lt=2**63)
    category: str | None = None
    stream: bool = False


def parse_request(body: Any, limits: Limits) -> tuple[PredictionRequest, bytes]:
    """Parsed JSON (dict, or list of one dict) -> the request and the decoded file.

    Raises InputError with codes bad_request, bad_base64 or too_large.
    """
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict):
        raise InputError("The body is not a JSON object.", code="bad_request", hint='Send {"file": "<base64 video>"}.')
    try:
        request = PredictionRequest.model_validate(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise InputError(f"Field {where}: {first['msg']}.", code="bad_request",
                         hint='Fields are file (base64), seed, category and stream.') from exc
    return request, decode_file(request.file, limits)


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
        yield json.dumps({"event": "chunk", "index": index, "data": encode_file(video[start:start + CHUNK_BYTES])}) + "\n"


def done_line(report: dict) -> str:
    return json.dumps({"event": "done", **report}) + "\n"


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
    except (ValueError, AttributeError, KeyError) as exc:
        raise UpstreamError("The model server answered with something unreadable.") from exc
    if event not in ("progress", "chunk", "done", "error"):
        raise UpstreamError(f"The model server sent an unknown event {event!r}.")
    return StreamEvent(event, data)
