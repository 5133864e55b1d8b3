"""Every error of the gateway leaves as RFC 9457 problem+json, the framework's own included.

What nobody expected is answered where every answer passes: in `service.Edge`.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from s2s.errors import InputError, S2SError
from s2s.wire import STATUS_OF_CODE, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
EXTRA_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "10"}}
CODE_OF_STATUS = {
    400: "bad_request",
    401: "key_required",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    416: "bad_range",
    422: "bad_input",
}
SAID = {
    "bad_request": "The request is not understood: the form, the JSON or a field is wrong.",
    "bad_base64": "`file` is not base64.",
    "not_found": "There is no such job.",
    "too_large": "The upload is larger than the limit.",
    "not_a_video": "The file is not a video.",
    "unsupported_container": "A kind of file that is not taken.",
    "unsupported_codec": "A picture that cannot be read.",
    "unsupported_media_type": "A content type that is not taken.",
    "no_video_track": "The file has no picture.",
    "truncated": "The file ends too early.",
    "too_long": "Too long.",
    "too_short": "Too short.",
    "picture_too_large": "The picture is too large.",
    "too_many_frames": "Too many frames.",
    "external_reference": "The file refers to other files.",
    "bad_input": "Something else is wrong with the input.",
    "not_ready": "The job has no result yet, or none will come: see its state.",
    "gone": "The result has expired or was deleted.",
    "no_copy": "A copy that plays anywhere cannot be made of this clip here; the original can be had.",
    "bad_range": "There are no such bytes.",
    "key_required": "An API key is required.",
    "bad_key": "The API key is wrong, revoked or expired.",
    "forbidden": "The API key's scopes do not allow this.",
    "cross_site": "A page of another site asked.",
    "too_slow": "The upload stood still for too long.",
    "rate_limited": "Too many in a short time; `Retry-After` tells when to try again.",
    "storage_full": "The storage quota is used up; results that expire make room.",
    "storage_away": "Files cannot be written or read now; try again in a while.",
    "too_many_uploads": "Too many uploads are coming in; try again at once.",
    "database_away": "The database does not answer now; nothing that was accepted is lost.",
    "queue_full": "Too many jobs wait; try again later.",
    "bad_webhook": "`webhook_url` is no address that may be told.",
    "webhooks_off": "This service sends no webhooks.",
    "internal": "Something failed on our side.",
}


def describe(*codes: str) -> dict[int | str, dict]:
    """The `responses` of a route: for each status the codes that it may carry, in words and as an example."""
    found: dict[int | str, dict] = {}
    for code in codes:
        status = STATUS_OF_CODE[code]
        answer = found.setdefault(
            status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        answer["description"] += f"{' ' if answer['description'] else ''}`{code}`: {SAID[code]}"
        example = Problem(
            type=f"urn:s2s:problem:{code}",
            title=code.replace("_", " ").capitalize(),
            status=status,
            detail=SAID[code],
            code=code,
            request_id="5b0cf3c5a1b24a0e",
        )
        answer["content"][MEDIA_TYPE]["examples"][code] = {"value": example.model_dump(exclude_none=True)}
    return found


def respond(request: Request, problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    problem = problem.model_copy(update={"request_id": request.scope.get("request_id")})
    request.scope["problem_code"] = problem.code
    extra = EXTRA_HEADERS.get(problem.status, {})
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        problem.status,
        media_type=MEDIA_TYPE,
        headers={**extra, **(headers or {}), "Cache-Control": "no-store"},
    )


def _methods_of(request: Request) -> str:
    """All that an address can do: the framework knows those of the first route alone."""
    found = set()
    for pattern, operations in request.app.openapi()["paths"].items():
        if compile_path(pattern)[0].match(request.url.path.removeprefix(request.scope.get("root_path", ""))):
            found |= {method.upper() for method in operations}
    return ", ".join(sorted(found))


def install(app: FastAPI) -> None:
    @app.exception_handler(S2SError)
    async def ours(request: Request, exc: S2SError) -> JSONResponse:
        if not isinstance(exc, InputError):
            log.error("request %s: %s", request.scope.get("request_id"), exc, exc_info=exc)
        return respond(request, Problem.from_error(exc), getattr(exc, "headers", None))

    @app.exception_handler(HTTPException)
    async def frameworks(request: Request, exc: HTTPException) -> JSONResponse:
        code = CODE_OF_STATUS.get(exc.status_code, "bad_request" if exc.status_code < 500 else "internal")
        title = HTTPStatus(exc.status_code).phrase
        headers = dict(exc.headers or {})
        if exc.status_code == 405 and (methods := _methods_of(request)):
            headers["Allow"] = methods
        return respond(
            request,
            Problem(
                type=f"urn:s2s:problem:{code}",
                title=title,
                status=exc.status_code,
                code=code,
                detail=f"{title}: {request.method} {request.url.path}.",
            ),
            headers,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> JSONResponse:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return respond(request, Problem.from_error(InputError(f"{where}: {first['msg']}.")))
