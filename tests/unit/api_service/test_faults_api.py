"""What is around the service fails for a while: nothing that was accepted is lost, nothing is recorded twice."""

import asyncio
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import obstore
import pytest
from gateway_kit import events, finished, make_clip, running, send
from obstore.exceptions import BaseError
from sqlalchemy import text
from tests.postgres import running_postgres

from api_service.api.database import Database, DatabaseAway
from s2s.config import Settings


async def test_a_database_that_is_restarted_loses_no_job_and_costs_no_second_run(config, model_server, clip):
    with running_postgres() as server:
        secret = Settings(secret_key="k" * 32).secret_key
        config = config.model_copy(update={"database_url": server.url, "secret_key": secret, "lease_s": 120.0})
        async with running(config, model_server) as gateway:
            model_server.go_on.clear()
            worked_on, waits = await send(gateway, clip), await send(gateway, clip)
            await model_server.entered.wait()
            server.stop()
            for path in (worked_on["links"]["self"], "/readyz"):
                told = await gateway.get(path)
                assert (told.status_code, told.json()["code"]) == (503, "database_away")
                assert told.headers["retry-after"]
            assert (await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)})).status_code == 503
            model_server.go_on.set()  # it finishes while nobody can write that down
            server.start()
            for job in (worked_on, waits):
                done = await finished(gateway, job, within_s=100)
                assert done["state"] == "succeeded"
                told = await events(gateway, job, last_event_id=0)
                assert [name for _, name, _ in told].count("succeeded") == 1
            assert (await gateway.get("/readyz")).status_code == 200
    assert len(model_server.requests) == 2


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.ENOENT])
async def test_a_result_that_the_full_disk_refuses_is_made_again(gateway, model_server, clip, monkeypatch, fault):
    model_server.go_on.clear()
    job = await send(gateway, clip)
    await model_server.entered.wait()
    blobs = gateway.app.state.service.blobs
    kept, refused = blobs.put, []

    async def put(job_id, name, source):
        if not refused:
            refused.append(name)
            raise OSError(fault, "the disk will not")
        await kept(job_id, name, source)

    monkeypatch.setattr(blobs, "put", put)
    model_server.go_on.set()
    assert (await finished(gateway, job, within_s=30))["state"] == "succeeded"
    assert refused == ["out-1"]
    assert (await gateway.get(job["links"]["result"])).content == model_server.sound_of(clip)


@contextmanager
def small_disk(folder: Path, n_bytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_bytes},mode=700", "s2s-test", folder],
                          capture_output=True, text=True)  # fmt: skip
    if made.returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no disk to fill, run as root: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """To the last byte."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


async def test_a_disk_that_is_really_full_loses_nothing_that_was_accepted(config, model_server, tmp_path):
    """Uploads, results and SQLite have no room for a while: new clips hear so, accepted ones get their sound."""
    clip = make_clip(tmp_path / "clip.mp4") + b"\0\0\x80\0free".ljust(32768, b"\0")
    with small_disk(tmp_path / "disk", 8 << 20) as disk:
        config = config.model_copy(update={"data_dir": disk / "var", "max_attempts": 1000, "max_queued": 1000})
        async with running(config, model_server) as gateway:
            model_server.go_on.clear()
            jobs = [await send(gateway, clip) for _ in range(3)]
            await model_server.entered.wait()
            fill(disk / "filler")
            for _ in range(3):
                told = await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)})
                assert told.status_code == 503, told.text
                assert told.json()["code"] in ("storage_full", "database_away")
                assert told.headers["retry-after"]
            model_server.go_on.set()  # results come, and there is no place for them
            await asyncio.sleep(4.0)
            for job in jobs:
                shown = (await gateway.get(job["links"]["self"])).json()
                assert shown["state"] in ("queued", "running"), shown
            (disk / "filler").unlink()
            for job in jobs:
                assert (await finished(gateway, job, within_s=120))["state"] == "succeeded"
                assert (await gateway.get(job["links"]["result"])).content == model_server.sound_of(clip)
                outcomes = [name for _, name, _ in await events(gateway, job, last_event_id=0) if name == "succeeded"]
                assert len(outcomes) == 1
            assert (await finished(gateway, await send(gateway, clip), within_s=60))["state"] == "succeeded"
            assert {path.name for path in (disk / "var" / "blobs").iterdir()} >= {job["id"] for job in jobs}


@contextmanager
def away(bucket: Path) -> Iterator[None]:
    """An object store that answers everything with an error."""
    bucket.rename(bucket.with_suffix(".kept"))
    bucket.touch()
    try:
        yield
    finally:
        bucket.unlink()
        bucket.with_suffix(".kept").rename(bucket)


async def test_an_object_store_that_is_away_says_so_and_is_tried_again(config, model_server, clip, tmp_path):
    bucket = tmp_path / "bucket"
    patient = {"blobs_url": bucket.as_uri(), "max_attempts": 10}
    async with running(config.model_copy(update=patient), model_server) as gateway:
        done = await finished(gateway, await send(gateway, clip))
        model_server.entered.clear()
        model_server.go_on.clear()
        job = await send(gateway, clip)
        await model_server.entered.wait()
        with away(bucket):
            for answer in (
                await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)}),
                await gateway.post(done["links"]["retake"], json={"seed": 2}),
                await gateway.get(done["links"]["audio"]),
            ):
                assert (answer.status_code, answer.json()["code"]) == (503, "storage_away"), answer.text
                assert answer.headers["retry-after"]
            model_server.go_on.set()  # there is no place for the result
            async with asyncio.timeout(30):
                while 's2s_attempts_total{outcome="storage"}' not in (await gateway.get("/metrics")).text:
                    await asyncio.sleep(0.05)
            assert (await gateway.delete(done["links"]["self"])).status_code == 204
        assert (await finished(gateway, job, within_s=60))["state"] == "succeeded"
        assert (await gateway.get(job["links"]["result"])).content == model_server.sound_of(clip)


async def test_a_file_that_cannot_be_deleted_keeps_no_other_and_goes_later(
    config, model_server, clip, tmp_path, monkeypatch
):
    for module in ("blobs", "jobs"):
        monkeypatch.setattr(f"api_service.api.{module}.SWEEP_S", 0.5)
    bucket, refused, delete = tmp_path / "bucket", [], obstore.delete_async

    def kept() -> set[str]:
        return {path.parent.name for path in bucket.glob("*/*")}

    async def delete_but_one(store, path):
        """Not the first job's, as long as there are others'."""
        job_id = path.partition("/")[0]
        if (not refused or job_id == refused[0]) and kept() - {job_id}:
            refused.append(job_id)
            raise BaseError("the store will not")
        await delete(store, path)

    monkeypatch.setattr("obstore.delete_async", delete_but_one)
    short = {"blobs_url": bucket.as_uri(), "result_ttl_s": 5.0}
    async with running(config.model_copy(update=short), model_server) as gateway:
        jobs = [await send(gateway, clip) for _ in range(3)]
        for job in jobs:
            await finished(gateway, job)
        async with asyncio.timeout(40):
            while kept():
                await asyncio.sleep(0.05)
    assert refused


@pytest.mark.parametrize("jump_s", [7200, -7200], ids=["ahead", "back"])
async def test_a_clock_that_jumps_loses_no_job(config, model_server, clip, jump_s):
    """Seen from the rows: the clock goes ahead as they fall behind."""
    async with running(config, model_server) as gateway:
        model_server.go_on.clear()
        jobs = [await send(gateway, clip) for _ in range(3)]
        await model_server.entered.wait()
        database = Database.of(config)
        shift = text("UPDATE jobs SET created_at = created_at - :s, not_before = not_before - :s, "
                     "lease_until = lease_until - :s")  # fmt: skip
        await database.write(lambda db: db.execute(shift, {"s": jump_s}))
        model_server.go_on.set()
        for job in jobs:
            assert (await finished(gateway, job, within_s=60))["state"] == "succeeded"
            outcomes = [name for _, name, _ in await events(gateway, job, last_event_id=0) if name == "succeeded"]
            assert len(outcomes) == 1
        await database.close()


@pytest.mark.parametrize("bucket", [None, "bucket"], ids=["disk", "store"])
async def test_a_sweep_between_file_and_row_leaves_a_retake_its_upload(
    config, model_server, clip, tmp_path, monkeypatch, bucket
):
    """However long ago the clip was sent."""
    url = bucket and (tmp_path / bucket).as_uri()
    async with running(config.model_copy(update={"blobs_url": url or ""}), model_server) as gateway:
        service = gateway.app.state.service
        job = await finished(gateway, await send(gateway, clip))
        upload = (tmp_path / bucket if bucket else config.data_dir / "blobs") / job["id"] / "in"
        os.utime(upload, (time.time() - 2 * config.orphan_s,) * 2)
        create = service.store.create

        async def create_late(*args, **kw):
            await service.worker._remove_blobs()
            return await create(*args, **kw)

        monkeypatch.setattr(service.store, "create", create_late)
        again = await gateway.post(job["links"]["retake"], json={"seed": 2})
        assert again.status_code == 202, again.text
        assert (await finished(gateway, again.json()))["state"] == "succeeded"


@pytest.mark.parametrize("cut", ["answer", "caller"])
async def test_a_job_that_was_written_although_nobody_heard_so_keeps_its_upload(
    config, model_server, clip, monkeypatch, cut
):
    """The answer of the database is lost on its way, or who asked goes away: the same key finds a job that succeeds."""
    with running_postgres() as server:
        secret = Settings(secret_key="k" * 32).secret_key
        config = config.model_copy(update={"database_url": server.url, "secret_key": secret})
        async with running(config, model_server) as gateway:
            store = gateway.app.state.service.store
            create = store.create

            async def create_unheard(*args, **kw):
                await create(*args, **kw)
                raise DatabaseAway("The connection broke.") if cut == "answer" else asyncio.CancelledError

            upload = {"files": {"file": ("a.mp4", clip)}, "headers": {"Idempotency-Key": "once"}}
            with monkeypatch.context() as broken:
                broken.setattr(store, "create", create_unheard)
                assert (await gateway.post("/v1/jobs", **upload)).status_code >= 500
            assert (await finished(gateway, (await gateway.post("/v1/jobs", **upload)).json()))["state"] == "succeeded"


async def test_a_clip_that_the_full_database_refuses_takes_no_room(gateway, clip, config, monkeypatch):
    async def refuse(*args, **kw):
        raise DatabaseAway("The disk is full.")

    monkeypatch.setattr(gateway.app.state.service.store, "create", refuse)
    assert (await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)})).status_code == 503
    assert not list((config.data_dir / "blobs").iterdir())
