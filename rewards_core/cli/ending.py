"""How a command ends that cannot do what it was told: with a line on standard error and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail, give_up

Ends = Mapping[type[Exception], Callable[[Any], tuple[str, int]]]
"""Errors, each with what returns the line and the exit code; the first that fits is taken."""


@contextmanager
def ending(errors: Ends, *, interrupted: str = "", broken_off: int = Exit.INTERRUPTED) -> Iterator[None]:
    """Let a command end with an exit code for what it cannot do.

    Args:
        errors: What its own errors say, and their exit codes.
        interrupted: The line about an interrupt, empty for none.
        broken_off: The exit code of an interrupt.
    """
    try:
        yield
    except BrokenPipeError:  # the reader has left, such as `head`: no mistake
        give_up()
        raise typer.Exit(Exit.FAULT) from None
    except tuple(errors) as problem:
        fail(*next(tell for kind, tell in errors.items() if isinstance(problem, kind))(problem))
    except OSError as problem:
        fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}", Exit.USAGE)
    except (KeyboardInterrupt, typer.Abort):
        if interrupted:
            fail(interrupted, broken_off)
        raise typer.Exit(broken_off) from None


def in_its_words(code: int) -> Callable[[Exception], tuple[str, int]]:
    """Return what tells an error in its own words."""
    return lambda problem: (str(problem), code)
