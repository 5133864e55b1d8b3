"""Promises of docker-compose.yml with the shipped bundle: the main job through nginx, and nothing is lost."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest
from tests.deployment import bases, plugins
from tests.deployment.engine import Engine, wait_for
from tests.deployment.images import build
from tests.deployment.tools import ROOT

from s2s.config import Limits, Settings

pytestmark = pytest.mark.timeout(2400)
CLIP = ROOT / "src/frontend_simple/samples/drum.mp4"
SERVICES = ("frontend", "api-service", "model-server", "postgres")
JOB_WITHIN_S = 600


@pytest.fixture(scope="module")
def compose(engine: Engine) -> Iterator[tuple]:
    """(a function that runs `docker compose`, the stack's address on this machine)."""
    plugins.compose(engine)
    for name in ("api-service", "frontend", "model-server"):
        build(engine, name)
    environment = engine.environment(
        S2S_REGISTRY="local",
        S2S_TAG="test",
        S2S_POSTGRES_IMAGE=bases.base(engine, "postgres"),
        S2S_PUBLISH="0.0.0.0:9000",  # of the engine's own network
        S2S_LEASE_S="8",
        POSTGRES_PASSWORD=secrets.token_hex(12),
        S2S_SECRET_KEY=secrets.token_hex(32),
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    )

    def run(*arguments: str, within_s: float = 900) -> str:
        command = ["docker", "compose", "-f", str(ROOT / "deployment/docker-compose.yml"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=within_s)
        assert done.returncode == 0, done.stderr[-3000:] + _logs(engine)
        return done.stdout

    try:
        run("down", "--volumes", "--timeout", "10")  # of a run that was killed: its database knows another password
        run("up", "--detach", "--wait", "--wait-timeout", "800")
        with engine.published(9000) as port:
            yield run, f"http://127.0.0.1:{port}"
    finally:
        run("down", "--volumes", "--timeout", "10")


def _logs(engine: Engine) -> str:
    ids = engine.docker("ps", "-aq").split()
    return "\n".join(engine.docker("logs", "--tail=15", each, check=False) for each in ids)


@pytest.fixture
def http(compose) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=compose[1], timeout=60, trust_env=False) as client:
        client.get("/")  # as the page: cookies, if there are any
        yield client


def send(http: httpx.Client, clip: Path = CLIP) -> str:
    answer = http.post("/v1/jobs", files={"file": (clip.name, clip.read_bytes(), "video/mp4")})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def state_of(http: httpx.Client, job: str) -> dict:
    """The job, as soon as there is an answer: while a part restarts there may be none for a moment."""
    deadline_s = time.monotonic() + 180
    while True:
        try:
            answer = http.get(f"/v1/jobs/{job}", timeout=10)
            if answer.status_code == 200:
                return answer.json()
            problem = answer.text
        except httpx.HTTPError as exc:
            problem = repr(exc)
        assert time.monotonic() < deadline_s, problem
        time.sleep(0.5)


def finished(http: httpx.Client, job: str) -> dict:
    wait_for(f"job {job}", lambda: state_of(http, job)["state"] not in ("queued", "running"), JOB_WITHIN_S, every_s=0.5)
    return state_of(http, job)


def sound_streams(video: bytes) -> int:
    with av.open(io.BytesIO(video)) as container:
        return len(container.streams.audio)


def events(http: httpx.Client, job: str) -> Iterator[tuple[float, str, dict]]:
    """(when it came in, name, data) until the stream ends."""
    name = ""
    with http.stream("GET", f"/v1/jobs/{job}/events", timeout=httpx.Timeout(60, read=300)) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event:"):
                name = line.removeprefix("event:").strip()
            elif line.startswith("data:"):
                yield time.monotonic(), name, json.loads(line.removeprefix("data:"))
                if name in ("succeeded", "failed", "canceled"):
                    return


def test_a_clip_sent_through_nginx_comes_back_with_sound_and_its_progress_was_told_on_the_way(http):
    job = send(http)
    told = list(events(http, job))
    assert told[-1][1] == "succeeded", told[-1]
    progress = [(when, data["fraction"]) for when, name, data in told if name == "progress"]
    assert len(progress) >= 3
    assert progress[-1][0] - progress[0][0] > 0.3, "the events came all at once: something holds them back"
    assert [fraction for _, fraction in progress] == sorted(fraction for _, fraction in progress)
    result = http.get(f"/v1/jobs/{job}/result")
    assert result.status_code == 200
    assert sound_streams(result.content) == 1


def test_a_file_above_the_limit_is_refused_in_words_by_the_gateway_and_far_above_by_nginx(http):
    limits = Limits(max_bytes=Settings().http_max_bytes, max_duration_s=1)
    for size in (limits.max_bytes + 1, limits.max_request_bytes + 1):
        answer = http.post("/v1/jobs", files={"file": ("big.mp4", bytes(size), "video/mp4")})
        assert answer.status_code == 413, size
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["code"] == "too_large"


def test_the_page_comes_with_the_gateways_security_headers_and_metrics_stay_inside(http):
    page, gateway = http.get("/"), http.get("/livez")
    assert "<title" in page.text
    assert gateway.json()["status"]
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Permissions-Policy"):
        assert page.headers[name] == gateway.headers[name], name
    assert "nginx/" not in page.headers["server"]
    assert "javascript" in http.get("/js/main.js").headers["content-type"]
    assert {http.get(path).status_code for path in ("/metrics", "/api/metrics", "/api//metrics")} == {404}
    assert http.get("/api/v1/limits").json() == http.get("/v1/limits").json()


def test_jobs_are_in_postgresql(compose, http):
    job = send(http)
    query = f"select count(*) from jobs where id = '{job}'"
    run, _ = compose
    answer = run("exec", "-T", "postgres", "psql", "-U", "s2s", "-d", "s2s", "-tAc", query)
    assert answer.strip() == "1"
    assert finished(http, job)["state"] == "succeeded"


@pytest.mark.parametrize("service", SERVICES)
def test_no_job_is_lost_when_a_container_restarts_in_the_middle_of_it(compose, engine, http, service, long_clip):
    run, _ = compose
    jobs = [send(http, long_clip), send(http)]  # one at work, one that waits
    wait_for("a job at work", lambda: (state_of(http, jobs[0]).get("progress") or {}).get("fraction", 0) > 0.02, 300)
    at_work = state_of(http, jobs[0])["state"]
    run("restart", "--timeout", "3", service)
    assert at_work == "running", "the clip was done before the restart: nothing was tested"
    for job in jobs:
        assert finished(http, job)["state"] == "succeeded"
        assert sound_streams(http.get(f"/v1/jobs/{job}/result").content) == 1


def test_the_containers_have_no_rights_to_spare(compose, engine):
    for service in SERVICES:
        identity = compose[0]("ps", "-q", service).strip()
        (container,) = json.loads(engine.docker("inspect", identity))
        host = container["HostConfig"]
        rights = host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]
        assert rights == (True, ["ALL"], False), service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert container["Config"]["User"] not in ("", "root", "0"), service
    published = [line for line in engine.docker("ps", "--format", "{{.Names}} {{.Ports}}").splitlines() if "->" in line]
    assert len(published) == 1, published


def test_the_model_server_and_the_database_reach_nothing_outside(compose):
    script = "import socket; socket.setdefaulttimeout(3); socket.create_connection(('deb.debian.org', 80))"
    with pytest.raises(AssertionError, match=r"Error|error"):
        compose[0]("exec", "-T", "model-server", "python", "-c", script)
