"""Statements of a `SQLiteStore` that take many rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from rewards_core.sqlite.connection import fetch
from webhooks.store.rows import EVENT_COLUMNS, text

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from rewards_core.sqlite.connection import Connection

T = TypeVar("T")

_BATCH = 64

EVENT_FIELDS = (
    ", ".join(f"event.{column}" for column in EVENT_COLUMNS.split(", "))
    + ", (SELECT json_group_array(json_array(kind, uid)) FROM also WHERE event_id = event.id HAVING count(*))"
)
"""The columns of an event, and the further operations it mentions as JSON, NULL if there are none."""


def insert(
    db: Connection, table: str, columns: str, rows: Sequence[Sequence[Any]], *, verb: str = "INSERT", then: str = ""
) -> None:
    """Insert rows, in lengths that are powers of two, so that few different statements are prepared."""
    width, place = columns.count(",") + 1, 0
    while place < len(rows):
        length = min(_BATCH, 1 << (len(rows) - place).bit_length() - 1)
        marks = ",".join([placeholders(width)] * length)
        values = list(chain.from_iterable(rows[place : place + length]))
        db.execute(f"{verb} INTO {table} ({columns}) VALUES {marks} {then}", values)
        place += length


def select_in(db: Connection, statement: str, values: Sequence[object], then: str = "") -> list[Any]:
    """Run `statement (values) then`, where the statement ends with `IN`, in batches; return all rows."""
    found: list[Any] = []
    for batch in batches(values):
        found += db.execute(f"{statement} {placeholders(len(batch))} {then}", batch).fetchall()
    return found


def change_in(db: Connection, statement: str, values: Sequence[object], *first: object) -> int:
    """Run `statement (values)`, where the statement ends with `IN` and takes other values first; return the changed rows."""
    changed = 0
    for batch in batches(values):
        db.execute(f"{statement} {placeholders(len(batch))}", (*first, *batch))
        changed += db.changes()
    return changed


def for_refs(db: Connection, statement: str, refs: Iterable[OperationRef], *first: object, then: str = "") -> list[Any]:
    """Run `statement WHERE <refs> then`, which takes other values first; return all rows.

    It runs by scope and kind, because SQLite uses no index for `(scope, kind, uid) IN (VALUES ...)`.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for ref in refs:
        groups.setdefault((ref.scope, ref.kind), []).append(ref.uid if ref.uid.isascii() else text(ref.uid))
    found: list[Any] = []
    for (scope, kind), uids in groups.items():
        for batch in batches(uids):
            found += db.execute(
                f"{statement} WHERE scope = ? AND kind = ? AND uid IN {placeholders(len(batch))} {then}",
                (*first, scope, kind, *batch),
            ).fetchall()
    return found


def placeholders(count: int) -> str:
    """Return `(?,?)` for two values."""
    return "(" + ",".join("?" * count) + ")"


def batches(values: Sequence[T]) -> Iterator[list[T]]:
    """Cut the values of an `IN (...)` list into lengths that are powers of two; the last value is repeated to fill one up."""
    for place in range(0, len(values), _BATCH):
        batch = list(values[place : place + _BATCH])
        yield batch + [batch[-1]] * ((1 << (len(batch) - 1).bit_length()) - len(batch))


def scopes_and_kinds(db: Connection, table: str, scope: str | None, kind: str | None) -> list[tuple[str, str]]:
    """Return the scopes and kinds of a table's operations, in order, by one index lookup for each."""
    return [
        (of_scope, of_kind)
        for of_scope in _distinct(db, f"SELECT min(scope) FROM {table} WHERE scope > ?")
        if scope in {None, of_scope}
        for of_kind in _distinct(db, f"SELECT min(kind) FROM {table} WHERE scope = ? AND kind > ?", of_scope)
        if kind in {None, of_kind}
    ]


def _distinct(db: Connection, next_after: str, *values: str) -> Iterator[str]:
    last: str | None = ""
    while (last := fetch(db, next_after, (*values, last))[0][0]) is not None:
        yield last
