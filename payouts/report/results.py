"""The rows of a campaign as CSV in which no spreadsheet finds a formula."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from payouts.cells import iso, protect
from payouts.details import as_cell, read_details
from payouts.ledger.reader import Campaign, LedgerReader
from payouts.vendors import FIELDS, ROW_TYPES
from rewards_core.validation import check_instance, check_path

_OUTCOME = ("retries", "uid", "settled_by", "problem_kind", "problem", "note")
_MOMENTS = ("planned_at", "sent_at", "accepted_at", "settled_at")


def write_results(reader: LedgerReader, campaign: Campaign, path: str | Path) -> int:
    """Write every row of a campaign as CSV that only its owner can read, and return the number of rows.

    A cell that a spreadsheet would take for a formula begins with an apostrophe.

    Args:
        reader: An open reader of the ledger.
        campaign: One of its campaigns, as `LedgerReader.campaign` returns it.
        path: The CSV file.

    Raises:
        LedgerError: the ledger cannot be read.
        OSError: the file cannot be written.
        TypeError: an argument is of another type.
        ValueError: `path` cannot be used.
    """
    path, rows = check_path(path, "path"), 0
    check_instance(reader, "reader", LedgerReader)
    check_instance(campaign, "campaign", Campaign)
    with replacing(path) as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(header_of(campaign.vendor))
        detail_fields = ROW_TYPES[campaign.vendor].detail_fields
        for entry in reader.entries(campaign):
            grant = [entry.id, str(entry.line), entry.state, entry.recipient, entry.item, entry.amount, entry.key]
            details = read_details(entry.details)
            grant += [as_cell(details.get(name)) for name in detail_fields]
            said = [str(entry.retries), entry.uid, entry.settled_by, entry.problem_kind, entry.problem, entry.note]
            moments = [iso(moment) for moment in (entry.planned_at, entry.sent_at, entry.accepted_at, entry.settled_at)]
            writer.writerow([protect(cell) for cell in (*grant, *said, *moments)])
            rows += 1
    return rows


def header_of(vendor: str) -> tuple[str, ...]:
    """Return the columns of the file."""
    return ("id", "line", "state", *FIELDS[vendor], *ROW_TYPES[vendor].detail_fields, *_OUTCOME, *_MOMENTS)


@contextmanager
def replacing(path: str | Path) -> Iterator[TextIO]:
    """Write a file beside its place and move it there when it is complete, or keep the old one; only its owner can read it."""
    place = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(place)
    except BaseException:
        draft.unlink()
        raise
