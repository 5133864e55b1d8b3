"""A stock nginx in front. Two gateways without sticky sessions: who follows a job notices nothing of a death. Our own
configurations of nginx: what stays inside, and what is not written down."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import jinja2
import pytest
from tests.chaos import CLI, GATEWAY, INSTANT_MODEL, QUICK, Member, free_port, until_alive
from tests.clips import film
from tests.postgres import running_postgres

from s2s.config import REPO_ROOT, Settings

CONF = """
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    map $http_x_forwarded_proto $scheme_seen {{ default $http_x_forwarded_proto; "" $scheme; }}
    upstream replicas {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        set $gateway http://replicas;
        location / {{ include {proxy}; add_header X-Served-By $upstream_addr always; }}
    }}
}}
"""


@contextmanager
def nginx(folder: Path, ports: list[int]) -> Iterator[str]:
    """The settings of our own proxy, in front of these ports. Yields its address."""
    folder.mkdir()
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{port};" for port in ports)
    proxy = REPO_ROOT / "src" / "frontend_simple" / "conf" / "gateway-proxy.conf"
    with running_nginx(folder, CONF.format(folder=folder, servers=servers, port=port, proxy=proxy)):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running_nginx(folder: Path, text: str) -> Iterator[None]:
    """nginx in one process, with this configuration."""
    if not shutil.which("nginx"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("nginx is missing: apt-get install nginx-light")
    conf = folder / "nginx.conf"
    conf.write_text(f"daemon off; master_process off; pid {folder}/pid;\n{text}")
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(conf)], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def replicas(tmp_path) -> Iterator[tuple[str, dict[str, Member]]]:
    """(address of nginx, {"127.0.0.1:<port>": gateway})"""
    with running_postgres() as server:
        ports, model_port = [free_port(), free_port()], free_port()
        shared = {**QUICK, "database_url": server.url, "blobs_url": (tmp_path / "blobs").as_uri(), "lease_s": 30.0,
                  "model_server_url": f"http://127.0.0.1:{model_port}", "embedded_worker": False}  # fmt: skip

        def member(name: str, command: list[str], **own: object) -> Member:
            config = Settings(**shared, data_dir=tmp_path / name, **own)
            return Member(name, command, {**os.environ, **config.environment(), "INSTANT_STEPS": "60"}, tmp_path)

        gateways = {f"127.0.0.1:{port}": member(f"gateway-{port}", GATEWAY, port=port) for port in ports}
        others = [member("model", [*INSTANT_MODEL, str(model_port)]), member("worker", [*CLI, "worker"])]
        try:
            for address in gateways:
                until_alive(f"http://{address}")
            with nginx(tmp_path / "nginx", ports) as url:
                yield url, gateways
        finally:
            for running in (*gateways.values(), *others):
                running.kill()


class Follower:
    """What EventSource does: reads events, and after a break asks again with the id of the last one."""

    def __init__(self, client: httpx.Client, path: str):
        self._client, self._path = client, path
        self.seen: list[tuple[int, str, str]] = []  # id, name, data of the stored events
        self.served_by: list[str] = []
        self.last_id, self.ended = None, False

    def follow(self, on_event) -> None:
        while not self.ended:
            headers = {} if self.last_id is None else {"Last-Event-ID": str(self.last_id)}
            with suppress(httpx.TransportError), self._client.stream("GET", self._path, headers=headers) as answer:
                if answer.status_code == 200:
                    self.served_by.append(answer.headers["X-Served-By"].rsplit(", ", 1)[-1])
                    self._read(answer, on_event)
                self.ended = self.ended or answer.status_code == 204
            time.sleep(0.1)

    def _read(self, answer: httpx.Response, on_event) -> None:
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
                continue
            if "id" in fields:
                self.last_id = int(fields["id"])
                if fields["event"] != "snapshot":
                    self.seen.append((self.last_id, fields["event"], fields["data"]))
            if fields.get("event") in ("succeeded", "failed"):
                self.ended = True
            on_event(self)
            fields = {}


def test_a_gateway_killed_in_mid_stream_costs_its_listener_no_event(replicas, tmp_path):
    url, gateways = replicas
    clip = film(tmp_path / "clip.mp4", seconds=0.6).read_bytes()
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        job = client.post("/v1/jobs", files={"file": ("a.mp4", clip, "video/mp4")}).raise_for_status().json()
        kill_after = [10, 30]

        def kill_who_tells(follower: Follower) -> None:
            if kill_after and len(follower.seen) >= kill_after[0]:
                kill_after.pop(0)
                teller = gateways[follower.served_by[-1]]
                teller.kill()
                teller.start()

        follower = Follower(client, job["links"]["events"])
        follower.follow(kill_who_tells)
        assert not kill_after
        assert len(set(follower.served_by)) == 2, "both replicas told their part"
        told = client.get(job["links"]["events"], headers={"Last-Event-ID": "0"}).text
    stored = [dict(line.split(": ", 1) for line in block.splitlines()) for block in told.split("\n\n") if block]
    expected = [(int(event["id"]), event["event"], event["data"]) for event in stored if "id" in event]
    numbers = [number for number, _, _ in follower.seen]
    assert numbers == sorted(set(numbers)), "none is doubled, all in order"
    first = follower.seen[0][0]
    assert follower.seen == [event for event in expected if event[0] >= first], "none is lost"
    assert len(follower.seen) > 50
    assert expected[-1][1] == "succeeded"
    assert json.loads(expected[-1][2])["state"] == "succeeded"


class Echo(BaseHTTPRequestHandler):
    """Behind nginx: answers with the path that came through."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def behind() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def of_the_page(folder: Path, port: int, upstream: int) -> str:
    """nginx.conf of the page's image, with the places and ports of this test."""
    conf = REPO_ROOT / "src" / "frontend_simple" / "conf"
    (folder / "gateway.conf").write_text(f'map "" $gateway {{ default "http://127.0.0.1:{upstream}"; }}')
    text = (conf / "nginx.conf").read_text().replace("pid /tmp/nginx.pid;", "")
    for there, here in (
        ("/tmp/", f"{folder}/"),
        ("/etc/nginx/gateway-proxy.conf", f"{conf}/gateway-proxy.conf"),
        ("/etc/nginx/page-headers.conf", f"{conf}/page-headers.conf"),
        ("/srv/page", f"{conf.parent}"),
        ("/dev/stdout", f"{folder}/access.log"),
        ("/dev/stderr", f"{folder}/error.log"),
        ("listen 8080;", f"listen 127.0.0.1:{port};"),
    ):
        assert there in text
        text = text.replace(there, here)
    return text


def of_the_machine(folder: Path, port: int, upstream: int) -> str:
    """The machine's own site, inside of what Debian's nginx.conf says."""
    source = (REPO_ROOT / "deployment" / "nginx" / "site.conf.j2").read_text()
    site = jinja2.Environment(trim_blocks=True).from_string(source).render(
        ansible_managed="", webserver_tls="none", webserver_name="localhost", webserver_max_body_bytes=1000,
        webserver_upstream=f"127.0.0.1:{upstream}",
    )  # fmt: skip
    site = site.replace("listen [::]:80 default_server;", "").replace("listen 80 ", f"listen 127.0.0.1:{port} ")
    text = f"""
    error_log /var/log/nginx/error.log;
    events {{ worker_connections 256; }}
    http {{
        access_log /var/log/nginx/access.log;
        client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
        {site}
    }}
    """
    return text.replace("/var/log/nginx/", f"{folder}/")


@pytest.mark.parametrize("configuration", [of_the_page, of_the_machine])
def test_no_log_of_nginx_holds_the_token_of_a_shared_link(configuration, behind, tmp_path):
    port = free_port()
    shared = ("/s/TOKEN", "/api/s/TOKEN", "//s/TOKEN", "/v1/shared/TOKEN/result", "/api//v1/shared/TOKEN")
    with running_nginx(tmp_path, configuration(tmp_path, port, behind.server_address[1])):
        assert asked(port, "/v1/limits?key=KEY").status_code == 200
        assert {asked(port, path).status_code for path in shared} == {200}
        behind.shutdown()
        behind.server_close()  # what nginx says of a gateway that is away names addresses too
        assert {asked(port, path).status_code for path in (*shared, "/v1/models")} <= {502, 503}
    access, errors = (tmp_path / "access.log").read_text(), (tmp_path / "error.log").read_text()
    assert all(f" {shown} " in access for shown in ("/v1/limits", "/s/-", "/v1/shared/-"))
    assert "/v1/models" in errors, "of other addresses it is told why"
    assert "TOKEN" not in access + errors
    assert "KEY" not in access


def test_metrics_stay_inside_by_whatever_address(behind, tmp_path):
    port = free_port()
    with running_nginx(tmp_path, of_the_page(tmp_path, port, behind.server_address[1])):
        assert asked(port, "/api/v1/limits").text == "/v1/limits"
        for path in ("/metrics", "//metrics", "/api/metrics", "/api//metrics", "/api/%2fmetrics", "/%6detrics?x"):
            assert asked(port, path).status_code == 404, path


def asked(port: int, path: str) -> httpx.Response:
    """The answer, once nginx listens."""
    for _ in range(100):
        with suppress(httpx.ConnectError):
            return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20, trust_env=False)
        time.sleep(0.1)
    raise TimeoutError("nginx does not listen")
