"""What comes twice is paid once: rows, uids, runs, and answers that were believed too soon."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from payouts.ledger.sqlite import Ledger
from payouts.pipeline.settling import named_twice
from payouts.runner import PayoutsStopped, RunOptions, run_payouts
from payouts.states import LedgerInUse, State
from payouts.vendors import EnkashRow, OriginalRow
from rewards_core.errors import RateLimited
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, ledger_at, token_row, waiting
from tests.texts import raises
from tests.virtual_time import virtual_time

NOT_WAITING = RunOptions(rate=None, concurrency=4, wait=False)


@pytest_asyncio.fixture
async def coins(path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(path, "enkash") as ledger:
        yield ledger


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


async def pay(rows: Any, client: Any, ledger: Ledger, **options: Any) -> dict[str, State]:
    options = {"options": NOT_WAITING} | options
    return {entry.id: entry.state async for entry in run_payouts(rows, client=client, ledger=ledger, **options)}


# rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["original", "enkash"])
@virtual_time
async def test_a_row_that_was_read_again_while_its_request_was_under_way_is_not_sent_again(path: Path, kind: str) -> None:
    answered, marked = asyncio.Event(), asyncio.Event()
    client: Any = StubOriginal() if kind == "original" else StubEnkash(repeat_allocations=True)
    row: Any = token_row if kind == "original" else coin_row

    async def first_one_is_slow(_: str) -> None:
        if not marked.is_set():
            marked.set()
            await answered.wait()

    async def rows() -> AsyncIterator[OriginalRow | EnkashRow]:
        yield row("twice")
        await marked.wait()
        for number in range(5):
            yield row(f"between-{number}")
        yield row("twice")
        for number in range(5):
            yield row(f"after-{number}")
        while sum((await kept.counts()).values()) < 11:  # all are planned, the repeated row as one that is sent
            await asyncio.sleep(0.01)
        answered.set()

    client.before = first_one_is_slow
    pace = RunOptions(rate=1, concurrency=4, wait=False)
    async with ledger_at(path, kind) as kept:
        ended = await pay(rows(), client, kept, options=pace)
    sent = client.created if kind == "original" else client.given
    assert len(ended) == len(sent) == len(set(sent)) == 11


@pytest.mark.slow
@pytest.mark.repeats_itself
async def test_rows_are_told_apart_however_many_there_are(vendor: StubOriginal, ledger: Ledger) -> None:
    many = [token_row(f"r{number}") for number in range(9_000)]
    await ledger.plan(many)
    assert len(await pay([many[-1], many[0], many[-1], many[8191]], vendor, ledger)) == 3
    assert len(vendor.created) == 3


# uids


async def test_accepted_rows_of_an_earlier_run_that_bear_one_uid_are_not_both_waited_for(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    rows = [token_row(f"r{number}") for number in range(6)]
    vendor.replay = vendor.hold("user-r0", "1.50", "a key of nobody here")
    assert set((await pay(rows, vendor, ledger)).values()) == {State.ACCEPTED}
    async with waiting(vendor) as completions:
        run = run_payouts([], client=vendor, completions=completions, ledger=ledger, options=RunOptions(rate=None, max_pending=3))
        ended = [entry async for entry in run]
    assert {entry.id: entry.state for entry in ended} == dict.fromkeys((row.id for row in rows), State.MISMATCH)
    assert run.progress.pending == 0
    assert named_twice(vendor.replay.uid) in {entry.problem for entry in ended}


async def test_a_row_found_under_the_uid_of_another_one_hides_neither(vendor: StubOriginal, ledger: Ledger) -> None:
    first, second = await ledger.plan([token_row("r0"), token_row("r1")])
    held = vendor.hold("user-r0", "1.50", first.key)
    await ledger.move(first, State.SENT)
    await ledger.move(await ledger.move(second, State.SENT), State.ACCEPTED, uid=held.uid)
    async with waiting(vendor) as completions:
        options = {"completions": completions, "options": RunOptions(rate=None)}
        assert set(await pay([], vendor, ledger, **options)) == {"r0", "r1"}


# runs


async def test_a_second_run_of_the_same_process_is_refused_while_the_first_pays(coins: Ledger) -> None:
    answer, asked = asyncio.Event(), asyncio.Event()
    client = StubEnkash()

    async def hold(_: str) -> None:
        asked.set()
        await answer.wait()

    client.before = hold
    first = asyncio.ensure_future(pay([coin_row("r0")], client, coins))
    await asked.wait()
    with raises(LedgerInUse, "run: another one of this process pays"):
        await pay([coin_row("r0")], client, coins)
    answer.set()
    assert await first == {"r0": State.DONE}
    assert await pay([coin_row("r1")], client, coins) == {"r1": State.DONE}


# answers


@virtual_time
async def test_a_vendor_that_asks_for_more_time_than_there_is_patience_ends_the_run_at_once(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    vendor.answers["user-r0"] = deque(
        [RateLimited("wait a day", retry_after=60.0), RateLimited("wait a day", retry_after=86_400.0)]
    )
    with pytest.raises(PayoutsStopped, match="wait a day"):
        await pay([token_row("r0")], vendor, ledger)
    assert vendor.asked_at == [0.0, 60.0]
    assert await ledger.counts() == {State.PLANNED: 1}
