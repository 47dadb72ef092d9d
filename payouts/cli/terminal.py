"""What the exit codes of the command line say."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import ParamSpec

import typer

from payouts.states import CampaignUnclear, LedgerError
from webhooks.cli.terminal import fail

P = ParamSpec("P")


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


EXIT_CODES = (
    "Exit codes: 0 every row is paid, or the command did what was asked; 1 a fault of the program; 2 wrong usage, a "
    "bad file, or an extra is missing; 3 rows are rejected, failed, mismatched or unknown, or an audit found "
    "differences; 4 not finished: run the same command again; 5 no such row or campaign; 6 a check failed or somebody "
    "said no, nothing was changed; 7 the ledger is in use, is an older copy or cannot be used, or the vendor cannot "
    "be reached, or refuses the credentials or row after row; 130 interrupted, 143 asked to end by SIGTERM, 129 by a "
    "terminal that hung up."
)


def with_exit_codes(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command end with the documented codes for what it cannot do."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except CampaignUnclear as problem:
            missing = Exit.NOT_FOUND if problem.known else Exit.UNAVAILABLE
            fail(str(problem), Exit.USAGE if problem.meant else missing)
        except LedgerError as problem:
            fail(str(problem), Exit.UNAVAILABLE)
        except BrokenPipeError:  # the reader has left, such as `head`: no mistake
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, sys.stdout.fileno())
            os.close(nothing)
            raise typer.Exit(Exit.FAULT) from None
        except OSError as problem:
            fail(f"{problem.filename or 'a file'}: {problem.strerror or problem}", Exit.USAGE)
        except sqlite3.Error as problem:
            fail(
                f"The ledger cannot be read or written: {problem}. Look at the disk, then run the same command again.",
                Exit.UNAVAILABLE,
            )
        except (KeyboardInterrupt, typer.Abort):
            fail("Interrupted. What was done until then is in the ledger.", Exit.INTERRUPTED)

    return run
