"""What a database of ten million rows needs: no statement reads all of them, and no campaign reads the others'."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from attrs import evolve

from payouts.audit import records
from payouts.audit.absence import record_absent
from payouts.audit.comparison import ComparisonResult, Finding
from payouts.audit.records import Scope
from payouts.audit.release import release
from payouts.ledger import steps
from payouts.ledger.reader import LedgerReader
from payouts.ledger.steps import Step
from payouts.states import State
from payouts.vendors import OriginalRow
from rewards_core.postgres.statements import Statements
from tests.payouts.ledger_contract import coins, tokens
from tests.payouts.postgres_ledger_kit import EPOCH, LedgerDatabase, ledger_database, limit_reads
from tests.postgres_server import Server

T = TypeVar("T")

STRETCH = 10


@pytest_asyncio.fixture
async def database(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LedgerDatabase]:
    monkeypatch.setattr("payouts.ledger.stretches.STRETCH", STRETCH)
    async with ledger_database(postgres, tmp_path) as database:
        yield database


async def read(database: LedgerDatabase, look: Callable[[LedgerReader], T]) -> T:
    def in_a_thread() -> T:
        with LedgerReader(database.url, schema=database.schema) as reader:
            return look(reader)

    return await asyncio.to_thread(in_a_thread)


def lines(prefix: str, count: int) -> list[OriginalRow]:
    return [tokens(f"{prefix}{number}") for number in range(count)]


@pytest.mark.slow
async def test_no_statement_reads_a_whole_campaign(database: LedgerDatabase) -> None:
    async with database.ledger() as ledger:
        await ledger.plan(lines("a", 45))
        await limit_reads(database.connection, STRETCH)
        assert await ledger.counts() == {State.PLANNED: 45}
        assert await read(database, lambda reader: reader.counts(reader.campaign())) == {State.PLANNED: 45}
        assert len(await read(database, lambda reader: list(reader.entries(reader.campaign())))) == 45


@pytest.mark.slow
async def test_a_small_campaign_is_read_without_the_large_one_before_and_after_it(database: LedgerDatabase) -> None:
    async with database.ledger() as ledger, database.ledger(campaign="large") as large:
        await large.plan(lines("a", 45))
        await ledger.plan(lines("b", 3))
        await large.plan(lines("c", 45))
        await ledger.plan(lines("d", 2))
        await limit_reads(database.connection, 2 * STRETCH, each="session")
        assert await ledger.counts() == {State.PLANNED: 5}
        assert await read(database, lambda reader: reader.counts(reader.campaign(ledger.campaign))) == {State.PLANNED: 5}


async def test_stretches_of_another_length_count_no_row_twice(database: LedgerDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    async with database.ledger() as ledger:
        for length in (STRETCH, 25, 4):
            monkeypatch.setattr("payouts.ledger.stretches.STRETCH", length)
            await ledger.plan(lines(f"{length}-", 15))
        assert await ledger.counts() == {State.PLANNED: 45}


async def test_rows_with_keys_of_their_own_need_no_statement_each(
    database: LedgerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, statements = Statements.execute, []

    def count(run: Statements, statement: str, values: Sequence[Any] = ()) -> Any:
        statements.append(statement)
        return execute(run, statement, values)

    monkeypatch.setattr(Statements, "execute", count)
    async with database.ledger() as ledger:
        counts = []
        for size in (2, 40):
            statements.clear()
            await ledger.plan([tokens(f"{size}-{number}", nonce=f"n-{size}-{number}") for number in range(size)])
            counts.append(len(statements))
    assert counts[0] == counts[1]


async def test_an_audit_counts_rows_by_stretches(database: LedgerDatabase) -> None:
    async with database.ledger(vendor="enkash") as ledger, database.ledger(vendor="enkash", campaign="other") as other:
        await ledger.plan([coins(f"r{number}", user_id=f"u{number % 2}") for number in range(45)])
        await other.plan([coins("r1")])
        await limit_reads(database.connection, STRETCH)
        aim = Scope(vendor="enkash", target="", campaigns=frozenset({ledger.number}), only=ledger.number)
        begun = await ledger.transact(partial(records.begin, aim, EPOCH, 0.0))
        assert begun.rows == 45
        checked = ComparisonResult(rows=45, asked_at=EPOCH)
        checked.findings.append(Finding(kind="balance_lower", recipient="u0", ledger="+2", vendor="+1"))
        await ledger.transact(partial(records.record, aim, begun.number, [checked], 1, EPOCH, None))
        assert (await read(database, lambda reader: reader.audit(begun.number))).agree == 22


def test_all_coin_rows_of_a_restored_database_are_doubted_by_stretches(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payouts.ledger.stretches.STRETCH", STRETCH)
    monkeypatch.setattr("payouts.audit.release.WRITTEN_AT_ONCE", STRETCH)

    async def release_it() -> None:
        async with ledger_database(postgres, tmp_path) as database, database.ledger(vendor="enkash") as ledger:
            await ledger.plan([coins(f"r{number}") for number in range(45)])
            await database.connection.execute("UPDATE ledger SET tables = tables || '0'")
            await limit_reads(database.connection, STRETCH)
            assert await release(ledger, EPOCH, tmp_path) == 45
            assert await ledger.counts() == {State.UNKNOWN: 45}

    asyncio.run(release_it())


async def test_a_worker_reads_the_rows_that_it_takes_and_no_others(database: LedgerDatabase) -> None:
    async with database.ledger() as ledger:
        await ledger.plan(lines("a", 45))
        await limit_reads(database.connection, STRETCH)
        async with ledger.one_worker(rate=None) as worker:
            taken = [*(await worker.claim(STRETCH // 2)).entries, *(await worker.claim(STRETCH // 2)).entries]
            await worker.move(taken[0], State.UNKNOWN, problem="no answer")
            assert await worker.others_have_rows(resting=True)
        assert len(taken) == STRETCH
        left = await database.connection.fetch("SELECT number FROM all_row_states WHERE state = 'unknown' AND worker IS NULL")
        assert [number for (number,) in left] == [taken[0].number]


async def test_a_move_of_a_row_that_stays_under_way_changes_no_index(database: LedgerDatabase) -> None:
    def changed(run: Statements) -> Any:
        changes = "pg_stat_get_xact_tuples_{}updated('{}'::regclass)"
        counts = [changes.format(*each) for each in (("", "row_states"), ("hot_", "row_states"), ("", "row_contents"))]
        return run.execute(f"SELECT {', '.join(counts)}").get

    def move(wanted: Sequence[Step], run: Statements) -> list[int]:
        before = changed(run)
        steps.write(wanted, run)
        return [now - was for now, was in zip(changed(run), before, strict=True)]

    async with database.ledger() as ledger:
        sent = await ledger.move_each([(entry, State.SENT, {}) for entry in await ledger.plan(lines("a", 3))])
        accepted = [evolve(entry, state=State.ACCEPTED, uid="uid", accepted_at=EPOCH) for entry in sent]
        assert await ledger.transact(partial(move, list(zip(sent, accepted, strict=True)))) == [3, 3, 0]


async def test_evidence_about_a_row_needs_no_look_at_the_others(
    database: LedgerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.ledger() as ledger:
        entry, *_ = await ledger.plan(lines("a", 45))
        unknown = await ledger.move(await ledger.move(entry, State.SENT), State.UNKNOWN, problem="no")
        await limit_reads(database.connection, STRETCH)
        for kept in (True, False):  # the calendar is begun, and begun again
            monkeypatch.setattr("payouts.audit.absence.uptime", lambda: 0.0)
            await ledger.transact(partial(record_absent, numbers=[unknown.number], at=EPOCH))
            if kept:
                await database.connection.execute("DELETE FROM calendar")
        for at in (1.0, 90_000.0):  # the clock was set by a week, which counts after a day
            monkeypatch.setattr("payouts.audit.absence.uptime", lambda at=at: at)
            await ledger.transact(partial(record_absent, numbers=[unknown.number], at=EPOCH + 7 * 86_400 + at))
        found = await ledger.find(entry.id)
    assert found is not None
    assert (found.absent_since, found.absent_at) == (EPOCH + 7 * 86_400, EPOCH + 7 * 86_400 + 90_000)
