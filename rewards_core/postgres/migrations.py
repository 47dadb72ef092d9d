"""The layout of a schema in a PostgreSQL database, and its migrations."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from rewards_core.errors import StoreError
from rewards_core.postgres.connection import quoted

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection

_MIGRATION_TIMEOUT = 600.0
_LOCK_CLASS = 0x72776462


class SchemaMissing(StoreError):
    """A schema that is not to be created does not exist, or has no tables yet."""


@frozen(kw_only=True)
class Schema:
    """The content of one kind of schema.

    Attributes:
        kind: The kind in messages, such as `"webhook store"`.
        migrations: Statements; entry n leads from layout n to layout n + 1. A released one never changes.
    """

    kind: str
    migrations: Sequence[str]

    @property
    def layout(self) -> int:
        """The newest layout."""
        return len(self.migrations)


async def migrate(connection: Connection, name: str, schema: Schema, *, create: bool = True) -> None:
    """Create the schema `name` or migrate it to the newest layout, in the open transaction.

    Processes that start together migrate once.

    Args:
        connection: In a transaction.
        name: The name of the schema.
        schema: Its content.
        create: Whether it is created if it is missing.

    Raises:
        SchemaMissing: it is missing and is not to be created.
        StoreError: a newer version has migrated it, or it holds tables of another program; nothing was changed.
    """
    layout = await layout_of(connection, name, schema)
    if layout == schema.layout:
        return
    if layout is None and not create:
        raise SchemaMissing(f"The schema {name} of this database holds no {schema.kind} yet. Nothing was read or written.")
    await connection.execute(
        f"SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL search_path = {quoted(name)}"
    )
    await connection.execute(
        "SELECT pg_advisory_xact_lock($1, $2)", _LOCK_CLASS, zlib.crc32(name.encode()) >> 1, timeout=_MIGRATION_TIMEOUT
    )
    layout = await layout_of(connection, name, schema)
    if layout is None:
        if not await connection.fetchval("SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = $1", name):
            await connection.execute(f"CREATE SCHEMA {quoted(name)}")
        await connection.execute("CREATE TABLE layout (version integer NOT NULL); INSERT INTO layout VALUES (0)")
    for number in range(layout or 0, schema.layout):
        await connection.execute(schema.migrations[number], timeout=_MIGRATION_TIMEOUT)
    await connection.execute("UPDATE layout SET version = $1", schema.layout)


async def layout_of(connection: Connection, name: str, schema: Schema) -> int | None:
    """Return the layout of a schema, None if it has no tables yet.

    Raises:
        StoreError: a newer version has migrated it, or it holds tables of another program.
    """
    table = f"{quoted(name)}.layout"
    tables = await connection.fetchval("SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = $1", name)
    if not tables:
        return None
    if await connection.fetchval("SELECT to_regclass($1)::text", table) is None:
        raise StoreError(f"The schema {name} belongs to another program, not to a {schema.kind}. Give another schema.")
    layout = int(await connection.fetchval(f"SELECT version FROM {table}"))  # noqa: S608 - a quoted name
    if layout > schema.layout:
        raise StoreError(
            f"The schema {name} has layout {layout} of a newer version of rewards-async; this version reads up to layout "
            f"{schema.layout}. Install the newer version."
        )
    return layout
