"""Promises about who may do what: owners, keys, shared links, retakes, other sites."""

import asyncio
import tracemalloc
import uuid

import httpx
import pytest
from gateway_kit import bearer, finished, key_for, running, send

from api_service.api.access import COOKIE, KeyStore, Signer
from api_service.api.database import Database
from s2s.config import Settings
from s2s.errors import ArtifactError


def browser(gateway: httpx.AsyncClient) -> httpx.AsyncClient:
    """Another client of the same gateway, with cookies of its own."""
    return httpx.AsyncClient(base_url=gateway.base_url, timeout=20)


@pytest.fixture
def page(config, tmp_path) -> Settings:
    """The settings with a page whose visitors get cookies."""
    folder = tmp_path / "page"
    (folder / "js").mkdir(parents=True)
    (folder / "index.html").write_text('<!doctype html><html><head><script src="js/main.js"></script></head></html>')
    (folder / "js" / "main.js").write_text("1;")
    return config.model_copy(update={"page_dir": folder})


async def test_a_visitors_jobs_exist_for_nobody_else(page, model_server, clip):
    async with running(page, model_server) as mine, browser(mine) as theirs:
        cookie = (await mine.get("/")).headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=lax" in cookie.lower()
        await theirs.get("/")
        job = await finished(mine, await send(mine, clip))
        for method, tail in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/result"),
            ("GET", "/audio.wav"),
            ("POST", "/cancel"),
            ("POST", "/share"),
            ("DELETE", "/share"),
            ("DELETE", ""),
        ):
            answer = await theirs.request(method, job["links"]["self"] + tail)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, tail)
        assert (await theirs.post(job["links"]["retake"], json={})).status_code == 404
        assert (await theirs.get(f"/status/{job['id']}.mp4")).json() == {"status": "not_started"}
        assert (await theirs.get(f"/get_video/{job['id']}.mp4")).status_code == 404
        assert (await theirs.get("/v1/jobs")).json()["jobs"] == []
        assert [shown["id"] for shown in (await mine.get("/v1/jobs")).json()["jobs"]] == [job["id"]]
        assert (await mine.get(job["links"]["result"])).status_code == 200


async def test_a_forged_cookie_is_nobodys(page, model_server, clip):
    async with running(page, model_server) as mine, browser(mine) as theirs:
        await mine.get("/")
        job = await send(mine, clip)
        visitor, _, signature = mine.cookies[COOKIE].partition(".")
        for forged in (f"{visitor}.{'0' * 64}", f"{visitor}.", visitor, f"x.{signature}", f"{visitor}.{signature}é"):
            headers = {"Cookie": f"{COOKIE}={forged}".encode()}
            assert (await theirs.get(job["links"]["self"], headers=headers)).status_code == 404


async def test_the_same_key_of_two_visitors_is_two_jobs(page, model_server, clip):
    async with running(page, model_server) as mine, browser(mine) as theirs:
        ids = set()
        for client in (mine, theirs):
            await client.get("/")
            files = {"file": ("a.mp4", clip, "video/mp4")}
            ids.add((await client.post("/v1/jobs", files=files, headers={"Idempotency-Key": "once"})).json()["id"])
        assert len(ids) == 2


async def test_a_page_that_another_server_serves_has_its_cookie_before_the_first_upload(config, model_server, clip):
    """It asks for the limits first. Two uploads at once are then one visitor's, and one that is repeated is one job."""
    config = config.model_copy(update={"host": "0.0.0.0", "anonymous": True})
    async with running(config, model_server) as gateway:
        limits = await gateway.get("/v1/limits")
        assert limits.headers["cache-control"] == "no-store"
        cookie = gateway.cookies[COOKIE]
        files = {"file": ("a.mp4", clip, "video/mp4")}
        sent = [gateway.post("/v1/jobs", files=files, headers={"Idempotency-Key": key}) for key in ("a", "b", "b")]
        first, second, again = await asyncio.gather(*sent)
        assert second.json()["id"] == again.json()["id"]
        for answer in (first, second):
            assert (await gateway.get(answer.json()["links"]["self"])).status_code == 200
        assert "Max-Age=2592000" in (await gateway.get("/v1/limits")).headers["set-cookie"], "for another month"
        assert gateway.cookies[COOKIE] == cookie
    for closed in ({"anonymous": False}, {"host": "127.0.0.1"}):
        async with running(config.model_copy(update=closed), model_server) as gateway:
            assert "set-cookie" not in (await gateway.get("/v1/limits")).headers


async def test_bound_elsewhere_a_key_is_required(config, model_server, clip):
    config = config.model_copy(update={"host": "0.0.0.0"})
    key, reader, admin = [await key_for(config, *scopes) for scopes in (["write", "read"], ["read"], ["admin"])]
    async with running(config, model_server) as gateway:
        files = {"file": ("a.mp4", clip, "video/mp4")}
        for path in ("/v1/jobs", "/predict"):
            answer = await gateway.post(path, files=files)
            assert (answer.status_code, answer.json()["code"]) == (401, "key_required")
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("s2s_x_y", "x", key[:-1], key + "x", key.replace("s2s_", "s3s_")):
            answer = await gateway.post("/v1/jobs", files=files, headers=bearer(wrong))
            assert (answer.status_code, answer.json()["code"]) == (401, "bad_key")
        answer = await gateway.post("/v1/jobs", files=files, headers=bearer(reader))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert (await gateway.get("/v1/limits")).json()["key_required"] is True
        job = (await gateway.post("/v1/jobs", files=files, headers=bearer(key))).json()
        seen = {}
        for name, one in (("key", key), ("reader", reader), ("admin", admin)):
            seen[name] = (await gateway.get(job["links"]["self"], headers=bearer(one))).status_code
        assert seen == {"key": 200, "reader": 404, "admin": 200}
        assert (await gateway.get(job["links"]["self"])).status_code == 401
        assert (await gateway.get("/livez")).status_code == 200


async def test_a_revoked_or_expired_key_opens_nothing(config, model_server):
    config = config.model_copy(update={"require_keys": True, "anonymous": False})
    key, short = await key_for(config, "read"), await key_for(config, "read", ttl_s=0.0)
    async with running(config, model_server) as gateway:
        assert (await gateway.get("/v1/jobs", headers=bearer(key))).status_code == 200
        assert (await gateway.get("/v1/jobs", headers=bearer(short))).json()["code"] == "bad_key"
        database = Database.of(config)
        keys = KeyStore(database)
        (known,) = [known for known in await keys.all() if known.expires_at is None]
        assert await keys.revoke(known.id)
        assert not await keys.revoke(known.id)
        await database.close()
        assert (await gateway.get("/v1/jobs", headers=bearer(key))).json()["code"] == "bad_key"


async def test_no_key_is_kept_in_the_clear(config):
    key = await key_for(config, "read")
    secret = key.rsplit("_", 1)[-1] if key.count("_") == 2 else key.split("_", 2)[2]
    for file in config.data_dir.iterdir():
        assert secret.encode() not in file.read_bytes()


async def test_a_shared_link_shows_the_result_and_nothing_else(page, model_server, clip):
    async with running(page, model_server) as mine, browser(mine) as theirs:
        await mine.get("/")
        job = await finished(mine, await send(mine, clip))
        share = (await mine.post(job["links"]["share"])).json()
        assert share["url"] == f"/s/{share['token']}"
        assert share["expires_at"] == job["expires_at"]
        assert (await mine.post(job["links"]["share"])).json() == share, "asking again tells the same link"
        assert (await mine.get(job["links"]["self"])).json()["shared"] == share["url"]
        shown = await theirs.get(f"/v1/shared/{share['token']}")
        assert shown.json()["report"] == job["report"]
        assert job["id"] not in shown.text
        result = await theirs.get(shown.json()["links"]["result"])
        assert result.content == model_server.sound_of(clip)
        assert (await theirs.get(shown.json()["links"]["description"])).status_code == 200
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert (await theirs.request(method, f"/v1/shared/{share['token']}")).status_code == 405
        assert (await mine.delete(job["links"]["share"])).status_code == 204
        for tail in ("", "/result", "/audio.wav", "/peaks.json", "/spectrogram.png", "/description"):
            assert (await theirs.get(f"/v1/shared/{share['token']}{tail}")).status_code == 404
        again = (await mine.post(job["links"]["share"])).json()
        assert again["token"] != share["token"], "a revoked link stays revoked"


async def test_two_who_ask_for_a_link_at_once_get_the_same_one_and_it_works(gateway, clip, monkeypatch):
    job = await finished(gateway, await send(gateway, clip))
    store, both_there = gateway.app.state.service.store, asyncio.Barrier(2)
    share = store.share

    async def share_together(*args):
        await both_there.wait()
        return await share(*args)

    monkeypatch.setattr(store, "share", share_together)
    one, other = await asyncio.gather(*(gateway.post(job["links"]["share"]) for _ in range(2)))
    assert one.json() == other.json()
    assert (await gateway.get(f"/v1/shared/{one.json()['token']}")).status_code == 200


async def test_the_page_at_a_shared_link_finds_its_files(page, model_server):
    async with running(page, model_server) as gateway:
        answer = await gateway.get("/s/anything")
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.text.index('<base href="../">') < answer.text.index("js/main.js")
        assert "base-uri 'self'" in answer.headers["content-security-policy"]
        assert (await gateway.get(str(answer.url.join("../js/main.js")))).status_code == 200


async def test_a_retake_is_a_new_job_from_the_kept_upload(gateway, model_server, clip):
    first = await finished(gateway, await send(gateway, clip, seed="3", category="drum"))
    events = [{"time_s": 0.25, "strength": 0.5}, {"time_s": 0.75}]
    answer = await gateway.post(first["links"]["retake"], json={"seed": 4, "events": events, "gain_db": -3.5})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["links"]["self"]
    assert answer.json()["options"] == {
        "seed": 4,
        "category": "drum",
        "offset_ms": 0.0,
        "gain_db": -3.5,
        "events": [{"time_s": 0.25, "strength": 0.5}, {"time_s": 0.75, "strength": 0.8}],
    }
    await gateway.delete(first["links"]["self"])  # the retake does not need it any more
    sent = model_server.requests
    second = await finished(gateway, answer.json())
    assert second["state"] == "succeeded", second
    assert second["id"] != first["id"]
    assert second["filename"] == first["filename"]
    assert b'"events"' in await sent[1].aread()
    third = await finished(gateway, (await gateway.post(second["links"]["retake"], json={"category": None})).json())
    assert third["options"]["category"] is None
    assert third["options"]["seed"] == 4


@pytest.mark.parametrize(
    "body",
    [
        {"seed": -1},
        {"offset_ms": 5000},
        {"gain_db": "loud"},
        {"events": [{"time_s": -1}]},
        {"events": [{}]},
        {"sed": 1},
        {"events": [{"time_s": 1, "kind": "x"}]},
        [],
        None,
    ],
)
async def test_a_retake_that_makes_no_sense_is_refused(gateway, clip, body):
    job = await send(gateway, clip)
    answer = await gateway.post(job["links"]["retake"], json=body)
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_wishes_without_end_are_refused_before_they_fill_memory(gateway, clip):
    job = await send(gateway, clip)

    async def without_end():
        for _ in range(1000):
            yield b" " * 100_000

    tracemalloc.start()
    answer = await gateway.post(
        job["links"]["retake"], content=without_end(), headers={"Content-Type": "application/json"}
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert peak < 20_000_000, "of 100 MB"
    moments = [{"time_s": i / 1000, "kind": "drum", "strength": 0.123456789} for i in range(2000)]
    assert (await gateway.post(job["links"]["retake"], json={"events": moments})).status_code != 413


async def test_a_retake_without_its_upload_is_gone(gateway, clip, config):
    job = await finished(gateway, await send(gateway, clip))
    (config.data_dir / "blobs" / job["id"] / "in").unlink()
    answer = await gateway.post(job["links"]["retake"], json={})
    assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert len(list((config.data_dir / "blobs").iterdir())) == 1


async def test_uploads_can_name_the_moments_too(gateway, model_server, clip):
    job = await send(gateway, clip, events='[{"time_s": 0.5}]', offset_ms="-40", gain_db="2")
    assert job["options"]["events"] == [{"time_s": 0.5, "strength": 0.8}]
    assert (job["options"]["offset_ms"], job["options"]["gain_db"]) == (-40, 2)
    for wrong in ("[", "[" * 5000, '{"time_s": 1}', '[{"time_s": "x"}]'):
        answer = await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip, "video/mp4")}, data={"events": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_pages_tell_every_job_once(page, model_server, clip):
    async with running(page, model_server) as gateway:
        await gateway.get("/")
        sent = [(await send(gateway, clip))["id"] for _ in range(5)]
        seen, cursor = [], None
        while True:
            told = (await gateway.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
            seen += [job["id"] for job in told["jobs"]]
            if (cursor := told["next_cursor"]) is None:
                break
        assert seen == sent[::-1], "newest first"
        assert (await gateway.get("/v1/jobs?state=failed")).json()["jobs"] == []
        for wrong in ("cursor=x", "cursor=0x1p9999_a", "state=odd", "limit=0"):
            assert (await gateway.get(f"/v1/jobs?{wrong}")).status_code in (400, 422)


async def test_a_poll_that_learns_nothing_is_answered_with_304(gateway, clip):
    job = await finished(gateway, await send(gateway, clip))
    first = await gateway.get(job["links"]["self"])
    again = await gateway.get(job["links"]["self"], headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_pages_of_other_sites_cannot_act(gateway, clip, config, model_server):
    files = {"file": ("a.mp4", clip, "video/mp4")}
    answer = await gateway.post("/v1/jobs", files=files, headers={"Origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")
    assert (await gateway.post("/v1/jobs", files=files, headers={"Origin": "null"})).status_code == 403
    behind = {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}  # a proxy that changes Host
    assert (await gateway.post("/v1/jobs", files=files, headers=behind)).status_code == 202
    own = str(gateway.base_url).rstrip("/")
    assert (await gateway.post("/v1/jobs", files=files, headers={"Origin": own})).status_code == 202
    allowed = config.model_copy(update={"cors_origins": "https://friend.example", "data_dir": config.data_dir / "2"})
    async with running(allowed, model_server) as other:
        friend = {"Origin": "https://friend.example"}
        answer = await other.post("/v1/jobs", files=files, headers=friend)
        assert answer.status_code == 202
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        stranger = await other.get("/v1/limits", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


def test_replicas_do_not_start_without_a_common_secret(tmp_path):
    shared = Settings(data_dir=tmp_path, database_url="postgresql://x/y")
    with pytest.raises(ArtifactError, match="S2S_SECRET_KEY"):
        Signer.of(shared)
    with pytest.raises(ArtifactError, match="too short"):
        Signer.of(Settings(data_dir=tmp_path, secret_key="changeme"))


def test_processes_that_share_a_directory_share_a_secret(tmp_path):
    config = Settings(data_dir=tmp_path)
    assert Signer.of(config).token("a") == Signer.of(config).token("a")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


async def test_a_database_from_before_revisions_keeps_its_jobs(config, model_server, clip):
    """As the first release made it: no revision, seed and category as columns."""
    import sqlite3

    old_id = str(uuid.uuid4())
    config.data_dir.mkdir(parents=True)
    with sqlite3.connect(config.data_dir / "jobs.sqlite") as old:
        old.execute(
            "CREATE TABLE jobs (id VARCHAR(36) NOT NULL PRIMARY KEY, state VARCHAR(10) NOT NULL, attempt INTEGER NOT "
            "NULL, failures INTEGER NOT NULL, seq INTEGER NOT NULL, filename VARCHAR(200) NOT NULL, idempotency_key "
            "VARCHAR(100) UNIQUE, seed BIGINT NOT NULL, category VARCHAR(100), created_at FLOAT NOT NULL, not_before "
            "FLOAT NOT NULL, lease_until FLOAT, started_at FLOAT, finished_at FLOAT, progress JSON, problem JSON, "
            "report JSON, container VARCHAR(8), result_bytes BIGINT, result_sha256 VARCHAR(64))"
        )
        old.execute("CREATE INDEX jobs_by_state ON jobs (state, created_at)")
        old.execute(
            "CREATE TABLE job_events (job_id VARCHAR(36) NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, seq INTEGER "
            "NOT NULL, event VARCHAR(10) NOT NULL, data JSON, PRIMARY KEY (job_id, seq))"
        )
        old.execute(
            "INSERT INTO jobs (id, state, attempt, failures, seq, filename, seed, category, created_at, not_before) "
            f"VALUES ('{old_id}', 'queued', 0, 0, 0, 'a.mp4', 5, 'bell', 1.0, 1.0)"
        )
    (config.data_dir / "blobs" / old_id).mkdir(parents=True)
    (config.data_dir / "blobs" / old_id / "in").write_bytes(clip)
    async with running(config, model_server) as gateway:
        job = await finished(gateway, {"links": {"self": f"/v1/jobs/{old_id}"}})
        assert job["state"] == "succeeded"
        assert (job["options"]["seed"], job["options"]["category"]) == (5, "bell")


async def test_a_database_of_a_newer_version_is_refused(config):
    database = Database.of(config)
    await database.open()
    await database.write(lambda db: db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ArtifactError, match="9999"):
        await database.open()
    await database.close()
    await asyncio.sleep(0)
