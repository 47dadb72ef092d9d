"""Pauses that grow, and the loop that repeats: the one place that knows `backoff`.

`backoff` calls `asyncio.sleep` and `datetime.now` itself, so it is given waits of zero seconds, and the true pause happens in its
`on_backoff` handler.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import backoff
from attrs import field, frozen

from rewards_core.validation import number, whole

T = TypeVar("T")

JITTER = 0.5
"""The most that chance adds to a pause between two attempts of a call, as a share of it."""

_seconds = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII).fullmatch


def delay(repeats: int, *, first: float, longest: float, growth: float = 2.0, jitter: float = 0.0, chance: float = 0.0) -> float:
    """Return the seconds to pause before something is repeated.

    Args:
        repeats: How often it was repeated already, 0 or more.
        first: Seconds before the first repeat.
        longest: Seconds before any repeat at most, before chance lengthens them.
        growth: Each pause is so many times the one before, 1 or more.
        jitter: The share of the pause by which chance lengthens it at most; it never shortens one.
        chance: A random number from 0 to 1.
    """
    try:
        grown = first * growth**repeats
    except OverflowError:  # after a thousand doublings
        grown = longest
    return min(grown, longest) * (1.0 + jitter * chance)


@frozen(kw_only=True)
class RetryPolicy:
    """How often a call is tried and how long it pauses in between.

    Attributes:
        attempts: Requests per logical call, the first included; 1 never repeats.
        first_delay: Seconds before the second attempt; doubled for each further one.
        max_delay: The longest such pause, in seconds, before chance lengthens it by up to half.
        max_retry_after: The longest pause in seconds a vendor may ask for; a longer one ends the call.

    Raises:
        TypeError: an attribute is no number.
        ValueError: `attempts` is less than 1, or one of the others is negative or not finite.
    """

    attempts: int = field(default=5, validator=whole(at_least=1))
    first_delay: float = field(default=0.25, validator=number(at_least=0))
    max_delay: float = field(default=8.0, validator=number(at_least=0))
    max_retry_after: float = field(default=60.0, validator=number(at_least=0))

    def pause(self, failed: int, chance: float, asked: float | None = None) -> float:
        """Return the seconds to wait after so many failed attempts, 1 or more; chance lengthens, `asked` is never undercut."""
        plain = delay(failed - 1, first=self.first_delay, longest=self.max_delay)
        return max(plain, asked or 0.0) + plain * JITTER * chance


def parse_retry_after(value: str | None, date: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for, None if there is none or it says nothing.

    Args:
        value: The header: seconds or an HTTP date (RFC 9110, section 10.2.3).
        date: The Date header of the same answer, which such a date counts from: the clock of this host may be wrong.
    """
    if value is None:
        return None
    text = value.strip()
    if _seconds(text):
        return float(text[:12])
    until, sent = _moment(text), _moment(date or "")
    return None if until is None or sent is None else max(0.0, until - sent)


def _moment(text: str) -> float | None:
    """Return an HTTP date in seconds since the epoch, None if it is none; it is in GMT whether it says so or not."""
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class Again(Exception):
    """One attempt failed and another one is worth it."""


def repeating(
    pause: Callable[[Any], Awaitable[None]],
) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Return a decorator that calls an async function again for as long as it raises `Again`.

    Args:
        pause: Waits before each repetition; it is given the function's first argument.
    """

    async def wait(details: Any) -> None:
        await pause(details["args"][0])

    repeat: Any = backoff.on_exception(backoff.constant, Again, interval=0, jitter=None, logger=None, on_backoff=wait)
    return repeat  # type: ignore[no-any-return]  # backoff has no types
