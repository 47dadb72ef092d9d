"""The lines of a file of rows, decoded one by one, and the words for how it is laid out and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from attrs import Factory, field, frozen

from vendor_http.errors import RewardsError

MAX_LINE_BYTES = 65_536

BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00": "UTF-32",
}
REQUIRED = {"original": ("id", "reward_uid", "to_user_uid", "amount"), "enkash": ("id", "user_id", "event")}
OPTIONAL = {"original": "nonce", "enkash": "request_id"}


@frozen(kw_only=True)
class Mistake:
    """One thing wrong in a file.

    Attributes:
        line: Counted from 1; of a CSV record over several lines the first.
        column: Counted from 1: of CSV the cell, of JSONL the character.
        name: The column's name, empty where none is concerned.
        message: What was expected, what came, what to do.
    """

    line: int
    column: int
    name: str = ""
    message: str

    def __str__(self) -> str:
        named = f" ({self.name})" if self.name else ""
        return f"line {self.line}, column {self.column}{named}: {self.message}"


class FileRefused(RewardsError, ValueError):
    """A file of rows cannot be paid as it is.

    Attributes:
        mistake: The first thing that is wrong.
    """

    def __init__(self, mistake: Mistake) -> None:
        super().__init__(str(mistake))
        self.mistake = mistake


@frozen(kw_only=True)
class Layout:
    """How a file is to be read.

    Args:
        vendor: `"original"` or `"enkash"`.
        names: Field to the name of its column in the file, where it differs, such as `{"id": "order_no"}`.
        form: `"csv"` or `"jsonl"`.
        delimiter: What stands between the cells of a CSV line.
        ids_from_line: Take the line number for the id. Then an inserted line shifts every id after it.
        piped: A program writes it, which ends every line; a last line without an end was cut off, and an amount with it.
    """

    vendor: str
    names: Mapping[str, str] = Factory(dict)
    form: str = "csv"
    delimiter: str = ","
    ids_from_line: bool = False
    piped: bool = False
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


def refuse(mistake: Mistake) -> None:
    """Raise the first mistake as `FileRefused`."""
    raise FileRefused(mistake)


class Lines:
    """The decoded lines of a stream; long ones and bytes that are no text are reported and left out.

    `began_at` and `began` are the number and the text of the first line since `began_at` was last set to 0.
    """

    def __init__(self, stream: BinaryIO, layout: Layout, on_mistake: OnMistake) -> None:
        self._stream = stream
        self._first = b""
        self._report = on_mistake
        self.layout = layout
        self.number = 0
        self.began_at = 0
        self.began = ""
        self.mistakes = 0

    def mistake(self, line: int, column: int, message: str, name: str = "") -> None:
        """Count and report one thing that is wrong."""
        self.mistakes += 1
        self._report(Mistake(line=line, column=column, name=name, message=message))

    def open(self) -> bool:
        """Read the first line; return whether this can be a file of rows."""
        first = self._stream.readline(MAX_LINE_BYTES + 1)
        encoding = _OTHER_BOMS.get(first[:2])
        if encoding:
            self.mistake(1, 1, f"expected UTF-8, got {encoding}; save the file as UTF-8")
            return False
        self._first = first.removeprefix(BOM)
        if not self._first:
            self.mistake(1, 1, "expected rows, got an empty file")
            return False
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
            message = f"expected at most {MAX_LINE_BYTES} bytes in a line, got {length}"
            self.mistake(self.number, self._column(line, MAX_LINE_BYTES), message)
            return None
        if self.layout.piped and self.layout.form == "csv" and not line.endswith((b"\n", b"\r")):
            message = "expected a line end, got the end of the input; it was cut off: see that its program ends well"
            self.mistake(self.number, self._column(line, len(line)), message)
            return None
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as problem:
            byte, place = line[problem.start], problem.start
        message = f"expected UTF-8, got the byte 0x{byte:02x} which is none here; save the file as UTF-8"
        self.mistake(self.number, self._column(line, place), message)
        return None

    def _column(self, line: bytes, place: int) -> int:
        if self.layout.form == "csv":
            return line[:place].count(self.layout.delimiter.encode()) + 1
        return len(line[:place].decode("utf-8", "replace")) + 1
