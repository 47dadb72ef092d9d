"""How far a run has come, how fast it may go, and how much it may have open at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from attrs import Factory, define

from payouts.states import Entry, State


@define(kw_only=True)
class Progress:
    """What a run has done so far; read it at any time.

    Attributes:
        total: Rows in the file, None if nobody counted them.
        read: Rows taken from the file into the ledger.
        skipped: Of those, rows that an earlier run had settled.
        in_flight: Rows whose request is under way.
        pending: Rows that the vendor has accepted and not finished.
        ended: State to the number of rows that this run is done with; `accepted` are those it waits for no more.
        settled_by: What brought the news (`"webhook"`, `"poll"`, `"reply"`) to the number of rows.
    """

    total: int | None = None
    read: int = 0
    skipped: int = 0
    in_flight: int = 0
    pending: int = 0
    ended: dict[State, int] = Factory(lambda: dict.fromkeys(State, 0))
    settled_by: dict[str, int] = Factory(dict)

    def count(self, entry: Entry) -> None:
        """Take in a row that this run is done with."""
        self.ended[entry.state] += 1
        if entry.settled_by is not None:
            self.settled_by[entry.settled_by] = self.settled_by.get(entry.settled_by, 0) + 1


class Stop:
    """A wish to end, which cuts every pause short.

    Args:
        sleep: Waits for so many seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._sleep = sleep
        self._wished = asyncio.Event()

    @property
    def wished(self) -> bool:
        """Whether the end was asked for."""
        return self._wished.is_set()

    def wish(self) -> None:
        """Ask for the end."""
        self._wished.set()

    async def wait(self) -> None:
        """Wait until the end is asked for."""
        await self._wished.wait()

    async def pause(self, seconds: float) -> bool:
        """Wait for so many seconds; return whether they passed before the end was asked for."""
        if seconds <= 0 or self.wished:
            return not self.wished
        return await self.before(self._sleep(seconds))

    async def before(self, work: Awaitable[object]) -> bool:
        """Do something that may take long; return whether it was done before the end was asked for, which breaks it off."""
        doing, ending = asyncio.ensure_future(work), asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((doing, ending), return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
            return doing.done()
        finally:
            doing.cancel()
            ending.cancel()
            await asyncio.gather(doing, ending, return_exceptions=True)


class Pace:
    """Let rows leave no faster than so many per second, one after the other.

    Args:
        per_second: How many, above 0; None for as many as there are.
        stop: Ends the waiting.
        clock: Monotonic seconds.
    """

    def __init__(self, per_second: float | None, stop: Stop, clock: Callable[[], float]) -> None:
        self._interval = None if per_second is None else 1.0 / per_second
        self._stop = stop
        self._clock = clock
        self._next = float("-inf")

    def turn_now(self) -> bool:
        """Take the next row's turn if it has come."""
        if self._interval is None:
            return True
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True

    async def turn(self) -> bool:
        """Wait for the next row's turn; return whether it came before the end was asked for."""
        if self._interval is None:
            return not self._stop.wished
        now = self._clock()
        begin = max(now, self._next)
        self._next = begin + self._interval
        return await self._stop.pause(begin - now)


class Places:
    """So many places, each for one row at a time.

    Args:
        number: How many there are.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._freed = asyncio.Event()

    @property
    def any_free(self) -> bool:
        """Whether one can be taken without waiting."""
        return self._free > 0

    def take_now(self) -> None:
        """Take a place, of which `any_free` has said that there is one."""
        self._free -= 1

    async def take(self) -> None:
        """Wait for a free place and take it."""
        while not self._free:
            self._freed.clear()
            await self._freed.wait()
        self._free -= 1

    def give_back(self) -> None:
        """Free a place."""
        self._free += 1
        self._freed.set()
