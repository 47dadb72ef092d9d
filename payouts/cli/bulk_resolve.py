"""`payouts resolve --unknown --refused`: settle refused rows in bulk, by complete lists of the vendor."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, cast

from payouts.audit.absence import LookedUp, is_proven, look_up, may_settle_at, record_absent, was_refused
from payouts.cells import iso
from payouts.cli.confirmation import MAX_SHOWN, confirmed, require_terminal, say_totals
from payouts.cli.connections import original_client, target_of
from payouts.cli.display import counting_bar
from payouts.ledger.base import Facts
from payouts.payer import Held, restated
from payouts.request_budget import RequestBudget
from payouts.states import Entry, State
from payouts.vendors import ROW_TYPES
from payouts.vendors.payers import payer_of
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, exit_on_value_error, fail, ignore_broken_pipe
from rewards_core.errors import ConfigurationError, NotFound, RequestRejected, VendorError
from rewards_core.text import counted

if TYPE_CHECKING:
    from original_async import OriginalClient
    from payouts.ledger.base import Database
    from payouts.ledger.campaign import CampaignLedger
    from payouts.ledger.place import LedgerPlace, Lock
    from payouts.ledger.reader import Campaign, LedgerReader
    from payouts.payer import Lookups

_IN_ONE_COMMIT = 500
_MAX_ITEMS = 20


def settle_refused(
    place: LedgerPlace,
    campaign: Campaign,
    reader: LedgerReader,
    lock: Lock,
    output: Output,
    *,
    note: str,
    rate: float | None,
    yes: bool,
) -> Exit:
    """Look up every unknown row whose last answer was a refusal, and settle those proven not to have been paid."""
    if not ROW_TYPES[campaign.vendor].has_lookup:
        fail(
            "EnKash offers no way to look up a row. Nothing was changed. Check each row with EnKash, then settle the rows "
            'by their ids: payouts resolve ROW --as rejected --note "..."',
            Exit.REFUSED,
        )
    require_terminal(yes=yes)
    entries = [entry for entry in reader.entries(campaign, [State.UNKNOWN]) if was_refused(entry)]
    if not entries:
        fail(f"Campaign {campaign.name} has no unknown rows that were refused. Nothing was changed.", Exit.REFUSED)
    with exit_on_value_error():
        client = original_client()
    known = _known(campaign, reader)
    with asyncio.Runner() as runner:  # the ledger stays open and locked while a person is asked
        stack = AsyncExitStack()
        try:
            target = target_of(campaign.vendor)  # at another base URL the vendor would hold nothing under any key
            ledger = place.ledger(vendor=campaign.vendor, campaign=campaign.name, target=target, lock=lock)
            runner.run(stack.enter_async_context(ledger))
            runner.run(stack.enter_async_context(client))
            looked = runner.run(_look_up(client, campaign, ledger, known, entries, rate, output))
            code = _tell_kept(looked, output)
            ready, waiting = _proven(runner.run(ledger.transact(partial(_run_at, campaign))), campaign, reader, looked)
            if ready and not yes:
                _show(campaign, ready, output)
                if not confirmed(campaign, "Mark them as rejected?"):
                    fail("Nothing was settled. The look-ups are recorded.", Exit.REFUSED)
            runner.run(_settle(ledger, ready, note, output))
        finally:
            runner.run(stack.aclose())
    before = reader.counts(campaign).get(State.REJECTED, 0) - len(ready)
    with ignore_broken_pipe():
        _tell_end(campaign, ready, waiting, looked, before, output)
    return code if code is not Exit.OK or not waiting else Exit.NOT_YET


async def _look_up(
    client: OriginalClient,
    campaign: Campaign,
    ledger: CampaignLedger,
    known: Entry | None,
    entries: Sequence[Entry],
    rate: float | None,
    output: Output,
) -> LookedUp:
    """Look the rows up and record which of them complete lists do not show; end the command if that would prove nothing.

    `known` is a row that the vendor is known to hold, if there is one.
    """
    budget = RequestBudget(rate=rate)
    lookups = cast("Lookups", payer_of(client, campaign.vendor).lookups)

    async def lists(rows: Sequence[Entry]) -> Mapping[int, Held]:
        listed = await lookups.list_held(rows[0].recipient, before_page=budget.take)
        held = {each.key: each for each in listed}  # of any item; one that cannot be read fails the whole list
        return {row.number: held[row.key] for row in rows if row.key in held}

    try:
        if known is None:
            await _require_items(client, campaign, budget, entries)
        elif known.number not in await budget.call(partial(lists, [known])):
            fail(
                f"Original does not list row {known.id}, which it accepted as {known.uid}, so its lists prove nothing. The "
                "API key may belong to another app. Nothing was changed.",
                Exit.REFUSED,
            )
    except (VendorError, ConfigurationError) as problem:
        fail(f"The look-up at the vendor failed. Nothing was changed: {restated(problem, looked_up=False)}", Exit.UNAVAILABLE)

    async def absent(rows: Sequence[Entry], at: float) -> None:
        await ledger.transact(partial(record_absent, numbers=[row.number for row in rows], at=at))

    with counting_bar("looking up rows", output) as bar:
        task = bar.add_task("", total=len(entries))
        looked = partial(bar.advance, task)
        found = await look_up(lists, entries, budget=budget, absent=absent, looked=looked, clock=ledger.now)
    if found.problem is not None:
        fail(
            "Nothing was settled; the look-ups so far are recorded. Fix the cause and run the same command again: "
            f"{restated(found.problem, looked_up=False)}",
            Exit.UNAVAILABLE,
        )
    return found


def _known(campaign: Campaign, reader: LedgerReader) -> Entry | None:
    """Return a row of the campaign that the vendor is known to list; a row of another campaign may belong to another app."""
    if not ROW_TYPES[campaign.vendor].has_amounts:  # an asset may have been transferred since
        return None
    accepted = reader.entries(campaign, [State.DONE, State.ACCEPTED])
    return next((entry for entry in accepted if entry.uid is not None and entry.settled_by != "hand"), None)


async def _require_items(client: OriginalClient, campaign: Campaign, budget: RequestBudget, entries: Sequence[Entry]) -> None:
    """End the command if the API key does not see the rows' rewards or collections, as it would not see their grants either."""
    word = ROW_TYPES[campaign.vendor].item_word
    read: Callable[[str], Awaitable[object]] = client.get_collection if word == "collection" else client.get_reward
    for item in list(dict.fromkeys(entry.item for entry in entries))[:_MAX_ITEMS]:
        try:
            await budget.call(partial(read, item))
        except NotFound:
            fail(
                f"Original does not show {word} {item} to this API key, so its lists prove nothing. The key may belong to "
                f"another app. Nothing was changed. If there is no such {word}, settle its rows by their ids: payouts resolve "
                'ROW --as rejected --note "..."',
                Exit.REFUSED,
            )


def _run_at(campaign: Campaign, database: Database) -> float | None:
    found: float | None = database.execute("SELECT run_at FROM campaigns WHERE number = ?", (campaign.number,)).get
    return found


def _proven(run_at: float | None, campaign: Campaign, reader: LedgerReader, looked: LookedUp) -> tuple[list[Entry], list[Entry]]:
    """Return the absent rows that are proven not to have been paid, and the other absent rows, as the ledger has them now."""
    absent = {entry.number for entry in looked.absent}
    ready: list[Entry] = []
    waiting: list[Entry] = []
    for entry in reader.entries(campaign, [State.UNKNOWN]):
        if entry.number in absent:
            (ready if is_proven(entry, run_at) else waiting).append(entry)
    return ready, waiting


async def _settle(ledger: CampaignLedger, entries: Sequence[Entry], note: str, output: Output) -> None:
    rest = iter(entries)
    while some := list(islice(rest, _IN_ONE_COMMIT)):
        settled = await ledger.move_all([(entry, State.REJECTED, _facts(entry, note)) for entry in some])
        with ignore_broken_pipe():
            for entry in settled if output.as_json else ():
                said = {"note": note or None, "evidence": _evidence(entry)}
                output.record({"event": "resolved", "id": entry.id, "state": entry.state.value, **said})


def _evidence(entry: Entry) -> str:
    between = f"{_moment(entry.absent_since or 0)} and {_moment(entry.absent_at or 0)}"
    return f"refused with HTTP {entry.answer}; complete look-ups on {between} showed nothing"


def _facts(entry: Entry, note: str) -> Facts:
    evidence = _evidence(entry)
    problem = RequestRejected(evidence, status=entry.answer)  # replaces advice that no longer applies
    return {"settled_by": "hand", "problem": problem, "note": note or None, "evidence": evidence}


def _show(campaign: Campaign, entries: Sequence[Entry], output: Output) -> None:
    users = counted(len({entry.recipient for entry in entries}), "user")
    output.note(
        f"{counted(len(entries), 'row')} for {users} in campaign {campaign.name}: refused, and not shown by complete look-ups."
    )
    say_totals(entries, output)


def _tell_kept(looked: LookedUp, output: Output) -> Exit:
    """List the rows that are left unchanged, and return the exit code that follows from them."""
    kept = [
        (entry, "held", f"Original holds it as {held.uid} ({held.status}). Run the payout again to settle it")
        for entry, held in looked.found
    ]
    kept += [(entry, "not_looked_up", f"it could not be looked up: {why}") for entry, why in looked.unchecked]
    with ignore_broken_pipe():
        for entry, reason, told in kept if output.as_json else kept[:MAX_SHOWN]:
            facts = {"event": "kept", "id": entry.id, "state": entry.state.value, "reason": reason, "message": told}
            output.record(facts, text=f"row {entry.id} is unchanged: {told}")
        if len(kept) > MAX_SHOWN and not output.as_json:
            output.say(f"and {len(kept) - MAX_SHOWN:,} more rows are unchanged")
    return Exit.UNAVAILABLE if looked.unchecked else Exit.NOT_YET if looked.found else Exit.OK


def _tell_end(
    campaign: Campaign, ready: Sequence[Entry], waiting: Sequence[Entry], looked: LookedUp, before: int, output: Output
) -> None:
    now = time.time()  # the rest of the time is counted from the clock that a person sees
    left_to_wait = max((may_settle_at(entry) - (entry.absent_at or now) for entry in waiting), default=None)
    settle_after = None if left_to_wait is None else math.ceil((now + max(0.0, left_to_wait)) / 60) * 60.0
    if output.as_json:
        left = {"held": len(looked.found), "not_looked_up": len(looked.unchecked), "waiting": len(waiting)}
        record = {"event": "summary", "campaign": campaign.name, "settled": len(ready), **left}
        output.record({**record, "settle_after": iso(settle_after) or None})
        return
    if ready:
        again = "use payouts retry --state rejected."
        if before:
            others = f"{counted(before, 'row that was', 'rows that were')} rejected before"
            again = f"give their ids to payouts retry; payouts decisions --all lists them. --state rejected also takes {others}."
        output.say(f"{counted(len(ready), 'row')} settled as rejected. To pay them again, {again}")
    if settle_after is not None:
        shown = "does not show it" if len(waiting) == 1 else "shows none of them"
        output.say(
            f"{counted(len(waiting), 'row')} looked up now; Original {shown}. Run the same command again after "
            f"{_moment(settle_after)}, with no payout run in between."
        )


def _moment(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%-d %B %Y, %H:%M} UTC"
