"""How the command line speaks: exit codes, JSON lines for programs, tables for people, no control character of a stranger."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TextIO

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from payouts.states import LedgerError
from vendor_http.secrets import one_line

P = ParamSpec("P")

_LONGEST_CELL = 200


class Exit(IntEnum):
    """What the exit code says."""

    OK = 0
    FAULT = 1
    USAGE = 2
    NOT_PAID = 3
    NOT_YET = 4
    NOT_FOUND = 5
    REFUSED = 6
    UNAVAILABLE = 7
    INTERRUPTED = 130


EXIT_CODES = """Exit codes: 0 every row is paid, or the command did what was asked; 1 a fault of the program; 2 wrong usage, a bad
file, or an extra is missing; 3 rows are rejected, failed, mismatched or unknown; 4 rows have no end yet: run again; 5 no such row
or campaign; 6 a check failed, nothing was changed; 7 the ledger is in use or unusable, or the vendor cannot be reached or refuses
the credentials; 130 interrupted."""


def fail(text: str, code: Exit) -> NoReturn:
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


def with_exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command end with the documented codes for what it cannot do."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except LedgerError as problem:
            fail(str(problem), Exit.UNAVAILABLE)
        except OSError as problem:
            fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}", Exit.USAGE)
        except sqlite3.Error as problem:
            fail(f"expected a sound ledger and room on the disk, got: {problem}; mend that, then try again", Exit.UNAVAILABLE)
        except (KeyboardInterrupt, typer.Abort):
            fail("interrupted; what was done by then is in the ledger", Exit.INTERRUPTED)

    return run


class Output:
    """Write results: JSON lines if standard output is no terminal, else for people."""

    def __init__(self) -> None:
        stdout: TextIO | None = sys.stdout
        if stdout is None:  # the ledger could be opened under its number
            fail("expected standard output to be open, it is closed; send it to a file or to /dev/null", Exit.USAGE)
        self.for_people = stdout.isatty()
        self.console: Console = _Console(highlight=False, markup=False, emoji=False)

    def give_up(self) -> None:
        """Write into nothing from now on, what could not be written included: nobody can read it."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)

    def record(self, values: Mapping[str, Any]) -> None:
        """Write one JSON line."""
        sys.stdout.write(orjson.dumps(values).decode() + "\n")
        sys.stdout.flush()

    def say(self, text: str, style: str = "") -> None:
        """Write a line for people."""
        self.console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """Write a table for people."""
        if title:
            self.say(title, "bold")
        table = Table(header_style="bold", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold", justify="right" if column in right else "left")
        for row in rows:
            table.add_row(*(Text(cell(value)) for value in row))
        self.console.print(table)


def cell(value: object) -> str:
    """Return a value as one short printable line."""
    return "" if value is None else one_line(str(value), _LONGEST_CELL)
