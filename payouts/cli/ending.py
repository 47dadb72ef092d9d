"""How a command ends that cannot do what it was told."""

from __future__ import annotations

from payouts.states import CampaignUnclear, LedgerError
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import exit_on_errors
from rewards_core.sqlite.connection import SQLiteError


def _unclear(problem: CampaignUnclear) -> tuple[str, int]:
    missing = Exit.NOT_FOUND if problem.known else Exit.UNAVAILABLE
    return str(problem), Exit.USAGE if problem.meant else missing


def _unusable(problem: SQLiteError) -> tuple[str, int]:
    words = f"The ledger cannot be read or written: {problem}. Look at the disk, then run the same command again."
    return words, Exit.UNAVAILABLE


with_exit_codes = exit_on_errors(
    {CampaignUnclear: _unclear, LedgerError: Exit.UNAVAILABLE, SQLiteError: _unusable},
    interrupted="Interrupted. What was done until then is in the ledger.",
)
"""Decorates a command, so that it ends with the documented codes for what it cannot do."""
