"""All connections of a server: one timer looks over them, and a drain waits for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from webhooks.ingress.places import Phase

if TYPE_CHECKING:
    from webhooks.ingress.limits import ArmourLimits

_SWEEPS_PER_TIMER = 8
_SLOWEST_SWEEP = 1.0
_AT_ONCE = 32


class Watched(Protocol):
    """A connection that waits for something until some time.

    Attributes:
        phase: What it waits for.
        deadline: When that has taken too long, in seconds of the loop.
    """

    phase: Phase
    deadline: float

    def expire(self) -> None:
        """End the wait that took too long."""
        ...


class Watch:
    """Look over all connections now and then: one timer instead of two for every request.

    Args:
        limits: Their times; the timer is short enough for the shortest.
        busy: Whether a request is being answered, though its connection may have ended.
        look: What else to do at each look, given the loop's time.
    """

    def __init__(self, limits: ArmourLimits, busy: Callable[[], object], look: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._busy = busy
        self._look = look
        self._open: dict[Watched, None] = {}
        self._emptied: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._every = min(_SLOWEST_SWEEP, limits.shortest / _SWEEPS_PER_TIMER)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Watched) -> None:
        """Watch a connection."""
        self._open[connection] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._every, self._sweep)

    def remove(self, connection: Watched) -> None:
        """Forget a connection that has ended."""
        del self._open[connection]
        self.tell_if_empty()

    def tell_if_empty(self) -> None:
        """Let a drain go on if nothing is left."""
        if self._emptied is not None and not self._open and not self._busy() and not self._emptied.done():
            self._emptied.set_result(None)

    async def drain(self, timeout: float) -> bool:
        """Wait until all have ended, idle ones after the grace; return whether they did in time."""
        grace = self._loop.time() + self._limits.drain_grace_seconds
        for connection in self._open:
            if connection.phase is Phase.IDLE:
                connection.deadline = min(connection.deadline, grace)
        if not self._open and not self._busy():
            return True
        self._emptied = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._emptied
        except TimeoutError:
            return False
        finally:
            self._emptied = None
        return True

    def end(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        late = list(islice((connection for connection in self._open if connection.deadline <= now), _AT_ONCE))
        for connection in late:
            connection.expire()
        self._look(now)
        pause = 0.0 if len(late) == _AT_ONCE else self._every  # others have their turn in between
        self._timer = self._loop.call_later(pause, self._sweep) if self._open else None
