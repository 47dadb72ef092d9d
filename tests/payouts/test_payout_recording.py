"""When steps are written: a lone one at once, many together, and never later than they must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from attrs import evolve

from payouts.ledger.sqlite import Facts, Ledger
from payouts.pipeline.recording import Recorder
from payouts.states import Entry, LedgerError, State
from tests.virtual_time import virtual_time

PLENTY = 10
EVERY = 0.025


class Memory:
    """A ledger that remembers how many steps came when, and takes its time to write."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.written: list[tuple[float, int]] = []
        self._seconds = seconds

    async def move_all(self, steps: Sequence[tuple[Entry, State, Facts]]) -> list[Entry]:
        self.written.append((round(asyncio.get_running_loop().time(), 3), len(steps)))
        await asyncio.sleep(self._seconds)
        return [evolve(entry, state=to) for entry, to, _ in steps]


class Broken:
    async def move_all(self, _: object) -> list[Entry]:
        raise LedgerError("the disk is gone")


@asynccontextmanager
async def recorder(ledger: Any) -> AsyncIterator[Recorder]:
    made = Recorder(cast("Ledger", ledger), plenty=PLENTY)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def entry(number: int) -> Entry:
    return Entry(
        number=number,
        id=f"row-{number}",
        line=number,
        recipient="223144788242",
        item="764893807463",
        amount="1.23",
        key=f"key-{number}",
        state=State.PLANNED,
        planned_at=0.0,
    )


async def nothing(_: Entry) -> None:
    """What follows a step that nobody goes on from."""


def put(made: Recorder, *numbers: int) -> None:
    for number in numbers:
        made.put(entry(number), State.SENT, {}, nothing)


@virtual_time
async def test_a_lone_step_is_written_at_once() -> None:
    ledger = Memory()
    async with recorder(ledger) as made:
        put(made, 1)
        await made.drain()
        await asyncio.sleep(1)
        put(made, 2)
        await made.drain()
    assert ledger.written == [(0.0, 1), (1.0, 1)]


@virtual_time
async def test_steps_that_come_soon_after_others_are_written_together() -> None:
    ledger = Memory()
    async with recorder(ledger) as made:
        put(made, 0)
        await made.drain()
        for number in range(1, 5):
            put(made, number)
            await asyncio.sleep(0.005)
        await made.drain()
    assert ledger.written == [(0.0, 1), (EVERY, 4)]


@virtual_time
async def test_plenty_are_written_without_waiting_for_more() -> None:
    ledger = Memory()
    async with recorder(ledger) as made:
        put(made, 0)
        await made.drain()
        await asyncio.sleep(0.001)
        put(made, *range(1, PLENTY + 1))
        await made.drain()
    assert ledger.written == [(0.0, 1), (0.001, PLENTY)]


@virtual_time
async def test_plenty_that_came_while_others_were_written_are_written_next() -> None:
    ledger = Memory(seconds=0.01)
    async with recorder(ledger) as made:
        put(made, 0)
        await asyncio.sleep(0.001)
        put(made, *range(1, PLENTY + 1))
        await made.drain()
    assert ledger.written == [(0.0, 1), (0.01, PLENTY)]


@virtual_time
async def test_drain_waits_for_what_is_put_while_others_are_written() -> None:
    ledger = Memory(seconds=0.01)
    gone_on: list[int] = []

    async def go_on(now: Entry) -> None:
        gone_on.append(now.number)
        if now.number < 3:
            made.put(entry(now.number + 1), State.SENT, {}, go_on)

    async with recorder(ledger) as made:
        made.put(entry(1), State.SENT, {}, go_on)
        await made.drain()
    assert gone_on == [1, 2, 3]


@virtual_time
async def test_a_ledger_that_cannot_be_written_ends_the_run() -> None:
    made = Recorder(cast("Ledger", Broken()), plenty=PLENTY)
    put(made, 1)
    with pytest.raises(LedgerError, match="the disk is gone"):
        await made.run()
