"""The rows of a campaign as a file that a spreadsheet opens without running anything in it."""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from payouts.ledger.reader import FIELDS, Campaign, LedgerReader
from rewards_core.validation import check_path

_FORMULA = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"  # the last four are full-width, which some spreadsheets run as well
_to_protect = re.compile(f"'*{_FORMULA}").match
_is_protected = re.compile(f"'+{_FORMULA}").match
_TOLD = ("retries", "uid", "settled_by", "problem_kind", "problem", "note")
_MOMENTS = ("planned_at", "sent_at", "accepted_at", "settled_at")


def write_results(reader: LedgerReader, campaign: Campaign, path: str | Path) -> int:
    """Write every row of a campaign as CSV and return how many there were; the file is its owner's alone.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.

    Raises:
        TypeError: `path` is no path.
        ValueError: `path` cannot be one.
    """
    rows = 0
    with replacing(check_path(path, "path")) as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(header_of(campaign.vendor))
        for entry in reader.entries(campaign):
            grant = [entry.id, str(entry.line), entry.state, entry.recipient, entry.item, entry.amount, entry.key]
            said = [str(entry.retries), entry.uid, entry.settled_by, entry.problem_kind, entry.problem, entry.note]
            moments = [iso(moment) for moment in (entry.planned_at, entry.sent_at, entry.accepted_at, entry.settled_at)]
            writer.writerow([harmless(cell) for cell in (*grant, *said, *moments)])
            rows += 1
    return rows


def header_of(vendor: str) -> tuple[str, ...]:
    """Return the names of the columns of that file."""
    return ("id", "line", "state", *FIELDS[vendor], *_TOLD, *_MOMENTS)


def harmless(cell: str | None) -> str:
    """Return a cell's text so that no spreadsheet takes it for a formula; `unprotected` gives the text back."""
    if cell is None:
        return ""
    return f"'{cell}" if _to_protect(cell) else cell


def unprotected(cell: str) -> str:
    """Return the text that `harmless` made this cell of."""
    return cell[1:] if _is_protected(cell) else cell


def iso(moment: float | None) -> str:
    """Return a moment as ISO 8601 in UTC with milliseconds, empty if there is none."""
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


@contextmanager
def replacing(path: str | Path, *, sync: Callable[[int], None] = os.fsync) -> Iterator[TextIO]:
    """Write a file beside its place and put it there whole, or leave the old one as it is; only its owner can read it."""
    place = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            sync(stream.fileno())
        draft.replace(place)
    except BaseException:
        draft.unlink()
        raise
