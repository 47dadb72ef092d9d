"""`payouts status` and `payouts report`: what the ledger says, also while a run works with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from payouts import money
from payouts.cli.options import CampaignOption, LedgerOption, VendorOption, check_place
from payouts.cli.terminal import Exit, with_exit_codes
from payouts.figures import NOT_DONE, ORDER, Figures, Item, gather
from payouts.ledger_reader import FIELDS, Campaign, LedgerReader
from payouts.report import write_report
from payouts.results import iso, write_results
from payouts.states import Entry, State
from webhooks.cli.terminal import Output, fail

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.ledger_reader import RetiredKey

_SHOWN = 20


@with_exit_codes
def status(
    row: Annotated[str | None, typer.Argument(help="The id of one row, to see all about it.")] = None,
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    every: Annotated[bool, typer.Option("--all", help="List every row that is not paid; on a terminal 10,000 of them.")] = False,
) -> None:
    """Say how a campaign stands; it may be under way.

    For example:

      payouts status --ledger payouts.db --campaign diwali-2026

      payouts status order-17 --ledger payouts.db --campaign diwali-2026
    """
    output = Output()
    with LedgerReader(ledger) as reader:
        chosen = reader.campaign(campaign, vendor)
        if row is not None:
            entry = reader.find(chosen, row)
            if entry is None:
                fail(f"{chosen.name}: there is no row {row}", Exit.NOT_FOUND)
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
    out: Annotated[Path, typer.Option(help="Where the HTML file goes.")] = Path("payouts.html"),
    results: Annotated[Path | None, typer.Option(help="Write all rows there as CSV.")] = None,
    ledger: LedgerOption = Path("payouts.db"),
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
) -> None:
    """Write the report of a campaign: one HTML file that needs nothing but itself.

    For example:

      payouts report --ledger payouts.db --campaign diwali-2026 --out diwali.html --results diwali.csv
    """
    check_place("--out", out, ledger=ledger)
    check_place("--results", results, ledger=ledger, report=out)
    output = Output()
    write_report(ledger, out, campaign=campaign, vendor=vendor)
    written = [out]
    if results is not None:
        with LedgerReader(ledger) as reader:
            write_results(reader, reader.campaign(campaign, vendor), results)
        written.append(results)
    for path in written:
        output.record({"event": "written", "path": str(path)}, text=f"written: {path}")


def _show(figures: Figures, most: int | None, output: Output) -> None:
    campaign = figures.campaign
    output.say(f"{campaign.name} ({campaign.vendor}), {figures.done:,} of {figures.rows:,} rows paid", "bold")
    states = [state for state in ORDER if figures.counts.get(state)]
    sums = []
    for uid, item in figures.items.items():
        total = _sum(item.rows, item.total if item.sums else None)
        sums.append((uid, *(_sum(item.counts.get(state, 0), item.sums.get(state)) for state in states), total))
    output.draw("", ("item", *states, "all"), sums, right=(*states, "all"))
    shown = figures.open if most is None else figures.open[:most]
    if shown:
        waiting = figures.rows - figures.done
        title = f"not paid: {waiting:,}" + (f", the first {len(shown)}" if len(shown) < waiting else "")
        rows = [(each.id, each.state, each.recipient, each.amount, each.key, each.problem) for each in shown]
        output.draw(title, ("row", "state", "recipient", "amount", "key", "said"), rows, right=("amount",))


def _sum(count: int, amount: Decimal | None) -> str:
    if not count:
        return ""
    return f"{count:,}" if amount is None else f"{money.text(amount)} in {count:,}"


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
    for name, value in _facts(campaign, entry).items():
        if value is not None:
            output.say(f"{name:<14}{value}")
    if keys:
        output.draw("keys before this one", names, keys)


def _row_record(campaign: Campaign, entry: Entry) -> dict[str, str | int | None]:
    """Return what a program reads of a row; EnKash's field `event` is called `item` there, as each line has an `event`."""
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
        "problem_kind": entry.problem_kind,
        "problem": entry.problem,
        "note": entry.note,
        "planned_at": iso(entry.planned_at) or None,
        "sent_at": iso(entry.sent_at) or None,
        "accepted_at": iso(entry.accepted_at) or None,
        "settled_at": iso(entry.settled_at) or None,
    }
