"""The look over a whole file before anything is sent, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, Protocol

from attrs import Factory, define

from payouts import money
from payouts.ledger.fingerprints import folded, folded_id
from payouts.rows import InvalidRow, Row
from payouts.source.files import read_rows
from payouts.source.odd_ids import Survey
from payouts.spelling import quoted, told_apart
from rewards_core.sqlite.connection import temporary

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.source.lines import Layout, Mistake, Note

MAX_ITEMS = 1000


class Judge(Protocol):
    """What else has a say about the rows of a file, such as the ledger."""

    def __call__(self, row: Row) -> None:
        """Look at one row that is sound by itself.

        Raises:
            InvalidRow: it cannot be paid.
        """

    def conclude(self, line_of: Callable[[str], int | None]) -> Iterable[Mistake]:
        """Return what is wrong with the file as a whole, after its last line.

        Args:
            line_of: Returns on which line of the file a row id stands, None if it is not there.
        """


@define(kw_only=True)
class Checked:
    """What a file holds.

    Attributes:
        rows: How many rows can be paid.
        mistakes: How many things are wrong.
        totals: What the rows of each reward contract, or of each event, add up to; of the first 1,000 of them.
        counts: How many rows each of these has.
        users: How many different users the rows pay.
        notes: What is odd about the file and does no harm, or may hint at a mistake; at most one of each kind.
    """

    rows: int = 0
    mistakes: int = 0
    totals: dict[str, Decimal] = Factory(dict)
    counts: dict[str, int] = Factory(dict)
    users: int = 0
    notes: list[Note] = Factory(list)

    def count(self, row: Row) -> None:
        """Take a row into the sums."""
        self.rows += 1
        item = row.item
        if item not in self.counts:
            if len(self.counts) >= MAX_ITEMS:
                return
            self.counts[item] = 0
        self.counts[item] += 1
        if row.amount is not None:
            self.totals[item] = money.add(self.totals.get(item, money.ZERO), row.amount)


class _Seen:
    """The ids and keys met so far, in a private temporary database that spills to the disk."""

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
        self._first: tuple[int, str] | None = None  # the first row whose id is the last one that was met, spelled otherwise

    def close(self) -> None:
        self._database.close()

    def first_line(self, name: str, value: str, line: int) -> int | None:
        """Remember a value; return the line on which it was met before, if it was."""
        if self._insert("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (name, value, line)):
            return None
        return self._line(name, value)

    def first_line_of_id(self, row_id: str, line: int) -> int | None:
        """Remember an id; return the line on which it was met before, spelled as it is, if it was."""
        other = folded_id(row_id)
        spelling = row_id if other is None else other
        given = (spelling, line, None if other is None else row_id)
        self._first = None
        if self._insert("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", given):
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
        """Return line and id of an earlier row to the same recipient that has the last id that was met, spelled otherwise."""
        if self._first is None:
            return None
        line, first = self._first
        spelling, recipient = folded(first), folded(row.recipient)
        paid = self._database.execute("SELECT value FROM recipients WHERE line = ?", (line,)).get
        if paid is not None and folded(paid) == recipient:
            return self._first
        given = (spelling, recipient, row.line, row.id)
        if self._insert("INSERT OR IGNORE INTO respelled VALUES (?, ?, ?, ?)", given):
            return None
        line, other = self._database.execute("SELECT line, id FROM respelled WHERE folded = ? AND recipient = ?", given[:2]).get
        return line, other

    def _insert(self, statement: str, values: tuple[object, ...]) -> bool:
        """Return whether it was not there yet."""
        self._database.execute(statement, values)
        return self._database.changes() > 0

    def _first_of(self, spelling: str) -> tuple[int, str] | None:
        """Return line and id of the first row whose id is spelled so or in another way."""
        found = self._database.execute("SELECT line, coalesce(id, folded) FROM ids WHERE folded = ?", (spelling,)).get
        return None if found is None else (int(found[0]), str(found[1]))

    def _line(self, name: str, value: str) -> int | None:
        found = self._database.execute("SELECT line FROM seen WHERE name = ? AND value = ?", (name, value)).get
        return None if found is None else int(found)

    def add_recipient(self, row: Row) -> None:
        self._database.execute("INSERT INTO recipients VALUES (?, ?)", (row.line, row.recipient))

    def users(self) -> int:
        """Count the different recipients: sorting them once is faster than a look at an index for each."""
        found = self._database.execute("SELECT count(*) FROM (SELECT 1 FROM recipients GROUP BY value)").get
        return int(found)


def check_rows(stream: BinaryIO, layout: Layout, *, on_mistake: Callable[[Mistake], None], judge: Judge | None = None) -> Checked:
    """Read a file to its end and report everything that is wrong, ids and keys that come twice included.

    Args:
        stream: The bytes, read from where they stand.
        layout: How to read them.
        on_mistake: Called for each thing that is wrong.
        judge: Asked about each row that is sound by itself, and after the last line about the file as a whole.
    """
    checked = Checked()

    def report(mistake: Mistake) -> None:
        checked.mistakes += 1
        on_mistake(mistake)

    with closing(_Seen()) as seen:

        def once(name: str, value: str, line: int) -> None:
            first = seen.first_line_of_id(value, line) if name == "id" else seen.first_line(name, value, line)
            if first is not None:
                told = f"{quoted(value)} stands on line {first} already: each {name} may come once"
                raise InvalidRow(told, name=name, kind="duplicate")

        def look(row: Row) -> None:
            before = seen.respelled(row)
            if before is not None:
                one, other = told_apart(row.id, before[1])
                told = (
                    f"row id {one} is another spelling of row {other} on line {before[0]}, to the same recipient. If they are "
                    "one grant, delete one of the two rows; if not, give one of them a new id"
                )
                raise InvalidRow(told, name="id", kind="respelled")
            seen.add_recipient(row)
            if judge is not None:
                judge(row)

        survey = Survey(layout)
        for row in read_rows(stream, layout, on_mistake=report, meet=once, judge=look, on_note=checked.notes.append):
            checked.count(row)
            survey.add(row)
        checked.users = seen.users()
        checked.notes += survey.notes()
        for mistake in judge.conclude(seen.line_of_id) if judge is not None else ():
            report(mistake)
    return checked
