"""Promises to whoever runs it: metrics, logs, a dashboard that matches, a drain."""

import asyncio
import json
import logging
import re

from gateway_kit import finished, running, send, value

from api_service.api.logs import JsonLines, job_id, request_id
from s2s.config import REPO_ROOT


async def test_metrics_follow_what_happens(gateway, model_server, clip):
    model_server.plays = [model_server.die, model_server.busy]
    model_server.go_on.clear()
    first, second = await send(gateway, clip), await send(gateway, clip)
    await gateway.post("/v1/jobs", json={"file": "####"})
    await asyncio.sleep(0.3)
    assert await value(gateway, 's2s_jobs{state="queued"}') >= 1
    assert await value(gateway, "s2s_oldest_queued_job_seconds") > 0
    model_server.go_on.set()
    for job in (first, second):
        assert (await finished(gateway, job, within_s=20))["state"] == "succeeded"
    assert await value(gateway, 's2s_jobs{state="succeeded"}') == 2
    assert await value(gateway, 's2s_jobs{state="queued"}') == 0
    assert await value(gateway, "s2s_oldest_queued_job_seconds") == 0
    assert await value(gateway, 's2s_attempts_total{outcome="succeeded"}') == 2
    assert await value(gateway, 's2s_attempts_total{outcome="worker_lost"}') == 1
    assert await value(gateway, 's2s_attempts_total{outcome="busy"}') >= 1
    assert await value(gateway, "s2s_run_seconds_count") == 2
    assert await value(gateway, 's2s_refused_total{code="bad_base64"}') == 1
    assert await value(gateway, 's2s_http_requests_total{method="POST",route="/v1/jobs",status="202"}') == 2
    assert await value(gateway, "s2s_stored_bytes") > 4 * len(clip)


async def test_a_failure_that_nobody_expected_is_answered_counted_and_logged_like_all(gateway, monkeypatch, caplog):
    caplog.set_level(logging.INFO)

    async def stumble(job_id):
        raise KeyError("a detail of ours")

    monkeypatch.setattr(gateway.app.state.service.store, "get", stumble)
    answer = await gateway.get("/v1/jobs/none")
    told = answer.json()
    assert (answer.status_code, told["code"]) == (500, "internal")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert told["request_id"] == answer.headers["x-request-id"]
    assert "detail of ours" not in answer.text
    assert await value(gateway, 's2s_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="500"}') == 1
    assert await value(gateway, 's2s_refused_total{code="internal"}') == 1
    assert "GET /v1/jobs/{job_id}: 500" in caplog.text
    (failed,) = [record for record in caplog.records if record.exc_info]
    assert told["request_id"] in failed.getMessage()


async def test_who_hangs_up_in_the_middle_of_an_upload_is_no_failure_of_ours(gateway, caplog):
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.base_url.port)
    writer.write(
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: 5000\r\n\r\n--b\r\n"
    )
    admission = gateway.app.state.service.admission
    while not admission._incoming:
        await asyncio.sleep(0.01)
    writer.close()
    while admission._incoming:
        await asyncio.sleep(0.01)
    assert await value(gateway, 's2s_http_requests_total{method="POST",route="/v1/jobs",status="499"}') == 1
    assert "Traceback" not in caplog.text


async def test_no_address_is_told_in_metrics_or_logs(gateway, clip, caplog):
    caplog.set_level(logging.INFO)
    job = await finished(gateway, await send(gateway, clip))
    share = (await gateway.post(job["links"]["share"])).json()
    await gateway.get(f"/v1/shared/{share['token']}")
    await gateway.get("/nowhere/secret-words")
    told = (await gateway.get("/metrics")).text + caplog.text
    for private in (share["token"], "secret-words", "my clip"):
        assert private not in told


async def test_the_dashboard_asks_for_metrics_that_there_are(gateway, clip):
    await finished(gateway, await send(gateway, clip))
    await gateway.get("/nowhere")
    text = (await gateway.get("/metrics")).text
    dashboard = json.loads((REPO_ROOT / "deployment" / "monitoring" / "gateway-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"s2s_\w+", target["expr"])
    }
    assert len(asked) >= 8
    assert {name for name in asked if not re.search(rf"^# HELP {name.removesuffix('_bucket')} ", text, re.M)} == set()


def test_a_json_line_names_request_and_job():
    request_id.set("r1")
    job_id.set("j1")
    record = logging.LogRecord("x", logging.INFO, "f", 1, "said %s", ("\nü",), None)
    line = JsonLines().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert (told["message"], told["request_id"], told["job_id"], told["level"]) == ("said \nü", "r1", "j1", "INFO")


async def test_a_gateway_that_stops_lets_its_job_finish(config, model_server, clip):
    config = config.model_copy(update={"drain_s": 10.0})
    model_server.go_on.clear()
    async with running(config, model_server) as gateway:
        job = await send(gateway, clip)
        await model_server.entered.wait()
        asyncio.get_running_loop().call_later(0.3, model_server.go_on.set)
    assert len(model_server.requests) == 1
    async with running(config, model_server) as gateway:
        assert (await gateway.get(job["links"]["self"])).json()["state"] == "succeeded"
    assert len(model_server.requests) == 1


async def test_without_a_worker_of_its_own_a_gateway_only_takes_jobs_in(config, model_server, clip):
    async with running(config.model_copy(update={"embedded_worker": False}), model_server) as gateway:
        job = await send(gateway, clip)
        await asyncio.sleep(0.3)
        assert (await gateway.get(job["links"]["self"])).json()["state"] == "queued"
        async with running(config, model_server):  # another replica, with a worker, on the same table
            assert (await finished(gateway, job))["state"] == "succeeded"
        assert (await gateway.get(job["links"]["result"])).content == model_server.sound_of(clip)
