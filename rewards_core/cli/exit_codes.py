"""What the exit code of a command says."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """The exit codes that every command line uses; its own help says what each means there.

    Attributes:
        OK: The command did what was asked.
        FAULT: A fault of the program.
        USAGE: Wrong usage, a file that cannot be used, or a missing extra.
        FAILED: Something that was looked at failed: an operation on the blockchain, or rows of a payout.
        NOT_YET: The time ran out, or the work is not finished.
        NOT_FOUND: There is no such event, operation, row or campaign.
        REFUSED: A check failed, somebody said no, or what was sent was refused.
        UNAVAILABLE: A store, ledger, listener or vendor cannot be used now.
        HUNG_UP: A terminal that hung up ended it; as with every signal 128 and its number.
        INTERRUPTED: An interrupt ended it.
        TERMINATED: It was asked to end by SIGTERM.
    """

    OK = 0
    FAULT = 1
    USAGE = 2
    FAILED = 3
    NOT_YET = 4
    NOT_FOUND = 5
    REFUSED = 6
    UNAVAILABLE = 7
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


def exit_codes(meanings: Mapping[Exit, str]) -> str:
    """Return what stands below the help of a command line: each exit code and what it means there."""
    return f"Exit codes: {'; '.join(f'{code:d} {meaning}' for code, meaning in meanings.items())}."
