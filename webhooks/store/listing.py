"""Which of the kept events, outcomes and pending operations a caller means: the same conditions for every store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen

from rewards_core.operations import OperationRef, OperationStatus
from rewards_core.validation import check_instance, check_number, check_str, check_whole, checked, optional, whole
from webhooks.store.records import EventState

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.store.records import StoredEvent, StoredOutcome

_MOST = 2**63 - 1  # SQLite holds no greater number


@frozen(kw_only=True)
class EventQuery:
    """Conditions on events; None leaves one out."""

    scope: str | None = field(default=None, validator=optional(checked(check_str)))
    state: EventState | None = field(default=None, validator=optional(checked(check_instance, EventState)))
    name: str | None = field(default=None, validator=optional(checked(check_str)))
    ref: OperationRef | None = field(default=None, validator=optional(checked(check_instance, OperationRef)))
    uid: str | None = field(default=None, validator=optional(checked(check_str)))
    id: int | None = field(default=None, validator=optional(whole(at_least=0, at_most=_MOST)))
    before_id: int | None = field(default=None, validator=optional(whole(at_least=0, at_most=_MOST)))
    limit: int = field(default=100, validator=whole(at_least=0, at_most=_MOST))

    def fits(self, stored: StoredEvent) -> bool:
        """Whether an event meets every condition."""
        event = stored.event
        return (
            (self.id is None or stored.id == self.id)
            and (self.before_id is None or stored.id < self.before_id)
            and (self.scope is None or event.scope == self.scope)
            and (self.state is None or stored.state is self.state)
            and (self.name is None or event.name == self.name)
            and (self.ref is None or self.ref in operations_of(event))
            and (self.uid is None or any(ref.uid == self.uid for ref in operations_of(event)))
        )


def operations_of(event: Event) -> tuple[OperationRef, ...]:
    """Return the operations that an event speaks of, the first one first."""
    return event.also if event.ref is None else (event.ref, *event.also)


@frozen(kw_only=True)
class OutcomeQuery:
    """Conditions on outcomes; None leaves one out."""

    scope: str | None = field(default=None, validator=optional(checked(check_str)))
    kind: str | None = field(default=None, validator=optional(checked(check_str)))
    uid: str | None = field(default=None, validator=optional(checked(check_str)))
    status: OperationStatus | None = field(default=None, validator=optional(checked(check_instance, OperationStatus)))
    conflicting: bool = field(default=False, validator=checked(check_instance, bool))
    before_id: int | None = field(default=None, validator=optional(whole(at_least=0, at_most=_MOST)))
    limit: int = field(default=100, validator=whole(at_least=0, at_most=_MOST))

    def fits(self, stored: StoredOutcome) -> bool:
        """Whether an outcome meets every condition."""
        return (
            (self.before_id is None or stored.id < self.before_id)
            and fits_ref(stored.outcome.ref, self.scope, self.kind, self.uid)
            and (self.status is None or stored.outcome.status == self.status)
            and (not self.conflicting or bool(stored.conflicts))
        )


def fits_ref(ref: OperationRef, scope: str | None, kind: str | None, uid: str | None) -> bool:
    """Return whether an operation has this scope, kind and uid; None stands for any."""
    return scope in {None, ref.scope} and kind in {None, ref.kind} and uid in {None, ref.uid}


class Listings(ABC):
    """Give a store `list_events` and `get_event` over one look-up, and `list_outcomes` over another."""

    async def list_events(
        self,
        *,
        scope: str | None = None,
        state: EventState | None = None,
        name: str | None = None,
        ref: OperationRef | None = None,
        uid: str | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[StoredEvent]:
        """Return events that fit all given conditions, newest first; `before_id` pages on.

        Raises:
            TypeError: a condition is of another type.
            ValueError: `limit` or `before_id` is negative.
        """
        query = EventQuery(scope=scope, state=state, name=name, ref=ref, uid=uid, before_id=before_id, limit=limit)
        return await self.find_events(query)

    async def get_event(self, event_id: int) -> StoredEvent | None:
        """Return one event."""
        found = await self.find_events(EventQuery(id=event_id, limit=1))
        return found[0] if found else None

    async def list_outcomes(
        self,
        *,
        scope: str | None = None,
        kind: str | None = None,
        uid: str | None = None,
        status: OperationStatus | None = None,
        conflicting: bool = False,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[StoredOutcome]:
        """Return outcomes that fit all given conditions, with their conflicts, newest first; `before_id` pages on.

        Raises:
            TypeError: a condition is of another type.
            ValueError: `limit` or `before_id` is negative.
        """
        query = OutcomeQuery(
            scope=scope, kind=kind, uid=uid, status=status, conflicting=conflicting, before_id=before_id, limit=limit
        )
        return await self.find_outcomes(query)

    @abstractmethod
    async def find_outcomes(self, query: OutcomeQuery) -> Sequence[StoredOutcome]:
        """Return outcomes that meet every condition, newest first."""

    @abstractmethod
    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        """Return events that meet every condition, newest first."""


def check_purge(older_than: float, limit: int | None) -> None:
    """See that what is to be removed or erased is of an age that can be, and of a number.

    Raises:
        TypeError: one of them is no number.
        ValueError: one of them is negative, or the age not finite.
    """
    check_number(older_than, "older_than", at_least=0, unit="seconds")
    check_limit(limit)


def check_limit(limit: int | None) -> None:
    """See that so many can be removed; None is for all.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is negative.
    """
    if limit is not None:
        check_whole(limit, "limit", at_least=0)
