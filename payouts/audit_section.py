"""The report's section on the last audit: whether the vendor's books bear out what the report says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING

from payouts.audit import DIFFERENCES
from payouts.page import safe

if TYPE_CHECKING:
    from payouts.ledger_reader import Campaign, Difference, LedgerReader

MOST_LISTED = 1_000


def audit_section(reader: LedgerReader, campaign: Campaign) -> str:
    """Return the section as HTML.

    Args:
        reader: The ledger.
        campaign: The campaign that is reported on.
    """
    audit = reader.last_audit(campaign)
    if audit is None or audit.ended_at is None:
        return "<section><h2>Audit</h2><p>Not compared with the vendor's books yet: <code>payouts audit</code>.</p></section>\n"
    when = f"{datetime.fromtimestamp(audit.ended_at, UTC):%d %B %Y, %H:%M} UTC"
    found = reader.differences(audit.number, list(DIFFERENCES), campaign)
    shown = list(islice(found, MOST_LISTED))
    more = sum(1 for _ in found)
    told = f"{audit.rows:,} rows were compared with the vendor's books."
    if audit.unchecked:
        told += f" {audit.unchecked:,} could not be checked."
    told += " Nothing differs." if not shown else ""
    parts = [f"<section><h2>Audit<small>{when}</small></h2><p>{told}</p>"]
    if shown:
        meanings = "".join(f"<li><b>{kind}</b> <span>{_advice(kind)}</span></li>" for kind in DIFFERENCES if _has(shown, kind))
        head = "".join(f"<th>{word}</th>" for word in ("Row", "Kind", "Ledger said", "Vendor said", "Uid"))
        rows = "".join(_row(each) for each in shown)
        parts.append(f'<ul class="to-do">{meanings}</ul><div class="scroll"><table class="cards"><thead><tr>{head}</tr></thead>')
        parts.append(f"<tbody>{rows}</tbody></table></div>")
    if more:
        parts.append(f'<p class="note">And {more:,} more.</p>')
    return "".join([*parts, "</section>\n"])


def _row(each: Difference) -> str:
    kind = f"{each.kind}, corrected" if each.applied else each.kind
    cells = (each.row_id or each.recipient, kind, each.ledger, each.vendor, each.uid or "")
    return f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in cells)}</tr>"


def _has(shown: list[Difference], kind: str) -> bool:
    return any(each.kind == kind and not each.applied for each in shown)


def _advice(kind: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", safe(DIFFERENCES[kind]))
