"""An async source is planned in groups, holds up nobody, and is closed whatever ends the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from payouts.ledger.sqlite import Ledger
from payouts.progress import Stop
from payouts.rows import Row
from payouts.runner import RunOptions, run_payouts
from payouts.source.groups import groups_of
from payouts.states import Entry
from tests.payouts.payout_kit import StubOriginal, ledger_at, token_row
from tests.virtual_time import virtual_time

QUICK = RunOptions(rate=None, wait=False)


@pytest_asyncio.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(tmp_path / "payouts.db") as ledger:
        yield ledger


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


class Source:
    """Rows of which none is waited for, except where a test says so."""

    def __init__(self, count: int, *, error: Exception | None = None) -> None:
        self.taken = 0
        self.tasks: set[asyncio.Task[Any] | None] = set()
        self.closed = False
        self._count = count
        self._error = error
        self._pauses: dict[int, tuple[asyncio.Event, asyncio.Event]] = {}

    def pause_before(self, number: int) -> tuple[asyncio.Event, asyncio.Event]:
        """Return what says that the source has come to a row, and what it waits for there."""
        self._pauses[number] = asyncio.Event(), asyncio.Event()
        return self._pauses[number]

    async def __aiter__(self) -> AsyncIterator[Row]:
        try:
            for number in range(self._count):
                if number in self._pauses:
                    come, go = self._pauses[number]
                    come.set()
                    await go.wait()
                self.taken += 1
                self.tasks.add(asyncio.current_task())
                yield token_row(f"r{number}")
            if self._error is not None:
                raise self._error
        finally:
            await asyncio.sleep(0)  # as a source does that gives back a connection
            self.tasks.add(asyncio.current_task())
            self.closed = True


def sizes_of_plans(ledger: Ledger) -> list[int]:
    """Return a list that gets the number of rows of each commit that stores new ones."""
    sizes: list[int] = []
    plan_sent = ledger.plan_sent

    async def counted(rows: Any, max_rows: int) -> list[Entry]:
        entries = await plan_sent(rows, max_rows)
        sizes.append(len(entries))
        return entries

    ledger.plan_sent = counted  # type: ignore[method-assign]
    return sizes


async def pay(rows: Any, vendor: StubOriginal, ledger: Ledger) -> list[str]:
    return [entry.id async for entry in run_payouts(rows, client=vendor, ledger=ledger, options=QUICK)]


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (100, [100])])
async def test_rows_that_nobody_waits_for_are_planned_together(
    vendor: StubOriginal, ledger: Ledger, count: int, sizes: list[int]
) -> None:
    planned, source = sizes_of_plans(ledger), Source(count)
    assert len(await pay(source, vendor, ledger)) == count
    assert (planned, source.closed) == (sizes, True)


async def test_a_source_is_read_in_groups() -> None:
    assert [len(group) async for group in groups_of(Source(1_200), Stop())] == [500, 500, 200]


async def test_no_row_waits_for_a_source_that_waits(vendor: StubOriginal, ledger: Ledger) -> None:
    planned, source = sizes_of_plans(ledger), Source(5)
    _, third = source.pause_before(3)
    _, fourth = source.pause_before(4)
    ended = []
    async for entry in run_payouts(source, client=vendor, ledger=ledger, options=QUICK):
        ended.append(entry.id)
        if len(ended) == 3:
            third.set()
        if len(ended) == 4:
            fourth.set()
    assert sorted(ended) == ["r0", "r1", "r2", "r3", "r4"]
    assert planned == [3, 1, 1]


async def test_what_came_before_an_error_of_the_source_is_planned(vendor: StubOriginal, ledger: Ledger) -> None:
    source = Source(3, error=OSError("the export has gone"))
    with pytest.raises(OSError, match="the export has gone"):
        await pay(source, vendor, ledger)
    assert sum((await ledger.counts()).values()) == 3
    assert source.closed


async def test_what_came_before_an_error_is_a_group_although_the_source_has_ended() -> None:
    asked = asyncio.Event()

    async def source() -> AsyncIterator[Row]:
        yield token_row("r0")
        await asked.wait()
        yield token_row("r1")
        yield token_row("r2")
        raise OSError("the export has gone")

    groups = groups_of(source(), Stop())
    sizes = [len(await anext(groups))]
    asked.set()
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
    with pytest.raises(OSError, match="the export has gone"):  # noqa: PT012 - the groups before it are looked at
        async for group in groups:
            sizes.append(len(group))
    assert sizes == [1, 2]


async def test_what_an_iterable_gave_before_its_error_is_in_a_group() -> None:
    def source() -> Iterator[Row]:
        yield from (token_row(f"r{number}") for number in range(1_203))
        raise OSError("the export has gone")

    sizes = []
    with pytest.raises(OSError, match="the export has gone"):  # noqa: PT012 - the groups before it are looked at
        async for group in groups_of(source(), Stop(), 700):
            sizes.append(len(group))
    assert sizes == [700, 503]


@pytest.mark.slow
async def test_a_source_is_read_and_closed_in_one_task(vendor: StubOriginal, ledger: Ledger) -> None:
    """So that it may hold an `asyncio.timeout` or a task group open between its rows."""
    source = Source(1_200)
    await pay(source, vendor, ledger)
    assert len(source.tasks) == 1


async def test_a_source_that_never_waits_does_not_hold_up_the_loop(vendor: StubOriginal, ledger: Ledger) -> None:
    passes = 0
    seen: list[int] = []

    async def others() -> None:
        nonlocal passes
        while True:
            passes += 1
            await asyncio.sleep(0)

    async def rows() -> AsyncIterator[Row]:
        for number in range(100):
            seen.append(passes)
            yield token_row(f"r{number}")

    busy = asyncio.ensure_future(others())
    await pay(rows(), vendor, ledger)
    busy.cancel()
    assert len(set(seen)) == 100


async def test_a_source_need_not_be_a_generator(vendor: StubOriginal, ledger: Ledger) -> None:
    class Rows:
        def __init__(self) -> None:
            self.left = [token_row("r0"), token_row("r1")]

        def __aiter__(self) -> Rows:
            return self

        async def __anext__(self) -> Row:
            if not self.left:
                raise StopAsyncIteration
            return self.left.pop()

    assert sorted(await pay(Rows(), vendor, ledger)) == ["r0", "r1"]


async def test_leaving_early_closes_a_source_that_waits(vendor: StubOriginal, ledger: Ledger) -> None:
    source = Source(2)
    source.pause_before(1)
    async with run_payouts(source, client=vendor, ledger=ledger, options=QUICK) as run:
        async for _ in run:
            break
    assert (source.taken, source.closed) == (1, True)
    assert len(source.tasks) == 1


async def test_a_stop_closes_a_source_that_waits(vendor: StubOriginal, ledger: Ledger) -> None:
    source = Source(2)
    source.pause_before(1)
    run = run_payouts(source, client=vendor, ledger=ledger, options=QUICK)
    async for _ in run:
        run.stop()
    assert (source.taken, source.closed) == (1, True)


@virtual_time
async def test_a_source_is_read_no_faster_than_rows_leave_and_closed_where_it_stands(tmp_path: Path) -> None:
    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    source, vendor = Source(10_000), StubOriginal(before=hang)
    async with ledger_at(tmp_path / "payouts.db") as ledger:
        async with run_payouts(source, client=vendor, ledger=ledger, options=QUICK) as run:
            taking = asyncio.ensure_future(anext(aiter(run)))
            await asyncio.sleep(60)  # until nothing goes on
            assert not taking.done()
            taking.cancel()
            await asyncio.wait([taking])
        assert source.closed
        assert source.taken <= 6 * 500
        assert sum((await ledger.counts()).values()) <= source.taken
