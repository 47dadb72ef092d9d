"""What signals do to a command that serves: the first lets it end in order, a second one ends it at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

ENDING = (signal.SIGTERM, signal.SIGINT)


def end_on_signals(stop: Callable[[], None], abort: Callable[[], None], numbers: Sequence[int] = ENDING) -> Callable[[], None]:
    """Handle signals that end the command.

    Args:
        stop: Begins an orderly end, at the first signal.
        abort: Ends the process at the next one.
        numbers: The signals.

    Returns:
        What the first signal does, for other causes to do it too.
    """
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in numbers:
            loop.add_signal_handler(number, abort)
        stop()

    for number in numbers:
        loop.add_signal_handler(number, first)
    return first
