"""Jobs in one table, leased and fenced. The row is the resource that the API shows.

 * A job is claimed in one statement. `attempt` grows with every claim and is the fencing token: every later write of a
   worker says "this id, this attempt, still running"; no row means that the job was taken over, canceled or deleted.
 * Only the database's clock counts. A running job whose lease has run out is taken over.
 * An event gets the job's next `seq` in the transaction that changes the row, so a replay can neither skip nor double.

At-least-once execution, exactly-once recorded outcome, by the same statements on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Connection,
    Float,
    Select,
    String,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from api_service.api import outbox
from api_service.api.blobs import JOB_ID, result_name
from api_service.api.database import NOW, Database, job_events, jobs, whole
from api_service.api.model_client import Generated
from s2s.events import Progress
from s2s.wire import Problem, Wishes


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELING = "canceling"
    CANCELED = "canceled"
    EXPIRED = "expired"


FINISHED = {State.SUCCEEDED, State.FAILED, State.CANCELED, State.EXPIRED}
CLOCK_S = 60.0  # what lies further ahead was written before the clock was put back; no back-off is so long
ACTIVE = {State.RUNNING, State.CANCELING}


@dataclass(frozen=True)
class Job:
    id: str
    owner: str
    state: State
    attempt: int
    failures: int
    seq: int
    filename: str
    idempotency_key: str | None
    wishes: dict
    created_at: float
    not_before: float
    lease_until: float | None
    started_at: float | None
    finished_at: float | None
    progress: dict | None
    problem: dict | None
    report: dict | None
    container: str | None
    result_bytes: int | None
    result_sha256: str | None
    stored_bytes: int
    share_nonce: str | None
    share_hash: str | None
    webhook_url: str | None = field(repr=False)

    @property
    def asked(self) -> Wishes:
        return Wishes.model_validate(self.wishes)

    @classmethod
    def from_row(cls, row: Any) -> Job:
        return cls(**{**row._mapping, "state": State(row.state)})


@dataclass(frozen=True)
class JobEvent:
    seq: int
    event: str
    data: dict | None


@dataclass(frozen=True)
class Queue:
    """Where a job stands. `mean_s`: mean run time of the last jobs that succeeded, None before the first."""

    position: int | None  # 1 is next; None when the job does not wait
    running: int
    mean_s: float | None


def batched(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class Signals:
    """Wakes waiters: of this process at once, of others by `pass_on`; whom that does not reach polls."""

    def __init__(self, pass_on: Callable[[tuple[str, ...]], None]) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._pass_on = pass_on

    def send(self, *keys: str) -> None:
        for key in keys:
            self.wake(key)
        self._pass_on(keys)

    def wake(self, key: str | None) -> None:
        """None: everybody."""
        for waiters in list(self._waiting.values()) if key is None else [self._waiting.get(key, ())]:
            for waiter in waiters:
                waiter.set()

    @contextmanager
    def watch(self, key: str) -> Iterator[asyncio.Event]:
        waiter = asyncio.Event()
        self._waiting[key].add(waiter)
        try:
            yield waiter
        finally:
            self._waiting[key].discard(waiter)
            if not self._waiting[key]:
                del self._waiting[key]


def _standing() -> Select:
    """One row: place in the queue of the job with :created_at and :job_id, how many run, mean run time of the last."""
    at, job_id = bindparam("created_at", type_=Float), bindparam("job_id", type_=String)
    ahead = select(1 + func.count()).where(
        jobs.c.state == State.QUEUED,
        or_(jobs.c.created_at < at, and_(jobs.c.created_at == at, jobs.c.id < job_id)),
    )
    running = select(func.count()).where(jobs.c.state.in_(ACTIVE))
    took_s = (jobs.c.finished_at - jobs.c.started_at).label("took_s")
    succeeded = select(took_s).where(jobs.c.state == State.SUCCEEDED)
    recent = succeeded.order_by(jobs.c.created_at.desc()).limit(20).subquery()  # an index knows these
    mean_s = select(func.avg(recent.c.took_s))
    return select(ahead.scalar_subquery(), running.scalar_subquery(), mean_s.scalar_subquery())


# What is read with every request is built once: to put a statement together takes longer than to execute it.
BY_ID, BY_KEY, BY_SHARE = (
    select(jobs).where(column == bindparam("wanted"))
    for column in (jobs.c.id, jobs.c.idempotency_key, jobs.c.share_hash)
)
STANDING = _standing()
QUOTA_LOCK = 0x533254  # of PostgreSQL's advisory locks: one job at a time is counted and comes in
WAITING = select(func.count()).where(jobs.c.state == State.QUEUED)
WAITING_OF = WAITING.where(jobs.c.owner == bindparam("owner"))
STORED = select(func.coalesce(func.sum(jobs.c.stored_bytes), 0))
EVENTS_AFTER = (
    select(job_events.c.seq, job_events.c.event, job_events.c.data)
    .where(job_events.c.job_id == bindparam("job_id"), job_events.c.seq > bindparam("seen"))
    .order_by(job_events.c.seq)
)


@whole
class JobStore:
    """`signals` keys: a job's id (something changed), "stop:<id>" (its work should stop), "queue" (a job waits),
    outbox.SIGNAL (a job with a webhook ended)."""

    def __init__(self, database: Database):
        self.signals = Signals(database.notify)
        self._read, self._write = database.read, database.write

    # What people do

    async def create(
        self,
        job_id: str,
        *,
        owner: str,
        filename: str,
        wishes: Wishes,
        stored_bytes: int,
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
        fits: Callable[[int, int, int], None] = lambda waiting, of_owner, stored_bytes: None,
    ) -> Job:
        """A waiting job; or the earlier one, under its own id, that was made with the same `idempotency_key`.

        `fits` is told what there is without it, and may raise; nobody else's job comes in between.
        """
        values = {
            "id": job_id,
            "owner": owner,
            "state": State.QUEUED,
            "filename": filename,
            "wishes": wishes.model_dump(mode="json", exclude_defaults=True),
            "stored_bytes": stored_bytes,
            "idempotency_key": idempotency_key,
            "webhook_url": webhook_url,
            "created_at": NOW,
            "not_before": NOW,
        }
        made = insert(jobs).values(values).returning(jobs)

        def add(db: Connection) -> Any:
            if db.dialect.name == "postgresql":  # SQLite has one writer anyway
                db.execute(select(func.pg_advisory_xact_lock(QUOTA_LOCK)))
            row = db.execute(made).one()
            of_owner = db.scalar(WAITING_OF, {"owner": owner})
            fits(db.scalar(WAITING) - 1, of_owner - 1, int(db.scalar(STORED)) - stored_bytes)
            return row

        try:
            row = await self._write(add)
        except IntegrityError:
            if idempotency_key is None or (earlier := await self.by_key(idempotency_key)) is None:
                raise
            return earlier
        self.signals.send("queue")
        return Job.from_row(row)

    async def get(self, job_id: str) -> Job | None:
        """None also for what is no id: people write it, and not every database takes every character."""
        return await self._one(BY_ID, job_id) if JOB_ID.fullmatch(job_id) else None

    async def by_key(self, idempotency_key: str) -> Job | None:
        return await self._one(BY_KEY, idempotency_key)

    async def by_share(self, share_hash: str) -> Job | None:
        return await self._one(BY_SHARE, share_hash)

    async def page(self, owner: str, state: State | None, before: tuple[float, str] | None, limit: int) -> list[Job]:
        """An owner's jobs, newest first, that are older than the job with this (created_at, id)."""
        wanted = [jobs.c.owner == owner]
        if state:
            wanted.append(jobs.c.state == state)
        if before:
            at, job_id = before
            wanted.append(or_(jobs.c.created_at < at, and_(jobs.c.created_at == at, jobs.c.id < job_id)))
        query = select(jobs).where(*wanted).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        return await self._read(lambda db: [Job.from_row(row) for row in db.execute(query)])

    async def share(self, job_id: str, nonce: str, share_hash: str) -> Job | None:
        """Sets what a link to share is found by, unless there is a link. The job as it then is, None if it is gone."""
        unshared = and_(jobs.c.id == job_id, jobs.c.share_nonce.is_(None))
        set_once = update(jobs).where(unshared).values(share_nonce=nonce, share_hash=share_hash).returning(jobs)
        row = await self._write(lambda db: db.execute(set_once).one_or_none())
        return await self.get(job_id) if row is None else Job.from_row(row)

    async def unshare(self, job_id: str) -> None:
        values = {"share_nonce": None, "share_hash": None}
        await self._write(lambda db: db.execute(update(jobs).where(jobs.c.id == job_id).values(values)))

    async def add_stored(self, job_id: str, n_bytes: int) -> None:
        more = {"stored_bytes": jobs.c.stored_bytes + n_bytes}
        await self._write(lambda db: db.execute(update(jobs).where(jobs.c.id == job_id).values(more)))

    async def _one(self, query: Select, wanted: str) -> Job | None:
        row = await self._read(lambda db: db.execute(query, {"wanted": wanted}).one_or_none())
        return None if row is None else Job.from_row(row)

    async def cancel(self, job_id: str) -> Job | None:
        """A waiting job is canceled at once; a running one is asked to stop; a finished one stays as it is."""

        def change(db: Connection) -> None:
            if seq := _change(db, job_id, jobs.c.state == State.QUEUED, state=State.CANCELED, finished_at=NOW):
                _tell(db, job_id, seq, State.CANCELED)
                outbox.put(db, job_id)
            else:
                _change(db, job_id, jobs.c.state == State.RUNNING, state=State.CANCELING)

        await self._write(change)
        self.signals.send(job_id, f"stop:{job_id}", outbox.SIGNAL)
        return await self.get(job_id)

    async def delete(self, job_id: str) -> bool:
        """Row and events; a worker on it loses its fence. The caller deletes the blobs."""
        removal = delete(jobs).where(jobs.c.id == job_id).returning(jobs.c.id)
        found = await self._write(lambda db: db.scalar(removal)) is not None
        self.signals.send(job_id, f"stop:{job_id}")
        return found

    async def queue(self, job: Job) -> Queue:
        asked = {"created_at": job.created_at, "job_id": job.id}
        position, running, mean_s = await self._read(lambda db: db.execute(STANDING, asked).one())
        return Queue(position if job.state == State.QUEUED else None, running, mean_s)

    async def waiting(self, owner: str | None = None) -> int:
        """How many jobs wait, of an owner or of all."""
        query = WAITING if owner is None else WAITING_OF
        return await self._read(lambda db: db.scalar(query, {"owner": owner}))

    async def stored_bytes(self) -> int:
        return int(await self._read(lambda db: db.scalar(STORED)))

    async def census(self) -> tuple[dict[str, int], float]:
        """State -> number of jobs; seconds that the oldest waiting job has waited, 0 when none does."""
        oldest = select(func.coalesce(NOW - func.min(jobs.c.created_at), 0.0)).where(jobs.c.state == State.QUEUED)

        def look(db: Connection) -> tuple[dict[str, int], float]:
            rows = db.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
            return {state: count for state, count in rows}, float(db.scalar(oldest))

        return await self._read(look)

    async def events_after(self, job_id: str, seq: int) -> list[JobEvent]:
        asked = {"job_id": job_id, "seen": seq}
        return await self._read(lambda db: [JobEvent(*row) for row in db.execute(EVENTS_AFTER, asked)])

    # What workers do

    async def claim(self, lease_s: float) -> Job | None:
        """The oldest job that may run, now leased to the caller with a new attempt."""
        now = or_(jobs.c.not_before <= NOW, jobs.c.not_before > NOW + CLOCK_S)
        due = select(jobs.c.id).where(jobs.c.state == State.QUEUED, now)
        oldest = due.order_by(jobs.c.created_at, jobs.c.id).limit(1).with_for_update(skip_locked=True)
        values = {
            "state": State.RUNNING,
            "attempt": jobs.c.attempt + 1,
            "lease_until": NOW + lease_s,
            "started_at": NOW,
        }
        claimed = update(jobs).where(jobs.c.id == oldest.scalar_subquery()).values(values).returning(jobs)
        row = await self._write(lambda db: db.execute(claimed).one_or_none())
        if row is None:
            return None
        self.signals.send(row.id)
        return Job.from_row(row)

    async def heartbeat(self, job: Job, lease_s: float) -> State | None:
        """Renews the lease. Returns the state (running or canceling), None when the job is no longer the caller's."""
        ours = and_(jobs.c.id == job.id, jobs.c.attempt == job.attempt, jobs.c.state.in_(ACTIVE))
        renewed = update(jobs).where(ours).values(lease_until=NOW + lease_s).returning(jobs.c.state)
        state = await self._write(lambda db: db.scalar(renewed))
        return state and State(state)

    async def progress(self, job: Job, progress: Progress) -> bool:
        return await self._record(job, "progress", progress.to_dict(), progress=progress.to_dict())

    async def succeed(self, job: Job, result: Generated) -> bool:
        return await self._record(
            job,
            State.SUCCEEDED,
            None,
            state=State.SUCCEEDED,
            finished_at=NOW,
            lease_until=None,
            report=result.report,
            container=result.container,
            result_bytes=result.n_bytes,
            result_sha256=result.sha256,
            stored_bytes=jobs.c.stored_bytes + result.n_bytes,
        )

    async def fail(self, job: Job, problem: Problem) -> bool:
        return await self._record(
            job,
            State.FAILED,
            None,
            state=State.FAILED,
            finished_at=NOW,
            lease_until=None,
            problem=problem.model_dump(exclude_none=True),
            failures=jobs.c.failures + 1,
        )

    async def canceled(self, job: Job) -> bool:
        """The user's wish is fulfilled, whether or not the model server has noticed yet."""
        return await self._record(
            job, State.CANCELED, None, State.CANCELING, state=State.CANCELED, finished_at=NOW, lease_until=None
        )

    async def release(self, job: Job, delay_s: float, *, counts: bool) -> bool:
        """Back to the queue, at its old place. `counts`: the attempt was the job's (a lost worker), not ours."""
        values = {
            "state": State.QUEUED,
            "not_before": NOW + delay_s,
            "lease_until": None,
            "progress": None,
            "failures": jobs.c.failures + int(counts),
        }
        ours = and_(jobs.c.attempt == job.attempt, jobs.c.state == State.RUNNING)
        seq = await self._write(lambda db: _change(db, job.id, ours, **values))
        self.signals.send(job.id, "queue")
        return seq is not None

    async def lost(self, lease_s: float) -> list[Job]:
        """Running jobs whose lease has run out, or lasts longer than any: the clock was put back."""
        over = or_(jobs.c.lease_until < NOW, jobs.c.lease_until > NOW + lease_s + CLOCK_S)
        query = select(jobs).where(jobs.c.state.in_(ACTIVE), over)
        return await self._read(lambda db: [Job.from_row(row) for row in db.execute(query)])

    async def expire(self, ttl_s: float) -> list[str]:
        """Finished jobs older than `ttl_s` become expired; after the same time again the rows go too. Returns the
        ids whose blobs can go."""
        old = and_(jobs.c.state.in_(FINISHED - {State.EXPIRED}), jobs.c.finished_at < NOW - ttl_s)
        values = {"state": State.EXPIRED, "stored_bytes": 0, "share_nonce": None, "share_hash": None}
        older = and_(jobs.c.state == State.EXPIRED, jobs.c.finished_at < NOW - 2 * ttl_s)

        def change(db: Connection) -> list[str]:
            ids = list(db.scalars(update(jobs).where(old).values(values).returning(jobs.c.id)))
            db.execute(delete(jobs).where(older))
            return ids

        return await self._write(change)

    async def have_files(self, ids: set[str]) -> set[str]:
        """Those of the ids that are jobs and have not expired."""
        return {job_id for job_id, (state, _) in (await self.attempts(ids)).items() if state != State.EXPIRED}

    async def attempts(self, ids: set[str]) -> dict[str, tuple[State, str | None]]:
        """Those of the ids that are jobs -> their state, and the name of the result that they have or may get."""

        def look(db: Connection) -> dict[str, tuple[State, str | None]]:
            found = {}
            for some in batched(sorted(ids), 500):
                query = select(jobs.c.id, jobs.c.state, jobs.c.attempt).where(jobs.c.id.in_(some))
                for row in db.execute(query):
                    wanted = row.state in ACTIVE | {State.SUCCEEDED}
                    found[row.id] = State(row.state), result_name(row.attempt) if wanted else None
            return found

        return await self._read(look)

    async def _record(self, job: Job, name: str, data: dict | None, was: State = State.RUNNING, **values: Any) -> bool:
        fence = and_(jobs.c.attempt == job.attempt, jobs.c.state == was)
        ends = values.get("state") in FINISHED

        def change(db: Connection) -> bool:
            if seq := _change(db, job.id, fence, **values):
                _tell(db, job.id, seq, name, data)
                if ends:
                    outbox.put(db, job.id)
            return seq is not None

        recorded = await self._write(change)
        self.signals.send(job.id, *[outbox.SIGNAL] * ends)
        return recorded


def _change(db: Connection, job_id: str, condition: Any, **values: Any) -> int | None:
    """Updates the row and takes the next event number under its lock; None when the condition does not hold."""
    values["seq"] = jobs.c.seq + 1
    return db.scalar(update(jobs).where(jobs.c.id == job_id, condition).values(values).returning(jobs.c.seq))


def _tell(db: Connection, job_id: str, seq: int, name: str, data: dict | None = None) -> None:
    db.execute(insert(job_events).values(job_id=job_id, seq=seq, event=name, data=data))
