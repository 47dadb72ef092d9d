"""The sweeper: one timer for the timeouts of all connections, and the drain that waits for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from webhooks.ingress.slots import Phase

if TYPE_CHECKING:
    from webhooks.ingress.limits import ServerLimits

_SWEEPS_PER_TIMEOUT = 8
_MAX_INTERVAL = 1.0
_MAX_EXPIRED_PER_SWEEP = 32


class _Connection(Protocol):
    phase: Phase
    deadline: float  # when the phase times out, in the loop's time

    def expire(self) -> None: ...


class Sweeper:
    """Sweep all open connections at intervals: one timer instead of two for every request.

    Args:
        limits: Their timeouts; the interval follows the shortest.
        busy: Whether a request is being answered, even if its connection has closed.
        on_sweep: Called at each sweep with the loop's time.
    """

    def __init__(self, limits: ServerLimits, busy: Callable[[], object], on_sweep: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._drain_grace = limits.drain_grace_seconds
        self._busy = busy
        self._on_sweep = on_sweep
        self._open: dict[_Connection, None] = {}
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interval = min(_MAX_INTERVAL, limits.shortest / _SWEEPS_PER_TIMEOUT)

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: _Connection) -> None:
        """Add an open connection."""
        self._open[connection] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._sweep)

    def remove(self, connection: _Connection) -> None:
        """Remove a closed connection."""
        del self._open[connection]
        self.notify_if_drained()

    def notify_if_drained(self) -> None:
        """End a drain if nothing is left."""
        if self._drained is not None and not self._open and not self._busy() and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self, timeout: float) -> bool:
        """Wait until all connections have closed, idle ones after the grace period; return whether they did in time."""
        grace = self._loop.time() + self._drain_grace
        for connection in self._open:
            if connection.phase is Phase.IDLE:
                connection.deadline = min(connection.deadline, grace)
        if not self._open and not self._busy():
            return True
        self._drained = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._drained
        except TimeoutError:
            return False
        finally:
            self._drained = None
        return True

    def close(self) -> None:
        """Stop sweeping."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        late = list(islice((connection for connection in self._open if connection.deadline <= now), _MAX_EXPIRED_PER_SWEEP))
        for connection in late:
            connection.expire()
        self._on_sweep(now)
        pause = 0.0 if len(late) == _MAX_EXPIRED_PER_SWEEP else self._interval  # yields to other work between batches
        self._timer = self._loop.call_later(pause, self._sweep) if self._open else None
