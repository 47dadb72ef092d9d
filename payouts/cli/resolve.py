"""`payouts resolve`: settle rows by hand, undo decisions, and settle refused rows in bulk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Literal

import typer

from payouts.cli.bulk_resolve import settle_refused
from payouts.cli.confirmation import rows_named
from payouts.cli.options import CampaignOptions, per_second, with_exit_codes
from payouts.ledger import decisions
from payouts.ledger.place import LedgerPlace, Lock
from payouts.ledger.reader import Campaign
from payouts.states import Entry, State, ways_of
from payouts.vendors import ROW_TYPES
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, fail, ignore_broken_pipe
from rewards_core.text import one_line

_UNCHANGED = "Nothing was changed."


@with_exit_codes
@with_option_groups
def resolve(
    rows: Annotated[list[str] | None, typer.Argument(help="The ids of the rows.")] = None,
    outcome: Annotated[
        Literal["done", "rejected", "unknown"] | None,
        typer.Option("--as", help="done: the row was paid; rejected: it was not paid; unknown: the next run looks it up again."),
    ] = None,
    note: Annotated[
        str | None,
        typer.Option(
            help="How you know what happened to the row; shown in the report. Required, except with --unknown --refused."
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the last decision by hand on each row.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="With --refused: all unknown rows instead of ids.")] = False,
    refused: Annotated[
        bool, typer.Option("--refused", help="With --unknown: only rows that the vendor refused and does not show.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --unknown --refused: do not ask for confirmation.")] = False,
    rate: Annotated[
        float,
        typer.Option(
            help="With --unknown --refused: requests per second; 0 for no limit.",
            parser=per_second,
            metavar="N/s",
            show_default="20/s",
        ),
    ] = 20.0,
    *,
    which: CampaignOptions,
    as_json: JsonOption = None,
) -> None:
    """Settle unknown rows by hand, and correct rejected rows that were paid.

    An unknown row can become done or rejected. A rejected row can become
    done or, for Original, unknown: the next run looks it up by its key.

    --unknown --refused looks up every unknown row whose last answer was a refusal. Rows that the vendor does not show become
    rejected once two such look-ups are 24 hours apart, with no run in between.

    For example:

      payouts resolve order-17 --as done --note "seen in the console, ticket 4711"

      payouts resolve order-18 --as unknown --note "rejected, yet it was paid"

      payouts resolve order-17 --undo --note "it was another user's"

      payouts resolve --unknown --refused --as rejected

      xargs payouts resolve --as rejected --note "ticket 4711" < never-arrived.txt
    """
    told = one_line(note or "", 1_000)
    _check(rows, outcome, told, undo=undo, unknown=unknown, refused=refused, yes=yes)
    output = Output(as_json)
    with ExitStack() as stack:
        reader = stack.enter_context(which.ledger.reader())
        chosen = reader.campaign(which.campaign, which.grants)
        lock = stack.enter_context(which.ledger.lock([chosen]))
        which.ledger.check_newest()  # this one does not know what a newer copy has done since
        if unknown:
            raise typer.Exit(settle_refused(which.ledger, chosen, reader, lock, output, note=told, rate=rate or None, yes=yes))
        entries = rows_named(reader, chosen, rows or [])
        if undo:
            _undo(which.ledger, chosen, entries, told, lock, output)
        elif outcome is not None:
            _resolve(which.ledger, chosen, entries, State(outcome), told, lock, output)


def _check(
    rows: Sequence[str] | None, outcome: str | None, note: str, *, undo: bool, unknown: bool, refused: bool, yes: bool
) -> None:
    """End the command if the options contradict each other."""
    wrong = ""
    if unknown or refused:
        if unknown != refused or rows or undo:
            wrong = "--unknown and --refused go together, without ids and without --undo."
        elif outcome != "rejected":
            wrong = "--unknown --refused settles rows as rejected: add --as rejected."
    elif not rows:
        wrong = "Name rows by their ids, or use --unknown --refused."
    elif undo == (outcome is not None):
        wrong = "Give --as with the outcome, or --undo, but not both."
    elif yes:
        wrong = "--yes is for --unknown --refused; named rows are settled without a question."
    elif not note:
        wrong = "Say how you know: add --note."
    if wrong:
        fail(f"{wrong} {_UNCHANGED}", Exit.USAGE)


def _resolve(
    place: LedgerPlace, campaign: Campaign, entries: Sequence[Entry], state: State, note: str, lock: Lock, output: Output
) -> None:
    for entry in entries:
        if entry.state not in {State.UNKNOWN, State.REJECTED} or entry.state is state:
            told = f"Row {entry.id} is {entry.state}. Only unknown and rejected rows can be settled by hand."
            fail(f"{told} {_UNCHANGED}", Exit.REFUSED)
        if state not in ways_of(has_lookup=ROW_TYPES[campaign.vendor].has_lookup)[entry.state]:
            told = f"Row {entry.id} is {entry.state}, and EnKash offers no way to look it up. If it was paid, settle it as done."
            fail(f"{told} {_UNCHANGED}", Exit.REFUSED)

    async def move() -> None:
        async with place.ledger(vendor=campaign.vendor, campaign=campaign.name, lock=lock) as ledger:
            await ledger.move_all([(entry, state, {"settled_by": "hand", "note": note}) for entry in entries])

    asyncio.run(move())
    with ignore_broken_pipe():
        for entry in entries:
            facts = {"event": "resolved", "id": entry.id, "state": state.value, "note": note}
            output.record(facts, text=f"row {entry.id} is {state}: {note}")


def _undo(place: LedgerPlace, campaign: Campaign, entries: Sequence[Entry], note: str, lock: Lock, output: Output) -> None:
    async def undo() -> list[Entry]:
        async with place.ledger(vendor=campaign.vendor, campaign=campaign.name, lock=lock) as ledger:
            return await ledger.transact(partial(decisions.undo, rows=entries, note=note, at=ledger.now()))

    try:
        restored = asyncio.run(undo())
    except decisions.NotUndone as problem:
        fail(str(problem), Exit.REFUSED)
    with ignore_broken_pipe():
        for entry in restored:
            facts = {"event": "undone", "id": entry.id, "state": entry.state.value, "key": entry.key, "note": note}
            output.record(facts, text=f"row {entry.id} is {entry.state} again, with the key {entry.key}")
