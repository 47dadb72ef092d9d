"""The reference of stores and ledgers names every table and column that they have."""

from __future__ import annotations

import re
from pathlib import Path

import apsw
import asyncpg
import pytest

from payouts.ledger.postgres_schema import SCHEMA as POSTGRES_LEDGER
from payouts.ledger.postgres_schema import SCHEMA_NAME as LEDGER_NAME
from payouts.ledger.schema import LEDGER
from rewards_core.postgres.migrations import Schema as PostgresSchema
from rewards_core.postgres.migrations import migrate as migrate_postgres
from rewards_core.sqlite.migrations import Schema, migrate
from tests.postgres_server import Server
from webhooks.store.postgres_schema import SCHEMA as POSTGRES_STORE
from webhooks.store.postgres_schema import SCHEMA_NAME as STORE_NAME
from webhooks.store.sqlite_schema import SCHEMA as SQLITE_STORE

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "schema.md").read_text("utf-8")
Tables = dict[str, set[str]]


def told(part: str, database: str) -> Tables:
    """Return the columns of each table that the page says a database has."""
    text = PAGE.split(f"\n## Tables of a {part}\n", 1)[1].split("\n## ")[0]
    tables: Tables = {}
    for section in text.split("\n### ")[1:]:
        title, _, body = section.partition("\n")
        found = re.fullmatch(r"(\w+)(?: \((\w+)\))?", title)
        assert found, title
        rows = re.findall(r"^\| (`[^|]+?`)(?: \((\w+)\))? \| [^|]+ \|$", body, re.MULTILINE)
        assert len(rows) == body.count("\n| `"), title
        if found[2] in {None, database}:
            columns = [name for names, only in rows if only in {"", database} for name in re.findall(r"`(\w+)`", names)]
            assert len(columns) == len(set(columns)), title
            tables[found[1]] = set(columns)
    return tables


@pytest.mark.parametrize(("part", "schema"), [("store", SQLITE_STORE), ("ledger", LEDGER)])
def test_the_page_names_the_tables_of_sqlite(part: str, schema: Schema, tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "new.db"))
    try:
        migrate(connection, tmp_path / "new.db", schema)
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall()
        columns = {name: {row[1] for row in connection.execute(f"PRAGMA table_info({name})")} for (name,) in tables}
    finally:
        connection.close()
    assert told(part, "SQLite") == columns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "schema", "name"), [("store", POSTGRES_STORE, STORE_NAME), ("ledger", POSTGRES_LEDGER, LEDGER_NAME)]
)
async def test_the_page_names_the_tables_of_postgresql(part: str, schema: PostgresSchema, name: str, postgres: Server) -> None:
    connection = await asyncpg.connect(postgres.url)
    try:
        async with connection.transaction():
            await migrate_postgres(connection, "schema_page", schema)
        found = await connection.fetch("SELECT * FROM information_schema.columns WHERE table_schema = 'schema_page'")
        await connection.execute("DROP SCHEMA schema_page CASCADE")
    finally:
        await connection.close()
    columns: Tables = {}
    for each in found:
        columns.setdefault(each["table_name"], set()).add(each["column_name"])
    assert told(part, "PostgreSQL") == columns
    assert f"`{name}`" in PAGE
