"""How rows are read from a ledger's tables, and in which they are changed."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

from attrs import fields

from payouts.states import Entry, State
from rewards_core.sqlite.connection import Connection

if TYPE_CHECKING:
    from payouts.ledger.base import Database

_FIELDS = tuple(field.name for field in fields(Entry))
COLUMNS = ", ".join(_FIELDS)


def states_of(database: Database) -> str:
    """Return the table that a move of a row changes; in PostgreSQL, `rows` is a view of two."""
    return "rows" if isinstance(database, Connection) else "row_states"


def contents_of(database: Database) -> str:
    """Return the table that a row's key is in."""
    return "rows" if isinstance(database, Connection) else "row_contents"


def marks(values: Sized) -> str:
    """Return the placeholders of values for `IN`; without values a list that holds nothing, as PostgreSQL takes no empty one."""
    return ", ".join("?" * len(values)) or "NULL"


def entry_of(row: Sequence[Any]) -> Entry:
    """Return the entry of a row that was selected with `COLUMNS`."""
    values = dict(zip(_FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    return Entry(**values)
