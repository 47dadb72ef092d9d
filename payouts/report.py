"""The report: one HTML file that needs nothing but itself, in which no vendor's text can do anything but be read."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from payouts import money
from payouts.charts import WAY_CLASSES, duration, progress_chart, times_chart
from payouts.figures import ORDER, Figures, gather
from payouts.ledger_reader import LedgerReader
from payouts.results import replacing
from payouts.states import Entry, State
from vendor_http.secrets import one_line

if TYPE_CHECKING:
    from pathlib import Path

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_MEANINGS = {
    State.PLANNED: "not sent yet",
    State.SENT: "on the way, answer not known yet",
    State.ACCEPTED: "accepted, the chain has not finished",
    State.DONE: "paid",
    State.FAILED: "the chain said failed",
    State.MISMATCH: "settled as something else than asked",
    State.REJECTED: "refused, nothing was paid",
    State.UNKNOWN: "may have been paid; no confirmation",
}
_TO_DO = {
    State.ACCEPTED: "run the same command again: it waits for the chain, and sends nothing twice",
    State.SENT: "run the same command again: it asks first what became of them; where nobody can be asked they become unknown",
    State.PLANNED: "run the same command again; what stands after them in the file may not be in the ledger yet",
    State.UNKNOWN: "ask the vendor about its key, then settle by hand with <code>payouts resolve</code>",
    State.MISMATCH: "ask the vendor: what was paid under the key is not what the row says",
    State.FAILED: "pay anew under another key with <code>payouts retry</code>, once the cause is gone",
    State.REJECTED: "mend what was refused, then pay anew under another key with <code>payouts retry</code>",
}
_WAYS = {"webhook": "by webhook", "poll": "by poll", "reply": "by the reply"}


def write_report(
    ledger: str | Path,
    path: str | Path,
    *,
    campaign: str | None = None,
    vendor: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Figures:
    """Write the report of a campaign and return what it says.

    Args:
        ledger: The ledger, also while a run works with it.
        path: Where the HTML file goes; only its owner can read it.
        campaign: Which one; may be left out where the ledger has one only.
        vendor: Which vendor's, where two campaigns share a name.
        clock: Seconds since the epoch.

    Raises:
        LedgerError: the ledger cannot be read, or the campaign is not clear.
        OSError: the file cannot be written.
    """
    with LedgerReader(ledger) as reader:
        figures = gather(reader, reader.campaign(campaign, vendor))
    with replacing(path) as stream:
        for part in _page(figures, clock()):
            stream.write(part)
    return figures


def safe(text: object) -> str:
    """Return a text as one line of HTML in which nothing is markup."""
    return html.escape(one_line(str(text), 1000), quote=True)


def _page(figures: Figures, now: float) -> Iterable[str]:
    name = safe(figures.campaign.name)
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f'<link rel="icon" href="data:,"><title>Payouts: {name}</title>\n<style>\n{_style()}</style></head>\n<body><main>\n'
    )
    yield _header(figures, name)
    yield _summary(figures)
    yield _amounts(figures)
    yield '<div class="pair">\n'
    yield _progress(figures)
    yield _times(figures)
    yield "</div>\n"
    yield _problems(figures)
    yield from _open(figures)
    yield f"<footer>Written {_moment(now)} from the ledger; every sum is exact.</footer>\n</main></body></html>\n"


def _style() -> str:
    return files("payouts").joinpath("report.css").read_text("utf-8")


def _header(figures: Figures, name: str) -> str:
    campaign, progress = figures.campaign, figures.progress
    vendor = {"original": "Original tokens", "enkash": "EnKash coins"}[campaign.vendor]
    when = f"begun {_moment(campaign.opened_at)}"
    if progress is not None:
        begin, end = (datetime.fromtimestamp(moment, UTC) for moment in (progress.begin, progress.end))
        until = f"{end:%H:%M:%S} UTC" if begin.date() == end.date() else _moment(progress.end)
        when = f"{begin:%d %B %Y, %H:%M:%S} to {until} · {duration(progress.end - progress.begin)}"
    where = f" · {safe(campaign.target)}" if campaign.target else ""
    return f'<header><p class="kicker">Payouts · {vendor}</p><h1>{name}</h1><p class="note">{when}{where}</p></header>\n'


def _summary(figures: Figures) -> str:
    facts = [("rows", f"{figures.rows:,}"), ("paid", f"{figures.done:,}"), ("not paid", f"{figures.rows - figures.done:,}")]
    if len(figures.items) == 1 and not figures.more_items:
        ((uid, item),) = figures.items.items()
        if item.sums:
            facts.append((f"of {uid} paid", money.text(item.sums.get(State.DONE, money.ZERO))))
    told = "".join(f"<div><dt>{safe(word)}</dt><dd>{safe(value)}</dd></div>" for word, value in facts)
    states = [(state, figures.counts[state]) for state in ORDER if figures.counts.get(state)]
    bar = "".join(f'<span class="{state}" style="flex:{count}" title="{count:,} {state}"></span>' for state, count in states)
    key = "".join(
        f'<li><span class="state {state}">{state}</span> <b>{count:,}</b> <span class="note">{_MEANINGS[state]}</span></li>'
        for state, count in states
    )
    return f'<section><dl class="facts">{told}</dl><div class="share">{bar}</div><ul class="key">{key}</ul></section>\n'


def _amounts(figures: Figures) -> str:
    states = [state for state in ORDER if figures.counts.get(state)]
    coins = figures.campaign.vendor == "enkash"
    head = "".join(f'<th class="number">{_state(state)}</th>' for state in states)
    rows = []
    for uid, item in figures.items.items():
        cells = []
        for state in states:
            count, amount = item.counts.get(state, 0), item.sums.get(state)
            exact = "" if amount is None else money.text(amount)
            cells.append(_amount_cell(count, exact))
        total = _amount_cell(item.rows, money.text(item.total) if item.sums else "")
        rows.append(f"<tr><td>{_name(uid)}</td>{''.join(cells)}{total}</tr>")
    more = f'<p class="note">And {figures.more_items:,} rows of further ones, not listed here.</p>' if figures.more_items else ""
    what = "Event" if coins else "Reward"
    title = "Rows by event and state" if coins else "Money by reward and state"
    note = "how many coins a row gives is configured with its event" if coins else "different rewards are never added up"
    return (
        f'<section><h2>{title}<small>{note}</small></h2><div class="scroll"><table><thead><tr><th>{what}</th>{head}'
        f'<th class="number">all</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>{more}</section>\n'
    )


def _amount_cell(count: int, exact: str) -> str:
    if not count:
        return '<td class="number note">·</td>'
    rows = f"{count:,} row" if count == 1 else f"{count:,} rows"
    return f'<td class="number">{exact}<span class="count">{rows}</span></td>' if exact else f'<td class="number">{rows}</td>'


def _progress(figures: Figures) -> str:
    if figures.progress is None:
        return "<section><h2>Progress over time</h2><p>Nothing has been sent yet.</p></section>\n"
    progress = figures.progress
    lasted = progress.end - progress.begin
    rows = "".join(
        f'<tr><td><span class="state {colour}">{word}</span></td><td class="number">{count:,}</td>'
        f'<td class="number">{count / lasted:,.1f}</td></tr>'
        for word, colour, count in (("sent", "sent", progress.sent[-1]), ("settled", "done", progress.settled[-1]))
    )
    head = '<th>Rows</th><th class="number">in all</th><th class="number">a second, on average</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<section><h2>Progress over time<small>UTC</small></h2>{progress_chart(progress)}{table}</section>\n"


def _times(figures: Figures) -> str:
    title = "<h2>Time to settle<small>from the first request to a known end</small></h2>"
    if not figures.times:
        return f"<section>{title}<p>No row has been settled yet.</p></section>\n"
    rows = "".join(
        f'<tr><td><span class="state {WAY_CLASSES[way]}">{_WAYS[way]}</span></td>'
        f'<td class="number">{each.rows:,}</td>'
        + "".join(f'<td class="number">{duration(value)}</td>' for value in (each.median, each.p95, each.longest))
        + "</tr>"
        for way, each in figures.times.items()
    )
    head = "".join(f'<th class="number">{word}</th>' for word in ("rows", "median", "95 of 100", "longest"))
    table = f"<table><thead><tr><th>News came</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<section>{title}{times_chart(figures.times)}<div class="scroll">{table}</div></section>\n'


def _problems(figures: Figures) -> str:
    retired = ""
    if figures.retired:
        words = "1 key was" if figures.retired == 1 else f"{figures.retired:,} keys were"
        retired = f'<p class="note">{words} replaced by a retry; results.csv and the ledger link them.</p>'
    if not figures.problems:
        return f"<section><h2>Errors by kind</h2><p>None.</p>{retired}</section>\n"
    rows = "".join(
        f'<tr><td>{_state(problem.state)}</td><td>{_name(problem.kind)}</td><td class="number">{problem.rows:,}</td>'
        f"<td>{_said(safe(problem.example))}</td></tr>"
        for problem in figures.problems
    )
    head = '<th>State</th><th>Error</th><th class="number">rows</th><th>One of them said</th>'
    table = f'<table class="problems"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<section><h2>Errors by kind</h2><div class="scroll">{table}</div>{retired}</section>\n'


def _open(figures: Figures) -> Iterable[str]:
    waiting = figures.rows - figures.done
    yield f"<section><h2>Everything not paid<small>{waiting:,} of {figures.rows:,} rows</small></h2>"
    if not figures.open:
        yield "<p>Nothing: every row is paid.</p></section>\n"
        return
    yield _to_do(figures)
    amount = '<th class="number">amount</th>' if figures.campaign.vendor == "original" else ""
    yield (
        '<div class="scroll"><table><thead><tr><th>Row</th><th>State</th><th>Recipient</th>'
        f"<th>What</th>{amount}<th>Key and uid</th></tr></thead><tbody>\n"
    )
    for entry in figures.open:
        yield _open_row(entry)
    yield "</tbody></table></div>"
    if waiting > len(figures.open):
        yield f'<p class="note">And {waiting - len(figures.open):,} more, all of them in results.csv.</p>'
    yield "</section>\n"


def _open_row(entry: Entry) -> str:
    amount = "" if entry.amount is None else f'<td class="number">{safe(entry.amount)}</td>'
    uid = f'<span class="count">{_name(entry.uid)}</span>' if entry.uid else ""
    said = " · ".join(safe(text) for text in (entry.problem, entry.note) if text)
    row = (
        f"<td>{_name(entry.id)}</td><td>{_state(entry.state)}</td><td>{_name(entry.recipient)}</td>"
        f"<td>{_name(entry.item)}</td>{amount}<td>{_name(entry.key)}{uid}</td>"
    )
    if not said:
        return f"<tr>{row}</tr>\n"
    return f'<tr class="goes-on">{row}</tr><tr><td colspan="{6 if amount else 5}">{_said(said)}</td></tr>\n'


def _to_do(figures: Figures) -> str:
    """Say what can be done about the rows that are there, once for each state."""
    told = "".join(
        f"<li>{_state(state)} <span>{_looked_up_first(figures, state)}{_TO_DO[state]}</span></li>"
        for state in ORDER
        if state in _TO_DO and figures.counts.get(state)
    )
    return f'<ul class="to-do">{told}</ul>'


def _looked_up_first(figures: Figures, state: State) -> str:
    by_key = state is State.UNKNOWN and figures.campaign.vendor == "original"
    return "run the same command again: it looks them up; if they stay unknown, " if by_key else ""


def _said(text: str) -> str:
    return f'<div class="said">{text}</div>'


def _state(state: State) -> str:
    return f'<span class="state {state}">{state}</span>'


def _name(text: str) -> str:
    """Return an id, which is not broken into lines unless it is very long."""
    return f'<span class="{"name" if len(text) <= 32 else "name long"}">{safe(text)}</span>'


def _moment(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%d %B %Y, %H:%M:%S} UTC"
