"""Promises about too many, too much and too slow."""

import asyncio
import base64
import errno
import re
import threading
import time
import tracemalloc

import httpx
import pytest
from gateway_kit import bearer, finished, key_for, running, send, value

from api_service.api import uploads
from s2s.config import REPO_ROOT


def form(video: bytes) -> dict:
    return {"files": {"file": ("a.mp4", video, "video/mp4")}}


@pytest.fixture
async def strict(config, model_server):
    """A gateway where keys count, with small limits; yields (client, key)."""
    config = config.model_copy(
        update={"require_keys": True, "uploads_per_min": 3, "max_queued_per_owner": 2, "max_queued": 50}
    )
    key, other = await key_for(config, "write"), await key_for(config, "write")
    async with running(config, model_server) as gateway:
        yield gateway, bearer(key), bearer(other)


async def test_too_many_clips_in_a_minute_are_told_when_to_come_back(strict, clip):
    gateway, key, other = strict
    left = []
    for _ in range(3):
        answer = await gateway.post("/v1/jobs", **form(clip), headers=key)
        assert answer.status_code == 202
        assert answer.headers["ratelimit-policy"] == '"uploads";q=3;w=60'
        left.append(answer.headers["ratelimit"].split(";")[1])
        await finished(Authorized(gateway, key), answer.json())
    assert left == ["r=2", "r=1", "r=0"]
    refused = await gateway.post("/v1/jobs", **form(clip), headers=key)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["retry-after"]) <= 61
    assert refused.headers["ratelimit"].startswith('"uploads";r=0;t=')
    assert (await gateway.post("/v1/jobs", **form(clip), headers=other)).status_code == 202


def believed(where: str) -> str:
    """FORWARDED_ALLOW_IPS as it ships."""
    return re.search(r"FORWARDED_ALLOW_IPS=(\S+)", (REPO_ROOT / where).read_text())[1]


IMAGE, GKE = believed("src/api_service/Dockerfile"), believed("deployment/k8s/overlays/gke/kustomization.yaml")
BALANCER = "198.51.100.4"  # a load balancer's own address, which it appends


@pytest.mark.parametrize(
    ("believe", "appended"),
    [
        pytest.param(IMAGE, "{}", id="compose"),
        pytest.param(IMAGE, "{}, 172.18.0.1", id="VM"),
        pytest.param(IMAGE, "{}, 10.42.0.7, fd00::7", id="ingress"),
        pytest.param(GKE.replace("PLACEHOLDER_ADDRESS", BALANCER), f"{{}}, {BALANCER}, 35.191.9.1", id="GKE"),
    ],
)
async def test_a_forged_address_buys_no_visitor_another_rate(
    config, model_server, clip, tmp_path, monkeypatch, believe, appended
):
    """`appended` is what the proxies write behind what the caller sent."""
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "index.html").write_text("<head></head>")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", believe)
    visitors = {"require_keys": True, "anonymous": True, "page_dir": tmp_path / "page", "uploads_per_min": 2}

    async def upload(sent: str, caller: str) -> int:
        gateway.cookies.clear()  # a new cookie costs nothing
        await gateway.get("/")
        headers = {"X-Forwarded-For": sent + appended.format(caller)}
        return (await gateway.post("/v1/jobs", **form(clip), headers=headers)).status_code

    async with running(config.model_copy(update=visitors), model_server) as gateway:
        forged = ["", "8.8.8.8, ", "10.0.0.1, ", "unknown, 127.0.0.1, "]
        assert [await upload(sent, "203.0.113.9") for sent in forged] == [202, 202, 429, 429]
        assert [await upload(sent, "203.0.113.10") for sent in forged] == [202, 202, 429, 429]


def test_what_the_image_believes_is_believed_on_gke_too():
    assert set(IMAGE.split(",")) < set(GKE.split(","))


class Authorized:
    """As much of a client as `finished` needs, with a key."""

    def __init__(self, client: httpx.AsyncClient, headers: dict):
        self._client, self._headers = client, headers

    async def get(self, path: str) -> httpx.Response:
        return await self._client.get(path, headers=self._headers)


async def test_one_owner_cannot_fill_the_queue_for_all(strict, model_server, clip):
    gateway, key, other = strict
    model_server.go_on.clear()
    assert (await gateway.post("/v1/jobs", **form(clip), headers=key)).status_code == 202
    await model_server.entered.wait()
    for _ in range(2):
        assert (await gateway.post("/v1/jobs", **form(clip), headers=key)).status_code == 202
    gateway.app.state.service.admission._times.clear()
    refused = await gateway.post("/v1/jobs", **form(clip), headers=key)
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert int(refused.headers["retry-after"]) > 0
    assert (await gateway.post("/v1/jobs", **form(clip), headers=other)).status_code == 202
    model_server.go_on.set()


async def test_used_up_storage_says_so_until_something_is_deleted(config, model_server, clip):
    async with running(config.model_copy(update={"storage_bytes": 100}), model_server) as gateway:
        job = await finished(gateway, await send(gateway, clip))
        for path, body in (("/v1/jobs", form(clip)), (job["links"]["retake"], {"json": {}})):
            refused = await gateway.post(path, **body)
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
            assert int(refused.headers["retry-after"]) > 0
        await gateway.delete(job["links"]["self"])
        assert (await gateway.post("/v1/jobs", **form(clip))).status_code == 202


async def test_a_full_disk_says_so_and_keeps_nothing(gateway, clip, config, monkeypatch):
    async def full(*args, **kw):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gateway.app.state.service.blobs, "put", full)
    refused = await gateway.post("/v1/jobs", **form(clip))
    assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
    for folder in ("blobs", "scratch"):
        assert not list((config.data_dir / folder).iterdir())


async def test_an_upload_that_stands_still_is_given_up_and_disturbs_nobody(config, model_server, clip):
    config = config.model_copy(update={"upload_stall_s": 2.0, "max_uploads": 2})
    async with running(config, model_server) as gateway:
        port = gateway.base_url.port
        head = (
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 5000\r\n\r\n--b\r\n"
        )
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in slow:
            writer.write(head)
            await writer.drain()
        while gateway.app.state.service.admission._incoming < 2:
            await asyncio.sleep(0.01)
        assert (await gateway.get("/v1/limits")).status_code == 200
        crowded = await gateway.post("/v1/jobs", **form(clip))
        assert (crowded.status_code, crowded.json()["code"]) == (503, "too_many_uploads")
        for reader, writer in slow:
            answer = await asyncio.wait_for(reader.readuntil(b"too_slow"), 30)
            assert b" 408 " in answer.split(b"\r\n")[0]
            writer.close()
        assert (await gateway.post("/v1/jobs", **form(clip))).status_code == 202
    assert not list((config.data_dir / "scratch").iterdir())


TOO_LARGE = (
    b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 900000000\r\n\r\n--b\r\n"
)


@pytest.mark.parametrize("trickles", [False, True])
async def test_who_sends_too_much_and_stands_still_holds_no_place(config, model_server, clip, trickles):
    config = config.model_copy(update={"upload_stall_s": 2.0, "max_uploads": 2})

    async def send_on(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.2)

    async with running(config, model_server) as gateway:
        admission = gateway.app.state.service.admission
        stalled = [await asyncio.open_connection("127.0.0.1", gateway.base_url.port) for _ in range(2)]
        for _, writer in stalled:
            writer.write(TOO_LARGE)
            await writer.drain()
        while admission._incoming < 2:
            await asyncio.sleep(0.01)
        senders = [asyncio.create_task(send_on(writer)) for _, writer in stalled if trickles]
        for reader, _ in stalled:
            answer = await asyncio.wait_for(reader.readuntil(b"too_large"), 30)
            assert b" 413 " in answer.split(b"\r\n")[0]
        assert (await gateway.post("/v1/jobs", **form(clip))).status_code == 202
        for sender in senders:
            sender.cancel()
        for _, writer in stalled:
            writer.close()


async def test_uploads_as_json_wait_on_disk_and_are_parsed_one_at_a_time(config, model_server, clip, monkeypatch):
    """A sender may dawdle: what has come takes no memory until it is whole, and then that of one upload."""
    config = config.model_copy(update={"http_max_bytes": 4_000_000})
    padding = 3 << 20
    video = clip + padding.to_bytes(4, "big") + b"free" + bytes(padding - 8)
    body = b'{"file": "' + base64.b64encode(video) + b'"}'
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    parse, under_way, most = uploads._from_json, [], []

    def parse_slowly(*args):
        assert threading.current_thread() is not threading.main_thread(), "others are answered meanwhile"
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.1)
        try:
            return parse(*args)
        finally:
            under_way.pop()

    monkeypatch.setattr(uploads, "_from_json", parse_slowly)
    async with running(config, model_server) as gateway:
        streams = [await asyncio.open_connection("127.0.0.1", gateway.base_url.port) for _ in range(5)]
        tracemalloc.start()
        try:
            for _, writer in streams:
                writer.write(head % len(body) + body[:-1])
                await writer.drain()
            spooled = 0
            async with asyncio.timeout(20):
                while spooled < 5 * (len(body) - 100_000):
                    await asyncio.sleep(0.05)
                    spooled = sum(file.stat().st_size for file in (config.data_dir / "scratch").glob("*/*.json"))
            assert tracemalloc.get_traced_memory()[0] < len(body)
        finally:
            tracemalloc.stop()
        for _, writer in streams:
            writer.write(body[-1:])
        for reader, writer in streams:
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)
            assert b" 202 " in answer
            writer.close()
    assert most == [1] * 5
    assert not list((config.data_dir / "scratch").iterdir())


async def test_json_of_very_many_values_is_refused_before_they_take_memory(gateway, clip, monkeypatch):
    upload = {"file": base64.b64encode(clip).decode()}
    most = [{"time_s": index / 2500, "strength": 0.5} for index in range(2000)]
    assert (await gateway.post("/v1/jobs", json={**upload, "events": most})).status_code == 202
    monkeypatch.delattr(uploads, "_json")  # who parses it fails
    refused = await gateway.post("/v1/jobs", json={**upload, "events": [[]] * 20_000})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_request")


async def test_who_sends_too_much_and_hangs_up_is_no_failure_of_ours(config, model_server):
    async with running(config, model_server) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.base_url.port)
        writer.write(TOO_LARGE)
        await writer.drain()
        while not gateway.app.state.service.admission._incoming:
            await asyncio.sleep(0.01)
        writer.close()
        while gateway.app.state.service.admission._incoming:
            await asyncio.sleep(0.01)
        refused = 's2s_http_requests_total{method="POST",route="/v1/jobs",status="413"}'
        assert await value(gateway, refused) == 1


async def test_limits_tell_what_is_kept_and_what_may_be_sent(gateway, config):
    told = (await gateway.get("/v1/limits")).json()
    assert told["retention_s"] == config.result_ttl_s
    assert told["key_required"] is False
    assert told["quotas"] == {
        "max_queued": 5,
        "max_queued_per_owner": config.max_queued_per_owner,
        "uploads_per_min": config.uploads_per_min,
        "storage_bytes": config.storage_bytes,
    }
