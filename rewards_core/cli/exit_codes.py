"""The exit codes of commands."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of every command line; the help of each says what they mean there.

    Attributes:
        OK: The command did what was asked.
        FAULT: An internal error of the program.
        USAGE: Wrong usage, a file that cannot be used, or a missing extra.
        FAILED: An operation failed on the blockchain, or rows of a payout failed.
        NOT_YET: The time ran out, or the work is not finished.
        NOT_FOUND: There is no such event, operation, row or campaign.
        REFUSED: A check failed, a confirmation was denied, or a request was rejected.
        UNAVAILABLE: A store, ledger, listener or vendor is unavailable.
        HUNG_UP: Ended because its terminal closed (128 + SIGHUP).
        INTERRUPTED: Ended by an interrupt (128 + SIGINT).
        TERMINATED: Ended by SIGTERM (128 + SIGTERM).
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
