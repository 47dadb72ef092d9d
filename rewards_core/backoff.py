"""Retries: growing pauses, Retry-After, and the loop of attempts, which the library `backoff` runs.

`backoff` calls `asyncio.sleep` and `datetime.now` itself, so its own waits are zero, and the pause happens in its `on_backoff`
handler.
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
"""The largest random extension of a pause between two attempts, as a share of it."""

_seconds = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII).fullmatch


def delay(repeats: int, *, first: float, longest: float, growth: float = 2.0, jitter: float = 0.0, chance: float = 0.0) -> float:
    """Return the seconds to pause before a repeat, after `repeats` earlier ones.

    The pause grows from `first` to `longest`; the share `jitter * chance` is added to it, where `chance` is random from
    0 to 1.
    """
    try:
        grown = first * growth**repeats
    except OverflowError:  # after a thousand doublings
        grown = longest
    return min(grown, longest) * (1.0 + jitter * chance)


def outage_delay(repeats: int) -> float:
    """Return the seconds to pause before a database that failed is asked again, after `repeats` earlier pauses."""
    return delay(repeats, first=0.2, longest=5.0)


@frozen(kw_only=True)
class RetryPolicy:
    """The number of attempts of a call, and the pauses between them.

    Attributes:
        attempts: Attempts per logical call, the first included; 1 never retries.
        first_delay: Seconds before the second attempt; doubled for each further attempt.
        max_delay: The longest such pause in seconds, to which up to half is added at random.
        max_retry_after: The longest pause in seconds that a vendor may ask for; a request for a longer pause ends the call.

    Raises:
        TypeError: an attribute is not a number.
        ValueError: `attempts` is less than 1, or another attribute is negative or not finite.
    """

    attempts: int = field(default=5, validator=whole(at_least=1))
    first_delay: float = field(default=0.25, validator=number(at_least=0))
    max_delay: float = field(default=8.0, validator=number(at_least=0))
    max_retry_after: float = field(default=60.0, validator=number(at_least=0))

    def pause(self, failed: int, chance: float, asked: float | None = None) -> float:
        """Return the seconds to pause after this many failed attempts, 1 or more; never less than the vendor asked for."""
        plain = delay(failed - 1, first=self.first_delay, longest=self.max_delay)
        return max(plain, asked or 0.0) + plain * JITTER * chance


def parse_retry_after(value: str | None, date: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for, None if it is missing or cannot be read.

    Args:
        value: The header: seconds or an HTTP date (RFC 9110, section 10.2.3).
        date: The Date header of the same answer, from which an HTTP date is counted, because the clock of this host may be wrong.
    """
    if value is None:
        return None
    text = value.strip()
    if _seconds(text):
        return float(text[:12])
    until, sent = parse_http_date(text), parse_http_date(date or "")
    return None if until is None or sent is None else max(0.0, until - sent)


def parse_http_date(text: str) -> float | None:
    """Return an HTTP date as Unix time, or None; it is in GMT even without a zone."""
    try:
        at = parsedate_to_datetime(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


class Again(Exception):
    """An attempt failed, and another attempt follows."""


def repeating(
    pause: Callable[[Any], Awaitable[None]],
) -> Callable[[Callable[..., Awaitable[T]]], Callable[..., Awaitable[T]]]:
    """Return a decorator that calls an async function again while it raises `Again`, after `pause(first argument)`."""

    async def wait(details: Any) -> None:
        await pause(details["args"][0])

    repeat: Any = backoff.on_exception(backoff.constant, Again, interval=0, jitter=None, logger=None, on_backoff=wait)
    return repeat  # type: ignore[no-any-return]  # backoff has no types
