"""The API: jobs, what they may be, and the three routes of the original project on top of the same jobs."""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api_service.api import schemas
from api_service.api.blobs import Blobs
from api_service.api.jobs import JobWorker
from api_service.api.problems import describe
from api_service.api.store import FINISHED, Job, JobStore, State
from api_service.api.uploads import receive
from s2s.config import Settings
from s2s.errors import InputError, UpstreamError
from s2s.media.gate import check_container

MEDIA_TYPE = {"mp4": "video/mp4", "webm": "video/webm"}
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
    "queue_full",
)
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


class Service:
    """What the routes need, built once by `create_app`."""

    def __init__(self, config: Settings, store: JobStore, blobs: Blobs, worker: JobWorker):
        self.config, self.store, self.blobs, self.worker = config, store, blobs, worker

    async def submit(self, request: Request, idempotency_key: str | None = None) -> Job:
        """Takes an upload in: to disk, through the gate, into the queue. Nothing is left of one that is refused."""
        if idempotency_key and (earlier := await self.store.by_key(idempotency_key)):
            return earlier
        if await self.store.waiting() >= self.config.max_queued:
            raise UpstreamError("Too many jobs are waiting.", code="queue_full", hint="Try again in a while.")
        job_id = str(uuid.uuid4())
        target = self.blobs.create(job_id)
        try:
            upload = await receive(request, target, self.config.http_limits)
            await asyncio.to_thread(check_container, target, self.config.http_limits)
            job = await self.store.create(
                job_id,
                filename=upload.filename,
                seed=upload.seed,
                category=upload.category,
                idempotency_key=idempotency_key,
            )
        except BaseException:
            self.blobs.delete(job_id)
            raise
        if job.id != job_id:  # the same key came in twice at once
            self.blobs.delete(job_id)
        return job

    async def find(self, job_id: str) -> Job:
        if job := await self.store.get(job_id):
            return job
        raise InputError(
            "There is no such job.", code="not_found", hint="It may have been deleted; send the clip again."
        )

    async def view(self, job: Job, root_path: str = "") -> schemas.Job:
        here = f"{root_path}/v1/jobs/{job.id}"
        queue = None if job.state in FINISHED else await self.store.queue(job)
        ends = job.finished_at and job.state != State.EXPIRED
        return schemas.Job(
            id=job.id,
            state=job.state.value,
            created_at=_timestamp(job.created_at),
            filename=job.filename,
            options=schemas.Options(seed=job.seed, category=job.category),
            progress=job.progress,
            queue_position=queue and queue.position,
            eta_s=self._eta_s(job, queue),
            problem=job.problem,
            report=job.report,
            expires_at=_timestamp(job.finished_at + self.config.result_ttl_s) if ends else None,
            links=schemas.Links(self=here, events=f"{here}/events", result=f"{here}/result", cancel=f"{here}/cancel"),
        )

    def _eta_s(self, job: Job, queue) -> float | None:
        """From the mean run time of recent jobs; a running job's own pace tells more once it has gone some way."""
        if queue is None or job.state == State.CANCELING:
            return None
        if queue.position is None:
            done, elapsed_s = (job.progress or {}).get("fraction", 0.0), time.time() - (job.started_at or time.time())
            if done >= 0.1:
                return round(elapsed_s * (1 - done) / done, 1)
            return queue.mean_s and round(max(0.0, queue.mean_s - elapsed_s), 1)
        ahead = queue.position - 1 + queue.running
        return queue.mean_s and round(queue.mean_s * (1 + math.ceil(ahead / self.config.model_workers)), 1)

    def result(self, job: Job, filename: str, disposition: str) -> FileResponse:
        """Raises InputError not_ready or gone."""
        if job.state == State.EXPIRED:
            raise InputError("The result has expired.", code="gone", hint="Send the clip again.")
        if job.state != State.SUCCEEDED:
            raise InputError(
                f"There is no result: the job is {job.state}.",
                code="not_ready",
                hint="Follow its events." if job.state not in FINISHED else "Send the clip again.",
            )
        path = self.blobs.result(job.id, job.attempt)
        if not path.is_file():
            raise InputError("The result is gone.", code="gone", hint="Send the clip again.")
        headers = {
            "ETag": f'"{job.result_sha256}"',
            "Cache-Control": "private, no-cache",
            "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(filename)}",
        }
        return FileResponse(path, media_type=MEDIA_TYPE[job.container], headers=headers)


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def service_of(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(service_of)]


async def job_of(job_id: str, service: ServiceOf) -> Job:
    return await service.find(job_id)


JobOf = Annotated[Job, Depends(job_of)]

jobs_api = APIRouter(prefix="/v1/jobs", tags=["jobs"])
about_api = APIRouter(tags=["about"])
legacy_api = APIRouter(tags=["original project"])


@jobs_api.post(
    "",
    status_code=202,
    response_model=schemas.Job,
    summary="Send a clip",
    openapi_extra=UPLOAD_BODY,
    responses={202: {"description": "The job waits. `Location` is its address."}, **describe(*REFUSALS)},
)
async def create_job(
    request: Request,
    response: Response,
    service: ServiceOf,
    idempotency_key: Annotated[
        str | None, Header(max_length=100, description="The same key: the same job, once.")
    ] = None,
) -> schemas.Job:
    """The clip is checked before it is queued: what is not a video that we take is refused here, at once.

    `curl -F file=@clip.mp4 http://127.0.0.1:9000/v1/jobs`
    """
    job = await service.view(await service.submit(request, idempotency_key), _root(request))
    response.headers["Location"] = job.links.self
    return job


@jobs_api.get("/{job_id}", summary="How far is it?", responses=describe("not_found"))
async def get_job(request: Request, job: JobOf, service: ServiceOf, response: Response) -> schemas.Job:
    response.headers["Cache-Control"] = "no-store"
    return await service.view(job, _root(request))


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
                    "schema": {"type": "string"},
                    "example": 'id: 7\nevent: progress\ndata: {"stage":"mel","step":4,"total":8,"fraction":0.57}\n\n',
                }
            },
        },
        204: {"description": "The job is finished and the client has seen every event: EventSource stops asking."},
        **describe("not_found"),
    },
)
async def follow_job(
    request: Request,
    job: JobOf,
    service: ServiceOf,
    last_event_id: Annotated[str | None, Header(description="Sent by EventSource when it connects again.")] = None,
) -> Response:
    seen = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else None
    if seen is not None and seen >= job.seq and job.state in FINISHED:
        return Response(status_code=204)
    return StreamingResponse(
        _events(service, job, seen, _root(request)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(service: Service, job: Job, seen: int | None, root_path: str) -> AsyncIterator[bytes]:
    """Stored events carry their number and can be replayed; queue positions are told as they are now."""

    async def whole(name: str, job: Job) -> bytes:
        return _sse(name, (await service.view(job, root_path)).model_dump(mode="json"), job.seq)

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
            if time.monotonic() - ping_s > SSE_PING_S:
                ping_s = time.monotonic()
                yield KEEPALIVE_COMMENT
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), SSE_POLL_S)


def _sse(name: str, data: dict, seq: int | None = None) -> bytes:
    return format_sse_event(
        data_str=json.dumps(data, separators=(",", ":")), event=name, id=None if seq is None else str(seq)
    )


@jobs_api.post("/{job_id}/cancel", status_code=202, summary="Stop it", responses=describe("not_found"))
async def cancel_job(request: Request, job: JobOf, service: ServiceOf) -> schemas.Job:
    """A job that is already finished stays as it is."""
    return await service.view(await service.store.cancel(job.id) or job, _root(request))


@jobs_api.delete("/{job_id}", status_code=204, summary="Delete it and its files", responses=describe("not_found"))
async def delete_job(job: JobOf, service: ServiceOf) -> None:
    """The upload and the result are deleted at once; a running job is stopped."""
    await service.store.delete(job.id)
    service.blobs.delete(job.id)


@jobs_api.get(
    "/{job_id}/result",
    summary="The clip with its sound",
    response_class=FileResponse,
    responses={
        200: {"description": "The whole file.", "content": {"video/mp4": {}, "video/webm": {}}},
        206: {"description": "The part that `Range` asked for."},
        304: {"description": "`If-None-Match` has the ETag."},
        **describe("not_found", "not_ready", "gone"),
    },
)
async def get_result(
    job: JobOf,
    service: ServiceOf,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    stem = Path(job.filename).stem or "video"
    answer = service.result(job, f"{stem}-with-sound.{job.container}", "inline")
    if if_none_match and answer.headers["etag"] in if_none_match:
        return Response(status_code=304, headers={"ETag": answer.headers["etag"]})
    return answer


@about_api.get("/v1/limits", summary="What an upload may be")
async def get_limits(service: ServiceOf) -> schemas.PublishedLimits:
    limits, config = service.config.http_limits, service.config
    return schemas.PublishedLimits(
        **limits.model_dump(),
        max_frames=limits.max_frames,
        containers=["mp4", "mov", "webm"],
        max_queued=config.max_queued,
        result_ttl_s=config.result_ttl_s,
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


@about_api.get("/readyz", summary="Jobs can be taken", responses=describe("internal"))
async def readyz(service: ServiceOf) -> schemas.Health:
    """Ready means that the database answers. It does not depend on the model server: jobs wait for that."""
    await service.store.waiting()
    return schemas.Health(model_server=service.worker.model_server)


@legacy_api.post("/predict", summary="Send a clip", openapi_extra=UPLOAD_BODY, responses=describe(*REFUSALS))
async def predict(request: Request, service: ServiceOf) -> schemas.PredictionStarted:
    """As the original project had it; it answers at once. New clients use `POST /v1/jobs`."""
    job = await service.submit(request)
    return schemas.PredictionStarted(filename=f"{job.id}.mp4")


@legacy_api.get("/status/{filename}", summary="How far is it?")
async def status(filename: str, service: ServiceOf) -> schemas.PredictionStatus:
    """A name that nobody knows is `not_started`."""
    job = await service.store.get(filename.removesuffix(".mp4"))
    if job is None:
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
        **describe("not_found", "not_ready", "gone"),
    },
)
async def get_video(filename: str, service: ServiceOf) -> Response:
    job = await service.find(filename.removesuffix(".mp4"))
    return service.result(job, filename, "attachment")


def _root(request: Request) -> str:
    return request.scope.get("root_path", "")
