"""Write the steps of many rows with few statements: every statement lets the thread that sends run first, and waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from payouts.states import Entry, LedgerError, State, WrongWay

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection

T = TypeVar("T")

Step = tuple[Entry, Entry]
"""A row as it was and as it is to be."""

MOST_AT_ONCE = 512
"""Rows in one statement."""

_MOVE = (
    "UPDATE rows SET state = ?, uid = ?, settled_by = ?, answer = ?, problem_kind = ?, problem = ?, note = ?, sent_at = ?, "
    "accepted_at = ?, settled_at = ? WHERE number = ?"
)
_MOVE_MANY = "UPDATE rows SET {} FROM (VALUES {}) AS new WHERE number = new.column1"
_PLAIN: Mapping[tuple[State, State], tuple[str, Callable[[Entry], tuple[Any, ...]]]] = MappingProxyType(
    {
        (State.PLANNED, State.SENT): (
            "state = 'sent', sent_at = new.column2",
            lambda now: (now.number, now.sent_at),
        ),
        (State.SENT, State.ACCEPTED): (
            "state = 'accepted', uid = new.column2, accepted_at = new.column3",
            lambda now: (now.number, now.uid, now.accepted_at),
        ),
        (State.ACCEPTED, State.DONE): (
            "state = 'done', settled_by = new.column2, settled_at = new.column3",
            lambda now: (now.number, now.settled_by, now.settled_at),
        ),
    }
)
"""What the steps of rows that meet no trouble write: what changes and nothing else."""


@cache
def marks(rows: int, columns: int) -> str:
    """Return so many rows of so many question marks."""
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def whole(work: Callable[[Connection], T], database: Connection) -> T:
    """Run work, and undo all of it if it raises a `LedgerError`."""
    database.execute("SAVEPOINT work")
    try:
        result = work(database)
    except LedgerError:
        database.execute("ROLLBACK TO work; RELEASE work")
        raise
    database.execute("RELEASE work")
    return result


def write(steps: Sequence[Step], database: Connection) -> None:
    """Write all steps, or none.

    Raises:
        WrongWay: a row is not where it was any more.
    """
    for begin in range(0, len(steps), MOST_AT_ONCE):
        _check(steps[begin : begin + MOST_AT_ONCE], database)
    for begin in range(0, len(steps), MOST_AT_ONCE):
        some = steps[begin : begin + MOST_AT_ONCE]
        was, now = some[0]
        plain = _PLAIN.get((was.state, now.state))
        if plain is not None and all(_is_plain(*step, like=some[0]) for step in some):
            assignments, values_of = plain
            rows = _padded([values_of(now) for _, now in some])
            values = [value for row in rows for value in row]
            database.execute(_MOVE_MANY.format(assignments, marks(len(rows), len(rows[0]))), values)
        else:
            database.executemany(_MOVE, [_values(now) for _, now in some])


def _padded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Repeat the last row until there are 1, 2, 4, 8 … of them: ten statements then serve, which need no compiling again."""
    missing = (1 << (len(rows) - 1).bit_length()) - len(rows)
    return rows + rows[-1:] * missing


def _check(steps: Sequence[Step], database: Connection) -> None:
    rows = _padded([(was.number, was.state.value) for was, _ in steps])
    found = database.execute(
        f"SELECT count(*) FROM rows JOIN (VALUES {marks(len(rows), 2)}) AS old "  # noqa: S608 - question marks
        "ON rows.number = old.column1 AND rows.state = old.column2",
        [value for row in rows for value in row],
    ).get
    numbers = {was.number for was, _ in steps}
    if found == len(rows) and len(numbers) == len(steps):
        return
    raise _stuck(steps, database)[0]


def _stuck(steps: Sequence[Step], database: Connection) -> list[WrongWay]:
    """Return an error for each row that is not where it was, or comes a second time."""
    problems: list[WrongWay] = []
    seen: set[int] = set()
    for was, now in steps:
        state = database.execute("SELECT state FROM rows WHERE number = ?", (was.number,)).get
        if state != was.state.value or was.number in seen:
            problems.append(WrongWay(was.id, was.state, now.state))
        seen.add(was.number)
    return problems


def _is_plain(was: Entry, now: Entry, *, like: Step) -> bool:
    """Return whether a step is of one kind with another, and neither brings nor ends any trouble."""
    return (
        was.state is like[0].state
        and now.state is like[1].state
        and was.problem is None is now.problem
        and now.note is None
        and was.settled_at is None
    )


def _values(now: Entry) -> tuple[Any, ...]:
    said = (now.state.value, now.uid, now.settled_by, now.answer, now.problem_kind, now.problem, now.note)
    return (*said, now.sent_at, now.accepted_at, now.settled_at, now.number)
