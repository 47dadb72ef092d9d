"""The decoded lines of a CSV or JSONL file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from payouts.source.encodings import START, as_utf8, encoding_of, utf8_in_windows
from payouts.source.mistakes import FileReading, OnMistake, OnNote
from payouts.spelling import quoted

if TYPE_CHECKING:
    from payouts.source.encodings import Encoding
    from payouts.source.layout import Layout

MAX_LINE_BYTES = 65_536

ZIP, OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
WORKBOOKS = (ZIP, OLE)
"""How files of spreadsheets begin: .xlsx is a zip file, .xls and workbooks with a password are OLE2 ones."""


class Lines(FileReading):
    """The decoded lines of a stream; lines that are too long or cannot be decoded are reported and left out.

    `began_at` and `began` are the number and the text of the first line since `began_at` was last set to 0.
    """

    def __init__(self, stream: BinaryIO, layout: Layout, on_mistake: OnMistake, on_note: OnNote) -> None:
        super().__init__(layout, on_mistake, on_note)
        self._stream = stream
        self._first = b""
        self._encoding: Encoding
        self.delimiter = layout.delimiter or ","
        self.number = 0
        self.began_at = 0
        self.began = ""

    def open(self) -> bool:
        """Read the first line; return whether this can be a file of rows."""
        start = self._stream.read(START)
        if start.startswith(WORKBOOKS):
            self.mistake("workbook", 1, 1, "this is a workbook: read it as one, without --format, or save it as CSV UTF-8")
            return False
        try:
            self._encoding = encoding_of(self._stream, start, self.layout.encoding)
        except ValueError as problem:
            self.mistake("encoding", 1, 1, str(problem))
            return False
        self._stream = as_utf8(self._stream, start, self._encoding)
        self._first = self._stream.readline(MAX_LINE_BYTES + 1)
        if not self._first:
            self.mistake("empty_file", 1, 1, "this file is empty")
            return False
        self._tell_encoding()
        return True

    def _tell_encoding(self) -> None:
        name = self._encoding.name
        if self._encoding.guessed:
            self.guessed = name
        if name != "UTF-8" and self.layout.encoding is None:
            self.note("encoding", f"read as {name}")
        elif self._encoding.bom and name == "UTF-8":
            self.note("bom", "the byte-order mark at the beginning was skipped")

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
        if self._encoding.codec == "cp1252" and (found := utf8_in_windows(line)):
            place, read, meant = found
            told = (
                f"this file is in UTF-8, in which {quoted(read)} is {quoted(meant)}: omit --encoding, or save the file as UTF-8"
            )
            self.mistake("encoding", self.number, self._column(line, place), told)
            return None
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as problem:
            byte, place = line[problem.start], problem.start
        self.mistake("encoding", self.number, self._column(line, place), self._undecodable(byte))
        return None

    def _undecodable(self, byte: int) -> str:
        name = self._encoding.name
        if name == "UTF-16":
            return "half of a character is missing: the file was damaged; save it again"
        return f"the byte 0x{byte:02x} is not {name}: correct it and save the file as UTF-8"

    def _column(self, line: bytes, place: int) -> int:
        if self.layout.form == "csv":
            return line[:place].count(self.delimiter.encode()) + 1
        return len(line[:place].decode("utf-8", "replace")) + 1
