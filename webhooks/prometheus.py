"""Metrics of receivers and completions for Prometheus. Needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from rewards_core.install_hint import install_hint
from webhooks.ingress.base import BODY_PROBLEMS
from webhooks.receiver import Receiver

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError:
    raise ImportError(f"Metrics need the package prometheus-client. Run {install_hint('metrics')}.") from None

if TYPE_CHECKING:
    from prometheus_client import Metric

    from webhooks.completions import Completions, CompletionStatistics
    from webhooks.receiver import ReceiverStatistics


_REASONS = ("missing", "malformed", "unknown_key", "mismatch", "error", "method", "encoding", *BODY_PROBLEMS)
"""Reasons of any receiver. They are shown from 0 on: Prometheus's `increase` does not count the value a counter appears with."""


def collector(receivers: Receiver | Mapping[str, Receiver], completions: Completions | None = None) -> Collector:
    """Return a collector of what receivers and completions of this process count, as `/metrics` of a listener shows it.

        prometheus_client.REGISTRY.register(collector(receiver, completions))

    Args:
        receivers: A receiver, or receivers by the path that their metrics are labelled with.
        completions: Completions, whose waits and polls are counted too.
    """
    by_path = {"": receivers} if isinstance(receivers, Receiver) else receivers

    def families() -> Iterable[Metric]:
        yield from _of_receivers(by_path)
        if completions is not None:
            yield from _of_completions(completions.statistics)

    return FamilyCollector(families)


class FamilyCollector(Collector):
    """Collects the metric families that a function returns."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the metrics now."""
        return self._families()


def rejected(counts: Mapping[tuple[str, str], int]) -> Metric:
    """Return the refusals by path and reason; those before any receiver have the path `""`."""
    family = CounterMetricFamily("webhooks_rejected", "Refused deliveries and connections.", labels=["path", "reason"])
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family


def waiters(count: int) -> Metric:
    """Return how many callers wait."""
    return gauge("webhooks_waiters", "Callers that wait for an operation.", count)


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels; `_total` is added to its name."""
    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def _of_receivers(receivers: Mapping[str, Receiver]) -> Iterable[Metric]:
    found = {path: receiver.statistics for path, receiver in receivers.items()}

    def by_path(name: str, text: str, count: Callable[[ReceiverStatistics], int]) -> Metric:
        return _by(name, text, "path", {path: count(statistics) for path, statistics in found.items()})

    yield by_path("webhooks_accepted", "New events, dead letters included.", lambda each: each.accepted)
    yield by_path("webhooks_duplicates", "Deliveries of events received before.", lambda each: each.duplicates)
    yield by_path("webhooks_store_failures", "Deliveries answered 503.", lambda each: each.store_failures)
    none = dict.fromkeys(_REASONS, 0)
    yield rejected({(path, why): count for path, each in found.items() for why, count in {**none, **each.rejected}.items()})
    runs = CounterMetricFamily("webhooks_handler_runs", "Runs of handlers, by result.", labels=["path", "result"])
    for path, receiver in receivers.items():
        statistics = receiver.handler_statistics
        runs.add_metric([path, "finished"], statistics.finished)
        runs.add_metric([path, "failed"], statistics.failed)
    yield runs


def _of_completions(statistics: CompletionStatistics) -> Iterable[Metric]:
    """Return the metrics of completions."""
    waits = {
        "webhook": statistics.settled_by_webhook,
        "poll": statistics.settled_by_poll,
        "timeout": statistics.timeouts,
    }
    yield _by("webhooks_waits", "Operations with a waiter that settled, and waits that timed out.", "ended", waits)
    yield waiters(statistics.waiting)
    yield gauge("webhooks_polled", "Operations that are polled until they settle.", statistics.pending)
    yield counter("webhooks_polls", "Requests to the vendor.", statistics.polls)
    yield counter("webhooks_poll_errors", "Requests that the vendor did not answer.", statistics.poll_errors)


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
