"""The look over a whole file before anything is sent, in bounded memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO

from attrs import Factory, define

from payouts import money
from payouts.files import read_rows
from payouts.rows import InvalidRow, Row, quoted

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.lines import Layout, Mistake

_MAX_ITEMS = 1000


@define(kw_only=True)
class Checked:
    """What a file holds.

    Attributes:
        rows: How many rows can be paid.
        mistakes: How many things are wrong.
        totals: What the rows of each reward contract, or of each event, add up to; of the first 1,000 of them.
        counts: How many rows each of these has.
        ignored: The columns that are not read.
    """

    rows: int = 0
    mistakes: int = 0
    totals: dict[str, Decimal] = Factory(dict)
    counts: dict[str, int] = Factory(dict)
    ignored: list[str] = Factory(list)

    def count(self, row: Row) -> None:
        """Take a row into the sums."""
        self.rows += 1
        item = row.item
        if item not in self.counts:
            if len(self.counts) >= _MAX_ITEMS:
                return
            self.counts[item] = 0
        self.counts[item] += 1
        if row.amount is not None:
            self.totals[item] = money.add(self.totals.get(item, money.ZERO), row.amount)


class _Seen:
    """The ids and keys met so far, in a private temporary database that spills to the disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA cache_size=-4000; BEGIN;"
            "CREATE TABLE seen(name TEXT, value TEXT, line INTEGER, PRIMARY KEY (name, value)) WITHOUT ROWID"
        )

    def close(self) -> None:
        self._database.close()

    def first_line(self, name: str, value: str, line: int) -> int | None:
        """Remember a value; return the line on which it was met before, if it was."""
        if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (name, value, line)).rowcount:
            return None
        found = self._database.execute("SELECT line FROM seen WHERE name = ? AND value = ?", (name, value)).fetchone()
        return int(found[0])


def check_rows(
    stream: BinaryIO, layout: Layout, *, on_mistake: Callable[[Mistake], None], judge: Callable[[Row], None] | None = None
) -> Checked:
    """Read a file to its end and report everything that is wrong, ids and keys that come twice included.

    Args:
        stream: The bytes, read from where they stand.
        layout: How to read them.
        on_mistake: Called for each thing that is wrong.
        judge: Called with each row that is sound by itself; raises `InvalidRow` for one that cannot be paid.
    """
    checked = Checked()

    def count_mistake(mistake: Mistake) -> None:
        checked.mistakes += 1
        on_mistake(mistake)

    with closing(_Seen()) as seen:

        def once(name: str, value: str, line: int) -> None:
            first = seen.first_line(name, value, line)
            if first is not None:
                raise InvalidRow(f"expected each {name} once, got {quoted(value)} again, first on line {first}", name=name)

        rows = read_rows(stream, layout, on_mistake=count_mistake, meet=once, judge=judge, on_ignored=checked.ignored.append)
        for row in rows:
            checked.count(row)
    return checked
