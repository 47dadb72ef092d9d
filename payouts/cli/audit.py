"""`payouts audit`: compare the ledger with the vendor's books."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal, cast

import typer
from attrs import define

from payouts.audit.balances import snapshot as take_snapshot
from payouts.audit.records import Begun, Scope, audited_targets, is_conclusive
from payouts.audit.release import release
from payouts.audit.run import AuditRun
from payouts.cli.audit_display import AuditDisplay, differences_left, listed_kinds, tell_changes, tell_reasons, tell_result
from payouts.cli.connections import VendorClient, client_of, target_of
from payouts.cli.options import DEFAULT_LEDGER, KindName, LedgerOption, granting, per_second, with_exit_codes
from payouts.cli.supervision import Supervision
from payouts.ledger.campaign import CampaignLedger
from payouts.ledger.generation import Standing
from payouts.ledger.place import LedgerPlace, Lock
from payouts.ledger.reader import Campaign
from payouts.request_budget import BudgetSpent, RequestBudget
from payouts.vendors import ROW_TYPES
from payouts.vendors.clients import CoinClient
from payouts.vendors.coin_payer import CoinPayer
from payouts.vendors.payers import payer_of
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error, fail, ignore_broken_pipe, print_stderr
from rewards_core.errors import VendorError
from rewards_core.text import counted
from rewards_core.validation import shown

_CONCURRENCY = 10
_AUDITED = {name: ROW_TYPES[name] for name in ("original", "original-mint", "enkash")}
_INTERRUPTED = "Stopping: waiting for the requests under way. Interrupt again to stop now."
_LOST = "Cannot show the audit ({reason}). It stops here; the next audit continues it."
_NO_LOOK_UP = (
    "EnKash offers no way to look up a row. Balances show only how many coins came or went since the snapshot, not who "
    "gave or spent them, and nothing about rows that were paid before it."
)


@with_exit_codes
def audit(
    ledger: LedgerOption = DEFAULT_LEDGER,
    vendor: Annotated[
        Literal["original", "enkash"] | None,
        typer.Option(help="The vendor whose books are compared; Original if the ledger has both."),
    ] = None,
    kind: Annotated[
        KindName | None, typer.Option(help="The kind of rows that are compared; allocations if the ledger has both.")
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="Audit this campaign only; all campaigns by default.")] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Change rows to the state that the vendor proves. A paid row is never changed.")
    ] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Accept grants at the vendor that this ledger does not know.")
    ] = False,
    rate: Annotated[
        float, typer.Option(help="Requests per second; 0 for no limit.", parser=per_second, metavar="N/s", show_default="20/s")
    ] = 20.0,
    max_requests: Annotated[
        int | None, typer.Option(help="Stop after this many requests; the next audit continues.", min=1)
    ] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="EnKash: store every balance now, for a later audit to compare.")
    ] = False,
    coins: Annotated[
        list[str] | None, typer.Option(help="EnKash: the coins that an event gives. Repeat for more.", metavar="EVENT=N")
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Confirm that this ledger, moved from another machine, is the newest copy.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Compare the ledger with the vendor's books; nothing is sent.

    Every row is looked up by its uid and its keys, and every grant to its
    recipients must belong to a row. Tokens, mints and coins are audited one
    after the other. After a ledger was restored from a backup, complete audits
    of all campaigns allow payouts from it again.

    Exit codes: 0 everything agrees; 3 something differs; 4 the audit stopped
    early, or rows could not be checked; 7 the vendor or the ledger cannot be used.

    For example:

      payouts audit --ledger payouts.db

      payouts audit --ledger payouts.db --apply

      payouts audit --kind mint --apply

      payouts audit --vendor enkash --snapshot
    """
    output = Output(as_json)
    worth = _worth(coins or [])
    granted = granting(vendor, kind)
    with ledger.reader() as reader:  # closed before the ledger, whose log could not be folded into the file otherwise
        known = reader.campaigns()
        chosen = None if campaign is None else reader.campaign(campaign, granted)
    with ledger.lock(known) as lock:
        if newest:
            _accept_as_newest(ledger, known, lock, output)
            return
        audited = chosen.vendor if chosen else granted if kind and granted else _first_of(known, vendor)
        if audited != "enkash" and (snapshot or coins):
            fail("--snapshot and --coins are for EnKash, whose rows cannot be looked up. Nothing was done.", Exit.USAGE)
        with exit_on_value_error():
            client = client_of(audited, _CONCURRENCY)
        in_scope = _in_scope(known, audited, chosen, output)
        job = _AuditJob(
            place=ledger,
            scope=Scope(
                vendor=audited,
                target=target_of(audited),
                campaigns=frozenset(each.number for each in in_scope),
                only=None if chosen is None else chosen.number,
                apply=apply,
                allow_unknown=allow_unknown,
            ),
            opened=in_scope[0],
            lock=lock,
            budget=RequestBudget(rate=rate or None, max_requests=max_requests),
            output=output,
            whole=all(each in in_scope for each in known if (each.vendor, each.target) == (audited, in_scope[0].target)),
            books=frozenset((each.vendor, each.target) for each in known if _has_books(each.vendor) and each.target),
        )
        if snapshot:
            code = asyncio.run(_store_balances(job, client, in_scope))
        else:
            run, standing = asyncio.run(_audit(job, client, worth))
            code = _print_stderr(job, run, standing)
    raise typer.Exit(code)


@define(kw_only=True)
class _AuditJob:
    place: LedgerPlace
    scope: Scope
    opened: Campaign
    lock: Lock
    budget: RequestBudget
    output: Output
    whole: bool
    books: frozenset[tuple[str, str]]

    def open(self) -> CampaignLedger:
        return self.place.ledger(vendor=self.opened.vendor, campaign=self.opened.name, lock=self.lock)


def _has_books(vendor: str) -> bool:
    """Return whether the rows of a vendor can be looked up."""
    return ROW_TYPES[vendor].has_lookup


def _first_of(known: Iterable[Campaign], account: str | None) -> str:
    """Return what is audited if the options leave that open: the first vendor of an account that has campaigns."""
    there = {each.vendor for each in known}
    meant = [name for name, row_type in _AUDITED.items() if account in {None, row_type.account}]
    return next((name for name in meant if name in there), meant[-1] if account is None else meant[0])


def _worth(given: Iterable[str]) -> dict[str, int]:
    worth = {}
    for each in given:
        event, _, number = each.rpartition("=")
        if not event or not number.isascii() or not number.isdecimal():
            fail(
                f"--coins: {shown(each)} does not say how many coins an event gives. Write it like MEAL=6. Nothing was done.",
                Exit.USAGE,
            )
        worth[event] = int(number)
    return worth


def _in_scope(known: list[Campaign], vendor: str, chosen: Campaign | None, output: Output) -> list[Campaign]:
    """Return the campaigns that are compared: those whose base URL is set now."""
    target = target_of(vendor)
    wanted = [chosen] if chosen else [each for each in known if each.vendor == vendor]
    if not wanted:
        fail(f"This ledger has no campaign of {vendor}. Nothing was done.", Exit.NOT_FOUND)
    in_scope = [each for each in wanted if not each.target or each.target.rstrip("/") == target]
    left_out = [each for each in wanted if each not in in_scope]
    if not in_scope:
        fail(
            f"Campaign {left_out[0].name} began with the base URL {left_out[0].target}, but the base URL is now {target}. "
            "Nothing was done. Set the first base URL again.",
            Exit.UNAVAILABLE,
        )
    for each in left_out:
        if output.as_json:
            with ignore_broken_pipe():
                output.record({"event": "left_out", "campaign": each.name, "target": each.target})
        else:
            print_stderr(
                f"Campaign {each.name} began with the base URL {each.target} and is left out. Set that base URL to audit it.",
                "yellow",
            )
    return in_scope


def _accept_as_newest(place: LedgerPlace, known: Sequence[Campaign], lock: Lock, output: Output) -> None:
    found, _ = place.standing()
    if found is Standing.OLDER:
        fail(
            "--newest: rows were sent from a newer copy on this machine. Nothing was changed. Put the newest copy back, or run "
            f"`payouts audit --ledger {place} --apply`.",
            Exit.REFUSED,
        )
    if found is Standing.UNKNOWN and known:

        async def vouch() -> None:
            async with place.ledger(vendor=known[0].vendor, campaign=known[0].name, lock=lock) as opened:
                await release(opened, opened.now(), newest=True)

        asyncio.run(vouch())
    with ignore_broken_pipe():
        output.record({"event": "released", "coins_unknown": 0}, text="Rows can be sent from this ledger again.")


async def _audit(job: _AuditJob, client: VendorClient, worth: Mapping[str, int]) -> tuple[AuditRun, Standing]:
    """Return the audit, and the standing of the ledger after it."""
    async with job.open() as ledger, client:
        run = AuditRun(ledger, job.scope, job.budget, clock=ledger.now)
        _, sent_elsewhere_at = await asyncio.to_thread(job.place.standing)
        _tell_continued(await run.begin(sent_elsewhere_at), job.output)
        complete = False
        display = AuditDisplay(run, job.budget, job.output)
        async with Supervision(display, job.budget.stop, interrupted=_INTERRUPTED, lost=_LOST).until_end(display.begin):
            complete = await run.run(payer_of(client, job.scope.vendor), worth)
        return run, await _release(job, ledger, run, complete=complete)


def _tell_continued(begun: Begun, output: Output) -> None:
    if begun.after:
        when = f"{datetime.fromtimestamp(begun.begun_at, UTC):%Y-%m-%d %H:%M} UTC"
        facts = {"event": "continued", "begun_at": when, "rows": begun.done, "of": begun.rows}
        with ignore_broken_pipe():
            output.record(facts, text=f"Continuing the audit of {when}: {begun.done:,} of {begun.rows:,} rows are done.")


async def _release(job: _AuditJob, ledger: CampaignLedger, run: AuditRun, *, complete: bool) -> Standing:
    """Release a restored ledger if the audit allows it, and return its standing then."""
    found, since = await asyncio.to_thread(job.place.standing)
    if found is Standing.NEWEST:
        return found
    if _has_books(job.scope.vendor):
        conclusive = complete and await ledger.transact(partial(is_conclusive, run.begun.number))
    else:  # coins cannot be looked up: nothing more can be learned
        conclusive = job.scope.apply and not job.budget.stopped
    done = {(job.scope.vendor, job.scope.target)} if conclusive and job.whole else set()
    for vendor in filter(_has_books, ROW_TYPES):
        done |= {(vendor, target) for target in await ledger.transact(partial(audited_targets, vendor, since))}
    if not job.whole or run.begun.begun_at < since or not conclusive or not job.books <= done:
        return found
    doubted = await release(ledger, ledger.now())
    told = "Rows can be sent from this ledger again."
    if doubted:
        rows = counted(doubted, "row of coins that may have been paid is", "rows of coins that may have been paid are")
        told += f" {rows} unknown now: settle them with `payouts resolve`."
    with ignore_broken_pipe():
        job.output.record({"event": "released", "coins_unknown": doubted}, text=told)
    return Standing.NEWEST


def _print_stderr(job: _AuditJob, run: AuditRun, standing: Standing) -> Exit:
    """Report the result of the audit and return the exit code."""
    output, scope = job.output, job.scope
    with job.place.reader() as reader:
        found = reader.audit(run.begun.number)
        with ignore_broken_pipe():
            differences = reader.differences(found.number, listed_kinds(allow_unknown=scope.allow_unknown))
            tell_reasons(run, output)
            tell_changes(reader.differences(found.number, ["change"]), output)
            tell_result(found, differences, allow_unknown=scope.allow_unknown, output=output)
            if scope.vendor == "enkash" and not output.as_json:
                output.say(_NO_LOOK_UP)
    if standing is not Standing.NEWEST:
        mints = " and payouts audit --kind mint --apply" if any(vendor != "original" for vendor, _ in job.books) else ""
        told = (
            f"Nothing can be sent from this ledger yet: it is {job.place.why(standing)}. That needs a complete audit of all "
            f"campaigns, with nothing unchecked: payouts audit --apply{mints}"
        )
        vouch = ". If it is the newest copy, moved from another machine: payouts audit --newest"
        print_stderr(told + (vouch if standing is Standing.UNKNOWN else ""), "yellow")
    if run.cause is not None:
        told = str(run.cause)
        print_stderr(
            f"The audit stopped: {told}. Nothing was sent. What was compared is kept: run the same command again.", "bold red"
        )
        return Exit.UNAVAILABLE
    if found.ended_at is None:
        advice = "Run the same command again to continue."
        if job.budget.max_requests is not None and not job.budget.stopped and run.done == run.begun.done:
            advice = "One recipient needs more requests than that: give a higher --max-requests."
        print_stderr(f"The audit is not complete: {found.rows:,} of {run.begun.rows:,} rows were compared. {advice}", "yellow")
        return Exit.NOT_YET
    if differences_left(found, allow_unknown=scope.allow_unknown):
        return Exit.FAILED
    return Exit.NOT_YET if found.unchecked or standing is not Standing.NEWEST else Exit.OK


def _recipients(place: LedgerPlace, campaigns: Sequence[Campaign]) -> list[str]:
    with place.reader() as reader:
        return list(reader.recipients(campaigns))


async def _store_balances(job: _AuditJob, client: VendorClient, campaigns: Sequence[Campaign]) -> Exit:
    async with job.open() as ledger, client:
        try:
            users = await asyncio.to_thread(_recipients, job.place, campaigns)
            stored, failed = await take_snapshot(ledger, CoinPayer(cast("CoinClient", client)), users, budget=job.budget)
        except BudgetSpent:
            print_stderr("--max-requests was reached. The balances read so far are stored. Give a higher number.", "yellow")
            return Exit.NOT_YET
        except VendorError as problem:
            print_stderr(f"The snapshot stopped: {problem}. Nothing was sent. The balances read so far are stored.", "bold red")
            return Exit.UNAVAILABLE
    told = (
        f"{counted(stored, 'balance')} stored. "
        "A later `payouts audit --vendor enkash --coins EVENT=N` compares them with what was paid."
    )
    with ignore_broken_pipe():
        job.output.record({"event": "snapshot", "stored": stored, "unchecked": failed}, text=told)
    if failed:
        print_stderr(f"{failed:,} balances could not be read.", "yellow")
    return Exit.NOT_YET if failed else Exit.OK
