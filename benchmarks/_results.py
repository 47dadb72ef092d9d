"""The rows that a benchmark returns, and the figures in them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def row(
    name: str, value: float, unit: str, *, reference: str | None = None, ratio: float | None = None, bar: str | None = None
) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio, "bar": bar}


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def max_in_a_second(moments: Sequence[float]) -> int:
    """Return the largest number of the moments within any one second."""
    largest = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1.0:
            first += 1
        largest = max(largest, last - first + 1)
    return largest
