"""`payouts status` and `payouts report`: what the ledger says, even while a run writes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from payouts import money
from payouts.cli.ending import with_exit_codes
from payouts.cli.options import CampaignOption, LedgerOption, VendorOption, check_place
from payouts.ledger.reader import FIELDS, Campaign, LedgerReader
from payouts.report.figures import NOT_DONE, ORDER, Figures, Item, gather
from payouts.report.page import write_report
from payouts.report.results import iso, write_results
from payouts.states import Entry, State
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, for_whoever_reads
from rewards_core.text import one_line

if TYPE_CHECKING:
    from payouts.ledger.reader import RetiredKey

_SHOWN = 20
_LABELS = {"answer": "HTTP status", "absent_since": "first absent", "absent_at": "last absent"}


@with_exit_codes
def status(
    row: Annotated[str | None, typer.Argument(help="The id of a row, to show everything about it.")] = None,
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every row not confirmed as paid; as text, the first 10,000 of them.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Show the progress of a campaign, or list the campaigns of a ledger that has several; a run may be under way.

    For example:

      payouts status --ledger payouts.db

      payouts status --ledger payouts.db --campaign diwali-2026

      payouts status order-17 --ledger payouts.db --campaign diwali-2026
    """
    output = Output(as_json)
    with LedgerReader(ledger) as reader, for_whoever_reads():
        if campaign is None and row is None:
            listed = [each for each in reader.campaigns() if vendor in {None, each.vendor}]
            if len(listed) > 1:
                _list(reader, listed, output)
                return
        chosen = reader.campaign(campaign, vendor)
        if row is not None:
            entry = reader.find(chosen, row)
            if entry is None:
                fail(f"Campaign {chosen.name} has no row {row}.", Exit.NOT_FOUND)
            retired = [key for key in reader.retired_keys(chosen) if key.row_id == row]
            _show_row(chosen, entry, retired, output)
            return
        figures = gather(reader, chosen)
        if output.as_json:
            not_done = (entry for state in NOT_DONE for entry in reader.entries(chosen, [state]))
            _record(figures, not_done if every else figures.open[:_SHOWN], output)
        else:
            _show(figures, None if every else _SHOWN, output)


@with_exit_codes
def report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("payouts.html"),
    results: Annotated[Path | None, typer.Option(help="A CSV file to write with all rows.")] = None,
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    as_json: JsonOption = None,
) -> None:
    """Write the report of a campaign: one HTML file that loads nothing else.

    For example:

      payouts report --ledger payouts.db --campaign diwali-2026 --out diwali.html --results diwali.csv
    """
    check_place("--out", out, ledger=ledger)
    check_place("--results", results, ledger=ledger, report=out)
    output = Output(as_json)
    write_report(ledger, out, campaign=campaign, vendor=vendor)
    written = [out]
    if results is not None:
        with LedgerReader(ledger) as reader:
            write_results(reader, reader.campaign(campaign, vendor), results)
        written.append(results)
    with for_whoever_reads():
        for path in written:
            output.record({"event": "written", "path": str(path)}, text=f"wrote {path}")


def _list(reader: LedgerReader, campaigns: Iterable[Campaign], output: Output) -> None:
    lines = []
    for each in campaigns:
        counts = Counter(reader.counts(each))
        rows, paid, unknown = counts.total(), counts[State.DONE], counts[State.UNKNOWN]
        begun = iso(each.opened_at)
        facts = {"vendor": each.vendor, "campaign": each.name, "begun": begun, "rows": rows, "paid": paid}
        facts["not_paid"] = rows - paid - unknown
        if output.as_json:
            output.record({"event": "campaign", **facts, **{state.value: counts[state] for state in State}})
        else:
            shown = [f"{number:,}" for number in (rows, paid, rows - paid - unknown, unknown)]
            lines.append((each.vendor, each.name, f"{begun:.16}".replace("T", " "), *shown))
    if lines:
        right = ("rows", "paid", "not paid", "unknown")
        output.draw("", ("vendor", "campaign", "begun (UTC)", *right), lines, right=right)


def _show(figures: Figures, most: int | None, output: Output) -> None:
    campaign = figures.campaign
    output.say(f"{campaign.name} ({campaign.vendor}): {figures.done:,} of {figures.rows:,} rows paid", "bold")
    tokens = campaign.vendor == "original"
    lines: list[tuple[object, ...]] = []
    for uid, item in figures.items.items():
        lines.append((uid, f"{item.rows:,}", money.shown(item.total) if tokens else ""))
        for state in ORDER:
            if count := item.counts.get(state):
                amount = item.sums.get(state)
                lines.append((Text(f"  {state}"), f"{count:,}", "" if amount is None else money.shown(amount)))
    columns = ("reward", "rows", "amount") if tokens else ("event", "rows")
    output.draw("", columns, (line[: len(columns)] for line in lines), right=("rows", "amount"))
    if figures.more_items:
        output.say(f"rows of other {columns[0]}s, not listed: {figures.more_items:,}")
    shown = figures.open if most is None else figures.open[:most]
    if shown:
        waiting = figures.rows - figures.done
        part = f", the first {len(shown):,}" if len(shown) < waiting else ""
        output.say("")
        output.say(f"not confirmed as paid: {waiting:,}{part}", "bold")
    for entry in shown:
        what = entry.item if entry.amount is None else f"{money.shown(entry.amount)} of {entry.item}"
        output.say(f"{entry.id}: {entry.state}, {what} to {entry.recipient}")
        output.lines(f"    key {entry.key}")
        if told := entry.note or entry.problem:  # what was said of a row before it was settled by hand no longer holds
            output.lines(f"    {one_line(told)}")


def _record(figures: Figures, rows: Iterable[Entry], output: Output) -> None:
    campaign = figures.campaign
    output.record(
        {
            "event": "status",
            "campaign": campaign.name,
            "vendor": campaign.vendor,
            "rows": figures.rows,
            **{state.value: figures.counts.get(state, 0) for state in State},
            "sums": {uid: _plain(item) for uid, item in figures.items.items()},
        }
    )
    for entry in rows:
        output.record(_row_record(campaign, entry))


def _plain(item: Item) -> dict[str, str]:
    return {state.value: money.text(amount) for state, amount in item.sums.items()}


def _show_row(campaign: Campaign, entry: Entry, retired: list[RetiredKey], output: Output) -> None:
    names = ("retry", "key", "state", "uid", "problem", "note")
    keys = [(key.retry, key.key, key.state.value, key.uid, key.problem, key.note) for key in retired]
    if output.as_json:
        output.record({**_row_record(campaign, entry), "retired_keys": [dict(zip(names, key, strict=True)) for key in keys]})
        return
    facts = _facts(campaign, entry)
    if entry.amount is not None:
        facts["amount"] = money.shown(entry.amount)
    for name, value in facts.items():
        if value is not None:
            output.say(f"{_LABELS.get(name, name):<14}{value}")
    if keys:
        output.draw("keys before this one", names, keys)


def _row_record(campaign: Campaign, entry: Entry) -> dict[str, str | int | None]:
    """Return the record of a row; EnKash's field `event` is called `item` in it, as every record has an `event`."""
    facts = _facts(campaign, entry)
    if "event" in facts:
        facts["item"] = facts.pop("event")
    return {"event": "row", **facts}


def _facts(campaign: Campaign, entry: Entry) -> dict[str, str | int | None]:
    recipient, item, amount, key = FIELDS[campaign.vendor]
    return {
        "id": entry.id,
        "state": entry.state.value,
        recipient: entry.recipient,
        item: entry.item,
        amount: entry.amount,
        key: entry.key,
        "retries": entry.retries,
        "uid": entry.uid,
        "settled_by": entry.settled_by,
        "answer": entry.answer,
        "problem_kind": entry.problem_kind,
        "problem": entry.problem,
        "note": entry.note,
        "planned_at": iso(entry.planned_at) or None,
        "sent_at": iso(entry.sent_at) or None,
        "accepted_at": iso(entry.accepted_at) or None,
        "settled_at": iso(entry.settled_at) or None,
        "absent_since": iso(entry.absent_since) or None,
        "absent_at": iso(entry.absent_at) or None,
    }
