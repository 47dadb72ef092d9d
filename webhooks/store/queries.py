"""Queries for events and outcomes, the same for every store."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen

from rewards_core.operations import OperationRef, OperationStatus, subject_of
from rewards_core.validation import check_instance, check_str, check_whole, checked, optional, whole
from webhooks.store.base import Store
from webhooks.store.records import EventState, Priority

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.store.records import StoredEvent, StoredOutcome

_MAX = 2**63 - 1  # the greatest integer of SQLite

MAX_DEPENDENTS = 1_000
"""Operations about one thing that an event about it hurries."""
LATELY = 60.0
"""Seconds for which an event also has what becomes pending after it polled at once."""


@frozen(kw_only=True)
class EventQuery:
    """Conditions on events; None is no condition.

    Attributes:
        scope: The events' scope.
        state: Their state.
        name: Their name.
        ref: An operation that they mention.
        uid: The uid of an operation that they mention, of any kind.
        id: The id of one event.
        before_id: Only events with lower ids.
        limit: Maximum number of events, 0 or more.
    """

    scope: str | None = field(default=None, validator=optional(checked(check_str)))
    state: EventState | None = field(default=None, validator=optional(checked(check_instance, EventState)))
    name: str | None = field(default=None, validator=optional(checked(check_str)))
    ref: OperationRef | None = field(default=None, validator=optional(checked(check_instance, OperationRef)))
    uid: str | None = field(default=None, validator=optional(checked(check_str)))
    id: int | None = field(default=None, validator=optional(whole(at_least=0, at_most=_MAX)))
    before_id: int | None = field(default=None, validator=optional(whole(at_least=0, at_most=_MAX)))
    limit: int = field(default=100, validator=whole(at_least=0, at_most=_MAX))

    def fits(self, stored: StoredEvent) -> bool:
        """Return whether an event matches."""
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
    """Return the operations that an event mentions, its own first."""
    return event.also if event.ref is None else (event.ref, *event.also)


def lookups_of(event: Event) -> tuple[OperationRef, ...]:
    """Return the operations in an event that are looked up although none is pending.

    A ref that is about itself, such as an asset's, is mentioned by events whether or not anybody waits for it: it is looked up
    only while it is pending, as everything that is about it.
    """
    return tuple(ref for ref in operations_of(event) if ref.about is None)


def by_poll_priority(refs: Iterable[OperationRef]) -> dict[Priority, list[OperationRef]]:
    """Group operations, which an event mentioned before they became pending, by the priority of their poll.

    To what is about itself, such as a mint, the event is news. To what is about something else, such as the transfer of an asset,
    it may be older, such as the mint's: one poll then tells.
    """
    groups: dict[Priority, list[OperationRef]] = {Priority.LOOKUP: [], Priority.WISH: []}
    for ref in refs:
        groups[Priority.LOOKUP if ref.about == subject_of(ref.kind, ref.uid) else Priority.WISH].append(ref)
    return groups


@frozen(kw_only=True)
class OutcomeQuery:
    """Conditions on outcomes; None is no condition.

    Attributes:
        scope: The operations' scope.
        kind: Their kind.
        uid: Their uid.
        status: The outcomes' status.
        conflicting: Only outcomes with conflicts.
        before_id: Only outcomes with lower ids.
        limit: Maximum number of outcomes, 0 or more.
    """

    scope: str | None = field(default=None, validator=optional(checked(check_str)))
    kind: str | None = field(default=None, validator=optional(checked(check_str)))
    uid: str | None = field(default=None, validator=optional(checked(check_str)))
    status: OperationStatus | None = field(default=None, validator=optional(checked(check_instance, OperationStatus)))
    conflicting: bool = field(default=False, validator=checked(check_instance, bool))
    before_id: int | None = field(default=None, validator=optional(whole(at_least=0, at_most=_MAX)))
    limit: int = field(default=100, validator=whole(at_least=0, at_most=_MAX))

    def fits(self, stored: StoredOutcome) -> bool:
        """Return whether an outcome matches."""
        return (
            (self.before_id is None or stored.id < self.before_id)
            and fits_ref(stored.outcome.ref, self.scope, self.kind, self.uid)
            and (self.status is None or stored.outcome.status == self.status)
            and (not self.conflicting or bool(stored.conflicts))
        )


def fits_ref(ref: OperationRef, scope: str | None, kind: str | None, uid: str | None) -> bool:
    """Return whether an operation has this scope, kind and uid; None matches any."""
    return scope in {None, ref.scope} and kind in {None, ref.kind} and uid in {None, ref.uid}


def check_page(limit: int) -> int:
    """Check the greatest number of records to list."""
    return check_whole(limit, "limit", at_least=0, at_most=_MAX)


class StoreQueries(Store):
    """Implement `list_events`, `get_event` and `list_outcomes` by `find_events` and `find_outcomes`."""

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
        query = EventQuery(scope=scope, state=state, name=name, ref=ref, uid=uid, before_id=before_id, limit=limit)
        return await self.find_events(query)

    async def get_event(self, event_id: int) -> StoredEvent | None:
        check_whole(event_id, "event_id", at_least=0, at_most=_MAX)
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
        query = OutcomeQuery(
            scope=scope, kind=kind, uid=uid, status=status, conflicting=conflicting, before_id=before_id, limit=limit
        )
        return await self.find_outcomes(query)

    @abstractmethod
    async def find_outcomes(self, query: OutcomeQuery) -> Sequence[StoredOutcome]:
        """Return the outcomes that match, newest first."""

    @abstractmethod
    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        """Return the events that match, newest first."""
