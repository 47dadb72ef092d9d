"""`payouts status`: the progress of a campaign, also during a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from payouts import money
from payouts.cells import iso
from payouts.cli.confirmation import MAX_SHOWN
from payouts.cli.fleet_display import Pace
from payouts.cli.options import CampaignOptions, with_exit_codes
from payouts.details import as_cell, read_details
from payouts.ledger.reader import Campaign, LedgerReader
from payouts.ledger.schema import moved_of
from payouts.report.figures import MAX_LISTED, ORDER, Figures, Item, summarize
from payouts.states import Entry, State
from payouts.vendors import FIELDS, ROW_TYPES
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, fail, ignore_broken_pipe, print_stderr
from rewards_core.text import one_line

if TYPE_CHECKING:
    from payouts.ledger.reader import RetiredKey

_UNDER_WAY = (State.PLANNED, State.SENT, State.ACCEPTED)
_GLANCE, _REDRAW_EVERY = 1.0, 2.0
_LABELS = {"answer": "HTTP status", "absent_since": "first absent", "absent_at": "last absent"}


@with_exit_codes
@with_option_groups
def status(
    row: Annotated[str | None, typer.Argument(help="The id of a row, to show all its details.")] = None,
    *,
    which: CampaignOptions,
    every: Annotated[bool, typer.Option("--all", help="List every row not confirmed as paid; as text, at most 10,000.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every 2 seconds, until no row is planned or under way.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Show the progress of a campaign, or list the campaigns of a ledger; also during a run.

    For a PostgreSQL ledger, it also shows the workers and their total rate.

    For example:

      payouts status --ledger payouts.db

      payouts status --ledger payouts.db --campaign diwali-2026

      payouts status order-17 --ledger payouts.db --campaign diwali-2026

      payouts status --ledger postgresql://pay@db/payouts --campaign may --watch
    """
    output = Output(as_json)
    with which.ledger.reader() as reader, ignore_broken_pipe():
        if which.ledger.path is not None and (moved := reader.ask(moved_of)) is not None:
            print_stderr(f"{which.ledger} {moved}; this is how it was before.", "yellow")
        if which.campaign is None and row is None:
            listed = [each for each in reader.campaigns() if which.grants in {None, each.vendor}]
            if len(listed) > 1:
                _list(reader, listed, output)
                return
        chosen = reader.campaign(which.campaign, which.grants)
        if row is not None:
            entry = reader.find(chosen, row)
            if entry is None:
                fail(f"Campaign {chosen.name} has no row {row}.", Exit.NOT_FOUND)
            retired = [key for key in reader.retired_keys(chosen) if key.row_id == row]
            _show_row(chosen, entry, retired, output)
            return
        pace = Pace(reader, chosen)
        pace.look()
        if pace.is_moving:
            pace.look_again(_GLANCE)
        while True:
            figures, not_done = summarize(reader, chosen)
            if watch and output.console.is_terminal and not output.as_json:
                output.console.clear()
            if output.as_json:
                _record(figures, pace, not_done if every else islice(not_done, MAX_SHOWN), output)
            else:
                _show(figures, pace, list(islice(not_done, MAX_LISTED if every else MAX_SHOWN)), output)
            if not watch or not any(figures.counts.get(state) for state in _UNDER_WAY):
                return
            pace.look_again(_REDRAW_EVERY)


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


def _show(figures: Figures, pace: Pace, shown: Sequence[Entry], output: Output) -> None:
    campaign = figures.campaign
    row_type = ROW_TYPES[campaign.vendor]
    output.say(f"{campaign.name} ({campaign.vendor}): {figures.done:,} of {figures.rows:,} rows {row_type.done_word}", "bold")
    lines: list[tuple[object, ...]] = []
    for uid, item in figures.items.items():
        lines.append((uid, f"{item.rows:,}", money.shown(item.total) if row_type.has_amounts else ""))
        for state in ORDER:
            if count := item.counts.get(state):
                amount = item.sums.get(state)
                lines.append((Text(f"  {state}"), f"{count:,}", "" if amount is None else money.shown(amount)))
    columns = (row_type.item_word, "rows", *(["amount"] if row_type.has_amounts else []))
    output.draw("", columns, (line[: len(columns)] for line in lines), right=("rows", "amount"))
    if figures.more_items:
        output.say(f"rows of other {columns[0]}s, not listed: {figures.more_items:,}")
    pace.show(figures, output)
    if shown:
        waiting = figures.rows - figures.done
        part = f", the first {len(shown):,}" if len(shown) < waiting else ""
        output.say("")
        output.say(f"not confirmed as {row_type.done_word}: {waiting:,}{part}", "bold")
    for entry in shown:
        what = entry.item if entry.amount is None else f"{money.shown(entry.amount)} of {entry.item}"
        output.say(f"{entry.id}: {entry.state}, {what} to {entry.recipient}")
        output.lines(f"    key {entry.key}")
        if told := entry.note or entry.problem:  # a note supersedes the problem before it
            output.lines(f"    {one_line(told)}")


def _record(figures: Figures, pace: Pace, rows: Iterable[Entry], output: Output) -> None:
    campaign = figures.campaign
    output.record(
        {
            "event": "status",
            "campaign": campaign.name,
            "vendor": campaign.vendor,
            "rows": figures.rows,
            **{state.value: figures.counts.get(state, 0) for state in State},
            "sums": {uid: _plain(item) for uid, item in figures.items.items()},
            **pace.facts(figures),
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
            output.say(f"{_LABELS.get(name, name):<14}{as_cell(value) if isinstance(value, bool) else value}")
    if keys:
        output.draw("keys before this one", names, keys)


def _row_record(campaign: Campaign, entry: Entry) -> dict[str, str | int | None]:
    """Return the JSON record of a row; EnKash's `event` is called `item` there, as every record has its own `event`."""
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
        **read_details(entry.details),
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
