"""When to try again, and how long to wait before: pure deciders, and the one loop that repeats.

The loop is `backoff`'s; nothing else in the project imports it. It calls `asyncio.sleep` and `datetime.now` itself, so it is
given waits of zero seconds and the true pause, with the injected sleep, happens in its `on_backoff` handler.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar, cast

import backoff
from attrs import field, frozen

from rewards_core.validation import number, whole

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

JITTER = 0.5
"""The most that chance adds to a pause, as a share of it; it never shortens one."""

_seconds = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII).fullmatch


@frozen(kw_only=True)
class Timeouts:
    """How long a call may take, in seconds.

    Attributes:
        total: One logical call, with all attempts and the pauses between them.
        connect: One attempt, until the connection stands: name look-up and TLS included.
        read: One attempt, from its start to the last byte of the answer.
    """

    total: float = field(default=30.0, validator=number(above=0))
    connect: float = field(default=5.0, validator=number(above=0))
    read: float = field(default=10.0, validator=number(above=0))


@frozen(kw_only=True)
class RetryPolicy:
    """How often a call is tried and how long it pauses in between.

    Attributes:
        attempts: Requests per logical call, the first included; 1 never repeats.
        first_delay: Seconds before the second attempt; doubled for each further one.
        max_delay: The longest such pause, in seconds, before chance lengthens it by up to half.
        max_retry_after: The longest pause in seconds a vendor may ask for; a longer one ends the call.
    """

    attempts: int = field(default=5, validator=whole(at_least=1))
    first_delay: float = field(default=0.25, validator=number(at_least=0))
    max_delay: float = field(default=8.0, validator=number(at_least=0))
    max_retry_after: float = field(default=60.0, validator=number(at_least=0))


def pause_before(attempt: int, policy: RetryPolicy, chance: float, asked: float | None = None) -> float:
    """Return the seconds to wait before an attempt.

    Args:
        attempt: Number of the attempt that comes, 2 or more.
        policy: The delays.
        chance: A random number from 0 to 1; it only lengthens.
        asked: What the vendor asked for, never undercut.
    """
    delay = min(policy.first_delay * 2.0 ** min(attempt - 2, 64), policy.max_delay)
    return max(delay, asked or 0.0) + delay * JITTER * chance


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds a Retry-After header asks for, None if there is none or it says nothing.

    Args:
        value: The header: seconds or an HTTP date (RFC 9110, section 10.2.3), which is in GMT whether it says so or not.
        now: The time, in seconds since the epoch.
    """
    if value is None:
        return None
    text = value.strip()
    if _seconds(text):
        return float(text[:12])
    try:
        at = parsedate_to_datetime(text)
        return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, OverflowError):
        return None


class Again(Exception):
    """One attempt failed and another one is worth it."""


class Repeatable(Protocol[T_co]):
    """One logical call: it knows by itself when to end."""

    async def attempt(self) -> T_co:
        """Try once; raise `Again` if it is worth another attempt, the final error if not."""
        ...

    async def pause(self) -> None:
        """Wait as long as the last failed attempt calls for."""
        ...


def _no_wait() -> Generator[float, Any, None]:
    yield 0.0  # taken by the priming
    while True:
        yield 0.0


async def _pause(details: Any) -> None:
    await details["args"][0].pause()


@backoff.on_exception(_no_wait, Again, jitter=None, logger=None, on_backoff=_pause)
async def _repeat(call: Repeatable[Any]) -> Any:
    return await call.attempt()


async def persist(call: Repeatable[T]) -> T:
    """Attempt a call until it ends; the first attempt runs outside the repeating loop, which it would pay for."""
    try:
        return await call.attempt()
    except Again:
        pass
    await call.pause()
    return cast("T", await _repeat(call))
