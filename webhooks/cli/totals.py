"""What several processes count, added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Families = Sequence[Any]
"""Metrics as JSON values: of each family its name, its help, its type, and the name, labels and value of each sample."""

_GROWING = frozenset({"counter", "histogram"})


def summed(processes: Iterable[Families]) -> Families:
    """Add up what several processes count, sample by sample."""
    families: dict[str, list[Any]] = {}
    values: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
    for name, words, kind, samples in (family for process in processes for family in process):
        family = families.setdefault(name, [name, words, kind, []])
        for sample, labels, value in samples:
            key = (sample, tuple(labels.values()))
            if key in values:
                values[key][2] += value
            else:
                values[key] = [sample, labels, value]
                family[3].append(values[key])
    return list(families.values())


def growing(families: Families) -> Families:
    """Return the families that only grow: what a process counted in them stays counted when it has ended."""
    return [family for family in families if family[2] in _GROWING]
