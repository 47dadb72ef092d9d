"""The work of one of several workers: claim planned rows, and take over what lost workers left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from payouts.pipeline.flow import Pipeline, RunSetup
from payouts.pipeline.planning import plan_rows
from payouts.pipeline.shared_slots import LOOK_EVERY, SharedSlots, next_look, until_answered
from payouts.states import Entry, State

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.ledger.postgres import PostgresLedger
    from payouts.source.groups import Rows

_LATE_PAUSE = 0.02
_LOOKS = 12
"""Looks for lost workers in one lease."""
_TAKEN_AT_ONCE = 200


class WorkPipeline(Pipeline):
    """Take rows that are planned in a ledger, beside other workers, until none is planned or under way.

    Args:
        rows: Rows that are planned first; None if others plan them.
        ledger: The ledger in which every step is stored.
        setup: As for `Pipeline`.
    """

    _slots: SharedSlots
    _retry_store_errors = True  # as it is with its ledger, which is often in the same database

    def __init__(self, rows: Rows | None, ledger: PostgresLedger, setup: RunSetup) -> None:
        self._worker = ledger.new_worker(rate=setup.options.rate)
        super().__init__(setup, self._worker)
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
