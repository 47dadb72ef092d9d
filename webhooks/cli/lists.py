"""How a command lists many records: as JSON lines, fetched and written in pages, or as a table for people."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from rewards_core.cli.output import Output
from rewards_core.operations import DEFAULT_SCOPE

T = TypeVar("T")
P = TypeVar("P")

_PAGE = 500


async def pages(
    page: Callable[[P | None, int], Awaitable[Sequence[T]]],
    place: Callable[[T], P],
    *,
    limit: int | None = None,
    start: P | None = None,
) -> AsyncIterator[T]:
    """Yield records page by page, so that no look-up holds up the store for long.

    Args:
        page: Returns up to so many records behind a place, from the first one on if it is None.
        place: Returns the place of a record.
        limit: At most so many records; None for all.
        start: The place to begin behind.
    """
    left = math.inf if limit is None else limit
    while left > 0 and (found := await page(start, int(min(left, _PAGE)))):
        for each in found:
            yield each
        start, left = place(found[-1]), left - len(found)


async def show(
    output: Output,
    what: str,
    items: AsyncIterable[T],
    *,
    record: Callable[[T], Mapping[str, Any]],
    cells: Callable[[T], Mapping[str, str]],
    note: Callable[[T], str] = lambda _: "",
    right: Collection[str] = (),
) -> None:
    """Write records for a program as they come, or all of them in columns for a person, those that say nothing left out.

    Args:
        output: Where to.
        what: What they are, for a person who finds none.
        items: The records.
        record: Returns what a program reads of one.
        cells: Returns what a person reads of one, under the headings.
        note: Returns what stands below one on a line of its own, if anything.
        right: The headings of numbers.
    """
    if output.as_json:
        async for item in items:
            output.record(record(item))
        return
    rows = [(cells(item), note(item)) async for item in items]
    if not rows:
        output.say(f"No {what}.")
        return
    headings = [heading for heading in rows[0][0] if any(row[heading] for row, _ in rows)]
    output.listing(headings, [([row[heading] for heading in headings], words) for row, words in rows], right=right)


def moment(unix: float) -> str:
    """Return a Unix time as programs read it: ISO 8601 in UTC."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")


def when(unix: float) -> str:
    """Return a Unix time as people read it, in UTC."""
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}"


def unusual(scope: str) -> str:
    """Return a scope for people, nothing for the default one: where there is no other, its column is left out."""
    return "" if scope == DEFAULT_SCOPE else scope
