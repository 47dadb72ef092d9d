"""What is wrong or odd in a file of rows, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from rewards_core.errors import RewardsError
from rewards_core.text import one_line

if TYPE_CHECKING:
    from payouts.source.layout import Layout


@frozen(kw_only=True)
class Mistake:
    """One mistake in a file.

    Attributes:
        line: Counted from 1; the first line of a CSV record that spans several, the row in a sheet; 0 if the whole file is meant.
        column: Counted from 1: the cell in CSV and in a sheet, the character in JSONL.
        name: The column's name, empty if none is concerned.
        sheet: The name of the sheet in a workbook, else empty.
        kind: A word for programs, such as `"scientific"`, `"width"` or `"duplicate"`.
        message: What is wrong and what to do.
    """

    kind: str
    line: int
    column: int
    name: str = ""
    sheet: str = ""
    message: str

    @property
    def cell(self) -> str:
        """The cell in a sheet, such as `C17`."""
        return f"{column_letters(self.column)}{self.line}"

    @property
    def place(self) -> str:
        """Where it is, such as `line 17, column 3` or `Sheet1!C17`; empty if the whole file is meant."""
        if self.line == 0:
            return ""
        return f"{quoted_sheet(self.sheet)}!{self.cell}" if self.sheet else f"line {self.line}, column {self.column}"

    def __str__(self) -> str:
        named = f" ({self.name})" if self.name else ""
        return f"{self.place}{named}: {self.message}" if self.line else self.message


@frozen
class Note:
    """An oddity of a file that does not stop it from being paid.

    Attributes:
        kind: A word for programs, such as `"empty_rows"`.
        message: What was found and how it was read.
    """

    kind: str
    message: str


class FileRefused(RewardsError, ValueError):
    """A file of rows has a mistake.

    Attributes:
        mistake: The first mistake.
    """

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


OnMistake = Callable[[Mistake], None]
OnNote = Callable[[Note], None]


def refuse(mistake: Mistake) -> None:
    """Raise the first mistake as `FileRefused`."""
    raise FileRefused(mistake)


def ignore(_: Note) -> None:
    """Ignore a note."""


def column_letters(column: int) -> str:
    """Return the letters of a column that is counted from 1: A, Z, AA."""
    letters = ""
    while column > 0:
        column, last = divmod(column - 1, 26)
        letters = chr(65 + last) + letters
    return letters


def quoted_sheet(name: str) -> str:
    """Return the name of a sheet as formulas spell it: in apostrophes unless it is one plain word."""
    plain = name.isidentifier()
    return name if plain else one_line("'{}'".format(name.replace("'", "''")))


class FileReading:
    """The reading of one file: its layout, and the mistakes and notes so far.

    Attributes:
        sheet: The name of the sheet that is read, empty if the file is no workbook.
        unseen: The columns of that sheet that people do not see, counted from 1.
        mistakes: How many mistakes were reported.
        guessed: The encoding if it was guessed, so that the characters beyond ASCII may be others; else None.
    """

    def __init__(self, layout: Layout, on_mistake: OnMistake, on_note: OnNote) -> None:
        self._report = on_mistake
        self._tell = on_note
        self.layout = layout
        self.sheet = ""
        self.unseen: list[range] = []
        self.mistakes = 0
        self.guessed: str | None = None

    def mistake(self, kind: str, line: int, column: int, message: str, name: str = "") -> None:
        """Count and report a mistake."""
        self.mistakes += 1
        self._report(Mistake(kind=kind, line=line, column=column, name=name, sheet=self.sheet, message=message))

    def note(self, kind: str, message: str) -> None:
        """Report a harmless oddity."""
        self._tell(Note(kind, message))
