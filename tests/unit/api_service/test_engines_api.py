"""The same promises on every database and every blob store: SQLite and PostgreSQL, plain files and an object store."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator

import pytest
from gateway_kit import events, finished, key_for, running, send
from sqlalchemy import Connection
from sqlalchemy.exc import TimeoutError as PoolUsedUp
from tests.postgres import running_postgres
from tests.receiver import Receiver

from api_service.api.blobs import ObjectBlobs
from api_service.api.database import SETUP_LOCK, Database, DatabaseAway
from api_service.api.outbox import Delivery, Outbox
from api_service.api.store import Job, JobStore, State
from s2s.config import Settings
from s2s.errors import ArtifactError, UpstreamError
from s2s.events import Progress, Stage
from s2s.wire import Problem, Wishes

PROBLEM = Problem(type="t", title="t", status=502, detail="d", code="worker_lost")


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def shared(request, config) -> AsyncIterator[Settings]:
    """Settings of a replica; each test finds an empty table."""
    if request.param == "sqlite":
        yield config
        return
    server = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex[:12]}"
    admin = Database(f"postgresql+asyncpg://s2s@127.0.0.1:{server.port}/postgres")
    await admin.read(lambda db: db.exec_driver_sql(f"CREATE DATABASE {name}"))  # not in a transaction
    await admin.close()
    url = server.url.replace("/postgres", f"/{name}")
    yield config.model_copy(update={"database_url": url, "secret_key": Settings(secret_key="k" * 32).secret_key})


@pytest.fixture
async def database(shared) -> AsyncIterator[Database]:
    database = Database.of(shared)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
def store(database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def outbox(database) -> Outbox:
    return Outbox(database)


async def waiting(store: JobStore, **values) -> Job:
    values = {"owner": "", "filename": "a", "wishes": Wishes(), "stored_bytes": 1} | values
    return await store.create(str(uuid.uuid4()), **values)


async def test_a_job_is_claimed_by_one_worker_only(store):
    sent = {(await waiting(store)).id for _ in range(12)}
    claimed = await asyncio.gather(*(store.claim(30) for _ in range(20)))
    ids = [job.id for job in claimed if job]
    assert sorted(ids) == sorted(sent)


async def test_the_oldest_job_comes_first_and_one_that_backs_off_waits(store):
    first = await waiting(store)
    await asyncio.sleep(0.01)  # SQLite's clock counts milliseconds
    second = await waiting(store)
    job = await store.claim(30)
    assert job.id == first.id
    await store.release(job, 30.0, counts=True)
    assert (await store.claim(30)).id == second.id
    assert await store.claim(30) is None


async def test_a_worker_that_lost_its_lease_changes_nothing(store):
    await waiting(store)
    old = await store.claim(0.01)
    await asyncio.sleep(0.05)
    assert [job.id for job in await store.lost(30)] == [old.id]
    assert await store.release(old, 0.0, counts=True)
    new = await store.claim(30)
    assert (new.id, new.attempt, new.failures) == (old.id, old.attempt + 1, 1)
    assert await store.heartbeat(old, 30) is None
    assert not await store.progress(old, Progress(Stage.MEL, 1, 2))
    assert not await store.fail(old, PROBLEM)
    assert not await store.release(old, 0.0, counts=False)
    assert await store.heartbeat(new, 30) == State.RUNNING
    assert await store.fail(new, PROBLEM)
    assert not await store.fail(new, PROBLEM), "one outcome is recorded, once"
    assert [told.event for told in await store.events_after(new.id, 0)] == ["failed"]


async def test_events_written_at_once_have_numbers_without_gaps(store):
    await waiting(store)
    job = await store.claim(30)
    await asyncio.gather(*(store.progress(job, Progress(Stage.MEL, n, 20)) for n in range(20)))
    told = await store.events_after(job.id, 0)
    numbers = [event.seq for event in told]
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    assert (await store.get(job.id)).seq == numbers[-1]


async def test_the_same_key_at_once_makes_one_job(store):
    made = await asyncio.gather(*(waiting(store, idempotency_key="once") for _ in range(8)))
    assert len({job.id for job in made}) == 1


async def test_a_burst_at_once_stays_within_the_quota(store):
    def fits(waiting: int, of_owner: int, stored_bytes: int) -> None:
        if of_owner >= 3 or waiting >= 5:
            raise UpstreamError("Too many.", code="queue_full")

    sent = [waiting(store, owner=owner, fits=fits) for owner in "aaaaaabbbbbb"]
    made = await asyncio.gather(*sent, return_exceptions=True)
    jobs = [job for job in made if isinstance(job, Job)]
    assert all(isinstance(each, Job | UpstreamError) for each in made)
    assert len(jobs) == await store.waiting() == 5
    assert max(sum(job.owner == owner for job in jobs) for owner in "ab") == 3


async def test_links_asked_for_at_once_are_one_link_until_it_is_revoked(store):
    job = await waiting(store)
    asked = {name * 32: name * 64 for name in "abcdef"}
    shared = await asyncio.gather(*(store.share(job.id, *made) for made in asked.items()))
    assert len({(found.share_nonce, found.share_hash) for found in shared}) == 1
    assert asked[shared[0].share_nonce] == shared[0].share_hash
    assert (await store.by_share(shared[0].share_hash)).id == job.id
    await store.unshare(job.id)
    assert await store.by_share(shared[0].share_hash) is None
    assert (await store.share(job.id, "g" * 32, "g" * 64)).share_nonce == "g" * 32
    await store.delete(job.id)
    assert await store.share(job.id, "h" * 32, "h" * 64) is None


async def test_a_job_that_is_canceled_or_deleted_tells_its_worker(store):
    await waiting(store)
    await waiting(store)
    first, second = await store.claim(30), await store.claim(30)
    await store.cancel(first.id)
    assert await store.heartbeat(first, 30) == State.CANCELING
    assert await store.canceled(first)
    await store.delete(second.id)
    assert await store.heartbeat(second, 30) is None


LONG_AGO = "UPDATE jobs SET finished_at = finished_at - 5400"


async def test_finished_jobs_expire_and_then_go(store, database):
    await waiting(store)
    job = await store.claim(30)
    await store.fail(job, PROBLEM)
    assert await store.expire(3600) == []
    await database.write(lambda db: db.exec_driver_sql(LONG_AGO))
    assert await store.expire(3600) == [job.id]
    assert (await store.get(job.id)).state == State.EXPIRED
    await database.write(lambda db: db.exec_driver_sql(LONG_AGO))
    await store.expire(3600)
    assert await store.get(job.id) is None


async def test_work_that_is_canceled_leaves_no_lock_behind(store):
    """A connection that was dropped in the middle of a transaction would keep SQLite locked."""
    for pause_s in (0.0, 0.0005, 0.001, 0.002, 0.004):
        for _ in range(5):
            task = asyncio.create_task(waiting(store))
            await asyncio.sleep(pause_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        await waiting(store)


async def ended(store: JobStore, **values) -> Job:
    """A job with somebody to be told, canceled while it waited."""
    return await store.cancel((await waiting(store, **{"webhook_url": "https://example.org/"} | values)).id)


async def test_an_outcome_and_its_delivery_are_recorded_together_or_not_at_all(store, outbox, database, monkeypatch):
    job = await waiting(store, webhook_url="https://example.org/")
    stale = await store.claim(0.01)
    assert await outbox.of(job.id) is None
    await asyncio.sleep(0.05)
    await store.release(stale, 0.0, counts=True)
    running_job = await store.claim(30)
    assert not await store.fail(stale, PROBLEM)
    assert await outbox.of(job.id) is None, "who lost the lease tells nobody"

    def no_room(db: Connection, job_id: str) -> None:
        raise OSError("the outbox is full")

    with monkeypatch.context() as patch:
        patch.setattr("api_service.api.outbox.put", no_room)
        with pytest.raises((OSError, DatabaseAway)):
            await store.fail(running_job, PROBLEM)
    assert (await store.get(job.id)).state == State.RUNNING
    assert await store.fail(running_job, PROBLEM)
    assert (await outbox.of(job.id)).state == Delivery.PENDING
    silent = await store.cancel((await waiting(store)).id)
    assert await outbox.of(silent.id) is None


async def test_a_delivery_is_one_workers_at_a_time(store, outbox):
    jobs = {(await ended(store, owner=f"key:{n}")).id for n in range(6)}
    claimed = [message for message in await asyncio.gather(*(outbox.claim(30, 4) for _ in range(12))) if message]
    assert sorted(message.job_id for message in claimed) == sorted(jobs)
    assert await outbox.claim(30, 4) is None


async def test_who_lost_the_lease_of_a_delivery_settles_nothing(store, outbox):
    job = await ended(store)
    old = await outbox.claim(0.01, 4)
    await asyncio.sleep(0.05)
    new = await outbox.claim(30, 4)
    assert (new.id, new.payload, new.attempts) == (old.id, old.payload, 2)
    assert not await outbox.settle(old, Delivery.FAILED, 500)
    assert await outbox.settle(new, Delivery.DELIVERED, 204)
    assert not await outbox.settle(new, Delivery.FAILED, 500)
    assert (await outbox.of(job.id)).state == Delivery.DELIVERED
    assert await outbox.claim(30, 4) is None


async def test_a_delivery_that_failed_waits_before_it_comes_again(store, outbox):
    await ended(store)
    message = await outbox.claim(30, 4)
    assert await outbox.settle(message, Delivery.PENDING, 500, again_in_s=600)
    assert await outbox.claim(30, 4) is None
    assert await outbox.oldest_s() > 0


async def test_one_owner_has_only_so_many_deliveries_under_way(store, outbox):
    for _ in range(4):
        await ended(store, owner="key:many")
    last = await ended(store, owner="key:one")
    claimed = [await outbox.claim(30, 2) for _ in range(4)]
    assert [message and message.owner for message in claimed] == ["key:many", "key:many", "key:one", None]
    assert claimed[2].job_id == last.id
    await outbox.settle(claimed[0], Delivery.DELIVERED, 200)
    assert (await outbox.claim(30, 2)).owner == "key:many"


async def test_gone_is_for_one_address_of_one_owner(store, outbox):
    for owner, url in (("a", "https://x/1"), ("a", "https://x/1"), ("a", "https://x/2"), ("b", "https://x/1")):
        await ended(store, owner=owner, webhook_url=url)
    await outbox.settle(await outbox.claim(30, 9), Delivery.GONE, 410)
    left = [await outbox.claim(30, 9) for _ in range(3)]
    assert [message and (message.owner, message.url) for message in left] == [
        ("a", "https://x/2"),
        ("b", "https://x/1"),
        None,
    ]


async def test_deliveries_go_with_their_jobs(store, outbox, database):
    deleted, expired = await ended(store), await ended(store)
    await store.delete(deleted.id)
    await database.write(lambda db: db.exec_driver_sql(LONG_AGO))
    assert await store.expire(3600) == [expired.id]
    assert (await outbox.of(expired.id)).state == Delivery.PENDING
    await database.write(lambda db: db.exec_driver_sql(LONG_AGO))
    await store.expire(3600)
    assert await database.read(lambda db: db.exec_driver_sql("SELECT count(*) FROM webhooks").scalar()) == 0


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/jobs/%00", 404, "not_found"),
        ("/v1/jobs/%00/result", 404, "not_found"),
        ("/get_video/%00.mp4", 404, "not_found"),
        ("/v1/shared/%00", 404, "not_found"),
        ("/v1/jobs?cursor=0x1p3_%00", 400, "bad_request"),
        ("/v1/jobs?cursor=0x1p3_", 400, "bad_request"),
    ],
)
async def test_what_no_database_can_hold_is_refused_as_any_wrong_address(shared, model_server, path, status, code):
    async with running(shared, model_server) as gateway:
        headers = {"Authorization": f"Bearer {await key_for(shared, 'read')}"}
        answer = await gateway.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert (await gateway.get("/status/%00.mp4", headers=headers)).json() == {"status": "not_started"}


async def test_two_replicas_tell_everybody_once(shared, model_server, clip):
    on = shared.model_copy(update={"webhooks": "http", "webhook_networks": "127.0.0.1/32", "max_queued": 50})
    with Receiver() as receiver:
        receiver.answers = [lambda handler: (time.sleep(0.5), handler.send_response(204), handler.end_headers())] * 6
        async with running(on, model_server) as one, running(on, model_server) as other:
            jobs = [await send(replica, clip, webhook_url=receiver.url) for replica in (one, other) * 3]
            for job in jobs:
                async with asyncio.timeout(60):
                    while (await other.get(job["links"]["self"])).json()["webhook"]["state"] != "delivered":
                        await asyncio.sleep(0.05)
            secret = (await one.get("/v1/webhooks/secret")).json()["secret"]
        told = [heard.verified(secret)["data"]["id"] for heard in receiver.heard]
        assert sorted(told) == sorted(job["id"] for job in jobs)
        assert set(receiver.at_once.values()) == {1}


async def test_two_replicas_serve_the_same_jobs(shared, model_server, clip):
    """A client that follows at one replica and comes back at the other misses nothing and hears nothing twice."""
    model_server.go_on.clear()
    async with running(shared, model_server) as one, running(shared, model_server) as other:
        job = await send(one, clip)
        await model_server.entered.wait()
        following = asyncio.create_task(events(other, job, last_event_id=0))
        await asyncio.sleep(0.2)
        model_server.go_on.set()
        whole = [told for told in await following if told[0] is not None]
        assert [name for _, name, _ in whole] == ["progress"] * 4 + ["succeeded"]
        for number, _, _ in whole[:-1]:
            assert await events(one, job, number) == [told for told in whole if told[0] > number]
        assert (await other.get(job["links"]["result"])).content == model_server.sound_of(clip)
        share = (await one.post(job["links"]["share"])).json()
        assert (await other.get(f"/v1/shared/{share['token']}")).status_code == 200
    assert len(model_server.requests) == 1


@pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
async def test_replicas_hear_of_each_other_at_once(shared, model_server, clip, monkeypatch):
    """Nobody polls here: what another process did is told by the database."""
    for name in ("api_service.api.jobs.POLL_S", "api_service.api.routes.SSE_POLL_S"):
        monkeypatch.setattr(name, 600.0)
    apart = shared.model_copy(update={"embedded_worker": False})
    async with running(shared, model_server), running(apart, model_server) as other:
        job = await send(other, clip)
        async with asyncio.timeout(60):
            told = await events(other, job)
        assert told[-1][1] == "succeeded"


async def test_an_older_shared_database_is_left_to_the_operator(shared):
    database = Database.of(shared)
    await database.open()

    def make_older(db: Connection) -> None:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        for index in ("jobs_by_owner", "jobs_by_share"):
            db.exec_driver_sql(f"DROP INDEX {index}")
        for column in ("owner", "wishes", "stored_bytes", "share_nonce", "share_hash", "webhook_url"):
            db.exec_driver_sql(f"ALTER TABLE jobs DROP COLUMN {column}")
        db.exec_driver_sql("ALTER TABLE jobs ADD COLUMN seed BIGINT NOT NULL DEFAULT 0")
        db.exec_driver_sql("ALTER TABLE jobs ADD COLUMN category VARCHAR(100)")
        db.exec_driver_sql("DROP TABLE api_keys")
        db.exec_driver_sql("DROP TABLE webhooks")

    await database.write(make_older)
    if shared.database_url:
        with pytest.raises(ArtifactError, match="db upgrade"):
            await database.open()
        await database.upgrade()
    await database.open()
    store = JobStore(database)
    job = await store.cancel((await waiting(store, webhook_url="https://example.org/")).id)
    assert await Outbox(database).of(job.id)
    await database.close()


async def test_an_object_store_keeps_what_replicas_share(config, model_server, clip, tmp_path):
    """Through obstore; each replica has a data directory of its own for what is in transit."""
    url = (tmp_path / "bucket").as_uri()
    somebody_elses = tmp_path / "bucket" / "thesis" / "in"
    somebody_elses.parent.mkdir(parents=True)
    somebody_elses.touch()
    first = config.model_copy(update={"blobs_url": url, "embedded_worker": False})
    async with running(first, model_server) as one:
        job = await send(one, clip)
        assert {path.name for path in (tmp_path / "bucket" / job["id"]).iterdir()} == {"in"}
        blobs = ObjectBlobs(url, tmp_path / "cache", tmp_path / "scratch")
        async with running(first.model_copy(update={"embedded_worker": True}), model_server):
            assert (await finished(one, job))["state"] == "succeeded"
        for folder in ("cache", "scratch"):
            assert not (tmp_path / folder / job["id"]).exists()
        assert (await blobs.get(job["id"], "out-1")).read_bytes() == model_server.sound_of(clip)
        assert set((await blobs.ages_s())[job["id"]]) == {"in", "out-1"}
        retake = (await one.post(job["links"]["retake"], json={"seed": 2})).json()
        assert (await blobs.get(retake["id"], "in")).read_bytes() == clip
        with pytest.raises(FileNotFoundError):
            await blobs.copy("none", "in", "other")
        with pytest.raises(FileNotFoundError):
            await blobs.get("none", "in")
        for one_job in (job, retake):
            assert (await one.delete(one_job["links"]["self"])).status_code == 204
        assert await blobs.ages_s() == {}, "what is not ours is not swept"


async def test_a_gateway_that_works_on_no_jobs_still_empties_its_cache(
    config, model_server, clip, tmp_path, monkeypatch
):
    """Of what another replica deleted soon, of the rest in time; what is still there is fetched again."""
    monkeypatch.setattr("api_service.api.blobs.SWEEP_S", 0.5)
    apart = {"blobs_url": (tmp_path / "bucket").as_uri(), "embedded_worker": False}
    one_s = config.model_copy(update={**apart, "orphan_s": 3600.0})
    other_s = config.model_copy(update={**apart, "orphan_s": 2.0, "data_dir": tmp_path / "other"})
    other_s.data_dir.mkdir()
    (other_s.data_dir / "jobs.sqlite").symlink_to(config.data_dir / "jobs.sqlite")

    def copies(of: Settings) -> set[str]:
        return {path.name for path in (of.data_dir / "cache").iterdir()}

    async def swept(of: Settings, left: set[str]) -> None:
        async with asyncio.timeout(30):
            while copies(of) != left:
                await asyncio.sleep(0.05)

    async with running(one_s, model_server) as one, running(other_s, model_server) as other:
        deleted, kept, short = await send(one, clip), await send(one, clip), await send(other, clip)
        assert copies(one_s) == {deleted["id"], kept["id"]}
        assert (await other.delete(deleted["links"]["self"])).status_code == 204
        await swept(one_s, {kept["id"]})
        await swept(other_s, set())
        killed = other_s.data_dir / "scratch" / "left"
        killed.mkdir()
        async with asyncio.timeout(30):
            while killed.exists():
                await asyncio.sleep(0.05)
        blobs = other.app.state.service.blobs
        assert (await blobs.get(short["id"], "in")).read_bytes() == clip


class Line:
    """TCP on the way to a port; while `open` is not set it stays connected and nothing comes through."""

    def __init__(self, to_port: int):
        self.open, self._to_port, self._tasks = asyncio.Event(), to_port, []
        self.open.set()

    async def __aenter__(self) -> "Line":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        self._tasks += [asyncio.create_task(self._pass_on(*ends)) for ends in ((reader, back), (there, writer))]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)


@pytest.fixture
def impatient(monkeypatch):
    for name in ("CONNECT_WITHIN_S", "ANSWER_WITHIN_S"):
        monkeypatch.setattr(f"api_service.api.database.{name}", 1.0)
    monkeypatch.setattr("api_service.api.database.FREE_WITHIN_S", 0.5)


async def test_a_mute_server_is_one_that_is_away_for_all_who_ask_at_once(impatient):
    connections = []
    mute = await asyncio.start_server(lambda *ends: connections.append(ends), "127.0.0.1", 0)
    database = Database(f"postgresql+asyncpg://s2s@127.0.0.1:{mute.sockets[0].getsockname()[1]}/postgres")

    def look(db: Connection) -> None:
        db.exec_driver_sql("SELECT 1")

    async with asyncio.timeout(30):
        ask = [act(look) for act in (database.read, database.write) for _ in range(15)]  # more than it has connections
        told = await asyncio.gather(*ask, return_exceptions=True)
    assert {type(answer) for answer in told} == {DatabaseAway}
    assert any(isinstance(answer.__cause__, PoolUsedUp) for answer in told)
    for _, writer in connections:
        writer.close()
    mute.close()
    await database.close()


@pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
async def test_a_server_that_falls_silent_is_away_until_it_speaks_again(
    shared, postgres, model_server, clip, impatient
):
    async with Line(postgres.port) as line:
        url = shared.database_url.replace(f":{postgres.port}/", f":{line.port}/")
        async with running(shared.model_copy(update={"database_url": url}), model_server) as gateway:
            job = await finished(gateway, await send(gateway, clip), within_s=30)
            line.open.clear()
            for _ in range(3):
                async with asyncio.timeout(10):
                    told = await gateway.get(job["links"]["self"])
                assert (told.status_code, told.json()["code"]) == (503, "database_away")
            line.open.set()
            async with asyncio.timeout(30):
                while (await gateway.get(job["links"]["self"])).status_code != 200:
                    await asyncio.sleep(0.1)
            assert (await finished(gateway, await send(gateway, clip), within_s=30))["state"] == "succeeded"


@pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
async def test_who_sets_the_tables_up_waits_for_who_is_at_it(shared, impatient):
    first, second = Database.of(shared), Database.of(shared)
    lock = f"SELECT pg_advisory_xact_lock({SETUP_LOCK})"
    await first.open()
    async with first._server.begin() as db:
        await db.exec_driver_sql(lock)
        waits = asyncio.create_task(second.upgrade())
        await asyncio.sleep(3)  # longer than any other statement may take
        assert not waits.done()
    await waits
    await first.close()
    await second.close()


@pytest.mark.parametrize("shared", ["postgresql"], indirect=True)
@pytest.mark.parametrize("code", ["53300", "53100", "57P03"])
async def test_a_server_that_has_no_room_or_starts_up_is_one_that_is_away(database, code):
    raised = f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"
    with pytest.raises(DatabaseAway):
        await database.read(lambda db: db.exec_driver_sql(raised))


def test_a_blob_store_that_is_none_is_told_at_the_start(tmp_path):
    with pytest.raises(ArtifactError, match="S2S_BLOBS_URL"):
        ObjectBlobs("nowhere://x", tmp_path / "a", tmp_path / "b")
