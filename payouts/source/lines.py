"""The lines of a file of rows, decoded one by one, and the words for how it is laid out and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from attrs import field, frozen

from rewards_core.errors import RewardsError
from rewards_core.validation import check_choice, check_mapping, check_str, flag, shown

MAX_LINE_BYTES = 65_536

BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00": "UTF-32",
}
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")  # .xlsx is a zip file, .xls an OLE2 one
REQUIRED = {"original": ("id", "reward_uid", "to_user_uid", "amount"), "enkash": ("id", "user_id", "event")}
OPTIONAL = {"original": "nonce", "enkash": "request_id"}
COLUMNS = {vendor: (*REQUIRED[vendor], OPTIONAL[vendor]) for vendor in REQUIRED}
"""Every field of a vendor's file, in the order of the documents."""


@frozen(kw_only=True)
class Mistake:
    """One thing wrong in a file.

    Attributes:
        line: Counted from 1; of a CSV record over several lines the first.
        column: Counted from 1: of CSV the cell, of JSONL the character.
        name: The column's name, empty where none is concerned.
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
    """Something odd about a file that does not keep it from being paid.

    Attributes:
        kind: A word for programs, such as `"empty_rows"`.
        message: What was found and what was made of it.
    """

    kind: str
    message: str


class FileRefused(RewardsError, ValueError):
    """A file of rows cannot be paid as it is.

    Attributes:
        mistake: The first thing that is wrong.
    """

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


def _vendor(value: str) -> str:
    return check_choice(value, "vendor", REQUIRED)


def _form(value: str) -> str:
    return check_choice(value, "form", ("csv", "jsonl"))


def check_delimiter(value: str, name: str) -> str:
    """Return what stands between the cells of a CSV line: one character that is no line end and no quote.

    Raises:
        TypeError: it is not a str.
        ValueError: it cannot be one.
    """
    text = check_str(value, name)
    if len(text) != 1 or text == '"' or not (text.isprintable() or text == "\t"):
        raise ValueError(f"{name}: give one character such as ';', not {shown(text)}.")
    return text


def _check_delimiter(_: object, __: object, delimiter: str | None) -> None:
    if delimiter is not None:
        check_delimiter(delimiter, "delimiter")


def _check_names(layout: Layout, _: object, names: object) -> None:
    for name, column in check_mapping(names, "names", "a mapping of fields to columns").items():
        check_choice(name, "names", COLUMNS[layout.vendor])
        if not check_str(column, "names"):
            raise ValueError(f"names: give the name of a column for {name}, not {shown(column)}.")


@frozen(kw_only=True)
class Layout:
    """How a file is to be read.

    Args:
        vendor: `"original"` or `"enkash"`.
        names: Field to the name of its column in the file, where it differs, such as `{"id": "order_no"}`.
        form: `"csv"` or `"jsonl"`.
        delimiter: What stands between the cells of a CSV line; None finds it out by looking at the header.
        ids_from_line: Take the line number for the id. Then an inserted line shifts every id after it.
        piped: A program writes it, which ends every line; a last line without an end was cut off, and an amount with it.

    Raises:
        TypeError: an argument is of another type.
        ValueError: there is no such vendor, form or field, or a delimiter or a column cannot be one.
    """

    vendor: str = field(converter=_vendor)
    names: Mapping[str, str] = field(factory=dict, validator=_check_names)
    form: str = field(default="csv", converter=_form)
    delimiter: str | None = field(default=None, validator=_check_delimiter)
    ids_from_line: bool = field(default=False, validator=flag())
    piped: bool = field(default=False, validator=flag())
    required: tuple[str, ...] = field(init=False)
    optional: str = field(init=False)

    @required.default
    def _required(self) -> tuple[str, ...]:
        return tuple(name for name in REQUIRED[self.vendor] if name != "id" or not self.ids_from_line)

    @optional.default
    def _optional(self) -> str:
        return OPTIONAL[self.vendor]

    def column(self, name: str) -> str:
        """Return what the file calls this field."""
        return self.names.get(name, name)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that is read, in the order of the documents."""
        return (*self.required, self.optional)


OnMistake = Callable[[Mistake], None]
OnNote = Callable[[Note], None]


def refuse(mistake: Mistake) -> None:
    """Raise the first mistake as `FileRefused`."""
    raise FileRefused(mistake)


def ignore(_: Note) -> None:
    """Leave a note untold."""


class Lines:
    """The decoded lines of a stream; long ones and bytes that are no text are reported and left out.

    `began_at` and `began` are the number and the text of the first line since `began_at` was last set to 0; `delimiter` is what
    stands between the cells, as far as it is known.
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
        """Count and report one thing that is wrong."""
        self.mistakes += 1
        self._report(Mistake(kind=kind, line=line, column=column, name=name, message=message))

    def note(self, kind: str, message: str) -> None:
        """Tell one thing that is odd and does no harm."""
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
            message = (
                f"this line has {length} bytes, at most {MAX_LINE_BYTES} are read: is a line end or a closing quote missing?"
            )
            self.mistake("line_length", self.number, self._column(line, MAX_LINE_BYTES), message)
            return None
        if self.layout.piped and self.layout.form == "csv" and not line.endswith((b"\n", b"\r")):
            message = "the input ends within this line: the program that writes it was cut off; run it again"
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
