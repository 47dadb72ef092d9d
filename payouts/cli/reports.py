"""`payouts report` and `payouts decisions`: files to read, archive and sign."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from payouts import money
from payouts.cells import iso
from payouts.cli.confirmation import MAX_SHOWN
from payouts.cli.options import CampaignOptions, check_output_file, with_exit_codes
from payouts.ledger.decisions import Decision, decisions
from payouts.report.page import write_report
from payouts.report.results import write_results
from payouts.report.signoff import record_of, write_csv, write_html
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, ignore_broken_pipe
from rewards_core.text import counted


@with_exit_codes
@with_option_groups
def report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("payouts.html"),
    results: Annotated[Path | None, typer.Option(help="Also write all rows to this CSV file.")] = None,
    *,
    which: CampaignOptions,
    as_json: JsonOption = None,
) -> None:
    """Write the report of a campaign as one self-contained HTML file.

    For example:

      payouts report --campaign diwali-2026 --out diwali.html

      payouts report --campaign diwali-2026 --results diwali.csv
    """
    check_output_file("--out", out, ledger=which.ledger.path)
    check_output_file("--results", results, ledger=which.ledger.path, report=out)
    output = Output(as_json)
    write_report(which.ledger, out, campaign=which.campaign, vendor=which.grants)
    if results is not None:
        with which.ledger.reader() as reader:
            write_results(reader, reader.campaign(which.campaign, which.grants), results)
    _tell_written((out, results), output)


@with_exit_codes
@with_option_groups
def list_decisions(
    as_csv: Annotated[Path | None, typer.Option("--csv", help="Write all decisions to this CSV file.")] = None,
    as_html: Annotated[Path | None, typer.Option("--html", help="Write all decisions to this HTML page, to be signed.")] = None,
    every: Annotated[bool, typer.Option("--all", help="As text, show every decision, not only the last 20.")] = False,
    *,
    which: CampaignOptions,
    as_json: JsonOption = None,
) -> None:
    """List decisions made by hand or by an audit: when, by whom, on which row, and why.

    For example:

      payouts decisions --campaign diwali-2026

      payouts decisions --csv decisions.csv --html decisions.html
    """
    check_output_file("--csv", as_csv, ledger=which.ledger.path)
    check_output_file("--html", as_html, ledger=which.ledger.path, csv=as_csv)
    output = Output(as_json)
    number, scope = None, f"All campaigns of {which.ledger if which.ledger.path is None else which.ledger.path.name}"
    if which.campaign is not None or which.grants is not None:
        chosen = which.chosen()
        number, scope = chosen.number, chosen.name
    with which.ledger.reader() as reader:
        found = reader.ask(lambda database: list(decisions(database, number)))
    with ignore_broken_pipe():
        if output.as_json:
            for decision in found:
                output.record({"event": "decision", **record_of(decision)})
        else:
            _show(found, scope, output, every=every)
    if as_csv is not None:
        write_csv(as_csv, found)
    if as_html is not None:
        write_html(as_html, found, scope=scope, at=time.time())
    _tell_written((as_csv, as_html), output)


def _tell_written(paths: Iterable[Path | None], output: Output) -> None:
    with ignore_broken_pipe():
        for path in paths:
            if path is not None:
                output.record({"event": "written", "path": str(path)}, text=f"wrote {path}")


def _show(found: list[Decision], scope: str, output: Output, *, every: bool) -> None:
    shown = found if every else found[-MAX_SHOWN:]
    told = f", the last {len(shown):,}" if len(shown) < len(found) else ""
    output.say(f"{scope}: {counted(len(found), 'decision')}{told}", "bold")
    for decision in shown:
        amount = "" if decision.amount is None else f"{money.shown(decision.amount)} of "
        moved = "" if decision.row is None else f" row {decision.row} from {decision.was} to {decision.became}"
        grant = "" if decision.row is None else f", {amount}{decision.item} to {decision.recipient}"
        repeats = f" for campaign {decision.campaign}" if decision.row is None and decision.campaign is not None else ""
        undone = "" if decision.undone_by is None else f"; undone by {decision.undone_by}"
        at = f"{iso(decision.at):.16}".replace("T", " ")
        output.say(f"{decision.number}: {at} {decision.by}: {decision.kind}{repeats}{moved}{grant}{undone}")
        for words in filter(None, (decision.note, decision.evidence)):
            output.lines(f"    {words}")
