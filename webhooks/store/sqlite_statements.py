"""Statements that take many rows at once: between two of them the thread may have to wait for the interpreter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from webhooks.store.sqlite_rows import text

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from rewards_core.sqlite.connection import Connection

T = TypeVar("T")

_WIDEST = 64


class Statements:
    """What is written through one connection.

    Args:
        db: The connection.
    """

    def __init__(self, db: Connection) -> None:
        self.db = db

    def select_in(self, statement: str, values: Sequence[object]) -> list[Any]:
        """Run `statement <values>`, which ends with `IN`; return the rows of all."""
        found: list[Any] = []
        for part in values_at_once(values):
            found += self.db.execute(f"{statement} {placeholders(len(part), 1)}", part).fetchall()
        return found

    def insert(self, table: str, columns: str, rows: Sequence[tuple[Any, ...]], *, verb: str = "INSERT", then: str = "") -> None:
        """Insert rows."""
        for length, values in rows_at_once(rows):
            marks = placeholders(columns.count(",") + 1, length)
            self.db.execute(f"{verb} INTO {table} ({columns}) VALUES {marks} {then}", values)

    def for_refs(self, statement: str, refs: Iterable[OperationRef], *values: object, then: str = "") -> list[Any]:
        """Run `statement WHERE <refs> then` for refs, after values of its own; return the rows of all."""
        return run_for_groups(self.db, statement, by_scope_and_kind(refs), *values, then=then)

    def for_groups(self, statement: str, groups: Groups, *, then: str = "") -> list[Any]:
        """Do the same for refs that are grouped already."""
        return run_for_groups(self.db, statement, groups, then=then)


def run_for_groups(db: Connection, statement: str, groups: Groups, *values: object, then: str = "") -> list[Any]:
    """Run `statement WHERE <refs> then` for refs, after values of its own; return the rows of all."""
    found: list[Any] = []
    for (scope, kind), uids in groups.items():
        for part in values_at_once(uids):
            found += db.execute(
                f"{statement} WHERE scope = ? AND kind = ? AND uid IN ({','.join('?' * len(part))}) {then}",
                (*values, scope, kind, *part),
            ).fetchall()
    return found


def placeholders(columns: int, rows: int) -> str:
    """Return `(?,?),(?,?)` for so many rows of so many columns."""
    return ",".join(["(" + ",".join("?" * columns) + ")"] * rows)


def rows_at_once(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, list[Any]]]:
    """Cut rows into lengths that are powers of two, so that few statements are ever prepared; yield length and flat values."""
    place = 0
    while place < len(rows):
        length = min(_WIDEST, 1 << (len(rows) - place).bit_length() - 1)
        yield length, list(chain.from_iterable(rows[place : place + length]))
        place += length


def values_at_once(values: Sequence[T]) -> Iterator[list[T]]:
    """Cut values of an `IN (...)` list into lengths that are powers of two, the last one repeated to fill up."""
    for place in range(0, len(values), _WIDEST):
        part = list(values[place : place + _WIDEST])
        yield part + [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))


Groups = dict[tuple[str, str], list[str]]
"""Scope and kind to the uids that belong to them."""


def by_scope_and_kind(refs: Iterable[OperationRef]) -> Groups:
    """Group uids, because SQLite uses no index for `(scope, kind, uid) IN (VALUES ...)`."""
    groups: Groups = {}
    for ref in refs:
        groups.setdefault((ref.scope, ref.kind), []).append(ref.uid if ref.uid.isascii() else text(ref.uid))
    return groups
