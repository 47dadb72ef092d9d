"""Rows out of a CSV or JSONL file, one line in memory at a time; whatever is wrong is said with its line and column."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from payouts.lines import BOM, REQUIRED, Layout, Lines, OnMistake, refuse
from payouts.rows import ROW_TYPES, InvalidRow, Row, quoted

Meet: TypeAlias = Callable[[str, str, int], None]


def form_of(path: str, start: bytes) -> str:
    """Return `"csv"` or `"jsonl"`, by the file's name, or by its first bytes where the name does not say."""
    suffix = Path(path).suffix.lower()
    if suffix in {".csv", ".tsv", ".txt"}:
        return "csv"
    if suffix in {".jsonl", ".ndjson", ".json"}:
        return "jsonl"
    return "jsonl" if start.removeprefix(BOM).lstrip().startswith(b"{") else "csv"


@contextmanager
def rereadable(path: str) -> Iterator[BinaryIO]:
    """Copy a file, a pipe or standard input (`-`) to an unnamed file on disk and open that, so that what was checked is paid.

    A file that is written over in the hours of a run would be read on in the middle of another line than the one before.

    Raises:
        OSError: it cannot be opened or copied, or was written to while it was copied.
    """
    with ExitStack() as stack:
        source = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        copy = stack.enter_context(tempfile.TemporaryFile())
        before = _version(path)
        shutil.copyfileobj(source, copy, 1 << 20)
        if _version(path) != before:
            told = "expected a file at rest, it was written to while it was read; wait until it is whole, then run again"
            raise OSError(errno.ETXTBSY, told, path)
        copy.seek(0)
        yield cast("BinaryIO", copy)


def is_piped(path: str) -> bool:
    """Return whether a program writes what is read there, and not a file that somebody keeps."""
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
    meet: Meet | None = None,
    judge: Callable[[Row], None] | None = None,
    on_ignored: Callable[[str], None] = lambda _: None,
) -> Iterator[Row]:
    """Yield the rows of a file.

    Args:
        stream: The bytes, read from where they stand.
        layout: How to read them.
        on_mistake: Called for each thing that is wrong; the row is left out. By default the first one is raised.
        meet: Called with name, value and line of each id and each key that the file brings, on lines too that hold no row for
            another reason; an `InvalidRow` it raises is a mistake.
        judge: Called with each row that is sound by itself; an `InvalidRow` it raises is a mistake in the column it names.
        on_ignored: Called for each column of the header that is not read.

    Raises:
        FileRefused: something is wrong, and `on_mistake` was not given.
    """
    lines = Lines(stream, layout, on_mistake)
    if not lines.open():
        return
    builder = _Builder(lines, meet, judge)
    yield from (_read_csv(lines, builder, on_ignored) if layout.form == "csv" else _read_jsonl(lines, builder))


class _Builder:
    """Makes a row of a line's values, or reports why there is none."""

    def __init__(self, lines: Lines, meet: Meet | None, judge: Callable[[Row], None] | None) -> None:
        self._lines = lines
        self._meet = meet
        self._judge = judge
        self._layout = lines.layout
        self._type: Callable[..., Row] = ROW_TYPES[lines.layout.vendor]

    def build(self, number: int, values: dict[str, Any], column_of: Callable[[str], int]) -> Row | None:
        if self._layout.ids_from_line:
            values["id"] = str(number)
        row: Row | None = None
        wrong: Collection[str] = ()
        try:
            row = self._type(**values, line=number)
        except InvalidRow:
            wrong = self._report_each(number, values, column_of)
        if self._meet is not None and not self._met(self._meet, number, values, wrong, column_of):
            return None
        if row is not None and self._judge is not None:
            try:
                self._judge(row)
            except InvalidRow as problem:
                self._report(number, problem, column_of)
                return None
        return row

    def _met(
        self, meet: Meet, number: int, values: Mapping[str, Any], wrong: Collection[str], column_of: Callable[[str], int]
    ) -> bool:
        """Show id and key to whoever remembers them; return whether both may stand here."""
        sound = True
        for name in ("id", self._layout.optional):
            if values.get(name) is not None and name not in wrong:
                try:
                    meet(name, values[name], number)
                except InvalidRow as problem:
                    self._report(number, problem, column_of)
                    sound = False
        return sound

    def _report(self, number: int, problem: InvalidRow, column_of: Callable[[str], int]) -> None:
        self._lines.mistake(number, column_of(problem.name), str(problem), self._layout.column(problem.name))

    def _report_each(self, number: int, values: Mapping[str, Any], column_of: Callable[[str], int]) -> Collection[str]:
        """Ask field by field with the others known to be good, so that one line's mistakes are all said at once."""
        good = {"id": "1", "reward_uid": "1", "to_user_uid": "1", "user_id": "1", "event": "1", "amount": "1"}
        wrong = []
        for name in self._layout.fields:
            try:
                self._type(**{key: good[key] for key in REQUIRED[self._layout.vendor]} | {name: values.get(name)})
            except InvalidRow as problem:
                self._report(number, problem, column_of)
                wrong.append(name)
        return wrong


def _read_csv(lines: Lines, builder: _Builder, on_ignored: Callable[[str], None]) -> Iterator[Row]:
    layout = lines.layout
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True)
    header = _next_record(lines, reader)
    if lines.mistakes:
        return
    if header is None:
        lines.mistake(1, 1, "expected a header line with the names of the columns, got blank lines alone")
        return
    places = _places(lines, header, on_ignored)
    if places is None:
        return
    width = len(header)
    wanted = tuple(places.items())
    while (cells := _next_record(lines, reader)) is not None:
        number = lines.began_at
        if len(cells) != width:
            lines.mistake(number, min(len(cells), width) + 1, f"expected {width} cells as in the header, got {len(cells)}")
            continue
        values: dict[str, Any] = {name: cells[place] for name, place in wanted}
        if not values.get(layout.optional):
            values[layout.optional] = None
        row = builder.build(number, values, lambda name: places.get(name, 0) + 1)
        if row is not None:
            yield row


def _next_record(lines: Lines, reader: Any) -> list[str] | None:
    """Return the cells of the next record that is not blank, or None at the end; `began_at` is the number of its first line."""
    while True:
        lines.began_at = 0
        try:
            cells: list[str] | None = next(reader, None)
        except csv.Error as problem:
            lines.mistake(lines.began_at, _column_of_quote(lines.began, lines.layout.delimiter), _csv_problem(str(problem)))
            continue
        if cells is None or cells:
            return cells


def _csv_problem(problem: str) -> str:
    if "new-line" in problem:
        return "expected lines that end in \\n or \\r\\n, got a lone \\r; save the file with usual line ends"
    if "expected after" in problem:
        return "expected the cell to end at its closing quote, got more; write a quote inside a cell twice"
    return "expected a closing quote, got none; write a quote inside a cell twice, and the cell in quotes"


def _column_of_quote(text: str, delimiter: str) -> int:
    """Return the cell of a line at which quoting goes wrong, or its last one."""
    column, place = 1, 0
    while True:
        end = place
        if text.startswith('"', place):
            end = _after_quoted(text, place)
            if not text.startswith((delimiter, "\r", "\n"), end):
                return column
        end = text.find(delimiter, end)
        if end < 0:
            return column
        column, place = column + 1, end + len(delimiter)


def _after_quoted(text: str, place: int) -> int:
    while (place := text.find('"', place + 1)) >= 0:
        if not text.startswith('""', place):
            return place + 1
        place += 1
    return len(text)


def _places(lines: Lines, header: Sequence[str], on_ignored: Callable[[str], None]) -> dict[str, int] | None:
    """Return where each field stands in a line, or None after a report of what is wrong with the header."""
    layout = lines.layout
    wanted = {layout.column(name): name for name in layout.fields}
    places: dict[str, int] = {}
    sound = True
    for place, title in enumerate(header):
        name = wanted.get(title)
        folded = title.strip().lower()
        if name is None:
            close = next((known for known in wanted if known.lower() == folded), None)
            if close is None:
                on_ignored(title)
            else:
                lines.mistake(1, place + 1, f'expected the name "{close}", got {quoted(title)} written in another way', close)
                sound = False
        elif name in places:
            lines.mistake(1, place + 1, f"expected each column once, got {quoted(title)} again", title)
            sound = False
        else:
            places[name] = place
    needed = (*layout.required, layout.optional) if layout.optional in layout.names else layout.required
    missing = [layout.column(name) for name in needed if name not in places]
    if missing and sound:
        found = ", ".join(quoted(title) for title in header[:20])
        hint = next((f"; is the delimiter {other!r}?" for other in ";\t|" if len(header) == 1 and other in header[0]), "")
        for title in missing:
            lines.mistake(1, len(header) + 1, f'expected a column "{title}", got only {found}{hint}', title)
    return places if sound and not missing else None


class _Unreadable(ValueError):
    """A line is JSON, but not what a row can be."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unreadable(f"expected each key once, got {quoted(twice)} again")
    return values


def _constant(text: str) -> Any:
    raise _Unreadable(f"expected JSON, got {text}, which is none")


_json = json.JSONDecoder(object_pairs_hook=_object, parse_float=Decimal, parse_int=str, parse_constant=_constant)


def _read_jsonl(lines: Lines, builder: _Builder) -> Iterator[Row]:
    layout = lines.layout
    wanted = tuple((name, layout.column(name)) for name in layout.fields)
    for line in lines:
        text = line.strip()
        if not text:
            continue
        number = lines.number
        try:
            found = _json.decode(text)
        except json.JSONDecodeError as problem:
            column = len(line) - len(line.lstrip()) + problem.pos + 1
            lines.mistake(number, column, f"expected one JSON object per line, got something else: {problem.msg}")
            continue
        except _Unreadable as problem:
            lines.mistake(number, 1, str(problem))
            continue
        except (RecursionError, InvalidOperation):
            lines.mistake(number, 1, "expected a flat JSON object, got one nested too deeply or a number beyond measure")
            continue
        if not isinstance(found, dict):
            lines.mistake(number, 1, "expected one JSON object per line, got another JSON value")
            continue
        values = {name: found.get(key) for name, key in wanted}
        row = builder.build(number, values, partial(_character, layout, line))
        if row is not None:
            yield row


def _character(layout: Layout, line: str, name: str) -> int:
    """Return where a key stands in a line of JSON, or where the line ends if it does not."""
    return line.find(json.dumps(layout.column(name), ensure_ascii=False)) + 1 or len(line.rstrip())
