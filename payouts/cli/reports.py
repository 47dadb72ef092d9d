"""`payouts decisions`: everything that was decided by hand, to look through or to sign."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from payouts import money
from payouts.cli.confirmation import SHOWN
from payouts.cli.ending import with_exit_codes
from payouts.cli.options import CampaignOption, LedgerOption, VendorOption, check_place
from payouts.ledger.decisions import Decision, decisions
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import connect_to_read
from payouts.report.results import iso
from payouts.report.signoff import record_of, write_csv, write_html
from rewards_core.cli.output import JsonOption, Output, for_whoever_reads
from rewards_core.text import counted


@with_exit_codes
def list_decisions(
    as_csv: Annotated[Path | None, typer.Option("--csv", help="A CSV file to write with all decisions.")] = None,
    as_html: Annotated[Path | None, typer.Option("--html", help="An HTML page to write with all decisions, to sign.")] = None,
    every: Annotated[bool, typer.Option("--all", help="As text, show every decision and not only the last ones.")] = False,
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    as_json: JsonOption = None,
) -> None:
    """List what was decided by hand or corrected by an audit: when, by whom, about which row, and why.

    For example:

      payouts decisions --ledger payouts.db --campaign diwali-2026

      payouts decisions --ledger payouts.db --csv decisions.csv --html decisions.html
    """
    check_place("--csv", as_csv, ledger=ledger)
    check_place("--html", as_html, ledger=ledger, csv=as_csv)
    output = Output(as_json)
    number, scope = None, f"All campaigns of {ledger.name}"
    if campaign is not None or vendor is not None:
        with LedgerReader(ledger) as reader:
            chosen = reader.campaign(campaign, vendor)
        number, scope = chosen.number, chosen.name
    with closing(connect_to_read(ledger)) as database:
        found = list(decisions(database, number))
    with for_whoever_reads():
        if output.as_json:
            for decision in found:
                output.record({"event": "decision", **record_of(decision)})
        else:
            _show(found, scope, output, every=every)
    if as_csv is not None:
        write_csv(as_csv, found)
    if as_html is not None:
        write_html(as_html, found, scope=scope, at=time.time())
    with for_whoever_reads():
        for path in (as_csv, as_html):
            if path is not None:
                output.record({"event": "written", "path": str(path)}, text=f"wrote {path}")


def _show(found: list[Decision], scope: str, output: Output, *, every: bool) -> None:
    shown = found if every else found[-SHOWN:]
    told = f", the last {len(shown):,}" if len(shown) < len(found) else ""
    output.say(f"{scope}: {counted(len(found), 'decision')}{told}", "bold")
    for decision in shown:
        amount = "" if decision.amount is None else f"{money.shown(decision.amount)} of "
        moved = "" if decision.row is None else f" row {decision.row} from {decision.was} to {decision.became}"
        grant = "" if decision.row is None else f", {amount}{decision.item} to {decision.recipient}"
        may = f" for campaign {decision.campaign}" if decision.kind == "repeats" else ""
        undone = "" if decision.undone_by is None else f"; taken back by {decision.undone_by}"
        at = f"{iso(decision.at):.16}".replace("T", " ")
        output.say(f"{decision.number}: {at} {decision.by}: {decision.kind}{may}{moved}{grant}{undone}")
        for words in filter(None, (decision.note, decision.evidence)):
            output.lines(f"    {words}")
