"""Cells of a spreadsheet: text that is not read as a formula, and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FORMULA = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"  # some spreadsheets also run the last four, which are full-width
_to_protect = re.compile(f"'*{_FORMULA}").match
_is_protected = re.compile(f"'+{_FORMULA}").match


def protect(text: str | None) -> str:
    """Return a cell that no spreadsheet reads as a formula; `unprotect` returns the text as it was."""
    if text is None:
        return ""
    return f"'{text}" if _to_protect(text) else text


def unprotect(cell: str) -> str:
    """Return the text of a cell that `protect` made."""
    return cell[1:] if _is_protected(cell) else cell


def iso(moment: float | None) -> str:
    """Return a time, in seconds since the epoch, as ISO 8601 in UTC with milliseconds; empty for None."""
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
