"""Ids that stand out in a file although each is valid by itself: a digit is missing, or a spreadsheet rounded them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from attrs import define

from payouts.cells import protect
from payouts.source.mistakes import Note
from payouts.spelling import quoted
from payouts.vendors import FIELDS, ROW_TYPES
from rewards_core.text import counted

if TYPE_CHECKING:
    from payouts.rows import Row
    from payouts.source.layout import Layout

_MIN_ROWS = 5
_MIN_ROWS_FOR_TWO = 7
_ODD_SHARE = 50  # ids are odd if fewer than one in this many differ in the same way
_MIXED_SHARE = 12  # a column is mixed if more than one in this many differ in any way; in a sequence 1 in 10 is shorter
_MAX_NAMED = 3
_MAX_GROUPS = 300  # with more lengths or shapes nothing stands out
_SPREADSHEET_DIGITS = 15

_digits = re.compile(r"\d+")
_letters = re.compile(r"[^\W\d_]+")
_others = re.compile(r"[^0A]+")


class OddIds:
    """Collect the ids of every row in bounded memory and report what stands out."""

    def __init__(self, layout: Layout) -> None:
        recipient, item, _, key = FIELDS[layout.vendor]
        self._word = word = layout.line_word
        self._id = _Column(layout.column("id"), word, counts_up=True)
        self._recipient = _Column(layout.column(recipient), word)
        self._item = _Column(layout.column(item), word) if ROW_TYPES[layout.vendor].item_is_id else None
        self._key = _Column(layout.column(key), word)
        self._ids_in_file = not layout.ids_from_line
        self._protected: tuple[str, int] | None = None

    def add(self, row: Row) -> None:
        """Add the ids of a row."""
        if self._ids_in_file:
            self._id.add(row.id, row.line)
        self._recipient.add(row.recipient, row.line)
        if self._item is not None:
            self._item.add(row.item, row.line)
        if row.given_key is not None:
            self._key.add(row.given_key, row.line)
        if self._protected is None:
            for cell in (row.id, row.recipient, row.item, row.given_key):
                if cell is not None and protect(cell) != cell:
                    self._protected = (cell, row.line)
                    break

    def notes(self) -> Iterator[Note]:
        """Yield what stands out, at most one note of each kind."""
        if self._protected is not None:
            first, line = self._protected
            told = (
                f"{quoted(first)} on {self._word} {line} begins like a formula: results.csv protects such ids with an apostrophe"
            )
            yield Note("formula", told)
        columns = [column for column in (self._id, self._recipient, self._item, self._key) if column is not None]
        for kind, look in (("odd_length", _odd_length), ("odd_shape", _odd_shape), ("rounded", _rounded)):
            found = [odd for column in columns if (odd := look(column)) is not None]
            if found:
                yield Note(kind, "; ".join(found))


@define
class _Group:
    value: str
    line: int
    rows: int = 0


class _Column:
    """The ids of a column by length and by shape: how many, and the first of each."""

    def __init__(self, name: str, word: str, *, counts_up: bool = False) -> None:
        self.name = name
        self.word = word  # of a place in the file: line or row
        self.counts_up = counts_up
        self.rows = 0
        self.lengths: dict[int, _Group] = {}
        self.shapes: dict[str, _Group] = {}
        self.long: list[tuple[str, int]] = []
        self.all_rounded = True

    def add(self, value: str, line: int) -> None:
        self.rows += 1
        length = len(value)
        digits = value.isdecimal()
        _count(self.lengths, length, value, line)
        _count(self.shapes, "0" if digits else _shape(value), value, line)
        if digits and length > _SPREADSHEET_DIGITS and self.all_rounded:
            self.all_rounded = not value[_SPREADSHEET_DIGITS:].strip("0")
            if len(self.long) < 2 and (not self.long or self.long[0][0] != value):
                self.long.append((value, line))


def _count(groups: dict[Any, _Group], which: object, value: str, line: int) -> None:
    group = groups.get(which)
    if group is None:
        if len(groups) > _MAX_GROUPS:
            return
        group = groups[which] = _Group(value, line)
    group.rows += 1


def _shape(value: str) -> str:
    """Return the runs of digits (0), letters (A) and other characters (-) of a value."""
    return _others.sub("-", _letters.sub("A", _digits.sub("0", value)))


def _odd_length(column: _Column) -> str | None:
    usual = _usual(column.lengths)
    nearly = {usual}
    if column.counts_up:  # the numbers from 1 to 1000 have lengths from 1 to 4
        for step in (-1, 1):
            length = usual
            while (length := length + step) in column.lengths:
                nearly.add(length)
    # two of these stand out in a small file; two that are one digit longer are where a counter has arrived
    far = {length for length in column.lengths if abs(length - usual) > 1}
    found = _few(column, column.lengths, nearly, far)
    return found and f"{found}: the others have {usual} characters"


def _odd_shape(column: _Column) -> str | None:
    found = _few(column, column.shapes, {_usual(column.shapes)})
    return found and f"{found}: the others have letters and digits in other places"


def _rounded(column: _Column) -> str | None:
    if len(column.long) < 2 or not column.all_rounded:
        return None
    value, line = column.long[0]
    return (
        f"{column.name}: all ids of 16 or more digits end in 0 after the 15th, such as {quoted(value)} on {column.word} {line}: "
        "a spreadsheet keeps only 15 digits and may have rounded them"
    )


def _usual(groups: dict[Any, _Group]) -> Any:
    return max(groups, key=lambda which: groups[which].rows, default=0)


def _few(
    column: _Column, groups: dict[Any, _Group], usual: Collection[object], far: Collection[object] = frozenset()
) -> str | None:
    """Name some of the odd ids, if nearly all rows are usual; in a mixed column none is odd."""
    others = {which: group for which, group in groups.items() if which not in usual}
    two = 2 if column.rows >= _MIN_ROWS_FOR_TWO else 1
    few = column.rows // _ODD_SHARE
    odd = [group for which, group in others.items() if group.rows <= max(two if which in far else 1, few)]
    mixed = sum(group.rows for group in others.values()) > max(two, column.rows // _MIXED_SHARE)
    if column.rows < _MIN_ROWS or len(groups) > _MAX_GROUPS or mixed or not odd:
        return None
    rows = sum(group.rows for group in odd)
    firsts = sorted(odd, key=lambda group: group.line)[:_MAX_NAMED]
    named = " and ".join(f"{quoted(group.value)} on {column.word} {group.line}" for group in firsts)
    return f"{column.name}: {counted(rows, 'id looks odd,', 'ids look odd, such as')} {named}"
