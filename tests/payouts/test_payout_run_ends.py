"""A run that is stopped, closed or cut off ends no request under way, and leaves every row in a known state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from payouts.ledger.base import Database
from payouts.ledger.sqlite import Ledger
from payouts.progress import Stop
from payouts.rows import Row
from payouts.runner import RunOptions, run_payouts
from payouts.states import LedgerError, RowChanged, State
from rewards_core.errors import ConnectFailed
from rewards_core.operations import OperationStatus
from rewards_core.sqlite.connection import SQLiteError
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, ledger_at, token_row, waiting
from tests.payouts.run_kit import QUICK, collect, key_of, led_to, now, pay, rows
from tests.virtual_time import virtual_time


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


@pytest_asyncio.fixture
async def coins(path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(path, "enkash") as ledger:
        yield ledger


async def test_a_wish_to_stop_lets_the_request_under_way_end_and_sends_nothing_more(vendor: StubOriginal, ledger: Ledger) -> None:
    async with waiting(vendor) as completions:
        run = run_payouts(rows(1000), client=vendor, completions=completions, ledger=ledger, options=QUICK)

        async def wish(_: str) -> None:
            if len(vendor.created) == 10:
                run.stop()

        vendor.before = wish
        ended = await collect(run)
    assert len(ended) == len(vendor.created) <= 10 + QUICK.concurrency
    counts = await ledger.counts()
    assert counts.pop(State.PLANNED) > 0
    assert counts == {State.DONE: len(ended)}


@pytest.mark.slow
@virtual_time
async def test_after_a_wish_to_stop_accepted_rows_are_waited_for_no_longer_than_grace(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    vendor.final = OperationStatus.PENDING
    async with waiting(vendor) as completions:
        options = RunOptions(rate=None, concurrency=2, max_pending=2, grace=30.0)
        run = run_payouts(rows(10), client=vendor, completions=completions, ledger=ledger, options=options)
        collecting = asyncio.ensure_future(collect(run))
        while run.progress.pending < 2:
            await asyncio.sleep(0)
        run.stop()
        stopped_at = now()
        assert await collecting == []
    assert now() == stopped_at + 30.0
    assert await ledger.counts() == {State.ACCEPTED: 2, State.PLANNED: 8}


@pytest.mark.slow
@virtual_time
async def test_a_wish_to_stop_ends_waiting_for_room_among_the_rows_of_earlier_runs(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(3), vendor, ledger, options=RunOptions(rate=None, wait=False))
    sent = await led_to(ledger, token_row("sent"), State.SENT)
    vendor.hold("user-sent", "1.50", sent.key)
    vendor.final = OperationStatus.PENDING
    async with waiting(vendor) as completions:
        options = RunOptions(rate=None, max_pending=2)
        run = run_payouts([], client=vendor, completions=completions, ledger=ledger, options=options)
        collecting = asyncio.ensure_future(collect(run))
        while run.progress.pending < 2:
            await asyncio.sleep(0)
        run.stop()
        assert await collecting == []


async def test_a_stop_before_the_beginning_leaves_everything_as_it_was(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT)
    async with waiting(vendor) as completions:
        run = run_payouts(rows(3), client=vendor, completions=completions, ledger=ledger, options=RunOptions(grace=0.0))
        run.stop()
        assert await collect(run) == []
    assert (vendor.created, vendor.looked_up) == ([], [])


@virtual_time
async def test_a_stop_cuts_the_pause_of_a_row_that_never_left(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.answers["user-r0"].append(ConnectFailed("refused"))
    run = run_payouts(rows(1), client=vendor, ledger=ledger, options=RunOptions(rate=None, wait=False))
    asyncio.get_running_loop().call_at(0.5, run.stop)
    assert await collect(run) == []
    assert now() == 0.5
    assert await ledger.counts() == {State.PLANNED: 1}


async def test_a_stop_does_not_wait_for_rows_that_do_not_come(vendor: StubOriginal, ledger: Ledger) -> None:
    async def never() -> AsyncIterator[Row]:
        yield token_row("r0")
        await asyncio.Event().wait()

    run = run_payouts(never(), client=vendor, ledger=ledger, options=RunOptions(rate=None, wait=False))
    ended = []
    async for entry in run:
        ended.append(entry.id)
        run.stop()
    assert ended == ["r0"]


async def test_an_end_may_be_asked_for_again_while_pauses_are_being_cut() -> None:
    stop = Stop()
    pausing = asyncio.ensure_future(stop.pause(1000))
    await asyncio.sleep(0)
    stop.wish()
    await asyncio.sleep(0)
    stop.wish()
    assert not await pausing


async def test_a_run_that_is_closed_elsewhere_ends_its_iteration_without_an_error(vendor: StubOriginal, ledger: Ledger) -> None:
    under_way = asyncio.Event()

    async def hang(_: str) -> None:
        under_way.set()
        await asyncio.Event().wait()

    vendor.before = hang
    run = run_payouts(rows(1), client=vendor, ledger=ledger, options=RunOptions(rate=None, wait=False))
    collecting = asyncio.ensure_future(collect(run))
    await under_way.wait()
    await run.aclose()
    assert await collecting == []
    assert await ledger.counts() == {State.SENT: 1}


@pytest.mark.parametrize("changed", [False, True], ids=["source fails", "row changed"])
async def test_a_bad_row_ends_the_run_but_no_request_under_way(coins: Ledger, changed: bool) -> None:
    vendor = StubEnkash()
    under_way, go = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        under_way.set()
        await go.wait()

    async def given() -> AsyncIterator[Row]:
        yield coin_row("r0")
        await under_way.wait()
        try:
            if changed:
                yield coin_row("r0", user_id="somebody-else")
            raise OSError("the database is gone")
        finally:
            asyncio.get_running_loop().call_later(0.01, go.set)

    vendor.before = hang
    run = run_payouts(given(), client=vendor, ledger=coins, options=QUICK)
    with pytest.raises(RowChanged if changed else OSError):
        await collect(run)
    assert run.progress.ended[State.DONE] == 1
    assert await coins.counts() == {State.DONE: 1}


async def test_leaving_early_ends_everything_and_the_next_run_finds_out(vendor: StubOriginal, ledger: Ledger) -> None:
    under_way = asyncio.Event()

    async def hang(nonce: str) -> None:
        if nonce == key_of("r1"):
            under_way.set()
            await asyncio.Event().wait()

    vendor.before = hang
    async with waiting(vendor) as completions:
        async with run_payouts(rows(2), client=vendor, completions=completions, ledger=ledger, options=QUICK) as run:
            async for entry in run:
                assert entry.id == "r0"
                await under_way.wait()
                break
        await run.aclose()
    assert await ledger.counts() == {State.DONE: 1, State.SENT: 1}
    vendor.before = None
    (ended,) = await pay(rows(2), vendor, ledger)
    assert (ended.id, ended.state) == ("r1", State.DONE)


async def test_a_ledger_that_cannot_be_written_ends_the_run(vendor: StubOriginal, ledger: Ledger) -> None:
    def break_down(database: Database) -> None:
        raise SQLiteError("disk I/O error")

    async def broken(_: str) -> None:
        with pytest.raises(LedgerError):
            await ledger.transact(break_down)

    vendor.before = broken
    with pytest.raises(LedgerError, match="disk I/O error"):
        await pay(rows(20), vendor, ledger)


async def test_a_row_that_changed_ends_the_run_before_it_is_sent(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(1), vendor, ledger)
    with pytest.raises(RowChanged):
        await pay([token_row("r0", amount="2")], vendor, ledger)
    assert len(vendor.created) == 1
