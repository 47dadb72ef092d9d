"""A budget of requests that change nothing: how many may be made, how fast, and when they stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from payouts.progress import Stop
from rewards_core.errors import ClientClosed, ConfigurationError, ConnectFailed, Forbidden, RateLimited, Unauthorized
from rewards_core.rate import Limiter, Limits
from rewards_core.validation import check_number, check_whole

T = TypeVar("T")

FATAL = (Unauthorized, Forbidden, RateLimited, ConnectFailed, ClientClosed, ConfigurationError)
"""Errors that every other request would end with too."""
_PAUSE = 5.0
"""Seconds before the next attempt after an HTTP 429 without a Retry-After."""
_MAX_ATTEMPTS = 10


def paced(rate: float | None) -> Limits:
    """Return limits that start calls one by one at most at a rate and let all of them run at once."""
    return Limits(connections=None, calls_per_second=rate, burst=None if rate is None else 1)


class BudgetSpent(Exception):
    """No further request may be made: the budget is spent or was stopped."""


class RequestBudget:
    """Count and pace requests that change nothing.

    Args:
        rate: Requests per second, above 0; None for no limit.
        max_requests: Most requests, 1 or more; None for no limit.

    Attributes:
        spent: How many requests were made.

    Raises:
        TypeError: an argument is not a number, or `max_requests` not an integer.
        ValueError: one is out of range.
    """

    def __init__(self, *, rate: float | None = 20.0, max_requests: int | None = None) -> None:
        self.spent = 0
        self.max_requests = None if max_requests is None else check_whole(max_requests, "max_requests", at_least=1)
        self._stop = Stop()
        if rate is not None:
            check_number(rate, "rate", at_least=1e-6)
        self._limiter = Limiter(paced(rate))

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.wished

    def stop(self) -> None:
        """Allow no further request; those under way are finished."""
        self._stop.wish()

    async def take(self) -> None:
        """Wait until the next request may be made, and count it.

        Raises:
            BudgetSpent: no further request may be made.
        """
        if self.stopped or (self.max_requests is not None and self.spent >= self.max_requests):
            raise BudgetSpent
        self.spent += 1
        if not await self._stop.take(self._limiter):
            self.spent -= 1
            raise BudgetSpent

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request when its turn comes; retry it up to nine times while the vendor answers HTTP 429.

        Raises:
            BudgetSpent: no further request may be made.
            VendorError: the request failed.
        """
        attempts = 0
        while True:
            await self.take()
            attempts += 1
            try:
                return await request()
            except RateLimited as problem:
                if attempts >= _MAX_ATTEMPTS:
                    raise
                await self._stop.pause(problem.retry_after or _PAUSE)


def raise_if_fatal(problem: Exception) -> None:
    """Raise an error that every other request would end with too."""
    if isinstance(problem, FATAL):
        raise problem
