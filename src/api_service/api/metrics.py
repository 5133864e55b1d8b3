"""What is counted, for Prometheus. One registry for each app or worker, so that two in one process do not mix."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from api_service.api.outbox import Outbox
from api_service.api.store import JobStore, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where = {"registry": self.registry}
        self.requests = Counter("s2s_http_requests", "Requests, by route", ["method", "route", "status"], **where)
        self.request_seconds = Histogram(
            "s2s_http_request_seconds", "Until the answer started", ["method", "route"], **where,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )  # fmt: skip
        self.refused = Counter("s2s_refused", "Problems that were answered, by code", ["code"], **where)
        self.attempts = Counter("s2s_attempts", "Attempts at jobs, by how they ended", ["outcome"], **where)
        self.run_seconds = Histogram(
            "s2s_run_seconds", "Attempts that succeeded", buckets=(1, 2, 5, 10, 20, 30, 60, 120, 300, 600), **where
        )
        self.lease_losses = Counter("s2s_lease_losses", "Jobs whose worker vanished", **where)
        self.webhooks = Counter("s2s_webhooks", "Attempts at webhooks, by how they ended", ["outcome"], **where)
        self._undelivered = Gauge(
            "s2s_oldest_undelivered_webhook_seconds", "How long the oldest webhook to come has waited", **where
        )
        self._jobs = Gauge("s2s_jobs", "Jobs in the table, by state", ["state"], **where)
        self._running = Gauge("s2s_running_jobs", "Jobs that are worked on", **where)
        self._oldest = Gauge("s2s_oldest_queued_job_seconds", "How long the next job has waited", **where)
        self._stored = Gauge("s2s_stored_bytes", "Uploads and results of all jobs", **where)

    async def read(self, store: JobStore, outbox: Outbox) -> bytes:
        """The exposition; what is true for all replicas is read from the tables."""
        counted, oldest_s = await store.census()
        for state in State:
            self._jobs.labels(state.value).set(counted.get(state.value, 0))
        self._running.set(counted.get(State.RUNNING, 0) + counted.get(State.CANCELING, 0))
        self._oldest.set(oldest_s)
        self._stored.set(await store.stored_bytes())
        self._undelivered.set(await outbox.oldest_s())
        return generate_latest(self.registry)
