"""How a command lists many records: as JSON lines, fetched and written in pages, or as a table for people."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from attrs import frozen

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output, cell
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


@frozen(kw_only=True)
class Nothing:
    """What a list says to a person where it is empty.

    Attributes:
        one: What a record is called.
        none: What is said if there is none at all.
        filters: What was asked for, by option; None where an option was not given.
        any_left: Returns whether there are records that do not fit.
        others: What is said of those.
    """

    one: str
    none: str
    filters: Mapping[str, object] = {}
    any_left: Callable[[], Awaitable[bool]] | None = None
    others: str = "There are others: leave out a filter to see them."

    async def say(self) -> str:
        """Return the line."""
        given = " ".join(option if value is True else f"{option} {cell(value)}" for option, value in _given(self.filters))
        if not given or self.any_left is None or not await self.any_left():
            return self.none
        return f"No {self.one} matches {given}. {self.others}"


async def show(
    output: Output,
    items: AsyncIterable[T],
    *,
    columns: Sequence[Column],
    record: Callable[[T], Mapping[str, Any]],
    cells: Callable[[T], Mapping[str, str]],
    nothing: Nothing,
    note: Callable[[T], str] = lambda _: "",
) -> None:
    """Write records for a program as they come, or all of them in columns for a person, those that say nothing left out.

    Args:
        output: Where to.
        items: The records.
        columns: The columns that a person reads.
        record: Returns what a program reads of one.
        cells: Returns what a person reads of one, under the headings of the columns.
        nothing: What a person is told where there is none.
        note: Returns what stands below one on a line of its own, if anything.
    """
    if output.as_json:
        async for item in items:
            output.record(record(item))
        return
    rows = [(cells(item), note(item)) async for item in items]
    if not rows:
        output.say(await nothing.say())
        return
    used = [column for column in columns if any(row.get(column.heading) for row, _ in rows)]
    output.listing(used, [([row.get(column.heading, "") for column in used], words) for row, words in rows])


def time_column(heading: str) -> Column:
    """Return a column of what `when` returns, never broken: a narrow terminal leaves out the year, or the seconds."""
    return Column(heading=f"{heading} (UTC)", shorter=_shorter)


def _shorter(text: str) -> str:
    year = f"{datetime.now(UTC):%Y-}"
    return text.removeprefix(year) if text.startswith(year) else text[: len("2025-10-09 08:53")]


def _given(filters: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(option, value) for option, value in filters.items() if value is not None and value is not False]


def moment(unix: float) -> str:
    """Return a Unix time as programs read it: ISO 8601 in UTC."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")


def when(unix: float) -> str:
    """Return a Unix time as people read it, in UTC."""
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}"


def unusual(scope: str) -> str:
    """Return a scope for people, nothing for the default one: where there is no other, its column is left out."""
    return "" if scope == DEFAULT_SCOPE else scope
