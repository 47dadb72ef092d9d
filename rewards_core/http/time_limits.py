"""Time limits of many attempts with one timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from types import TracebackType


class TimeLimits:
    """Limit the time of parts of tasks as `asyncio.timeout` does, in one event loop.

    Hardly any attempt reaches its limit, so a timer that is set and cancelled for each of them is wasted: it costs a tenth of the
    CPU of a request. Here one timer runs, for the limit that comes first.
    """

    def __init__(self) -> None:
        self._running: dict[TimeLimit, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def limit(self, seconds: float) -> TimeLimit:
        """Return a context that ends with a `TimeoutError` once it has lasted this many seconds."""
        return TimeLimit(self, seconds)

    def begin(self, limit: TimeLimit) -> None:
        """Start a limit, which ends at its `ends_at`."""
        self._running[limit] = None
        if self._timer is None or limit.ends_at < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(limit.ends_at, self._expire)

    def end(self, limit: TimeLimit) -> None:
        """Stop a limit; the timer stays for those that follow."""
        self._running.pop(limit, None)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for limit in [each for each in self._running if each.ends_at <= now]:
            self.end(limit)
            limit.expire()
        if self._running:
            self._timer = loop.call_at(min(each.ends_at for each in self._running), self._expire)


class TimeLimit:
    """The time limit of a part of the running task."""

    __slots__ = ("_cancelling", "_expired", "_limits", "_seconds", "_task", "ends_at")

    def __init__(self, limits: TimeLimits, seconds: float) -> None:
        self._limits = limits
        self._seconds = seconds
        self._expired = False

    def expire(self) -> None:
        """Cancel the task."""
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> None:
        self._task = cast("asyncio.Task[object]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self.ends_at = asyncio.get_running_loop().time() + self._seconds
        self._limits.begin(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._limits.end(self)
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error  # nobody else has cancelled the task
