"""What a command line writes: JSON lines for programs, tables for people, notes; no control character of a stranger."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from rewards_core.cli.columns import Column, laid_out
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import told_as_json
from rewards_core.cli.wording import in_options
from rewards_core.text import one_line

Number = TypeVar("Number", bound=float | None)

JsonOption = Annotated[
    bool | None,
    typer.Option("--json/--text", help="JSON lines, or text for people; by default JSON where the output is no terminal."),
]


def keys_option(variable: str) -> Any:
    """Return the option `--keys-file`, for a vendor whose webhook keys are otherwise in this variable."""
    return typer.Option("--keys-file", help=f"File of ID:SECRET pairs or a JSON object; else {variable} holds the pairs.")


_LONGEST_CELL = 200
_LARGEST_NUMBER = 10**9
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # JSON may hold them as they are
_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
_beyond_ascii = re.compile(r"[^\x00-\x7f]")


def finite(number: Number) -> Number:
    """Return a number that was typed for an option, or None; `inf` and `nan` pass the bounds of an option with only a lower one.

    Raises:
        typer.BadParameter: it is not finite, or so large that what is reckoned from it would not be.
    """
    if number is None or abs(number) <= _LARGEST_NUMBER:
        return number
    raise typer.BadParameter(f"give a number up to {_LARGEST_NUMBER:,}." if math.isfinite(number) else "give a finite number.")


def not_empty(text: str | None) -> str | None:
    """Return a text that was typed for an option, or None.

    Raises:
        typer.BadParameter: it is empty, as where a variable of a shell is not set.
    """
    if text is None or text.strip():
        return text
    raise typer.BadParameter("it is empty. Give a text, or leave the option out.")


def fail(text: str, code: int) -> NoReturn:
    """Say why on standard error and end the command."""
    tell(in_options(text), style="bold red")
    raise typer.Exit(code) from None


@contextmanager
def wrong_usage() -> Iterator[None]:
    """End the command as one that was used wrongly if a ValueError is raised inside; its text says what to give."""
    try:
        yield
    except ValueError as problem:
        fail(str(problem), Exit.USAGE)


def tell(text: str, style: str = "") -> None:
    """Write a line to standard error; if that is closed or full, the line is lost and nothing else happens."""
    if told_as_json(text, "error" if style else "info"):
        return
    with suppress(OSError, ValueError):
        console = _console(sys.stderr, stderr=True)
        console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller; by default it would end the process."""
        raise  # noqa: PLE0704 - the error that is being handled


def _console(stream: TextIO | None, *, stderr: bool = False) -> Console:
    if isinstance(stream, TextIOWrapper):  # a terminal that lacks a character shows its number; rows go on being paid
        stream.reconfigure(errors="backslashreplace")
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def give_up() -> None:
    """Discard what is written to standard output from now on, including what is still buffered: nobody reads it."""
    with suppress(OSError, ValueError):  # it is no file, or closed
        number = sys.stdout.fileno()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)


@contextmanager
def for_whoever_reads() -> Iterator[None]:
    """Show results for as long as somebody reads them: a reader who leaves, such as `head`, is no error, and the rest is done."""
    try:
        yield
    except BrokenPipeError:
        give_up()


class Output:
    """Write results to standard output: as JSON lines for programs, or as text for people.

    Args:
        as_json: Whether to write JSON; None writes it where standard output is no terminal.
    """

    def __init__(self, as_json: bool | None = None) -> None:
        stdout: TextIO | None = sys.stdout
        if stdout is None:  # a file that matters could be opened under its number
            fail("Standard output is closed. Nothing was done. Send it to a file or to /dev/null.", Exit.USAGE)
        self.as_json = not stdout.isatty() if as_json is None else as_json
        self.console: Console = _console(stdout)

    def deserted(self) -> bool:
        """Return whether the reader of standard output has gone, without writing anything."""
        asking = select.poll()
        try:
            asking.register(sys.stdout.fileno(), 0)
        except (OSError, ValueError):  # it is no file
            return False
        return bool(asking.poll(0))

    def record(self, values: Mapping[str, Any], *, text: str | None = None) -> None:
        """Write one result: a JSON line, or `text`, or a line for each value."""
        if self.as_json:
            sys.stdout.write(_json_line(values, sys.stdout.encoding) + "\n")
            sys.stdout.flush()
        elif text is not None:
            self.say(text)
        else:
            for name, value in values.items():
                self.say(f"{name:<14}  {cell(value)}")

    def say(self, text: str, style: str = "") -> None:
        """Write a line for people."""
        self.console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)

    def note(self, text: str) -> None:
        """Write a line for people, beside the results if a program reads those."""
        (tell if self.as_json else self.say)(text)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Write many results: JSON lines, or a table of the named columns."""
        if self.as_json:
            for row in rows:
                self.record(row)
        else:
            self.draw(title, columns, ([row.get(column) for column in columns] for row in rows), ruled=True)

    def draw(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        right: Sequence[str] = (),
        ruled: bool = False,
    ) -> None:
        """Write a table for people.

        Args:
            title: A line above the table; none if empty.
            columns: Their headings.
            rows: Their cells; a `Text` keeps its style and indentation.
            right: The columns of numbers: aligned to the right, and never folded or cut, however narrow the terminal is.
            ruled: Whether to draw lines between the columns.
        """
        from rich.box import HEAVY_HEAD  # noqa: PLC0415 - most commands draw none
        from rich.table import Table  # noqa: PLC0415

        if title:
            self.say(title, "bold")
        table = Table(header_style="bold", box=HEAVY_HEAD if ruled else None, pad_edge=ruled)
        cells = [[value if isinstance(value, Text) else Text(self._fit(cell(value))) for value in row] for row in rows]
        for place, column in enumerate(columns):
            if column in right:
                wide = max((row[place].cell_len for row in cells), default=0)
                table.add_column(column, no_wrap=True, min_width=max(wide, len(column)), justify="right")
            else:
                table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*row)
        self.console.print(table, crop=False)

    def listing(self, columns: Sequence[Column], rows: Iterable[tuple[Sequence[str], str]], *, headed: bool = True) -> None:
        """Write records for people in columns, whose cells are never broken in two, so that ids can be copied.

        Args:
            columns: The columns.
            rows: The cells of each record, and what stands below it on a line of its own, if anything.
            headed: Whether the headings stand above.
        """
        found = [([self._fit(cell(each)) for each in cells], note) for cells, note in rows]
        notes = ["", *(note for _, note in found)]
        for number, lines in enumerate(laid_out(columns, [cells for cells, _ in found], self._columns())):
            if not number and not headed:
                continue
            for line in lines:
                self.console.print(Text(line, style="" if number else "bold"), soft_wrap=True)
            if notes[number]:
                self.console.print(Text(f"    {one_line(notes[number], 2_000)}"), soft_wrap=True)

    def _columns(self) -> int | None:
        """Return how many characters a line of the terminal has; None where lines are as long as they are, as in a pipe."""
        return self.console.width if self.console.is_terminal else None

    def _fit(self, text: str) -> str:
        """Return a text in characters that the terminal has, so that columns stay aligned."""
        return text.encode(self.console.encoding, "backslashreplace").decode(self.console.encoding)

    def lines(self, text: str) -> None:
        """Write a stranger's text of several lines, for people only."""
        for line in text.splitlines():
            self.console.print(Text(_printable(line)), soft_wrap=True)


def cell(value: object) -> str:
    """Return a value as one short printable line."""
    return "" if value is None else one_line(str(value), _LONGEST_CELL)


def _json_line(values: Mapping[str, Any], encoding: str | None) -> str:
    """Return one line of JSON: as UTF-8 where the stream is, else with every other character than ASCII escaped."""
    try:
        line = _encoder.encode(values).decode()
    except ValueError:  # a lone surrogate, such as from the name of a file that is not UTF-8
        return json.dumps(values, default=str, separators=(",", ":"))
    if line.isascii():
        return line
    if codecs.lookup(encoding or "utf-8").name == "utf-8":
        return line.translate(_LINE_ENDS)
    return _beyond_ascii.sub(lambda found: json.dumps(found[0])[1:-1], line)


def _printable(line: str) -> str:
    """Return a line without control characters, its indentation kept."""
    body = line.lstrip(" ")
    return " " * (len(line) - len(body)) + one_line(body, 4_000)
