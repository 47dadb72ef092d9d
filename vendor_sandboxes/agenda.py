"""Things to do later, on one timer: thousands of them cost a heap and not a task each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

_AT_ONCE = 500


class Agenda:
    """Call functions at their time, in the running loop; nothing is called after `close`.

    Args:
        ran: Called after functions were called.
    """

    def __init__(self, ran: Callable[[], None]) -> None:
        self._ran = ran
        self._due: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """How many things are still to be done."""
        return len(self._due)

    def later(self, delay: float, action: Callable[..., object], *arguments: Any) -> None:
        """Call `action(*arguments)` after `delay` seconds; equal times keep the order of calling."""
        if self._closed:
            return
        due = asyncio.get_running_loop().time() + delay
        heappush(self._due, (due, next(self._order), action, arguments))
        if self._timer is None or due < self._timer.when():
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._run)

    def _run(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for _ in range(_AT_ONCE):
            if not self._due or self._due[0][0] > now:
                break
            _, _, action, arguments = heappop(self._due)
            action(*arguments)
        if self._due:
            self._arm(self._due[0][0])
        self._ran()

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
