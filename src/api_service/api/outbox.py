"""What is to be told to the addresses that jobs have named, in a table: written with a job's outcome or not at all.

Like jobs, deliveries are leased and fenced: `attempts` grows with every claim, and who settles one says at which
attempt. Execution is at least once, so a receiver may hear twice; the id is the same then. A job that is deleted takes
its delivery with it: nobody is told of what is no longer there.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, update

from api_service.api import schemas
from api_service.api.database import NOW, Database, jobs, webhooks, whole
from s2s.wire import Problem

SIGNAL = "webhooks"
CLOCK_S = 60.0  # the database's clock was put back when a lease lies further ahead than it can
LONGEST_PAUSE_S = 21_600.0


class Delivery(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # tried too often or for too long
    GONE = "gone"  # the receiver said so (410)


@dataclass(frozen=True)
class Message:
    """One attempt at a delivery, leased to who holds it."""

    id: str
    job_id: str
    owner: str
    url: str = field(repr=False)
    payload: str = field(repr=False)
    attempts: int
    age_s: float  # since the job ended, by the database's clock


@dataclass(frozen=True)
class Told:
    """How a job's delivery stands."""

    state: Delivery
    attempts: int
    status: int | None
    not_before: float


OUTCOME = select(jobs).where(jobs.c.id == bindparam("job_id"))


def put(db: Connection, job_id: str) -> None:
    """To be called in the transaction that ends a job. Nothing where the job has named no address."""
    job = db.execute(OUTCOME, {"job_id": job_id}).one()
    if job.webhook_url is None:
        return
    payload = schemas.JobWebhook(
        type=f"job.{job.state}",
        timestamp=schemas.timestamp(job.finished_at),
        data=schemas.JobEnded(
            id=job.id,
            state=job.state,
            created_at=schemas.timestamp(job.created_at),
            finished_at=schemas.timestamp(job.finished_at),
            problem=job.problem and Problem(**job.problem),
            links=schemas.EndedLinks(self=f"/v1/jobs/{job.id}", result=f"/v1/jobs/{job.id}/result"),
        ),
    )
    message = {"id": f"msg_{secrets.token_hex(16)}", "job_id": job_id, "state": Delivery.PENDING}
    message |= {"payload": payload.model_dump_json(), "created_at": NOW, "not_before": NOW}
    db.execute(insert(webhooks).values(message))


@whole
class Outbox:
    def __init__(self, database: Database):
        self._read, self._write = database.read, database.write

    async def of(self, job_id: str) -> Told | None:
        columns = (webhooks.c.state, webhooks.c.attempts, webhooks.c.status, webhooks.c.not_before)
        query = select(*columns).where(webhooks.c.job_id == job_id)
        row = await self._read(lambda db: db.execute(query).one_or_none())
        return row and Told(Delivery(row.state), row.attempts, row.status, row.not_before)

    async def claim(self, lease_s: float, most_of_one: int) -> Message | None:
        """The delivery that is due longest, now leased to the caller. An owner who already has `most_of_one` on their
        way waits for one of them: slow receivers of one do not hold up those of others."""
        latest = NOW + lease_s + CLOCK_S
        free = or_(webhooks.c.lease_until.is_(None), webhooks.c.lease_until < NOW, webhooks.c.lease_until > latest)
        due = or_(webhooks.c.not_before <= NOW, webhooks.c.not_before > NOW + 2 * LONGEST_PAUSE_S)
        busy_jobs, busy = jobs.alias(), webhooks.alias()
        on_their_way = (
            select(func.count())
            .select_from(busy.join(busy_jobs, busy_jobs.c.id == busy.c.job_id))
            .where(busy.c.state == Delivery.PENDING, busy.c.lease_until.between(NOW, latest))
            .where(busy_jobs.c.owner == jobs.c.owner)
            .scalar_subquery()
        )
        oldest = (
            select(webhooks.c.id)
            .join(jobs, jobs.c.id == webhooks.c.job_id)
            .where(webhooks.c.state == Delivery.PENDING, free, due, on_their_way < most_of_one)
            .order_by(webhooks.c.not_before)
            .limit(1)
            .with_for_update(of=webhooks, skip_locked=True)
        )
        values = {"attempts": webhooks.c.attempts + 1, "lease_until": NOW + lease_s}
        claimed = update(webhooks).where(webhooks.c.id == oldest.scalar_subquery()).values(values)
        claimed = claimed.returning(webhooks, NOW.label("now"))

        def take(db: Connection) -> Message | None:
            if (row := db.execute(claimed).one_or_none()) is None:
                return None
            job = db.execute(OUTCOME, {"job_id": row.job_id}).one()
            return Message(
                id=row.id,
                job_id=row.job_id,
                owner=job.owner,
                url=job.webhook_url,
                payload=row.payload,
                attempts=row.attempts,
                age_s=row.now - row.created_at,
            )

        return await self._write(take)

    async def settle(self, message: Message, state: Delivery, status: int | None, again_in_s: float = 0.0) -> bool:
        """Records how an attempt ended. False when the delivery is no longer the caller's. `gone` ends all that the
        same owner still has for the same address."""
        ours = and_(
            webhooks.c.id == message.id,
            webhooks.c.attempts == message.attempts,
            webhooks.c.state == Delivery.PENDING,
        )
        values = {"state": state, "status": status, "not_before": NOW + again_in_s, "lease_until": None}
        settled = update(webhooks).where(ours).values(values).returning(webhooks.c.id)
        same = select(jobs.c.id).where(jobs.c.owner == message.owner, jobs.c.webhook_url == message.url)
        others = update(webhooks).where(webhooks.c.state == Delivery.PENDING, webhooks.c.job_id.in_(same))

        def change(db: Connection) -> bool:
            found = db.scalar(settled) is not None
            if found and state == Delivery.GONE:
                db.execute(others.values(state=Delivery.GONE))
            return found

        return await self._write(change)

    async def oldest_s(self) -> float:
        """How long the oldest that is not delivered has waited, seconds; 0 when there is none."""
        oldest = func.coalesce(NOW - func.min(webhooks.c.created_at), 0.0)
        query = select(oldest).where(webhooks.c.state == Delivery.PENDING)
        return float(await self._read(lambda db: db.scalar(query)))
