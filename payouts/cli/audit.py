"""`payouts audit`: the whole ledger compared with the vendor's books."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from attrs import define

from payouts.audit.balances import snapshot as take_snapshot
from payouts.audit.records import Begun, Scope, audited_targets, is_conclusive
from payouts.audit.release import last_sent_elsewhere, release, standing_of
from payouts.audit.run import AuditRun
from payouts.cli.audit_display import Shown, differences_left, shown_kinds, tell_changes, tell_reasons, tell_result
from payouts.cli.connections import client_of, locked, target_of
from payouts.cli.ending import with_exit_codes
from payouts.cli.options import LedgerOption, per_second
from payouts.cli.supervision import Watch
from payouts.ledger.generation import Standing
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import Campaign, LedgerReader
from payouts.ledger.schema import connect_to_write
from payouts.ledger.sqlite import Ledger
from payouts.request_budget import AskedEnough, Asking
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, for_whoever_reads, tell, wrong_usage
from rewards_core.errors import VendorError
from rewards_core.text import counted
from rewards_core.validation import shown

_CONCURRENCY = 10
_INTERRUPTED = "Ending the audit once the requests under way are answered. Interrupt again to end now."
_LOST = "Cannot show the audit ({reason}). It ends here; the next one continues it."
_NO_LOOK_UP = (
    "EnKash cannot be asked what became of a row. Balances show only how many coins came or went since the snapshot, not who "
    "gave or spent them, and nothing about rows that were paid before it."
)


@with_exit_codes
def audit(
    ledger: LedgerOption = Path("payouts.db"),
    vendor: Annotated[
        Literal["original", "enkash"] | None, typer.Option(help="Whose books; Original's if the ledger has both vendors.")
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="Only the rows of one campaign; all campaigns if not given.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Move rows to what the vendor proves. A paid row never moves.")] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="The vendor may hold grants that this ledger does not know.")
    ] = False,
    rate: Annotated[
        float, typer.Option(help="Requests per second; 0 is no limit.", parser=per_second, metavar="N/s", show_default="20/s")
    ] = 20.0,
    max_requests: Annotated[int | None, typer.Option(help="End after so many requests; the next audit continues.", min=1)] = None,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="EnKash: store every balance now, for a later audit to compare with.")
    ] = False,
    coins: Annotated[
        list[str] | None, typer.Option(help="EnKash: what an event is worth; repeatable.", metavar="EVENT=N")
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="You know that this is the newest copy of the ledger, moved from another machine.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Compare the ledger with the vendor's books; nothing is sent.

    Every row is looked up by its uid and its keys, and every grant to its
    recipients must belong to a row. A complete audit of all campaigns also
    lets a restored ledger be paid from again.

    Exit codes: 0 all agrees; 3 something differs; 4 it ended early, or rows
    could not be checked; 7 the vendor or the ledger cannot be used.

    For example:

      payouts audit --ledger payouts.db

      payouts audit --ledger payouts.db --apply

      payouts audit --vendor enkash --snapshot
    """
    output = Output(as_json)
    worth = _worth(coins or [])
    if not ledger.is_file():
        LedgerReader(ledger)  # says so
    with locked(ledger) as lock:
        connect_to_write(ledger).close()  # an older one is brought up to date
        with LedgerReader(ledger) as reader:  # closed before the ledger is, which could not fold its log into the file else
            known = reader.campaigns()
            chosen = None if campaign is None else reader.campaign(campaign, vendor)
        if newest:
            _vouch(ledger, known, lock, output)
            return
        meant = chosen.vendor if chosen else vendor or ("original" if any(_is_original(each) for each in known) else "enkash")
        if meant != "enkash" and (snapshot or coins):
            fail("--snapshot and --coins are for EnKash, whose rows cannot be looked up. Nothing was done.", Exit.USAGE)
        with wrong_usage():
            client = client_of(meant, _CONCURRENCY)
        judged = _judged(known, meant, chosen, output)
        job = _Job(
            path=ledger,
            scope=Scope(
                vendor=meant,
                target=target_of(meant),
                campaigns=frozenset(each.number for each in judged),
                only=None if chosen is None else chosen.number,
                apply=apply,
                allow_unknown=allow_unknown,
            ),
            opened=judged[0],
            lock=lock,
            asking=Asking(rate=rate or None, most=max_requests),
            output=output,
            whole=all(each in judged for each in known if (each.vendor, each.target) == (meant, judged[0].target)),
            targets=frozenset(each.target for each in known if _is_original(each) and each.target),
        )
        if snapshot:
            code = asyncio.run(_store_balances(job, client, judged))
        else:
            run, standing = asyncio.run(_audit(job, client, worth))
            code = _tell(job, run, standing)
    raise typer.Exit(code)


@define(kw_only=True)
class _Job:
    path: Path
    scope: Scope
    opened: Campaign
    lock: LedgerLock
    asking: Asking
    output: Output
    whole: bool
    targets: frozenset[str]

    def open(self) -> Ledger:
        return Ledger(self.path, vendor=self.opened.vendor, campaign=self.opened.name, lock=self.lock)


def _is_original(campaign: Campaign) -> bool:
    return campaign.vendor == "original"


def _worth(given: Iterable[str]) -> dict[str, int]:
    worth = {}
    for each in given:
        event, _, number = each.rpartition("=")
        if not event or not number.isascii() or not number.isdecimal():
            fail(
                f"--coins: {shown(each)} does not say what an event is worth. Write it like MEAL=6. Nothing was done.", Exit.USAGE
            )
        worth[event] = int(number)
    return worth


def _judged(known: list[Campaign], vendor: str, chosen: Campaign | None, output: Output) -> list[Campaign]:
    """Return the campaigns that are compared: those that were begun at the base URL that is set now."""
    target = target_of(vendor)
    wanted = [chosen] if chosen else [each for each in known if each.vendor == vendor]
    if not wanted:
        fail(f"This ledger has no campaign of {vendor}. Nothing was done.", Exit.NOT_FOUND)
    judged = [each for each in wanted if not each.target or each.target.rstrip("/") == target]
    left_out = [each for each in wanted if each not in judged]
    if not judged:
        fail(
            f"Campaign {left_out[0].name} was begun at {left_out[0].target}; this is {target}. Nothing was done. "
            "Set the base URL it was begun at.",
            Exit.UNAVAILABLE,
        )
    for each in left_out:
        if output.as_json:
            with for_whoever_reads():
                output.record({"event": "left_out", "campaign": each.name, "target": each.target})
        else:
            tell(f"Campaign {each.name} was begun at {each.target} and is left out: audit it with that base URL.", "yellow")
    return judged


def _vouch(path: Path, known: Sequence[Campaign], lock: LedgerLock, output: Output) -> None:
    found = standing_of(path)
    if found is Standing.OLDER:
        fail(
            "--newest: rows were sent from a newer copy on this machine. Nothing was changed. Put the newest copy back, or run "
            f"`payouts audit --ledger {path} --apply`.",
            Exit.REFUSED,
        )
    if found is Standing.UNKNOWN and known:

        async def vouch() -> None:
            async with Ledger(path, vendor=known[0].vendor, campaign=known[0].name, lock=lock) as opened:
                await release(opened, time.time(), newest=True)

        asyncio.run(vouch())
    with for_whoever_reads():
        output.record({"event": "released", "coins_unknown": 0}, text="Rows can be sent from this ledger.")


async def _audit(job: _Job, client: Any, worth: Mapping[str, int]) -> tuple[AuditRun, Standing]:
    """Return the audit, and how the ledger stands after it."""
    async with job.open() as ledger, client:
        run = AuditRun(ledger, job.scope, job.asking)
        _tell_begun(await run.begin(await asyncio.to_thread(_last_sent, job.path)), job.output)
        books = run.original(client) if job.scope.vendor == "original" else run.enkash(client, worth)
        complete = False
        shown = Shown(run, job.asking, job.output)
        async with Watch(shown, job.asking.stop, interrupted=_INTERRUPTED, lost=_LOST).until_end(shown.begin):
            complete = await run.run(books)
        return run, await _release(job, ledger, run, complete=complete)


def _tell_begun(begun: Begun, output: Output) -> None:
    if begun.after:
        when = f"{datetime.fromtimestamp(begun.begun_at, UTC):%Y-%m-%d %H:%M} UTC"
        facts = {"event": "continued", "begun_at": when, "rows": begun.done, "of": begun.rows}
        with for_whoever_reads():
            output.record(facts, text=f"Continuing the audit begun on {when}: {begun.done:,} of {begun.rows:,} rows are done.")


async def _release(job: _Job, ledger: Ledger, run: AuditRun, *, complete: bool) -> Standing:
    """Let a restored ledger be paid from again if the audit allows it, and return how it stands then."""
    found = await asyncio.to_thread(standing_of, job.path)
    if found is Standing.NEWEST:
        return found
    since = await asyncio.to_thread(_last_sent, job.path)
    if job.scope.vendor == "original":
        conclusive = complete and await ledger.transact(partial(is_conclusive, run.begun.number))
    else:  # coins cannot be looked up, so that nothing more can be learned
        conclusive = job.scope.apply and not job.asking.stopped
    done = await ledger.transact(partial(audited_targets, since))
    if conclusive and job.whole:
        done |= {job.scope.target}
    if not job.whole or run.begun.begun_at < since or not conclusive or not job.targets <= done:
        return found
    doubted = await release(ledger, time.time())
    told = "Rows can be sent from this ledger again."
    if doubted:
        rows = counted(doubted, "row of coins that may have been paid is", "rows of coins that may have been paid are")
        told += f" {rows} unknown now: settle them with `payouts resolve`."
    with for_whoever_reads():
        job.output.record({"event": "released", "coins_unknown": doubted}, text=told)
    return Standing.NEWEST


def _last_sent(path: Path) -> float:
    """Return when a newer copy was last paid from; 0 where no note says so."""
    at = last_sent_elsewhere(path)
    return 0.0 if math.isinf(at) else at


def _tell(job: _Job, run: AuditRun, standing: Standing) -> Exit:
    """Say what the audit has come to and return the exit code."""
    output, scope = job.output, job.scope
    with LedgerReader(job.path) as reader:
        found = reader.audit(run.begun.number)
        with for_whoever_reads():
            differences = reader.differences(found.number, shown_kinds(allow_unknown=scope.allow_unknown))
            tell_reasons(run, output)
            tell_changes(reader.differences(found.number, ["change"]), output)
            tell_result(found, differences, allow_unknown=scope.allow_unknown, output=output)
            if scope.vendor == "enkash" and not output.as_json:
                output.say(_NO_LOOK_UP)
    if standing is not Standing.NEWEST:
        told = (
            f"Nothing can be sent from this ledger yet: it is {standing.value}. That needs a complete audit of all campaigns, "
            "with nothing unchecked: payouts audit --apply"
        )
        vouch = ". If it is the newest copy, moved from another machine: payouts audit --newest"
        tell(told + (vouch if standing is Standing.UNKNOWN else ""), "yellow")
    if run.cause is not None:
        told = str(run.cause)
        tell(f"The audit stopped: {told}. Nothing was sent. What was compared is kept: run the same command again.", "bold red")
        return Exit.UNAVAILABLE
    if found.ended_at is None:
        advice = "Run the same command again to continue."
        if job.asking.most is not None and not job.asking.stopped and run.done == run.begun.done:
            advice = "One recipient needs more requests than that: give a higher --max-requests."
        tell(f"The audit is not complete: {found.rows:,} of {run.begun.rows:,} rows were compared. {advice}", "yellow")
        return Exit.NOT_YET
    if differences_left(found, allow_unknown=scope.allow_unknown):
        return Exit.FAILED
    return Exit.NOT_YET if found.unchecked or standing is not Standing.NEWEST else Exit.OK


async def _store_balances(job: _Job, client: Any, campaigns: Sequence[Campaign]) -> Exit:
    async with job.open() as ledger, client:
        try:
            with LedgerReader(job.path) as reader:
                kept, failed = await take_snapshot(ledger, client, reader.recipients(campaigns), asking=job.asking)
        except AskedEnough:
            tell("--max-requests was reached; the balances read by then are stored. Give a higher number.", "yellow")
            return Exit.NOT_YET
        except VendorError as problem:
            tell(f"The snapshot stopped: {problem}. Nothing was sent. The balances read by then are stored.", "bold red")
            return Exit.UNAVAILABLE
    stored = counted(kept, "balance is", "balances are")
    told = f"{stored} stored. A later `payouts audit --vendor enkash --coins EVENT=N` compares them with what was paid."
    with for_whoever_reads():
        job.output.record({"event": "snapshot", "stored": kept, "unchecked": failed}, text=told)
    if failed:
        tell(f"{failed:,} balances could not be read.", "yellow")
    return Exit.NOT_YET if failed else Exit.OK
