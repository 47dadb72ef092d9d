"""Rows of a CSV or JSONL file or a workbook, one line in memory at a time; every mistake is reported with its place."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from payouts.rows import InvalidRow, Row
from payouts.source.csv_records import CsvRecords
from payouts.source.encodings import plain_start
from payouts.source.layout import SAMPLES, Layout
from payouts.source.lines import WORKBOOKS, Lines
from payouts.source.mistakes import FileReading, OnMistake, OnNote, ignore, refuse
from payouts.source.sheets import SheetRecords
from payouts.source.tables import Values, misspelled_column, read_table
from payouts.spelling import RepeatedKey, object_of, quoted
from payouts.vendors import ROW_TYPES
from rewards_core.validation import check_callable, check_instance, check_methods

CheckUnique: TypeAlias = Callable[[str, str, int], None]
Refuse: TypeAlias = Callable[[InvalidRow], None]
"""Report that a row cannot be paid; may be called later than its line is read."""
Check: TypeAlias = Callable[[Row, Refuse], None]


_FORMS = (
    ("workbook", {".xlsx", ".xlsm", ".xltx", ".xltm", ".xls", ".xlsb", ".ods"}),
    ("csv", {".csv", ".tsv", ".txt"}),
    ("jsonl", {".jsonl", ".ndjson", ".json"}),
)


def form_of(path: str, start: bytes) -> str:
    """Return `"csv"`, `"jsonl"` or `"workbook"`, by the file's name or its first bytes; a workbook is one under any name."""
    if start.startswith(WORKBOOKS):
        return "workbook"
    suffix = Path(path).suffix.lower()
    by_name = next((form for form, suffixes in _FORMS if suffix in suffixes), None)
    return by_name or ("jsonl" if plain_start(start).lstrip().startswith(b"{") else "csv")


@contextmanager
def rereadable(path: str) -> Iterator[BinaryIO]:
    """Copy a file, a pipe or standard input (`-`) to an unnamed file and open the copy, so that the run pays what was checked.

    A file that changes during the hours of a run would be read on in the middle of another line.

    Raises:
        OSError: it cannot be opened or copied, or changed while it was copied.
    """
    with ExitStack() as stack:
        source = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        copy = stack.enter_context(tempfile.TemporaryFile())
        before = _version(path)
        shutil.copyfileobj(source, copy, 1 << 20)
        if _version(path) != before:
            told = "the file changed while it was read. Nothing was sent. Wait until it is complete and run again"
            raise OSError(errno.ETXTBSY, told, path)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def is_piped(path: str) -> bool:
    """Return whether the input comes from a program, not from a stored file."""
    return path == "-" or not Path(path).is_file()


def _version(path: str) -> tuple[int, int] | None:
    if is_piped(path):
        return None
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def read_rows(
    stream: BinaryIO,
    layout: Layout,
    *,
    on_mistake: OnMistake = refuse,
    check_unique: CheckUnique | None = None,
    check: Check | None = None,
    on_note: OnNote = ignore,
) -> Iterator[Row]:
    """Return an iterator over the rows of a file.

    Args:
        stream: A file opened in binary mode, read from the current position; a workbook is read whole, from any position.
        layout: Their layout.
        on_mistake: Called for each mistake; its row is left out. By default the first mistake is raised.
        check_unique: Called with name, value and line of each id and given key, also on lines that have another mistake; an
            `InvalidRow` it raises is a mistake.
        check: Called with each row that is valid by itself, and a function that reports a mistake in it, which may be called
            later. An `InvalidRow` that it raises is a mistake in the column it names.
        on_note: Called for each harmless oddity; ignored by default.

    Raises:
        TypeError: an argument is of another type, such as a stream of text.
        FileRefused: from the iteration: there is a mistake, and `on_mistake` was not given.
    """
    if not isinstance(check_methods(stream, "stream", "a file opened in binary mode", ("read",)).read(0), bytes):
        raise TypeError('stream: give a file opened in binary mode, as by open(path, "rb"), not one of text.')
    check_instance(layout, "layout", Layout)
    for given, name in ((on_mistake, "on_mistake"), (on_note, "on_note")):
        check_callable(given, name)
    for optional, name in ((check_unique, "check_unique"), (check, "check")):
        if optional is not None:
            check_callable(optional, name)
    return _read(stream, layout, on_mistake, check_unique, check, on_note)


def _read(
    stream: BinaryIO,
    layout: Layout,
    on_mistake: OnMistake,
    check_unique: CheckUnique | None,
    check: Check | None,
    on_note: OnNote,
) -> Iterator[Row]:
    if layout.form == "workbook":
        with SheetRecords(stream, layout, on_mistake, on_note) as sheet:
            if sheet.open():
                yield from _build(sheet, read_table(sheet), check_unique, check)
        return
    lines = Lines(stream, layout, on_mistake, on_note)
    if lines.open():
        values = read_table(CsvRecords(lines)) if layout.form == "csv" else _read_jsonl(lines)
        yield from _build(lines, values, check_unique, check)


def _build(
    reading: FileReading, source: Iterator[Values], check_unique: CheckUnique | None, check: Check | None
) -> Iterator[Row]:
    builder = _Builder(reading, check_unique, check)
    for number, values, column_of in source:
        row = builder.build(number, values, column_of)
        if row is not None:
            yield row


class _Builder:
    """Build the row of a line's values, or report why there is none."""

    def __init__(self, reading: FileReading, check_unique: CheckUnique | None, check: Check | None) -> None:
        self._reading = reading
        self._check_unique = check_unique
        self._check = check
        self._layout = reading.layout
        self._type: Callable[..., Row] = ROW_TYPES[reading.layout.vendor]

    def build(self, number: int, values: dict[str, Any], column_of: Callable[[str], int]) -> Row | None:
        if self._layout.ids_from_line:
            values["id"] = str(number)
        if self._reading.guessed is not None and self._is_doubtful(values, number, column_of):
            return None
        row: Row | None = None
        wrong: Collection[str] = ()
        try:
            row = self._type(**values, line=number)
        except InvalidRow:
            wrong = self._report_each(number, values, column_of)
        if self._check_unique is not None and not self._is_unique(self._check_unique, number, values, wrong, column_of):
            return None
        if row is not None and self._check is not None:
            try:
                self._check(row, partial(self._report, number, column_of=column_of))
            except InvalidRow as problem:
                self._report(number, problem, column_of)
                return None
        return row

    def _is_doubtful(self, values: Mapping[str, Any], number: int, column_of: Callable[[str], int]) -> bool:
        """Report characters that another encoding than the guessed one would read differently: they may name another person."""
        doubtful = False
        for name in self._layout.fields:
            value = values.get(name)
            if isinstance(value, str) and not value.isascii():
                told = (
                    f"{quoted(value)} was read as {self._reading.guessed}, which is a guess: if it is right, add --encoding "
                    f"{str(self._reading.guessed).lower()}; if not, save the file as UTF-8"
                )
                self._report(number, InvalidRow(told, name=name, kind="encoding"), column_of)
                doubtful = True
        return doubtful

    def _is_unique(
        self, check: CheckUnique, number: int, values: Mapping[str, Any], wrong: Collection[str], column_of: Callable[[str], int]
    ) -> bool:
        unique = True
        for name in ("id", self._layout.key):
            if values.get(name) is not None and name not in wrong:
                try:
                    check(name, values[name], number)
                except InvalidRow as problem:
                    self._report(number, problem, column_of)
                    unique = False
        return unique

    def _report(self, number: int, problem: InvalidRow, column_of: Callable[[str], int]) -> None:
        column = self._layout.column(problem.name)
        self._reading.mistake(problem.kind, number, column_of(problem.name), str(problem), column)

    def _report_each(self, number: int, values: Mapping[str, Any], column_of: Callable[[str], int]) -> Collection[str]:
        """Check field by field, with valid values for the others, so that all mistakes of a line are reported together."""
        valid = SAMPLES[self._layout.vendor]
        wrong = []
        for name in self._layout.fields:
            try:
                self._type(**valid | {name: values.get(name)})
            except InvalidRow as problem:
                self._report(number, problem, column_of)
                wrong.append(name)
        return wrong


class _Unreadable(ValueError):
    """A line is JSON, but cannot be a row."""


def _constant(text: str) -> Any:
    raise _Unreadable(f"{text} is not JSON: write null or leave the row out")


_json = json.JSONDecoder(object_pairs_hook=object_of, parse_float=Decimal, parse_int=str, parse_constant=_constant)


def _read_jsonl(lines: Lines) -> Iterator[Values]:
    layout = lines.layout
    wanted = {name: layout.column(name) for name in layout.fields}
    columns = frozenset(wanted.values())
    for line in lines:
        text = line.strip()
        if not text:
            continue
        number = lines.number
        try:
            found = _json.decode(text)
        except json.JSONDecodeError as problem:
            column = len(line) - len(line.lstrip()) + problem.pos + 1
            lines.mistake("json", number, column, f"this line is not one JSON object: {problem.msg}")
            continue
        except (RepeatedKey, _Unreadable) as problem:
            lines.mistake("json", number, 1, str(problem))
            continue
        except (RecursionError, InvalidOperation):
            lines.mistake("json", number, 1, "this line is nested too deeply, or a number in it is out of range")
            continue
        if not isinstance(found, dict):
            lines.mistake("json", number, 1, "this line is JSON, but not an object: write one object per line")
            continue
        unread = [key for key in found if key not in columns]
        missing = tuple(wanted[name] for name in layout.optional if wanted[name] not in found) if unread else ()
        misspelled = {key: why for key in unread if (why := misspelled_column(key, missing))}
        for key, (meant, told) in misspelled.items():
            lines.mistake("json", number, _character(line, key), told, meant)
        if not misspelled:
            yield number, {name: found.get(key) for name, key in wanted.items()}, partial(_character_of, layout, line)


def _character_of(layout: Layout, line: str, name: str) -> int:
    return _character(line, layout.column(name))


def _character(line: str, key: str) -> int:
    """Return the column of a key in a line of JSON, or the end of the line if it is missing."""
    return line.find(json.dumps(key, ensure_ascii=False)) + 1 or len(line.rstrip())
