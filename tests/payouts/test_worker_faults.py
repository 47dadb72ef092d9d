"""What a fleet must not do: take an older copy for the newest, leave rows that nobody looks up, or wait for nothing."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from payouts import LedgerError, LedgerUnavailable, RunOptions, State, work_payouts
from payouts.audit.release import release
from payouts.ledger.fleet_note import FleetNote, is_paid_elsewhere
from payouts.ledger.postgres import PostgresLedger
from payouts.states import AuditNeeded
from tests.payouts.payout_kit import StubOriginal, token_row
from tests.payouts.postgres_ledger_kit import CAMPAIGN, LedgerDatabase, database_of_its_own, losing
from tests.postgres_server import Server, programs
from tests.texts import raises


@pytest_asyncio.fixture
async def ledger(database: LedgerDatabase) -> AsyncIterator[PostgresLedger]:
    async with database.ledger(lease=3_600.0) as ledger:
        await ledger.plan([token_row(f"r{number}") for number in range(30)])
        yield ledger


async def test_an_older_copy_beneath_a_worker_is_known_however_few_rows_it_lacks(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    worker = await database.worker(ledger)
    await worker.claim(8)
    await database.connection.execute("UPDATE campaigns SET generation = 7")
    with pytest.raises(AuditNeeded, match="older copy"):  # 8 rows were
        await worker.claim(9)


async def test_a_row_that_is_sent_again_counts_for_older_copies_too(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    worker = await database.worker(ledger)
    (entry,) = (await worker.claim(1)).entries
    planned = await worker.move(entry, State.PLANNED)
    kept = await database.connection.fetchval("SELECT generation FROM campaigns")
    await worker.move(planned, State.SENT)
    await database.connection.execute("UPDATE campaigns SET generation = $1", kept)  # a copy of the moment in between
    with pytest.raises(AuditNeeded, match="older copy"):
        await database.worker(ledger)


async def test_a_ledger_that_was_opened_before_an_audit_released_it_plans_and_sends_nothing(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    await database.connection.execute("UPDATE ledger SET tables = 'of another database'")
    async with database.ledger() as opened:
        await release(opened, opened.now(), database.state)
    with raises(LedgerError, "ledger: opened before an audit released it"):
        await ledger.plan([token_row("new")])
    with raises(LedgerError, "ledger: opened before an audit released it"):
        await database.worker(ledger)
    assert await ledger.counts() == {State.PLANNED: 30}


async def test_nothing_is_marked_as_sent_where_the_note_cannot_be_written(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LedgerError("the disk is full")

    async with ledger.one_worker(rate=None) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(FleetNote, "write", fail)
            with pytest.raises(LedgerError, match="the disk is full"):
                await worker.claim(5)
            with pytest.raises(LedgerError, match="the disk is full"):
                await database.worker(ledger)
    assert await ledger.counts() == {State.PLANNED: 30}
    assert await database.connection.fetchval("SELECT count(*) FROM workers WHERE alive") == 0


async def test_rows_of_a_take_over_whose_answer_was_lost_are_taken_again(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await database.worker(ledger)
    await lost.claim(3)
    await database.advance(100)
    async with database.ledger(lease=3_600.0) as other, other.one_worker(rate=None) as worker:
        with monkeypatch.context() as patched:
            losing(other, patched, "run")
            with pytest.raises(LedgerUnavailable):
                await worker.take_over(9)
        assert len(await worker.take_over(9)) == 3


@pytest.mark.parametrize("ahead", [3_600.0, 1e9], ids=["a clock that was set back", "a rate that was too low"])
async def test_a_start_that_lies_too_far_ahead_holds_nobody_up(
    database: LedgerDatabase, ledger: PostgresLedger, ahead: float
) -> None:
    worker = await database.worker(ledger, rate=10.0)
    await database.connection.execute("UPDATE campaigns SET next_start = now_s() + $1", ahead)
    assert 1 <= len((await worker.claim(30)).entries) <= 3


async def test_any_rate_can_be_given(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    worker = await database.worker(ledger, rate=1e300)
    assert len((await worker.claim(4)).entries) == 4


@pytest.mark.timeout(60)
async def test_workers_that_do_not_wait_do_not_wait_for_each_other(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    other = await database.worker(ledger)
    for entry in (await other.claim(2)).entries:
        await other.move(entry, State.ACCEPTED, uid=f"uid-{entry.id}")
    assert await other.others_have_rows(resting=True), "rows are planned"
    async with database.ledger() as own:
        async for _ in work_payouts(client=vendor, ledger=own, options=RunOptions(rate=None, wait=False)):
            pass
    assert await ledger.counts() == {State.ACCEPTED: 30}


@pytest.mark.parametrize("by", ["claim", "take_over"])
async def test_a_worker_that_did_not_wait_is_waited_for_once_it_has_rows_again(
    database: LedgerDatabase, ledger: PostgresLedger, by: str
) -> None:
    if by == "take_over":
        async with ledger.one_worker(rate=None) as lost:
            await lost.claim(30)
        await database.advance(100)
    worker, waiting = await database.worker(ledger), await database.worker(ledger)
    assert await worker.others_have_rows(resting=True), "rows are planned, or left behind"
    taken = (await worker.claim(30)).entries if by == "claim" else await worker.take_over(30)
    assert len(taken) == 30
    assert await waiting.others_have_rows(resting=True), "if it is lost now, its rows are left"


async def test_a_row_that_is_no_longer_rejected_is_taken_though_its_worker_was_forgotten(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    async with ledger.new_worker(rate=None).at_work(forgotten=True) as worker:
        (entry,) = (await worker.claim(1)).entries
        rejected = await worker.move(entry, State.REJECTED, problem=ValueError("no such user"))
    assert await database.connection.fetchval("SELECT count(*) FROM workers") == 0
    unknown = await ledger.move(rejected, State.UNKNOWN, settled_by="hand", note="the user has it")
    async with ledger.one_worker(rate=None) as other:
        assert await other.take_over(9) == [unknown]


async def test_a_look_at_a_paused_campaign_writes_nothing(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    worker = await database.worker(ledger, rate=10.0)
    await ledger.pause()
    before = await database.connection.fetchval("SELECT ctid::text FROM campaigns")
    await worker.claim(3)
    await worker.permits(3)
    assert await database.connection.fetchval("SELECT ctid::text FROM campaigns") == before


def test_a_real_dump_is_known(postgres: Server, tmp_path: Path) -> None:
    def copy(source: str, target: str) -> None:
        dump = subprocess.run([programs() / "pg_dump", source], capture_output=True, check=True)
        subprocess.run(
            [programs() / "psql", "--quiet", "--set=ON_ERROR_STOP=1", target], input=dump.stdout, check=True, capture_output=True
        )

    given: dict[str, Any] = {"vendor": "original", "campaign": CAMPAIGN, "state": tmp_path}

    async def pay(source: str) -> None:
        async with PostgresLedger(source, **given) as ledger, ledger.one_worker(rate=None):
            await ledger.plan([token_row("r1")])

    async def check(target: str) -> None:
        async with PostgresLedger(target, **given) as copied:
            with pytest.raises(AuditNeeded, match="dump"):
                async with copied.one_worker():
                    pass
            assert await release(copied, copied.now(), tmp_path, newest=True) == 0
        async with PostgresLedger(target, **given) as copied, copied.one_worker():
            pass

    with database_of_its_own(postgres) as source, database_of_its_own(postgres) as target:
        asyncio.run(pay(source))
        copy(source, target)
        asyncio.run(check(target))


def test_a_campaign_that_was_paid_from_another_ledger_is_known_by_its_name(tmp_path: Path) -> None:
    note = FleetNote(tmp_path)
    note.open("abc", "enkash", "diwali")
    note.write(1, 0.0)
    assert is_paid_elsewhere(None, "enkash", "diwali", tmp_path)
    assert not is_paid_elsewhere("abc", "enkash", "diwali", tmp_path)
    assert not is_paid_elsewhere(None, "enkash", "holi", tmp_path)


async def test_a_renewal_whose_answer_was_lost_is_repeated(database: LedgerDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr("payouts.ledger.worker.uptime", lambda: now[0])
    async with database.ledger() as ledger:
        worker = await database.worker(ledger, lease=0.3)
        now[0] += 0.2
        assert not worker.outlasts(0.15)
        losing(ledger, monkeypatch, "run")
        renewing = asyncio.create_task(worker.keep_alive())
        await worker.outlast(0.15)
        assert worker.outlasts(0.15)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def test_an_answer_that_the_database_cannot_hold_is_no_outage(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    worker = await database.worker(ledger)
    (entry,) = (await worker.claim(1)).entries
    with pytest.raises(LedgerError, match="stored") as caught:
        await worker.move(entry, State.ACCEPTED, uid="a\0b")
    assert not isinstance(caught.value, LedgerUnavailable)
    assert await ledger.find(entry.id) == entry


async def test_a_person_hears_at_once_of_a_database_that_fails(ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = await ledger.entries([State.PLANNED], limit=1)
    losing(ledger, monkeypatch, "transact")
    with pytest.raises(LedgerUnavailable):
        await ledger.move(entry, State.SENT)
