"""`payouts retry`: rejected and failed rows get a new key, once the vendor has confirmed that they were not paid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from payouts import money
from payouts.audit.release import demand_newest
from payouts.audit.retrying import RETRIED, objection_to_retry
from payouts.cli.confirmation import SHOWN, agreed, demand_somebody, rows_named, say_totals
from payouts.cli.connections import client_of, locked, target_of
from payouts.cli.ending import with_exit_codes
from payouts.cli.options import CampaignOption, LedgerOption, VendorOption
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import Campaign, LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.states import Entry, State
from payouts.vendors import vendor_of
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, for_whoever_reads, wrong_usage
from rewards_core.text import counted

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
    as_json: JsonOption = None,
) -> None:
    """Give rejected or failed rows a new key, so that the next run pays them.

    The vendor is asked about each row first: a rejected row must not exist under its key, a failed one must still be failed. The
    old key stays in the ledger. Until the next run, payouts resolve --undo takes a retry back.

    For example:

      payouts retry order-17 order-18 --campaign diwali-2026

      payouts retry --state failed --campaign diwali-2026 --yes
    """
    if bool(rows) == (state is not None):
        fail("Name rows by their ids, or all rows of one state with --state. Nothing was changed.", Exit.USAGE)
    output = Output(as_json)
    with LedgerReader(ledger) as reader, locked(ledger) as lock:
        demand_newest(ledger)  # what it calls rejected, a newer copy may have paid
        chosen = reader.campaign(campaign, vendor)
        entries = rows_named(reader, chosen, rows or []) if state is None else list(reader.entries(chosen, [State(state)]))
        if not entries and not output.as_json:
            output.say(f"Campaign {chosen.name} has no {state} rows.")
        with wrong_usage():
            client = client_of(chosen.vendor)
        free = [entry for entry in entries if entry.state in RETRIED]
        if free and not yes:
            demand_somebody(yes=yes)
            _show(chosen, free, output)
            if not agreed(chosen, "Retry?"):
                fail("Nothing was changed.", Exit.REFUSED)
        code = asyncio.run(_retry(ledger, chosen, client, entries, lock, output))
    raise typer.Exit(code)


async def _retry(path: Path, campaign: Campaign, client: Any, entries: Sequence[Entry], lock: LedgerLock, output: Output) -> Exit:
    """Give each row a new key as soon as the vendor has said that nothing speaks against it."""
    target = target_of(campaign.vendor)  # elsewhere nothing would be held under any key
    kept = 0
    async with Ledger(path, vendor=campaign.vendor, campaign=campaign.name, target=target, lock=lock) as ledger, client:
        vendor = vendor_of(client)

        async def objection_to(entry: Entry) -> str | None:
            other_keys = await ledger.other_keys(entry)
            return await objection_to_retry(vendor, entry, other_keys=other_keys, restored_at=ledger.restored_at)

        for begin in range(0, len(entries), _AT_ONCE):
            some = entries[begin : begin + _AT_ONCE]
            objections = await asyncio.gather(*map(objection_to, some))
            for entry, objection in zip(some, objections, strict=True):
                if objection is None:
                    renewed = await ledger.renew_key(entry)
                    with for_whoever_reads():
                        _tell_renewed(entry, renewed, output)
                else:
                    kept += 1
                    with for_whoever_reads():
                        _tell_kept(entry, objection, output)
    return Exit.REFUSED if kept else Exit.OK


def _tell_renewed(entry: Entry, renewed: Entry, output: Output) -> None:
    facts = {"event": "renewed", "id": entry.id, "old_key": entry.key, "key": renewed.key}
    output.record(facts, text=f"row {entry.id}: new key {renewed.key} instead of {entry.key}; the next run pays it")


def _tell_kept(entry: Entry, objection: str, output: Output) -> None:
    facts = {"event": "kept", "id": entry.id, "state": entry.state.value, "reason": objection}
    output.record(facts, text=f"row {entry.id} keeps its key: {objection}")


def _show(campaign: Campaign, entries: Sequence[Entry], output: Output) -> None:
    rows = f"{counted(len(entries), 'row gets', 'rows get')} a new key"
    if campaign.vendor == "original":
        output.note(
            f"{rows} if Original confirms that nothing was paid under the old one. The next run pays the rows that have one."
        )
    else:
        output.note(f"{rows}. The next run pays the rows that have one. EnKash cannot be asked whether anything was paid before.")
    for entry in entries[:SHOWN]:
        amount = "" if entry.amount is None else f"{money.shown(entry.amount)} of "
        said = f": {entry.problem}" if entry.problem else ""
        output.note(f"{entry.id}: {entry.state}, {amount}{entry.item} to {entry.recipient}{said}")
    if len(entries) > SHOWN:
        output.note(f"and {len(entries) - SHOWN:,} more: payouts status --all lists them")
    say_totals(entries, output)
