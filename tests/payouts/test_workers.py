"""Workers that share a campaign: each row is one worker's, what a lost worker left is taken over, and one rate holds for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from payouts import State
from payouts.ledger.postgres import PostgresLedger
from payouts.ledger.worker import HORIZON
from payouts.states import AuditNeeded, LeaseLost, LedgerUnavailable
from tests.payouts.payout_kit import token_row
from tests.payouts.postgres_ledger_kit import LedgerDatabase, losing
from tests.texts import raises


@pytest_asyncio.fixture
async def ledger(database: LedgerDatabase) -> AsyncIterator[PostgresLedger]:
    async with database.ledger(lease=3_600.0) as ledger:
        yield ledger


@pytest_asyncio.fixture
async def other(database: LedgerDatabase) -> AsyncIterator[PostgresLedger]:
    async with database.ledger() as ledger:
        yield ledger


def rows(count: int) -> list[Any]:
    return [token_row(f"r{number}") for number in range(count)]


async def test_each_row_is_claimed_once_and_is_stored_as_sent(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(50))
    workers = [await database.worker(each) for each in (ledger, other)]
    turns = await asyncio.gather(*(workers[number % 2].claim(5) for number in range(10)))
    claimed = [entry for turn in turns for entry in turn.entries]
    assert sorted(entry.number for entry in claimed) == list(range(1, 51))
    assert {entry.state for entry in claimed} == {State.SENT}
    assert await ledger.counts() == {State.SENT: 50}
    assert not (await workers[0].claim(5)).entries


async def test_a_claim_of_one_row_gives_no_other(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    first, second = await ledger.plan(rows(2))
    worker = await database.worker(ledger)
    assert [entry.id for entry in (await worker.claim(1, row=first.number)).entries] == [first.id]
    assert not (await worker.claim(1, row=first.number)).entries
    assert [entry.id for entry in (await worker.claim(1, row=second.number)).entries] == [second.id]


async def test_a_worker_moves_only_rows_that_it_owns(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(1))
    async with other.one_worker(rate=None) as idle, ledger.one_worker(rate=None) as worker:
        (entry,) = (await worker.claim(1)).entries
        with pytest.raises(LeaseLost):
            await idle.move(entry, State.ACCEPTED, uid="1")
        assert (await worker.move(entry, State.ACCEPTED, uid="1")).state is State.ACCEPTED
        assert await ledger.find("r0") == await other.find("r0")


async def test_rows_of_a_silent_worker_are_taken_over_after_its_lease_and_the_grace(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(3))
    silent = await database.worker(other)
    sent = (await silent.claim(2)).entries
    async with ledger.one_worker(rate=None) as worker:
        await database.advance(89.0)
        assert not await worker.take_over(10)
        await database.advance(2.0)
        assert sorted(await worker.take_over(10), key=lambda each: each.number) == list(sent)
        assert not await worker.take_over(10)
        assert (await worker.move(sent[0], State.ACCEPTED, uid="1")).uid == "1"
        with pytest.raises(LeaseLost):
            await silent.claim(1)
        with pytest.raises(LeaseLost):
            await silent.permits(1)


async def test_a_silent_worker_that_is_back_before_others_took_its_rows_keeps_them(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(2))
    async with ledger.one_worker(rate=None) as worker:
        (entry,) = (await worker.claim(1)).entries
        await database.advance(1_000.0)
        assert (await worker.claim(1)).entries
        assert (await worker.move(entry, State.ACCEPTED, uid="1")).state is State.ACCEPTED


async def test_a_worker_that_lost_its_lease_hears_of_it_at_its_next_renewal(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    with pytest.RaisesGroup(LeaseLost):
        async with database.ledger(lease=0.06) as hasty, hasty.one_worker(rate=None):
            await database.connection.execute("UPDATE workers SET alive = false")
            await asyncio.get_running_loop().create_future()


async def test_what_a_worker_leaves_when_it_ends_goes_to_the_others_at_once(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(4))
    async with other.one_worker(rate=None) as leaving:
        entries = (await leaving.claim(4)).entries
        accepted = await leaving.move(entries[0], State.ACCEPTED, uid="1")
        unknown = await leaving.move(entries[1], State.UNKNOWN, problem="no answer")
        back = await leaving.move(entries[2], State.PLANNED, problem="not reached")
    async with ledger.one_worker(rate=None) as worker:
        assert {entry.number for entry in (await worker.claim(4)).entries} == {back.number}
        assert sorted(await worker.take_over(9), key=lambda each: each.number) == [accepted, unknown]
        await database.advance(31.0)  # its request may still have been under way
        assert [entry.id for entry in await worker.take_over(9)] == [entries[3].id]


async def test_a_planned_row_that_a_lost_worker_held_is_free_again(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(1))
    silent = await database.worker(other)
    (entry,) = (await silent.claim(1)).entries
    await silent.move(entry, State.PLANNED, problem="not reached")
    async with ledger.one_worker(rate=None) as worker:
        assert not (await worker.claim(1)).entries
        await database.advance(91.0)
        await worker.take_over(9)
        assert [each.id for each in (await worker.claim(1)).entries] == [entry.id]


async def test_all_workers_together_keep_the_lowest_rate(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(200))
    one, two = await database.worker(ledger, rate=100.0), await database.worker(other, rate=20.0)
    turns = [await one.claim(100), await two.claim(100), await one.permits(100)]
    assert [len(turn.entries) for turn in turns] == [20 * HORIZON, 0, 0]
    assert [turn.permits for turn in turns] == [20 * HORIZON, 0, 0]
    assert turns[0].interval == 1 / 20
    given = 0
    for step in range(40):
        await database.advance(0.1)
        turn = await (one, two)[step % 2].claim(100)
        again = await (two, one)[step % 2].permits(1)
        given += len(turn.entries) + again.permits
        assert given <= 20 * 0.1 * (step + 1)
    assert given == 80


async def test_an_idle_time_gives_no_burst(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    await ledger.plan(rows(100))
    worker = await database.worker(ledger, rate=20.0)
    await worker.claim(5)
    await database.advance(3_600.0)
    assert len((await worker.claim(100)).entries) == 20 * HORIZON


async def test_a_pause_holds_for_all_workers_and_a_stop_too(
    database: LedgerDatabase, ledger: PostgresLedger, other: PostgresLedger
) -> None:
    await ledger.plan(rows(9))
    worker = await database.worker(ledger)
    await other.pause()
    turn = await worker.claim(1)
    assert (turn.condition, turn.entries, (await worker.permits(1)).permits) == ("paused", [], 0)
    await other.resume()
    assert len((await worker.claim(1)).entries) == 1
    await other.stop()
    assert ((turn := await worker.claim(1)).condition, turn.entries) == ("stopped", [])


async def test_rows_of_a_claim_whose_answer_was_lost_are_planned_again(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.plan(rows(3))
    async with ledger.one_worker(rate=None) as worker:
        with monkeypatch.context() as patched:
            losing(ledger, patched, "run")
            with pytest.raises(LedgerUnavailable):
                await worker.claim(2)
        assert await ledger.counts() == {State.SENT: 2, State.PLANNED: 1}
        assert len((await worker.claim(3)).entries) == 3


async def test_a_move_whose_answer_was_lost_is_stored_once(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.plan(rows(1))
    async with ledger.one_worker(rate=None) as worker:
        (entry,) = (await worker.claim(1)).entries
        losing(ledger, monkeypatch, "transact")
        assert await worker.move(entry, State.ACCEPTED, uid="1") == await ledger.find("r0")


async def test_a_database_that_was_restored_from_a_dump_is_refused(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    await database.connection.execute(
        "ALTER TABLE ledger RENAME TO dumped; CREATE TABLE ledger AS SELECT * FROM dumped; DROP TABLE dumped"
    )
    with raises(AuditNeeded, "ledger: restored from a dump"):
        await database.worker(ledger)


async def test_a_database_of_which_this_machine_knows_more_is_refused(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    await ledger.plan(rows(3))
    worker = await database.worker(ledger)
    await worker.claim(1)
    await database.connection.execute("UPDATE campaigns SET generation = 0")
    with pytest.raises(AuditNeeded, match="older copy"):
        await database.worker(ledger)
    await database.connection.execute("UPDATE campaigns SET generation = -1")
    with pytest.raises(AuditNeeded, match="older copy"):
        await worker.claim(1)
