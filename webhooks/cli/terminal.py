"""How the command line speaks: exit codes, JSON lines for programs, tables for people, no control character of a stranger."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Any, NoReturn, TextIO

import orjson
import typer
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vendor_http.secrets import one_line

_LONGEST_CELL = 200


class Exit(IntEnum):
    """What the exit code says."""

    OK = 0
    FAULT = 1
    USAGE = 2
    FAILED = 3
    TIME_IS_OVER = 4
    NOT_FOUND = 5
    REFUSED = 6
    UNAVAILABLE = 7
    BROKEN_OFF = 130


EXIT_CODES = (
    "Exit codes: 0 well or done; 1 a fault of the program; 2 wrong usage, or an extra is missing; 3 the operation "
    "failed on chain; 4 the time ran out; 5 no such event or operation; 6 refused, or a check failed; 7 the store "
    "or the listener cannot be reached, or the store is written by somebody else."
)


class CommandFailed(Exception):
    """A command ends with this text and exit code."""

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(one_line(text, 1_000))
        self.code = code


def fail(text: str, code: int) -> NoReturn:
    """Say why and end the command."""
    tell(text, style="bold red")
    raise typer.Exit(code)


def tell(text: str, style: str = "") -> None:
    """Say something beside the results; whether anybody can read it changes nothing."""
    with suppress(OSError):
        _Console(stderr=True, highlight=False).print(Text(one_line(text, 2_000), style=style), soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller; by default it would end the process."""
        raise  # noqa: PLE0704 - the error that is being handled


class Output:
    """Write results: JSON lines if standard output is no terminal or if asked for, else for people.

    Args:
        as_json: Whether JSON is asked for; None looks whether somebody watches.
    """

    def __init__(self, as_json: bool | None = None) -> None:
        stdout: TextIO | None = sys.stdout
        if stdout is None:  # a file that matters could be opened under its number
            fail("expected standard output to be open, it is closed; send it to a file or to /dev/null", Exit.USAGE)
        self.as_json = not stdout.isatty() if as_json is None else as_json
        self.console: Console = _Console(highlight=False, markup=False, emoji=False)

    def give_up(self) -> None:
        """Write into nothing from now on, what could not be written included: nobody can read it."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)

    def deserted(self) -> bool:
        """Return whether whoever read this has gone; who has nothing to write would never notice."""
        asking = select.poll()
        try:
            asking.register(sys.stdout.fileno(), 0)
        except (OSError, ValueError):  # it is no file
            return False
        return bool(asking.poll(0))

    def record(self, values: Mapping[str, Any], *, text: str | None = None) -> None:
        """Write one result: a JSON line, or `text`, or a line for each value."""
        if self.as_json:
            sys.stdout.write(orjson.dumps(values, default=str).decode() + "\n")
            sys.stdout.flush()
        elif text is not None:
            self.say(text)
        else:
            for name, value in values.items():
                self.say(f"{name:<16}{cell(value)}")

    def say(self, text: str, style: str = "") -> None:
        """Write a line for people."""
        self.console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)

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
            title: Above it, if there is one.
            columns: What stands at the top of each.
            rows: Their cells.
            right: The columns which end at the right.
            ruled: Whether lines part the columns.
        """
        if title:
            self.say(title, "bold")
        table = Table(header_style="bold", box=HEAVY_HEAD if ruled else None, pad_edge=ruled)
        for column in columns:
            table.add_column(column, overflow="fold", justify="right" if column in right else "left")
        for row in rows:
            table.add_row(*(Text(cell(value)) for value in row))
        self.console.print(table)

    def lines(self, text: str) -> None:
        """Write a stranger's text of several lines, for people alone."""
        for line in text.splitlines():
            self.console.print(Text(_printable(line)), soft_wrap=True)


def cell(value: object) -> str:
    """Return a value as one short printable line."""
    return "" if value is None else one_line(str(value), _LONGEST_CELL)


def _printable(line: str) -> str:
    """Return a line without control characters, its indentation kept."""
    body = line.lstrip(" ")
    return " " * (len(line) - len(body)) + one_line(body, 4_000)
