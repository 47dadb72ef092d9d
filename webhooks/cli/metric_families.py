"""Metrics as plain data: what the processes of a listener exchange, and the text for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric

Families = Sequence[Any]
"""Metric families as JSON values: `[name, help, type, samples]`, and each sample `[name, labels, value]`."""

_CUMULATIVE = frozenset({"counter", "histogram"})
_OWN = "webhooks_"


def families_of(metrics: Iterable[Metric], worker: str | None = None) -> Families:
    """Return metrics as plain data.

    Args:
        metrics: The metrics of a registry.
        worker: The value of a label `worker`, which keeps the metrics of one process apart from those of others.
    """
    label = {} if worker is None else {"worker": worker}
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [
                [sample.name, {**sample.labels, **label}, sample.value]
                for sample in metric.samples
                if not sample.name.endswith("_created")  # moments cannot be added up
            ],
        ]
        for metric in metrics
    ]


def summed(processes: Iterable[Families]) -> Families:
    """Add up the families of several processes, sample by sample."""
    families: dict[str, list[Any]] = {}
    values: dict[tuple[str, tuple[tuple[str, str], ...]], list[Any]] = {}
    for name, text, kind, samples in (family for process in processes for family in process):
        family = families.setdefault(name, [name, text, kind, []])
        for sample, labels, value in samples:
            key = (sample, tuple(sorted(labels.items())))
            if key in values:
                values[key][2] += value
            else:
                values[key] = [sample, labels, value]
                family[3].append(values[key])
    return list(families.values())


def cumulative(families: Families) -> Families:
    """Return the listener's own families that keep their values when their process has ended."""
    return [family for family in families if family[2] in _CUMULATIVE and family[0].startswith(_OWN)]


def as_text(families: Iterable[Families]) -> bytes:
    """Return the sums of some families in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, Metric, generate_latest  # noqa: PLC0415 - needs an extra

    class Collector:
        def collect(self) -> Iterator[Metric]:
            for name, text, kind, samples in summed(families):
                metric = Metric(name, text, kind)
                for sample in samples:
                    metric.add_sample(*sample)
                yield metric

    registry = CollectorRegistry()
    registry.register(Collector())
    return generate_latest(registry)
