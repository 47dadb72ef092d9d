"""Delayed calls on one timer: thousands of them cost a heap and not a task each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

_MAX_AT_ONCE = 500


class Scheduler:
    """Call functions after a delay in the running loop, and `ran` after each time that some were called."""

    def __init__(self, ran: Callable[[], None]) -> None:
        self._ran = ran
        self._calls: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """The number of functions that wait for their time."""
        return len(self._calls)

    def is_calm(self, seconds: float) -> bool:
        """Whether no function is called within this many seconds."""
        return not self._calls or self._calls[0][0] > asyncio.get_running_loop().time() + seconds

    def call_later(self, delay: float, action: Callable[..., object], *arguments: Any) -> None:
        """Call `action(*arguments)` after `delay` seconds; calls of the same time keep their order."""
        if self._closed:
            return
        due = asyncio.get_running_loop().time() + delay
        heappush(self._calls, (due, next(self._order), action, arguments))
        if self._timer is None or due < self._timer.when():
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._run)

    def _run(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for _ in range(_MAX_AT_ONCE):
            if not self._calls or self._calls[0][0] > now:
                break
            _, _, action, arguments = heappop(self._calls)
            action(*arguments)
        if self._calls:
            self._arm(self._calls[0][0])
        self._ran()

    def close(self) -> None:
        """Drop all calls, and accept no more."""
        self._closed = True
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
