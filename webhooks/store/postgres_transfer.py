"""How a `PostgresStore`'s schema is read and filled by a move; see `transfer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.errors import StoreError
from rewards_core.postgres.engine import Engine
from webhooks.store.members import ALIVE_FOR
from webhooks.store.postgres_rows import text
from webhooks.store.postgres_schema import SCHEMA, SCHEMA_NAME
from webhooks.store.records import job_name
from webhooks.store.transfer import (
    ALL_TABLES,
    FROM_NOW,
    IN_USE,
    MAX_ROWS,
    NOT_EMPTY,
    OTHER_MOVE,
    Mark,
    Row,
    Slice,
    Table,
    converted,
    last_within,
    unwatched,
)

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Address, Connection

_TIMEOUT = 600.0
_FROZEN = (*(table.name for table in ALL_TABLES), "process", "moment")
_SEQUENCES = {"event": "event_id", "outcome": "outcome_seq", "conflict": "conflict_seq_seq"}
_MOVING = "SELECT set_config('rewards.move', 'on', true)"
_THAW = "DROP FUNCTION IF EXISTS refuse_while_frozen() CASCADE; DELETE FROM meta WHERE name IN ('move', 'frozen')"
_FREEZE = """
CREATE FUNCTION refuse_while_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(current_setting('rewards.move', true), '') <> 'on' THEN
    RAISE EXCEPTION '%', (SELECT value FROM meta WHERE name = 'frozen') USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NULL;
END $$;
""" + "".join(
    f"CREATE TRIGGER frozen BEFORE INSERT OR UPDATE OR DELETE ON {table} EXECUTE FUNCTION refuse_while_frozen();"
    for table in _FROZEN
)
"""A trigger for each statement costs nothing where there is none, and waits for the transactions that are under way."""


class DatabaseMover:
    """A `Mover` of a database, with its name for messages."""

    def __init__(self, address: Address, name: str) -> None:
        self._name = name
        self._engine = Engine(address, SCHEMA, namespace=SCHEMA_NAME, connections=1, command_timeout=_TIMEOUT)

    async def mark(self) -> Mark | None:
        return await self._engine.run(_mark)

    async def freeze(self, mark: Mark, before: Mark | None, *, empty: bool) -> None:
        async def work(db: Connection) -> None:
            await self._lock_mark(db, before)
            await self._check_unused(db)  # before locks that would hold it up
            await _set_mark(db, mark)  # which waits for the changes that are under way
            await self._check_unused(db)
            if empty and any((await _count(db)).values()):
                raise StoreError(NOT_EMPTY.format(self._name))

        await self._engine.transact(work)

    async def _check_unused(self, db: Connection) -> None:
        used = await db.fetchval("SELECT now_s() - max(renewed_at) FROM process WHERE alive")
        if used is not None and used < ALIVE_FOR:
            raise StoreError(IN_USE.format(self._name, used))

    async def _lock_mark(self, db: Connection, mark: Mark | None) -> None:
        await db.execute(_MOVING)
        await db.execute("LOCK TABLE meta")
        if await _mark(db) != mark:
            raise StoreError(OTHER_MOVE.format(self._name))

    async def release(self, mark: Mark | None, before: Mark | None) -> None:
        async def work(db: Connection) -> None:
            await self._lock_mark(db, before)
            await _set_mark(db, mark)

        await self._engine.transact(work)

    async def count(self) -> Mapping[str, int]:
        return await self._engine.run(_count)

    async def read(self, table: Table, after: tuple[Any, ...]) -> Slice:
        return await self._engine.run(lambda db: _read(db, table, after))

    async def write(self, part: Slice, before: Mark, mark: Mark) -> None:
        async def work(db: Connection) -> None:
            await db.execute(_MOVING)
            changed = "UPDATE meta SET value = $2 WHERE name = 'move' AND value = $1 RETURNING 1"
            if not await db.fetchval(changed, before.dump(), mark.dump()):
                raise StoreError(OTHER_MOVE.format(self._name))
            now = float(await db.fetchval("SELECT now_s()"))
            for table in ALL_TABLES:
                await _insert(db, table, part.rows.get(table.name, ()), now)

        await self._engine.transact(work)

    async def numbers(self) -> Mapping[str, int]:
        async def look(db: Connection) -> Mapping[str, int]:
            last = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}"
            return {name: int(await db.fetchval(last.format(sequence))) for name, sequence in _SEQUENCES.items()}

        return await self._engine.run(look)

    async def set_numbers(self, numbers: Mapping[str, int], mark: Mark) -> None:
        async def work(db: Connection) -> None:
            await self._lock_mark(db, mark)
            for name, sequence in _SEQUENCES.items():
                if numbers[name]:
                    await db.execute(f"SELECT setval('{sequence}', $1)", numbers[name])

        await self._engine.transact(work)

    async def aclose(self) -> None:
        await self._engine.aclose()


async def _mark(db: Connection) -> Mark | None:
    found = await db.fetchval("SELECT value FROM meta WHERE name = 'move'")
    return None if found is None else Mark.load(found)


async def _set_mark(db: Connection, mark: Mark | None) -> None:
    await db.execute(_THAW)
    if mark is None:
        return
    await db.execute("INSERT INTO meta (name, value) VALUES ('move', $1)", mark.dump())
    if mark.refusal is not None:
        await db.execute("INSERT INTO meta (name, value) VALUES ('frozen', $1)", mark.refusal)
        await db.execute(_FREEZE)


async def _count(db: Connection) -> dict[str, int]:
    return {table.name: int(await db.fetchval(f"SELECT count(*) FROM {table.name}")) for table in ALL_TABLES}


async def _read(db: Connection, table: Table, after: tuple[Any, ...]) -> Slice:
    now = float(await db.fetchval("SELECT now_s()"))
    key, width = ", ".join(table.key), len(table.key)
    beyond = f"({key}) > ({_marks(1, width)})" if after else "true"
    size = f"length({table.size})" if table.size else "0"
    found = await db.fetch(f"SELECT {size}, {key} FROM {table.name} WHERE {beyond} ORDER BY {key} LIMIT {MAX_ROWS}", *after)
    if not found:
        return Slice(rows={table.name: ()})
    last = last_within(found)
    between = f"{beyond} AND ({key}) <= ({_marks(len(after) + 1, width)})"
    rows = {table.name: await _rows(db, table, between, (*after, *last), now)}
    for other in table.with_rows:
        of_events = "event_id > $1 AND event_id <= $2"
        rows[other.name] = await _rows(db, other, of_events, (after[0] if after else 0, last[0]), now)
    return Slice(rows=rows, last=last)


async def _rows(db: Connection, table: Table, where: str, values: Sequence[Any], now: float) -> list[list[Any]]:
    columns, order = ", ".join(table.columns), ", ".join(table.key)
    found = await db.fetch(f"SELECT {columns} FROM {table.name} WHERE {where} ORDER BY {order}", *values)
    return converted(map(tuple, found), table, dict.fromkeys(FROM_NOW, lambda at: at - now))


async def _insert(db: Connection, table: Table, rows: Sequence[Row], now: float) -> None:
    if not rows:
        return
    columns = list(table.columns)
    made = converted(
        rows,
        table,
        {**dict.fromkeys(FROM_NOW, lambda at: at + now), "priority": unwatched, "confirmed": bool},
    )
    made = [[_clean(value) for value in row] for row in made]
    if table.name == "subscription":
        columns, made = [*columns, "job"], [[*row, text(job_name(row[0], row[1]))] for row in made]
    if table.name == "pending":
        columns, made = [*columns, "watched"], [[*row, False] for row in made]
    await db.copy_records_to_table(table.name, columns=columns, records=made)


def _clean(value: Any) -> Any:
    """Return a value that PostgreSQL can hold."""
    if isinstance(value, str):
        return text(value)
    return [text(one) for one in value] if isinstance(value, list) else value


def _marks(first: int, count: int) -> str:
    return ", ".join(f"${place}" for place in range(first, first + count))
