"""A table as spreadsheets and programs write it: the header, and the cells of each row, whatever holds the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from payouts.cells import unprotect
from payouts.report.results import header_of
from payouts.source.mistakes import column_letters
from payouts.spelling import quoted
from rewards_core.text import counted, listed, one_line

if TYPE_CHECKING:
    from payouts.source.mistakes import FileReading

Values: TypeAlias = tuple[int, dict[str, Any], Callable[[str], int]]
"""The line of a row, its values by field, and a function that returns the column of a field."""

_between_words = re.compile(r"[\s_-]+")
_after_name = re.compile(r"[.\[(/:]")  # as in attribute.Colour
_CLOSE = 0.85  # user_external_id is not a misspelling of asset_external_id
_MAX_LISTED = 20


class Records(Protocol):
    """The records of a table, each with its line: the header first, and none that has no cells.

    A cell is a str, or a `payouts.spelling.NotText`.
    """

    @property
    def reading(self) -> FileReading:
        """The object that mistakes are reported to."""
        ...

    def __iter__(self) -> Iterator[tuple[int, list[Any]]]: ...

    def fit(self, at: int, cells: list[Any], width: int) -> list[Any] | None:
        """Return the cells of a record, as many as the header has or more; None after reporting a mistake."""
        ...

    def tell(self, *, padded: bool, protected: bool) -> None:
        """Report how the records were read, after the last one."""
        ...


def read_table(records: Records) -> Iterator[Values]:
    """Yield the values of each row under a header that names every required column."""
    reading = records.reading
    following = iter(records)
    first = next(following, None)
    if reading.mistakes or first is None:
        return
    at, header = first
    titles = _without_blanks([str(cell) for cell in header])
    places = _places(reading, at, titles)
    if places is None:
        return
    protected = tuple(titles) == header_of(reading.layout.vendor)
    if protected:
        reading.note("results", "this is a results.csv: its protective apostrophes were removed; its other columns are not read")
    yield from _rows(records, following, places, titles, protected=protected)
    records.tell(padded=len(titles) < len(header), protected=protected)


def folded(title: str) -> str:
    """Return the name of a column without case, and with one sort of separator between words."""
    return _between_words.sub("_", title.strip()).casefold()


@lru_cache(maxsize=1024)
def misspelled_column(title: str, missing: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the column that an unknown one is a misspelling of, and the message for it; None if it is none.

    Args:
        title: The unknown column.
        missing: The columns that the file could have and lacks.
    """
    columns = {folded(column): column for column in missing}
    close = get_close_matches(folded(_after_name.split(title)[0]), columns, n=1, cutoff=_CLOSE)
    if not close:
        return None
    column = columns[close[0]]
    return column, f"{quoted(title)} looks like {column}, which is missing: rename it, or delete it if it is something else"


def _without_blanks(cells: Sequence[str]) -> list[str]:
    kept = list(cells)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


def _places(reading: FileReading, at: int, titles: Sequence[str]) -> dict[str, int] | None:
    """Return the position of each field in a line, None after reporting a mistake in the header."""
    layout = reading.layout
    exact = {layout.column(name): name for name in layout.fields}
    spelled = [folded(column) for column in exact]
    loose = {folded(column): name for column, name in exact.items() if spelled.count(folded(column)) == 1}
    places: dict[str, int] = {}
    respelled: list[str] = []
    unread: dict[int, str] = {}
    sound = True
    for place, title in enumerate(titles):
        name = exact.get(title) or loose.get(folded(title))
        if name is None:
            if title.strip() or layout.form != "workbook":  # in a sheet a column may be left empty for looks
                unread[place] = title.strip() or "a column without a name"
        elif name in places:
            column = layout.column(name)
            told = f"{quoted(title)} names the column {column} a second time: rename or delete one of the two"
            reading.mistake("header", at, place + 1, told, column)
            sound = False
        else:
            places[name] = place
            if title not in exact:
                respelled.append(title)
    for name, place in places.items():
        if any(place + 1 in columns for columns in reading.unseen):
            told = f"column {column_letters(place + 1)} is hidden: show it, or delete it"
            reading.mistake("hidden", at, place + 1, told, layout.column(name))
            sound = False
    sound = sound and _has_all(reading, at, titles, places)
    missing = tuple(layout.column(name) for name in layout.optional if name not in places)
    for place, title in unread.items():
        if misspelled := misspelled_column(title, missing):
            column, told = misspelled
            reading.mistake("header", at, place + 1, told, column)
            sound = False
    if respelled:
        reading.note("header_names", f"column names were read ignoring case, spaces and hyphens: {_listed(respelled)}")
    if unread and tuple(titles) != header_of(layout.vendor):
        reading.note("ignored", f"columns not read: {_listed([*unread.values()])}")
    return places if sound else None


def _has_all(reading: FileReading, at: int, titles: Sequence[str], places: dict[str, int]) -> bool:
    layout = reading.layout
    needed = (*layout.required, *(name for name in layout.optional if name in layout.names))
    missing = [layout.column(name) for name in needed if name not in places]
    if missing and not places:
        told = f"the first {layout.line_word} has none of the columns {_listed(missing)}: it must be a header"
        told += f", or name the columns with {listed([_option(name) for name in needed])}"
        reading.mistake("header", at, 1, told)
    elif missing:
        there = _listed([title for title in titles if title.strip()])
        for name in needed:
            if name not in places:
                told = f"there is no column {layout.column(name)}; the columns are {there}: rename one, or give {_option(name)}"
                reading.mistake("header", at, len(titles) + 1, told, layout.column(name))
    return not missing


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}-column"


def _listed(titles: Sequence[str]) -> str:
    more = f" and {len(titles) - _MAX_LISTED} more" if len(titles) > _MAX_LISTED else ""
    return ", ".join(map(one_line, titles[:_MAX_LISTED])) + more


def _rows(
    records: Records,
    following: Iterator[tuple[int, list[Any]]],
    places: dict[str, int],
    titles: Sequence[str],
    *,
    protected: bool,
) -> Iterator[Values]:
    optional = records.reading.layout.optional
    wanted = tuple(places.items())
    header = [folded(titles[place]) for place in places.values()]
    between = blank = 0

    def column_of(name: str) -> int:
        return places.get(name, 0) + 1

    for at, found in following:
        if all(map(_is_blank, found)):
            blank += 1
            continue
        between, blank = between + blank, 0
        cells = records.fit(at, found, len(titles))
        if cells is None:
            continue
        values: dict[str, Any] = {name: cells[place] for name, place in wanted}
        if [folded(str(cell)) for cell in values.values()] == header:
            records.reading.mistake("header", at, 1, "this row repeats the header: delete it")
            continue
        if protected:
            values = {name: unprotect(cell) if isinstance(cell, str) else cell for name, cell in values.items()}
        for name in optional:
            if _is_blank(values.get(name, "")):
                values[name] = None
        yield at, values, column_of
    if blank or between:
        records.reading.note("empty_rows", empty_rows(blank, between))


def _is_blank(cell: object) -> bool:
    return isinstance(cell, str) and not cell.strip()


def empty_rows(blank: int, between: int) -> str:
    """Say how many empty rows were skipped, at the end and between others."""
    parts: list[str] = []
    if blank:
        parts.append(f"{counted(blank, 'empty row')} at the end")
    if between:
        parts.append(f"{counted(between, 'empty row')} between others")
    return f"{' and '.join(parts)} {'was' if blank + between == 1 else 'were'} skipped"
