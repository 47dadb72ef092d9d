"""Signals that end a serving command: the first one begins an orderly shutdown, a second one ends the process at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

ENDING = (signal.SIGTERM, signal.SIGINT)


def end_on_signals(stop: Callable[[], None], abort: Callable[[], None], numbers: Sequence[int] = ENDING) -> Callable[[], None]:
    """Handle the signals that end the command.

    Args:
        stop: Begins an orderly shutdown, at the first signal.
        abort: Ends the process, at the next one.
        numbers: The signals.

    Returns:
        The handler of the first signal, for other causes of a shutdown.
    """
    loop = asyncio.get_running_loop()

    def first() -> None:
        for number in numbers:
            loop.add_signal_handler(number, abort)
        stop()

    for number in numbers:
        loop.add_signal_handler(number, first)
    return first
