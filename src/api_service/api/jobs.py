"""The worker that is embedded in the gateway: as many lanes as the model server has workers, and a sweeper.

It sends the model server only what it can work on at once; the queue is the table.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path

from api_service.api.blobs import RESULT, SWEEP_S, UPLOAD, Blobs, result_name
from api_service.api.database import DatabaseAway
from api_service.api.logs import job_id
from api_service.api.metrics import Metrics
from api_service.api.model_client import Generated, ModelClient
from api_service.api.store import Job, JobStore, State
from s2s.config import Settings
from s2s.errors import Canceled, InputError, ProcessingError, S2SError, UpstreamBusy, UpstreamError, UpstreamUnavailable
from s2s.events import Progress
from s2s.wire import Problem

log = logging.getLogger(__name__)

POLL_S = 0.5  # other processes' jobs are noticed by polling
PAUSE_S = (0.25, 2.0)  # a lane's first and longest pause while the model server cannot take a job
BACKOFF_S = (1.0, 4.0, 10.0)  # before the next attempt of a job whose worker was lost


class JobWorker:
    def __init__(self, store: JobStore, blobs: Blobs, models: ModelClient, config: Settings, metrics: Metrics):
        self.model_server = "unknown"  # ready, busy or unavailable, as its last answer told
        self._store, self._blobs, self._models, self._config = store, blobs, models, config
        self._metrics = metrics
        self._lanes: list[asyncio.Task] = []
        self._tasks: list[asyncio.Task] = []
        self._stopping = False

    def start(self) -> None:
        if self._config.cancel_dir:
            self._config.cancel_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lanes = [asyncio.create_task(self._lane()) for _ in range(self._config.model_workers)]
        self._tasks = [*self._lanes, asyncio.create_task(self._sweep())]

    async def stop(self) -> None:
        """No job is claimed any more; running ones get `drain_s` to finish. What still runs then goes back to the
        queue, which does not count as an attempt, and the model server is told to stop."""
        self._stopping = True
        self._store.signals.send("queue")
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=self._config.drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _lane(self) -> None:
        pause_s = PAUSE_S[0]
        while not self._stopping:
            try:
                if job := await self._next():
                    served = await self._work(job)
                    if not served:
                        await asyncio.sleep(pause_s)
                    pause_s = PAUSE_S[0] if served else min(PAUSE_S[1], 2 * pause_s)
            except asyncio.CancelledError:
                raise
            except Exception:  # the database is away, the disk is full: the lane outlives it
                log.exception("a lane stumbled")
                await asyncio.sleep(2.0)

    async def _next(self) -> Job | None:
        """A job that is now ours; None when the worker stops."""
        with self._store.signals.watch("queue") as waiting:
            while not self._stopping:
                waiting.clear()
                if job := await self._store.claim(self._config.lease_s):
                    return job
                with suppress(TimeoutError):
                    await asyncio.wait_for(waiting.wait(), POLL_S)
        return None

    async def _work(self, job: Job) -> bool:
        """One attempt under a lease. False when the model server could not take it now."""
        job_id.set(job.id)
        attempt = asyncio.create_task(self._attempt(job))
        guard = asyncio.create_task(self._guard(job, attempt))
        try:
            return await attempt
        except asyncio.CancelledError:
            self._ask_to_stop(job)
            if asyncio.current_task().cancelling():  # the gateway stops
                attempt.cancel()
                await asyncio.gather(attempt, return_exceptions=True)
                await asyncio.shield(self._store.release(job, 0.0, counts=False))
                raise
            return True  # the lease or the job is gone
        finally:
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)

    async def _attempt(self, job: Job) -> bool:
        async def tell(progress: Progress) -> None:
            with suppress(DatabaseAway):  # the work goes on; the next one is told again
                await self._store.progress(job, progress)

        log.info("job %s: attempt %d", job.id, job.attempt)
        started_s, name, outcome = time.monotonic(), result_name(job.attempt), "no longer ours"
        kept: bool | None = False  # None: nobody knows yet
        try:
            with self._blobs.scratch() as folder:
                result = await self._models.generate(
                    await self._upload(job),
                    folder / "out",
                    request_id=_request_id(job),
                    wishes=job.asked,
                    on_progress=tell,
                )
                self.model_server = "ready"
                await self._blobs.put(job.id, name, folder / "out")
            kept = None
            kept = await self._succeed(job, result)
            outcome = State.SUCCEEDED if kept else outcome
        except InputError as exc:
            outcome = exc.code
            await self._store.fail(job, Problem.from_error(exc, job.id))
        except Canceled:
            outcome = State.CANCELED
            await self._store.canceled(job)
        except (UpstreamBusy, UpstreamUnavailable) as exc:
            outcome = self.model_server = "busy" if isinstance(exc, UpstreamBusy) else "unavailable"
            await self._store.release(job, 0.0, counts=False)
            return False
        except (UpstreamError, ProcessingError) as exc:
            outcome = exc.code
            await self._again(job, exc)
        except OSError as exc:  # the disk is full, the object store is away: ours, not the clip's
            log.exception("job %s: attempt %d could not read or keep a file", job.id, job.attempt)
            outcome = "storage"
            await self._again(job, ProcessingError(f"Its files could not be read or kept: {exc}"))
        finally:
            self._metrics.attempts.labels(str(outcome)).inc()  # also when the guard was quicker than we are here
            if kept is False:
                await self._discard(job, name)
        if kept:
            self._metrics.run_seconds.observe(time.monotonic() - started_s)
        log.info("job %s: %s after %.1f s", job.id, outcome, time.monotonic() - started_s)
        return True

    async def _succeed(self, job: Job, result: Generated) -> bool:
        """Records it, also where the database is away for a while: the work is done, and the lease still runs."""
        patience_s = time.monotonic() + self._config.lease_s
        while True:
            try:
                if await self._store.succeed(job, result):
                    return True
                now = await self._store.get(job.id)  # a write whose answer was lost may have been made all the same
                return now is not None and (now.state, now.attempt) == (State.SUCCEEDED, job.attempt)
            except DatabaseAway:
                if time.monotonic() > patience_s:
                    raise
                await asyncio.sleep(POLL_S)

    async def _upload(self, job: Job) -> Path:
        try:
            return await self._blobs.get(job.id, UPLOAD)
        except FileNotFoundError as exc:  # deleted; where the row is still there, it says so
            raise InputError("The upload is gone.", code="gone", hint="Send the clip again.") from exc

    async def _discard(self, job: Job, name: str) -> None:
        """A result that nobody recorded; the whole job's files where the job itself is gone."""
        await self._blobs.discard(job.id, name)
        if await self._store.get(job.id) is None:
            await self._blobs.delete(job.id)

    async def _again(self, job: Job, exc: S2SError) -> None:
        """A lost worker or a failure of ours: another try, until it is the clip that we must suspect."""
        log.warning("job %s: attempt %d failed: %s", job.id, job.attempt, exc)
        if job.failures + 1 < self._config.max_attempts:
            await self._store.release(job, BACKOFF_S[min(job.failures, len(BACKOFF_S) - 1)], counts=True)
        else:
            await self._store.fail(job, Problem.from_error(exc, job.id))

    async def _guard(self, job: Job, attempt: asyncio.Task) -> None:
        """Keeps the lease. A wish to cancel is fulfilled for the user at once; the lane stays taken until the model
        server has answered. Without a lease the attempt is stopped: somebody else may be at it."""
        renewed_s = time.monotonic()
        with self._store.signals.watch(f"stop:{job.id}") as stop:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._config.lease_s / 3)
                stop.clear()
                try:
                    state = await self._store.heartbeat(job, self._config.lease_s)
                    renewed_s = time.monotonic()
                except Exception:
                    log.exception("job %s: no heartbeat", job.id)
                    if time.monotonic() - renewed_s < self._config.lease_s:
                        continue
                    state = None
                if state == State.CANCELING:
                    self._ask_to_stop(job)
                    await self._store.canceled(job)
                    return
                if state is None:
                    self._ask_to_stop(job)
                    attempt.cancel()
                    return

    def _ask_to_stop(self, job: Job) -> None:
        if self._config.cancel_dir:
            (self._config.cancel_dir / _request_id(job)).touch()

    async def _sweep(self) -> None:
        """Takes over jobs of vanished workers; expires results; removes blobs and flags that belong to nobody."""
        swept_s = 0.0
        while True:
            try:
                for job in await self._store.lost(self._config.lease_s):
                    log.warning("job %s: its worker vanished", job.id)
                    self._metrics.lease_losses.inc()
                    self._ask_to_stop(job)  # its attempt may still keep the model server busy
                    if job.state == State.CANCELING:
                        await self._store.canceled(job)
                    else:
                        await self._again(job, UpstreamError("The worker vanished.", code="worker_lost"))
                if not swept_s or time.monotonic() - swept_s > min(SWEEP_S, self._config.orphan_s):
                    swept_s = time.monotonic()
                    await self._store.expire(self._config.result_ttl_s)
                    await self._remove_blobs()
            except Exception:
                log.exception("the sweeper stumbled")
            await asyncio.sleep(min(5.0, self._config.lease_s / 3))

    async def _remove_blobs(self) -> None:
        """Those of expired jobs, and what belongs to nobody. What cannot be deleted is met again by the next sweep."""
        ages_s, orphan_s = await self._blobs.ages_s(), self._config.orphan_s
        known = await self._store.attempts(set(ages_s))
        for owner, names in ages_s.items():
            state, result = known.get(owner, (None, None))
            if state is None:  # an upload that is still coming in has no row yet
                if min(names.values(), default=0.0) > orphan_s:
                    await self._blobs.delete(owner)
            elif state == State.EXPIRED:
                await self._blobs.delete(owner)
            else:  # results of attempts that lost their lease before they could be recorded
                for name in names:
                    if name.startswith(RESULT) and name != result and names[name] > orphan_s:
                        await self._blobs.discard(owner, name)
        for flag in _files(self._config.cancel_dir):
            with suppress(FileNotFoundError):
                if time.time() - flag.stat().st_mtime > orphan_s:
                    flag.unlink()


def _request_id(job: Job) -> str:
    return f"{job.id}.{job.attempt}"


def _files(folder: Path | None) -> list[Path]:
    return list(folder.iterdir()) if folder and folder.is_dir() else []
