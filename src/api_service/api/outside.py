"""Connections to addresses that strangers name: to the public internet, and nowhere else.

A name is resolved where the connection is made, every one of its addresses is checked, and the connection goes to a
checked address itself. So a name that answers differently the next time gains nothing. TLS and `Host` still see the
name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore
import httpx

from s2s.errors import ArtifactError

Address, Network = IPv4Address | IPv6Address, IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[list[str]]]

CLOSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; a cloud's metadata too
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host, at a public address
        "169.254.0.0/16",  # link-local, metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
OPEN_V6 = IPv6Network("2000::/3")  # global unicast. Outside: loopback, mapped IPv4, NAT64, local, link-local, multicast
CLOSED_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocols of the IETF; Teredo holds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 holds an IPv4 address
        "3fff::/20",
    )
)


def networks_of(text: str) -> tuple[Network, ...]:
    """Of a text like "10.1.0.0/16, fd00::/8". Raises ArtifactError."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as exc:
        raise ArtifactError(f"S2S_WEBHOOK_NETWORKS: {exc}.", hint="Write networks like 10.1.0.0/16.") from exc


def is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in CLOSED_V4)
    return address in OPEN_V6 and not any(address in network for network in CLOSED_V6)


class Guard:
    """Which addresses may be connected to: public ones, and those of the networks that the operator has named."""

    def __init__(self, also: Iterable[Network] = ()):
        self._also = tuple(also)

    def lets(self, address: str) -> bool:
        wanted = ip_address(address)
        return is_public(wanted) or any(wanted in network for network in self._also)

    def refuses_host(self, host: str) -> bool:
        """An address, written as such, that will not be connected to. Names are looked up when they are used."""
        try:
            return not self.lets(host.strip("[]"))
        except ValueError:
            return False


class AddressRefused(httpcore.ConnectError):
    """The name leads to an address inside."""


class ThreadedResolver:
    """The system's resolver, in threads of its own: a name server that does not answer holds up nobody else."""

    def __init__(self, n_threads: int):
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="s2s-resolve")

    async def __call__(self, host: str, port: int) -> list[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to what `guard` lets through, whatever the name says."""

    def __init__(self, guard: Guard, resolve: Resolver):
        self._guard, self._resolve = guard, resolve
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises AddressRefused, also when only some of the name's addresses are inside; httpcore.ConnectError."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError("The name is not known.") from exc
        if not all(map(self._guard.lets, addresses)):
            raise AddressRefused("The address is not public.")
        failure: Exception = httpcore.ConnectError("The name has no address.")
        for address in addresses:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise AddressRefused("Not over a Unix socket.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def open_pool(guard: Guard, resolve: Resolver, n_connections: int) -> httpcore.AsyncConnectionPool:
    """For one request a connection: none is kept, proxies of the environment are not used, redirects not followed."""
    return httpcore.AsyncConnectionPool(
        ssl_context=httpx.create_ssl_context(),
        max_connections=n_connections,
        max_keepalive_connections=0,
        network_backend=CheckedNetwork(guard, resolve),
    )
