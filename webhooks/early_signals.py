"""Signals to a listener that has only begun to start, from its first line on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable


def has_terminal() -> bool:
    """Return whether somebody sits before this process; a terminal that was closed is none."""
    try:
        return os.tcgetpgrp(0) >= 0
    except (AttributeError, OSError):
        return False


HAD_TERMINAL = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
"""Whether somebody sat before this process when it began, and did not ask by `nohup` that it outlive the terminal."""


def expect_signals() -> None:
    """Keep SIGHUP, which asks for fresh keys, until `take_hang_ups`, and let ctrl-c end without a traceback.

    Does nothing for other commands, which a hang-up ends.
    """
    if _command(sys.argv[1:]) != "serve" or not hasattr(signal, "pthread_sigmask"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command(words: Iterable[str]) -> str | None:
    """Return the command among the words of a command line, which options of all commands may precede."""
    left = iter(words)
    for word in left:
        if word == "--config":
            next(left, None)
        elif not word.startswith("-"):
            return word
    return None


def take_hang_ups() -> None:
    """Handle SIGHUP from now on, and one that came meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
