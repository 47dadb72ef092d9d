"""Rows of the SQLite store and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define, evolve

from rewards_core.operations import Event, OperationRef, OperationStatus
from webhooks.store.listing import operations_of
from webhooks.store.outcomes import unpack, unpack_any
from webhooks.store.records import EventState, Job, Outcome, PendingOperation, Priority, StoredEvent

STATES = (EventState.DONE, EventState.READY, EventState.DEAD)
DONE, READY, DEAD = range(3)

EVENT_COLUMNS = (
    "id, scope, name, identity, kind, uid, state, received_at, occurred_at, correlation_id, attempt, problem, signature, body"
)
EVENT_FIELDS = (
    ", ".join(f"event.{column}" for column in EVENT_COLUMNS.split(", "))
    + ", (SELECT json_group_array(json_array(kind, uid)) FROM also WHERE event_id = event.id HAVING count(*))"
)
"""What is read of an event: its row, and the further operations it speaks of as JSON, NULL if there are none."""
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
        """Put an outcome together with its packed resource; half a surrogate pair in its uid is kept as an escape."""
        ref = outcome.ref
        if not ref.uid.isascii():
            ref = OperationRef(ref.scope, ref.kind, text(ref.uid))
            outcome = evolve(outcome, ref=ref)
        about = (ref.scope, ref.kind, ref.uid, outcome.status.value, resource, outcome.via, outcome.settled_at)
        return cls(outcome, (*about, _text_or_none(outcome.key), outcome.confirmed))


@define(eq=False)
class Arrival:
    """An event about to be kept.

    Attributes:
        event: The event.
        at: When it came, Unix time.
        outcome: What it settles, None if nothing.
        lookups: The operations it mentions without settling them.
    """

    event: Event
    at: float
    outcome: PackedOutcome | None = None
    lookups: tuple[OperationRef, ...] = ()

    @classmethod
    def of(cls, event: Event, at: float, settled: tuple[Outcome, bytes] | None) -> Arrival:
        """Put an event together with what `settled_by` found in it; one that cannot be used mentions nothing."""
        if event.problem is not None:
            return cls(event, at)
        if settled is not None:
            return cls(event, at, PackedOutcome.of(*settled), event.also)
        return cls(event, at, None, operations_of(event))

    def row(self, event_id: int, state: int) -> tuple[Any, ...]:
        """Return its values, in the order of `EVENT_COLUMNS`."""
        event = self.event
        name, kind, uid, *late = changed_row(event)
        return (event_id, event.scope, name, event.identity, kind, uid, state, self.at, *late)


def changed_row(event: Event) -> tuple[Any, ...]:
    """Return the values of an event read again, from its name on but for state and time, in the order of `EVENT_COLUMNS`."""
    kind, uid = (None, None) if event.ref is None else (event.ref.kind, event.ref.uid)
    hints = (event.occurred_at, event.correlation_id, event.attempt, event.problem, event.signature)
    words = (event.name, kind, uid, *hints)
    if "".join(filter(None, words)).isascii():  # one look instead of eight
        return (*words, event.body)
    return (*map(_text_or_none, words), event.body)


def rows_of_also(event_id: int, event: Event) -> list[tuple[Any, ...]]:
    """Return the rows of the further operations that an event speaks of."""
    return [(event_id, place, one.kind, text(one.uid)) for place, one in enumerate(event.also)]


def text(value: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates become their escapes."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def event_of(row: Sequence[Any]) -> Event:
    """Read an event, without the resource that may have come with it."""
    _, scope, name, identity, kind, uid, _, _, occurred_at, correlation_id, attempt, problem, signature, body, also = row
    return Event(
        scope=scope,
        name=name,
        identity=identity,
        body=body,
        ref=None if kind is None else OperationRef(scope, kind, uid),
        also=() if also is None else tuple(OperationRef(scope, *one) for one in unpack_any(also.encode())),
        occurred_at=occurred_at,
        correlation_id=correlation_id,
        attempt=attempt,
        problem=problem,
        signature=signature,
    )


def stored_event_of(row: Sequence[Any], jobs: Sequence[Job]) -> StoredEvent:
    """Read an event as others see it."""
    return StoredEvent(id=row[0], event=event_of(row), state=STATES[row[6]], received_at=row[7], jobs=tuple(jobs))


def job_of(row: Sequence[Any], now: float) -> Job:
    """Read a job; `now` is the store's own time."""
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
    """Read an outcome."""
    scope, kind, uid, status, resource, via, settled_at, key, confirmed = row
    return Outcome(
        ref=OperationRef(scope, kind, uid),
        status=OperationStatus(status),
        resource=unpack(resource),
        via=via,
        settled_at=settled_at,
        key=key,
        confirmed=bool(confirmed),
    )


def pending_of(row: Sequence[Any], now: float) -> PendingOperation:
    """Read a pending operation; `now` is the store's own time."""
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
