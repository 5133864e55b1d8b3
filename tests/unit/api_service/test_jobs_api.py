"""Promises of the job API, over HTTP, with an instant stand-in for the model server."""

import asyncio
import base64
import json

import httpx
import pytest
from gateway_kit import REPORT, events, finished, make_clip, running, said, send

from api_service.api.database import Database
from s2s import wire
from s2s.errors import InputError, ProcessingError
from s2s.events import Progress, Stage


async def test_a_clip_becomes_a_job_and_then_a_result(gateway, model_server, clip):
    answer = await gateway.post("/v1/jobs", files={"file": ("my clip.mp4", clip, "video/mp4")}, data={"seed": "7"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["links"]["self"]
    assert job["state"] in ("queued", "running")
    assert job["filename"] == "my clip.mp4"
    job = await finished(gateway, job)
    assert job["state"] == "succeeded"
    assert job["report"]["events"][0]["time_s"] == 0.5
    assert job["report"]["seed"] == 7
    result = await gateway.get(job["links"]["result"])
    assert result.content == model_server.sound_of(clip)
    assert result.headers["content-type"] == "video/mp4"
    assert result.headers["x-content-type-options"] == "nosniff"
    assert "my%20clip-with-sound.mp4" in result.headers["content-disposition"]


async def test_json_with_base64_works_too(gateway, model_server, clip):
    for body in ({"file": base64.b64encode(clip).decode(), "seed": 3}, [{"file": base64.b64encode(clip).decode()}]):
        answer = await gateway.post("/v1/jobs", json=body)
        assert answer.status_code == 202
        job = await finished(gateway, answer.json())
        assert (await gateway.get(job["links"]["result"])).content == model_server.sound_of(clip)


async def test_options_reach_the_model_server(gateway, model_server, clip):
    await finished(gateway, await send(gateway, clip, seed="41", category="trommel ü"))
    headers = model_server.requests[0].headers
    assert headers["x-s2s-seed"] == "41"
    limits = gateway.app.state.service.config.http_limits
    assert wire.parse_prediction(clip, headers, limits).wishes.category == "trommel ü"


async def test_a_result_can_be_read_in_parts_and_is_not_sent_twice(gateway, model_server, clip):
    job = await finished(gateway, await send(gateway, clip))
    part = await gateway.get(job["links"]["result"], headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == model_server.sound_of(clip)[10:20]
    again = await gateway.get(job["links"]["result"], headers={"If-None-Match": part.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""


async def test_events_tell_the_whole_way(gateway, model_server, clip):
    model_server.go_on.clear()
    job = await send(gateway, clip)
    following = asyncio.create_task(events(gateway, job))
    await model_server.entered.wait()
    while job["id"] not in gateway.app.state.service.store.signals._waiting:  # until somebody follows it
        await asyncio.sleep(0.01)
    model_server.go_on.set()
    told = await following
    names = [name for _, name, _ in told]
    assert names[0] == "snapshot"
    assert names[-1] == "succeeded"
    assert told[-1][2] == (await gateway.get(job["links"]["self"])).json()
    fractions = [data["fraction"] for _, name, data in told if name == "progress"]
    assert fractions == sorted(fractions)
    assert [data["stage"] for _, name, data in told if name == "progress"][-1] == "mel"
    numbers = [number for number, _, _ in told if number is not None]
    assert numbers == sorted(set(numbers))


async def test_a_client_that_comes_back_misses_nothing_and_hears_nothing_twice(gateway, model_server, clip):
    model_server.go_on.clear()
    job = await send(gateway, clip)
    following = asyncio.create_task(events(gateway, job, last_event_id=0))
    model_server.go_on.set()
    whole = [told for told in await following if told[0] is not None]
    assert [name for _, name, _ in whole] == ["progress"] * 4 + ["succeeded"]
    for number, _, _ in whole[:-1]:
        assert await events(gateway, job, number) == [told for told in whole if told[0] > number]
    nonsense = await gateway.get(job["links"]["events"], headers={"Last-Event-ID": "9" * 5000})
    assert nonsense.status_code == 200
    last = await gateway.get(job["links"]["events"], headers={"Last-Event-ID": str(whole[-1][0])})
    assert last.status_code == 204, "EventSource must stop asking"


async def test_a_late_client_hears_the_outcome(gateway, clip):
    job = await finished(gateway, await send(gateway, clip))
    assert [(name, data["state"]) for _, name, data in await events(gateway, job)] == [
        ("snapshot", "succeeded"),
        ("succeeded", "succeeded"),
    ]


async def test_waiting_jobs_know_their_place(gateway, model_server, clip):
    await finished(gateway, await send(gateway, clip))  # so that an estimate exists
    model_server.go_on.clear()
    model_server.entered.clear()
    await send(gateway, clip)
    await model_server.entered.wait()
    second, third = await send(gateway, clip), await send(gateway, clip)
    assert (second["queue_position"], third["queue_position"]) == (1, 2)
    assert 0 <= second["eta_s"] <= third["eta_s"]
    places = []
    async with gateway.stream("GET", third["links"]["events"]) as following:
        async for line in following.aiter_lines():
            if line.startswith("data: ") and "position" in (told := json.loads(line.removeprefix("data: "))):
                places.append(told["position"])
                model_server.go_on.set()  # only once a first place was told
    assert places[0] == 2
    assert places == sorted(places, reverse=True)


async def test_a_job_that_goes_back_into_the_queue_says_so(gateway, model_server, clip):
    model_server.go_on.clear()
    job, store = await send(gateway, clip), gateway.app.state.service.store
    await model_server.entered.wait()
    names = []
    async with gateway.stream("GET", job["links"]["events"]) as following:
        async for line in following.aiter_lines():
            if not line.startswith("event: "):
                continue
            names.append(line.removeprefix("event: "))
            if names == ["snapshot"]:
                await store.release(await store.get(job["id"]), 60.0, counts=False)
            elif names[-1] == "queued":
                break
    await gateway.delete(job["links"]["self"])
    model_server.go_on.set()
    assert names[-1] == "queued"


async def test_two_clients_never_get_each_others_result(gateway, model_server, tmp_path):
    clips = [make_clip(tmp_path / f"{shade}.mp4", shade) for shade in (10, 60, 110, 160, 210)]
    sent = await asyncio.gather(*(send(gateway, clip) for clip in clips))
    done = await asyncio.gather(*(finished(gateway, job) for job in sent))
    for clip, job in zip(clips, done, strict=True):
        assert (await gateway.get(job["links"]["result"])).content == model_server.sound_of(clip)


def multipart(video: bytes, name: str = "file") -> dict:
    return {"files": {name: ("a.mp4", video, "video/mp4")}}


BAD_UPLOADS = {
    "an empty file": (multipart(b""), "not_a_video"),
    "text": (multipart(b"#EXTM3U\n/etc/passwd\n" * 20), "not_a_video"),
    "a form without a file": ({"data": {"seed": "1"}, "files": {"category": (None, "drum")}}, "bad_request"),
    "an unknown field": (multipart(b"x", "video"), "bad_request"),
    "a seed that is no number": ({**multipart(b"x"), "data": {"seed": "abc"}}, "bad_request"),
    "a form cut short": (
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
            "headers": {"content-type": "multipart/form-data; boundary=b"},
        },
        "bad_request",
    ),
    "a form that is none": (
        {"content": b"abc", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        "bad_request",
    ),
    "JSON that is none": ({"content": b'{"file": ', "headers": {"content-type": "application/json"}}, "bad_request"),
    "deep JSON": ({"content": b"[" * 50_000, "headers": {"content-type": "application/json"}}, "bad_request"),
    "JSON of another shape": ({"json": {"video": "AAAA"}}, "bad_request"),
    "a JSON number": ({"json": 5}, "bad_request"),
    "base64 with junk": ({"json": {"file": "AAAA####"}}, "bad_base64"),
    "another content type": ({"content": b"abc", "headers": {"content-type": "text/html"}}, "unsupported_media_type"),
    "no content type": ({"content": b"abc"}, "unsupported_media_type"),
    "too many bytes": (multipart(b"\0" * 300_000), "too_large"),
    "too many bytes of base64": ({"json": {"file": "A" * 500_000}}, "too_large"),
}


@pytest.mark.parametrize(("request_args", "code"), BAD_UPLOADS.values(), ids=BAD_UPLOADS.keys())
async def test_bad_input_is_a_clear_problem_and_nothing_is_kept(gateway, config, model_server, request_args, code):
    answer = await gateway.post("/v1/jobs", **request_args)
    problem = answer.json()
    assert problem["code"] == code
    assert answer.status_code == problem["status"] == wire.STATUS_OF_CODE[code]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert list((config.data_dir / "blobs").iterdir()) == []
    assert model_server.requests == []


async def test_an_upload_without_a_length_stops_at_the_limit(gateway, config):
    async def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(40):
            yield b"\0" * 10_000

    answer = await gateway.post(
        "/v1/jobs", content=endless(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.json()["code"] == "too_large"
    assert list((config.data_dir / "blobs").iterdir()) == []


async def test_a_clip_that_is_too_long_is_refused_before_it_is_queued(gateway, tmp_path, model_server):
    answer = await gateway.post("/v1/jobs", **multipart(make_clip(tmp_path / "long.mp4", frames=150)))
    assert answer.json()["code"] == "too_long"
    assert model_server.requests == []


async def test_a_full_queue_says_so(gateway, model_server, clip):
    model_server.go_on.clear()
    await send(gateway, clip)
    await model_server.entered.wait()
    for _ in range(5):
        await send(gateway, clip)
    answer = await gateway.post("/v1/jobs", **multipart(clip))
    assert answer.status_code == 503
    assert answer.json()["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) > 0
    model_server.go_on.set()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("GET", "/v1/jobs/none", 404, "not_found"),
        ("GET", "/v1/jobs/none/events", 404, "not_found"),
        ("GET", "/v1/jobs/none/result", 404, "not_found"),
        ("POST", "/v1/jobs/none/cancel", 404, "not_found"),
        ("DELETE", "/v1/jobs/none", 404, "not_found"),
        ("GET", "/get_video/none.mp4", 404, "not_found"),
    ],
)
async def test_every_error_is_problem_json(gateway, method, path, status, code):
    answer = await gateway.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_same_key_makes_one_job(gateway, clip, config):
    headers = {"Idempotency-Key": "once"}
    first, second = [(await gateway.post("/v1/jobs", **multipart(clip), headers=headers)).json() for _ in range(2)]
    assert first["id"] == second["id"]
    assert len(list((config.data_dir / "blobs").iterdir())) == 1


# When the model server fails


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr("api_service.api.jobs.BACKOFF_S", (0.05,))
    monkeypatch.setattr("api_service.api.jobs.PAUSE_S", (0.05, 0.1))


async def test_a_lost_worker_is_tried_again(gateway, model_server, clip):
    model_server.plays = [model_server.die]
    job = await finished(gateway, await send(gateway, clip))
    assert job["state"] == "succeeded"
    assert len(model_server.requests) == 2


async def test_a_clip_that_keeps_killing_workers_fails_with_a_reason(gateway, model_server, clip):
    model_server.plays = [model_server.die] * 5
    job = await finished(gateway, await send(gateway, clip))
    assert (job["state"], job["problem"]["code"]) == ("failed", "worker_lost")
    assert len(model_server.requests) == 3


async def test_torchserves_own_words_for_a_dead_worker_are_understood(gateway, model_server, clip):
    async def died(request, body):
        return httpx.Response(507, json={"code": 507, "type": "InternalServerException", "message": "Worker died."})

    model_server.plays = [died]
    assert (await finished(gateway, await send(gateway, clip)))["state"] == "succeeded"
    assert len(model_server.requests) == 2


async def test_bad_input_found_by_the_model_is_told_and_not_retried(gateway, model_server, clip):
    problem = wire.Problem.from_error(InputError("No such kind.", code="unknown_category", hint="Use drum."))

    async def refuse(request, body):
        return httpx.Response(422, json=problem.model_dump())

    model_server.plays = [refuse, said(wire.progress_line(Progress(Stage.FRAMES, 1, 2)), wire.error_line(problem))]
    for _ in range(2):
        job = await finished(gateway, await send(gateway, clip))
        assert (job["state"], job["problem"]["code"]) == ("failed", "unknown_category")
        assert job["problem"]["hint"] == "Use drum."
        told = await gateway.get(job["links"]["result"])
        assert (told.status_code, told.json()["code"]) == (409, "not_ready")
    assert len(model_server.requests) == 2


async def test_details_of_our_failures_do_not_leak(gateway, model_server, clip):
    line = wire.error_line(wire.Problem.from_error(ProcessingError("secret path /srv/x")))
    model_server.plays = [said(line)] * 3
    job = await finished(gateway, await send(gateway, clip))
    assert job["problem"]["code"] == "processing_failed"
    assert "secret" not in str(job)


async def test_a_busy_model_server_does_not_cost_an_attempt(gateway, model_server, clip):
    model_server.plays = [model_server.busy] * 4
    job = await finished(gateway, await send(gateway, clip), within_s=20)
    assert job["state"] == "succeeded"


async def test_jobs_wait_while_the_model_server_is_away(gateway, model_server, clip):
    async def away(request, body):
        raise httpx.ConnectError("refused")

    model_server.plays = [away] * 100
    job = await send(gateway, clip)
    told = {}
    for _ in range(500):
        told = (await gateway.get("/readyz")).json()
        if told["model_server"] == "unavailable":
            break
        await asyncio.sleep(0.01)
    assert told == {"status": "ok", "model_server": "unavailable"}
    model_server.plays.clear()
    assert (await finished(gateway, job, within_s=20))["state"] == "succeeded"


VIDEO = b"\0\0\0\x18ftypisom" + b"\0" * 100
CHUNK = list(wire.chunk_lines(VIDEO))
DONE = wire.done_line(REPORT, VIDEO, "mp4")
LIES = {
    "not the bytes that were announced": [*CHUNK, wire.done_line(REPORT, VIDEO + b"x", "mp4")],
    "no bytes": [wire.done_line(REPORT, b"", "mp4")],
    "a page instead of a video": [*wire.chunk_lines(b"<html>" * 9), wire.done_line(REPORT, b"<html>" * 9, "mp4")],
    "an unknown container": [*CHUNK, wire.done_line(REPORT, VIDEO, "html")],
    "a missing piece": [CHUNK[0].replace('"index": 0', '"index": 1'), DONE],
    "junk base64": [CHUNK[0].replace('"data": "', '"data": "#'), DONE],
    "no JSON": ["hello\n", DONE],
    "an unknown event": ['{"event": "surprise"}\n', DONE],
    "progress without sense": ['{"event": "progress", "stage": "dance", "step": 1, "total": 2, "fraction": 0}\n', DONE],
    "a report without sense": [*CHUNK, wire.done_line({**REPORT, "events": "many"}, VIDEO, "mp4")],
    "an error without sense": ['{"event": "error", "x": 1}\n'],
    "more than any result can have": [line for n in range(40) for line in wire.chunk_lines(b"\0" * 700_000)],
}


@pytest.mark.parametrize("lines", LIES.values(), ids=LIES.keys())
async def test_the_model_servers_answer_is_checked(gateway, model_server, clip, config, lines):
    model_server.plays = [said(*lines)] * 3
    job = await finished(gateway, await send(gateway, clip))
    assert job["state"] == "failed"
    assert job["problem"]["status"] == 502
    assert sorted(path.name for path in (config.data_dir / "blobs" / job["id"]).iterdir()) == ["in"]


# Stopping, deleting, coming back


async def test_a_waiting_job_is_canceled_at_once(gateway, model_server, clip):
    model_server.go_on.clear()
    await send(gateway, clip)
    await model_server.entered.wait()
    waiting = await send(gateway, clip)
    answer = await gateway.post(waiting["links"]["cancel"])
    assert answer.json()["state"] == "canceled"
    model_server.go_on.set()
    assert [name for _, name, _ in await events(gateway, waiting)] == ["snapshot", "canceled"]
    assert len(model_server.requests) == 1


async def test_a_running_job_is_canceled_for_the_user_at_once_and_the_model_server_is_told(
    gateway, model_server, clip, config
):
    model_server.go_on.clear()
    job = await send(gateway, clip)
    await model_server.entered.wait()
    following = asyncio.create_task(events(gateway, job))
    assert (await gateway.post(job["links"]["cancel"])).json()["state"] in ("canceling", "canceled")
    assert (await finished(gateway, job))["state"] == "canceled"
    assert [flag.name for flag in config.cancel_dir.iterdir()] == [f"{job['id']}.1"]
    assert (await following)[-1][1] == "canceled"
    other = await send(gateway, clip)
    await asyncio.sleep(0.2)
    assert len(model_server.requests) == 1, "the lane is taken until the model server has answered"
    model_server.go_on.set()
    assert (await finished(gateway, other))["state"] == "succeeded"
    assert (await gateway.get(job["links"]["self"])).json()["state"] == "canceled", "a late result changes nothing"


async def test_delete_leaves_nothing(gateway, model_server, clip, config):
    done = await finished(gateway, await send(gateway, clip))
    model_server.go_on.clear()
    model_server.entered.clear()
    busy = await send(gateway, clip)
    await model_server.entered.wait()
    for job in (done, busy):
        assert (await gateway.delete(job["links"]["self"])).status_code == 204
        assert (await gateway.get(job["links"]["self"])).status_code == 404
    await asyncio.sleep(0.2)
    assert list((config.data_dir / "blobs").iterdir()) == []
    model_server.go_on.set()


async def test_a_job_survives_a_restart_of_the_gateway(config, model_server, clip):
    model_server.go_on.clear()
    async with running(config, model_server) as first:
        running_job = await send(first, clip)
        await model_server.entered.wait()
        waiting_job = await send(first, clip)
    model_server.go_on.set()
    async with running(config, model_server) as second:
        for job in (running_job, waiting_job):
            job = await finished(second, job)
            assert job["state"] == "succeeded"
            assert (await second.get(job["links"]["result"])).content == model_server.sound_of(clip)


async def test_a_job_of_a_gateway_that_was_killed_is_taken_over(config, model_server, clip):
    model_server.go_on.clear()
    async with running(config, model_server) as first:
        job = await send(first, clip)
        await model_server.entered.wait()
        worker = first.app.state.service.worker
        worker._store.release = lambda *args, **kw: asyncio.sleep(0)  # as after kill -9: nobody gives the job back
    model_server.go_on.set()
    async with running(config, model_server) as second:
        job = await finished(second, job)
        assert job["state"] == "succeeded"
        assert (config.cancel_dir / f"{job['id']}.1").exists(), "the vanished attempt is told to stop"


async def test_results_expire_and_say_so(config, model_server, clip):
    async with running(config.model_copy(update={"result_ttl_s": 600.0}), model_server) as gateway:
        job = await finished(gateway, await send(gateway, clip))
        service = gateway.app.state.service
        older = "UPDATE jobs SET finished_at = finished_at - 900"  # between once and twice as long as they are kept
        database = Database.of(config)
        await database.write(lambda db: db.exec_driver_sql(older))
        await database.close()
        for job_id in await service.store.expire(600.0):
            await service.blobs.delete(job_id)
        assert (await gateway.get(job["links"]["self"])).json()["state"] == "expired"
        answer = await gateway.get(job["links"]["result"])
        assert (answer.status_code, answer.json()["code"]) == (410, "gone")
    assert list((config.data_dir / "blobs").iterdir()) == []


# What the original project's clients know


async def test_the_original_projects_routes_still_work(gateway, model_server, clip):
    model_server.go_on.clear()
    started = (await gateway.post("/predict", **multipart(clip))).json()
    assert started["message"] == "Video processing started"
    assert started["filename"].endswith(".mp4")
    name = started["filename"]
    assert (await gateway.get(f"/status/{name}")).json() == {"status": "processing"}
    assert (await gateway.get(f"/get_video/{name}")).status_code == 409
    model_server.go_on.set()
    while (await gateway.get(f"/status/{name}")).json() == {"status": "processing"}:
        await asyncio.sleep(0.02)
    assert (await gateway.get(f"/status/{name}")).json() == {"status": "completed"}
    video = await gateway.get(f"/get_video/{name}")
    assert video.content == model_server.sound_of(clip)
    assert video.headers["content-type"] == "video/mp4"
    assert video.headers["content-disposition"].startswith("attachment")
    assert name in video.headers["content-disposition"]
    assert (await gateway.get("/status/unknown.mp4")).json() == {"status": "not_started"}
    assert (await gateway.post("/predict", json={"file": base64.b64encode(clip).decode()})).status_code == 200


async def test_the_original_status_of_a_failed_job_is_error(gateway, model_server, clip):
    model_server.plays = [model_server.die] * 3
    name = (await gateway.post("/predict", **multipart(clip))).json()["filename"]
    await finished(gateway, {"links": {"self": f"/v1/jobs/{name.removesuffix('.mp4')}"}})
    assert (await gateway.get(f"/status/{name}")).json() == {"status": "error"}


# About


async def test_limits_models_and_health_are_published(gateway, config):
    limits = (await gateway.get("/v1/limits")).json()
    assert limits["max_bytes"] == config.http_max_bytes
    assert limits["max_duration_s"] == config.http_max_duration_s
    assert (await gateway.get("/v1/models")).json() == {
        "models": [{"name": "small", "version": "1", "categories": ["drum", "bell"]}]
    }
    assert (await gateway.get("/livez")).json() == {"status": "ok"}
    assert (await gateway.get("/readyz")).status_code == 200


async def test_the_docs_need_nothing_from_elsewhere(gateway):
    page = await gateway.get("/docs")
    assert "http" not in page.text
    for asset in ("docs/assets/swagger-ui.css", "docs/assets/swagger-ui-bundle.js", "docs/start.js", "openapi.json"):
        assert asset in page.text or asset == "openapi.json"
        assert (await gateway.get("/" + asset)).status_code == 200
    assert "'unsafe-inline'" not in page.headers["content-security-policy"].split("script-src")[1].split(";")[0]


async def test_the_openapi_document_describes_every_error(gateway):
    document = (await gateway.get("/openapi.json")).json()
    create = document["paths"]["/v1/jobs"]["post"]
    assert {"202", "400", "413", "415", "422", "503"} <= set(create["responses"])
    assert set(create["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["tags"]
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert "application/problem+json" in answer["content"], (path, status)
    references = str(document).split("#/components/schemas/")[1:]
    assert {reference.split("'")[0] for reference in references} <= set(document["components"]["schemas"])


async def test_every_answer_carries_the_security_headers(gateway):
    for path in ("/", "/livez", "/nowhere", "/docs"):
        headers = (await gateway.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-request-id"]
