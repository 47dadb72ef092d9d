"""How a list stands in columns on a terminal: what gives way where it is narrow, and that no cell is broken in two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attrs import frozen
from rich.cells import cell_len, set_cell_size

_GAP = "  "
_INDENT = "    "


@frozen(kw_only=True)
class Column:
    """A column of a list.

    Attributes:
        heading: Its heading.
        right: Whether it is aligned to the right, as numbers are.
        least: The fewest characters that its cells may be cut to where there is no room; None for cells that are never cut.
        shorter: Returns what a cell shows where cutting others does not make room; None for cells that have no shorter form.
        wide: Characters that it takes at least, so that rows which are written one by one stand below each other.
    """

    heading: str
    right: bool = False
    least: int | None = None
    shorter: Callable[[str], str] | None = None
    wide: int = 0


def laid_out(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[list[str]]:
    """Return the lines of the headings and of each row.

    Where a terminal is too narrow, columns that may be cut give way first, then cells take their shorter forms; where that is
    not enough, each row goes on in further lines, between two cells.

    Args:
        columns: The columns.
        rows: The cells of each row, in the order of the columns.
        width: How many characters a line may have; None for as many as it takes.
    """
    table = [[column.heading for column in columns], *rows]
    whole = range(len(columns))
    if width is None:
        return _in_lines(columns, table, _widths(columns, table), [whole])
    short = [table[0], *([_shorter(column, text) for column, text in zip(columns, row, strict=True)] for row in rows)]
    for some in (table, short):
        widths = _cut(columns, _widths(columns, some), width)
        if _length(widths) <= width:
            return _in_lines(columns, some, widths, [whole])
    widths = _widths(columns, short)
    return _in_lines(columns, short, widths, _parts(widths, width))


def _shorter(column: Column, text: str) -> str:
    return text if column.shorter is None else column.shorter(text)


def _widths(columns: Sequence[Column], table: Sequence[Sequence[str]]) -> list[int]:
    return [max(column.wide, *map(cell_len, cells)) for column, *cells in zip(columns, *table, strict=True)]


def _length(widths: Sequence[int]) -> int:
    """Return the length of a line."""
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _cut(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the widths with columns cut as far as needed, and as far as they may be, from the last one on."""
    excess, narrow = _length(widths) - width, list(widths)
    for place in reversed(range(len(columns))):
        column = columns[place]
        if excess > 0 and column.least is not None:
            narrow[place] = min(widths[place], max(column.least, cell_len(column.heading), widths[place] - excess))
            excess -= widths[place] - narrow[place]
    return narrow


def _fitting(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def _parts(widths: Sequence[int], width: int) -> list[range]:
    """Return which columns stand in each line of a row."""
    parts: list[range] = []
    start, used = 0, 0
    for place, wide in enumerate(widths):
        if place > start and used + len(_GAP) + wide > width:
            parts.append(range(start, place))
            start, used = place, len(_INDENT) + wide
        else:
            used += (len(_GAP) if place > start else 0) + wide
    return [*parts, range(start, len(widths))]


def _in_lines(
    columns: Sequence[Column], table: Sequence[Sequence[str]], widths: Sequence[int], parts: Sequence[range]
) -> list[list[str]]:
    return [[line for line in _lines(columns, row, widths, parts) if line.strip()] or [""] for row in table]


def _lines(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], parts: Sequence[range]) -> Iterator[str]:
    for number, part in enumerate(parts):
        padded = []
        for place in part:
            text = _fitting(row[place], widths[place])
            blanks = " " * (widths[place] - cell_len(text))
            padded.append(blanks + text if columns[place].right else text + blanks)
        yield (_INDENT if number else "") + _GAP.join(padded).rstrip()
