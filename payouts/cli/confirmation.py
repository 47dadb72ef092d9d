"""What a person confirms: the rows, their totals, and the question."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal

import typer

from payouts import money
from payouts.ledger.reader import Campaign, LedgerReader
from payouts.states import Entry
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail

MAX_SHOWN = 20
"""Maximum number of rows that are shown one by one."""


def has_terminal() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty()


def require_terminal(*, yes: bool) -> None:
    """End the command if a question would have to be asked and cannot be."""
    if not yes and not has_terminal():
        fail("There is no terminal to ask for confirmation. Nothing was changed. Add --yes to skip the question.", Exit.USAGE)


def confirmed(campaign: Campaign, question: str) -> bool:
    """Return whether a person typed the campaign's name. Call it outside an event loop, so that Ctrl-C works at once."""
    asked = f"{question} Type {campaign.name} to continue"
    answer = typer.prompt(asked, default="", show_default=False, err=not sys.stdout.isatty())
    return str(answer).strip() == campaign.name


def rows_named(reader: LedgerReader, campaign: Campaign, ids: Iterable[str]) -> list[Entry]:
    """Return the rows with these ids, each once; end the command if one of them does not exist."""
    found = []
    for row_id in dict.fromkeys(ids):
        entry = reader.find(campaign, row_id)
        if entry is None:
            fail(f"Campaign {campaign.name} has no row {row_id}. Nothing was changed.", Exit.NOT_FOUND)
        found.append(entry)
    return found


def say_totals(entries: Sequence[Entry], output: Output) -> None:
    """Print the total of the rows for each reward."""
    totals: dict[str, Decimal] = {}
    for entry in entries:
        if entry.amount is not None:
            totals[entry.item] = money.add(totals.get(entry.item, money.ZERO), entry.amount)
    for item, total in totals.items():
        output.note(f"Total: {money.shown(total)} tokens of reward {item}")
