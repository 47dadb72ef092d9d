"""`payouts retry` and `payouts resolve`: what a person decides, with what the vendor says now."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from payouts import money
from payouts.cli.connections import client_of, target_of
from payouts.cli.options import CampaignOption, LedgerOption, VendorOption
from payouts.cli.terminal import Exit, with_exit_codes
from payouts.ledger import Ledger
from payouts.ledger_lock import LedgerLock
from payouts.ledger_reader import Campaign, LedgerReader
from payouts.retrying import RETRIED, objection_to_retry
from payouts.states import WAYS, Entry, State
from payouts.vendors import vendor_of
from vendor_http.secrets import one_line
from webhooks.cli.terminal import Output, fail

MOST_SHOWN = 20
_AT_ONCE = 10


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

    The vendor is asked before each: a rejected row must not be held under its key, a failed one must still be failed. The old key
    stays in the ledger, linked to the new one.

    For example:

      payouts retry order-17 order-18 --campaign diwali-2026

      payouts retry --state failed --campaign diwali-2026 --yes
    """
    if bool(rows) == (state is not None):
        fail("name rows by their ids, or all of one state with --state", Exit.USAGE)
    output = Output()
    with LedgerReader(ledger) as reader, ExitStack() as stack:
        lock = LedgerLock(ledger)
        lock.acquire()
        stack.callback(lock.release)
        chosen = reader.campaign(campaign, vendor)
        if state is not None:
            entries = list(reader.entries(chosen, [State(state)]))
        else:
            entries = [_found(reader, chosen, row) for row in dict.fromkeys(rows or [])]
        if not entries and not output.as_json:
            output.say(f"{chosen.name}: no row is {state}")
        try:
            client = client_of(chosen.vendor)
        except ValueError as problem:
            fail(str(problem), Exit.USAGE)
        free = [entry for entry in entries if entry.state in RETRIED]
        if free and not yes and not _confirmed(chosen, free, output):
            fail("nothing was changed", Exit.REFUSED)
        code = asyncio.run(_retry(ledger, chosen, client, entries, lock, output))
    raise typer.Exit(code)


@with_exit_codes
def resolve(
    rows: Annotated[list[str], typer.Argument(help="The ids of the rows.")],
    outcome: Annotated[
        Literal["done", "rejected", "unknown"],
        typer.Option("--as", help="done: it was paid; rejected: it was not; unknown: look it up again in the next run."),
    ],
    note: Annotated[str, typer.Option(help="How you know, for those who read the report.")],
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
) -> None:
    """Settle unknown rows by hand, and put right rows that are called rejected although they were paid.

    An unknown row can become done or rejected. A rejected row can become
    done or, for Original, unknown: the next run looks it up by its key.

    For example:

      payouts resolve order-17 --as done --note "seen in the console, ticket 4711"

      payouts resolve order-18 --as unknown --note "rejected, but the user has the tokens"

      xargs payouts resolve --as rejected --note "EnKash's list of 22 November" < never-arrived.txt
    """
    told = one_line(note, 1_000)
    if not told:
        fail("--note: expected a few words on how you know, got none", Exit.USAGE)
    with LedgerReader(ledger) as reader:
        chosen = reader.campaign(campaign, vendor)
        entries = [_found(reader, chosen, row) for row in dict.fromkeys(rows)]
    ways = WAYS[chosen.vendor]
    for entry in entries:
        refused = ""
        if entry.state not in {State.UNKNOWN, State.REJECTED} or entry.state.value == outcome:
            refused = f"row {entry.id} is {entry.state}; only an unknown row is settled by hand, and a rejected one put right"
        elif State(outcome) not in ways[entry.state]:
            refused = f"row {entry.id} is {entry.state}, and {chosen.vendor} cannot be asked about it; settle it as done"
        if refused:
            fail(f"{refused}; nothing was changed", Exit.REFUSED)
    asyncio.run(_resolve(ledger, chosen, entries, State(outcome), told))
    output = Output()
    for entry in entries:
        facts = {"event": "resolved", "id": entry.id, "state": outcome, "note": told}
        output.record(facts, text=f"row {entry.id} is {outcome}: {told}")


def _found(reader: LedgerReader, campaign: Campaign, row: str) -> Entry:
    entry = reader.find(campaign, row)
    if entry is None:
        fail(f"{campaign.name}: there is no row {row}", Exit.NOT_FOUND)
    return entry


async def _retry(path: Path, campaign: Campaign, client: Any, entries: Sequence[Entry], lock: LedgerLock, output: Output) -> Exit:
    """Give each row another key as soon as the vendor has said that nothing speaks against it."""
    target = target_of(campaign.vendor)  # elsewhere nothing would be held under any key
    kept = 0
    async with Ledger(path, vendor=campaign.vendor, campaign=campaign.name, target=target, lock=lock) as ledger, client:
        vendor = vendor_of(client)
        for begin in range(0, len(entries), _AT_ONCE):
            some = entries[begin : begin + _AT_ONCE]
            objections = await asyncio.gather(*(objection_to_retry(vendor, entry) for entry in some))
            for entry, objection in zip(some, objections, strict=True):
                if objection is None:
                    _tell_renewed(entry, await ledger.renew_key(entry), output)
                else:
                    kept += 1
                    _tell_kept(entry, objection, output)
    return Exit.REFUSED if kept else Exit.OK


async def _resolve(path: Path, campaign: Campaign, entries: Sequence[Entry], state: State, note: str) -> None:
    async with Ledger(path, vendor=campaign.vendor, campaign=campaign.name) as ledger:
        await ledger.move_all([(entry, state, {"settled_by": "hand", "note": note}) for entry in entries])


def _tell_renewed(entry: Entry, renewed: Entry, output: Output) -> None:
    facts = {"event": "renewed", "id": entry.id, "old_key": entry.key, "key": renewed.key}
    output.record(facts, text=f"row {entry.id}: {entry.key} is replaced by {renewed.key}; the next run pays it")


def _tell_kept(entry: Entry, objection: str, output: Output) -> None:
    facts = {"event": "kept", "id": entry.id, "state": entry.state.value, "reason": objection}
    output.record(facts, text=f"row {entry.id} keeps its key: {objection}")


def _confirmed(campaign: Campaign, entries: Sequence[Entry], output: Output) -> bool:
    """Let a person type the campaign's name; outside of any event loop, so that an interrupt is heard at once."""
    if not _somebody_is_there():
        fail("there is nobody to ask; give --yes if these rows are to be paid anew", Exit.USAGE)
    rows = "1 row gets" if len(entries) == 1 else f"{len(entries):,} rows get"
    paid = "is" if len(entries) == 1 else "are"
    output.draw(
        f"{rows} another key if the vendor agrees, and {paid} paid anew by the next run",
        ("row", "state", "recipient", "amount", "said"),
        [(each.id, each.state, each.recipient, each.amount, each.problem) for each in entries[:MOST_SHOWN]],
        right=("amount",),
    )
    if len(entries) > MOST_SHOWN:
        output.say(f"and {len(entries) - MOST_SHOWN:,} more: payouts status --all lists them")
    totals: dict[str, Decimal] = {}
    for entry in entries:
        if entry.amount is not None:
            totals[entry.item] = money.add(totals.get(entry.item, money.ZERO), entry.amount)
    for item, total in totals.items():
        output.say(f"altogether {money.text(total)} of {item}")
    return bool(typer.prompt(f"type {campaign.name} to go on", default="", show_default=False) == campaign.name)


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()
