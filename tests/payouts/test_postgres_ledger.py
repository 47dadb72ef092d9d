"""The contracts of ledgers over PostgreSQL, and what several processes do at one moment."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
import pytest_asyncio
from attrs import evolve

from payouts.ledger.postgres import PostgresLedger
from payouts.ledger.postgres_schema import SCHEMA
from payouts.ledger.reader import LedgerReader
from payouts.pipeline.preflight import Preflight
from payouts.report.page import write_report
from payouts.states import LedgerError, State
from payouts.vendors import OriginalRow
from rewards_core.postgres.migrations import migrate
from tests.payouts.ledger_contract import LedgerContract, OpenLedger, Read, led_to, mints, tokens
from tests.payouts.reader_contract import ReaderContract, RecordsContract
from tests.postgres_server import Server

T = TypeVar("T")

_TABLES = "differences audits decisions retired_keys row_contents row_states stretches workers campaigns balances calendar"
_EMPTY = "; ".join(f"DELETE FROM {table}" for table in _TABLES.split())
_numbers = itertools.count(1)
_spare: list[str] = []


class Place:
    """A schema of a test's own; it is made once and emptied: that takes a tenth of the time."""

    def __init__(self, url: str, schema: str, connection: Any, state: Path) -> None:
        self.url = url
        self.schema = schema
        self.connection = connection
        self.state = state

    def open(self, **changed: Any) -> PostgresLedger:
        options: dict[str, Any] = {"vendor": "original", "campaign": "diwali-2026", "schema": self.schema, "state": self.state}
        return PostgresLedger(self.url, **options | changed)

    async def waiting(self, sessions: int = 1) -> None:
        """Return once so many sessions wait for a lock."""
        while await self.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < sessions:
            pass


@pytest_asyncio.fixture
async def place(postgres: Server, tmp_path: Path) -> AsyncIterator[Place]:
    connection = await asyncpg.connect(postgres.url)
    try:
        schema = _spare.pop() if _spare else f"payouts_{next(_numbers)}"
        async with connection.transaction():
            await migrate(connection, schema, SCHEMA)
        await connection.execute(f"SET search_path = {schema}")
        yield Place(postgres.url, schema, connection, tmp_path)
        await connection.execute(_EMPTY)
        _spare.append(schema)
    finally:
        await connection.close()


@pytest.fixture
def open_ledger(place: Place) -> OpenLedger:
    return place.open


@pytest_asyncio.fixture
async def ledger(place: Place) -> AsyncIterator[PostgresLedger]:
    async with place.open() as ledger:
        yield ledger


@pytest.fixture
def read(place: Place) -> Read:
    async def read(look: Callable[[LedgerReader], T]) -> T:
        def in_a_thread() -> T:
            with LedgerReader(place.url, schema=place.schema) as reader:
                return look(reader)

        return await asyncio.to_thread(in_a_thread)

    return read


class TestLedger(LedgerContract):
    """In PostgreSQL."""


class TestReader(ReaderContract):
    """In PostgreSQL."""


class TestRecords(RecordsContract):
    """In PostgreSQL."""


async def test_two_processes_begin_a_campaign_at_one_moment(place: Place) -> None:
    async with place.open(campaign="another"):
        pass
    async with place.connection.transaction():
        number = await place.connection.fetchval(
            "INSERT INTO campaigns (vendor, name, target, opened_at) VALUES ('original', 'diwali-2026', '', 0) RETURNING number"
        )
        ledger = place.open()
        opening = asyncio.ensure_future(ledger.__aenter__())
        await place.waiting()
    await opening
    assert ledger.number == number
    await ledger.aclose()


async def test_two_processes_plan_the_same_rows_at_one_moment(place: Place) -> None:
    async with place.open() as one, place.open() as other:
        async with place.connection.transaction():
            await place.connection.execute("SELECT pg_advisory_xact_lock($1, 'rows'::regclass::oid::integer)", 0x7061796F)
            planning = [asyncio.ensure_future(ledger.plan([tokens("a"), tokens("b")])) for ledger in (one, other)]
            await place.waiting(2)
        first, second = await asyncio.gather(*planning)
        assert first == second


async def test_a_retried_row_is_free_for_any_worker(place: Place, ledger: PostgresLedger) -> None:
    rejected = await led_to(ledger, State.REJECTED, tokens())
    await place.connection.execute("UPDATE row_states SET worker = 7, claim = 3")
    await ledger.renew_key(rejected)
    assert tuple(await place.connection.fetchrow("SELECT worker, claim FROM rows")) == (None, None)


async def test_times_are_the_databases(place: Place) -> None:
    await place.connection.execute(
        "CREATE OR REPLACE FUNCTION now_s() RETURNS double precision LANGUAGE sql VOLATILE AS 'SELECT 5e9::double precision'"
    )
    try:
        async with place.open() as ledger:
            (planned,) = await ledger.plan([tokens()])
            sent = await ledger.move(planned, State.SENT)
    finally:
        await place.connection.execute(SCHEMA.migrations[0].partition(";")[0].replace("CREATE", "CREATE OR REPLACE", 1))
    assert sent.sent_at is not None
    assert 5e9 <= planned.planned_at < sent.sent_at


async def test_who_reads_creates_nothing_and_can_change_nothing(place: Place, ledger: PostgresLedger) -> None:
    await ledger.plan([tokens()])

    def write() -> None:
        with LedgerReader(place.url, schema=place.schema) as reader:
            reader.ask(lambda database: database.execute("DELETE FROM row_states"))

    with pytest.raises(LedgerError, match="read-only"):
        await asyncio.to_thread(write)
    with pytest.raises(LedgerError, match="payouts_none"):
        await asyncio.to_thread(partial(LedgerReader, place.url, schema="payouts_none"))
    assert not await place.connection.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname = 'payouts_none'")


def preflight_of(campaign: str, lines: list[OriginalRow], repeats: list[tuple[str, int]]) -> Callable[[LedgerReader], None]:
    """Return a look that compares a file with the ledger and expects these repeats."""

    def look(reader: LedgerReader) -> None:
        with Preflight(reader, "original", campaign) as preflight:
            assert preflight(lines) == [None] * len(lines)
            preflight.conclude(lambda row_id: next((row.line for row in lines if row.id == row_id), None))
            assert [(each.campaign.name, each.rows) for each in preflight.repeats()] == repeats

    return look


async def test_a_reader_in_an_event_loop_says_how_to_read(place: Place, ledger: PostgresLedger, tmp_path: Path) -> None:
    del ledger
    with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(\.\.\.\)\.$"):
        LedgerReader(place.url, schema=place.schema)
    with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(\.\.\.\)\.$"):
        write_report(place.url, tmp_path / "report.html")
    assert not list(tmp_path.glob("*.html"))


async def test_planned_rows_may_be_paid_by_any_worker_so_another_campaign_repeats_them(
    ledger: PostgresLedger, read: Read
) -> None:
    rows = [tokens(f"r{number}", to_user_uid=f"u{number}", line=number + 2) for number in range(3)]
    await ledger.plan(rows)
    await read(preflight_of("diwali-2027", rows, [("diwali-2026", 3)]))
    again = [tokens(f"new-{row.id}", to_user_uid=row.to_user_uid, line=row.line) for row in rows]
    await read(preflight_of("diwali-2026", again, [("diwali-2026", 3)]))


async def test_known_rows_resume_in_silence_although_another_campaign_has_them_too(
    place: Place, ledger: PostgresLedger, read: Read
) -> None:
    rows = [tokens(f"r{number}", to_user_uid=f"u{number}") for number in range(3)]
    await ledger.plan(rows)
    async with place.open(campaign="diwali-2027") as other:
        await other.plan(rows)
    await read(preflight_of("diwali-2026", rows, []))
    await read(preflight_of("diwali-2027", rows, []))


async def test_a_database_of_the_layout_before_is_led_forward_with_its_rows(postgres: Server, tmp_path: Path) -> None:
    connection = await asyncpg.connect(postgres.url)
    schema = f"payouts_{next(_numbers)}"
    try:
        async with connection.transaction():
            await migrate(connection, schema, evolve(SCHEMA, migrations=SCHEMA.migrations[:1]))
        await connection.execute(
            f"SET search_path = {schema}; "
            "INSERT INTO campaigns (vendor, name, target, opened_at) VALUES ('original', 'diwali-2026', '', 1); "
            "INSERT INTO row_contents (number, campaign, vendor, id, line, recipient, item, amount, key, planned_at, likeness) "
            "VALUES (1, 1, 'original', 'r1', 2, '32', '21', '1.50', 'k1', 1, 'x'); "
            "INSERT INTO row_states (number, campaign, state) VALUES (1, 1, 'planned'); INSERT INTO stretches VALUES (1, 0, 1)"
        )
        place = Place(postgres.url, schema, connection, tmp_path)
        async with place.open() as ledger:
            assert await ledger.plan([tokens(nonce="k1")]) == await ledger.entries([State.PLANNED])
        async with place.open(vendor="original-mint") as ledger:
            assert (await led_to(ledger, State.DONE, mints())).details == mints().details
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    finally:
        await connection.close()
