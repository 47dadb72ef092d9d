"""CSV as spreadsheets and programs write it: the delimiter, and the cells of each record."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from payouts.source.tables import folded
from payouts.spelling import quoted

if TYPE_CHECKING:
    from payouts.source.lines import Lines

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_sep_line = re.compile(r'"?sep=([^\w\r\n"])"?[,;|\s]*', re.IGNORECASE).fullmatch


class CsvRecords:
    """The records of a CSV file; the first of them is the header."""

    def __init__(self, lines: Lines) -> None:
        self.reading = lines
        self._padded = False
        self._quotes = False

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        lines = self.reading
        source = iter(lines)
        header_line = _header_line(lines, source)
        if header_line is None:
            return
        for cells in _records(lines, csv.reader(chain((header_line,), source), delimiter=lines.delimiter, strict=True)):
            yield lines.began_at, cells

    def fit(self, at: int, cells: list[Any], width: int) -> list[Any] | None:
        """Return the cells of a record that is as wide as the header, None after reporting a mistake."""
        self._quotes = self._quotes or '"' in self.reading.began
        if len(cells) != width:
            if len(cells) < width or "".join(cells[width:]).strip():
                self.reading.mistake(*_wrong_width(at, cells, width, self.reading.delimiter))
                return None
            self._padded = True
        return cells

    def tell(self, *, padded: bool, protected: bool) -> None:
        """Report how the records were read, after the last one."""
        if self._quotes and not protected:
            self.reading.note("quoted_cells", "quoted cells were read without their quotes")
        if padded or self._padded:
            self.reading.note("empty_columns", "empty columns on the right were skipped")


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
    known = {folded(lines.layout.column(name)) for name in lines.layout.fields}
    hits = {each: len(known & {folded(cell) for cell in _split(header, each)}) for each in (given or ",", *_DELIMITERS)}
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


def _wrong_width(at: int, cells: Sequence[str], width: int, delimiter: str) -> tuple[str, int, int, str]:
    told = f"this row has {len(cells)} cells, the header has {width}"
    if len(cells) < width:
        return "width", at, len(cells) + 1, f"{told}: it may be truncated; add the missing cells"
    if delimiter == ",":
        return "width", at, width + 1, f"{told}: put a cell with commas in quotes"
    return "width", at, width + 1, f"{told}: put a cell with {quoted(delimiter)} in quotes"
