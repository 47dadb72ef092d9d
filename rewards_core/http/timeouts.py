"""How long a call may take, and the one timer of all attempts of a client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from rewards_core.validation import number

if TYPE_CHECKING:
    from types import TracebackType


@frozen(kw_only=True)
class Timeouts:
    """How long a call may take, in seconds.

    Attributes:
        total: One logical call, with all attempts and the pauses between them.
        connect: One attempt, until the connection stands: name look-up and TLS included.
        read: One attempt, from its start to the last byte of the answer.

    Raises:
        TypeError: an attribute is no number.
        ValueError: an attribute is not above 0, or not finite.
    """

    total: float = field(default=30.0, validator=number(above=0))
    connect: float = field(default=5.0, validator=number(above=0))
    read: float = field(default=10.0, validator=number(above=0))


class Alarm:
    """Cut short what takes longer than its time; for one event loop.

    Args:
        seconds: How long a turn usually may take. All such turns share a timer, a shorter one has its own.
    """

    __slots__ = ("_seconds", "_timer", "_turns")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turns: dict[Turn, float] = {}  # in the order in which their time is over, as all take equally long
        self._timer: asyncio.TimerHandle | None = None

    def turn(self, seconds: float) -> Turn:
        """Return a context for one task, whose body ends with `TimeoutError` once it has taken so many seconds, or the usual."""
        return Turn(self, seconds)

    def begin(self, turn: Turn, seconds: float) -> asyncio.TimerHandle | None:
        """Count a turn's time from now on; return its timer if it has one of its own."""
        loop = asyncio.get_running_loop()
        if seconds < self._seconds:
            return loop.call_later(seconds, turn.cut_short)
        due = self._turns[turn] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(due, self._ring, loop)
        return None

    def end(self, turn: Turn) -> None:
        """Forget a turn that shares the timer, which is left to ring in vain: cancelling it each time is what costs."""
        del self._turns[turn]

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for turn, due in self._turns.items():
            if due > now:
                self._timer = loop.call_at(due, self._ring, loop)
                break
            turn.cut_short()


class Turn:
    """One body and its time, as `asyncio.timeout` does it."""

    __slots__ = ("_alarm", "_cancelled_before", "_over", "_seconds", "_task", "_timer")

    def __init__(self, alarm: Alarm, seconds: float) -> None:
        self._alarm = alarm
        self._seconds = seconds
        self._over = False

    def __enter__(self) -> None:
        self._task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # coroutines run in tasks
        self._cancelled_before = self._task.cancelling()
        self._timer = self._alarm.begin(self, self._seconds)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._timer is None:
            self._alarm.end(self)
        else:
            self._timer.cancel()
        if self._over and self._task.uncancel() <= self._cancelled_before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def cut_short(self) -> None:
        """Cancel the body; leaving it makes a time-out of that, unless somebody else has cancelled the task as well."""
        if not self._over:
            self._over = True
            self._task.cancel()
