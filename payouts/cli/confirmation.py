"""What commands share in which a person decides about rows: which rows are meant, what they add up to, and the question."""

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

SHOWN = 20
"""The most rows that are shown one by one."""


def somebody_is_there() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty()


def demand_somebody(*, yes: bool) -> None:
    """End the command if a question could be answered by nobody.

    Args:
        yes: Whether `--yes` was given.
    """
    if not yes and not somebody_is_there():
        fail("Nobody is at a terminal to confirm this. Nothing was changed. Add --yes to go on without being asked.", Exit.USAGE)


def agreed(campaign: Campaign, question: str) -> bool:
    """Let a person type the campaign's name; outside of any event loop, so that an interrupt is heard at once."""
    asked = f"{question} Type {campaign.name} to go on"
    answer = typer.prompt(asked, default="", show_default=False, err=not sys.stdout.isatty())
    return str(answer).strip() == campaign.name


def rows_named(reader: LedgerReader, campaign: Campaign, ids: Iterable[str]) -> list[Entry]:
    """Return the rows of those ids, each once; end the command if there is no such row."""
    found = []
    for row_id in dict.fromkeys(ids):
        entry = reader.find(campaign, row_id)
        if entry is None:
            fail(f"Campaign {campaign.name} has no row {row_id}. Nothing was changed.", Exit.NOT_FOUND)
        found.append(entry)
    return found


def say_totals(entries: Sequence[Entry], output: Output) -> None:
    """Say what rows add up to, for each reward."""
    totals: dict[str, Decimal] = {}
    for entry in entries:
        if entry.amount is not None:
            totals[entry.item] = money.add(totals.get(entry.item, money.ZERO), entry.amount)
    for item, total in totals.items():
        output.note(f"Total: {money.shown(total)} tokens of reward {item}")
