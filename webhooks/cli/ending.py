"""How the listener's commands run, and end when they cannot do what they were told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from rewards_core.cli.ending import Ends, ending, in_its_words
from rewards_core.cli.exit_codes import Exit
from rewards_core.errors import StoreError

_engine_log = logging.getLogger("rewards_core.sqlite.engine")


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


def run(work: Callable[[], Coroutine[Any, Any, None]], *, interrupted: str = "", broken_off: Exit = Exit.INTERRUPTED) -> None:
    """Run a command's work, and turn what goes wrong into a line and an exit code.

    Args:
        work: The work.
        interrupted: The line about ctrl-c, empty for none.
        broken_off: The exit code of ctrl-c.
    """
    with ending(ENDS, interrupted=interrupted, broken_off=broken_off), _told_once():
        asyncio.run(work())


@contextmanager
def _told_once() -> Iterator[None]:
    """Keep the engine from logging what the command's last line says: why a change failed."""
    level = _engine_log.level
    _engine_log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _engine_log.setLevel(level)
