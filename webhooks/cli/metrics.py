"""The metrics of one process of the listener. Needs the extra `metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily

from webhooks.cli.metric_families import Families, families_of
from webhooks.prometheus import FamilyCollector, collector, counter, gauge, rejected, waiters
from webhooks.store.base import Subscriber

if TYPE_CHECKING:
    from prometheus_client import Metric

    from webhooks.completions import Completions
    from webhooks.ingress.queue import QueueStatistics
    from webhooks.receiver import Receiver
    from webhooks.store.readings import StoreStatistics
    from webhooks.store.records import Outcome

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics(Subscriber):
    """What one process of the listener counts, and how it runs.

    As a subscriber of the store it counts how operations settle, whether anything waits for them or not.

    Args:
        refused: Connections and requests refused before any receiver, by reason.
        worker: The name of this process among several, None if it is the only one.
    """

    def __init__(self, refused: Mapping[str, int], worker: str | None = None) -> None:
        self._worker = worker
        self._process = CollectorRegistry()
        for each in (ProcessCollector, PlatformCollector, GCCollector):
            each(registry=self._process)
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "webhooks_delivery_seconds",
            "From the whole body to its answer: verified, and durable in the store or refused by it.",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        settled = Counter("webhooks_settled", "Operations settled, by the way it was learned.", ["via"], registry=self._registry)
        self._settled = {via: settled.labels(via) for via in ("webhook", "poll")}
        self.add(lambda: [rejected({("", reason): count for reason, count in refused.items()})])

    def add(self, families: Callable[[], Iterable[Metric]]) -> None:
        """Show what a function returns, too."""
        self._registry.register(FamilyCollector(families))

    def watch(self, receivers: Mapping[str, Receiver], completions: Completions | None) -> None:
        """Show what receivers and completions count; `completions` is None without API credentials."""
        self.add(collector(receivers, completions).collect)
        if completions is None:
            self.add(lambda: [waiters(0)])

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Show how many connections are open."""
        self.add(lambda: [gauge("webhooks_connections", "Open connections.", count())])

    def settled(self, outcome: Outcome) -> None:
        """Count the first outcome of an operation."""
        self._settled[outcome.via].inc()

    def observe(self, seconds: float) -> None:
        """Record how long one delivery took to be verified and stored, or to fail in the store."""
        self._seconds.observe(seconds)

    async def families(self) -> Families:
        """Return the metrics now; those of the listener are the sums over its processes."""
        counted = families_of(self._registry.collect())
        return [*counted, *await asyncio.to_thread(self._of_process)]

    def _of_process(self) -> Families:
        return families_of(self._process.collect(), self._worker)


def of_store(statistics: StoreStatistics | None, now: float, free_bytes: int | None = None) -> Iterable[Metric]:
    """Return what the store holds, the same for all processes that share it.

    Args:
        statistics: None if the store did not answer.
        now: Unix time in seconds.
        free_bytes: The free space of its disk, None if it has no file.
    """
    yield gauge("webhooks_store_ready", "Whether the store answers.", statistics is not None)
    if free_bytes is not None:
        yield gauge("webhooks_disk_free_bytes", "Free space on the disk of the store.", free_bytes)
    if statistics is None:
        return
    lag = 0.0 if statistics.oldest_ready_at is None else max(0.0, now - statistics.oldest_ready_at)
    yield gauge("webhooks_inbox_lag_seconds", "Age of the oldest event that waits for its handlers.", lag)
    yield gauge("webhooks_events", "Events stored with their bodies.", statistics.events)
    yield gauge("webhooks_events_ready", "Events that wait for their handlers.", statistics.ready)
    yield gauge("webhooks_dead_letters", "Dead letters.", statistics.dead)
    mentioned = "Pending operations that an event mentioned without settling them."
    yield gauge("webhooks_lookups", mentioned, statistics.lookups)
    yield gauge("webhooks_pending", "Operations known to be unsettled.", statistics.pending)
    yield gauge("webhooks_outcomes", "Outcomes.", statistics.outcomes)
    yield gauge("webhooks_conflicts", "Later outcomes that differ from the first.", statistics.conflicts)


def of_queue(queue: QueueStatistics, *, readable: bool) -> Iterable[Metric]:
    """Return what a consumer counts of its queue."""
    deletable = "Whether the queue could be read last time and stored messages deleted."
    yield gauge("webhooks_queue_readable", deletable, readable)
    yield gauge("webhooks_queue_held", "Messages in progress.", queue.held)
    yield gauge("webhooks_queue_oldest_seconds", "Age of the oldest message received last.", queue.oldest_age)
    yield counter("webhooks_queue_received", "Messages received, again included.", queue.received)
    yield counter("webhooks_queue_stored", "Messages whose event was stored now or before.", queue.stored)
    yield counter("webhooks_queue_left", "Messages left for the redrive policy, unsigned ones included.", queue.left)
    yield counter("webhooks_queue_retried", "Attempts that failed in the store and were repeated.", queue.retried)
    yield counter("webhooks_queue_extended", "Extensions of a message's visibility timeout.", queue.extended)
    yield counter("webhooks_queue_deleted", "Messages deleted.", queue.deleted)
    yield counter("webhooks_queue_undeleted", "Stored messages whose deletion failed.", queue.undeleted)
    yield counter("webhooks_queue_released", "Messages made visible to others at a stop.", queue.released)
    yield counter("webhooks_queue_failures", "Calls to the queue that failed.", queue.failures)


def of_workers(states: Mapping[str, int], restarts: int) -> Iterable[Metric]:
    """Return how many workers are in each state, and how many were restarted."""
    family = GaugeMetricFamily("webhooks_workers", "Worker processes, by state.", labels=["state"])
    for state, count in states.items():
        family.add_metric([state], count)
    yield family
    yield counter("webhooks_worker_restarts", "Workers that were restarted.", restarts)
