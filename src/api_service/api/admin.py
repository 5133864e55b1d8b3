"""What the command line does with the gateway's parts: `s2s worker`, `s2s keys`, `s2s db upgrade`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx
from prometheus_client import start_http_server

from api_service.api import logs
from api_service.api.access import ApiKey, KeyStore, Signer
from api_service.api.blobs import Blobs, blobs_of, keep_disk_clear
from api_service.api.database import Database
from api_service.api.jobs import JobWorker
from api_service.api.metrics import Metrics
from api_service.api.model_client import ModelClient
from api_service.api.outbox import Outbox
from api_service.api.store import JobStore
from api_service.api.webhooks import WebhookSender
from s2s.config import Settings

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class WorkerParts:
    database: Database
    store: JobStore
    blobs: Blobs
    outbox: Outbox
    worker: JobWorker
    webhooks: WebhookSender | None  # None where the operator has not turned them on

    def start(self) -> None:
        self.worker.start()
        if self.webhooks:
            self.webhooks.start()


@asynccontextmanager
async def worker_parts(
    config: Settings, metrics: Metrics, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[WorkerParts]:
    """Everything that works on jobs, for the gateway and for a worker alike; no work is started yet. The process's own
    disk is kept clear, whether or not it works on jobs."""
    database = Database.of(config)
    store, models = JobStore(database), ModelClient(config, transport)
    blobs = blobs_of(config)
    worker = JobWorker(store, blobs, models, config, metrics)
    webhooks: WebhookSender | None = None
    tasks: list[asyncio.Task] = []
    try:
        await database.open()
        if config.webhooks != "off":
            webhooks = WebhookSender(config, database, store.signals, Signer.of(config), metrics)
        tasks = [
            asyncio.create_task(database.listen(store.signals.wake)),
            asyncio.create_task(keep_disk_clear(blobs, store.have_files, config.orphan_s)),
        ]
        yield WorkerParts(database, store, blobs, Outbox(database), worker, webhooks)
    finally:
        await worker.stop()
        if webhooks:
            await webhooks.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await models.close()
        await database.close()


def run_worker(config: Settings) -> None:
    """Works on jobs until SIGINT or SIGTERM. Raises ArtifactError."""

    async def work() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with worker_parts(config, metrics) as parts:
            parts.start()
            print("The worker waits for jobs. Ctrl-C stops it.", flush=True)
            await stop.wait()

    logs.configure(config)
    metrics = Metrics()
    if config.worker_metrics_port:
        start_http_server(config.worker_metrics_port, config.host, metrics.registry)
    asyncio.run(work())


def upgrade_database(config: Settings) -> None:
    _with_database(config, lambda database: database.upgrade(), as_it_is=True)


def create_key(config: Settings, name: str, scopes: list[str], ttl_s: float | None) -> str:
    return _with_database(config, lambda database: KeyStore(database).create(name, scopes, ttl_s))


def list_keys(config: Settings) -> list[ApiKey]:
    return _with_database(config, lambda database: KeyStore(database).all())


def revoke_key(config: Settings, key_id: str) -> bool:
    return _with_database(config, lambda database: KeyStore(database).revoke(key_id))


def _with_database(config: Settings, act: Callable[[Database], Awaitable[Answer]], *, as_it_is: bool = False) -> Answer:
    async def run() -> Answer:
        database = Database.of(config)
        try:
            if not as_it_is:
                await database.open()
            return await act(database)
        finally:
            await database.close()

    return asyncio.run(run())
