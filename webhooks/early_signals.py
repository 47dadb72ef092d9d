"""Signals to a listener that is still starting."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable


def has_terminal() -> bool:
    """Return whether this process has a terminal that is still open."""
    try:
        return os.tcgetpgrp(0) >= 0
    except (AttributeError, OSError):
        return False


HAD_TERMINAL = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
"""Whether this process started with a terminal and without `nohup`."""


def expect_signals() -> None:
    """For `serve`, block SIGHUP, which reloads keys, until `take_hang_ups`, and let ctrl-c end it without a traceback."""
    if _command(sys.argv[1:]) != "serve" or not hasattr(signal, "pthread_sigmask"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _command(words: Iterable[str]) -> str | None:
    """Return the command in a command line, which global options may precede."""
    left = iter(words)
    for word in left:
        if word == "--config":
            next(left, None)
        elif not word.startswith("-"):
            return word
    return None


def take_hang_ups() -> None:
    """Unblock SIGHUP, and handle one that arrived before."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
