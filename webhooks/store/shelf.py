"""The events a process keeps in memory, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import define, evolve

from webhooks.errors import StoreFull
from webhooks.store.base import IDENTITY_DAYS, ClaimedJob, EventState, Job, StoredEvent
from webhooks.store.due import DueQueue

if TYPE_CHECKING:
    from vendor_http.operations import Event

_DAY = 86_400
_IDENTITIES_PER_EVENT = 10


_NO_JOBS: Mapping[str, Job] = MappingProxyType({})


@define(eq=False)
class Row:
    """One kept event, with its jobs that are not done."""

    id: int
    event: Event
    received_at: float
    jobs: Mapping[str, Job] = _NO_JOBS

    @property
    def state(self) -> EventState:
        """Where the event stands."""
        jobs = self.jobs
        if jobs and any(job.state is EventState.READY for job in jobs.values()):
            return EventState.READY
        return EventState.DEAD if jobs or self.event.problem is not None else EventState.DONE

    def told(self) -> StoredEvent:
        """Return the event as others see it."""
        jobs = tuple(sorted(self.jobs.values(), key=lambda job: job.handler))
        return StoredEvent(id=self.id, event=self.event, state=self.state, received_at=self.received_at, jobs=jobs)


class EventShelf:
    """Events by number, their identities, and which jobs are due.

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
        self._due: dict[str, DueQueue[int]] = {}
        self._days: dict[bytes, int] = {}
        self._identities: deque[bytes] = deque()

    def knows(self, identity: bytes) -> bool:
        """Whether an event of this identity was kept before."""
        return identity in self._days

    def get(self, event_id: int) -> Row | None:
        """Return one event."""
        return self._rows.get(event_id)

    def newest_first(self) -> Iterator[Row]:
        """Iterate over all events."""
        return reversed(self._rows.values())

    def add(self, event: Event, now: float, handlers: Sequence[str]) -> None:
        """Keep an event."""
        event_id = self._next_id
        self._next_id = event_id + 1
        self._days[event.identity] = int(now) // _DAY
        self._identities.append(event.identity)
        row = self._rows[event_id] = Row(event_id, event, now)
        if handlers:
            self.assign(row, handlers, now)
        else:
            self.refile(row)

    def assign(self, row: Row, handlers: Sequence[str], due_at: float) -> None:
        """Give an event a fresh job for each of these handlers, in place of the jobs it has."""
        for handler in row.jobs:
            self._queue(handler).discard(row.id)
        row.jobs = {}
        for handler in handlers:
            self.put(row, Job(event_id=row.id, handler=handler, state=EventState.READY, due_at=due_at))
        self.refile(row)

    def put(self, row: Row, job: Job) -> None:
        """Add a job, or replace the one of that handler."""
        row.jobs = {**row.jobs, job.handler: job}
        if job.state is EventState.READY:
            self._queue(job.handler).put(row.id, job.due_at)
        else:
            self._queue(job.handler).discard(row.id)
            self.refile(row)

    def finish(self, row: Row, handler: str) -> None:
        """Take a job away."""
        self._queue(handler).discard(row.id)
        row.jobs = {name: job for name, job in row.jobs.items() if name != handler}
        self.refile(row)

    def refile(self, row: Row) -> None:
        """Put an event where it will be looked for when there is no more room."""
        state = row.state
        if state is EventState.DONE:
            self._done.append(row.id)
        elif state is EventState.DEAD:
            self._dead.append(row.id)

    def claim(self, handler: str, now: float, lease: float) -> ClaimedJob | None:
        """Lease the longest due job of a handler; None if none is due."""
        event_id = self._queue(handler).claim(now, lease)
        if event_id is None:
            return None
        row = self._rows[event_id]
        job = row.jobs[handler]
        job = evolve(job, due_at=now + lease, attempts=job.attempts + 1)
        row.jobs = {**row.jobs, handler: job}
        return ClaimedJob(job=job, event=row.event)

    def leased(self, job: Job) -> Row | None:
        """Return the event if the job on it is still leased as claimed."""
        row = self._rows.get(job.event_id)
        return row if row is not None and self._queue(job.handler).due_at(row.id) == job.due_at else None

    def ready_jobs(self) -> list[tuple[Row, Job]]:
        """Return every ready job."""
        return [(row, job) for row in self._rows.values() for job in row.jobs.values() if job.state is EventState.READY]

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
            if self._done and not self._stays(self._done[0], oldest):
                self._drop_if(self._done.popleft(), EventState.DONE)
            identities = self._identities
            if identities and (
                len(identities) >= self._max_events * _IDENTITIES_PER_EVENT
                or self._days[identities[0]] < int(now) // _DAY - IDENTITY_DAYS
            ):
                del self._days[identities.popleft()]

    def purge(self, state: EventState, before: float) -> int:
        """Remove the events in that state received before a moment; return how many."""
        doomed = [row.id for row in self._rows.values() if row.received_at < before and row.state is state]
        for event_id in doomed:
            del self._rows[event_id]
        return len(doomed)

    def clear(self) -> None:
        """Remove everything."""
        for kept in (self._rows, self._done, self._dead, self._due, self._days, self._identities):
            kept.clear()

    def _queue(self, handler: str) -> DueQueue[int]:
        queue = self._due.get(handler)
        if queue is None:
            queue = self._due[handler] = DueQueue()
        return queue

    def _stays(self, event_id: int, oldest: float) -> bool:
        row = self._rows.get(event_id)
        return row is not None and row.state is EventState.DONE and row.received_at >= oldest

    def _drop_if(self, event_id: int, state: EventState) -> bool:
        row = self._rows.get(event_id)
        if row is None or row.state is not state:
            return False
        del self._rows[event_id]
        return True

    def _drop(self, ids: deque[int], state: EventState) -> bool:
        """Remove the first event among `ids` that is still in that state."""
        while ids:
            if self._drop_if(ids.popleft(), state):
                return True
        return False
