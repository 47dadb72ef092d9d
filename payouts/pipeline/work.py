"""The work of one of several workers: claim planned rows, and take over what lost workers left."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from payouts.ledger.worker import HORIZON, PERMIT_LASTS
from payouts.pipeline.flow import Pipeline
from payouts.pipeline.places import Places
from payouts.source.groups import groups_of
from payouts.states import SETTLED, Entry, LedgerUnavailable, State
from rewards_core.backoff import outage_delay
from rewards_core.clock import uptime
from rewards_core.log_limit import LogLimit
from rewards_core.rate import Limiter, Limits

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.ledger.campaign import CampaignLedger
    from payouts.ledger.postgres import PostgresLedger
    from payouts.ledger.worker import Turn, Worker
    from payouts.pipeline.options import RunOptions
    from payouts.progress import Progress, Stop
    from payouts.rows import Row
    from payouts.source.groups import Rows

T = TypeVar("T")

logger = logging.getLogger(__name__)

SEND_SECONDS = 30.0
"""Seconds for which a row must be owned before it is sent: as long as a call may take that pays."""
LOOK_EVERY = 1.0
"""Seconds between two looks where there is nothing to send."""
_SOON = 0.02
_LOOKS = 12
"""Looks for lost workers in one lease."""
_TAKEN_AT_ONCE = 200
PLANNED_AT_ONCE = 10_000
"""Rows in a transaction: with 500, commits and the tops of indexes cost half as much again."""


class WorkPipeline(Pipeline):
    """Take rows that are planned in a ledger, beside other workers, until none is planned or under way.

    Args:
        ledger: The ledger in which every step is stored.
        rows: Rows that are planned first; None if others plan them.
        others: As for `Pipeline`.
    """

    _places: SharedPlaces
    _patient = True  # as it is with its ledger, which is often in the same database

    def __init__(self, ledger: PostgresLedger, rows: Rows | None = None, *, options: RunOptions, **others: Any) -> None:
        self._worker = ledger.new_worker(rate=options.rate)
        super().__init__(ledger=self._worker, options=options, **others)
        self._shared = ledger
        self._rows = rows
        self._taking_over = asyncio.Lock()

    def _make_places(self, room: asyncio.Event) -> Places:
        places = {"max_sent": self._max_sent, "max_pending": self._options.max_pending}
        return SharedPlaces(self._worker, self._stop, room=room, **places)

    def _owning(self) -> AbstractAsyncContextManager[object]:
        return self._worker.at_work()

    async def _feed(self) -> None:
        if self._rows is not None:
            await plan_rows(self._rows, self._shared, self._stop, self._progress)
        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(self._keep_taking_over())
            await self._claim()
            taking.cancel()

    async def _claim(self) -> None:
        """Claim rows and send them, until all rows of the campaign are settled or the run is to end."""
        while self._left != 0 and (places := await self._places.take_some(self._left)):
            if self._places.late:  # more rows would wait behind those, and miss their turns too
                self._places.free_some(places)
                await self._stop.pause(_SOON)
                continue
            turn = await until_answered(lambda most=places: self._worker.claim(most), self._stop)  # type: ignore[misc]
            if turn is None:
                self._places.free_some(places)
                return
            for number, entry in enumerate(turn.entries):
                self._sender.start(entry, turn.begins + number * turn.interval)
            self._places.free_some(places - len(turn.entries))
            self._left = None if self._left is None else self._left - len(turn.entries)
            self._places.heed(turn)
            if turn.permits > len(turn.entries) and turn.condition == "running":
                async with self._taking_over:  # rows that are being taken over are neither others' nor on their way yet
                    if not await until_answered(self._others_have_rows, self._stop):
                        return
                await self._stop.pause(LOOK_EVERY)
            elif not turn.entries:
                await self._stop.pause(next_look(turn))

    async def _keep_taking_over(self) -> None:
        while True:
            async with self._taking_over:
                while rows := await until_answered(self._take_over, self._stop):
                    await self._resume(rows)
            if not await self._stop.pause(self._shared.lease / _LOOKS):
                return

    async def _others_have_rows(self) -> bool:
        return await self._worker.others_have_rows(resting=self._places.empty)

    async def _take_over(self) -> Sequence[Entry]:
        return await self._worker.take_over(_TAKEN_AT_ONCE, unknown=self._lookups is not None)

    async def _resume(self, rows: Sequence[Entry]) -> None:
        """Look up rows whose answers were lost and repeat those that the vendor does not list; wait for accepted ones."""
        by_recipient: dict[str, list[Entry]] = {}
        for row in rows:
            if row.state in {State.SENT, State.UNKNOWN}:
                by_recipient.setdefault(row.recipient, []).append(row)
        async with asyncio.TaskGroup() as lookups:
            for some in by_recipient.values():
                lookups.create_task(self._sender.look_up(some))
        for row in rows:
            if row.state is State.ACCEPTED:
                await self._sender.wait_for(row)
            elif row.state is not State.PLANNED and self._may_repeat(row) and await self._places.take():
                await self._sender.send([(row, None)])

    def _may_repeat(self, row: Entry) -> bool:
        return self._payer.may_repeat and row.uid is None and row.number not in self._sender.accepted_here


async def plan_rows(rows: Rows, ledger: CampaignLedger, stop: Stop, progress: Progress) -> None:
    """Plan the rows of a source, group by group, until it or the run ends.

    While the database stores a group the next one is read; an error of the source is raised once the rows before it are stored.
    """

    async def store(group: Sequence[Row]) -> None:
        entries = await ledger.plan(group)
        progress.read += len(entries)
        progress.skipped += sum(entry.state in SETTLED for entry in entries)

    async with aclosing(groups_of(rows, stop, PLANNED_AT_ONCE)) as groups:
        group: list[Row] = await anext(groups, [])
        while group and not stop.wished:
            problem, following = await asyncio.gather(store(group), anext(groups, []), return_exceptions=True)
            if problem is not None:
                raise problem
            if isinstance(following, BaseException):
                raise following
            group = following


class SharedPlaces(Places):
    """The places of one worker's rows, and turns by the rate that all workers share.

    Attributes:
        late: Rows and look-ups that wait for a turn of their own, because they were not claimed with one or missed it.
    """

    stopped = False
    """Whether somebody stopped the campaign."""

    def __init__(self, worker: Worker, stop: Stop, *, max_sent: int, max_pending: int, room: asyncio.Event) -> None:
        self._worker = worker
        super().__init__(stop, Limiter(Limits(connections=None)), max_sent=max_sent, max_pending=max_pending, room=room)
        self.late = self._asking = 0
        self._asked = asyncio.Lock()
        self._turns: deque[float] = deque()

    async def take_some(self, most: int | None) -> int:
        """Wait for the places of one row; return how many rows have places then, 0 if the run is to end first."""
        if not await self._stop.before(self._room.wait()) or not await self.take():
            return 0
        taken = 1
        while (most is None or taken < most) and self.take_now():
            taken += 1
        return taken

    def free_some(self, rows: int) -> None:
        """Free the places of rows that are not sent after all."""
        for _ in range(rows):
            self.free()

    async def leave(self, at: float | None) -> bool:
        """Wait until a row may leave by the shared rate, and is owned for as long as its request may take."""
        while await self._stop.before(self._worker.outlast(SEND_SECONDS)):
            if (at is None or not await self._in_time(at)) and not await self.turn():
                return False
            if self._worker.outlasts(SEND_SECONDS):
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
        """Wait for a moment; return whether it is still near after that."""
        await self._stop.pause(max(0.0, at - uptime()))
        return uptime() <= at + PERMIT_LASTS


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
    return LOOK_EVERY if turn.condition != "running" else max(_SOON, turn.begins - HORIZON / 2 - uptime())


_log_limit = LogLimit()
