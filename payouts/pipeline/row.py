"""The way of one row of a shared campaign, beside workers and other calls for the same row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import evolve

from payouts.pipeline.shared_slots import LOOK_EVERY, next_look
from payouts.pipeline.work import WorkPipeline
from payouts.states import SETTLED, CampaignStopped, Entry, State

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.ledger.postgres import PostgresLedger
    from payouts.pipeline.flow import RunSetup
    from payouts.rows import Row


class RowPipeline(WorkPipeline):
    """Plan a row if it is new, and take it until it is settled, or wait until the worker that owns it has done so.

    Args:
        row: The row.
        ledger: The ledger in which every step is stored.
        setup: As for `Pipeline`.
    """

    def __init__(self, row: Row, ledger: PostgresLedger, setup: RunSetup) -> None:
        options = evolve(setup.options, concurrency=1, limit=None, max_refused=None)
        super().__init__(None, ledger, evolve(setup, options=options))
        self._row = row

    async def run(self) -> None:
        """Run until the row is settled, or nothing more can be done for it now.

        Raises:
            CampaignStopped: somebody stopped the campaign before the row could be sent.
            Exception: as `Pipeline.run`.
        """
        self._entry = (await self._shared.plan([self._row]))[0]
        if not self._is_over(self._entry):
            await super().run()

    def _owning(self) -> AbstractAsyncContextManager[object]:
        return self._worker.at_work(forgotten=True)

    async def _feed(self) -> None:
        entry: Entry | None = self._entry
        time_left = self._options.lookup_timeout  # another worker that found no trace of a row keeps it until it ends
        while entry is not None and not self._is_over(entry) and time_left >= 0 and not self._stop.wished:
            pause = LOOK_EVERY
            if entry.state is State.PLANNED:
                if not await self._slots.take():
                    break
                turn = await self._worker.claim(1, row=entry.number)
                if turn.entries:
                    self._sender.start(turn.entries[0], turn.begins)
                    break
                self._slots.free()
                self._slots.heed(turn)
                pause = LOOK_EVERY if turn.permits else next_look(turn)
            taken = await self._worker.take_over(1, row=entry.number)
            if taken and taken[0].state is not State.PLANNED:
                await self._resume(taken)
                break
            if not taken:
                time_left -= pause if entry.state is State.UNKNOWN else 0.0
                await self._stop.pause(pause)
            entry = await self._shared.find(entry.id)

    def _raise_problem(self) -> None:
        if self._slots.stopped:
            raise CampaignStopped(self._shared.campaign, self._row.id)

    def _is_over(self, entry: Entry) -> bool:
        """Return whether nothing that could be done now would change the row."""
        if entry.state is State.ACCEPTED:
            return self._settlement is None
        if entry.state is State.UNKNOWN:
            return self._payer.lookups is None and not self._payer.may_repeat
        return entry.state in SETTLED
