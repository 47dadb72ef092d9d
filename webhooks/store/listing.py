"""Which of the kept events somebody asks for: the same words for every store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.base import EventState, StoredEvent


@frozen(kw_only=True)
class EventQuery:
    """Conditions on events; None leaves one out."""

    scope: str | None = None
    state: EventState | None = None
    name: str | None = None
    ref: OperationRef | None = None
    id: int | None = None
    before_id: int | None = None
    limit: int = 100

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
        """Return events that fit all given conditions, newest first; `before_id` pages on."""
        query = EventQuery(scope=scope, state=state, name=name, ref=ref, before_id=before_id, limit=limit)
        return await self.find_events(query)

    async def get_event(self, event_id: int) -> StoredEvent | None:
        """Return one event."""
        found = await self.find_events(EventQuery(id=event_id, limit=1))
        return found[0] if found else None

    @abstractmethod
    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        """Return events that meet every condition, newest first."""
