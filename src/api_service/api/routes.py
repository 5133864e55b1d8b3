"""The API: jobs, shared links, limits, and the three routes of the original project on top of the same jobs."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from pydantic import BaseModel
from starlette.types import Message

from api_service.api import schemas
from api_service.api.access import CallerOf
from api_service.api.blobs import JOB_ID
from api_service.api.gateway import JobOf, Service, ServiceOf, count_upload, etag_of, job_of, root_path
from api_service.api.problems import describe
from api_service.api.results import MEDIA_TYPE, IfNoneMatch, add_reads, file_answer
from api_service.api.store import FINISHED, Job, State
from s2s.errors import InputError

REFUSALS = (
    "bad_request",
    "bad_base64",
    "too_large",
    "not_a_video",
    "unsupported_container",
    "unsupported_codec",
    "unsupported_media_type",
    "no_video_track",
    "truncated",
    "too_long",
    "too_short",
    "picture_too_large",
    "too_many_frames",
    "external_reference",
    "bad_input",
    "too_slow",
)
DENIALS = ("key_required", "bad_key", "forbidden", "cross_site")
WEBHOOKS = ("bad_webhook", "webhooks_off")
FULL = ("rate_limited", "queue_full", "storage_full", "storage_away", "too_many_uploads")
COUNTED = Depends(count_upload)
SSE_POLL_S = 0.5
SSE_PING_S = 15.0
UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "contentMediaType": "application/octet-stream",
                            "format": "binary",
                            "description": "the video: MP4, MOV or WebM",
                        },
                        "seed": {
                            "type": "integer",
                            "minimum": 0,
                            "default": 0,
                            "description": "another seed is another take",
                        },
                        "category": {
                            "type": "string",
                            "description": "kind of sound, see /v1/models; default: recognised",
                        },
                        "events": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": 'the moments to be heard, as JSON: `[{"time_s": 2.1, "strength": 0.8}]`',
                        },
                        "offset_ms": {"type": "number", "minimum": -1000, "maximum": 1000, "default": 0},
                        "gain_db": {"type": "number", "minimum": -40, "maximum": 20, "default": 0},
                        "webhook_url": {"type": "string", "format": "uri", "description": schemas.WEBHOOK_URL},
                    },
                }
            },
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JsonUpload"},
                "examples": {"clip": {"value": {"file": "AAAAIGZ0eXBpc29t...", "seed": 0}}},
            },
        },
    }
}


LINKS = {  # what can be done next with the job of an answer
    name: {"operationId": name, "parameters": {"job_id": "$response.body#/id"}}
    for name in (
        "get_job", "follow_job", "cancel_job", "retake_job", "share_job", "unshare_job", "get_result", "get_audio",
        "get_peaks", "get_spectrogram", "get_description", "delete_job",
    )
}  # fmt: skip
SHARED_LINKS = {
    name: {"operationId": name, "parameters": {"token": "$response.body#/token"}}
    for name in (
        "get_shared", "get_shared_result", "get_shared_audio", "get_shared_peaks", "get_shared_spectrogram",
        "get_shared_description",
    )
}  # fmt: skip

HEARD = {
    "2XX": {"description": "Heard. The body is not read."},
    410: {"description": "Nothing more for this address."},
    "default": {"description": "Not heard: it is sent again. Redirects are not followed."},
}

MOST_WISHES_BYTES = 1_000_000  # 2,000 moments are a quarter of it


class ShortBody(APIRoute):
    """A route whose body fits into memory: FastAPI reads the whole of it before it looks at anything."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > MOST_WISHES_BYTES:
                    raise InputError(
                        f"What is wished for is larger than {MOST_WISHES_BYTES / 1e6:g} MB.",
                        code="too_large",
                        hint="Send fewer moments.",
                    )

            async def receive() -> Message:
                return {"type": "http.request", "body": bytes(body), "more_body": False}

            return await handle(Request(request.scope, receive))

        return read_and_handle


jobs_api = APIRouter(prefix="/v1/jobs", tags=["jobs"])
retakes_api = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=ShortBody)
about_api = APIRouter(tags=["about"])
shared_api = APIRouter(prefix="/v1/shared/{token}", tags=["shared"])
legacy_api = APIRouter(tags=["original project"])
webhooks_api = APIRouter(tags=["webhooks"])


@jobs_api.post(
    "",
    dependencies=[COUNTED],
    status_code=202,
    response_model=schemas.Job,
    summary="Send a clip",
    openapi_extra=UPLOAD_BODY,
    responses={
        202: {"description": "The job waits. `Location` is its address.", "links": LINKS},
        **describe(*REFUSALS, *WEBHOOKS, *DENIALS, *FULL),
    },
)
async def create_job(
    request: Request,
    response: Response,
    service: ServiceOf,
    caller: CallerOf,
    idempotency_key: Annotated[
        str | None, Header(max_length=100, description="The same key: the same job, once.")
    ] = None,
) -> schemas.Job:
    """The clip is checked before it is queued: what is not a video that we take is refused here, at once.

    `curl -F file=@clip.mp4 http://127.0.0.1:9000/v1/jobs`
    """
    job = await service.view(await service.submit(request, caller, idempotency_key), root_path(request))
    response.headers["Location"] = job.links.self
    return job


@jobs_api.get("", summary="My jobs", responses=describe("bad_request", *DENIALS))
async def list_jobs(
    request: Request,
    service: ServiceOf,
    caller: CallerOf,
    response: Response,
    cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    state: State | None = None,
) -> schemas.JobPage:
    """Newest first. Jobs that nobody owns (sent without key or cookie) are not listed."""
    response.headers["Cache-Control"] = "no-store"
    if caller.owner in ("", "visitor:"):
        return schemas.JobPage(jobs=[], next_cursor=None)
    found = await service.store.page(caller.owner, state, _read_cursor(cursor), limit + 1)
    shown = [await service.view(job, root_path(request)) for job in found[:limit]]
    last = found[limit - 1] if len(found) > limit else None
    return schemas.JobPage(jobs=shown, next_cursor=last and f"{last.created_at.hex()}_{last.id}")


def _read_cursor(cursor: str | None) -> tuple[float, str] | None:
    if cursor is None:
        return None
    at, _, job_id = cursor.partition("_")
    no_cursor = InputError("This is no cursor.", code="bad_request", hint="Use `next_cursor` as it was told.")
    if not JOB_ID.fullmatch(job_id):
        raise no_cursor
    try:
        return float.fromhex(at), job_id
    except (ValueError, OverflowError) as exc:
        raise no_cursor from exc


@jobs_api.get(
    "/{job_id}",
    summary="How far is it?",
    response_model=schemas.Job,
    responses={304: {"description": "`If-None-Match` has the ETag."}, **describe("not_found", *DENIALS)},
)
async def get_job(request: Request, job: JobOf, service: ServiceOf, if_none_match: IfNoneMatch = None) -> Response:
    return _status(request, await service.view(job, root_path(request)))


def _status(request: Request, told: BaseModel) -> Response:
    """With an ETag of all that is told, so that a poll costs nothing while nothing changes."""
    body = told.model_dump_json()
    headers = {"ETag": etag_of(body), "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@retakes_api.post(
    "/{job_id}/retake",
    dependencies=[COUNTED],
    status_code=202,
    summary="Again, but otherwise",
    responses={
        202: {"description": "A new job waits. `Location` is its address.", "links": LINKS},
        **describe("not_found", "gone", "bad_input", "bad_request", "too_large", *WEBHOOKS, *DENIALS, *FULL),
    },
)
async def retake_job(
    request: Request, response: Response, job: JobOf, service: ServiceOf, caller: CallerOf, wishes: schemas.Retake
) -> schemas.Job:
    """A new job from the kept upload. What is not said stays as it was; `null`: kind and moments are found again."""
    changes = wishes.model_dump(mode="json", exclude_unset=True)
    told = await service.view(await service.retake(job, caller, changes), root_path(request))
    response.headers["Location"] = told.links.self
    return told


@jobs_api.post(
    "/{job_id}/share",
    summary="A link to show it to others",
    responses={200: {"links": SHARED_LINKS}, **describe("not_found", "gone", *DENIALS)},
)
async def share_job(request: Request, job: JobOf, service: ServiceOf) -> schemas.Share:
    """Whoever has the link can see and hear the result until it expires or the link is revoked. Asking again tells the
    same link."""
    token = await service.share(job)
    return schemas.Share(url=f"{root_path(request)}/s/{token}", token=token, expires_at=service.expires_at(job))


@jobs_api.delete(
    "/{job_id}/share", status_code=204, summary="Revoke the link", responses=describe("not_found", *DENIALS)
)
async def unshare_job(job: JobOf, service: ServiceOf) -> None:
    await service.unshare(job)


async def shared_job_of(token: Annotated[str, Path(max_length=100)], service: ServiceOf) -> Job:
    return await service.find_shared(token)


@shared_api.get(
    "",
    summary="What a shared link shows",
    response_model=schemas.SharedJob,
    responses={304: {"description": "`If-None-Match` has the ETag."}, **describe("not_found")},
)
async def get_shared(
    request: Request,
    token: str,
    service: ServiceOf,
    job: Job = Depends(shared_job_of),
    if_none_match: IfNoneMatch = None,
) -> Response:
    return _status(request, service.view_shared(job, token, root_path(request)))


@jobs_api.get(
    "/{job_id}/events",
    summary="Follow it",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events until the job is finished. `snapshot` (a Job) first, then `queued` "
            "(`{position, eta_s}`), `progress` (`{stage, step, total, fraction}`), and at last one of "
            "`succeeded`, `failed`, `canceled`, `expired` (a Job). With `Last-Event-ID` no snapshot: the "
            "events after that one are replayed.",
            "content": {
                "text/event-stream": {
                    "itemSchema": {
                        "type": "object",
                        "required": ["event", "data"],
                        "properties": {
                            "id": {"type": "string", "pattern": "^[0-9]+$"},
                            "event": {"type": "string"},
                            "data": {"type": "string", "contentMediaType": "application/json"},
                        },
                    },
                    "example": 'id: 7\nevent: progress\ndata: {"stage":"mel","step":4,"total":8,"fraction":0.57}\n\n',
                }
            },
        },
        204: {"description": "The job is finished and the client has seen every event: EventSource stops asking."},
        **describe("not_found", *DENIALS),
    },
)
async def follow_job(
    request: Request,
    job: JobOf,
    service: ServiceOf,
    last_event_id: Annotated[str | None, Header(description="Sent by EventSource when it connects again.")] = None,
) -> Response:
    seen = int(last_event_id) if re.fullmatch(r"[0-9]{1,18}", last_event_id or "") else None
    if seen is not None and seen >= job.seq and job.state in FINISHED:
        return Response(status_code=204)
    return StreamingResponse(
        _events(service, job, seen, root_path(request)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(service: Service, job: Job, seen: int | None, root: str) -> AsyncIterator[bytes]:
    """Stored events carry their number and can be replayed; queue positions are told as they are now."""

    async def whole(name: str, job: Job) -> bytes:
        return _sse(name, (await service.view(job, root)).model_dump(mode="json"), job.seq)

    told_queue, ping_s = None, time.monotonic()
    with service.store.signals.watch(job.id) as changed:
        if seen is None or seen > job.seq:
            seen = job.seq
            yield await whole("snapshot", job)
            if job.state in FINISHED:
                yield await whole(job.state.value, job)
        while True:
            changed.clear()
            job = await service.store.get(job.id)
            if job is None:
                return
            for stored in await service.store.events_after(job.id, seen):
                if stored.seq > job.seq:  # newer than the row we hold: with the next one
                    break
                seen, ping_s = stored.seq, time.monotonic()
                yield (
                    await whole(stored.event, job)
                    if stored.data is None
                    else _sse(stored.event, stored.data, stored.seq)
                )
            if job.state in FINISHED:
                return
            if job.state == State.QUEUED:
                shown = await service.view(job)
                if (where := {"position": shown.queue_position, "eta_s": shown.eta_s}) != told_queue:
                    told_queue = where
                    yield _sse("queued", where)
            else:
                told_queue = None
            if time.monotonic() - ping_s > SSE_PING_S:
                ping_s = time.monotonic()
                yield KEEPALIVE_COMMENT
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), SSE_POLL_S)


def _sse(name: str, data: dict, seq: int | None = None) -> bytes:
    return format_sse_event(
        data_str=json.dumps(data, separators=(",", ":")), event=name, id=None if seq is None else str(seq)
    )


@jobs_api.post("/{job_id}/cancel", status_code=202, summary="Stop it", responses=describe("not_found", *DENIALS))
async def cancel_job(request: Request, job: JobOf, service: ServiceOf) -> schemas.Job:
    """A job that is already finished stays as it is."""
    return await service.view(await service.store.cancel(job.id) or job, root_path(request))


@jobs_api.delete(
    "/{job_id}", status_code=204, summary="Delete it and its files", responses=describe("not_found", *DENIALS)
)
async def delete_job(job: JobOf, service: ServiceOf) -> None:
    """The upload and the result are deleted at once; a running job is stopped."""
    await service.store.delete(job.id)
    await service.blobs.delete(job.id)


_reads = APIRouter(prefix="/{job_id}")
add_reads(_reads, job_of, *DENIALS)
jobs_api.include_router(_reads)
add_reads(shared_api, shared_job_of)


@about_api.get("/v1/limits", summary="What an upload may be")
async def get_limits(request: Request, response: Response, service: ServiceOf) -> schemas.PublishedLimits:
    """What a page asks first. Where visitors need a cookie it is given here, too: whoever serves the page, two first
    uploads at once, or one that is tried again, are one visitor's."""
    limits, config = service.config.http_limits, service.config
    response.headers["Cache-Control"] = "no-store"
    if config.keys_required and config.anonymous_allowed:
        service.gatekeeper.welcome(request, response)
    return schemas.PublishedLimits(
        **limits.model_dump(),
        max_frames=limits.max_frames,
        containers=["mp4", "mov", "webm"],
        retention_s=config.result_ttl_s,
        key_required=config.keys_required and not config.anonymous_allowed,
        quotas=schemas.Quotas(**{name: getattr(config, name) for name in schemas.Quotas.model_fields}),
        webhooks=config.webhooks,
    )


@about_api.get("/v1/models", summary="What makes the sound")
async def get_models(service: ServiceOf) -> schemas.Models:
    """Read from the bundle's own description."""
    path = service.config.bundle / "bundle.json"
    if not path.is_file():
        return schemas.Models(models=[])
    told = json.loads(path.read_text())
    return schemas.Models(
        models=[
            schemas.Model(
                name=str(told.get("name", service.config.bundle.name)),
                version=str(told.get("version", "")),
                categories=[str(kind) for kind in told.get("categories") or []],
            )
        ]
    )


@about_api.get("/livez", summary="The process is alive", response_model_exclude_none=True)
async def livez() -> schemas.Health:
    return schemas.Health()


@about_api.get("/readyz", summary="Jobs can be taken", responses=describe("database_away"))
async def readyz(service: ServiceOf) -> schemas.Health:
    """Ready means that the database answers. It does not depend on the model server: jobs wait for that."""
    await service.store.waiting()
    return schemas.Health(model_server=service.worker.model_server)


@legacy_api.post(
    "/predict",
    dependencies=[COUNTED],
    summary="Send a clip",
    openapi_extra=UPLOAD_BODY,
    responses=describe(*REFUSALS, *WEBHOOKS, *DENIALS, *FULL),
)
async def predict(request: Request, service: ServiceOf, caller: CallerOf) -> schemas.PredictionStarted:
    """As the original project had it; it answers at once. New clients use `POST /v1/jobs`."""
    job = await service.submit(request, caller)
    return schemas.PredictionStarted(filename=f"{job.id}.mp4")


@legacy_api.get("/status/{filename}", summary="How far is it?")
async def status(filename: str, service: ServiceOf, caller: CallerOf) -> schemas.PredictionStatus:
    """A name that nobody knows is `not_started`."""
    job = await service.store.get(filename.removesuffix(".mp4"))
    if job is None or not caller.may_see(job.owner):
        return schemas.PredictionStatus(status="not_started")
    if job.state not in FINISHED:
        return schemas.PredictionStatus(status="processing")
    return schemas.PredictionStatus(status="completed" if job.state == State.SUCCEEDED else "error")


@legacy_api.get(
    "/get_video/{filename}",
    summary="The clip with its sound",
    response_class=FileResponse,
    responses={
        200: {"description": "The video, as an attachment.", "content": {"video/mp4": {}, "video/webm": {}}},
        **describe("not_found", "not_ready", "gone", "storage_away"),
    },
)
async def get_video(request: Request, filename: str, service: ServiceOf, caller: CallerOf) -> Response:
    job = await service.find(filename.removesuffix(".mp4"), caller)
    path = await service.result(job)
    return file_answer(request, path, job, MEDIA_TYPE[job.container], "", filename=filename, attach=True)


@webhooks_api.get(
    "/v1/webhooks/secret",
    summary="What webhooks are signed with",
    responses=describe("webhooks_off", *DENIALS),
)
async def get_webhook_secret(response: Response, service: ServiceOf, caller: CallerOf) -> schemas.WebhookSecret:
    """Every API key has its own, as long as it lives: a new key, a new secret."""
    response.headers["Cache-Control"] = "no-store"
    return schemas.WebhookSecret(secret=service.webhooks.secret(caller))


def describe_webhooks(webhooks: APIRouter) -> None:
    """What we send, for the `webhooks` of the OpenAPI document."""
    for kind in get_args(schemas.EndedState):

        @webhooks.post(
            f"job.{kind}", operation_id=f"job_{kind}", summary=f"A job has {kind}", tags=["webhooks"], responses=HEARD
        )
        async def told(
            body: schemas.JobWebhook,
            webhook_id: Annotated[str, Header(description="the same for every try: who has seen it ignores it")],
            webhook_timestamp: Annotated[str, Header(description="of this try, seconds since 1970")],
            webhook_signature: Annotated[
                str, Header(description="`v1,` and the base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`")
            ],
        ) -> None:
            """Sent to `webhook_url`, signed as [Standard Webhooks](https://www.standardwebhooks.com) has it, with the
            secret of `GET /v1/webhooks/secret`: libraries of that name check it. Answer 2xx, quickly. Else it comes
            again, later and later; 410 ends it. It may come twice. A job that is deleted tells nobody."""
