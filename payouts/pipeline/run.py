"""A run of one process: resume what earlier runs left, then plan and send the rows of a source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from payouts.pipeline.flow import Pipeline, RunSetup
from payouts.pipeline.slots import Slots
from payouts.request_budget import paced
from payouts.source.groups import Rows, groups_of
from payouts.states import SETTLED, Entry, State
from rewards_core.rate import Limiter

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.ledger.base import RunLedger
    from payouts.rows import Row

_AHEAD = 0.1
_AHEAD_UNREPEATED = 0.03
"""Seconds by which rows are stored as sent before their turn. After a kill, a person settles those that may not be repeated."""


class RunPipeline(Pipeline):
    """Take the rows of a source, as the only run of the ledger.

    Args:
        rows: The source.
        ledger: The ledger in which every step is stored.
        setup: As for `Pipeline`.
    """

    _ledger: RunLedger

    def __init__(self, rows: Rows, ledger: RunLedger, setup: RunSetup) -> None:
        super().__init__(setup, ledger)
        self._rows = rows
        self._problem: Exception | None = None
        self._begun, self._resumed = _Numbers(), _Numbers()

    def _make_slots(self, room: asyncio.Event) -> Slots:
        return Slots(
            self._stop,
            Limiter(paced(self._options.rate)),
            max_sent=self._max_sent,
            max_pending=self._options.max_pending,
            room=room,
            ahead=_AHEAD if self._payer.may_repeat else _AHEAD_UNREPEATED,
        )

    def _owning(self) -> AbstractAsyncContextManager[None]:
        return self._ledger.one_run()

    async def _feed(self) -> None:
        await self._resume()
        await self._send()

    def _raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def _resume(self) -> None:
        """Look up the rows whose answers earlier runs did not read, then wait for the rows that the vendor has accepted."""
        states = [State.SENT, State.UNKNOWN] if self._lookups is not None else [State.SENT]
        async for page in self._pages(states):
            by_recipient: dict[str, list[Entry]] = {}
            for entry in page:
                self._resumed.add(entry.number)
                by_recipient.setdefault(entry.recipient, []).append(entry)
            async with asyncio.TaskGroup() as lookups:
                for entries in by_recipient.values():
                    lookups.create_task(self._sender.look_up(entries))
        if self._settlement is not None:
            async for page in self._pages([State.ACCEPTED]):
                for entry in page:
                    self._resumed.add(entry.number)
                    if entry.number not in self._sender.accepted_here:
                        await self._sender.wait_for(entry)

    async def _pages(self, states: Sequence[State]) -> AsyncIterator[Sequence[Entry]]:
        last = 0
        while page := await self._ledger.entries(states, after=last):
            yield page
            last = page[-1].number

    async def _send(self) -> None:
        """Plan the rows, and send those that are to be sent; an error of the source or of a row ends the run as `stop` does."""
        async with asyncio.TaskGroup() as groups:
            try:
                async with aclosing(groups_of(self._rows, self._stop)) as source:
                    while self._left != 0 and (rows := await self._next_group(source)):
                        while rows:
                            entries = await self._plan(rows)
                            await self._admit(entries, groups)
                            rows = rows[len(entries) :]
            except Exception as problem:  # noqa: BLE001 - raised at the end: requests under way are not to be cut off for a bad row
                self._problem = problem
                self._stop.wish()

    async def _next_group(self, source: AsyncGenerator[list[Row]]) -> list[Row]:
        """Return the next rows, none at the end of the source or once the run is to end."""
        rows: list[Row] = []

        async def take() -> None:
            with suppress(StopAsyncIteration):
                rows.extend(await anext(source))

        return rows if await self._stop.before(take()) else []

    async def _plan(self, rows: Sequence[Row]) -> Sequence[Entry]:
        """Plan as many of the rows as may leave now, at least one, and send them: a new row is stored as sent at once.

        If no row may leave any more, all are planned for the next run.
        """
        max_rows = len(rows) if self._left is None else min(len(rows), self._left)
        turns = await self._slots.admit(max_rows) if max_rows else []
        entries = await (self._ledger.plan_sent(rows, len(turns)) if turns else self._ledger.plan(rows))
        self._progress.read += len(entries)
        fresh = {entry.number: entry for entry in entries if self._is_fresh(entry)}
        leaving = iter(turns)
        for entry in fresh.values():
            self._begin(entry)
            self._sender.start(entry, next(leaving))
        self._slots.give_back(len(turns) - len(fresh))
        return entries

    async def _admit(self, planned: Sequence[Entry], groups: asyncio.TaskGroup) -> None:
        """Send rows as soon as there is room for them; rows that need not wait are marked as sent together."""
        admitted: list[tuple[Entry, float]] = []
        for entry in planned:
            if not self._is_to_be_sent(entry):
                continue
            if self._left == 0:
                break
            at = self._slots.admit_now()
            if at is None:
                if admitted:
                    groups.create_task(self._sender.send(admitted))
                    admitted = []
                turns = await self._slots.admit()
                if not turns:
                    break
                at = turns[0]
            self._begin(entry)
            admitted.append((entry, at))
        if admitted:
            groups.create_task(self._sender.send(admitted))

    def _begin(self, entry: Entry) -> None:
        self._begun.add(entry.number)
        self._left = None if self._left is None else self._left - 1

    def _is_fresh(self, entry: Entry) -> bool:
        """Return whether the row was stored as sent just now, neither by an earlier run nor earlier in this one."""
        return entry.state is State.SENT and entry.number not in self._resumed and entry.number not in self._begun

    def _is_to_be_sent(self, entry: Entry) -> bool:
        if entry.number in self._begun:  # the row comes twice, and has moved on since it was read
            return False
        if entry.state in SETTLED and entry.number not in self._resumed:
            self._progress.skipped += 1
        if entry.state in {State.SENT, State.UNKNOWN}:  # the vendor was asked, and does not list it
            return self._payer.may_repeat and entry.uid is None
        return entry.state is State.PLANNED


class _Numbers:
    """A set of small numbers, one bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, number: int) -> bool:
        place = number >> 3
        return place < len(self._bits) and bool(self._bits[place] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        """Add a number, 0 or above."""
        place = number >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1024 - len(self._bits)))
        self._bits[place] |= 1 << (number & 7)
