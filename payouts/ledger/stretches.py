"""Stretches of row numbers: one statement over all rows of a large ledger would end at the database's limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from payouts.states import State

if TYPE_CHECKING:
    from payouts.ledger.base import Database

STRETCH = 100_000
"""Numbers of rows over which one statement passes, so that it ends long before the database's limit."""


def cut(after: int, until: int, length: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the number before each stretch, and its last number."""
    length = length or STRETCH
    for begin in range(after, until, length):
        yield begin, min(begin + length, until)


def whole_ledger(database: Database, length: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield the stretches of all rows."""
    return cut(0, last_number(database), length)


def last_number(database: Database) -> int:
    """Return the number of the last row, 0 without a row."""
    return int(database.execute("SELECT number FROM rows ORDER BY number DESC LIMIT 1").get or 0)  # of a view, max reads all


def stretches_of(
    database: Database, campaign: int, *, shared: bool, after: int = 0, until: int | None = None
) -> Iterator[tuple[int, int]]:
    """Yield the stretches in which a campaign has rows.

    Args:
        database: The ledger.
        campaign: The campaign's number.
        shared: Whether the ledger is a PostgreSQL database, which keeps these stretches: it has no index of a campaign's numbers.
        after: Leave out the rows up to this number.
        until: Leave out the rows after this number.
    """
    if shared:
        wanted = "SELECT after, until FROM stretches WHERE campaign = ? ORDER BY after, until"
        found: list[tuple[int, int]] = database.execute(wanted, (campaign,)).fetchall()
    else:
        first, last = database.execute("SELECT min(number), max(number) FROM rows WHERE campaign = ?", (campaign,)).get
        found = [] if last is None else [(first - 1, last)]
    for begin, end in found:
        last = end if until is None else min(until, end)
        yield from cut(max(after, begin), last)
        after = max(after, end)


def counts_of(database: Database, campaign: int, *, shared: bool) -> dict[State, int]:
    """Return how many rows of a campaign are in each state that has any."""
    counts: Counter[State] = Counter()
    for begin, end in stretches_of(database, campaign, shared=shared):
        found = database.execute(
            "SELECT state, count(*) FROM rows WHERE number > ? AND number <= ? AND +campaign = ? GROUP BY state",
            (begin, end, campaign),
        )
        counts.update({State(state): int(count) for state, count in found})
    return dict(counts)


def record_stretches(database: Database, rows: Iterable[tuple[int, int]]) -> None:
    """Record in a PostgreSQL database where campaigns have rows, given as number and campaign."""
    begins = {(campaign, (number - 1) // STRETCH * STRETCH) for number, campaign in rows}
    database.executemany(
        "INSERT INTO stretches (campaign, after, until) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(campaign, begin, begin + STRETCH) for campaign, begin in sorted(begins)],
    )
