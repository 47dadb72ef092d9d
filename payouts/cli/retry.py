"""`payouts retry`: new keys for rejected and failed rows, after checking with the vendor that they were never paid."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Annotated, Literal

import typer

from payouts import money
from payouts.cli.confirmation import MAX_SHOWN, confirmed, require_terminal, rows_named, say_totals
from payouts.cli.connections import VendorClient, client_of, target_of
from payouts.cli.options import CampaignOptions, with_exit_codes
from payouts.ledger.place import LedgerPlace, Lock
from payouts.ledger.reader import Campaign
from payouts.payer import NOT_PAID, Payer, restated
from payouts.states import Entry, State
from payouts.vendors import ROW_TYPES
from payouts.vendors.payers import payer_of
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error, fail, ignore_broken_pipe
from rewards_core.errors import NotFound, VendorError
from rewards_core.text import counted

_AT_ONCE = 10
_RETRYABLE = frozenset({State.REJECTED, State.FAILED})


@with_exit_codes
@with_option_groups
def retry(
    rows: Annotated[list[str] | None, typer.Argument(help="The ids of the rows.")] = None,
    state: Annotated[
        Literal["rejected", "failed"] | None, typer.Option(help="Retry all rows in this state instead of naming ids.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    *,
    which: CampaignOptions,
    as_json: JsonOption = None,
) -> None:
    """Give rejected or failed rows a new key, so that the next run pays them.

    Each row is checked with the vendor first: the vendor must hold nothing under the key of a rejected row, and a
    failed row must still be failed. The old key stays in the ledger. Until the next run, `payouts resolve --undo` undoes a retry.

    For example:

      payouts retry order-17 order-18 --campaign diwali-2026

      payouts retry --state failed --campaign diwali-2026 --yes
    """
    if bool(rows) == (state is not None):
        fail("Name rows by their ids, or all rows of one state with --state. Nothing was changed.", Exit.USAGE)
    output = Output(as_json)
    with ExitStack() as stack:
        reader = stack.enter_context(which.ledger.reader())
        chosen = reader.campaign(which.campaign, which.grants)
        lock = stack.enter_context(which.ledger.lock([chosen]))
        which.ledger.check_newest()  # a newer copy may have paid what this one calls rejected
        entries = rows_named(reader, chosen, rows or []) if state is None else list(reader.entries(chosen, [State(state)]))
        if not entries and not output.as_json:
            output.say(f"Campaign {chosen.name} has no {state} rows.")
        with exit_on_value_error():
            client = client_of(chosen.vendor)
        retryable = [entry for entry in entries if entry.state in _RETRYABLE]
        if retryable and not yes:
            require_terminal(yes=yes)
            _show(chosen, retryable, output)
            if not confirmed(chosen, "Retry?"):
                fail("Nothing was changed.", Exit.REFUSED)
        code = asyncio.run(_retry(which.ledger, chosen, client, entries, lock, output))
    raise typer.Exit(code)


async def objection_to_retry(
    payer: Payer, entry: Entry, *, other_keys: Collection[str] = (), restored_at: float | None = None
) -> str | None:
    """Check a row with the vendor now; return why it must not get a new key, None if it may.

    A rejected row may if a complete list of the vendor shows nothing under its key. A failed row may if the vendor still reads
    it as failed and holds nothing else under the key. Of a vendor without a look-up, only a rejected row may.
    """
    if entry.state not in _RETRYABLE:
        return f"it is {entry.state}; only rejected and failed rows can get a new key"
    lookups = payer.lookups
    if lookups is None:
        if entry.state is not State.REJECTED:
            return f"it is {entry.state}, and {payer.name} offers no way to look it up"
        if restored_at is not None and (entry.settled_at or 0.0) < restored_at:  # its next key may be used up in the newer copy
            return (
                "the ledger was restored from an older copy after it was rejected, so it may have been retried and paid since. "
                "Check with EnKash; to pay it, give it a new id"
            )
        return None
    try:
        held = (await lookups.held_under(entry, other_keys) if other_keys else None) or await lookups.look_up(entry)
        if entry.state is State.REJECTED:
            told = f"the vendor holds {held.ref.uid} ({held.status}) under its key, so it was not rejected" if held else None
            return told and f"{told}. Run `payouts resolve {entry.id} --as unknown --note ...`, then the payout again"
        if held is not None and held.ref.uid != entry.uid:
            return f"the vendor holds {held.ref.uid} ({held.status}) under its key beside {entry.uid}"
        now = await lookups.read(entry)
    except NotFound:
        return f"the vendor no longer shows {entry.uid}, so it is not certain that it failed"
    except VendorError as problem:
        return f"the look-up at the vendor failed: {restated(problem, looked_up=False)}"
    if now.status in NOT_PAID:
        return None
    return f"the vendor now says that {entry.uid} is {now.status}, so it did not fail"


async def _retry(
    place: LedgerPlace,
    campaign: Campaign,
    client: VendorClient,
    entries: Sequence[Entry],
    lock: Lock,
    output: Output,
) -> Exit:
    """Give each row a new key as soon as its check with the vendor allows it."""
    target = target_of(campaign.vendor)  # at another base URL the vendor would hold nothing under any key
    kept = 0
    async with place.ledger(vendor=campaign.vendor, campaign=campaign.name, target=target, lock=lock) as ledger, client:
        vendor = payer_of(client, campaign.vendor)

        async def objection_to(entry: Entry) -> str | None:
            other_keys = await ledger.other_keys(entry)
            return await objection_to_retry(vendor, entry, other_keys=other_keys, restored_at=ledger.restored_at)

        for begin in range(0, len(entries), _AT_ONCE):
            some = entries[begin : begin + _AT_ONCE]
            objections = await asyncio.gather(*map(objection_to, some))
            for entry, objection in zip(some, objections, strict=True):
                if objection is None:
                    renewed = await ledger.renew_key(entry)
                    facts = {"event": "renewed", "id": entry.id, "old_key": entry.key, "key": renewed.key}
                    text = f"row {entry.id}: new key {renewed.key} instead of {entry.key}; the next run pays it"
                else:
                    kept += 1
                    facts = {"event": "kept", "id": entry.id, "state": entry.state.value, "reason": objection}
                    text = f"row {entry.id} keeps its key: {objection}"
                with ignore_broken_pipe():
                    output.record(facts, text=text)
    return Exit.REFUSED if kept else Exit.OK


def _show(campaign: Campaign, entries: Sequence[Entry], output: Output) -> None:
    rows, row_type = f"{counted(len(entries), 'row gets', 'rows get')} a new key", ROW_TYPES[campaign.vendor]
    if row_type.has_lookup:
        nothing = f"Original confirms that nothing was {row_type.done_word} under the old key"
        output.note(f"{rows} if {nothing}. The next run pays what has a new key.")
    else:
        output.note(f"{rows}, to be paid by the next run. EnKash offers no way to check whether anything was paid before.")
    for entry in entries[:MAX_SHOWN]:
        amount = "" if entry.amount is None else f"{money.shown(entry.amount)} of "
        said = f": {entry.problem}" if entry.problem else ""
        output.note(f"{entry.id}: {entry.state}, {amount}{entry.item} to {entry.recipient}{said}")
    if len(entries) > MAX_SHOWN:
        output.note(f"and {len(entries) - MAX_SHOWN:,} more: payouts status --all lists them")
    say_totals(entries, output)
