"""What the listener shows at `/metrics`, in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from attrs import frozen
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from webhooks.store.base import Subscriber

if TYPE_CHECKING:
    from webhooks.cli.totals import Families
    from webhooks.completions import CompletionStatistics
    from webhooks.receiver import ReceiverStatistics
    from webhooks.store.records import Outcome, StoreStatistics, Via

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@frozen(kw_only=True)
class Snapshot:
    """What one process counts at one moment.

    Attributes:
        receivers: What each path took in.
        refused: Connections and requests refused before any receiver saw them, by reason.
        connections: Open connections.
        completions: What polling and waiting did, None without API credentials.
    """

    receivers: Mapping[str, ReceiverStatistics]
    refused: Mapping[str, int]
    connections: int
    completions: CompletionStatistics | None


class Metrics(Subscriber):
    """Keep what must be observed as it happens.

    As a subscriber of the store it counts how operations settle, whether anybody waits for them or not.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0
        self._settled: dict[Via, int] = {"webhook": 0, "poll": 0}

    def settled(self, outcome: Outcome) -> None:
        """Count the first outcome of an operation."""
        self._settled[outcome.via] += 1

    def observe(self, seconds: float) -> None:
        """Take in how long one delivery took to be verified and kept, or not kept."""
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum += seconds

    def counted(self, snapshot: Snapshot) -> Families:
        """Return what this process counts; the sums over all processes are those of the listener."""
        return _as_json([self._latency(), *self._settlements(), *_counts(snapshot)])

    def _settlements(self) -> Iterator[Metric]:
        family = CounterMetricFamily("webhooks_settled", "Operations settled, by how it was learned.", labels=["via"])
        for via, count in self._settled.items():
            family.add_metric([via], count)
        yield family

    def _latency(self) -> Metric:
        bounds = [*map(str, _BUCKETS), "+Inf"]
        family = HistogramMetricFamily(
            "webhooks_delivery_seconds", "From the whole body to its answer: verified, and durable in the store or refused by it."
        )
        family.add_metric([], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        return family


def held(store: StoreStatistics | None, now: float) -> Families:
    """Return what the store holds, the same for all processes that share it.

    Args:
        store: None if the store cannot be asked.
        now: Unix time in seconds.
    """
    ready = GaugeMetricFamily("webhooks_store_ready", "Whether the store can be asked.", store is not None)
    return _as_json([ready, *(() if store is None else _held(store, now))])


def of_workers(states: Mapping[str, int], restarts: int) -> Families:
    """Return how the workers are: how many in each state, and how many were started in place of others."""
    workers = GaugeMetricFamily("webhooks_workers", "Worker processes, by state.", labels=["state"])
    for state, count in states.items():
        workers.add_metric([state], count)
    return _as_json([workers, CounterMetricFamily("webhooks_worker_restarts", "Workers started in place of others.", restarts)])


def of_refusals(total: Mapping[str, int]) -> Families:
    """Return refusals before any receiver, by reason, as they stand among what a process counts."""
    return _as_json([_rejected(total)])


def as_text(families: Families) -> bytes:
    """Write metrics in the text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(families))
    return generate_latest(registry)


class _Collector:
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, words, kind, samples in self._families:
            metric = Metric(name, words, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric


def _as_json(families: Iterable[Metric]) -> Families:
    return [
        [each.name, each.documentation, each.type, [[one.name, one.labels, one.value] for one in each.samples]]
        for each in families
    ]


def _counts(snapshot: Snapshot) -> Iterator[Metric]:
    accepted = CounterMetricFamily("webhooks_accepted", "New events, dead letters included.", labels=["path"])
    duplicates = CounterMetricFamily("webhooks_duplicates", "Deliveries of events known already.", labels=["path"])
    failures = CounterMetricFamily("webhooks_store_failures", "Deliveries answered 503.", labels=["path"])
    rejected = _rejected(snapshot.refused)
    for path, counted in snapshot.receivers.items():
        accepted.add_metric([path], counted.accepted)
        duplicates.add_metric([path], counted.duplicates)
        failures.add_metric([path], counted.store_failures)
        for reason, count in counted.rejected.items():
            rejected.add_metric([path, reason], count)
    yield from (accepted, duplicates, failures, rejected)
    yield GaugeMetricFamily("webhooks_connections", "Open connections.", snapshot.connections)
    polling = snapshot.completions
    waiting = 0 if polling is None else polling.waiting
    yield GaugeMetricFamily("webhooks_waiters", "Callers in the listener that wait for an operation.", waiting)
    if polling is not None:
        yield GaugeMetricFamily("webhooks_polled", "Operations that are polled until they settle.", polling.pending)
        yield CounterMetricFamily("webhooks_polls", "Questions to the vendor.", polling.polls)
        yield CounterMetricFamily("webhooks_poll_errors", "Questions the vendor did not answer.", polling.poll_errors)


def _rejected(total: Mapping[str, int]) -> CounterMetricFamily:
    rejected = CounterMetricFamily("webhooks_rejected", "Refused deliveries and connections.", labels=["path", "reason"])
    for reason, count in total.items():
        rejected.add_metric(["", reason], count)
    return rejected


def _held(store: StoreStatistics, now: float) -> Iterator[Metric]:
    lag = 0.0 if store.oldest_ready_at is None else max(0.0, now - store.oldest_ready_at)
    gauges: dict[str, tuple[str, Any]] = {
        "webhooks_inbox_lag_seconds": ("Age of the oldest event that waits for its handlers.", lag),
        "webhooks_events": ("Events kept with their bodies.", store.events),
        "webhooks_events_ready": ("Events that wait for their handlers.", store.ready),
        "webhooks_dead_letters": ("Dead letters.", store.dead),
        "webhooks_lookups": ("Pending operations that an event mentioned without settling them.", store.lookups),
        "webhooks_pending": ("Operations known to be unsettled.", store.pending),
        "webhooks_outcomes": ("Outcomes.", store.outcomes),
        "webhooks_conflicts": ("Later outcomes that differ from the first.", store.conflicts),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, value)
