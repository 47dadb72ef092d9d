"""The check of a whole file before anything is sent, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, Protocol

from attrs import Factory, define

from payouts import money
from payouts.ledger.fingerprints import folded, folded_id
from payouts.rows import InvalidRow, Row
from payouts.source.files import Refuse, read_rows
from payouts.source.odd_ids import OddIds
from payouts.spelling import quoted, told_apart
from rewards_core.sqlite.connection import temporary

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.source.layout import Layout
    from payouts.source.mistakes import Mistake, Note

MAX_ITEMS = 1000
MAX_AT_ONCE = 512
"""Rows that are checked together."""


class RowCheck(Protocol):
    """A further check of the rows, such as against the ledger."""

    def __call__(self, rows: Sequence[Row]) -> Sequence[InvalidRow | None]:
        """Check some rows that are valid by themselves, in order, and return for each why it cannot be paid, or None."""

    def conclude(self, line_of: Callable[[str], int | None]) -> None:
        """Compare the file as a whole, after its last line."""


@define(kw_only=True)
class FileSummary:
    """What a file contains.

    Attributes:
        rows: How many rows can be paid.
        mistakes: How many mistakes there are.
        totals: The total of each reward contract, for the first 1,000 of them.
        counts: The rows of each reward contract or event, for the first 1,000 of them.
        users: How many different users the rows pay.
        notes: Harmless oddities, and hints at mistakes; at most one of each kind.
    """

    rows: int = 0
    mistakes: int = 0
    totals: dict[str, Decimal] = Factory(dict)
    counts: dict[str, int] = Factory(dict)
    users: int = 0
    notes: list[Note] = Factory(list)

    def count(self, row: Row) -> None:
        """Add a row to the totals."""
        self.rows += 1
        item = row.item
        if item not in self.counts:
            if len(self.counts) >= MAX_ITEMS:
                return
            self.counts[item] = 0
        self.counts[item] += 1
        if row.amount is not None:
            self.totals[item] = money.add(self.totals.get(item, money.ZERO), row.amount)


def check_rows(
    stream: BinaryIO, layout: Layout, *, on_mistake: Callable[[Mistake], None], preflight: RowCheck | None = None
) -> FileSummary:
    """Read a file to its end and report everything that is wrong, including duplicate ids and keys.

    Args:
        stream: The bytes, read from the current position.
        layout: Their layout.
        on_mistake: Called for each mistake.
        preflight: Checks the rows that are valid by themselves, and after the last line the file as a whole.
    """
    checked = FileSummary()
    odd_ids = OddIds(layout)
    word = layout.line_word
    pending: list[tuple[Row, Refuse] | Mistake] = []  # rows for the preflight, and the mistakes among them

    def report(mistake: Mistake) -> None:
        if pending:
            pend(mistake)
            return
        checked.mistakes += 1
        on_mistake(mistake)

    def pend(each: tuple[Row, Refuse] | Mistake) -> None:
        pending.append(each)
        if len(pending) >= MAX_AT_ONCE:
            settle()

    def settle() -> None:
        some = pending.copy()
        pending.clear()
        rows = [each[0] for each in some if isinstance(each, tuple)]
        problems = iter(() if preflight is None else preflight(rows))
        for each in some:
            if not isinstance(each, tuple):
                report(each)
            elif problem := next(problems):
                each[1](problem)
            else:
                count(each[0])

    def count(row: Row) -> None:
        checked.count(row)
        odd_ids.add(row)

    with closing(_Seen()) as seen:

        def check_unique(name: str, value: str, line: int) -> None:
            first = seen.first_line_of_id(value, line) if name == "id" else seen.first_line(name, value, line)
            if first is not None:
                told = f"{quoted(value)} is already on {word} {first}: each {name} may appear once"
                raise InvalidRow(told, name=name, kind="duplicate")

        def check(row: Row, refuse: Refuse) -> None:
            before = seen.respelled(row)
            if before is not None:
                one, other = told_apart(row.id, before[1])
                told = (
                    f"row id {one} is another spelling of row {other} on {word} {before[0]}, to the same recipient. If they are "
                    "one grant, delete one of the two rows; if not, give one of them a new id"
                )
                raise InvalidRow(told, name="id", kind="respelled")
            seen.add_recipient(row)
            if preflight is None:
                count(row)
            else:
                pend((row, refuse))

        for _ in read_rows(
            stream, layout, on_mistake=report, check_unique=check_unique, check=check, on_note=checked.notes.append
        ):
            pass
        settle()
        checked.users = seen.users()
        checked.notes += odd_ids.notes()
        if preflight is not None:
            preflight.conclude(seen.line_of_id)
    return checked


class _Seen:
    """The ids, keys and recipients so far, in a private temporary database that spills to disk."""

    def __init__(self) -> None:
        self._database = temporary()
        self._database.execute(
            "PRAGMA journal_mode=OFF; PRAGMA cache_size=-4000; BEGIN;"
            "CREATE TABLE seen(name TEXT, value TEXT, line INTEGER, PRIMARY KEY (name, value)) WITHOUT ROWID;"
            "CREATE TABLE ids(folded TEXT PRIMARY KEY, line INTEGER, id TEXT) WITHOUT ROWID;"
            "CREATE TABLE respelled(folded TEXT, recipient TEXT, line INTEGER, id TEXT, PRIMARY KEY (folded, recipient)) "
            "WITHOUT ROWID;"
            "CREATE TABLE recipients(line INTEGER PRIMARY KEY, value TEXT)"
        ).fetchall()
        self._first: tuple[int, str] | None = None  # the first row whose id is another spelling of the last id

    def close(self) -> None:
        self._database.close()

    def first_line(self, name: str, value: str, line: int) -> int | None:
        """Record a value; return the line where it was before, None if it is new."""
        if self._insert("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (name, value, line)):
            return None
        return self._line(name, value)

    def first_line_of_id(self, row_id: str, line: int) -> int | None:
        """Record an id; return the line where the same spelling was before, None if it is new."""
        other = folded_id(row_id)
        spelling = row_id if other is None else other
        self._first = None
        if self._insert("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (spelling, line, None if other is None else row_id)):
            return None
        first = self._first_of(spelling)
        if first is None or first[1] == row_id:
            return first and first[0]
        self._first = first
        return self.first_line("id", row_id, line)

    def line_of_id(self, row_id: str) -> int | None:
        first = self._first_of(folded(row_id))
        return first[0] if first is not None and first[1] == row_id else self._line("id", row_id)

    def respelled(self, row: Row) -> tuple[int, str] | None:
        """Return line and id of an earlier row to the same recipient whose id is another spelling of the last recorded id."""
        if self._first is None:
            return None
        line, first = self._first
        spelling, recipient = folded(first), folded(row.recipient)
        paid = self._database.execute("SELECT value FROM recipients WHERE line = ?", (line,)).get
        if paid is not None and folded(paid) == recipient:
            return self._first
        if self._insert("INSERT OR IGNORE INTO respelled VALUES (?, ?, ?, ?)", (spelling, recipient, row.line, row.id)):
            return None
        known = (spelling, recipient)
        line, other = self._database.execute("SELECT line, id FROM respelled WHERE folded = ? AND recipient = ?", known).get
        return line, other

    def add_recipient(self, row: Row) -> None:
        self._database.execute("INSERT INTO recipients VALUES (?, ?)", (row.line, row.recipient))

    def users(self) -> int:
        """Count the different recipients; one sort at the end is faster than an index."""
        return int(self._database.execute("SELECT count(*) FROM (SELECT 1 FROM recipients GROUP BY value)").get)

    def _insert(self, statement: str, values: tuple[object, ...]) -> bool:
        """Return whether the value is new."""
        self._database.execute(statement, values)
        return self._database.changes() > 0

    def _first_of(self, spelling: str) -> tuple[int, str] | None:
        """Return line and id of the first row with an id of that folded spelling."""
        found = self._database.execute("SELECT line, coalesce(id, folded) FROM ids WHERE folded = ?", (spelling,)).get
        return None if found is None else (int(found[0]), str(found[1]))

    def _line(self, name: str, value: str) -> int | None:
        found = self._database.execute("SELECT line FROM seen WHERE name = ? AND value = ?", (name, value)).get
        return None if found is None else int(found)
