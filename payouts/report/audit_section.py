"""The report's section on the last audit."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from payouts.audit.comparison import DIFFERENCES, shown
from payouts.report.html import safe
from rewards_core.text import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from payouts.ledger.reader import Audit, Campaign, Difference, LedgerReader

MAX_LISTED = 1_000


def audit_section(reader: LedgerReader, campaign: Campaign) -> str:
    """Return the section as HTML."""
    audit = reader.last_audit(campaign)
    if audit is None or audit.ended_at is None:
        return "<section><h2>Audit</h2><p>Not compared with the vendor's books yet: <code>payouts audit</code>.</p></section>\n"
    when = f"{datetime.fromtimestamp(audit.ended_at, UTC):%-d %B %Y, %H:%M} UTC"
    found = _differences(reader, audit, campaign)
    listed = list(islice(found, MAX_LISTED))
    more = sum(1 for _ in found)
    told = f"{audit.rows:,} rows were compared with the vendor's books."
    if audit.unchecked:
        told += f" {audit.unchecked:,} could not be checked."
    told += " Nothing differs." if not listed else ""
    parts = [f'<section id="audit"><h2>Audit<small>{when}</small></h2><p>{told}</p>']
    if listed:
        meanings = "".join(f"<li><b>{kind}</b> <span>{_advice(kind)}</span></li>" for kind in DIFFERENCES if _has(listed, kind))
        head = "".join(f"<th>{word}</th>" for word in ("Row", "Kind", "Ledger said", "Vendor said", "Uid"))
        rows = "".join(_row(each) for each in listed)
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
    for each in reader.differences(audit.number, list(DIFFERENCES)):
        if each.row_id is None:
            users = frozenset(reader.recipients([campaign])) if users is None else users
        if each.campaign == campaign.name or (each.row_id is None and each.recipient in (users or ())):
            yield each


def _row(each: Difference) -> str:
    kind = f"{each.kind}, corrected" if each.applied else each.kind
    cells = (each.row_id or each.recipient, kind, shown(each.kind, each.ledger), shown(each.kind, each.vendor), each.uid or "")
    return f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in cells)}</tr>"


def _has(listed: list[Difference], kind: str) -> bool:
    return any(each.kind == kind and not each.applied for each in listed)


def _advice(kind: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", safe(DIFFERENCES[kind]))
