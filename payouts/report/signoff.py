"""The decisions as files for sign-off: CSV for a spreadsheet, and one HTML page to read, print and sign."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from payouts import money
from payouts.cells import iso, protect
from payouts.report.html import END, begin, moment, name, safe
from payouts.report.results import replacing
from rewards_core.text import counted

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from payouts.ledger.decisions import Decision

_STYLE = """
main { max-width: 84rem; }
.sign { display: flex; flex-wrap: wrap; gap: 3rem 2rem; margin-top: 3rem; break-inside: avoid; }
.sign span { flex: 1 1 12rem; padding-top: .35rem; border-top: 1px solid var(--ink); font-size: .875rem; }
.undone td { color: var(--muted); }
.whole { white-space: nowrap; }
.words { min-width: 14rem; overflow-wrap: anywhere; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  main { max-width: none; padding: 0; } section { break-inside: auto; } tr { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: .6875rem; } thead { display: table-header-group; }
  .name { white-space: normal; overflow-wrap: anywhere; font-size: .6875rem; } .words { min-width: 0; }
}
"""
_KINDS = {
    "resolve": "settled by hand",
    "undo": "decision undone",
    "retry": "retry with a new key",
    "repeats": "repeats allowed",
    "audit": "corrected by an audit",
    "newest": "ledger declared the newest copy",
}
_COLUMNS = (
    *("number", "at", "by", "kind", "campaign", "vendor", "row", "recipient", "item", "amount", "key", "from", "to", "note"),
    *("evidence", "undone_by"),
)
_HEADS = ("No.", "When (UTC), who", "Decision", "Row, campaign", "Recipient", "What", "From → to", "Key", "Note, evidence")


def record_of(decision: Decision) -> dict[str, str | int | None]:
    """Return a decision as a JSON record."""
    shown = {"at": iso(decision.at), "from": decision.was, "to": decision.became}
    return {name: shown[name] if name in shown else getattr(decision, name) for name in _COLUMNS}


def write_csv(path: Path, decisions: Iterable[Decision]) -> None:
    """Write decisions as CSV without formulas that only its owner can read."""
    with replacing(path) as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for decision in decisions:
            writer.writerow([protect(None if value is None else str(value)) for value in record_of(decision).values()])


def write_html(path: Path, decisions: Sequence[Decision], *, scope: str, at: float) -> None:
    """Write decisions as one HTML page with lines to sign that only its owner can read."""
    with replacing(path) as stream:
        for part in _page(decisions, scope, at):
            stream.write(part)


def _page(decisions: Sequence[Decision], scope: str, at: float) -> Iterator[str]:
    yield begin(f"Decisions: {scope}", _STYLE)
    yield (
        f'<header><p class="kicker">Payouts · decisions by hand</p><h1>{safe(scope)}</h1>'
        f'<p class="note">{counted(len(decisions), "decision")} · written {moment(at)}</p></header>\n'
    )
    yield _totals(decisions)
    yield from _table(decisions)
    lines = "".join(f"<span>{word}</span>" for word in ("Checked by", "Signature", "Date"))
    yield f'<section><h2>Sign-off</h2><div class="sign">{lines}</div></section>\n{END}'


def _totals(decisions: Sequence[Decision]) -> str:
    rows: dict[tuple[str, str, str], int] = {}
    sums: dict[tuple[str, str, str], Decimal] = {}
    for decision in decisions:
        if decision.undone_by is None and decision.row is not None and decision.kind != "undo":
            of = (decision.kind, decision.became or "", decision.item or "")
            rows[of] = rows.get(of, 0) + 1
            if decision.amount is not None:
                sums[of] = money.add(sums.get(of, money.ZERO), decision.amount)
    if not rows:
        return ""
    lines = "".join(
        f'<tr><td>{_kind(of[0])}</td><td>{safe(of[1])}</td><td>{name(of[2])}</td><td class="number">{count:,}</td>'
        f'<td class="number">{money.shown(sums[of]) if of in sums else ""}</td></tr>'
        for of, count in sorted(rows.items())
    )
    head = '<th>Decision</th><th>To</th><th>Reward or event</th><th class="number">rows</th><th class="number">total</th>'
    return (
        '<section><h2>Totals<small>without undone decisions</small></h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div></section>\n"
    )


def _table(decisions: Sequence[Decision]) -> Iterator[str]:
    yield "<section><h2>Every decision</h2>"
    if not decisions:
        yield "<p>None.</p></section>\n"
        return
    heads = "".join(f"<th>{head}</th>" for head in _HEADS)
    yield f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n'
    for decision in decisions:
        yield _line(decision)
    yield "</tbody></table></div></section>\n"


def _line(decision: Decision) -> str:
    undone = decision.undone_by is not None
    undone_by = f'<span class="count">undone by no. {decision.undone_by}</span>' if undone else ""
    may = f'<span class="count">for campaign {safe(decision.campaign)}</span>' if decision.kind == "repeats" else ""
    amount = "" if decision.amount is None else f'<span class="whole">{money.shown(decision.amount)} of</span> '
    words = [safe(text) for text in (decision.note, decision.evidence) if text]
    moved = " → ".join(f'<span class="whole">{safe(state)}</span>' for state in (decision.was, decision.became) if state)
    when = datetime.fromtimestamp(decision.at, UTC).strftime("%Y-%m-%d %H:%M")
    cells = (
        f"<td>{decision.number}</td>"
        f'<td><span class="whole">{when}</span><span class="count">{safe(decision.by)}</span></td>'
        f"<td>{_kind(decision.kind)}{may}{undone_by}</td>"
        f'<td>{name(decision.row or "")}<span class="count">{safe(decision.campaign or "")}</span></td>'
        f"<td>{name(decision.recipient or '')}</td>"
        f"<td>{amount}{name(decision.item or '')}</td>"
        f"<td>{moved}</td><td>{name(decision.key or '')}</td>"
        f'<td><div class="words">{"<br>".join(words)}</div></td>'
    )
    return f'<tr class="undone">{cells}</tr>\n' if undone else f"<tr>{cells}</tr>\n"


def _kind(kind: str) -> str:
    return _KINDS.get(kind, safe(kind))
