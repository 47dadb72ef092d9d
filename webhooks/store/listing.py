"""Which of the kept events a caller means: the same conditions for every store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import field, frozen

from rewards_core.operations import OperationRef
from rewards_core.validation import check_instance, check_number, check_str, check_whole, checked, optional, whole
from webhooks.store.records import EventState

if TYPE_CHECKING:
    from webhooks.store.records import StoredEvent

_MOST = 2**63 - 1  # SQLite holds no greater number


@frozen(kw_only=True)
class EventQuery:
    """Conditions on events; None leaves one out."""

    scope: str | None = field(default=None, validator=optional(checked(check_str)))
    state: EventState | None = field(default=None, validator=optional(checked(check_instance, EventState)))
    name: str | None = field(default=None, validator=optional(checked(check_str)))
    ref: OperationRef | None = field(default=None, validator=optional(checked(check_instance, OperationRef)))
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
            and (self.ref is None or event.ref == self.ref)
        )


class EventListing(ABC):
    """Give a store `list_events` and `get_event` over one look-up."""

    async def list_events(
        self,
        *,
        scope: str | None = None,
        state: EventState | None = None,
        name: str | None = None,
        ref: OperationRef | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[StoredEvent]:
        """Return events that fit all given conditions, newest first; `before_id` pages on.

        Raises:
            TypeError: a condition is of another type.
            ValueError: `limit` or `before_id` is negative.
        """
        query = EventQuery(scope=scope, state=state, name=name, ref=ref, before_id=before_id, limit=limit)
        return await self.find_events(query)

    async def get_event(self, event_id: int) -> StoredEvent | None:
        """Return one event."""
        found = await self.find_events(EventQuery(id=event_id, limit=1))
        return found[0] if found else None

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
