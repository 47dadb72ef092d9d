"""The slots of one worker's rows, and how it waits for a ledger that it shares with other workers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from payouts.ledger.worker import HORIZON, PERMIT_LASTS
from payouts.pipeline.slots import Slots
from payouts.states import LedgerUnavailable
from rewards_core.backoff import outage_delay
from rewards_core.clock import uptime
from rewards_core.log_limit import LogLimit
from rewards_core.rate import Limiter, Limits

if TYPE_CHECKING:
    from payouts.ledger.worker import Turn, Worker
    from payouts.progress import Stop

T = TypeVar("T")

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks where there is nothing to send."""
_SEND_SECONDS = 30.0
"""Seconds for which a row must be owned before it is sent: as long as a call may take that pays."""
_MIN_PAUSE = 0.02
_log_limit = LogLimit()


class SharedSlots(Slots):
    """The slots of one worker's rows, and turns by the rate that all workers share.

    Attributes:
        late: Rows and look-ups that wait for a turn of their own, because they were not claimed with one or missed it.
    """

    stopped = False
    """Whether the campaign was stopped."""

    def __init__(self, worker: Worker, stop: Stop, *, max_sent: int, max_pending: int, room: asyncio.Event) -> None:
        self._worker = worker
        super().__init__(stop, Limiter(Limits(connections=None)), max_sent=max_sent, max_pending=max_pending, room=room)
        self.late = self._asking = 0
        self._asked = asyncio.Lock()
        self._turns: deque[float] = deque()

    async def take_some(self, max_rows: int | None) -> int:
        """Wait for the slots of one row; return how many rows have slots then, 0 if the run is to end first."""
        if not await self._stop.before(self._room.wait()) or not await self.take():
            return 0
        taken = 1
        while (max_rows is None or taken < max_rows) and self.take_now():
            taken += 1
        return taken

    def free_some(self, rows: int) -> None:
        """Free the slots of rows that are not sent after all."""
        for _ in range(rows):
            self.free()

    async def leave(self, at: float | None) -> bool:
        """Wait until a row may leave by the shared rate, and is owned for as long as its request may take."""
        while await self._stop.before(self._worker.outlast(_SEND_SECONDS)):
            if (at is None or not await self._in_time(at)) and not await self.turn():
                return False
            if self._worker.outlasts(_SEND_SECONDS):
                return True
            at = None  # it has waited for its turn for too long, or the database for the renewal
        return False

    async def turn(self) -> bool:
        """Wait for a turn by the shared rate; return False if the run is to end first."""
        self.late += 1
        try:
            while (at := await self._next_turn()) is not None:
                if await self._in_time(at):
                    return True
        finally:
            self.late -= 1
        return False

    async def _next_turn(self) -> float | None:
        """Return when a row may leave; one statement asks for all that wait: a commit for each would outlast its permit."""
        self._asking += 1
        try:
            async with self._asked:
                while not self._turns:
                    given = await until_answered(lambda: self._worker.permits(self._asking), self._stop)
                    if given is None:
                        return None
                    self.heed(given)
                    self._turns.extend(given.begins + number * given.interval for number in range(given.permits))
                    if not given.permits:
                        await self._stop.pause(next_look(given))
                return self._turns.popleft()
        finally:
            self._asking -= 1

    def heed(self, turn: Turn) -> None:
        """End the run if the campaign was stopped."""
        if turn.condition == "stopped":
            self.stopped = True
            self._stop.wish()

    async def _in_time(self, at: float) -> bool:
        """Wait for a moment; return whether it came before the end was asked for, and is still near after that."""
        return await self._stop.pause(max(0.0, at - uptime())) and uptime() <= at + PERMIT_LASTS


async def until_answered(ask: Callable[[], Awaitable[T]], stop: Stop) -> T | None:
    """Return the answer of the ledger; ask again while its database fails, and return None if the run is to end first."""
    repeats = 0
    while not stop.wished:
        try:
            return await ask()
        except LedgerUnavailable as problem:
            if _log_limit.allows("unavailable"):
                logger.warning("the ledger is not available; nothing new is sent until it is: %s", problem)
            await stop.pause(outage_delay(repeats))
            repeats += 1
    return None


def next_look(turn: Turn) -> float:
    """Return the seconds after which a campaign may let rows leave that it does not let leave now."""
    return LOOK_EVERY if turn.condition != "running" else max(_MIN_PAUSE, turn.begins - HORIZON / 2 - uptime())
