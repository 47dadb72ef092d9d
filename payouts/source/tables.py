"""CSV as spreadsheets and programs write it: the delimiter, the header, and the cells of each row."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

from payouts.cells import unprotect
from payouts.report.results import header_of
from payouts.spelling import quoted
from rewards_core.text import counted

if TYPE_CHECKING:
    from payouts.source.lines import Lines

Values: TypeAlias = tuple[int, dict[str, Any], Callable[[str], int]]
"""The line of a row, its values by field, and a function that returns the column of a field."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_sep_line = re.compile(r'"?sep=([^\w\r\n"])"?[,;|\s]*', re.IGNORECASE).fullmatch
_between_words = re.compile(r"[\s_-]+")
_MAX_LISTED = 20


def read_table(lines: Lines) -> Iterator[Values]:
    """Yield the values of each row under a header that names every required column."""
    source = iter(lines)
    header_line = _header_line(lines, source)
    if header_line is None:
        return
    records = _records(lines, csv.reader(chain((header_line,), source), delimiter=lines.delimiter, strict=True))
    header = next(records, None)
    if lines.mistakes or header is None:
        return
    at, titles = lines.began_at, _without_blanks(header)
    places = _places(lines, at, titles)
    if places is None:
        return
    protected = tuple(titles) == header_of(lines.layout.vendor)
    if protected:
        lines.note("results", "this is a results.csv: its protective apostrophes were removed; its other columns are not read")
    yield from _rows(lines, records, places, width=len(titles), protected=protected, padded=len(titles) < len(header))


def _header_line(lines: Lines, source: Iterator[str]) -> str | None:
    """Return the first line that is not blank and set the delimiter; None after reporting a mistake."""
    sep: str | None = None
    for text in source:
        found = _sep_line(text) if lines.number == 1 else None
        if found is not None:
            sep = found[1]
            lines.note("sep", "the first line, sep=, was skipped")
        elif text.strip(" \t\r\n,;|"):
            return text if not lines.mistakes and _settle_delimiter(lines, text, sep) else None
        lines.began_at = 0
    if not lines.mistakes:
        lines.mistake("header", 1, 1, "this file has only blank lines: the first line must name the columns")
    return None


def _settle_delimiter(lines: Lines, header: str, sep: str | None) -> bool:
    given = lines.layout.delimiter or sep
    known = {_folded(lines.layout.column(name)) for name in lines.layout.fields}
    hits = {each: len(known & {_folded(cell) for cell in _split(header, each)}) for each in (given or ",", *_DELIMITERS)}
    best = max(hits, key=hits.__getitem__)  # the first of equals
    if given is not None and best != given:
        todo = "omit --delimiter" if lines.layout.delimiter else "delete the line sep="
        told = f"the columns are separated by {_DELIMITERS[best]}, not by {_DELIMITERS.get(given, quoted(given))}: {todo}"
        lines.mistake("delimiter", lines.number, 1, told)
        return False
    if given is None and best != ",":
        lines.note("delimiter", f"the columns are separated by {_DELIMITERS[best]}")
    lines.delimiter = best
    return True


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=delimiter))
    except csv.Error:
        return []


def _folded(title: str) -> str:
    return _between_words.sub("_", title.strip()).casefold()


def _without_blanks(cells: Sequence[str]) -> list[str]:
    kept = list(cells)
    while kept and not kept[-1].strip():
        kept.pop()
    return kept


def _records(lines: Lines, reader: Any) -> Iterator[list[str]]:
    """Yield the cells of each record that is not blank; `began_at` is the number of its first line meanwhile."""
    while True:
        cells: list[str] | None = []
        try:
            cells = next(reader, None)
        except csv.Error as problem:
            lines.mistake(*_csv_problem(str(problem), lines))
        if cells is None:
            return
        if cells:
            yield cells
        lines.began_at = 0


def _csv_problem(problem: str, lines: Lines) -> tuple[str, int, int, str]:
    at, column = lines.began_at, _column_of_quote(lines.began, lines.delimiter)
    if "new-line" in problem:
        column = lines.began.partition("\r")[0].count(lines.delimiter) + 1
        return "line_ends", at, column, r"a line ends in a lone \r: save the file with ordinary line ends"
    if "expected after" in problem:
        return "quotes", at, column, "the cell continues after its closing quote: double every quote inside a cell"
    told = "a closing quote is missing: double every quote inside a cell, and put the cell in quotes"
    return "quotes", at, column, told


def _column_of_quote(text: str, delimiter: str) -> int:
    """Return the cell of a line whose quoting is wrong, or its last one."""
    column, place = 1, 0
    while True:
        end = place
        if text.startswith('"', place):
            end = _after_quoted(text, place)
            if not text.startswith((delimiter, "\r", "\n"), end):
                return column
        end = text.find(delimiter, end)
        if end < 0:
            return column
        column, place = column + 1, end + len(delimiter)


def _after_quoted(text: str, place: int) -> int:
    while (place := text.find('"', place + 1)) >= 0:
        if not text.startswith('""', place):
            return place + 1
        place += 1
    return len(text)


def _places(lines: Lines, at: int, titles: Sequence[str]) -> dict[str, int] | None:
    """Return the position of each field in a line, None after reporting a mistake in the header."""
    layout = lines.layout
    exact = {layout.column(name): name for name in layout.fields}
    folded = [_folded(column) for column in exact]
    loose = {_folded(column): name for column, name in exact.items() if folded.count(_folded(column)) == 1}
    places: dict[str, int] = {}
    respelled: list[str] = []
    unread: list[str] = []
    sound = True
    for place, title in enumerate(titles):
        name = exact.get(title) or loose.get(_folded(title))
        if name is None:
            unread.append(title.strip() or "a column without a name")
        elif name in places:
            column = layout.column(name)
            told = f"{quoted(title)} names the column {column} a second time: rename or delete one of the two"
            lines.mistake("header", at, place + 1, told, column)
            sound = False
        else:
            places[name] = place
            if title not in exact:
                respelled.append(title)
    sound = sound and _has_all(lines, at, titles, places)
    if respelled:
        lines.note("header_names", f"column names were read ignoring case, spaces and hyphens: {_listed(respelled)}")
    if unread and tuple(titles) != header_of(layout.vendor):
        lines.note("ignored", f"columns not read: {_listed(unread)}")
    return places if sound else None


def _has_all(lines: Lines, at: int, titles: Sequence[str], places: dict[str, int]) -> bool:
    layout = lines.layout
    needed = (*layout.required, layout.optional) if layout.optional in layout.names else layout.required
    missing = [layout.column(name) for name in needed if name not in places]
    if missing and not places:
        told = f"the first line has none of the columns {_listed(missing)}: it must be a header"
        lines.mistake("header", at, 1, told)
    elif missing:
        for column in missing:
            lines.mistake(
                "header", at, len(titles) + 1, f"there is no column {column}; the columns are {_listed(titles)}", column
            )
    return not missing


def _listed(titles: Sequence[str]) -> str:
    more = f" and {len(titles) - _MAX_LISTED} more" if len(titles) > _MAX_LISTED else ""
    return ", ".join(titles[:_MAX_LISTED]) + more


def _rows(
    lines: Lines, records: Iterator[list[str]], places: dict[str, int], *, width: int, protected: bool, padded: bool
) -> Iterator[Values]:
    optional = lines.layout.optional
    wanted = tuple(places.items())
    between = blank = 0
    quotes = False

    def column_of(name: str) -> int:
        return places.get(name, 0) + 1

    for cells in records:
        if not cells[0].strip() and not "".join(cells).strip():
            blank += 1
            continue
        between, blank = between + blank, 0
        quotes = quotes or '"' in lines.began
        if len(cells) != width:
            if len(cells) < width or "".join(cells[width:]).strip():
                lines.mistake(*_wrong_width(cells, width, lines))
                continue
            padded = True
        values: dict[str, Any] = {name: cells[place] for name, place in wanted}
        if protected:
            values = {name: unprotect(cell) for name, cell in values.items()}
        if not values.get(optional, "").strip():
            values[optional] = None
        yield lines.began_at, values, column_of
    if quotes and not protected:
        lines.note("quoted_cells", "quoted cells were read without their quotes")
    if padded:
        lines.note("empty_columns", "empty columns on the right were skipped")
    if blank or between:
        lines.note("empty_rows", _empty_rows(blank, between))


def _wrong_width(cells: Sequence[str], width: int, lines: Lines) -> tuple[str, int, int, str]:
    at = lines.began_at
    told = f"this row has {len(cells)} cells, the header has {width}"
    if len(cells) < width:
        return "width", at, len(cells) + 1, f"{told}: it may be truncated; add the missing cells"
    if lines.delimiter == ",":
        return "width", at, width + 1, f"{told}: put a cell with commas in quotes"
    return "width", at, width + 1, f"{told}: put a cell with {quoted(lines.delimiter)} in quotes"


def _empty_rows(blank: int, between: int) -> str:
    parts: list[str] = []
    if blank:
        parts.append(f"{counted(blank, 'empty row')} at the end")
    if between:
        parts.append(f"{counted(between, 'empty row')} between others")
    return f"{' and '.join(parts)} {'was' if blank + between == 1 else 'were'} skipped"
