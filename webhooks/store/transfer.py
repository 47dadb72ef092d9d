"""Move everything that a store keeps into another, empty one, also of another kind.

Both stores are frozen meanwhile: a process that uses one gets a `StoreError`, so that nothing is acknowledged that would not be
moved. Rows travel in slices; the target notes in the transaction of each how far it has got, so that a move that was interrupted
continues where it stopped. What only living processes have is left out: claims, waiters, polling rates and pauses.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import asdict, evolve, field, frozen

from rewards_core.errors import StoreError
from webhooks.store.records import Priority

MAX_ROWS = 5_000
MAX_BYTES = 4 * 1024 * 1024
"""Limits of a slice; a single larger row is a slice of its own."""

Row = Sequence[Any]

IN_USE = (
    "{0} was used by another process {1:.0f} s ago. Nothing was changed. Stop every process that uses it, then run the move "
    "again; a process that was killed counts for 30 s."
)
NOT_EMPTY = "{0} is not empty. Nothing was changed. Move into a new store."
OTHER_MOVE = "{0} is part of another move, so this one stopped. Finish the other move, or give it up with --undo."


@frozen(kw_only=True)
class Table:
    """The columns of a table that both kinds of store have.

    Attributes:
        name: The table.
        key: The columns that order it.
        columns: All columns to move, the key included. Times that schedule something travel as seconds from now.
        size: The column that may be large, empty if none is.
        with_rows: Tables whose rows belong to those of this one, which they name in `event_id`.
    """

    name: str
    key: Sequence[str]
    columns: Sequence[str]
    size: str = ""
    with_rows: Sequence[Table] = ()


def _table(name: str, key: str, columns: str, size: str = "", with_rows: Sequence[Table] = ()) -> Table:
    return Table(name=name, key=key.split(), columns=columns.split(), size=size, with_rows=with_rows)


_OUTCOME = "seq scope kind uid status resource via settled_at key confirmed"
TABLES = (
    _table("subscription", "service handler scope", "service handler scope patterns unserved_hours"),
    _table("identity", "identity", "identity day"),
    _table(
        "event",
        "id",
        "id scope name identity kind uid state received_at occurred_at correlation_id attempt problem signature body",
        "body",
        (
            _table("also", "event_id place", "event_id place kind uid"),
            _table("job", "event_id handler", "event_id handler state due_at attempts reason began_at"),
        ),
    ),
    _table("outcome", "seq", f"{_OUTCOME} recorded_at", "resource"),
    _table("conflict", "seq", _OUTCOME, "resource"),
    _table("pending", "scope kind uid", "scope kind uid added_at due_at polls priority attempt missing missing_at about"),
)
"""In the order in which they move."""
ALL_TABLES = tuple(each for table in TABLES for each in (table, *table.with_rows))
FROM_NOW = frozenset({"due_at", "began_at", "missing_at"})
"""Columns whose values are times of the store's own clock."""


@frozen(kw_only=True)
class Mark:
    """What a store notes about a move.

    Attributes:
        move: The token of the move, the same in both stores.
        role: `"source"` or `"target"`.
        other: The other store, without its password.
        done: Whether the move has ended.
        table: The number of the table that moves, in `TABLES`.
        after: The key of its last row in the target, empty if there is none.
    """

    move: str
    role: str
    other: str
    done: bool = False
    table: int = 0
    after: tuple[Any, ...] = field(default=(), converter=tuple)

    @property
    def refusal(self) -> str | None:
        """The error for a process that uses the store; None if it may use it."""
        if self.role == "source" and self.done:
            return f"This store was moved to {self.other}. Nothing was stored here; use that store."
        if self.role == "source":
            return (
                f"This store is being moved to {self.other}. Nothing was stored here. Finish the move, or give it up with --undo."
            )
        if self.done:
            return None
        return f"The store {self.other} is being moved here. Nothing else was stored. Finish the move first."

    def dump(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self), default=lambda value: {"hex": value.hex()})

    @classmethod
    def load(cls, text: str) -> Mark:
        """Return the mark that `dump` wrote as a text."""
        return cls(**json.loads(text, object_hook=lambda value: bytes.fromhex(value["hex"]) if "hex" in value else value))


@frozen(kw_only=True)
class Slice:
    """Consecutive rows of a table.

    Attributes:
        rows: Table to its rows, in the order of its columns.
        last: The key of the last row, empty after the end of the table.
    """

    rows: Mapping[str, Sequence[Row]]
    last: tuple[Any, ...] = ()


class Mover(Protocol):
    """One store as a move reads or fills it. Every method may raise `StoreError`."""

    async def mark(self) -> Mark | None:
        """Return what the store notes about a move."""
        ...

    async def freeze(self, mark: Mark, before: Mark | None, *, empty: bool) -> None:
        """Replace the mark `before`; from then on other processes are refused.

        Raises:
            StoreError: another process uses or moves the store, or it is to be `empty` and is not; nothing was changed.
        """
        ...

    async def release(self, mark: Mark | None, before: Mark | None) -> None:
        """Replace the mark `before` by the end of a move, or by none; other processes are refused only if the mark says so.

        Raises:
            StoreError: the store has another mark, as another process ended or undid the move; nothing was changed.
        """
        ...

    async def count(self) -> Mapping[str, int]:
        """Return the number of rows of each table."""
        ...

    async def read(self, table: Table, after: tuple[Any, ...]) -> Slice:
        """Return the next rows after a key."""
        ...

    async def write(self, part: Slice, before: Mark, mark: Mark) -> None:
        """Insert rows and replace the mark `before`, in one transaction.

        Raises:
            StoreError: the store has another mark, as another process moves too; nothing was changed.
        """
        ...

    async def numbers(self) -> Mapping[str, int]:
        """Return the last number of each sequence that was ever used."""
        ...

    async def set_numbers(self, numbers: Mapping[str, int], mark: Mark) -> None:
        """Make the sequences go on after these numbers.

        Raises:
            StoreError: the store has another mark; nothing was changed.
        """
        ...

    async def aclose(self) -> None:
        """Close the store."""
        ...


@frozen(kw_only=True)
class Move:
    """The move of one store into another.

    Attributes:
        source: The store to move.
        target: The store that it becomes.
        names: What each is called in the other.
    """

    source: Mover
    target: Mover
    names: tuple[str, str]

    async def run(self, progress: Callable[[str, int, int], None]) -> Mapping[str, int]:
        """Move everything that was not moved before, and check the numbers of rows; may be repeated after any interruption.

        Args:
            progress: Called with a table, how many of its rows have moved, and how many it has.

        Returns:
            The number of rows of each table in the source.

        Raises:
            StoreError: a store cannot be used, is in use, or is part of another move; the source is unharmed.
        """
        here, there = await self.source.mark(), await self.target.mark()
        target_name = self.names[1]
        if here is not None and here.role == "source" and here.other != target_name:
            state = "was moved" if here.done else "is being moved"
            raise StoreError(f"{self.names[0]} {state} to {here.other}. Nothing was changed. See webhook-listener move --undo.")
        mark = here
        if mark is None or mark.role == "target":
            mark = Mark(move=secrets.token_hex(8), role="source", other=target_name)
        into = Mark(move=mark.move, role="target", other=self.names[0])
        if there is not None and there.move == mark.move:
            into = there
        if mark.done and not into.done:
            raise StoreError(
                f"{self.names[0]} was moved to {here.other if here else target_name}, which no longer knows of it. Nothing was "
                "changed. To use the old store again, run webhook-listener move --undo."
            )
        if not into.done:
            await self._freeze(mark, here, into, there)
            into = await self._copy(into, progress)
        counts = await self.source.count()
        if not into.done:
            await self._check(counts)
            await self.target.set_numbers(await self.source.numbers(), into)
            await self.target.release(evolve(into, done=True), into)
        await self.source.release(evolve(mark, done=True), mark)
        return counts

    async def _freeze(self, mark: Mark, here: Mark | None, into: Mark, there: Mark | None) -> None:
        await self.source.freeze(mark, here, empty=False)
        try:
            await self.target.freeze(into, there, empty=into is not there)
        except StoreError:
            if mark is not here:
                await self.source.release(here, mark)
            raise

    async def _copy(self, mark: Mark, progress: Callable[[str, int, int], None]) -> Mark:
        total, arrived = await self.source.count(), await self.target.count()
        for number, table in enumerate(TABLES[mark.table :], mark.table):
            moved = arrived[table.name]
            while mark.table == number:
                part = await self.source.read(table, mark.after)
                ends = not part.last
                following = evolve(mark, table=number + ends, after=() if ends else part.last)
                await self.target.write(part, mark, following)
                mark = following
                moved += len(part.rows[table.name])
                if not ends or not moved:
                    progress(table.name, moved, total[table.name])
        return mark

    async def _check(self, counts: Mapping[str, int]) -> None:
        arrived = await self.target.count()
        differing = [f"{name}: {counts[name]:,} and {arrived[name]:,}" for name in counts if counts[name] != arrived[name]]
        if differing:
            raise StoreError(
                f"Source and target differ in the number of rows ({', '.join(differing)}). The source is unharmed. Undo the "
                "move with webhook-listener move --undo, and report this."
            )


async def undo(source: Mover) -> Mark | None:
    """Let a store that was moved, or whose move was begun, be used again; return what it noted about the move, if it did."""
    mark = await source.mark()
    if mark is None or mark.role != "source":
        return None
    await source.release(None, mark)
    return mark


def last_within(found: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Return the key of the last row that fits into a slice, of rows of a size and a key."""
    room = MAX_BYTES
    last = tuple(found[0][1:])
    for size, *key in found:
        room -= size
        if room < 0:
            break
        last = tuple(key)
    return last


def converted(rows: Iterable[Row], table: Table, change: Mapping[str, Callable[[Any], Any]]) -> list[list[Any]]:
    """Return rows with the values of some columns changed; NULL stays NULL."""
    changes = [change.get(name) for name in table.columns]
    return [
        [value if how is None or value is None else how(value) for value, how in zip(row, changes, strict=True)] for row in rows
    ]


def unwatched(priority: int) -> int:
    """Return the priority of an operation for which no process waits any more."""
    return Priority.ABANDONED if priority == Priority.ROUTINE else priority
