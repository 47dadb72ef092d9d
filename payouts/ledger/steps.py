"""The tables in which rows are changed, and the steps of many rows in few statements.

Every statement lets the thread that sends run first, and waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from payouts.states import Entry, InvalidTransition, LedgerError, State
from rewards_core.sqlite.connection import Connection

if TYPE_CHECKING:
    from payouts.ledger.base import Database

T = TypeVar("T")

Step = tuple[Entry, Entry]
"""A row before and after."""

MAX_AT_ONCE = 512
"""Rows in one statement."""

_MOVE = (
    "UPDATE {} SET state = ?, uid = ?, settled_by = ?, answer = ?, problem_kind = ?, problem = ?, note = ?, sent_at = ?, "
    "accepted_at = ?, settled_at = ? WHERE number = ? AND state = ?{} RETURNING number"
)
_MOVE_MANY = "UPDATE {} SET {} FROM (VALUES {}) AS new WHERE number = new.column1 AND state = ?{} RETURNING number"
_NUMBER, _TEXT, _TIME = "CAST(? AS bigint)", "CAST(? AS text)", "CAST(? AS double precision)"
_PLAIN: Mapping[tuple[State, State], tuple[str, str, Callable[[Entry], tuple[Any, ...]]]] = MappingProxyType(
    {
        (State.PLANNED, State.SENT): (
            "state = 'sent', sent_at = new.column2",
            f"({_NUMBER}, {_TIME})",
            lambda now: (now.number, now.sent_at),
        ),
        (State.SENT, State.ACCEPTED): (
            "state = 'accepted', uid = new.column2, settled_by = new.column3, accepted_at = new.column4",
            f"({_NUMBER}, {_TEXT}, {_TEXT}, {_TIME})",
            lambda now: (now.number, now.uid, now.settled_by, now.accepted_at),
        ),
        (State.ACCEPTED, State.DONE): (
            "state = 'done', settled_by = new.column2, settled_at = new.column3",
            f"({_NUMBER}, {_TEXT}, {_TIME})",
            lambda now: (now.number, now.settled_by, now.settled_at),
        ),
    }
)
"""The columns that change in the steps of rows that meet no problem, and the placeholders of one row."""


def states_of(database: Database) -> str:
    """Return the table that a move of a row changes; in PostgreSQL, `rows` is a view of two."""
    return "rows" if isinstance(database, Connection) else "row_states"


def contents_of(database: Database) -> str:
    """Return the table that a row's key is in."""
    return "rows" if isinstance(database, Connection) else "row_contents"


@cache
def marks(rows: int, row: str) -> str:
    """Return the SQL placeholders of several rows."""
    return ", ".join([row] * rows)


def all_or_nothing(work: Callable[[Database], T], database: Database) -> T:
    """Run work, and undo all of it if it raises a `LedgerError`."""
    database.execute("SAVEPOINT work")
    try:
        result = work(database)
    except LedgerError:
        database.execute("ROLLBACK TO work")
        database.execute("RELEASE work")
        raise
    database.execute("RELEASE work")
    return result


def write(steps: Sequence[Step], database: Database) -> None:
    """Write all steps or none; give at most one step for each row.

    Raises:
        InvalidTransition: a row is no longer in the state that its step starts from.
    """
    if problem := next(filter(None, write_each(steps, database)), None):
        raise problem


def write_each(steps: Sequence[Step], database: Database, owner: int | None = None) -> list[InvalidTransition | None]:
    """Write every step that can be written, and return for each the error that kept it from being written, or None.

    Steps that cannot be written are rare, so they are located only after a statement has changed fewer rows than it should.

    Args:
        steps: The steps.
        database: The ledger.
        owner: The worker that must own a row, if workers do.
    """
    problems: list[InvalidTransition | None] = [None] * len(steps)
    kinds: dict[tuple[State, State, bool], list[int]] = {}
    for place, (was, now) in enumerate(steps):
        kinds.setdefault((was.state, now.state, _is_plain(was, now)), []).append(place)
    for places in kinds.values():
        for begin in range(0, len(places), MAX_AT_ONCE):
            some = places[begin : begin + MAX_AT_ONCE]
            _write_alike(some, steps, database, owner, problems)
    return problems


def _write_alike(
    places: list[int], steps: Sequence[Step], database: Database, owner: int | None, problems: list[InvalidTransition | None]
) -> None:
    """Write steps from one state to one other."""
    database.execute("SAVEPOINT steps")
    if _update([steps[place] for place in places], database, owner) < len(places):
        database.execute("ROLLBACK TO steps")
        for place in places:
            was, now = steps[place]
            if not _update([(was, now)], database, owner):
                problems[place] = InvalidTransition(was.id, was.state, now.state)
    database.execute("RELEASE steps")


def _update(steps: Sequence[Step], database: Database, owner: int | None) -> int:
    """Return how many rows were changed."""
    owned, owners = ("", ()) if owner is None else (" AND worker = ?", (owner,))
    was, now = steps[0]
    plain = _PLAIN.get((was.state, now.state)) if _is_plain(was, now) else None
    table = states_of(database)
    if plain is None:
        statement = _MOVE.format(table, owned)
        return sum(len(database.execute(statement, (*_values(*step), *owners)).fetchall()) for step in steps)
    assignments, row, values_of = plain
    rows = _padded([values_of(now) for _, now in steps])
    values = [value for row in rows for value in row]
    statement = _MOVE_MANY.format(table, assignments, marks(len(rows), row), owned)
    return len(database.execute(statement, (*values, was.state.value, *owners)).fetchall())


def _padded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Repeat the last row until there are 1, 2, 4, 8 … of them: so that ten statements, compiled once, are enough."""
    missing = (1 << (len(rows) - 1).bit_length()) - len(rows)
    return rows + rows[-1:] * missing


def _is_plain(was: Entry, now: Entry) -> bool:
    """Return whether a step neither sets nor clears a problem, so that it changes few columns."""
    if was.uid != now.uid and now.state is not State.ACCEPTED:
        return False
    return was.problem is None is now.problem and now.note is None and was.settled_at is None


def _values(was: Entry, now: Entry) -> tuple[Any, ...]:
    described = (now.state.value, now.uid, now.settled_by, now.answer, now.problem_kind, now.problem, now.note)
    return (*described, now.sent_at, now.accepted_at, now.settled_at, now.number, was.state.value)
