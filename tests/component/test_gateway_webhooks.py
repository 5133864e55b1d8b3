"""A process killed (-9) between a job's success and its delivery: the next one tells, and says the same."""

import os
import time
from contextlib import ExitStack

import httpx
import pytest
from tests.chaos import GATEWAY, INSTANT_MODEL, QUICK, Member, free_port, until_alive
from tests.clips import film
from tests.postgres import running_postgres
from tests.receiver import Receiver

from s2s.config import Settings


@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_a_killed_gateway_leaves_its_deliveries_to_the_next(tmp_path, engine):
    port, model_port = free_port(), free_port()
    clip = film(tmp_path / "clip.mp4", seconds=0.6).read_bytes()
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        receiver.answers = [receiver.hang]  # hears the first try and never says so
        config = Settings(
            **QUICK,
            data_dir=tmp_path / "var",
            database_url=stack.enter_context(running_postgres()).url if engine == "postgresql" else "",
            model_server_url=f"http://127.0.0.1:{model_port}",
            port=port,
            webhooks="http",
            webhook_networks="127.0.0.1/32",
            webhook_timeout_s=5.0,
        )
        environment = {**os.environ, **config.environment()}
        gateway = Member("gateway", GATEWAY, environment, tmp_path)
        stack.callback(lambda: gateway.kill())
        model = Member("model", [*INSTANT_MODEL, str(model_port)], environment, tmp_path)
        stack.callback(model.kill)
        url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(httpx.Client(base_url=url, timeout=60, trust_env=False))
        until_alive(url)
        files = {"file": ("a.mp4", clip, "video/mp4")}
        job = client.post("/v1/jobs", files=files, data={"webhook_url": receiver.url}).raise_for_status().json()
        _until(lambda: receiver.heard)
        gateway.kill()
        gateway.start()
        until_alive(url)
        _until(lambda: client.get(job["links"]["self"]).json()["webhook"]["state"] == "delivered")
        secret = client.get("/v1/webhooks/secret").json()["secret"]
    first, second = receiver.heard
    assert (first.id, first.body) == (second.id, second.body)
    assert first.verified(secret)["data"]["id"] == second.verified(secret)["data"]["id"] == job["id"]


def _until(condition, within_s: float = 180.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
