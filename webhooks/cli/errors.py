"""How the listener's commands run: expected errors become a message and an exit code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import ErrorTable, exit_on_errors
from rewards_core.errors import StoreError

_engine_logs = [logging.getLogger(f"rewards_core.{each}.engine") for each in ("sqlite", "postgres")]


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


ERRORS: ErrorTable = {
    CannotStart: lambda error: (error.text, error.code),
    StoreError: Exit.UNAVAILABLE,
    ValueError: Exit.USAGE,
}


def run_command(
    work: Callable[[], Coroutine[Any, Any, None]], *, interrupted: str = "", interrupt_code: Exit = Exit.INTERRUPTED
) -> None:
    """Run a command in an event loop; turn its expected errors, and ctrl-c, into a message and an exit code."""
    levels = [each.level for each in _engine_logs]
    for each in _engine_logs:
        each.setLevel(logging.CRITICAL)  # the command's own message says why a change failed
    try:
        with exit_on_errors(ERRORS, interrupted=interrupted, interrupt_code=interrupt_code):
            asyncio.run(work())
    finally:
        for each, level in zip(_engine_logs, levels, strict=True):
            each.setLevel(level)
