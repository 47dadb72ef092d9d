"""The decoded lines of a file of rows, its layout, and its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from attrs import NOTHING, field, fields, frozen
from attrs.validators import optional

from payouts.vendors import ROW_TYPES
from rewards_core.errors import RewardsError
from rewards_core.validation import check_choice, check_mapping, check_str, checked, flag, shown

MAX_LINE_BYTES = 65_536

BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00": "UTF-32",
}
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # .xlsx is a zip file, .xls an OLE2 one
REQUIRED = {
    vendor: tuple(each.name for each in fields(row_type) if each.default is NOTHING) for vendor, row_type in ROW_TYPES.items()
}
COLUMNS = {vendor: (*REQUIRED[vendor], row_type.key_field) for vendor, row_type in ROW_TYPES.items()}
"""Every field of a vendor's file, in the documented order."""


@frozen(kw_only=True)
class Mistake:
    """One mistake in a file.

    Attributes:
        line: Counted from 1; the first line of a CSV record that spans several.
        column: Counted from 1: the cell in CSV, the character in JSONL.
        name: The column's name, empty if none is concerned.
        kind: A word for programs, such as `"scientific"`, `"width"` or `"duplicate"`.
        message: What is wrong and what to do.
    """

    kind: str
    line: int
    column: int
    name: str = ""
    message: str

    def __str__(self) -> str:
        named = f" ({self.name})" if self.name else ""
        return f"line {self.line}, column {self.column}{named}: {self.message}"


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


def check_delimiter(value: str, name: str) -> str:
    """Check the delimiter of CSV cells: one character that is neither a line end nor a quote.

    Raises:
        TypeError: it is not a str.
        ValueError: it cannot be a delimiter.
    """
    text = check_str(value, name)
    if len(text) != 1 or text == '"' or not (text.isprintable() or text == "\t"):
        raise ValueError(f"{name}: give one character such as ';', not {shown(text)}.")
    return text


def _check_names(layout: Layout, _: object, names: object) -> None:
    for name, column in check_mapping(names, "names", "a mapping of fields to columns").items():
        check_choice(name, "names", COLUMNS[layout.vendor])
        if not check_str(column, "names"):
            raise ValueError(f"names: give the name of a column for {name}, not {shown(column)}.")


@frozen(kw_only=True)
class Layout:
    """How to read a file.

    Args:
        vendor: The vendor's name.
        names: Field to the name of its column, where it differs, such as `{"id": "order_no"}`.
        form: `"csv"` or `"jsonl"`.
        delimiter: The delimiter of CSV cells; None detects it in the header.
        ids_from_line: Use the line number as the id. An inserted line then shifts every id after it.
        piped: Whether a program writes the input and ends every line; a last line without an end is then refused as truncated.

    Raises:
        TypeError: an argument has another type.
        ValueError: there is no such vendor, form or field, or a delimiter or column name is invalid.
    """

    vendor: str = field(validator=checked(check_choice, ROW_TYPES))
    names: Mapping[str, str] = field(factory=dict, validator=_check_names)
    form: str = field(default="csv", validator=checked(check_choice, ("csv", "jsonl")))
    delimiter: str | None = field(default=None, validator=optional(checked(check_delimiter)))
    ids_from_line: bool = field(default=False, validator=flag())
    piped: bool = field(default=False, validator=flag())

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every row has."""
        return tuple(name for name in REQUIRED[self.vendor] if name != "id" or not self.ids_from_line)

    @property
    def optional(self) -> str:
        """The field of the key."""
        return ROW_TYPES[self.vendor].key_field

    def column(self, name: str) -> str:
        """Return the column of a field."""
        return self.names.get(name, name)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that is read, in the documented order."""
        return (*self.required, self.optional)


OnMistake = Callable[[Mistake], None]
OnNote = Callable[[Note], None]


def refuse(mistake: Mistake) -> None:
    """Raise the first mistake as `FileRefused`."""
    raise FileRefused(mistake)


def ignore(_: Note) -> None:
    """Ignore a note."""


class Lines:
    """The decoded lines of a stream; lines that are too long or not UTF-8 are reported and left out.

    `began_at` and `began` are the number and the text of the first line since `began_at` was last set to 0.
    """

    def __init__(self, stream: BinaryIO, layout: Layout, on_mistake: OnMistake, on_note: OnNote) -> None:
        self._stream = stream
        self._first = b""
        self._report = on_mistake
        self._tell = on_note
        self.layout = layout
        self.delimiter = layout.delimiter or ","
        self.number = 0
        self.began_at = 0
        self.began = ""
        self.mistakes = 0

    def mistake(self, kind: str, line: int, column: int, message: str, name: str = "") -> None:
        """Count and report a mistake."""
        self.mistakes += 1
        self._report(Mistake(kind=kind, line=line, column=column, name=name, message=message))

    def note(self, kind: str, message: str) -> None:
        """Report a harmless oddity."""
        self._tell(Note(kind, message))

    def open(self) -> bool:
        """Read the first line; return whether this can be a file of rows."""
        first = self._stream.readline(MAX_LINE_BYTES + 1)
        if first.startswith(_WORKBOOKS):
            self.mistake("workbook", 1, 1, "this is an Excel workbook: save it as CSV UTF-8 and give that file")
            return False
        encoding = _OTHER_BOMS.get(first[:2])
        if encoding:
            self.mistake("encoding", 1, 1, f"this file is in {encoding}: save it as UTF-8")
            return False
        self._first = first.removeprefix(BOM)
        if not self._first:
            self.mistake("empty_file", 1, 1, "this file is empty")
            return False
        if first.startswith(BOM):
            self.note("bom", "the byte-order mark at the beginning was skipped")
        return True

    def __iter__(self) -> Iterator[str]:
        line = self._first
        while line:
            self.number += 1
            text = self._text(line)
            if text is not None:
                if not self.began_at:
                    self.began_at, self.began = self.number, text
                yield text
            line = self._stream.readline(MAX_LINE_BYTES + 1)

    def _text(self, line: bytes) -> str | None:
        if len(line) > MAX_LINE_BYTES:
            length, rest = len(line), line
            while not rest.endswith(b"\n") and (rest := self._stream.readline(MAX_LINE_BYTES)):
                length += len(rest)
            message = f"this line has {length} bytes, the limit is {MAX_LINE_BYTES}: is a line end or a closing quote missing?"
            self.mistake("line_length", self.number, self._column(line, MAX_LINE_BYTES), message)
            return None
        if self.layout.piped and self.layout.form == "csv" and not line.endswith((b"\n", b"\r")):
            message = "the input ends within this line: the program that writes it was interrupted; run it again"
            self.mistake("cut_off", self.number, self._column(line, len(line)), message)
            return None
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as problem:
            byte, place = line[problem.start], problem.start
        message = f"the byte 0x{byte:02x} is not UTF-8: save the file as CSV UTF-8"
        self.mistake("encoding", self.number, self._column(line, place), message)
        return None

    def _column(self, line: bytes, place: int) -> int:
        if self.layout.form == "csv":
            return line[:place].count(self.delimiter.encode()) + 1
        return len(line[:place].decode("utf-8", "replace")) + 1
