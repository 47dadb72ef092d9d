"""What a command writes and how it ends: JSON lines for programs, text for people, and an exit code.

Text that people read holds no control characters: events and requests come from strangers.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.text import Text

from rewards_core.cli.columns import Column, lay_out
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogLevel, log_as_json
from rewards_core.cli.messages import with_option_names
from rewards_core.text import one_line

T = TypeVar("T")
Number = TypeVar("Number", bound=float | None)

JsonOption = Annotated[
    bool | None,
    typer.Option("--json/--text", help="Write JSON lines, or text for people. Default: text on a terminal, else JSON."),
]


def keys_option(variable: str) -> Any:
    """Return the option `--keys-file`, for a vendor whose webhook keys are otherwise in this variable."""
    words = f"File of webhook keys: ID:SECRET pairs or a JSON object. Default: the keys in {variable}."
    return typer.Option("--keys-file", help=words)


_MAX_CELL = 200
_MAX_LINE = 2_000
_MAX_NUMBER = 10**9
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # JSON allows them unescaped
_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=str)
_beyond_ascii = re.compile(r"[^\x00-\x7f]")

ErrorTable = Mapping[type[Exception], int | Callable[[Any], tuple[str, int]]]
"""For each type of error its exit code, or a function from the error to its message and exit code; the first match counts."""


def check_finite(number: Number) -> Number:
    """Return an option's number; `min=` and `max=` alone let `inf` and `nan` through.

    Raises:
        typer.BadParameter: it is not finite, or so large that arithmetic on it may overflow.
    """
    if number is None or abs(number) <= _MAX_NUMBER:
        return number
    raise typer.BadParameter(f"give a number up to {_MAX_NUMBER:,}." if math.isfinite(number) else "give a finite number.")


def check_not_empty(text: str | None) -> str | None:
    """Return an option's text.

    Raises:
        typer.BadParameter: it is empty, such as from an unset shell variable.
    """
    if text is None or text.strip():
        return text
    raise typer.BadParameter("it is empty. Give a text, or leave the option out.")


def option_parser(parse: Callable[[Any], T], name: str) -> Callable[[Any], T]:
    """Return the parser of an option whose text may hold a secret: of what `parse` refuses, only its own message is shown.

    Args:
        parse: Raises `ValueError` for a wrong text.
        name: How its messages begin, which is left out, as they stand behind the option.
    """

    def parse_option(value: Any) -> T:
        try:
            return parse(value)
        except ValueError as error:
            problem = str(error)
        raise typer.BadParameter(problem.removeprefix(f"{name}: "))

    return parse_option


def fail(text: str, code: int) -> NoReturn:
    """Write an error to standard error and end the command with an exit code."""
    print_stderr(with_option_names(text), style="bold red")
    raise typer.Exit(code) from None


@contextmanager
def exit_on_value_error() -> Iterator[None]:
    """Turn a ValueError into its message and the exit code for wrong usage."""
    try:
        yield
    except ValueError as error:
        fail(str(error), Exit.USAGE)


@contextmanager
def exit_on_errors(errors: ErrorTable, *, interrupted: str = "", interrupt_code: int = Exit.INTERRUPTED) -> Iterator[None]:
    """Turn a command's expected errors, and interrupts, into a message and an exit code."""
    try:
        yield
    except BrokenPipeError:  # the reader has closed its end, as `head` does
        discard_stdout()
        raise typer.Exit(Exit.FAULT) from None
    except tuple(errors) as error:
        found = next(found for kind, found in errors.items() if isinstance(error, kind))
        fail(*((str(error), found) if isinstance(found, int) else found(error)))
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}", Exit.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        if interrupted:
            fail(interrupted, interrupt_code)
        raise typer.Exit(interrupt_code) from None


def print_stderr(text: str, style: str = "", *, level: LogLevel | None = None) -> None:
    """Write a line to standard error, or drop the line if standard error is closed or full.

    `level` is used in JSON logs only; by default it is error for a line with a style, else info.
    """
    if log_as_json(text, level or ("error" if style else "info")):
        return
    with suppress(OSError, ValueError):
        console = _console(stderr=True)
        console.print(Text(one_line(text, _MAX_LINE), style=style), soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave the error to the caller; by default the process would exit."""
        raise  # noqa: PLE0704 - the error that is being handled


def _console(*, stderr: bool = False) -> Console:
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def discard_stdout() -> None:
    """Discard what is written to standard output from now on, and what is still buffered."""
    with suppress(OSError, ValueError):  # it is closed, or has no descriptor
        number = sys.stdout.fileno()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, number)
        os.close(nothing)


@contextmanager
def ignore_broken_pipe() -> Iterator[None]:
    """Go on without output if its reader closes the pipe, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        discard_stdout()


class Output:
    """Write results to standard output: JSON lines for programs, or text for people.

    Args:
        as_json: Whether to write JSON; None for JSON unless standard output is a terminal.
    """

    def __init__(self, as_json: bool | None = None) -> None:
        stdout: TextIO | None = sys.stdout
        if stdout is None:  # the next file to be opened, such as the ledger, could get its descriptor
            fail("Standard output is closed. Nothing was done. Send it to a file or to /dev/null.", Exit.USAGE)
        self.as_json = not stdout.isatty() if as_json is None else as_json
        self.console: Console = _console()

    def is_broken(self) -> bool:
        """Return whether the reader of standard output has closed its end, without writing anything."""
        poll = select.poll()
        try:
            poll.register(sys.stdout.fileno(), 0)
        except (OSError, ValueError):  # it has no descriptor
            return False
        return bool(poll.poll(0))

    def record(self, values: Mapping[str, Any], *, text: str | None = None) -> None:
        """Write one result: a JSON line; for people `text`, or a line per value."""
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
        self.console.print(Text(one_line(text, _MAX_LINE), style=style), soft_wrap=True)

    def note(self, text: str) -> None:
        """Write a line for people; to standard error if standard output is JSON."""
        (print_stderr if self.as_json else self.say)(text)

    def draw(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Write a table for people; long texts are wrapped.

        Args:
            title: A line above the table; empty for none.
            columns: The headings.
            rows: The cells; a `Text` keeps its style and indentation.
            right: Columns of numbers: aligned to the right, never wrapped or cut.
        """
        from rich.table import Table  # noqa: PLC0415 - few commands draw one

        if title:
            self.say(title, "bold")
        table = Table(header_style="bold", box=None, pad_edge=False)
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
        """Write records for people in columns; no cell is wrapped, so that ids can be copied.

        Args:
            columns: The columns.
            rows: The cells of each record, and a note to write below it, empty for none.
            headed: Whether to write the headings.
        """
        found = [([self._fit(cell(each)) for each in cells], note) for cells, note in rows]
        notes = ["", *(note for _, note in found)]
        width = self.console.width if self.console.is_terminal else None
        for number, lines in enumerate(lay_out(columns, [cells for cells, _ in found], width)):
            if not number and not headed:
                continue
            for line in lines:
                self.console.print(Text(line, style="" if number else "bold"), soft_wrap=True)
            if notes[number]:
                self.console.print(Text(f"    {one_line(notes[number], _MAX_LINE)}"), soft_wrap=True)

    def _fit(self, text: str) -> str:
        """Return a text in characters that the terminal has, so that columns stay aligned."""
        return text.encode(self.console.encoding, "backslashreplace").decode(self.console.encoding)

    def lines(self, text: str) -> None:
        """Write a text of several lines for people, with its indentation."""
        for line in text.splitlines():
            body = line.lstrip(" ")
            self.console.print(Text(" " * (len(line) - len(body)) + one_line(body, 4_000)), soft_wrap=True)


def cell(value: object) -> str:
    """Return a value as one short printable line."""
    return "" if value is None else one_line(str(value), _MAX_CELL)


def _json_line(values: Mapping[str, Any], encoding: str | None) -> str:
    """Return one line of JSON: UTF-8 if the stream is, else with every character beyond ASCII escaped."""
    try:
        line = _encoder.encode(values).decode()
    except ValueError:  # a lone surrogate, such as from the name of a file that is not UTF-8
        return json.dumps(values, default=str, separators=(",", ":"))
    if line.isascii():
        return line
    if codecs.lookup(encoding or "utf-8").name == "utf-8":
        return line.translate(_LINE_ENDS)
    return _beyond_ascii.sub(lambda found: json.dumps(found[0])[1:-1], line)
