"""How rows are read from a ledger's tables."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

from attrs import fields

from payouts.states import Entry, State

_FIELDS = tuple(field.name for field in fields(Entry))
COLUMNS = ", ".join(_FIELDS)


def marks(values: Sized) -> str:
    """Return the placeholders of values for `IN`; without values a list that holds nothing, as PostgreSQL takes no empty one."""
    return ", ".join("?" * len(values)) or "NULL"


def entry_of(row: Sequence[Any]) -> Entry:
    """Return the entry of a row that was selected with `COLUMNS`."""
    values = dict(zip(_FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    return Entry(**values)
