"""Addresses that strangers name lead to the public internet and nowhere else, whatever a name server says."""

import asyncio
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpcore
import pytest
from tests.chaos import free_port
from tests.receiver import Receiver

from api_service.api.outside import AddressRefused, CheckedNetwork, Guard, ThreadedResolver, networks_of, open_pool

INSIDE = {
    "this host": "0.0.0.0",
    "private 10": "10.0.0.1",
    "private 172": "172.31.255.255",
    "private 192": "192.168.1.1",
    "carrier-grade NAT": "100.64.0.1",
    "metadata in that": "100.100.100.200",
    "loopback": "127.0.0.1",
    "all of loopback": "127.255.255.254",
    "link-local": "169.254.1.1",
    "metadata": "169.254.169.254",
    "a cloud's host": "168.63.129.16",
    "protocol assignments": "192.0.0.192",
    "documentation": "198.51.100.7",
    "benchmarks": "198.19.0.1",
    "multicast": "224.0.0.251",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified 6": "::",
    "loopback 6": "::1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped public": "::ffff:8.8.8.8",
    "compatible loopback": "::127.0.0.1",
    "NAT64 of a private one": "64:ff9b::10.0.0.1",
    "local NAT64": "64:ff9b:1::7f00:1",
    "unique local": "fd00:ec2::254",
    "link-local 6": "fe80::1",
    "link-local 6 with a scope": "fe80::1%1",
    "site-local": "fec0::1",
    "multicast 6": "ff02::1",
    "Teredo": "2001:0:7f00:1::1",
    "6to4 of loopback": "2002:7f00:1::1",
    "documentation 6": "2001:db8::1",
    "newer documentation 6": "3fff::1",
}
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::200e", "2001:4860::1"]


def answering(*answers: list[str]):
    """A resolver with these answers, one after the other; the last for good. `asked` counts."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        resolve.asked += 1
        return left.pop(0) if len(left) > 1 else left[0]

    resolve.asked = 0
    return resolve


@pytest.fixture
def no_connection(monkeypatch):
    """Fails where something would be connected to."""

    async def connect(self, host, *_, **__):
        raise AssertionError(f"connected to {host}")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)


@pytest.mark.parametrize("address", INSIDE.values(), ids=INSIDE)
async def test_no_connection_is_made_to_an_address_inside(address, no_connection):
    for addresses in ([address], ["8.8.8.8", address]):  # one bad address spoils the name
        with pytest.raises(AddressRefused):
            await CheckedNetwork(Guard(), answering(addresses)).connect_tcp("hooks.example", 443)


@pytest.mark.parametrize("address", PUBLIC)
async def test_a_public_address_itself_is_connected_to(address, monkeypatch):
    seen = []

    async def connect(self, host, port, *_):
        seen.append((host, port))
        return httpcore.AsyncMockStream([])

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    await CheckedNetwork(Guard(), answering([address])).connect_tcp("hooks.example", 443)
    assert seen == [(address, 443)]


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.1", "017700000001"])
async def test_names_and_other_spellings_of_loopback_are_refused(host):
    """By the system's own resolver, in front of a receiver that would answer."""
    with Receiver() as receiver, pytest.raises((AddressRefused, httpcore.ConnectError)):
        await CheckedNetwork(Guard(), ThreadedResolver(1)).connect_tcp(host, receiver.port)
    assert receiver.heard == []


async def ask(resolve, port: int, also: str, scheme: str = "http") -> int:
    async with open_pool(Guard(networks_of(also)), resolve, 2) as pool:
        url = httpcore.URL(scheme=scheme, host="hooks.example", port=port, target="/hook")
        async with pool.stream("POST", url, content=b"{}", headers={"webhook-id": "a"}) as answer:
            return answer.status


async def test_a_name_that_changes_between_check_and_connection_gains_nothing(monkeypatch):
    """It is asked once for each connection, and the address that was checked is the one that is used."""
    port = free_port()
    resolve = answering(["127.0.0.2"], ["127.0.0.1"])

    with Receiver(port, "127.0.0.2") as outside, Receiver(port, "127.0.0.1") as inside:
        plain = socket.getaddrinfo

        def look_up(host, *args, **kw):
            assert "example" not in str(host), "looked up again"
            return plain(host, *args, **kw)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        assert await ask(resolve, port, "127.0.0.2/32") == 204
        assert resolve.asked == 1
        with pytest.raises(AddressRefused):
            await ask(resolve, port, "127.0.0.2/32")
        assert (len(outside.heard), inside.heard) == (1, [])
        assert outside.heard[0].headers["host"] == f"hooks.example:{port}"


async def test_tls_still_sees_and_checks_the_name(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    for name in ("hooks.example", "other.example"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
             "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", key, "-out", certificate],
            check=True, capture_output=True, timeout=60)  # fmt: skip
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        served.load_cert_chain(certificate, key)
        asked_for = []
        served.sni_callback = lambda _, server_name, __, asked_for=asked_for: asked_for.append(server_name)
        with Receiver(tls=served) as receiver:
            if name == "hooks.example":
                assert await ask(answering(["127.0.0.1"]), receiver.port, "127.0.0.1/32", "https") == 204
                assert receiver.heard[0].headers["host"] == f"hooks.example:{receiver.port}"
            else:
                with pytest.raises(httpcore.ConnectError):
                    await ask(answering(["127.0.0.1"]), receiver.port, "127.0.0.1/32", "https")
                assert receiver.heard == []
            assert asked_for == ["hooks.example"]


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch):
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await ask(answering(["127.0.0.1"]), receiver.port, "127.0.0.1/32") == 204
        assert (len(receiver.heard), proxy.heard) == (1, [])


async def test_name_servers_that_do_not_answer_hold_up_no_thread_of_others(monkeypatch):
    monkeypatch.setattr("api_service.api.outside._look_up", lambda host, port: time.sleep(3) or [])
    resolver = ThreadedResolver(2)
    waiting = [asyncio.create_task(resolver("slow.example", 443)) for _ in range(20)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        assert await asyncio.to_thread(Path("/").is_dir)
    resolver.close()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
