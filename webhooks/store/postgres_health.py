"""What can be found out about the PostgreSQL server of a store, without changing anything in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

from rewards_core.postgres.connection import DATABASE_ERRORS, as_store_error, connect, quoted
from webhooks.store.postgres_schema import SCHEMA, SCHEMA_NAME

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Address, Connection

T = TypeVar("T")

_TIMEOUT = 5.0
_HEARD_WITHIN = 2.0
_CHANNEL = "rewards_check"
_LAYOUT = f"SELECT tablename FROM pg_tables WHERE schemaname = '{SCHEMA_NAME}' AND tablename = 'layout'"
_FACTS = """
SELECT current_user AS user, current_database() AS database, current_setting('server_version') AS version,
  current_setting('server_encoding') AS encoding,
  current_setting('server_version_num')::int / 10000 AS major,
  current_setting('fsync') = 'on' AS fsync, current_setting('full_page_writes') = 'on' AS full_page_writes,
  current_setting('synchronous_commit') AS synchronous_commit,
  current_setting('synchronous_standby_names') <> '' AS synchronous,
  pg_has_role('pg_read_all_stats', 'usage') AS sees_standbys,
  extract(epoch FROM clock_timestamp())::double precision AS clock,
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS max_connections,
  (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
  has_database_privilege(current_database(), 'CREATE') AS may_create
"""
_STANDBYS = "SELECT application_name, sync_state FROM pg_stat_replication WHERE state = 'streaming' ORDER BY application_name"
_DENIED = """
SELECT relname FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND NOT CASE relkind
  WHEN 'r' THEN has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'SELECT')
    AND (relname = 'layout' OR (has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE')
      AND has_table_privilege(oid, 'DELETE')))
  WHEN 'S' THEN has_sequence_privilege(oid, 'USAGE')
    OR EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'i')
  ELSE true END
ORDER BY relname
"""


@frozen(kw_only=True)
class Server:
    """A PostgreSQL server, as a store would find it.

    Attributes:
        user: The user of the store.
        database: The database of the store.
        version: Its version in words.
        encoding: The encoding of the database.
        major: Its major version.
        layout: The layout of the store's schema, None if there is none yet.
        newest: The layout that this version of rewards-async uses.
        may_create: Whether this user may create the schema.
        denied: Tables and sequences of the schema that this user may not read and write.
        fsync: Whether it waits for its disk.
        full_page_writes: Whether a crash leaves no torn pages.
        synchronous_commit: What a commit of this user waits for, unless it asks for more, as the store does.
        synchronous: Whether commits wait for a standby.
        standbys: The connected standbys, each with its state (`sync`, `quorum`, `potential` or `async`), empty if not visible.
        sees_standbys: Whether this user may see those states.
        clock: Its Unix time in seconds.
        asked_at: This machine's Unix time at that moment, within `asked_for` seconds.
        asked_for: See `asked_at`.
        max_connections: Connections for users that are no superusers.
        connections: Those in use.
        hears: Whether a notification of one session arrives in another.
    """

    user: str
    database: str
    version: str
    encoding: str
    major: int
    layout: int | None
    newest: int
    may_create: bool
    denied: Sequence[str]
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    synchronous: bool
    standbys: Sequence[tuple[str, str]]
    sees_standbys: bool
    clock: float
    asked_at: float
    asked_for: float
    max_connections: int
    connections: int
    hears: bool


async def has_tables(address: Address) -> bool:
    """Return whether the database holds a store; nothing is created. Raises `StoreError`."""

    async def look(connection: Connection) -> bool:
        return await connection.fetchval(_LAYOUT) is not None

    return await _with_connection(address, look)


async def examine(address: Address) -> Server:
    """Examine the server; nothing is changed.

    Args:
        address: The database of the store.

    Raises:
        StoreError: it cannot be reached or refuses this user.
    """

    async def look(connection: Connection) -> Server:
        before = time.time()
        facts = dict(await connection.fetchrow(_FACTS))
        after = time.time()
        layout = None
        if await connection.fetchval(_LAYOUT) is not None:
            denied = [row[0] for row in await connection.fetch(_DENIED, SCHEMA_NAME)]
            if "layout" not in denied:
                layout = await connection.fetchval(f"SELECT version FROM {quoted(SCHEMA_NAME)}.layout")
        else:
            denied = []
        standbys = [(row[0], row[1] or "") for row in await connection.fetch(_STANDBYS)]
        return Server(
            **facts,
            layout=layout,
            newest=SCHEMA.layout,
            denied=denied,
            standbys=standbys,
            asked_at=(before + after) / 2,
            asked_for=(after - before) / 2,
            hears=await _hears(address, connection),
        )

    return await _with_connection(address, look)


async def _hears(address: Address, connection: Connection) -> bool:
    """Return whether this session hears another: a pooler in transaction mode lends the server's session to others."""
    heard = asyncio.Event()

    def hear(*_: object) -> None:
        heard.set()

    async def notify(other: Connection) -> None:
        await other.execute(f"NOTIFY {_CHANNEL}")

    await connection.add_listener(_CHANNEL, hear)
    await _with_connection(address, notify)
    try:
        async with asyncio.timeout(_HEARD_WITHIN):
            await heard.wait()
    except TimeoutError:
        return False
    finally:
        await connection.remove_listener(_CHANNEL, hear)
    return True


async def _with_connection(address: Address, work: Callable[[Connection], Awaitable[T]]) -> T:
    problem: BaseException
    try:
        async with _connected(address) as connection:
            return await work(connection)
    except (*DATABASE_ERRORS, ValueError) as error:
        problem = error
    raise as_store_error(problem, address)


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[Connection]:
    options: dict[str, Any] = {"settings": {}, "connect_timeout": _TIMEOUT, "command_timeout": _TIMEOUT}
    connection = await connect(address, **options, prepared=False)
    try:
        yield connection
    finally:
        await connection.close(timeout=_TIMEOUT)
