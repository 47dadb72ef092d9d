"""The progress of a run, and the request to end it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from payouts.states import State

if TYPE_CHECKING:
    from rewards_core.rate import Limiter


@define(kw_only=True)
class Progress:
    """What a run has done so far; read it at any time.

    Attributes:
        total: Rows in the file, None if nobody counted them.
        read: Rows taken from the file into the ledger.
        skipped: Of those, rows that an earlier run had settled.
        in_flight: Rows whose request is under way.
        pending: Rows that the vendor has accepted and not finished.
        ended: Number of rows that this run is done with, by state; `accepted` are rows that this run no longer waits for.
        settled_by: Number of rows by how the run learned that they settled: `"webhook"`, `"poll"` or `"reply"`.
    """

    total: int | None = None
    read: int = 0
    skipped: int = 0
    in_flight: int = 0
    pending: int = 0
    ended: dict[State, int] = Factory(lambda: dict.fromkeys(State, 0))
    settled_by: dict[str, int] = Factory(dict)


class Stop:
    """A request to end the run, which cuts every pause short.

    Attributes:
        wished: Whether the end was asked for.
    """

    def __init__(self) -> None:
        self.wished = False
        self._wished = asyncio.Event()
        self._scopes: set[asyncio.Timeout] = set()

    def wish(self) -> None:
        """Ask for the end; a second wish does nothing."""
        if self.wished:
            return
        self.wished = True
        self._wished.set()
        for scope in self._scopes:
            scope.reschedule(asyncio.get_running_loop().time())

    async def wait(self) -> None:
        """Wait until the end is asked for."""
        await self._wished.wait()

    async def pause(self, seconds: float) -> bool:
        """Wait for `seconds`; return whether they passed before the end was asked for."""
        return await self.before(asyncio.sleep(seconds))

    async def take(self, limiter: Limiter) -> bool:
        """Take a slot of a limiter; return whether there was one before the end was asked for."""
        return not self.wished and (limiter.take() or await self.before(limiter.wait()))

    async def before(self, work: Coroutine[Any, Any, object]) -> bool:
        """Await work; return whether it was done before the end was asked for, which cancels it."""
        if self.wished:
            work.close()
            return False
        scope = asyncio.timeout(None)
        self._scopes.add(scope)
        try:
            async with scope:
                await work
        except TimeoutError:
            if scope.expired():
                return False
            raise
        finally:
            self._scopes.discard(scope)
        return True
