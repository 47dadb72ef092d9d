"""How the command line speaks: exit codes, JSON lines for programs, tables for people, no control character of a stranger."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NoReturn

import typer
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


EXIT_CODES = """Exit codes: 0 well or done; 1 a fault of the program; 2 wrong usage, or an extra is missing; 3 the operation
failed on chain; 4 the time ran out; 5 no such event or operation; 6 refused, or a check failed; 7 the store or the listener
cannot be reached, or the store is written by somebody else."""


class CommandFailed(Exception):
    """A command ends with this text and exit code."""

    def __init__(self, text: str, code: Exit) -> None:
        super().__init__(one_line(text, 1_000))
        self.code = code


def fail(text: str, code: Exit) -> NoReturn:
    """Say why and end the command."""
    Console(stderr=True).print(Text(one_line(text, 1_000), style="bold red"), soft_wrap=True)
    raise typer.Exit(code)


class Output:
    """Write results: JSON lines if standard output is no terminal or if asked for, else for people.

    Args:
        as_json: Whether JSON is asked for; None looks whether somebody watches.
    """

    def __init__(self, as_json: bool | None = None) -> None:
        self.as_json = not sys.stdout.isatty() if as_json is None else as_json
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)

    def record(self, values: Mapping[str, Any], *, text: str | None = None) -> None:
        """Write one result: a JSON line, or `text`, or a line for each value."""
        if self.as_json:
            sys.stdout.write(json.dumps(values, default=str) + "\n")
            sys.stdout.flush()
        elif text is not None:
            self._console.print(Text(one_line(text, 2_000)), soft_wrap=True)
        else:
            for name, value in values.items():
                self._console.print(Text(f"{name:<16}{cell(value)}"), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """Write many results: JSON lines, or a table of the named columns."""
        if self.as_json:
            for row in rows:
                self.record(row)
            return
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell(row.get(column))) for column in columns))
        self._console.print(table)

    def lines(self, text: str) -> None:
        """Write a stranger's text of several lines, for people alone."""
        for line in text.splitlines():
            self._console.print(Text(_printable(line)), soft_wrap=True)


def cell(value: object) -> str:
    """Return a value as one short printable line."""
    return "" if value is None else one_line(str(value), _LONGEST_CELL)


def _printable(line: str) -> str:
    """Return a line without control characters, its indentation kept."""
    body = line.lstrip(" ")
    return " " * (len(line) - len(body)) + one_line(body, 4_000)
