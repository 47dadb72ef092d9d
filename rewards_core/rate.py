"""How many calls a client has under way and how fast it starts them.

A call waits here, before it touches the network, so that what ends while it waits is known never to have left.
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
"""After a pause calls come back over this share of it, at most `MAX_SPREAD` seconds."""
MAX_SPREAD = 5.0


@frozen(kw_only=True)
class Limits:
    """How much one client asks of a vendor at a time.

    Attributes:
        connections: Requests under way at once, None for as many as there are.
        calls_per_second: Requests started per second, None for as many as there are.
        burst: Requests that may start at once after a quiet time; a second's worth if not given.
    """

    connections: int | None = field(default=100, validator=optional(whole(at_least=1)))
    calls_per_second: float | None = field(default=None, validator=optional(number(at_least=1e-6)))
    burst: int | None = field(default=None, validator=optional(whole(at_least=1)))

    def __attrs_post_init__(self) -> None:
        if self.burst is not None and self.calls_per_second is None:
            raise ValueError("burst: give calls_per_second as well, or leave burst out; it has no meaning without a rate.")


class Limiter:
    """Slots, a rate and a shared pause, in the time of the running loop.

    Args:
        limits: What holds.
        random: A number from 0 to 1, to spread those who waited out one pause.

    Attributes:
        paused_until: The moment at which the last pause ends.
    """

    def __init__(self, limits: Limits, *, random: Callable[[], float] = random.random) -> None:
        self._free: float = math.inf if limits.connections is None else limits.connections
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
        self._plain = self._interval is None

    def take(self) -> bool:
        """Take a slot if that needs no waiting; the common case costs one comparison or two."""
        if self._free > 0 and (self._plain or self._start_now()):
            self._free -= 1
            return True
        return False

    def ready_in(self) -> float:
        """Return the seconds until pause and rate let the next call start, 0 if they do now."""
        return max(0.0, max(self.paused_until, self._next_start - self._tolerance) - loop_time())

    async def wait(self, timeout: float = math.inf) -> bool:
        """Wait for pause, slot and rate in this order; return whether all were had within `timeout` seconds.

        Who has its turn by the rate and no slot yet would start, with all others like it, when the slots come free together.
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
            self.release()  # there was no time, or a pause began meanwhile: it holds for this call too
            if not in_time:
                return False

    def release(self) -> None:
        """Give a slot back: to the first who waits, else to all."""
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                return
        self._free += 1

    def give_back(self) -> None:
        """Let another call have the turn by the rate of one that does not start after all."""
        if self._interval is not None:
            self._next_start -= self._interval

    def pause(self, seconds: float) -> None:
        """Let no call start for so many seconds; those that waited come back spread out."""
        until = loop_time() + seconds
        if until > self.paused_until:
            self.paused_until = self._next_start = until
            self._pauses += 1
            self._spread = min(seconds * SPREAD, MAX_SPREAD)
            self._plain = False

    def paused_for(self) -> float:
        """Return the seconds the present pause still lasts, 0 if there is none."""
        return max(0.0, self.paused_until - loop_time())

    def _start_now(self) -> bool:
        if self.ready_in() > 0.0:
            return False
        if self._interval is None:
            self._plain = True
        else:
            self._next_start = max(loop_time(), self._next_start) + self._interval
        return True

    async def _outlast_pause(self, deadline: float) -> bool:
        while (now := loop_time()) < self.paused_until:
            until = self.paused_until + self._spread * self._random()
            if until > deadline:
                return False
            await asyncio.sleep(until - now)
        if self._interval is None:
            self._plain = True
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
        if self._free > 0:  # then nobody waits: a slot is only freed when the queue is empty
            self._free -= 1
            return True
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout_at(None if deadline == math.inf else deadline):
                await place
        except TimeoutError:
            return place.done() and not place.cancelled()
        except BaseException:
            if place.done() and not place.cancelled():
                self.release()
            raise
        return True
