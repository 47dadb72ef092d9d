"""Rows of the SQLite store and what they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from attrs import define, evolve

from rewards_core.operations import Event, OperationRef, OperationStatus
from webhooks.store.outcomes import outcome_of, pack, unpack
from webhooks.store.records import EventState, Job, Outcome, PendingOperation, Priority, StoredEvent

T = TypeVar("T")

STATES = (EventState.DONE, EventState.READY, EventState.DEAD)
DONE, READY, DEAD = range(3)

EVENT_COLUMNS = (
    "id, scope, name, identity, kind, uid, state, received_at, occurred_at, correlation_id, attempt, problem, signature, body"
)
OUTCOME_COLUMNS = "scope, kind, uid, status, resource, via, settled_at, key, confirmed"
JOB_COLUMNS = "event_id, handler, state, due_at, attempts, reason, fence, held"
PENDING_COLUMNS = "scope, kind, uid, added_at, due_at, polls, priority, attempt, watched, fence"

_WIDEST = 64


@define(eq=False)
class PackedOutcome:
    """An outcome and its resource as it is written."""

    outcome: Outcome
    resource: bytes

    @classmethod
    def of(cls, outcome: Outcome) -> PackedOutcome:
        """Pack an outcome; half a surrogate pair in its uid is kept as an escape."""
        ref = outcome.ref
        if not ref.uid.isascii():
            outcome = evolve(outcome, ref=OperationRef(ref.scope, ref.kind, text(ref.uid)))
        return cls(outcome, pack(outcome.resource))

    @property
    def row(self) -> tuple[Any, ...]:
        """Its values, in the order of `OUTCOME_COLUMNS`."""
        one = self.outcome
        row = (one.ref.scope, one.ref.kind, text(one.ref.uid), str(one.status), self.resource, one.via, one.settled_at)
        return (*row, _text_or_none(one.key), one.confirmed)


@define(eq=False)
class Arrival:
    """An event about to be kept.

    Attributes:
        event: The event.
        at: When it came, Unix time.
        outcome: What it settles, None if nothing.
    """

    event: Event
    at: float
    outcome: PackedOutcome | None = None

    @classmethod
    def of(cls, event: Event, at: float) -> Arrival:
        """Read from an event what it settles; one that cannot be used settles nothing."""
        outcome = None if event.problem is not None else outcome_of(event, at)
        return cls(event, at, None if outcome is None else PackedOutcome.of(outcome))

    @property
    def lookups(self) -> Iterator[OperationRef]:
        """The operations it mentions without settling them."""
        if self.event.problem is None:
            if self.event.ref is not None and self.outcome is None:
                yield self.event.ref
            yield from self.event.also

    def row(self, event_id: int, state: int) -> tuple[Any, ...]:
        """Return its values, in the order of `EVENT_COLUMNS`."""
        event, ref = self.event, self.event.ref
        return (event_id, event.scope, text(event.name), event.identity, *_ref_row(ref), state, self.at, *_late_row(event))


def changed_row(event: Event) -> tuple[Any, ...]:
    """Return the values of an event read anew, from its name on but for state and time, in the order of `EVENT_COLUMNS`."""
    return (text(event.name), *_ref_row(event.ref), *_late_row(event))


def text(value: str) -> str:
    """Return a text that UTF-8 can hold: lone surrogates become their escapes."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode("utf-8")


def event_of(row: Sequence[Any]) -> Event:
    """Read an event, without the resource that may have come with it."""
    _, scope, name, identity, kind, uid, _, _, occurred_at, correlation_id, attempt, problem, signature, body = row
    return Event(
        scope=scope,
        name=name,
        identity=identity,
        body=body,
        ref=None if kind is None else OperationRef(scope, kind, uid),
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
    event_id, handler, state, due_at, attempts, reason, fence, held = row
    return Job(
        event_id=event_id,
        handler=handler,
        state=STATES[state],
        due_in=max(0.0, due_at - now) if state == READY else 0.0,
        attempts=attempts,
        reason=reason,
        fence=fence if held else None,
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


def placeholders(columns: int, rows: int) -> str:
    """Return `(?,?),(?,?)` for so many rows of so many columns."""
    return ",".join(["(" + ",".join("?" * columns) + ")"] * rows)


def rows_at_once(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, list[Any]]]:
    """Cut rows into lengths that are powers of two, so that few statements are ever prepared; yield length and flat values."""
    place = 0
    while place < len(rows):
        length = min(_WIDEST, 1 << (len(rows) - place).bit_length() - 1)
        yield length, list(chain.from_iterable(rows[place : place + length]))
        place += length


def values_at_once(values: Sequence[T]) -> Iterator[list[T]]:
    """Cut values of an `IN (...)` list into lengths that are powers of two, the last one repeated to fill up."""
    for place in range(0, len(values), _WIDEST):
        part = list(values[place : place + _WIDEST])
        yield part + [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))


Groups = dict[tuple[str, str], list[str]]
"""Scope and kind to the uids that belong to them."""


def by_scope_and_kind(refs: Iterable[OperationRef]) -> Groups:
    """Group uids, because SQLite uses no index for `(scope, kind, uid) IN (VALUES ...)`."""
    groups: Groups = {}
    for ref in refs:
        groups.setdefault((ref.scope, ref.kind), []).append(text(ref.uid))
    return groups


def _ref_row(ref: OperationRef | None) -> tuple[str | None, str | None]:
    return (None, None) if ref is None else (ref.kind, text(ref.uid))


def _late_row(event: Event) -> tuple[Any, ...]:
    return (
        _text_or_none(event.occurred_at),
        _text_or_none(event.correlation_id),
        _text_or_none(event.attempt),
        _text_or_none(event.problem),
        _text_or_none(event.signature),
        event.body,
    )


def _text_or_none(value: str | None) -> str | None:
    return None if value is None else text(value)
