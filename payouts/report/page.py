"""The report of a campaign: one self-contained HTML file."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from payouts import money
from payouts.audit.comparison import DIFFERENCES, shown
from payouts.ledger.place import LedgerPlace, place_of
from payouts.report.charts import WAY_CLASSES, duration, progress_chart, times_chart
from payouts.report.figures import ORDER, Figures, gather
from payouts.report.html import END, begin, moment, safe
from payouts.report.html import name as name_of
from payouts.report.results import replacing
from payouts.states import Entry, State
from payouts.vendors import ROW_TYPES
from rewards_core.text import counted
from rewards_core.validation import check_callable, check_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from payouts.ledger.reader import Audit, Campaign, Difference, LedgerReader

_MEANINGS = {
    State.PLANNED: "not sent yet",
    State.SENT: "sent, no answer yet",
    State.ACCEPTED: "accepted, not on the blockchain yet",
    State.DONE: "{done}",
    State.FAILED: "failed on the blockchain",
    State.MISMATCH: "settled, but not as the row says",
    State.REJECTED: "refused, not {done}",
    State.UNKNOWN: "may have been {done}; no confirmation",
}
_TO_DO = {
    State.UNKNOWN: "Ask the vendor about the key, then settle the row with <code>payouts resolve</code>.",
    State.MISMATCH: "Ask the vendor: the payment under the key differs from the row.",
    State.FAILED: "Fix the cause, then pay it again with a new key: <code>payouts retry --state failed</code>.",
    State.REJECTED: "Fix the cause, then pay it with a new key: <code>payouts retry --state rejected</code>.",
    State.ACCEPTED: "Run the same command again: it waits for the blockchain and sends nothing twice.",
    State.SENT: "Run the same command again: it looks the row up first. A row that cannot be looked up becomes unknown.",
    State.PLANNED: "Run the same command again. Later rows of the file may not be in the ledger yet.",
}
MAX_DIFFERENCES = 1_000
_WAYS = {"webhook": "by webhook", "poll": "by poll", "reply": "by the reply"}


def write_report(
    ledger: str | Path | LedgerPlace,
    path: str | Path,
    *,
    campaign: str | None = None,
    vendor: str | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Write the report of a campaign.

    Args:
        ledger: The file of the ledger, or the URL of its PostgreSQL database; a run may be writing to it.
        path: The HTML file; only its owner can read it.
        campaign: The campaign; may be left out if the ledger has only one.
        vendor: The vendor, if two campaigns have the same name.
        clock: Returns Unix time in seconds.

    Raises:
        LedgerError: the ledger cannot be read, or several campaigns match.
        OSError: the file cannot be written.
        TypeError: an argument is not a path.
        ValueError: a path cannot be used.
        RuntimeError: the ledger is in a database, and an event loop runs in this thread; call it by `asyncio.to_thread(...)`.
    """
    place, path = place_of(ledger), check_path(path, "path")
    check_callable(clock, "clock")
    with place.reader() as reader:
        figures = gather(reader, reader.campaign(campaign, vendor))
        audit = audit_section(reader, figures.campaign)
        warning = audit_headline(reader, figures.campaign)
    with replacing(path) as stream:
        for part in _page(figures, audit, warning, clock()):
            stream.write(part)


def _page(figures: Figures, audit: str, warning: str, now: float) -> Iterable[str]:
    name = safe(figures.campaign.name)
    yield begin(f"Payouts: {figures.campaign.name}")
    yield _header(figures, name)
    yield _summary(figures, warning)
    yield _amounts(figures)
    yield '<div class="pair">\n'
    yield _progress(figures)
    yield _times(figures)
    yield "</div>\n"
    yield _problems(figures)
    yield audit
    yield from _open(figures)
    yield f"<footer>Written {moment(now)} from the ledger; every sum is exact.</footer>\n{END}"


def _header(figures: Figures, name: str) -> str:
    campaign, progress = figures.campaign, figures.progress
    vendor = ROW_TYPES[campaign.vendor].title
    when = f"started {moment(campaign.opened_at)}"
    if progress is not None:
        begin, end = (datetime.fromtimestamp(moment, UTC) for moment in (progress.begin, progress.end))
        until = f"{end:%H:%M:%S} UTC" if begin.date() == end.date() else moment(progress.end)
        when = f"{begin:%d %B %Y, %H:%M:%S} to {until} · {duration(progress.end - progress.begin)}"
    where = f" · {safe(campaign.target)}" if campaign.target else ""
    return f'<header><p class="kicker">Payouts · {vendor}</p><h1>{name}</h1><p class="note">{when}{where}</p></header>\n'


def _summary(figures: Figures, warning: str) -> str:
    unknown, done = figures.counts.get(State.UNKNOWN, 0), ROW_TYPES[figures.campaign.vendor].done_word
    facts = [("rows", figures.rows), (done, figures.done), (f"not {done}", figures.rows - figures.done - unknown)]
    facts += [("unknown", unknown)] if unknown else []
    told = "".join(f"<div><dt>{word}</dt><dd>{number:,}</dd></div>" for word, number in facts)
    if len(figures.items) == 1 and not figures.more_items:
        ((uid, item),) = figures.items.items()
        if item.sums:
            told += f"<div><dt>of {safe(uid)} {done}</dt><dd>{_sum(item.sums.get(State.DONE, money.ZERO))}</dd></div>"
    states = [(state, figures.counts[state]) for state in ORDER if figures.counts.get(state)]
    bar = "".join(f'<span class="{state}" style="flex:{count}" title="{count:,} {state}"></span>' for state, count in states)
    meanings = {state: words.format(done=done) for state, words in _MEANINGS.items()}
    key = "".join(
        f'<li><span class="state {state}">{state}</span> <b>{count:,}</b> <span class="note">{meanings[state]}</span></li>'
        for state, count in states
    )
    return f'<section><dl class="facts">{told}</dl>{warning}<div class="share">{bar}</div><ul class="key">{key}</ul></section>\n'


def _amounts(figures: Figures) -> str:
    row_type = ROW_TYPES[figures.campaign.vendor]
    bodies = []
    for uid, item in figures.items.items():
        lines = [_amount_line("<b>all</b>", item.rows, item.total if item.sums else None)] if len(item.counts) > 1 else []
        lines += [_amount_line(_state(each), item.counts[each], item.sums.get(each)) for each in ORDER if each in item.counts]
        head = f'<th rowspan="{len(lines)}">{name_of(uid)}</th>'
        bodies.append(f"<tbody><tr>{head}{'</tr><tr>'.join(lines)}</tr></tbody>")
    more = f'<p class="note">And {figures.more_items:,} rows of others, not listed here.</p>' if figures.more_items else ""
    if row_type.has_amounts:
        title, note = f"Money by {row_type.item_word} and state", f"each {row_type.item_word} has its own token; sums are exact"
        amount = '<th class="number">Amount</th>'
    else:
        title, note, amount = f"Rows by {row_type.item_word} and state", f"the {row_type.item_word} sets the amount of a row", ""
    head = f'<thead><tr><th>{row_type.item_word.capitalize()}</th><th>State</th><th class="number">Rows</th>{amount}</tr></thead>'
    table = f'<div class="scroll"><table class="sums">{head}{"".join(bodies)}</table></div>'
    return f"<section><h2>{title}<small>{note}</small></h2>{table}{more}</section>\n"


def _amount_line(state: str, rows: int, amount: Decimal | None) -> str:
    exact = "" if amount is None else f'<td class="number amount">{_sum(amount)}</td>'
    return f"<td>{state}</td>{_rows(rows)}{exact}"


def _rows(count: int) -> str:
    return f'<td class="number rows">{count:,}</td>'


def _sum(amount: Decimal) -> str:
    """Return a sum that never breaks, and shrinks where the page is too narrow for its digits."""
    shown = money.shown(amount)
    digits = len(shown) - 0.5 * (shown.count(",") + shown.count("."))  # a separator is half as wide as a digit
    return f'<data class="sum" value="{money.text(amount)}" style="--digits:{digits}">{shown}</data>'


def _progress(figures: Figures) -> str:
    if figures.progress is None:
        again = " under the new keys" if figures.retired else ""
        return f"<section><h2>Progress over time</h2><p>Nothing has been sent{again} yet.</p></section>\n"
    progress = figures.progress
    lasted = progress.end - progress.begin
    rows = "".join(
        f'<tr><td><span class="state {colour}">{word}</span></td><td class="number">{count:,}</td>'
        f'<td class="number">{count / lasted:,.1f}</td></tr>'
        for word, colour, count in (("sent", "sent", progress.sent[-1]), ("settled", "done", progress.settled[-1]))
    )
    head = '<th>Rows</th><th class="number">total</th><th class="number">per second, on average</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<section><h2>Progress over time<small>UTC</small></h2>{progress_chart(progress)}{table}</section>\n"


def _times(figures: Figures) -> str:
    title = "<h2>Time to settle<small>from the first request</small></h2>"
    if not figures.times:
        told = "No row was settled by webhook, poll or reply." if figures.settled else "No row has been settled yet."
        return f"<section>{title}<p>{told}</p></section>\n"
    rows = "".join(
        f'<tr><td><span class="state {WAY_CLASSES[way]}">{_WAYS[way]}</span></td>'
        f'<td class="number">{each.rows:,}</td>'
        + "".join(f'<td class="number">{duration(value)}</td>' for value in (each.median, each.p95, each.longest))
        + "</tr>"
        for way, each in figures.times.items()
    )
    head = "".join(f'<th class="number">{word}</th>' for word in ("rows", "median", "95%", "longest"))
    table = f"<table><thead><tr><th>Settled</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<section>{title}{times_chart(figures.times)}<div class="scroll">{table}</div></section>\n'


def _problems(figures: Figures) -> str:
    retired = ""
    if figures.retired:
        words = counted(figures.retired, "key was", "keys were")
        retired = f'<p class="note">{words} replaced by <code>payouts retry</code>; the ledger keeps the old ones.</p>'
    if not figures.problems:
        return f"<section><h2>Errors by kind</h2><p>None.</p>{retired}</section>\n"
    rows = "".join(
        f"<tr><td>{_state(problem.state)}</td><td>{name_of(problem.kind)}</td>{_rows(problem.rows)}"
        f"<td>{_said(safe(problem.example))}</td></tr>"
        for problem in figures.problems
    )
    head = '<th>State</th><th>Error</th><th class="number">Rows</th><th>Example</th>'
    table = f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<section><h2>Errors by kind</h2><div class="scroll">{table}</div>{retired}</section>\n'


def _open(figures: Figures) -> Iterable[str]:
    row_type, waiting = ROW_TYPES[figures.campaign.vendor], figures.rows - figures.done
    yield f"<section><h2>Not confirmed as {row_type.done_word}<small>{waiting:,} of {figures.rows:,} rows</small></h2>"
    if not figures.open:
        told = f"None: every row is {row_type.done_word}." if figures.rows else "The campaign has no rows yet."
        yield f"<p>{told}</p></section>\n"
        return
    yield _to_do(figures)
    what = f"<th>{row_type.item_word.capitalize()}</th>"
    what += '<th class="number">Amount</th>' if row_type.has_amounts else ""
    yield (
        '<div class="scroll"><table class="cards"><thead><tr><th>Row</th><th>State</th><th>Recipient</th>'
        f"{what}</tr></thead><tbody>\n"
    )
    for entry in figures.open:
        yield _open_row(entry)
    yield "</tbody></table></div>"
    if waiting > len(figures.open):
        more = f"And {waiting - len(figures.open):,} more: <code>payouts report --results</code> writes every row."
        yield f'<p class="note">{more}</p>'
    yield "</section>\n"


def _open_row(entry: Entry) -> str:
    amount = "" if entry.amount is None else f'<td class="number amount">{_sum(Decimal(entry.amount))}</td>'
    row = (
        f"<td>{name_of(entry.id)}</td><td>{_state(entry.state)}</td><td>{name_of(entry.recipient)}</td>"
        f"<td>{name_of(entry.item)}</td>{amount}"
    )
    known = f"key {name_of(entry.key)}" + (f" · uid {name_of(entry.uid)}" if entry.uid else "")
    said = " · ".join(safe(text) for text in (entry.problem, entry.note) if text)
    below = f'<td colspan="{5 if amount else 4}"><div class="note">{known}</div>{_said(said) if said else ""}</td>'
    return f'<tr class="goes-on">{row}</tr><tr>{below}</tr>\n'


def _to_do(figures: Figures) -> str:
    """Return what to do about the open rows, once for each state."""
    to_do = dict(_TO_DO)
    if ROW_TYPES[figures.campaign.vendor].has_lookup:
        to_do[State.UNKNOWN] = (
            "Run the same command again: it looks the row up. If it stays unknown, ask the vendor about the key, then settle the "
            "row with <code>payouts resolve</code>."
        )
    told = "".join(
        f"<li>{_state(state)} <span>{advice}</span></li>" for state, advice in to_do.items() if figures.counts.get(state)
    )
    return f'<ul class="to-do">{told}</ul>'


def _said(text: str) -> str:
    return f'<div class="said">{text}</div>'


def _state(state: State) -> str:
    return f'<span class="state {state}">{state}</span>'


def audit_section(reader: LedgerReader, campaign: Campaign) -> str:
    """Return the section as HTML."""
    audit = reader.last_audit(campaign)
    if audit is None or audit.ended_at is None:
        return "<section><h2>Audit</h2><p>Not compared with the vendor's books yet: <code>payouts audit</code>.</p></section>\n"
    when = f"{datetime.fromtimestamp(audit.ended_at, UTC):%-d %B %Y, %H:%M} UTC"
    found = _differences(reader, audit, campaign)
    listed = list(islice(found, MAX_DIFFERENCES))
    more = sum(1 for _ in found)
    told = f"{audit.rows:,} rows were compared with the vendor's books."
    if audit.unchecked:
        told += f" {audit.unchecked:,} could not be checked."
    told += " Nothing differs." if not listed else ""
    parts = [f'<section id="audit"><h2>Audit<small>{when}</small></h2><p>{told}</p>']
    if listed:
        meanings = "".join(f"<li><b>{kind}</b> <span>{_advice(kind)}</span></li>" for kind in DIFFERENCES if _has(listed, kind))
        head = "".join(f"<th>{word}</th>" for word in ("Row", "Kind", "Ledger said", "Vendor said", "Uid"))
        rows = "".join(_difference(each) for each in listed)
        parts.append(f'<ul class="to-do">{meanings}</ul><div class="scroll"><table class="cards"><thead><tr>{head}</tr></thead>')
        parts.append(f"<tbody>{rows}</tbody></table></div>")
    if more:
        parts.append(f'<p class="note">And {more:,} more.</p>')
    return "".join([*parts, "</section>\n"])


def audit_headline(reader: LedgerReader, campaign: Campaign) -> str:
    """Return a warning, as HTML, of differences that the last audit found and did not correct; empty if there are none."""
    audit = reader.last_audit(campaign)
    if audit is None or audit.ended_at is None:
        return ""
    left = sum(not each.applied for each in _differences(reader, audit, campaign))
    if not left:
        return ""
    day = f"{datetime.fromtimestamp(audit.ended_at, UTC):%-d %B %Y}"
    return f'<p class="warning">The audit of {day} found {counted(left, "difference")}; see <a href="#audit">Audit</a>.</p>'


def _differences(reader: LedgerReader, audit: Audit, campaign: Campaign) -> Iterator[Difference]:
    """Yield the differences of the campaign's rows, and those that concern no row but one of its users."""
    users: frozenset[str] | None = None
    for each in reader.differences(audit, DIFFERENCES):
        if each.row_id is None:
            users = frozenset(reader.recipients([campaign])) if users is None else users
        if each.campaign == campaign.name or (each.row_id is None and each.recipient in (users or ())):
            yield each


def _difference(each: Difference) -> str:
    kind = f"{each.kind}, corrected" if each.applied else each.kind
    cells = (each.row_id or each.recipient, kind, shown(each.kind, each.ledger), shown(each.kind, each.vendor), each.uid or "")
    return f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in cells)}</tr>"


def _has(listed: list[Difference], kind: str) -> bool:
    return any(each.kind == kind and not each.applied for each in listed)


def _advice(kind: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", safe(DIFFERENCES[kind]))
