"""Rows of a `SQLiteStore`, the records they hold, and statements that take many rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, evolve

from rewards_core.operations import Event, OperationRef, OperationStatus
from rewards_core.sqlite.connection import fetch
from webhooks.store.outcomes import unpack, unpack_object
from webhooks.store.queries import operations_of
from webhooks.store.records import EventState, Job, Outcome, PendingOperation, Priority, StoredEvent

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection

T = TypeVar("T")

_BATCH = 64
STATES = (EventState.DONE, EventState.READY, EventState.DEAD)
DONE, READY, DEAD = range(3)

EVENT_COLUMNS = (
    "id, scope, name, identity, kind, uid, state, received_at, occurred_at, correlation_id, attempt, problem, signature, body"
)
EVENT_FIELDS = (
    ", ".join(f"event.{column}" for column in EVENT_COLUMNS.split(", "))
    + ", (SELECT json_group_array(json_array(kind, uid)) FROM also WHERE event_id = event.id HAVING count(*))"
)
"""The columns of an event, and the further operations it mentions as JSON, NULL if there are none."""
ALSO_COLUMNS = "event_id, place, kind, uid"
OUTCOME_COLUMNS = "scope, kind, uid, status, resource, via, settled_at, key, confirmed"
JOB_COLUMNS = "event_id, handler, state, due_at, attempts, reason, fence, held, began_at"
PENDING_COLUMNS = "scope, kind, uid, added_at, due_at, polls, priority, attempt, watched, fence"


@define(eq=False)
class PackedOutcome:
    """An outcome, and its values in the order of `OUTCOME_COLUMNS`."""

    outcome: Outcome
    row: tuple[Any, ...]

    @classmethod
    def of(cls, outcome: Outcome, resource: bytes) -> PackedOutcome:
        """Return an outcome with its packed resource; a lone surrogate in its uid is escaped."""
        ref = outcome.ref
        if not ref.uid.isascii():
            ref = OperationRef(ref.scope, ref.kind, text(ref.uid))
            outcome = evolve(outcome, ref=ref)
        about = (ref.scope, ref.kind, ref.uid, outcome.status.value, resource, outcome.via, outcome.settled_at)
        return cls(outcome, (*about, _text_or_none(outcome.key), outcome.confirmed))


@define(eq=False)
class Arrival:
    """A new event, the outcome it settles, and the operations it mentions without settling them."""

    event: Event
    at: float
    outcome: PackedOutcome | None = None
    lookups: tuple[OperationRef, ...] = ()

    @classmethod
    def of(cls, event: Event, at: float, settled: tuple[Outcome, bytes] | None) -> Arrival:
        """Return an event with what `settled_by` found in it. A dead letter mentions nothing."""
        if event.problem is not None:
            return cls(event, at)
        if settled is not None:
            return cls(event, at, PackedOutcome.of(*settled), event.also)
        return cls(event, at, None, operations_of(event))

    def row(self, event_id: int, state: int) -> tuple[Any, ...]:
        """Return its values in the order of `EVENT_COLUMNS`."""
        event = self.event
        name, kind, uid, *late = changed_row(event)
        return (event_id, event.scope, name, event.identity, kind, uid, state, self.at, *late)


def changed_row(event: Event) -> tuple[Any, ...]:
    """Return the values that another parse of the body may change, in the order of `EVENT_COLUMNS`."""
    kind, uid = (None, None) if event.ref is None else (event.ref.kind, event.ref.uid)
    hints = (event.occurred_at, event.correlation_id, event.attempt, event.problem, event.signature)
    texts = (event.name, kind, uid, *hints)
    if "".join(filter(None, texts)).isascii():  # one check instead of eight
        return (*texts, event.body)
    return (*map(_text_or_none, texts), event.body)


def rows_of_also(event_id: int, event: Event) -> list[tuple[Any, ...]]:
    return [(event_id, place, one.kind, text(one.uid)) for place, one in enumerate(event.also)]


def text(value: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates are escaped."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def event_of(row: Sequence[Any]) -> Event:
    """Return the event of a row, without a resource."""
    _, scope, name, identity, kind, uid, _, _, occurred_at, correlation_id, attempt, problem, signature, body, also = row
    return Event(
        scope=scope,
        name=name,
        identity=identity,
        body=body,
        ref=None if kind is None else OperationRef(scope, kind, uid),
        also=() if also is None else tuple(OperationRef(scope, *one) for one in unpack(also.encode())),
        occurred_at=occurred_at,
        correlation_id=correlation_id,
        attempt=attempt,
        problem=problem,
        signature=signature,
    )


def stored_event_of(row: Sequence[Any], jobs: Sequence[Job]) -> StoredEvent:
    return StoredEvent(id=row[0], event=event_of(row), state=STATES[row[6]], received_at=row[7], jobs=tuple(jobs))


def job_of(row: Sequence[Any], now: float) -> Job:
    event_id, handler, state, due_at, attempts, reason, fence, held, began_at = row
    return Job(
        event_id=event_id,
        handler=handler,
        state=STATES[state],
        due_in=max(0.0, due_at - now) if state == READY else 0.0,
        attempts=attempts,
        reason=reason,
        fence=fence if held else None,
        age=0.0 if began_at is None else max(0.0, now - began_at),
    )


def outcome_from(row: Sequence[Any]) -> Outcome:
    scope, kind, uid, status, resource, via, settled_at, key, confirmed = row
    return Outcome(
        ref=OperationRef(scope, kind, uid),
        status=OperationStatus(status),
        resource=unpack_object(resource),
        via=via,
        settled_at=settled_at,
        key=key,
        confirmed=bool(confirmed),
    )


def pending_of(row: Sequence[Any], now: float) -> PendingOperation:
    scope, kind, uid, added_at, due_at, polls, priority, _, _, _ = row
    return PendingOperation(
        ref=OperationRef(scope, kind, uid),
        added_at=added_at,
        polls=polls,
        priority=Priority(priority),
        due_in=max(0.0, due_at - now),
    )


def _text_or_none(value: str | None) -> str | None:
    return None if value is None else text(value)


def insert(
    db: Connection, table: str, columns: str, rows: Sequence[Sequence[Any]], *, verb: str = "INSERT", then: str = ""
) -> None:
    """Insert rows, in lengths that are powers of two, so that few different statements are prepared."""
    width, place = columns.count(",") + 1, 0
    while place < len(rows):
        length = min(_BATCH, 1 << (len(rows) - place).bit_length() - 1)
        marks = ",".join([placeholders(width)] * length)
        values = list(chain.from_iterable(rows[place : place + length]))
        db.execute(f"{verb} INTO {table} ({columns}) VALUES {marks} {then}", values)
        place += length


def select_in(db: Connection, statement: str, values: Sequence[object], then: str = "") -> list[Any]:
    """Run `statement (values) then`, where the statement ends with `IN`, in batches; return all rows."""
    found: list[Any] = []
    for batch in batches(values):
        found += db.execute(f"{statement} {placeholders(len(batch))} {then}", batch).fetchall()
    return found


def change_in(db: Connection, statement: str, values: Sequence[object], *first: object) -> int:
    """Run `statement (values)`, where the statement ends with `IN` and takes other values first; return the changed rows."""
    changed = 0
    for batch in batches(values):
        db.execute(f"{statement} {placeholders(len(batch))}", (*first, *batch))
        changed += db.changes()
    return changed


def for_refs(db: Connection, statement: str, refs: Iterable[OperationRef], *first: object, then: str = "") -> list[Any]:
    """Run `statement WHERE <refs> then`, which takes other values first; return all rows.

    It runs by scope and kind, because SQLite uses no index for `(scope, kind, uid) IN (VALUES ...)`.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for ref in refs:
        groups.setdefault((ref.scope, ref.kind), []).append(ref.uid if ref.uid.isascii() else text(ref.uid))
    found: list[Any] = []
    for (scope, kind), uids in groups.items():
        for batch in batches(uids):
            found += db.execute(
                f"{statement} WHERE scope = ? AND kind = ? AND uid IN {placeholders(len(batch))} {then}",
                (*first, scope, kind, *batch),
            ).fetchall()
    return found


def placeholders(count: int) -> str:
    """Return `(?,?)` for two values."""
    return "(" + ",".join("?" * count) + ")"


def batches(values: Sequence[T]) -> Iterator[list[T]]:
    """Cut the values of an `IN (...)` list into lengths that are powers of two; the last value is repeated to fill one up."""
    for place in range(0, len(values), _BATCH):
        batch = list(values[place : place + _BATCH])
        yield batch + [batch[-1]] * ((1 << (len(batch) - 1).bit_length()) - len(batch))


def scopes_and_kinds(db: Connection, table: str, scope: str | None, kind: str | None) -> list[tuple[str, str]]:
    """Return the scopes and kinds of a table's operations, in order, by one index lookup for each."""
    return [
        (of_scope, of_kind)
        for of_scope in _distinct(db, f"SELECT min(scope) FROM {table} WHERE scope > ?")
        if scope in {None, of_scope}
        for of_kind in _distinct(db, f"SELECT min(kind) FROM {table} WHERE scope = ? AND kind > ?", of_scope)
        if kind in {None, of_kind}
    ]


def _distinct(db: Connection, next_after: str, *values: str) -> Iterator[str]:
    last: str | None = ""
    while (last := fetch(db, next_after, (*values, last))[0][0]) is not None:
        yield last
