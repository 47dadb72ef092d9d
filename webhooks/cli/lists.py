"""How commands list records: JSON lines, fetched and written page by page, or columns for people."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output, cell
from rewards_core.operations import DEFAULT_SCOPE

T = TypeVar("T")
Cursor = TypeVar("Cursor")


async def write_list(
    output: Output,
    items: AsyncIterable[T] | Iterable[T],
    *,
    columns: Sequence[Column],
    record: Callable[[T], Mapping[str, Any]],
    note: Callable[[T], str] = lambda _: "",
    empty: str,
    noun: str,
    filters: Mapping[str, object] = {},
    find_any: Callable[[], Awaitable[object]] | None = None,
    others: str = "There are others: leave out a filter to see them.",
) -> None:
    """Write records as JSON lines as they come, or all of them in columns for people, without empty columns.

    For people, the note of a record follows on a line of its own. Without records they read `empty`, or if the options of
    `filters` exclude those that `find_any` finds, that no such noun matches and that there are others.
    """
    if output.as_json:
        async for item in _each(items):
            output.record(record(item))
        return
    rows = [([column.cell(item) for column in columns], note(item)) async for item in _each(items)]
    if rows:
        used = [place for place in range(len(columns)) if any(cells[place] for cells, _ in rows)]
        output.listing([columns[place] for place in used], [([cells[place] for place in used], words) for cells, words in rows])
        return
    given = [(option, value) for option, value in filters.items() if value is not None and value is not False]
    if not given or find_any is None or not await find_any():
        output.say(empty)
        return
    words = " ".join(option if value is True else f"{option} {cell(value)}" for option, value in given)
    output.say(f"No {noun} matches {words}. {others}")


async def _each(items: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def time_column(heading: str, time: Callable[[Any], float]) -> Column:
    """Return a column of times, never broken in two: a narrow terminal leaves out the year, or the seconds."""
    return Column(heading=f"{heading} (UTC)", cell=lambda item: utc_time(time(item)), shorten=_shorten_time)


def _shorten_time(text: str) -> str:
    year = f"{datetime.now(UTC):%Y-}"
    return text.removeprefix(year) if text.startswith(year) else text[: len("2025-10-09 08:53")]


def iso_time(unix: float) -> str:
    """Return a Unix time for programs: ISO 8601 in UTC."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")


def utc_time(unix: float) -> str:
    """Return a Unix time for people, in UTC."""
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}"


def scope_column(scope: Callable[[Any], str]) -> Column:
    """Return a column of scopes, empty for the default one."""
    return Column(heading="scope", cell=lambda item: "" if scope(item) == DEFAULT_SCOPE else scope(item), min_cut=8)
