"""The slots of the rows under way: how many may leave now, and how many may wait for their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewards_core.clock import loop_time
from rewards_core.rate import Limiter, Limits

if TYPE_CHECKING:
    import asyncio

    from payouts.progress import Stop

_LATE = 0.25
"""Seconds after its turn in which a row may still leave; later it needs another turn."""


class Slots:
    """Give every row a slot among the rows that are sent and one among those that may wait, and its turn by the rate.

    Args:
        stop: The request to end the run; then no row gets a slot any more.
        limiter: The rate at which rows leave.
        max_sent: Rows in the state `sent` at one time.
        max_pending: Rows accepted and not settled at one time.
        room: Set while the reader of the run keeps up with it.
        ahead: Seconds before its turn at which a row is stored as sent. No turn is lost while the disk needs less than this.
    """

    def __init__(
        self, stop: Stop, limiter: Limiter, *, max_sent: int, max_pending: int, room: asyncio.Event, ahead: float = 0.0
    ) -> None:
        self._stop = stop
        self._ahead = ahead
        self._limiter = limiter
        self._room = room
        self._sent = Limiter(Limits(connections=max_sent))
        self._pending = Limiter(Limits(connections=max_pending))

    def admit_now(self) -> float | None:
        """Take the slots and the turn of one more row if that needs no waiting; return when it may leave, None if it may not."""
        if self._stop.wished or not self._room.is_set() or not self.take_now():
            return None
        at = self._limiter.turn_within(self._ahead)
        if at is None:
            self.free()
        return at

    async def admit(self, max_rows: int = 1) -> list[float]:
        """Wait until a row may be stored as sent; return when up to `max_rows` of them may leave, none if the run ends first."""
        turns: list[float] = []
        at = self.admit_now()
        if at is None:
            at = await self._admit_later()
        while at is not None:
            turns.append(at)
            at = self.admit_now() if len(turns) < max_rows else None
        return turns

    async def _admit_later(self) -> float | None:
        """Wait for the slots and the turn of a row; return when it may leave, None if the run is to end first."""
        if not await self._stop.before(self._room.wait()) or not await self.take():
            return None
        while (at := self._limiter.turn_within(self._ahead)) is None:
            if not await self._stop.pause(self._limiter.ready_in() - self._ahead / 2):
                self.free()
                return None
        return at

    def give_back(self, rows: int) -> None:
        """Take back the admission of rows that are not sent after all."""
        for _ in range(rows):
            self.free()
            self._limiter.give_back()

    async def leave(self, at: float | None) -> bool:
        """Wait until a row may leave now; return False if the run is to end first.

        Args:
            at: Its turn, in the loop's time; where workers share the rate, in the uptime. None if it needs another turn.
        """
        if at is None or (wait := at - loop_time()) < -_LATE:
            return await self.turn()
        return await self._stop.pause(wait) if wait > 0.0 else not self._stop.wished

    async def turn(self) -> bool:
        """Wait for a turn by the rate; return False if the run is to end first."""
        return await self._stop.take(self._limiter)

    def take_now(self) -> bool:
        """Take the slots of one row, without a turn by the rate, if none of them needs waiting."""
        if not self._pending.take():
            return False
        if self._sent.take():
            return True
        self._pending.release()
        return False

    async def take(self) -> bool:
        """Take the slots of one row, without a turn by the rate; return False if the run is to end first."""
        if not await self.take_to_wait():
            return False
        if await self._stop.take(self._sent):
            return True
        self._pending.release()
        return False

    async def take_to_wait(self) -> bool:
        """Take a slot among the rows that wait for their end; return False if the run is to end first."""
        return await self._stop.take(self._pending)

    @property
    def empty(self) -> bool:
        """Whether no row has a slot."""
        return self._pending.idle

    def free(self) -> None:
        """Free both slots of a row."""
        self._sent.release()
        self._pending.release()

    def free_sent(self) -> None:
        """Free the slot of a row among those that are sent; it waits for its end now."""
        self._sent.release()

    def free_waiting(self) -> None:
        """Free the slot of a row among those that wait; it is no longer waited for."""
        self._pending.release()
