"""The details of a row: what it grants beside recipient, item, amount and key. The ledger keeps them as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

Value = str | bool
"""A detail: a text, or whether something is wanted."""


def write_details(values: Mapping[str, Value | None]) -> str:
    """Return details as JSON, equal for equal details; those that are None are left out."""
    return json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False)


def read_details(details: str | None) -> dict[str, Value]:
    """Return the details of a row by the names of their columns; none if the row has none."""
    return json.loads(details) if details else {}


def as_cell(value: Value | None) -> str | None:
    """Return a detail as it is written in a file of rows."""
    return str(value).lower() if isinstance(value, bool) else value


def changed_details(before: str | None, now: str | None) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each detail that has changed, with what it was and what it is."""
    if before == now:
        return
    old, new = read_details(before), read_details(now)
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield name, as_cell(old.get(name)) or "nothing", as_cell(new.get(name)) or "nothing"
