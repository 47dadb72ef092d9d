"""Metrics of the listener: plain data that processes exchange, and text in Prometheus's format for `/metrics`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from webhooks.store.base import Subscriber

if TYPE_CHECKING:
    from webhooks.completions import CompletionStatistics
    from webhooks.ingress.queue import QueueStatistics
    from webhooks.receiver import ReceiverStatistics
    from webhooks.store.records import Outcome, StoreStatistics, Via

with suppress(ImportError):  # an extra, imported here so that the first scrape does not block the loop
    import_module("prometheus_client")

Families = Sequence[Any]
"""Metric families as JSON values: `[name, help, type, samples]`, and each sample `[name, labels, value]`."""

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_CUMULATIVE = frozenset({"counter", "histogram"})


class Metrics(Subscriber):
    """Count what must be observed as it happens.

    As a subscriber of the store it counts how operations settle, whether anything waits for them or not.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0
        self._settled: dict[Via, int] = {"webhook": 0, "poll": 0}

    def settled(self, outcome: Outcome) -> None:
        """Count the first outcome of an operation."""
        self._settled[outcome.via] += 1

    def observe(self, seconds: float) -> None:
        """Record how long one delivery took to be verified and stored, or to fail in the store."""
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum += seconds

    def families(
        self,
        *,
        receivers: Mapping[str, ReceiverStatistics],
        refused: Mapping[str, int],
        connections: int | None,
        completions: CompletionStatistics | None,
    ) -> Families:
        """Return what this process counts; the listener's metrics are the sums over all processes.

        Args:
            receivers: Statistics of each path's receiver.
            refused: Connections and requests refused before any receiver, by reason.
            connections: Open connections, None where nothing listens.
            completions: Statistics of polling and waiting; None without API credentials.
        """
        bounds = [*map(str, _BUCKETS), "+Inf"]
        buckets: list[Any] = [
            ["webhooks_delivery_seconds_bucket", {"le": bound}, count]
            for bound, count in zip(bounds, accumulate(self._counts), strict=True)
        ]
        total = sum(self._counts)
        buckets += [["webhooks_delivery_seconds_count", {}, total], ["webhooks_delivery_seconds_sum", {}, self._sum]]
        found = [
            [
                "webhooks_delivery_seconds",
                "From the whole body to its answer: verified, and durable in the store or refused by it.",
                "histogram",
                buckets,
            ],
            _counter(
                "webhooks_settled",
                "Operations settled, by the way it was learned.",
                [({"via": via}, count) for via, count in self._settled.items()],
            ),
            _by_path("webhooks_accepted", "New events, dead letters included.", receivers, "accepted"),
            _by_path("webhooks_duplicates", "Deliveries of events received before.", receivers, "duplicates"),
            _by_path("webhooks_store_failures", "Deliveries answered 503.", receivers, "store_failures"),
            rejected(refused, receivers),
            *([] if connections is None else [_gauge("webhooks_connections", "Open connections.", connections)]),
            _gauge(
                "webhooks_waiters",
                "Callers in the listener that wait for an operation.",
                0 if completions is None else completions.waiting,
            ),
        ]
        if completions is not None:
            found += [
                _gauge("webhooks_polled", "Operations that are polled until they settle.", completions.pending),
                _counter("webhooks_polls", "Requests to the vendor.", [({}, completions.polls)]),
                _counter("webhooks_poll_errors", "Requests that the vendor did not answer.", [({}, completions.poll_errors)]),
            ]
        return found


def rejected(refused: Mapping[str, int], receivers: Mapping[str, ReceiverStatistics] | None = None) -> list[Any]:
    """Return the family of refusals: before any receiver by reason, and of each path's receiver."""
    samples = [({"path": "", "reason": reason}, count) for reason, count in refused.items()]
    for path, statistics in (receivers or {}).items():
        samples += [({"path": path, "reason": reason}, count) for reason, count in statistics.rejected.items()]
    return _counter("webhooks_rejected", "Refused deliveries and connections.", samples)


def store_families(store: StoreStatistics | None, now: float) -> Families:
    """Return what the store holds, the same for all processes that share it.

    Args:
        store: None if the store did not answer.
        now: Unix time in seconds.
    """
    ready = _gauge("webhooks_store_ready", "Whether the store answers.", store is not None)
    if store is None:
        return [ready]
    lag = 0.0 if store.oldest_ready_at is None else max(0.0, now - store.oldest_ready_at)
    return [
        ready,
        _gauge("webhooks_inbox_lag_seconds", "Age of the oldest event that waits for its handlers.", lag),
        _gauge("webhooks_events", "Events stored with their bodies.", store.events),
        _gauge("webhooks_events_ready", "Events that wait for their handlers.", store.ready),
        _gauge("webhooks_dead_letters", "Dead letters.", store.dead),
        _gauge("webhooks_lookups", "Pending operations that an event mentioned without settling them.", store.lookups),
        _gauge("webhooks_pending", "Operations known to be unsettled.", store.pending),
        _gauge("webhooks_outcomes", "Outcomes.", store.outcomes),
        _gauge("webhooks_conflicts", "Later outcomes that differ from the first.", store.conflicts),
    ]


def queue_families(queue: QueueStatistics, *, readable: bool) -> Families:
    """Return what a consumer counts of its queue."""
    return [
        _gauge("webhooks_queue_readable", "Whether the queue could be read last time, and what is stored be deleted.", readable),
        _gauge("webhooks_queue_held", "Messages in progress.", queue.held),
        _gauge("webhooks_queue_oldest_seconds", "Age of the oldest message received last.", queue.oldest_age),
        _counter("webhooks_queue_received", "Messages received, again included.", [({}, queue.received)]),
        _counter("webhooks_queue_stored", "Messages whose event was stored now or before.", [({}, queue.stored)]),
        _counter("webhooks_queue_left", "Messages left for the redrive policy, unsigned ones included.", [({}, queue.left)]),
        _counter("webhooks_queue_retried", "Attempts that failed in the store and were repeated.", [({}, queue.retried)]),
        _counter("webhooks_queue_extended", "Extensions of a message's visibility timeout.", [({}, queue.extended)]),
        _counter("webhooks_queue_deleted", "Messages deleted.", [({}, queue.deleted)]),
        _counter("webhooks_queue_undeleted", "Stored messages whose deletion failed.", [({}, queue.undeleted)]),
        _counter("webhooks_queue_released", "Messages made visible to others at a stop.", [({}, queue.released)]),
        _counter("webhooks_queue_failures", "Calls to the queue that failed.", [({}, queue.failures)]),
    ]


def worker_families(states: Mapping[str, int], restarts: int) -> Families:
    """Return how many workers are in each state, and how many were restarted."""
    workers = [["webhooks_workers", {"state": state}, count] for state, count in states.items()]
    return [
        ["webhooks_workers", "Worker processes, by state.", "gauge", workers],
        _counter("webhooks_worker_restarts", "Workers that were restarted.", [({}, restarts)]),
    ]


def summed(processes: Iterable[Families]) -> Families:
    """Add up the families of several processes, sample by sample."""
    families: dict[str, list[Any]] = {}
    values: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
    for name, text, kind, samples in (family for process in processes for family in process):
        family = families.setdefault(name, [name, text, kind, []])
        for sample, labels, value in samples:
            key = (sample, tuple(labels.values()))
            if key in values:
                values[key][2] += value
            else:
                values[key] = [sample, labels, value]
                family[3].append(values[key])
    return list(families.values())


def cumulative(families: Families) -> Families:
    """Return the families that keep their values when their process has ended."""
    return [family for family in families if family[2] in _CUMULATIVE]


def as_text(families: Families) -> bytes | None:
    """Return metrics in Prometheus's text format; None if the extra is not installed."""
    try:
        from prometheus_client import CollectorRegistry, Metric, generate_latest  # noqa: PLC0415 - needs an extra
    except ImportError:
        return None

    class Collector:
        def collect(self) -> Iterator[Metric]:
            for name, text, kind, samples in families:
                metric = Metric(name, text, kind)
                for sample in samples:
                    metric.add_sample(*sample)
                yield metric

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)


def _counter(name: str, text: str, samples: Iterable[tuple[dict[str, str], float]]) -> list[Any]:
    return [name, text, "counter", [[f"{name}_total", labels, value] for labels, value in samples]]


def _gauge(name: str, text: str, value: float) -> list[Any]:
    return [name, text, "gauge", [[name, {}, value]]]


def _by_path(name: str, text: str, receivers: Mapping[str, ReceiverStatistics], attribute: str) -> list[Any]:
    return _counter(name, text, [({"path": path}, getattr(statistics, attribute)) for path, statistics in receivers.items()])
