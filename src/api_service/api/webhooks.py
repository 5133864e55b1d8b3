"""Tells the addresses that jobs have named how they ended, by https://www.standardwebhooks.com.

Who may name one, and which, is decided when the job comes in; where the connection really goes is decided each time it
is made (`outside.py`). What is to be told is a table (`outbox.py`); here it is worked off.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import httpcore
import httpx
from standardwebhooks import Webhook

from api_service.api.access import Caller, Signer
from api_service.api.database import Database, DatabaseAway
from api_service.api.logs import job_id
from api_service.api.metrics import Metrics
from api_service.api.outbox import LONGEST_PAUSE_S, SIGNAL, Delivery, Message, Outbox
from api_service.api.outside import AddressRefused, Guard, Resolver, ThreadedResolver, networks_of, open_pool
from api_service.api.store import Signals
from s2s import __version__
from s2s.config import Settings
from s2s.errors import InputError

log = logging.getLogger(__name__)

AT_ONCE, AT_ONCE_OF_ONE_OWNER = 16, 4
POLL_S = 1.0
URL_CHARACTERS = 1000
HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-f:.]+")
GROWTH = 3.0  # of the pause, from one try to the next


def secret_of(signer: Signer, owner: str) -> str:
    """What the deliveries of an owner are signed with. It follows from our own secret, so nothing is stored."""
    return "whsec_" + base64.b64encode(bytes.fromhex(signer.token("webhook", owner))).decode()


def schemes_of(config: Settings) -> tuple[str, ...]:
    return {"off": (), "https": ("https",), "http": ("https", "http")}[config.webhooks]


class WebhookPolicy:
    """Who may name an address, and which."""

    def __init__(self, config: Settings, signer: Signer):
        self._schemes, self._signer = schemes_of(config), signer
        self._guard = Guard(networks_of(config.webhook_networks))

    def secret(self, caller: Caller) -> str:
        """Raises InputError webhooks_off or forbidden."""
        self._check_caller(caller)
        return secret_of(self._signer, caller.owner)

    def check(self, url: object, caller: Caller) -> str | None:
        """The address as it will be used; None for none. Raises InputError bad_webhook, webhooks_off or forbidden."""
        if url is None:
            return None
        self._check_caller(caller)
        if not isinstance(url, str) or len(url) > URL_CHARACTERS:
            raise _bad(f"`webhook_url` is a text of at most {URL_CHARACTERS} characters.")
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as exc:
            raise _bad("`webhook_url` is not an address.") from exc
        if parsed.scheme not in self._schemes or not parsed.host:
            wanted = " or ".join(f"{scheme}://" for scheme in self._schemes)
            raise _bad(f"`webhook_url` starts with {wanted} and a host.")
        if not HOST.fullmatch(parsed.raw_host) or not 0 < (parsed.port or 443) < 65536:
            raise _bad("`webhook_url` has no host, or a port that is none.")
        if parsed.userinfo or parsed.fragment:
            raise _bad("`webhook_url` has neither a user nor a fragment.", hint="Put a token into the path or query.")
        if self._guard.refuses_host(parsed.host):
            raise _bad("`webhook_url` is not a public address.")
        used = str(parsed)
        if len(used) > URL_CHARACTERS:  # characters outside of ASCII take more room
            raise _bad(f"`webhook_url` is a text of at most {URL_CHARACTERS} characters.")
        return used

    def _check_caller(self, caller: Caller) -> None:
        if not self._schemes:
            raise InputError("This service sends no webhooks.", code="webhooks_off", hint="Follow the job's events.")
        if caller.owner.startswith("visitor:"):
            raise InputError("Webhooks need an API key.", code="forbidden", hint="Follow the job's events.")


def _bad(message: str, hint: str = "See /docs for examples.") -> InputError:
    return InputError(message, code="bad_webhook", hint=hint)  # never with the address: it may hold secrets


@dataclass(frozen=True)
class Outcome:
    """Of one attempt. `name` is counted; `status` is shown to the job's owner, who learns no more of our network."""

    name: str
    status: int | None = None

    @property
    def state(self) -> Delivery:
        if self.status is not None and 200 <= self.status < 300:
            return Delivery.DELIVERED
        return Delivery.GONE if self.status == 410 else Delivery.PENDING


class WebhookSender:
    """Works the outbox off: one looks for what is due, up to AT_ONCE deliveries are under way."""

    def __init__(
        self,
        config: Settings,
        database: Database,
        signals: Signals,
        signer: Signer,
        metrics: Metrics,
        resolve: Resolver | None = None,
    ):
        self.outbox = Outbox(database)
        self._config, self._signals, self._signer, self._metrics = config, signals, signer, metrics
        self._schemes = schemes_of(config)
        self._resolve = resolve or ThreadedResolver(AT_ONCE)
        self._pool = open_pool(Guard(networks_of(config.webhook_networks)), self._resolve, AT_ONCE)
        self._looking: asyncio.Task | None = None
        self._under_way: set[asyncio.Task] = set()

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """What is under way gets `drain_s` to finish. What is cut off is told again, once its lease has run out."""
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self._config.drain_s)
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._pool.aclose()
        if isinstance(self._resolve, ThreadedResolver):
            self._resolve.close()

    async def _look(self) -> None:
        lease_s = self._config.webhook_timeout_s + self._config.lease_s
        with self._signals.watch(SIGNAL) as changed:
            while True:
                changed.clear()
                try:
                    while len(self._under_way) < AT_ONCE:
                        message = await self.outbox.claim(lease_s, AT_ONCE_OF_ONE_OWNER)
                        if message is None:
                            break
                        task = asyncio.create_task(self._deliver(message))
                        self._under_way.add(task)
                        task.add_done_callback(self._under_way.discard)
                        task.add_done_callback(lambda _: changed.set())  # there is room for another
                except Exception:  # the database is away: this outlives it
                    log.exception("the webhooks stumbled")
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), POLL_S)

    async def _deliver(self, message: Message) -> None:
        job_id.set(message.job_id)
        outcome = await self._attempt(message)
        state, pause_s = outcome.state, 0.0
        if state == Delivery.PENDING:
            pause_s = min(LONGEST_PAUSE_S, self._config.webhook_retry_s * GROWTH ** (message.attempts - 1))
            pause_s *= random.uniform(0.5, 1.0)  # not all at once after a receiver's outage
            too_late = message.age_s + pause_s > self._config.webhook_ttl_s
            if message.attempts >= self._config.webhook_attempts or too_late:
                state = Delivery.FAILED
        try:
            await self.outbox.settle(message, state, outcome.status, pause_s)
        except DatabaseAway:
            log.warning("webhook %s: attempt %d: %s, but who shall know", message.id, message.attempts, outcome.name)
            return  # it is told again, once its lease has run out
        self._metrics.webhooks.labels(outcome.name).inc()
        log.info("webhook %s: attempt %d: %s, %s", message.id, message.attempts, outcome.name, state)

    async def _attempt(self, message: Message) -> Outcome:
        """One request. Of the answer only the head is read. No address and no text of an error reaches the log."""
        timeout_s = self._config.webhook_timeout_s
        url = httpx.URL(message.url)
        if url.scheme not in self._schemes:  # the operator has become stricter
            return Outcome("address_refused")
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        timeouts = dict.fromkeys(("read", "write", "pool"), timeout_s) | {"connect": timeout_s / 3}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._pool.stream(
                    "POST",
                    target,
                    headers=self._headers(message),
                    content=message.payload.encode(),
                    extensions={"timeout": timeouts},
                ) as answer,
            ):
                status = answer.status
        except AddressRefused:
            return Outcome("address_refused")
        except (TimeoutError, httpcore.TimeoutException):
            return Outcome("timeout")
        except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError, OSError):
            return Outcome("unreachable")
        except Exception as exc:
            log.error("webhook %s: %s", message.id, type(exc).__name__)
            return Outcome("error")
        if 200 <= status < 300:
            return Outcome("delivered", status)
        return Outcome("gone" if status == 410 else f"status_{status // 100}xx", status)

    def _headers(self, message: Message) -> dict[str, str]:
        now = datetime.now(UTC).replace(microsecond=0)
        return {
            "Content-Type": "application/json",
            "User-Agent": f"silence-to-sound/{__version__}",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(secret_of(self._signer, message.owner)).sign(message.id, now, message.payload),
        }
