"""How often and how much: a rate for each caller, and quotas that the database counts for all replicas.

The rate is counted by each gateway for itself, so two replicas let twice as much through; the quotas are exact.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from api_service.api.access import Caller
from api_service.api.store import JobStore
from s2s.config import Settings
from s2s.errors import InputError, UpstreamError

WINDOW_S = 60.0
MANY_ACCOUNTS = 10_000  # above so many the silent ones are forgotten


class RateLimited(InputError):
    default_code = "rate_limited"

    def __init__(self, retry_after_s: int, policy: str):
        super().__init__("Too many clips in a short time.", hint=f"Try again in {retry_after_s} s.")
        self.headers = {"Retry-After": str(retry_after_s), "RateLimit-Policy": policy,
                        "RateLimit": f'"uploads";r=0;t={retry_after_s}'}  # fmt: skip


class Admission:
    """Decides whether an upload or a retake may come in now."""

    def __init__(self, config: Settings, store: JobStore):
        self._config, self._store = config, store
        self._times: dict[str, deque[float]] = {}
        self._incoming = 0

    def rate(self, caller: Caller, address: str) -> dict[str, str]:
        """Counts one; the RateLimit headers of the answer. Raises RateLimited.

        A key is an account; visitors are counted by their address, because a new cookie costs nothing. Nobody is
        counted where no key is required and no cookie is sent: that is this machine's own user.
        """
        if not caller.owner:
            return {}
        account, limit, now_s = caller.owner, self._config.uploads_per_min, time.monotonic()
        if account.startswith("visitor:"):
            account = f"address:{address}"
        policy = f'"uploads";q={limit};w={WINDOW_S:.0f}'
        if len(self._times) > MANY_ACCOUNTS:
            self._times = {name: times for name, times in self._times.items() if times[-1] > now_s - WINDOW_S}
        times = self._times.setdefault(account, deque())
        while times and times[0] <= now_s - WINDOW_S:
            times.popleft()
        if len(times) >= limit:
            raise RateLimited(max(1, round(times[0] + WINDOW_S - now_s + 0.5)), policy)
        times.append(now_s)
        reset_s = round(times[0] + WINDOW_S - now_s)
        return {"RateLimit-Policy": policy, "RateLimit": f'"uploads";r={limit - len(times)};t={reset_s}'}

    async def quotas(self, caller: Caller) -> None:
        """Before anything is received. Raises UpstreamError queue_full or storage_full."""
        waiting, of_owner = await self._store.waiting(), await self._store.waiting(caller.owner)
        self.fits(caller.owner, waiting, of_owner, await self._store.stored_bytes())

    def fits(self, owner: str, waiting: int, of_owner: int, stored_bytes: int) -> None:
        """Whether one more may come to so many that are there. Raises UpstreamError queue_full or storage_full."""
        if waiting >= self._config.max_queued:
            raise UpstreamError("Too many jobs are waiting.", code="queue_full", hint="Try again in a while.")
        if owner and of_owner >= self._config.max_queued_per_owner:
            raise UpstreamError("Too many of your jobs are waiting.", code="queue_full", hint="Wait for one of them.")
        if stored_bytes >= self._config.storage_bytes:
            raise storage_full()

    @contextmanager
    def incoming(self) -> Iterator[None]:
        """One of the uploads that may come in at once. Raises UpstreamError too_many_uploads."""
        if self._incoming >= self._config.max_uploads:
            raise UpstreamError("Too many uploads are coming in.", code="too_many_uploads", hint="Try again at once.")
        self._incoming += 1
        try:
            yield
        finally:
            self._incoming -= 1


@contextmanager
def storage_told() -> Iterator[None]:
    """What a disk or an object store refuses, told to callers. Raises UpstreamError storage_full or storage_away."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise storage_full() from exc
        raise UpstreamError(
            "Files cannot be written or read now.", code="storage_away", hint="Try again in a while."
        ) from exc


def storage_full() -> UpstreamError:
    return UpstreamError("There is no room for more clips.", code="storage_full", hint="Try again later.")
