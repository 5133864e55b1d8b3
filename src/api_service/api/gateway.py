"""What the routes need: uploads become jobs, jobs become what the API says of them, results become other files."""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
import time
import uuid
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from api_service.api import derive, schemas
from api_service.api.access import Caller, CallerOf, Gatekeeper, Signer
from api_service.api.admin import WorkerParts
from api_service.api.blobs import UPLOAD, result_name
from api_service.api.database import DatabaseAway
from api_service.api.limits import Admission, storage_told
from api_service.api.outbox import Delivery
from api_service.api.store import FINISHED, Job, Queue, State
from api_service.api.uploads import receive
from api_service.api.webhooks import WebhookPolicy
from s2s.config import Settings
from s2s.errors import InputError
from s2s.media.gate import check_container
from s2s.wire import Wishes, validated

DERIVED_AT_ONCE, COPIED_AT_ONCE = 2, 1  # ffmpeg processes of the gateway; those that take most memory
PARSED_AT_ONCE = 1  # uploads as JSON
WAV, PEAKS, SPECTROGRAM, H264 = "audio.wav", "peaks.json", "spectrogram.png", "h264.mp4"


class Service:
    """Built once by `create_app`."""

    def __init__(
        self,
        config: Settings,
        parts: WorkerParts,
        gatekeeper: Gatekeeper,
        signer: Signer,
    ):
        self.config, self.store, self.blobs, self.worker = config, parts.store, parts.blobs, parts.worker
        self.outbox, self.webhooks = parts.outbox, WebhookPolicy(config, signer)
        self.gatekeeper, self._signer = gatekeeper, signer
        self._embedded = parts.database.embedded  # in a file, a write that fails is undone, and known to be
        self.admission = Admission(config, parts.store)
        self._deriving: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._derivers, self._copier = asyncio.Semaphore(DERIVED_AT_ONCE), asyncio.Semaphore(COPIED_AT_ONCE)
        self._json_turn = asyncio.Semaphore(PARSED_AT_ONCE)

    async def submit(self, request: Request, caller: Caller, idempotency_key: str | None = None) -> Job:
        """Takes an upload in: to disk, through the gate, into the queue. Nothing is left of one that is refused."""
        if idempotency_key:
            idempotency_key = hashlib.sha256(f"{caller.owner}|{idempotency_key}".encode()).hexdigest()
            if earlier := await self.store.by_key(idempotency_key):
                return earlier
        await self.admission.quotas(caller)
        job_id = str(uuid.uuid4())
        with storage_told(), self.admission.incoming(), self.blobs.scratch() as folder:
            file = folder / "upload"
            upload = await receive(request, file, self.config.http_limits, self.config.upload_stall_s, self._json_turn)
            webhook_url = self.webhooks.check(upload.webhook_url, caller)
            await asyncio.to_thread(check_container, file, self.config.http_limits)
            n_bytes = file.stat().st_size
            await self.blobs.put(job_id, UPLOAD, file)
        return await self._enqueue(
            job_id,
            owner=caller.owner,
            filename=upload.filename,
            wishes=upload.wishes,
            stored_bytes=n_bytes,
            idempotency_key=idempotency_key,
            webhook_url=webhook_url,
        )

    async def retake(self, job: Job, caller: Caller, changes: dict) -> Job:
        """A new job from the kept upload of another; what is not in `changes` stays as it was asked for.

        Raises InputError gone.
        """
        webhook_url = self.webhooks.check(changes.pop("webhook_url", None), caller)
        await self.admission.quotas(caller)
        wishes = validated(Wishes, {**job.wishes, **changes})
        job_id = str(uuid.uuid4())
        with storage_told():
            try:
                n_bytes = await self.blobs.copy(job.id, UPLOAD, job_id)
            except FileNotFoundError as exc:
                raise InputError("The upload is gone.", code="gone", hint="Send the clip again.") from exc
        return await self._enqueue(
            job_id,
            owner=caller.owner,
            filename=job.filename,
            wishes=wishes,
            stored_bytes=n_bytes,
            webhook_url=webhook_url,
        )

    async def _enqueue(self, job_id: str, **values: Any) -> Job:
        """The blob is there; now the row. Where there may be one although nobody told us, the blob stays: the sweep
        takes it if there is none."""
        try:
            job = await self.store.create(job_id, fits=partial(self.admission.fits, values["owner"]), **values)
        except BaseException as exc:
            unheard = isinstance(exc, DatabaseAway) and not self._embedded
            if not unheard and not isinstance(exc, asyncio.CancelledError):
                await self.blobs.delete(job_id)
            raise
        if job.id != job_id:  # the same key came in twice at once
            await self.blobs.delete(job_id)
        return job

    async def find(self, job_id: str, caller: Caller) -> Job:
        """Raises InputError not_found, also for a job of somebody else."""
        job = await self.store.get(job_id)
        if job is None or not caller.may_see(job.owner):
            raise InputError(
                "There is no such job.", code="not_found", hint="It may have been deleted; send the clip again."
            )
        return job

    # A link to share: /s/<token>. The token follows from a nonce and our secret, so that asking again gives the same
    # link, while the database holds neither the token nor anything that it could be made from alone.

    async def share(self, job: Job) -> str:
        """The token of the link, new or the one there is. Raises InputError gone."""
        if job.state == State.EXPIRED:
            raise gone()
        if job.share_nonce is None:
            nonce = secrets.token_hex(16)
            shared = await self.store.share(job.id, nonce, _hash(self._share_token(job, nonce)))
            if shared is None or shared.share_nonce is None:  # deleted, or revoked at once, in the meantime
                raise gone()
            job = shared  # with the nonce of whoever was first
        return self._share_token(job, job.share_nonce)

    async def unshare(self, job: Job) -> None:
        await self.store.unshare(job.id)

    async def find_shared(self, token: str) -> Job:
        if job := await self.store.by_share(_hash(token)):
            return job
        raise InputError("This link leads nowhere.", code="not_found", hint="It may have been revoked or have expired.")

    def _share_token(self, job: Job, nonce: str) -> str:
        return self._signer.token("share", job.id, nonce)

    async def view(self, job: Job, root_path: str = "") -> schemas.Job:
        here = f"{root_path}/v1/jobs/{job.id}"
        queue = None if job.state in FINISHED else await self.store.queue(job)
        return schemas.Job(
            id=job.id,
            state=job.state.value,
            created_at=schemas.timestamp(job.created_at),
            filename=job.filename,
            options=job.asked,
            progress=job.progress,
            queue_position=queue and queue.position,
            eta_s=self._eta_s(job, queue),
            problem=job.problem,
            report=job.report,
            expires_at=self.expires_at(job),
            shared=f"{root_path}/s/{self._share_token(job, job.share_nonce)}" if job.share_nonce else None,
            webhook=await self._webhook(job) if job.webhook_url else None,
            links=schemas.Links.of(here),
        )

    async def _webhook(self, job: Job) -> schemas.WebhookState:
        told = await self.outbox.of(job.id) if job.state in FINISHED else None
        if told is None:
            return schemas.WebhookState(state="waiting", attempts=0, status=None, next_attempt_at=None)
        next_at = schemas.timestamp(told.not_before) if told.state == Delivery.PENDING else None
        return schemas.WebhookState(
            state=told.state.value, attempts=told.attempts, status=told.status, next_attempt_at=next_at
        )

    def view_shared(self, job: Job, token: str, root_path: str = "") -> schemas.SharedJob:
        return schemas.SharedJob(
            state=job.state.value,
            created_at=schemas.timestamp(job.created_at),
            filename=job.filename,
            progress=job.progress,
            report=job.report,
            expires_at=self.expires_at(job),
            links=schemas.ResultLinks.of(f"{root_path}/v1/shared/{token}"),
        )

    def expires_at(self, job: Job) -> str | None:
        ends = job.finished_at and job.state != State.EXPIRED
        return schemas.timestamp(job.finished_at + self.config.result_ttl_s) if ends else None

    def _eta_s(self, job: Job, queue: Queue | None) -> float | None:
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

    async def result(self, job: Job) -> Path:
        """The clip with its sound. Raises InputError not_ready or gone."""
        check_succeeded(job)
        with storage_told():
            try:
                return await self.blobs.get(job.id, result_name(job.attempt))
            except FileNotFoundError as exc:
                raise gone() from exc

    async def derived(self, job: Job, name: str) -> Path:
        """WAV, PEAKS, SPECTROGRAM or H264 of a result, made on first demand.

        Raises InputError not_ready, gone or no_copy.
        """
        check_succeeded(job)
        key = (job.id, name)
        try:
            async with self._deriving[key]:
                with storage_told():
                    try:
                        return await self.blobs.get(job.id, name)
                    except FileNotFoundError:
                        return await self._derive(job, name)
        finally:
            if not self._deriving[key].locked():
                self._deriving.pop(key, None)

    async def _derive(self, job: Job, name: str) -> Path:
        source = await (self.derived(job, WAV) if name in (PEAKS, SPECTROGRAM) else self.result(job))
        with self.blobs.scratch() as folder:
            target = folder / name
            make = {
                WAV: lambda: derive.write_wav(
                    source, job.container, job.report["duration_s"], job.report["sample_rate"], target
                ),
                PEAKS: lambda: derive.write_peaks(source, target),
                SPECTROGRAM: lambda: derive.write_spectrogram(source, target),
                H264: lambda: derive.write_h264(source, job.container, target),
            }[name]
            async with self._copier if name == H264 else self._derivers:
                await asyncio.to_thread(make)
            n_bytes = target.stat().st_size
            await self.blobs.put(job.id, name, target)
        await self.store.add_stored(job.id, n_bytes)
        if await self.store.get(job.id) is None:  # deleted in the meantime
            await self.blobs.delete(job.id)
            raise gone()
        return await self.blobs.get(job.id, name)


def check_succeeded(job: Job) -> None:
    """Raises InputError not_ready or gone."""
    if job.state == State.EXPIRED:
        raise InputError("The result has expired.", code="gone", hint="Send the clip again.")
    if job.state != State.SUCCEEDED:
        raise InputError(
            f"There is no result: the job is {job.state}.",
            code="not_ready",
            hint="Follow its events." if job.state not in FINISHED else "Send the clip again.",
        )


def gone() -> InputError:
    return InputError("The result is gone.", code="gone", hint="Send the clip again.")


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def etag_of(*parts: object) -> str:
    return '"' + hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32] + '"'


def root_path(request: Request) -> str:
    return request.scope.get("root_path", "")


def service_of(request: Request) -> Service:
    return request.app.state.service


async def _service_of(request: Request) -> Service:  # FastAPI sends what is not async through a thread
    return service_of(request)


ServiceOf = Annotated[Service, Depends(_service_of)]


async def count_upload(request: Request, response: Response, service: ServiceOf, caller: CallerOf) -> None:
    """Dependency of the routes that make jobs. Raises RateLimited."""
    address = request.client.host if request.client else ""
    response.headers.update(service.admission.rate(caller, address))


async def job_of(job_id: str, service: ServiceOf, caller: CallerOf) -> Job:
    return await service.find(job_id, caller)


JobOf = Annotated[Job, Depends(job_of)]
