"""The columns of a store's tables, and the records in their rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import define, evolve

from rewards_core.operations import Event, OperationRef, OperationStatus
from webhooks.store.outcomes import unpack, unpack_object
from webhooks.store.queries import lookups_of, operations_of
from webhooks.store.records import EventState, Job, Outcome, PendingOperation, Priority, StoredEvent

STATES = (EventState.DONE, EventState.READY, EventState.DEAD)
DONE, READY, DEAD = range(3)

EVENT_COLUMNS = (
    "id, scope, name, identity, kind, uid, state, received_at, occurred_at, correlation_id, attempt, problem, signature, body"
)
ALSO_COLUMNS = "event_id, place, kind, uid"
OUTCOME_COLUMNS = "scope, kind, uid, status, resource, via, settled_at, key, confirmed"
JOB_COLUMNS = "event_id, handler, state, due_at, attempts, reason, fence, held, began_at"
PENDING_COLUMNS = "scope, kind, uid, added_at, due_at, polls, priority, attempt, watched, fence, about"
ABOUT_KEPT = "about = coalesce(excluded.about, pending.about)"
"""What changes where an operation that is added is pending; a ref that says nothing erases nothing."""
ONLY_ABOUT = "about = excluded.about WHERE excluded.about IS NOT NULL"
"""The same where nothing else changes."""


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
        return cls(outcome, (*about, text_or_none(outcome.key), outcome.confirmed))

    @property
    def size(self) -> int:
        """The bytes of its resource."""
        return len(self.row[4])


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
        asked = lookups_of(event)
        if settled is not None:
            return cls(event, at, PackedOutcome.of(*settled), tuple(ref for ref in asked if ref != event.ref))
        return cls(event, at, None, asked)

    @property
    def mentioned(self) -> tuple[OperationRef, ...]:
        """Every operation in it, also the one it settles."""
        return () if self.event.problem is not None else operations_of(self.event)

    @property
    def size(self) -> int:
        """The bytes of its body and of the resource it settles with."""
        return len(self.event.body) + (0 if self.outcome is None else self.outcome.size)

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
    return (*map(text_or_none, texts), event.body)


def rows_of_also(event_id: int, event: Event) -> list[tuple[Any, ...]]:
    return [(event_id, place, one.kind, text(one.uid)) for place, one in enumerate(event.also)]


def text(value: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates are escaped."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def text_or_none(value: str | None) -> str | None:
    return None if value is None else text(value)


def each_once(refs: Iterable[OperationRef]) -> list[OperationRef]:
    """Return each operation once, by a ref that has `about` if there is one."""
    found: dict[OperationRef, OperationRef] = {}
    for ref in refs:
        if ref.about is not None or ref not in found:
            found[ref] = ref
    return list(found.values())


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
    scope, kind, uid, added_at, due_at, polls, priority, _, _, _, about = row
    return PendingOperation(
        ref=OperationRef(scope, kind, uid, about),
        added_at=added_at,
        polls=polls,
        priority=Priority(priority),
        due_in=max(0.0, due_at - now),
    )
