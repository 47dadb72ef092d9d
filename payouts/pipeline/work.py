"""The work of one of several workers: claim planned rows, and take over what lost workers left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from payouts.pipeline.flow import Pipeline
from payouts.pipeline.shared_slots import LOOK_EVERY, SharedSlots, next_look, until_answered
from payouts.source.groups import groups_of
from payouts.states import SETTLED, Entry, State

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.ledger.campaign import CampaignLedger
    from payouts.ledger.postgres import PostgresLedger
    from payouts.pipeline.options import RunOptions
    from payouts.progress import Progress, Stop
    from payouts.rows import Row
    from payouts.source.groups import Rows

_LATE_PAUSE = 0.02
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

    _slots: SharedSlots
    _retry_store_errors = True  # as it is with its ledger, which is often in the same database

    def __init__(self, ledger: PostgresLedger, rows: Rows | None = None, *, options: RunOptions, **others: Any) -> None:
        self._worker = ledger.new_worker(rate=options.rate)
        super().__init__(ledger=self._worker, options=options, **others)
        self._shared = ledger
        self._rows = rows
        self._taking_over = asyncio.Lock()

    def _make_slots(self, room: asyncio.Event) -> SharedSlots:
        slots = {"max_sent": self._max_sent, "max_pending": self._options.max_pending}
        return SharedSlots(self._worker, self._stop, room=room, **slots)

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
        while self._left != 0 and (slots := await self._slots.take_some(self._left)):
            if self._slots.late:  # more rows would wait behind those, and miss their turns too
                self._slots.free_some(slots)
                await self._stop.pause(_LATE_PAUSE)
                continue
            turn = await until_answered(lambda max_rows=slots: self._worker.claim(max_rows), self._stop)  # type: ignore[misc]
            if turn is None:
                self._slots.free_some(slots)
                return
            for number, entry in enumerate(turn.entries):
                self._sender.start(entry, turn.begins + number * turn.interval)
            self._slots.free_some(slots - len(turn.entries))
            self._left = None if self._left is None else self._left - len(turn.entries)
            self._slots.heed(turn)
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
        return await self._worker.others_have_rows(resting=self._slots.empty)

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
            elif row.state is not State.PLANNED and self._may_repeat(row) and await self._slots.take():
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
