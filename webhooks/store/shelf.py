"""The events a process keeps in memory, within bounds.

An event is kept as one `bytes`: the garbage collector does not look at it, so that hundreds of thousands of them do not slow down
every delivery that follows.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

from attrs import evolve

from rewards_core.operations import Event, OperationRef
from webhooks.errors import StoreFull
from webhooks.store.base import IDENTITY_DAYS, ClaimedJob, EventState, Job, StoredEvent
from webhooks.store.due import DueQueue
from webhooks.store.outcomes import pack_any, unpack_any

_DAY = 86_400
_IDENTITIES_PER_EVENT = 10
_SLICE = 1_000
_TRIMS_PER_RETENTION = 100
_NO_JOBS: Mapping[str, Job] = {}

_HEAD = struct.Struct("<dHI")
"""When it was received, the length of its identity, and that of what is said about it; these two and the body follow."""


class EventShelf:
    """Events by number, their identities, and which jobs are due.

    Args:
        max_events: At most so many events; ten times as many identities.
        retention: Seconds that events which are done with stay.
    """

    def __init__(self, max_events: int, retention: float) -> None:
        self._max_events = max_events
        self._max_identities = max_events * _IDENTITIES_PER_EVENT
        self._retention = retention
        self._trim_at = 0.0
        self._next_id = 1
        self._kept: dict[int, bytes] = {}
        self._unusable: set[int] = set()
        self._jobs: dict[int, Mapping[str, Job]] = {}
        self._done: deque[int] = deque()
        self._dead: deque[int] = deque()
        self._due: dict[str, DueQueue[int]] = {}
        self.days: dict[bytes, int] = {}
        """Every identity that was kept, with the day on which."""
        self._identities: deque[bytes] = deque()

    def add(self, event: Event, now: float, handlers: Sequence[str]) -> None:
        """Keep an event, with a job for each handler.

        Raises:
            StoreFull: there is no room, and nothing may leave.
        """
        if len(self._kept) >= self._max_events:
            self._make_room()
        if now >= self._trim_at:
            self._trim(now)
        kept = _packed(event, now)  # before anything changes: it may raise
        event_id = self._next_id
        self._next_id = event_id + 1
        identity = event.identity
        self.days[identity] = int(now) // _DAY
        identities = self._identities
        identities.append(identity)
        if len(identities) > self._max_identities:
            del self.days[identities.popleft()]
        self._kept[event_id] = kept
        if handlers:
            self.assign(event_id, handlers, now)
        elif event.problem is None:
            self._done.append(event_id)
        else:
            self._unusable.add(event_id)
            self._dead.append(event_id)

    def get(self, event_id: int) -> StoredEvent | None:
        """Return one event."""
        kept = self._kept.get(event_id)
        if kept is None:
            return None
        jobs = tuple(sorted(self._jobs.get(event_id, _NO_JOBS).values(), key=lambda job: job.handler))
        return StoredEvent(
            id=event_id, event=_unpacked(kept), state=self._state(event_id), received_at=_received_at(kept), jobs=jobs
        )

    def newest_first(self, before_id: int | None) -> Iterator[StoredEvent]:
        """Iterate over all events, or those before one."""
        return (
            found
            for event_id in reversed(self._kept)
            if (before_id is None or event_id < before_id) and (found := self.get(event_id)) is not None
        )

    def count(self) -> tuple[int, int, int, float | None]:
        """Return how many events there are, wait for a handler, are dead, and when the oldest that waits was received."""
        ready = [event_id for event_id in self._jobs if self._state(event_id) is EventState.READY]
        dead = len(self._unusable.union(self._jobs).difference(ready))
        return len(self._kept), len(ready), dead, min((_received_at(self._kept[event_id]) for event_id in ready), default=None)

    def replace(self, event_id: int, event: Event) -> bool:
        """Put another reading in an event's place; return whether it is here."""
        kept = self._kept.get(event_id)
        if kept is None:
            return False
        self._kept[event_id] = _packed(event, _received_at(kept))
        self._unusable.discard(event_id)
        if event.problem is not None:
            self._unusable.add(event_id)
        self._refile(event_id)
        return True

    def jobs(self, event_id: int) -> Mapping[str, Job]:
        """Return an event's jobs that are not done."""
        return self._jobs.get(event_id, _NO_JOBS)

    def ready_jobs(self, scopes: Collection[str]) -> list[Job]:
        """Return every ready job on the events of these scopes."""
        return [
            job
            for event_id, jobs in self._jobs.items()
            if _unpacked(self._kept[event_id]).scope in scopes
            for job in jobs.values()
            if job.state is EventState.READY
        ]

    def assign(self, event_id: int, handlers: Sequence[str], due_at: float) -> None:
        """Give an event a fresh job for each of these handlers, in place of the jobs it has."""
        for handler in self._jobs.pop(event_id, _NO_JOBS):
            self._queue(handler).discard(event_id)
        for handler in handlers:
            self.put(Job(event_id=event_id, handler=handler, state=EventState.READY, due_at=due_at))
        self._refile(event_id)

    def put(self, job: Job) -> None:
        """Add a job, or replace the one of that handler."""
        self._jobs[job.event_id] = {**self._jobs.get(job.event_id, _NO_JOBS), job.handler: job}
        if job.state is EventState.READY:
            self._queue(job.handler).put(job.event_id, job.due_at)
        else:
            self._queue(job.handler).discard(job.event_id)
            self._refile(job.event_id)

    def finish(self, job: Job) -> None:
        """Take a job away."""
        event_id = job.event_id
        self._queue(job.handler).discard(event_id)
        left = {name: other for name, other in self._jobs.pop(event_id, _NO_JOBS).items() if name != job.handler}
        if left:
            self._jobs[event_id] = left
        self._refile(event_id)

    def claim(self, handler: str, now: float, lease: float) -> ClaimedJob | None:
        """Lease the longest due job of a handler; None if none is due."""
        event_id = self._queue(handler).claim(now, lease)
        if event_id is None:
            return None
        job = self._jobs[event_id][handler]
        job = evolve(job, due_at=now + lease, attempts=job.attempts + 1)
        self._jobs[event_id] = {**self._jobs[event_id], handler: job}
        return ClaimedJob(job=job, event=_unpacked(self._kept[event_id]))

    def leased(self, job: Job) -> bool:
        """Whether a job is still leased as claimed."""
        return self._queue(job.handler).due_at(job.event_id) == job.due_at

    def purge(self, state: EventState, before: float) -> int:
        """Remove the events in that state received before a moment; return how many."""
        doomed = [
            event_id for event_id, kept in self._kept.items() if _received_at(kept) < before and self._state(event_id) is state
        ]
        for event_id in doomed:
            self._remove(event_id)
        return len(doomed)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._unusable, self._jobs, self._done, self._dead, self._due, self.days, self._identities):
            held.clear()

    def _state(self, event_id: int) -> EventState:
        jobs = self._jobs.get(event_id)
        if jobs and any(job.state is EventState.READY for job in jobs.values()):
            return EventState.READY
        return EventState.DEAD if jobs or event_id in self._unusable else EventState.DONE

    def _refile(self, event_id: int) -> None:
        """Put an event where it will be looked for when there is no more room."""
        state = self._state(event_id)
        if state is not EventState.READY:
            (self._done if state is EventState.DONE else self._dead).append(event_id)

    def _queue(self, handler: str) -> DueQueue[int]:
        queue = self._due.get(handler)
        if queue is None:
            queue = self._due[handler] = DueQueue()
        return queue

    def _make_room(self) -> None:
        for ids, state in ((self._done, EventState.DONE), (self._dead, EventState.DEAD)):
            while ids:
                event_id = ids.popleft()
                if event_id in self._kept and self._state(event_id) is state:
                    self._remove(event_id)
                    return
        raise StoreFull(
            f"expected room for an event, got {len(self._kept)} that wait for their handlers; "
            "let the handlers catch up or raise max_events"
        )

    def _trim(self, now: float) -> None:
        """Let go what is too old, so much at a time that no delivery waits for it."""
        self._trim_at = now + self._retention / _TRIMS_PER_RETENTION
        oldest, oldest_day = now - self._retention, int(now) // _DAY - IDENTITY_DAYS
        for _ in range(_SLICE):
            if not self._done or self._stays(self._done[0], oldest):
                break
            self._drop_done(self._done.popleft())
        else:
            self._trim_at = now
        for _ in range(_SLICE):
            if not self._identities or self.days[self._identities[0]] >= oldest_day:
                return
            del self.days[self._identities.popleft()]
        self._trim_at = now

    def _stays(self, event_id: int, oldest: float) -> bool:
        kept = self._kept.get(event_id)
        return kept is not None and _received_at(kept) >= oldest and self._state(event_id) is EventState.DONE

    def _drop_done(self, event_id: int) -> None:
        if event_id in self._kept and self._state(event_id) is EventState.DONE:
            self._remove(event_id)

    def _remove(self, event_id: int) -> None:
        del self._kept[event_id]
        self._unusable.discard(event_id)
        self._jobs.pop(event_id, None)


def _packed(event: Event, received_at: float) -> bytes:
    ref = event.ref
    said = (
        event.scope,
        event.name,
        None if ref is None else ref.kind,
        None if ref is None else ref.uid,
        event.occurred_at,
        event.correlation_id,
        event.attempt,
        event.signature,
        event.problem,
    )
    about = pack_any(said)
    return b"".join((_HEAD.pack(received_at, len(event.identity), len(about)), event.identity, about, event.body))


def _received_at(kept: bytes) -> float:
    received_at: float = _HEAD.unpack_from(kept)[0]
    return received_at


def _unpacked(kept: bytes) -> Event:
    _, identity_length, about_length = _HEAD.unpack_from(kept)
    about_at = _HEAD.size + identity_length
    body_at = about_at + about_length
    scope, name, kind, uid, occurred_at, correlation_id, attempt, signature, problem = unpack_any(kept[about_at:body_at])
    return Event(
        scope=scope,
        name=name,
        identity=kept[_HEAD.size : about_at],
        body=kept[body_at:],
        ref=None if kind is None or uid is None else OperationRef(scope, kind, uid),
        occurred_at=occurred_at,
        correlation_id=correlation_id,
        attempt=attempt,
        signature=signature,
        problem=problem,
    )
