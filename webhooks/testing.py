"""Help for tests of services that wait for operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rewards_core.validation import check_number
from webhooks import polling


@contextmanager
def fast_polls(interval: float = 0.05) -> Iterator[None]:
    """Poll every operation at this interval, whatever its `PollPolicy` says, in all threads: for tests against a sandbox.

        with fast_polls():
            await completions.wait(operation, timeout=10)

    Args:
        interval: Seconds before the first poll and between polls, above 0. The budget of polls per second still holds.

    Raises:
        TypeError: the interval is not a number.
        ValueError: it is out of range.
    """
    before, polling.fixed_interval = polling.fixed_interval, check_number(interval, "interval", above=0, unit="seconds")
    try:
        yield
    finally:
        polling.fixed_interval = before
