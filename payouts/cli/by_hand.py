"""`payouts retry` and `payouts resolve`: what a person decides, with what the vendor says now."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from payouts.cli.connections import client_of, target_of
from payouts.cli.options import CampaignOption, LedgerOption, VendorOption
from payouts.cli.terminal import Exit, Output, fail, with_exit_codes
from payouts.ledger import Ledger
from payouts.ledger_reader import Campaign, LedgerReader
from payouts.retrying import objection_to_retry
from payouts.states import Entry, State
from payouts.vendors import vendor_of
from vendor_http.secrets import one_line


@with_exit_codes
def retry(
    rows: Annotated[list[str] | None, typer.Argument(help="The ids of the rows.")] = None,
    state: Annotated[
        Literal["rejected", "failed"] | None, typer.Option(help="All rows in this state, instead of their ids.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
) -> None:
    """Give rejected or failed rows another key, so that the next run pays them anew.

    The vendor is asked first: a rejected row must not be held under its key, a failed one must still be failed. The old key stays
    in the ledger, linked to the new one.

    For example:

      payouts retry order-17 order-18 --campaign diwali-2026

      payouts retry --state failed --campaign diwali-2026 --yes
    """
    if bool(rows) == (state is not None):
        fail("name rows by their ids, or all of one state with --state", Exit.USAGE)
    with LedgerReader(ledger) as reader:
        chosen = reader.campaign(campaign, vendor)
        if state is not None:
            entries = list(reader.entries(chosen, [State(state)]))
        else:
            entries = [_found(reader, chosen, row) for row in dict.fromkeys(rows or [])]
    output = Output()
    code = asyncio.run(_retry(ledger, chosen, entries, output, ask=not yes))
    raise typer.Exit(code)


@with_exit_codes
def resolve(
    row: Annotated[str, typer.Argument(help="The id of the row.")],
    outcome: Annotated[Literal["done", "rejected"], typer.Option("--as", help="done: it was paid; rejected: it was not.")],
    note: Annotated[str, typer.Option(help="How you know, for those who read the report.")],
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
) -> None:
    """Settle a row by hand of which nobody knows whether it was paid.

    For example:

      payouts resolve order-17 --as done --note "seen in the console, ticket 4711"
    """
    told = one_line(note, 1_000)
    if not told:
        fail("--note: expected a few words on how you know, got none", Exit.USAGE)
    with LedgerReader(ledger) as reader:
        chosen = reader.campaign(campaign, vendor)
        entry = _found(reader, chosen, row)
    if entry.state is not State.UNKNOWN:
        fail(f"row {row} is {entry.state}; only an unknown row is settled by hand", Exit.REFUSED)
    asyncio.run(_resolve(ledger, chosen, entry, State(outcome), told))
    output = Output()
    if output.for_people:
        output.say(f"row {row} is {outcome}: {told}")
    else:
        output.record({"event": "resolved", "id": row, "state": outcome, "note": told})


def _found(reader: LedgerReader, campaign: Campaign, row: str) -> Entry:
    entry = reader.find(campaign, row)
    if entry is None:
        fail(f"{campaign.name}: there is no row {row}", Exit.NOT_FOUND)
    return entry


async def _retry(path: Path, campaign: Campaign, entries: list[Entry], output: Output, *, ask: bool) -> Exit:
    try:
        client = client_of(campaign.vendor)
    except ValueError as problem:
        fail(str(problem), Exit.USAGE)
    target = target_of(campaign.vendor)  # elsewhere nothing would be held under any key
    async with Ledger(path, vendor=campaign.vendor, campaign=campaign.name, target=target) as ledger:
        free: list[Entry] = []
        async with client:
            for entry in entries:
                objection = await objection_to_retry(vendor_of(client), entry)
                if objection is None:
                    free.append(entry)
                elif output.for_people:
                    output.say(f"row {entry.id} keeps its key: {objection}", "yellow")
                else:
                    output.record({"event": "kept", "id": entry.id, "state": entry.state.value, "reason": objection})
        if free and ask and not await asyncio.to_thread(_confirmed, campaign, free, output):
            fail("nothing was changed", Exit.REFUSED)
        for entry in free:
            renewed = await ledger.renew_key(entry)
            if output.for_people:
                output.say(f"row {entry.id}: {entry.key} is replaced by {renewed.key}; the next run pays it")
            else:
                output.record({"event": "renewed", "id": entry.id, "old_key": entry.key, "key": renewed.key})
    return Exit.OK if len(free) == len(entries) else Exit.REFUSED


async def _resolve(path: Path, campaign: Campaign, entry: Entry, state: State, note: str) -> None:
    async with Ledger(path, vendor=campaign.vendor, campaign=campaign.name) as ledger:
        await ledger.move(entry, state, settled_by="hand", note=note)


def _confirmed(campaign: Campaign, entries: list[Entry], output: Output) -> bool:
    """Let a person type the campaign's name."""
    if not _somebody_is_there():
        fail("there is nobody to ask; give --yes if these rows are to be paid anew", Exit.USAGE)
    output.table(
        f"{len(entries):,} rows get another key and are paid anew by the next run",
        ("row", "state", "recipient", "amount", "said"),
        [(each.id, each.state, each.recipient, each.amount, each.problem) for each in entries],
        right=("amount",),
    )
    return bool(typer.prompt(f"type {campaign.name} to go on", default="", show_default=False) == campaign.name)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()
