"""Lay out a list in columns on a terminal, however narrow, without breaking a cell in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import frozen
from rich.cells import cell_len, set_cell_size

_GAP = "  "
_INDENT = "    "


@frozen(kw_only=True)
class Column:
    """A column of a list.

    Attributes:
        heading: Its heading.
        cell: Returns the cell of a record.
        right: Whether it is aligned to the right, as numbers are.
        min_cut: The width that its cells may be cut to on a narrow terminal; None to never cut them.
        shorten: Returns a shorter form of a cell, for terminals where cutting other columns is not enough.
        min_width: Its minimum width, so that rows that are written one at a time stay aligned.
    """

    heading: str
    cell: Callable[[Any], str] = str
    right: bool = False
    min_cut: int | None = None
    shorten: Callable[[str], str] = str
    min_width: int = 0


def lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Return the lines of the headings, then the lines of each row; without a width, lines have any length.

    On a narrow terminal, columns are cut first, then cells are shortened, then rows continue on further lines.
    """
    table = [[column.heading for column in columns], *rows]
    whole = [range(len(columns))]
    if width is None:
        return _lines_of_all(columns, table, _widths(columns, table), whole)
    short = [table[0], *([column.shorten(text) for column, text in zip(columns, row, strict=True)] for row in rows)]
    for cells in (table, short):
        widths = _cut(columns, _widths(columns, cells), width)
        if _line_length(widths) <= width:
            return _lines_of_all(columns, cells, widths, whole)
    widths = _widths(columns, short)
    return _lines_of_all(columns, short, widths, _split(widths, width))


def _widths(columns: Sequence[Column], table: Sequence[Sequence[str]]) -> list[int]:
    return [max(column.min_width, *map(cell_len, cells)) for column, *cells in zip(columns, *table, strict=True)]


def _line_length(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _cut(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the widths with columns cut as far as needed and allowed, the last column first."""
    excess, narrow = _line_length(widths) - width, list(widths)
    for place in reversed(range(len(columns))):
        column = columns[place]
        if excess > 0 and column.min_cut is not None:
            narrow[place] = min(widths[place], max(column.min_cut, cell_len(column.heading), widths[place] - excess))
            excess -= widths[place] - narrow[place]
    return narrow


def _split(widths: Sequence[int], width: int) -> list[range]:
    """Return which columns stand on each line of a row."""
    parts: list[range] = []
    start, used = 0, 0
    for place, wide in enumerate(widths):
        if place > start and used + len(_GAP) + wide > width:
            parts.append(range(start, place))
            start, used = place, len(_INDENT) + wide
        else:
            used += (len(_GAP) if place > start else 0) + wide
    return [*parts, range(start, len(widths))]


def _lines_of_all(
    columns: Sequence[Column], table: Sequence[Sequence[str]], widths: Sequence[int], parts: Sequence[range]
) -> list[list[str]]:
    return [[line for line in _lines(columns, row, widths, parts) if line.strip()] or [""] for row in table]


def _lines(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], parts: Sequence[range]) -> Iterator[str]:
    for number, part in enumerate(parts):
        padded = []
        for place in part:
            text = row[place]
            if cell_len(text) > widths[place]:
                text = f"{set_cell_size(text, widths[place] - 1).rstrip()}…"
            blanks = " " * (widths[place] - cell_len(text))
            padded.append(blanks + text if columns[place].right else text + blanks)
        yield (_INDENT if number else "") + _GAP.join(padded).rstrip()
