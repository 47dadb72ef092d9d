"""How a `SQLiteStore`'s file is read and filled by a move; see `transfer`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.clock import boot_id, uptime
from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import fetch
from rewards_core.sqlite.engine import Engine
from rewards_core.sqlite.wakeups import Wakeups
from webhooks.store.members import ALIVE_FOR
from webhooks.store.rows import text
from webhooks.store.sqlite_rows import insert, placeholders
from webhooks.store.sqlite_schema import SCHEMA
from webhooks.store.sqlite_session import FileMember, Session
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
    from pathlib import Path

    from rewards_core.sqlite.connection import Connection

_BUSY_TIMEOUT = 30.0
_SEQUENCES = ("event", "outcome")


class FileMover:
    """A `Mover` of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        member = FileMember(wakeups=Wakeups(path, lambda _: None), moves=True)
        self._engine: Engine[Session] = Engine(
            path,
            SCHEMA,
            session=lambda db: Session(db, member, clock=time.time, uptime=uptime, boot=boot_id(), hourly=lambda _: None),
            notify=lambda _: None,
            busy_timeout=_BUSY_TIMEOUT,
        )

    async def mark(self) -> Mark | None:
        return await self._engine.read(_mark)

    async def freeze(self, mark: Mark, before: Mark | None, *, empty: bool) -> None:
        def work(session: Session) -> None:
            db = session.db
            self._check_mark(db, before)
            last = fetch(db, "SELECT max(renewed_at) FROM process WHERE alive = 1")[0][0]
            if last is not None and session.now - last < ALIVE_FOR:
                raise StoreError(IN_USE.format(self._path, session.now - last))
            if empty and any(_count(db).values()):
                raise StoreError(NOT_EMPTY.format(self._path))
            _set_mark(session, mark)

        await self._engine.write(work)

    def _check_mark(self, db: Connection, mark: Mark | None) -> None:
        if _mark(db) != mark:
            raise StoreError(OTHER_MOVE.format(self._path))

    async def release(self, mark: Mark | None, before: Mark | None) -> None:
        def work(session: Session) -> None:
            self._check_mark(session.db, before)
            _set_mark(session, mark)

        await self._engine.write(work)

    async def count(self) -> Mapping[str, int]:
        return await self._engine.read(_count)

    async def read(self, table: Table, after: tuple[Any, ...]) -> Slice:
        return await self._engine.read(lambda db: _read(db, table, after))

    async def write(self, part: Slice, before: Mark, mark: Mark) -> None:
        def work(session: Session) -> None:
            self._check_mark(session.db, before)
            for table in ALL_TABLES:
                _insert(session, table, part.rows.get(table.name, ()))
            _set_mark(session, mark)

        await self._engine.write(work)

    async def numbers(self) -> Mapping[str, int]:
        def look(db: Connection) -> Mapping[str, int]:
            numbers = dict(fetch(db, "SELECT name, seq FROM sqlite_sequence"))
            newest = fetch(db, "SELECT coalesce(max(seq), 0) FROM conflict")[0][0]
            return {**{name: int(numbers.get(name, 0)) for name in _SEQUENCES}, "conflict": newest}

        return await self._engine.read(look)

    async def set_numbers(self, numbers: Mapping[str, int], mark: Mark) -> None:
        def work(session: Session) -> None:
            self._check_mark(session.db, mark)
            for name in _SEQUENCES:
                session.db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
                session.db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, numbers[name]))

        await self._engine.write(work)

    async def aclose(self) -> None:
        await self._engine.aclose()


def _mark(db: Connection) -> Mark | None:
    found = fetch(db, "SELECT value FROM meta WHERE name = 'move'")
    return Mark.load(found[0][0]) if found else None


def _set_mark(session: Session, mark: Mark | None) -> None:
    """Note a move, and make every process look whether it may still write."""
    session.db.execute("DELETE FROM meta WHERE name IN ('move', 'frozen')")
    if mark is not None:
        insert(session.db, "meta", "name, value", [("move", mark.dump())])
        if mark.refusal is not None:
            insert(session.db, "meta", "name, value", [("frozen", mark.refusal)])
    session.change_members()


def _count(db: Connection) -> dict[str, int]:
    return {table.name: int(fetch(db, f"SELECT count(*) FROM {table.name}")[0][0]) for table in ALL_TABLES}


def _read(db: Connection, table: Table, after: tuple[Any, ...]) -> Slice:
    now = uptime()
    key = ", ".join(table.key)
    beyond = f"({key}) > {placeholders(len(table.key))}" if after else "1"
    size = f"length({table.size})" if table.size else "0"
    found = fetch(db, f"SELECT {size}, {key} FROM {table.name} WHERE {beyond} ORDER BY {key} LIMIT ?", (*after, MAX_ROWS))
    if not found:
        return Slice(rows={table.name: ()})
    last = last_within(found)
    between = f"{beyond} AND ({key}) <= {placeholders(len(table.key))}"
    rows = {table.name: _rows(db, table, between, (*after, *last), now)}
    for other in table.with_rows:
        of_events = "event_id > ? AND event_id <= ?"
        rows[other.name] = _rows(db, other, of_events, (after[0] if after else 0, last[0]), now)
    return Slice(rows=rows, last=last)


def _rows(db: Connection, table: Table, where: str, values: Sequence[Any], now: float) -> list[list[Any]]:
    columns = ", ".join("settled_at" if name == "recorded_at" else name for name in table.columns)
    order = ", ".join(table.key)
    found = fetch(db, f"SELECT {columns} FROM {table.name} WHERE {where} ORDER BY {order}", values)
    return converted(found, table, {**dict.fromkeys(FROM_NOW, lambda at: at - now), "patterns": lambda one: one.split("\n")})


def _insert(session: Session, table: Table, rows: Sequence[Row]) -> None:
    now, columns = session.now, list(table.columns)
    made = converted(
        rows,
        table,
        {
            **dict.fromkeys(FROM_NOW, lambda at: at + now),
            "patterns": lambda one: text("\n".join(one)),
            "priority": unwatched,
        },
    )
    if table.name == "outcome":
        columns, made = columns[:-1], [row[:-1] for row in made]  # `recorded_at`
    if table.name == "pending":
        columns, made = [*columns, "watched"], [[*row, 0] for row in made]
    insert(session.db, table.name, ", ".join(columns), made)
