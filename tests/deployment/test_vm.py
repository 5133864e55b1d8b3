"""Promises of the playbooks for images and for a single machine: a real registry, a real systemd machine, real ssh."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time
from collections.abc import Iterator

import av
import httpx
import pytest
from tests.deployment.engine import Engine, wait_for
from tests.deployment.machines import REGISTRY, Machine, Published, play, running_machine
from tests.deployment.tools import ROOT

pytestmark = pytest.mark.timeout(3000)
CLIP = ROOT / "src/frontend_simple/samples/drum.mp4"
FIGURES: list[str] = []  # of fixtures
INVENTORIES = ("-i", "inventory.yml")


def test_images_are_pushed_by_commit_and_known_by_digest_and_a_second_run_builds_nothing(engine, published):
    known = published.digests
    assert set(known) == {"torch-base", "api-service", "frontend", "model-server"}
    for name, reference in known.items():
        assert re.fullmatch(rf"{re.escape(published.registry)}/{name}@sha256:[0-9a-f]{{64}}", reference)
    second = play(engine, *published.arguments, inside=True)
    assert second.code == 0, second.output[-4000:]
    assert (second.totals["changed"], second.changes) == (0, [])


def test_another_machine_learns_the_digests_of_what_was_pushed_and_can_give_it_more_tags(engine, published):
    known = published.digests
    engine.docker("rmi", "--force", f"{published.registry}/frontend:{published.tag}")
    published.digests_file.unlink()
    command, option, variables = published.arguments
    tagged = (command, option, json.dumps(json.loads(variables) | {"images_extra_tags": ["stable"]}))
    other = play(engine, *tagged, inside=True)
    assert other.code == 0, other.output[-4000:]
    assert published.digests == known
    assert {change.rpartition(": ")[2] for change in other.changes} >= {"More tags"}, other.changes
    again = play(engine, *tagged, inside=True)
    assert (again.code, again.changes) == (0, []), again.output[-4000:]


def test_a_placeholder_project_is_refused_before_anything_is_built(engine):
    played = play(engine, "deploy-docker-images.yml", "--extra-vars", "image_tag=x")
    assert played.code != 0
    assert "Replace gcp_project" in played.output


@pytest.fixture(scope="module")
def machine(engine: Engine) -> Iterator[Machine]:
    with running_machine(engine) as running:
        yield running


def arguments_of(machine: Machine, published: Published) -> tuple[str, ...]:
    variables = {
        "image_registry": published.registry,
        "image_tag": published.tag,
        "provision_insecure_registries": [REGISTRY],
        "containers_postgres_image": published.postgres,
        "containers_model_settings": {"OMP_NUM_THREADS": "1"},
        "containers_gateway_settings": {"S2S_DRAIN_S": "7"},
        "webserver_tls": "self-signed",
    }
    return (*INVENTORIES, "-i", str(machine.inventory), "--extra-vars", json.dumps(variables))


@pytest.fixture(scope="module")
def deployed(engine: Engine, machine: Machine, published: Published) -> Iterator[httpx.Client]:
    """A client of the machine's own web server, after the three playbooks have run once on a bare machine."""
    for playbook in ("deploy-provision-instance.yml", "deploy-setup-containers.yml", "deploy-setup-webserver.yml"):
        started_s = time.monotonic()
        played = play(engine, playbook, *arguments_of(machine, published))
        assert played.code == 0, played.output[-5000:] + machine.sh(
            "docker ps -a; for c in $(docker ps -aq); do docker logs --tail=15 $c; done 2>&1", check=False
        )
        assert played.totals["changed"] > 0
        FIGURES.append(f"{playbook}: {time.monotonic() - started_s:.0f} s, {played.totals}")
    with (
        engine.published(443) as port,
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=60, trust_env=False) as client,
    ):
        yield client


def test_a_clip_sent_to_the_machine_over_tls_comes_back_with_sound(deployed, record_property):
    record_property("figure", "\n".join(FIGURES))
    deployed.get("/").raise_for_status()
    answer = deployed.post("/v1/jobs", files={"file": ("drum.mp4", CLIP.read_bytes(), "video/mp4")})
    assert answer.status_code == 202, answer.text
    job = f"/v1/jobs/{answer.json()['id']}"
    wait_for("the job", lambda: deployed.get(job).json()["state"] not in ("queued", "running"), 600, every_s=1)
    assert deployed.get(job).json()["state"] == "succeeded"
    with av.open(io.BytesIO(deployed.get(f"{job}/result").content)) as video:
        assert len(video.streams.audio) == 1


@pytest.mark.parametrize(
    "playbook", ["deploy-provision-instance.yml", "deploy-setup-containers.yml", "deploy-setup-webserver.yml"]
)
def test_a_second_run_changes_nothing(engine, machine, published, deployed, playbook):
    second = play(engine, playbook, *arguments_of(machine, published))
    assert second.code == 0, second.output[-4000:]
    assert (second.totals["changed"], second.changes) == (0, [])


def test_a_setting_that_is_taken_out_is_no_longer_in_force(engine, machine, published, deployed):
    seen = "docker inspect -f '{{range .Config.Env}}{{println .}}{{end}}' api-service | grep -E '^(S2S_DRAIN_S|PATH)='"
    assert "S2S_DRAIN_S=7" in machine.sh(seen)
    without = ("--extra-vars", json.dumps({"containers_gateway_settings": {}}))
    taken_out = play(engine, "deploy-setup-containers.yml", *arguments_of(machine, published), *without)
    assert (taken_out.code, taken_out.totals["changed"]) == (0, 1), taken_out.output[-4000:]
    left = machine.sh(seen)
    assert "PATH=" in left
    assert "S2S_DRAIN_S" not in left
    put_back = play(engine, "deploy-setup-containers.yml", *arguments_of(machine, published))
    assert put_back.code == 0, put_back.output[-4000:]


def test_the_firewall_lets_in_the_web_and_ssh_and_nothing_else(engine, machine, deployed):
    address = engine.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", machine.name).strip()
    machine.sh("python3 -m http.server 8123 --directory /srv >/dev/null 2>&1 &")
    look = "import urllib.request as u; u.urlopen('http://127.0.0.1:8123', timeout=5); print('there')"
    wait_for("a server", lambda: "there" in machine.sh(f'python3 -c "{look}"', check=False), 60)
    probe = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3)"
    reached = {
        port: subprocess.run(
            engine.inside("python3", "-c", probe, address, str(port)), capture_output=True
        ).returncode == 0
        for port in (22, 80, 443, 8080, 8123)
    }  # fmt: skip
    assert reached == {22: True, 80: True, 443: True, 8080: False, 8123: False}


def test_plain_http_leads_to_tls_and_no_secret_is_readable_or_printed(engine, machine, published, deployed):
    with engine.published(80) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/x?y=1", headers={"Host": "example.org"}, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (301, "https://example.org/x?y=1")
    assert machine.sh("stat -c '%a %U' /etc/silence-to-sound/postgres-password").split() == ["600", "root"]
    secret = machine.sh("cat /etc/silence-to-sound/postgres-password").strip()
    assert len(secret) == 64
    again = play(engine, "deploy-setup-containers.yml", *arguments_of(machine, published), "-vvv")
    assert secret not in again.output


def test_a_reboot_of_the_engine_brings_the_stack_back(machine, deployed):
    machine.sh("systemctl restart docker nginx")

    def answers() -> bool:
        try:
            return deployed.get("/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    wait_for("the stack", answers, 300, every_s=1)
