"""The events a process keeps in memory, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from attrs import define

from webhooks.errors import StoreFull
from webhooks.store.base import IDENTITY_DAYS, EventState, StoredEvent
from webhooks.store.due import DueQueue

if TYPE_CHECKING:
    from vendor_http.operations import Event

_DAY = 86_400
_IDENTITIES_PER_EVENT = 10


@define(eq=False)
class Row:
    """One kept event and where it stands."""

    id: int
    event: Event
    state: EventState
    received_at: float
    attempts: int = 0
    finished: tuple[str, ...] = ()
    reason: str | None = None


class EventShelf:
    """Events by number, their identities, and which are due for their handlers.

    Args:
        max_events: At most so many events; ten times as many identities.
        retention: Seconds that events which are done with stay.
    """

    def __init__(self, max_events: int, retention: float) -> None:
        self._max_events = max_events
        self._retention = retention
        self._next_id = 1
        self._rows: dict[int, Row] = {}
        self._done: deque[int] = deque()
        self._dead: deque[int] = deque()
        self._ready: dict[str, DueQueue[int]] = {}
        self._days: dict[bytes, int] = {}
        self._identities: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def knows(self, identity: bytes) -> bool:
        """Whether an event of this identity was kept before."""
        return identity in self._days

    def get(self, event_id: int) -> Row | None:
        """Return one event."""
        return self._rows.get(event_id)

    def newest_first(self) -> Iterator[Row]:
        """Iterate over all events."""
        return reversed(self._rows.values())

    def add(self, event: Event, state: EventState, now: float, reason: str | None = None) -> None:
        """Keep an event."""
        event_id = self._next_id
        self._next_id = event_id + 1
        self._days[event.identity] = int(now) // _DAY
        self._identities.append(event.identity)
        row = self._rows[event_id] = Row(event_id, event, state, now, 0, (), reason)
        if state is EventState.DONE:
            self._done.append(event_id)
        else:
            self.put(row, state, now)

    def put(self, row: Row, state: EventState, due_at: float = 0.0) -> None:
        """Move an event to another state; `due_at` matters to `ready` alone."""
        row.state = state
        if state is EventState.READY:
            self._queue(row.event.scope).put(row.id, due_at)
            return
        self._queue(row.event.scope).discard(row.id)
        (self._done if state is EventState.DONE else self._dead).append(row.id)

    def claim(self, scopes: Collection[str], now: float, lease: float) -> StoredEvent | None:
        """Lease the longest due event of these scopes; None if none is due."""
        heads = [(*head, queue) for scope in scopes if (queue := self._ready.get(scope)) and (head := queue.head())]
        if not heads:
            return None
        event_id = min(heads, key=lambda head: head[:2])[2].claim(now, lease)
        if event_id is None:
            return None
        row = self._rows[event_id]
        row.attempts += 1
        return self.told(row)

    def leased(self, claimed: StoredEvent) -> Row | None:
        """Return the event if it is still leased as claimed."""
        row = self._rows.get(claimed.id)
        if row is None or self._queue(row.event.scope).due_at(row.id) != claimed.due_at:
            return None
        return row

    def told(self, row: Row) -> StoredEvent:
        """Return an event as others see it."""
        return StoredEvent(
            id=row.id,
            event=row.event,
            state=row.state,
            received_at=row.received_at,
            due_at=self._queue(row.event.scope).due_at(row.id) or 0.0,
            attempts=row.attempts,
            finished=row.finished,
            reason=row.reason,
        )

    def make_room(self, now: float) -> None:
        """Let what is too old or too much go, a few per call so that no call is slow.

        Raises:
            StoreFull: there is no room, and nothing may leave.
        """
        while len(self._rows) >= self._max_events:
            if not (self._drop(self._done, EventState.DONE) or self._drop(self._dead, EventState.DEAD)):
                raise StoreFull(
                    f"expected room for an event, got {len(self._rows)} that wait for their handlers; "
                    "let the handlers catch up or raise max_events"
                )
        oldest = now - self._retention
        for _ in range(2):
            if self._done and self._may_leave(self._done[0], oldest):
                self._rows.pop(self._done.popleft(), None)
            identities = self._identities
            if identities and (
                len(identities) >= self._max_events * _IDENTITIES_PER_EVENT
                or self._days[identities[0]] < int(now) // _DAY - IDENTITY_DAYS
            ):
                del self._days[identities.popleft()]

    def purge(self, state: EventState, before: float) -> int:
        """Remove the events in that state received before a moment; return how many."""
        doomed = [row.id for row in self._rows.values() if row.state is state and row.received_at < before]
        for event_id in doomed:
            del self._rows[event_id]
        return len(doomed)

    def clear(self) -> None:
        """Remove everything."""
        for kept in (self._rows, self._done, self._dead, self._ready, self._days, self._identities):
            kept.clear()

    def _queue(self, scope: str) -> DueQueue[int]:
        queue = self._ready.get(scope)
        if queue is None:
            queue = self._ready[scope] = DueQueue()
        return queue

    def _may_leave(self, event_id: int, oldest: float) -> bool:
        row = self._rows.get(event_id)
        return row is None or (row.state is EventState.DONE and row.received_at < oldest)

    def _drop(self, ids: deque[int], state: EventState) -> bool:
        """Remove the first event among `ids` that is still in that state."""
        while ids:
            row = self._rows.get(ids.popleft())
            if row is not None and row.state is state:
                del self._rows[row.id]
                return True
        return False
