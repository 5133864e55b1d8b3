"""Promises to whoever wants to be told: a job names an address, and that hears once how the job ended."""

import asyncio
import base64
import json
import logging
from collections.abc import Iterator

import httpx
import pytest
from gateway_kit import bearer, finished, key_for, running, said, send, value
from sqlalchemy import text
from standardwebhooks import WebhookVerificationError
from tests.chaos import free_port
from tests.receiver import Receiver

from api_service.api import schemas
from api_service.api.database import Database
from api_service.api.service import create_app
from s2s import wire
from s2s.config import Settings
from s2s.errors import ArtifactError, InputError


@pytest.fixture
def config(config) -> Settings:
    """Webhooks are on, and the receivers on this machine may be reached."""
    return config.model_copy(
        update={
            "webhooks": "http",
            "webhook_networks": "127.0.0.0/8",
            "webhook_retry_s": 0.1,
            "webhook_timeout_s": 20.0,
            "max_queued": 50,
        }
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as listening:
        yield listening


@pytest.fixture
async def secret(gateway) -> str:
    answer = await gateway.get("/v1/webhooks/secret")
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["secret"]


async def told(gateway: httpx.AsyncClient, job: dict, *states: str, within_s: float = 60.0) -> dict:
    """The job, once its webhook has one of these states."""
    async with asyncio.timeout(within_s):
        while True:
            shown = (await gateway.get(job["links"]["self"])).json()
            if shown["webhook"]["state"] in states:
                return shown
            await asyncio.sleep(0.05)


async def until(condition, within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_receiver_is_told_once_and_can_check_who_says_so(gateway, receiver, secret, clip):
    job = await send(gateway, clip, webhook_url=receiver.url)
    assert job["webhook"] == {"state": "waiting", "attempts": 0, "status": None, "next_attempt_at": None}
    shown = await told(gateway, job, "delivered")
    assert shown["webhook"] == {"state": "delivered", "attempts": 1, "status": 204, "next_attempt_at": None}
    (heard,) = receiver.heard
    payload = heard.verified(secret)
    assert schemas.JobWebhook.model_validate(payload).model_dump(mode="json") == payload
    assert payload["type"] == "job.succeeded"
    assert payload["data"]["id"] == job["id"]
    assert (await gateway.get(payload["data"]["links"]["result"])).status_code == 200
    assert heard.headers["content-type"] == "application/json"
    assert heard.headers["host"] == f"127.0.0.1:{receiver.port}"
    with pytest.raises(WebhookVerificationError):
        heard.verified("whsec_" + base64.b64encode(b"another's secret, 32 bytes long.").decode())


async def test_json_uploads_and_retakes_can_name_a_receiver_too(gateway, receiver, secret, clip):
    body = {"file": base64.b64encode(clip).decode(), "webhook_url": receiver.url}
    for shape in (body, [body]):
        job = (await gateway.post("/v1/jobs", json=shape)).json()
        await told(gateway, job, "delivered")
    silent = (await gateway.post(job["links"]["retake"], json={"seed": 1})).json()
    assert silent["webhook"] is None, "a retake tells nobody whom it does not name"
    retake = (await gateway.post(job["links"]["retake"], json={"seed": 2, "webhook_url": receiver.url})).json()
    await told(gateway, retake, "delivered")
    assert len(receiver.heard) == 3
    assert receiver.heard[-1].verified(secret)["data"]["id"] == retake["id"]


async def test_a_failed_job_is_told_with_its_reason(gateway, model_server, receiver, secret, clip):
    problem = wire.Problem.from_error(InputError("No.", code="no_video_track"))
    model_server.plays = [said(wire.error_line(problem))]
    await told(gateway, await send(gateway, clip, webhook_url=receiver.url), "delivered")
    payload = receiver.heard[0].verified(secret)
    assert (payload["type"], payload["data"]["problem"]["code"]) == ("job.failed", "no_video_track")


async def test_canceled_jobs_are_told_waiting_or_running(gateway, model_server, receiver, secret, clip):
    model_server.go_on.clear()
    jobs = [await send(gateway, clip, webhook_url=receiver.url) for _ in range(2)]
    await model_server.entered.wait()
    for job in jobs:
        await gateway.post(job["links"]["cancel"])
    for job in jobs:
        await told(gateway, job, "delivered")
    model_server.go_on.set()
    payloads = [heard.verified(secret) for heard in receiver.heard]
    assert [payload["type"] for payload in payloads] == ["job.canceled"] * 2
    assert {payload["data"]["id"] for payload in payloads} == {job["id"] for job in jobs}


async def test_a_receiver_that_was_down_hears_once_it_is_up(gateway, secret, clip):
    port = free_port()
    job = await send(gateway, clip, webhook_url=f"http://127.0.0.1:{port}/hook")
    while (shown := await told(gateway, job, "pending", "waiting"))["webhook"]["attempts"] < 2:
        await asyncio.sleep(0.02)
    assert shown["state"] == "succeeded"
    assert shown["webhook"]["next_attempt_at"]
    with Receiver(port) as receiver:
        await told(gateway, job, "delivered")
        assert len(receiver.heard) == 1
        assert receiver.heard[0].verified(secret)["data"]["id"] == job["id"]


async def test_every_try_has_the_same_id_and_words(gateway, receiver, secret, clip):
    receiver.answers = [500, 404, 429]
    shown = await told(gateway, await send(gateway, clip, webhook_url=receiver.url), "delivered")
    assert shown["webhook"]["attempts"] == 4
    assert len({(heard.id, heard.body) for heard in receiver.heard}) == 1
    assert all(heard.verified(secret) for heard in receiver.heard)


async def test_a_receiver_that_never_takes_it_is_given_up_by_tries_or_age(config, model_server, receiver, clip):
    receiver.answers = [500] * 20
    for limits in ({"webhook_attempts": 3}, {"webhook_ttl_s": 0.5}):
        async with running(config.model_copy(update=limits), model_server) as gateway:
            shown = await told(gateway, await send(gateway, clip, webhook_url=receiver.url), "failed")
            assert (shown["state"], shown["webhook"]["status"]) == ("succeeded", 500)
            assert 1 <= shown["webhook"]["attempts"] <= 4
            heard = len(receiver.heard)
            await asyncio.sleep(1.5)
            assert len(receiver.heard) == heard


async def test_gone_ends_all_that_the_same_address_was_to_hear(config, model_server, receiver, clip):
    receiver.answers = [500, 410]
    async with running(config.model_copy(update={"webhook_retry_s": 600.0}), model_server) as gateway:
        first = await send(gateway, clip, webhook_url=receiver.url)
        await until(lambda: receiver.heard)
        second = await send(gateway, clip, webhook_url=receiver.url)
        for job in (first, second):
            await told(gateway, job, "gone")
    assert len(receiver.heard) == 2


async def test_a_redirect_is_not_followed(config, model_server, receiver, clip):
    config = config.model_copy(update={"webhook_attempts": 2})
    with Receiver() as inside:
        receiver.answers = [receiver.redirect_to(inside.url)] * 2
        async with running(config, model_server) as gateway:
            shown = await told(gateway, await send(gateway, clip, webhook_url=receiver.url), "failed")
        assert shown["webhook"]["status"] == 302
        assert inside.heard == []


async def test_receivers_that_hang_hold_up_nobody_else(gateway, config, receiver, clip):
    """Not the deliveries of others, not jobs, not the API."""
    with Receiver() as stuck:
        stuck.answers = [stuck.hang] * 30
        for _ in range(8):
            await finished(gateway, await send(gateway, clip, webhook_url=stuck.url))
        await until(lambda: len(stuck.heard) >= 4)
        other = {"headers": bearer(await key_for(config, "write"))}
        answer = await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)}, data={"webhook_url": receiver.url},
                                    **other)  # fmt: skip
        await until(lambda: receiver.heard)
        assert receiver.heard[0].path == "/hook"
        shown = (await gateway.get(answer.json()["links"]["self"], **other)).json()
        assert shown["state"] == "succeeded"
        assert len(stuck.heard) == 4, "one owner has so many under way, no more"


async def test_an_endless_answer_is_not_read(config, model_server, receiver, clip):
    config = config.model_copy(update={"webhook_timeout_s": 6.0, "webhook_attempts": 1})
    async with running(config, model_server) as gateway:
        receiver.answers = [receiver.endless_body]
        await told(gateway, await send(gateway, clip, webhook_url=receiver.url), "delivered")
        receiver.answers = [receiver.endless_head]
        shown = await told(gateway, await send(gateway, clip, webhook_url=receiver.url), "failed")
        assert shown["webhook"]["status"] is None
        assert await value(gateway, 's2s_webhooks_total{outcome="timeout"}') >= 1  # again where a lease ran out


async def test_a_deleted_job_tells_nobody(gateway, config, clip):
    port = free_port()
    job = await send(gateway, clip, webhook_url=f"http://127.0.0.1:{port}/hook")
    await told(gateway, job, "pending")
    while 's2s_webhooks_total{outcome="unreachable"}' not in (await gateway.get("/metrics")).text:
        await asyncio.sleep(0.02)  # until the first try is over
    assert (await gateway.delete(job["links"]["self"])).status_code == 204
    with Receiver(port) as receiver:
        await asyncio.sleep(2.0)
        assert receiver.heard == []
    database = Database.of(config)
    assert await database.read(lambda db: db.scalar(text("SELECT count(*) FROM webhooks"))) == 0
    await database.close()


BAD = [
    "ftp://example.org/x", "example.org", "https://", "https:///x", "file:///etc/passwd", "https://user:word@example.org/",
    "https://example.org/#part", "http://127.0.0.2:1/", "https://[::1]/", "https://169.254.169.254/latest/meta-data",
    "https://[::ffff:8.8.8.8]/", "https://10.1.2.3/x", "https://100.64.0.1/", "https://224.0.0.1/", "https://0.0.0.0/",
    "https://example.org:99999/", "https://example.org/" + "x" * 1000, 7, {"a": 1}, "\x00", "https://exa mple.org/",
]  # fmt: skip


async def test_an_address_that_may_not_be_told_is_refused_with_the_clip(config, model_server, clip):
    config = config.model_copy(update={"webhook_networks": "127.0.0.1/32"})
    async with running(config, model_server) as gateway:
        for url in BAD:
            body = {"file": base64.b64encode(clip).decode(), "webhook_url": url}
            answer = await gateway.post("/v1/jobs", json=body)
            assert answer.json().get("code") == "bad_webhook", (url, answer.text)
            assert answer.status_code == 422
            assert not isinstance(url, str) or len(url) < 9 or url not in answer.text, "it may hold secrets"
        assert not list((config.data_dir / "blobs").glob("*/*"))
        assert model_server.requests == []


async def test_plain_http_needs_the_operators_word(config, model_server, clip):
    async with running(config.model_copy(update={"webhooks": "https"}), model_server) as gateway:
        body = {"files": {"file": ("a.mp4", clip)}, "data": {"webhook_url": "http://example.org/"}}
        assert (await gateway.post("/v1/jobs", **body)).json()["code"] == "bad_webhook"
        assert (await gateway.get("/v1/limits")).json()["webhooks"] == "https"


async def test_without_the_operators_word_there_are_no_webhooks(config, model_server, clip):
    assert Settings.model_fields["webhooks"].default == "off"
    async with running(config.model_copy(update={"webhooks": "off"}), model_server) as gateway:
        body = {"files": {"file": ("a.mp4", clip)}, "data": {"webhook_url": "https://example.org/"}}
        answer = await gateway.post("/v1/jobs", **body)
        assert (answer.status_code, answer.json()["code"]) == (403, "webhooks_off")
        assert (await gateway.get("/v1/webhooks/secret")).status_code == 403
        assert (await gateway.get("/v1/limits")).json()["webhooks"] == "off"


async def test_visitors_name_no_receivers_and_every_key_has_its_own_secret(gateway, config, clip):
    keys = [bearer(await key_for(config, "write")) for _ in range(2)]
    secrets = {(await gateway.get("/v1/webhooks/secret", headers=key)).json()["secret"] for key in keys}
    assert len(secrets) == 2
    visitor = gateway.app.state.service.gatekeeper._signer.cookie("v" * 32)
    told = await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)}, data={"webhook_url": "https://example.org/"},
                              headers={"Cookie": f"s2s_visitor={visitor}"})  # fmt: skip
    assert (told.status_code, told.json()["code"]) == (403, "forbidden")


async def test_a_name_that_leads_inside_is_refused_where_the_connection_is_made(config, model_server, receiver, clip):
    """`localhost` by the system's own resolver; its owner is told no more than of a receiver that is down."""
    config = config.model_copy(update={"webhook_networks": "", "webhook_attempts": 2})
    async with running(config, model_server) as gateway:
        inside = await send(gateway, clip, webhook_url=f"http://localhost:{receiver.port}/hook")
        unknown = await send(gateway, clip, webhook_url="http://nowhere.invalid/hook")
        seen = [(await told(gateway, job, "failed"))["webhook"] for job in (inside, unknown)]
        assert seen[0] == seen[1]
        assert await value(gateway, 's2s_webhooks_total{outcome="address_refused"}') == 2
        assert await value(gateway, 's2s_webhooks_total{outcome="unreachable"}') == 2
    assert receiver.heard == []


async def test_no_address_and_no_secret_is_logged(config, model_server, receiver, clip, caplog):
    caplog.set_level(logging.DEBUG)
    receiver.answers = [500, receiver.redirect_to("http://127.0.0.1/redirect-token")]
    async with running(config, model_server) as gateway:
        secret = (await gateway.get("/v1/webhooks/secret")).json()["secret"]
        job = await send(gateway, clip, webhook_url=f"{receiver.url}?token=url-token")
        text_of_job = json.dumps(await told(gateway, job, "delivered"))
        await gateway.post("/v1/jobs", files={"file": ("a.mp4", clip)}, data={"webhook_url": "gopher://bad-token/"})
        text_of_metrics = (await gateway.get("/metrics")).text
    assert "webhook msg_" in caplog.text
    for private in ("url-token", "redirect-token", "bad-token", secret, receiver.heard[0].headers["webhook-signature"]):
        assert private not in caplog.text + text_of_job + text_of_metrics


async def test_metrics_tell_outcomes_and_the_oldest_that_waits(config, model_server, receiver, clip):
    receiver.answers = [503]
    async with running(config.model_copy(update={"webhook_retry_s": 3.0}), model_server) as gateway:
        job = await send(gateway, clip, webhook_url=receiver.url)
        await until(lambda: receiver.heard)
        await asyncio.sleep(0.2)
        assert await value(gateway, "s2s_oldest_undelivered_webhook_seconds") > 0
        await told(gateway, job, "delivered")
        assert await value(gateway, "s2s_oldest_undelivered_webhook_seconds") == 0
        assert await value(gateway, 's2s_webhooks_total{outcome="status_5xx"}') == 1
        assert await value(gateway, 's2s_webhooks_total{outcome="delivered"}') == 1


def test_the_api_document_describes_what_is_sent(config):
    document = create_app(config).openapi()
    assert set(document["webhooks"]) == {"job.succeeded", "job.failed", "job.canceled"}
    for described in document["webhooks"].values():
        headers = {parameter["name"] for parameter in described["post"]["parameters"]}
        assert headers == {"webhook-id", "webhook-timestamp", "webhook-signature"}
        schema = described["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
        (example,) = document["components"]["schemas"][schema]["examples"]
        assert schemas.JobWebhook.model_validate(example).model_dump(mode="json", exclude_none=True) == example


async def test_a_network_that_is_none_is_told_at_the_start(config):
    app = create_app(config.model_copy(update={"webhook_networks": "10.0.0.0/8, everything"}))
    with pytest.raises(ArtifactError, match="S2S_WEBHOOK_NETWORKS"):
        async with app.router.lifespan_context(app):
            pass
