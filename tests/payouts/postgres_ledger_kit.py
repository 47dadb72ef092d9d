"""Ledgers in a schema of a test's own, whose clock moves only when the test moves it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payouts.ledger.postgres import PostgresLedger, engine_of
from payouts.ledger.postgres_schema import SCHEMA, SCHEMA_NAME
from payouts.ledger.worker import Worker
from rewards_core.errors import StoreError
from rewards_core.postgres.engine import Engine
from rewards_core.postgres.migrations import migrate
from tests.postgres_server import Server

EPOCH = 1_790_000_000.0
CAMPAIGN = "diwali-2026"
_numbers = itertools.count(1)


class OpenLedger(PostgresLedger):
    """A ledger whose engine a test may spoil."""

    engine: Engine

    def __init__(self, *args: Any, **options: Any) -> None:
        def make(*address: Any) -> Engine:
            self.engine = engine_of(*address)
            return self.engine

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("payouts.ledger.postgres.engine_of", make)
            super().__init__(*args, **options)


class LedgerDatabase:
    """A schema, its clock and its ledgers.

    Attributes:
        connection: Beside all ledgers.
        state: The state folder of this machine.
    """

    def __init__(self, url: str, schema: str, connection: Any, state: Path) -> None:
        self.url = url
        self.schema = schema
        self.connection = connection
        self.state = state

    def ledger(self, **options: Any) -> OpenLedger:
        given: dict[str, Any] = {"vendor": "original", "campaign": CAMPAIGN, "schema": self.schema, "state": self.state}
        return OpenLedger(self.url, **given | options)

    async def advance(self, seconds: float) -> None:
        await self.connection.execute("UPDATE clock SET at = at + $1", seconds)

    async def worker(self, ledger: PostgresLedger, **options: Any) -> Worker:
        """Return a worker that tells nobody that it lives, as one that is frozen."""
        given: dict[str, Any] = {"rate": None, "lease": 60.0, "grace": 30.0, "state": self.state}
        worker = Worker(ledger, **given | options)
        await worker.begin()
        return worker


@asynccontextmanager
async def ledger_database(server: Server, state: Path) -> AsyncIterator[LedgerDatabase]:
    connection = await asyncpg.connect(server.url)
    schema = f"ledger_{next(_numbers)}"
    try:
        async with connection.transaction():
            await migrate(connection, schema, SCHEMA)
        await connection.execute(
            f"SET search_path = {schema}; CREATE TABLE clock (at double precision); INSERT INTO clock VALUES ({EPOCH}); "
            "CREATE OR REPLACE FUNCTION now_s() RETURNS double precision LANGUAGE sql VOLATILE "
            f"AS 'SELECT at FROM {schema}.clock'"
        )
        yield LedgerDatabase(server.url, schema, connection, state)
        await connection.execute(f"DROP SCHEMA {schema} CASCADE")
    finally:
        await connection.close()


@contextmanager
def database_of_its_own(server: Server) -> Iterator[str]:
    """Yield the URL of an empty database."""
    name = f"ledger_{next(_numbers)}"
    asyncio.run(run_sql(server.url, f"CREATE DATABASE {name}"))
    yield server.url.replace("/postgres?", f"/{name}?")
    asyncio.run(run_sql(server.url, f"DROP DATABASE {name} WITH (FORCE)"))


async def run_sql(url: str, statement: str, *values: Any) -> list[Any]:
    """Run a statement and return its rows, with the tables of the ledger in sight."""
    connection = await asyncpg.connect(url, server_settings={"search_path": SCHEMA_NAME})
    try:
        return list(await connection.fetch(statement, *values))
    finally:
        await connection.close()


def losing(ledger: PostgresLedger, patched: pytest.MonkeyPatch, call: str) -> None:
    """Lose the answer of the next call of the database after it was carried out."""
    assert isinstance(ledger, OpenLedger)
    real = getattr(ledger.engine, call)
    lost: list[str] = []

    async def lose(work: Any, **options: Any) -> Any:
        result = await real(work, **options)
        if lost:
            return result
        lost.append(call)
        raise StoreError("the connection was lost")

    patched.setattr(ledger.engine, call, lose)


async def limit_reads(connection: Any, rows: int, *, each: str = "statement") -> None:
    """Fail each statement, or each session, that reads more rows of a table of rows, including rows that it filters out.

    It serves instead of a limit of time, which depends on the machine.
    """
    key = "statement_timestamp()::text" if each == "statement" else "'session'"
    await connection.execute(
        f"""
        CREATE FUNCTION let_read(called text) RETURNS boolean LANGUAGE plpgsql VOLATILE COST 0.0001 AS $$
        DECLARE
            before text[] = string_to_array(current_setting('test.read_' || called, true), '|');
            count integer = CASE WHEN before[1] = {key} THEN before[2]::integer + 1 ELSE 1 END;
        BEGIN
            IF count > {rows} THEN RAISE EXCEPTION 'a {each} reads more than {rows} rows'; END IF;
            PERFORM set_config('test.read_' || called, {key} || '|' || count, false);
            RETURN true;
        END $$;
        ALTER TABLE row_contents RENAME TO all_row_contents;
        ALTER TABLE row_states RENAME TO all_row_states;
        CREATE VIEW row_contents AS SELECT * FROM all_row_contents WHERE let_read('contents');
        CREATE VIEW row_states AS SELECT * FROM all_row_states WHERE let_read('states');
        CREATE OR REPLACE VIEW rows AS SELECT * FROM row_states LEFT JOIN row_contents USING (number, campaign)
        """
    )
