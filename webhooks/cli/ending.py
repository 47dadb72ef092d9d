"""How the listener's commands run, and end when they cannot do what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from rewards_core.cli.ending import Ends, ending, in_its_words
from rewards_core.cli.exit_codes import Exit
from rewards_core.errors import StoreError


class CannotStart(Exception):
    """A listener, or one of its workers, cannot start.

    Args:
        text: Why not, and what to do.
        code: The exit code.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.text = text
        self.code = code

    def __str__(self) -> str:
        return self.text


ENDS: Ends = {
    CannotStart: lambda problem: (problem.text, problem.code),
    StoreError: in_its_words(Exit.UNAVAILABLE),
    ValueError: in_its_words(Exit.USAGE),
}


def run(work: Callable[[], Coroutine[Any, Any, None]], *, broken_off: Exit = Exit.INTERRUPTED) -> None:
    """Run a command's work, and turn what goes wrong into a line and an exit code, ctrl-c into `broken_off`."""
    with ending(ENDS, broken_off=broken_off):
        asyncio.run(work())
