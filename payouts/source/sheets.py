"""The rows of one sheet of a workbook: which sheet is read, and what its cells hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from attrs import frozen

from payouts.source.mistakes import FileReading, OnMistake, OnNote
from payouts.source.tables import empty_rows
from payouts.source.workbooks import MAX_TEXT, Sheet, Workbook, WorkbookRefused, damaged, unescaped
from payouts.spelling import Misspelling, NotText, quoted
from rewards_core.text import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from payouts.source.layout import Layout

_MAX_ROWS, _MAX_COLUMNS = 1 << 20, 1 << 14
_MAX_LISTED = 20
_letters = re.compile("[A-Z]{1,3}").fullmatch
_row_number = re.compile("[1-9][0-9]{0,6}").fullmatch
_ENTER_AS_TEXT = "format the column as Text and enter the value again"


class SheetRecords(FileReading):
    """The rows of a sheet; the first one that is not blank is the header."""

    def __init__(self, stream: BinaryIO, layout: Layout, on_mistake: OnMistake, on_note: OnNote) -> None:
        super().__init__(layout, on_mistake, on_note)
        self._stream = stream
        self._book: Workbook | None = None
        self._sheet: Sheet | None = None
        self._skipped = 0

    @property
    def reading(self) -> FileReading:
        """The object that mistakes are reported to."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._book is not None:
            self._book.close()

    def open(self) -> bool:
        """Choose the sheet; return whether there is one."""
        try:
            self._book = Workbook(self._stream)
            self._sheet = self._chosen(self._book)
        except WorkbookRefused as problem:
            self.mistake(problem.kind, 0, 0, str(problem))
            return False
        others = [each for each in self._book.sheets if each is not self._sheet]
        if others:
            self.note("sheet", f"read from the sheet {quoted(self._sheet.name)}; not read: {_named(others)}")
        self.sheet = self._sheet.name
        return True

    def __iter__(self) -> Iterator[tuple[int, list[Any]]]:
        if self._book is None or self._sheet is None:
            return
        last = 0
        try:
            for row in _rows(self._book, self._sheet, self.unseen):
                if row.hidden:
                    told = "this row is hidden, perhaps by a filter: show it if it is to be paid, or delete it"
                    self.mistake("hidden", row.number, 1, told)
                elif row.size > MAX_TEXT:
                    told = f"this row has {row.size:,} characters, the limit is {MAX_TEXT:,}: shorten its cells"
                    self.mistake("line_length", row.number, 1, told)
                else:
                    self._skipped += row.number - last - 1 if last else 0
                    yield row.number, row.cells
                last = row.number
        except WorkbookRefused as problem:
            self.mistake(problem.kind, 0, 0, str(problem))
        if not last and not self.mistakes:
            self.mistake("header", 0, 0, f"the sheet {quoted(self.sheet)} is empty: its first row must name the columns")

    def fit(self, _: int, cells: list[Any], width: int) -> list[Any]:
        """Return the cells of a row, as many as the header has or more: empty cells are not stored."""
        return cells + [""] * (width - len(cells))

    def tell(self, *, padded: bool, protected: bool) -> None:  # noqa: ARG002
        """Report how the rows were read, after the last one."""
        if self._skipped:
            self.note("empty_rows", empty_rows(0, self._skipped))

    def _chosen(self, book: Workbook) -> Sheet:
        wanted = self.layout.sheet
        if wanted is not None:
            for sheet in book.sheets:
                if sheet.name == wanted:
                    return sheet
            told = f"this workbook has no sheet {quoted(wanted)}; it has {_named(book.sheets)}"
            raise WorkbookRefused(told, "sheet")
        filled = [sheet for sheet in book.sheets if next(_rows(book, sheet, []), None) is not None]
        shown = [sheet for sheet in filled if not sheet.hidden]
        if len(shown) > 1:
            raise WorkbookRefused(f"this workbook has several sheets, {_named(shown)}: name one with --sheet", "sheet")
        if shown:
            return shown[0]
        if filled:
            told = f"only sheets that are hidden have content, {_named(filled)}: name one with --sheet"
            raise WorkbookRefused(told, "sheet")
        raise WorkbookRefused("this workbook is empty", "empty_file")


def _named(sheets: Sequence[Sheet]) -> str:
    names = [quoted(each.name) + (" (hidden)" if each.hidden else "") for each in sheets[:_MAX_LISTED]]
    more = len(sheets) - len(names)
    return listed([*names, f"{more} more"] if more else names) if names else "none"


@frozen
class _Row:
    number: int
    cells: list[Any]
    hidden: bool
    size: int


def _rows(book: Workbook, sheet: Sheet, unseen: list[range]) -> Iterator[_Row]:
    """Yield the rows that are not blank, a piece of the sheet in memory at a time, after adding the hidden columns to `unseen`.

    Raises:
        WorkbookRefused: it is damaged.
    """
    parser = _RowParser(book, unseen)
    for _ in book.feed(sheet.part, parser.start, parser.end, parser.characters):
        yield from parser.rows
        parser.rows.clear()


class _RowParser:
    """Collect the rows of a sheet while its XML is parsed.

    `rows` gets each row that is complete and not blank, `unseen` the columns that people do not see.
    """

    def __init__(self, book: Workbook, unseen: list[range]) -> None:
        self.rows: list[_Row] = []
        self.unseen = unseen
        self._dates = book.dates
        self._texts = book.texts
        self._columns: dict[str, int] = {}
        self._within = self._ended = False
        self._number = self._column = self._size = self._sounds = 0
        self._hidden = False
        self._cells: list[Any] = []
        self._pieces: list[str] | None = None  # of the value that is being read
        self._type = self._style = self._value = self._digits = ""
        self._formula = self._stored = self._filled = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._within:
            self._within = name == "sheetData"
            if name == "col" and _is_unseen(attributes, "width"):
                self.unseen.append(range(int(attributes.get("min", "")), int(attributes.get("max", "")) + 1))
            if self._within and self._ended:
                raise damaged("a sheet contains its rows twice")
        elif name == "c":
            self._place(attributes.get("r"))
            self._type, self._style = attributes.get("t", "n"), attributes.get("s", "0")
            self._value, self._formula, self._stored = "", False, False
        elif name in {"v", "is"}:
            if self._stored or (name == "is") != (self._type == "inlineStr"):
                raise damaged(f"a cell in row {self._number} has two values, or one of another type")
            self._stored = True
            self._pieces = [] if name == "v" else None
        elif name == "t" and not self._sounds and self._type == "inlineStr":
            self._pieces = []
        elif name == "f":
            self._formula = True
        elif name == "row":
            self._begin(attributes)
        elif name == "rPh":
            self._sounds += 1

    def end(self, name: str) -> None:
        if not self._within:
            return
        if name in {"v", "t"} and self._pieces is not None:
            self._value += "".join(self._pieces)
            self._pieces = None
        elif name == "c":
            self._add(self._cell())
        elif name == "row":
            if self._filled or self._size > MAX_TEXT:
                self.rows.append(_Row(self._number, self._cells, self._hidden, self._size))
            self._cells = []
        elif name == "rPh":
            self._sounds -= 1
        elif name == "sheetData":
            self._within, self._ended = False, True

    def characters(self, text: str) -> None:
        if self._pieces is not None:
            self._size += len(text)
            if self._size <= MAX_TEXT:
                self._pieces.append(text)

    def _begin(self, attributes: dict[str, str]) -> None:
        given = attributes.get("r")
        number = self._number + 1 if given is None else int(given) if _row_number(given) else 0
        if not self._number < number <= _MAX_ROWS:
            raise damaged(f"row {quoted(given or str(number))} after row {self._number} is out of order or out of range")
        self._number, self._digits = number, str(number)
        self._column = self._size = 0
        self._filled = False
        self._hidden = _is_unseen(attributes, "ht")
        self._cells = []

    def _place(self, reference: str | None) -> None:
        """Set the column of the next cell."""
        before = self._column
        if reference is None:
            self._column += 1
        else:
            letters = reference.rstrip("0123456789")
            if reference[len(letters) :] != self._digits or (letters not in self._columns and not _letters(letters)):
                raise damaged(f"the cell {quoted(reference)} is in row {self._number}")
            self._column = self._columns.get(letters) or self._columns.setdefault(letters, _column_number(letters))
        if not before < self._column <= _MAX_COLUMNS:
            cell = quoted(reference) if reference else "without a place"
            raise damaged(f"the cell {cell} after column {before} of row {self._number} is out of order or out of range")

    def _cell(self) -> str | NotText:
        value, kind = self._value, self._type
        if kind == "s" and value:
            text = self._texts[int(value) if value.isascii() and value.isdecimal() else -1]
            self._size += len(text)
            return _plain(text)
        if kind in {"inlineStr", "str"} and (value or self._stored or not self._formula):
            return _plain(value)
        if not value:
            return _NO_VALUE if self._formula else ""
        return self._not_text(kind, value)

    def _not_text(self, kind: str, value: str) -> NotText:
        shown = quoted(value)[1:-1]
        if kind == "n" and self._style not in self._dates:
            told = f"the cell is a number ({shown}), of which a spreadsheet keeps only 15 digits: {_ENTER_AS_TEXT}"
            return NotText(shown, Misspelling("number", told))
        if kind in {"n", "d"}:
            return NotText(shown, Misspelling("date", f"the cell is a date or a time: {_ENTER_AS_TEXT}"))
        if kind == "b":
            shown = "TRUE" if value == "1" else "FALSE"
            return NotText(shown, Misspelling("boolean", f"the cell is the logical value {shown}: {_ENTER_AS_TEXT}"))
        if kind == "e":
            return NotText(shown, Misspelling("error", f"the cell has the error {shown}: correct it and save the workbook again"))
        raise damaged(f"a cell in row {self._number} has the unknown type {quoted(kind)}")

    def _add(self, cell: str | NotText) -> None:
        if cell != "" and self._size <= MAX_TEXT:
            self._cells += [""] * (self._column - 1 - len(self._cells))
            self._cells.append(cell)
            self._filled = self._filled or not isinstance(cell, str) or not cell.isspace()


def _plain(text: str) -> str | NotText:
    found = unescaped(text)
    if found is not None:
        return found
    told = f"{quoted(text)} has two readings, as _x0041_ in a workbook may mean the letter A: choose a value without such a part"
    return NotText(text, Misspelling("escaped", told))


_NO_VALUE = NotText(
    "",
    Misspelling("formula", "the result of the formula in this cell is not stored: open the workbook in Excel and save it again"),
)


def _is_unseen(attributes: dict[str, str], size: str) -> bool:
    return attributes.get("hidden") in {"1", "true"} or attributes.get(size) == "0"


def _column_number(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - 64
    return number
