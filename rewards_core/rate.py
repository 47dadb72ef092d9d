"""Limits on the calls of a client: how many run at once, and how fast they start.

A call waits here before it touches the network, so that a call which ends while it waits was never sent.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable

from attrs import field, frozen

from rewards_core.clock import loop_time
from rewards_core.validation import number, optional, whole

SPREAD = 0.5
"""After a pause, waiting calls start at random times within this share of its length, at most `MAX_SPREAD` seconds."""
MAX_SPREAD = 5.0


@frozen(kw_only=True)
class Limits:
    """The limits of one client.

    Attributes:
        connections: Requests that run at once, None for no limit.
        calls_per_second: Requests that start per second, None for no limit.
        burst: Requests that may start at once after an idle time; by default those of one second.
    """

    connections: int | None = field(default=100, validator=optional(whole(at_least=1)))
    calls_per_second: float | None = field(default=None, validator=optional(number(at_least=1e-6)))
    burst: int | None = field(default=None, validator=optional(whole(at_least=1)))

    def __attrs_post_init__(self) -> None:
        if self.burst is not None and self.calls_per_second is None:
            raise ValueError("burst: give calls_per_second as well, or leave burst out: without a rate it has no effect.")


class Limiter:
    """Limit calls by slots, a rate and a shared pause. `random` spreads the calls that a pause held back."""

    def __init__(self, limits: Limits, *, random: Callable[[], float] = random.random) -> None:
        self._slots: float = math.inf if limits.connections is None else limits.connections
        self._free = self._slots
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._random = random
        rate = limits.calls_per_second
        self._interval = None if rate is None else 1.0 / rate
        burst = limits.burst or max(1, int(rate or 1))
        self._tolerance = 0.0 if self._interval is None else (burst - 1) * self._interval
        self._next_start = -math.inf
        self.paused_until = -math.inf
        self._pauses = 0
        self._spread = 0.0

    @property
    def idle(self) -> bool:
        """Whether every slot is free."""
        return self._free == self._slots

    def take(self) -> bool:
        """Take a slot if no wait is needed."""
        if self._free > 0 and self.turn_within(0.0) is not None:
            self._free -= 1
            return True
        return False

    def turn_within(self, seconds: float) -> float | None:
        """Take the next turn by pause and rate if it comes within `seconds`; return when, in the loop's time."""
        now = asyncio.get_running_loop().time()  # each call of a client comes here
        starts_at = max(now, self.paused_until, self._next_start - self._tolerance)
        if starts_at - now > seconds:
            return None
        if self._interval is not None:
            self._next_start = max(now, self._next_start) + self._interval
        return starts_at

    def ready_in(self) -> float:
        """Return the seconds until pause and rate let the next call start."""
        starts_at = max(self.paused_until, self._next_start - self._tolerance)
        return 0.0 if starts_at == -math.inf else max(0.0, starts_at - loop_time())

    async def wait(self, timeout: float = math.inf) -> bool:
        """Wait for pause, slot and rate in this order; return False if that takes more than `timeout` seconds.

        The rate comes last: otherwise calls that the rate had let through would all start together when slots become free.
        """
        deadline = loop_time() + timeout
        while True:
            pauses = self._pauses
            if not (await self._outlast_pause(deadline) and await self._have_slot(deadline)):
                return False
            try:
                in_time = await self._keep_rate(deadline)
            except BaseException:
                self.release()
                raise
            if in_time and pauses == self._pauses:
                return True
            self.release()  # no time left, or a pause began meanwhile
            if not in_time:
                return False

    def release(self) -> None:
        """Return a slot, to the first waiter if there is one."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def give_back(self) -> None:
        """Return the turn by the rate of a call that does not start after all."""
        if self._interval is not None:
            self._next_start -= self._interval

    def pause(self, seconds: float) -> None:
        """Start no call for this many seconds; then the waiting calls start spread out."""
        until = loop_time() + seconds
        if until > self.paused_until:
            self.paused_until = self._next_start = until
            self._pauses += 1
            self._spread = min(seconds * SPREAD, MAX_SPREAD)

    def paused_for(self) -> float:
        """Return the seconds left of the pause, 0 without one."""
        return max(0.0, self.paused_until - loop_time())

    async def _outlast_pause(self, deadline: float) -> bool:
        while (now := loop_time()) < self.paused_until:
            until = self.paused_until + self._spread * self._random()
            if until > deadline:
                return False
            await asyncio.sleep(until - now)
        return True

    async def _keep_rate(self, deadline: float) -> bool:
        if self._interval is None:
            return True
        now = loop_time()
        start = max(now, self._next_start - self._tolerance)
        if start > deadline:
            return False
        self._next_start = max(now, self._next_start) + self._interval
        if start > now:
            await asyncio.sleep(start - now)
        return True

    async def _have_slot(self, deadline: float) -> bool:
        if self._free > 0:  # so no call waits: a slot is free only if the queue is empty
            self._free -= 1
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(None if deadline == math.inf else deadline):
                await waiter
        except TimeoutError:
            return waiter.done() and not waiter.cancelled()
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.release()
            raise
        return True
