"""How many questions a vendor is asked, how fast, and when to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from payouts.progress import Stop
from rewards_core.errors import ClientClosed, ConfigurationError, ConnectFailed, Forbidden, RateLimited, Unauthorized
from rewards_core.rate import Limiter, Limits
from rewards_core.validation import check_number, check_whole

T = TypeVar("T")

HOPELESS = (Unauthorized, Forbidden, RateLimited, ConnectFailed, ClientClosed, ConfigurationError)
"""Errors that would end every other request in the same way."""
_PAUSE = 5.0
"""Seconds before a vendor is asked again that wants fewer requests and does not say for how long."""
_MOST_ASKED = 10


def paced(rate: float | None) -> Limits:
    """Return limits under which calls start one after the other, at no more than a rate, and may all be under way at once."""
    return Limits(connections=None, calls_per_second=rate, burst=None if rate is None else 1)


class AskedEnough(Exception):
    """No further request may be made: the number of requests is used up, or the end was asked for."""


class Asking:
    """Count and pace requests that change nothing.

    Args:
        rate: Requests per second, above 0; None for no limit.
        most: Requests at most, 1 or more; None for no limit.

    Attributes:
        made: How many were made.

    Raises:
        TypeError: an argument is no number, or `most` not a whole one.
        ValueError: one is out of range.
    """

    def __init__(self, *, rate: float | None = 20.0, most: int | None = None) -> None:
        self.made = 0
        self.most = None if most is None else check_whole(most, "most", at_least=1)
        self._stop = Stop()
        if rate is not None:
            check_number(rate, "rate", at_least=1e-6)
        self._limiter = Limiter(paced(rate))

    @property
    def stopped(self) -> bool:
        """Whether the end was asked for."""
        return self._stop.wished

    def stop(self) -> None:
        """Let no further request be made; those under way are finished."""
        self._stop.wish()

    async def turn(self) -> None:
        """Wait until the next request may be made, and count it.

        Raises:
            AskedEnough: there may be none.
        """
        if self.stopped or (self.most is not None and self.made >= self.most):
            raise AskedEnough
        self.made += 1
        if not await self._stop.take(self._limiter):
            self.made -= 1
            raise AskedEnough

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request in its turn, and again if the vendor asks to come back later; the tenth time is the last.

        Raises:
            AskedEnough: it may not be made.
            VendorError: the vendor could not be asked.
        """
        asked = 0
        while True:
            await self.turn()
            asked += 1
            try:
                return await request()
            except RateLimited as problem:
                if asked >= _MOST_ASKED:
                    raise
                await self._stop.pause(problem.retry_after or _PAUSE)

    @staticmethod
    def raise_if_hopeless(problem: Exception) -> None:
        """Raise what would end every other request in the same way."""
        if isinstance(problem, HOPELESS):
            raise problem
