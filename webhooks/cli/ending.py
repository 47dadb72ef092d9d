"""How the listener's commands run, and end when they cannot do what they were told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from rewards_core.cli.ending import Ends, ending, in_its_words
from rewards_core.cli.exit_codes import Exit
from rewards_core.errors import StoreError

ENDS: Ends = {StoreError: in_its_words(Exit.UNAVAILABLE), ValueError: in_its_words(Exit.USAGE)}


def run(work: Callable[[], Coroutine[Any, Any, None]], *, broken_off: Exit = Exit.INTERRUPTED) -> None:
    """Run a command's work, and turn what goes wrong into a line and an exit code, ctrl-c into `broken_off`."""
    with ending(ENDS, broken_off=broken_off):
        asyncio.run(work())
