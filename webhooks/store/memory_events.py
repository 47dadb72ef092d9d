"""The events of a `MemoryStore` and their jobs.

An event is kept as one `bytes`, which the garbage collector does not traverse: hundreds of thousands of objects would slow down
every later delivery (`benchmarks stalls`). Times are the event loop's unless they are called Unix time.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice, takewhile

from attrs import evolve

from rewards_core.clock import DAY
from rewards_core.errors import StoreFull
from rewards_core.operations import Event, OperationRef
from webhooks.store.memory_jobs import JobTable
from webhooks.store.outcomes import pack, unpack
from webhooks.store.records import IDENTITY_DAYS, ClaimedJob, EventState, Job, StoredEvent

_IDENTITIES_PER_EVENT = 10
_SLICE = 1_000
_TRIMS_PER_RETENTION = 100

_HEAD = struct.Struct("<ddHI")
"""When it was received, Unix time and loop time; then the lengths of identity and description, which follow with the body."""


class EventTable:
    """Events by id, their identities and their jobs; `retention` is in seconds."""

    def __init__(self, max_events: int, retention: float) -> None:
        self._max_events = max_events
        self._max_identities = max_events * _IDENTITIES_PER_EVENT
        self._retention = retention
        self._trim_at = 0.0
        self._next_id = 1
        self._kept: dict[int, bytes] = {}
        self._unusable: set[int] = set()
        self._done: deque[int] = deque()
        self._dead: deque[int] = deque()
        self._identities: deque[bytes] = deque()
        self.days: dict[bytes, int] = {}
        """Each known identity, with the day of its event."""
        self.jobs = JobTable()
        """To read only: methods of this class change it, with the event's state."""

    def add(self, event: Event, received_at: float, now: float, handlers: Sequence[str]) -> None:
        """Keep an event with a job for each handler; `StoreFull` if nothing can be evicted for it."""
        if len(self._kept) >= self._max_events:
            self._make_room()
        if now >= self._trim_at:
            self._trim(now)
        kept = _packed(event, received_at, now)  # before anything changes: it may raise
        event_id = self._next_id
        self._next_id = event_id + 1
        identity = event.identity
        self.days[identity] = int(now) // DAY
        identities = self._identities
        identities.append(identity)
        if len(identities) > self._max_identities:
            del self.days[identities.popleft()]
        self._kept[event_id] = kept
        if handlers:
            self.jobs.assign(event_id, event.scope, handlers, now)
        elif event.problem is None:
            self._done.append(event_id)
        else:
            self._unusable.add(event_id)
            self._dead.append(event_id)

    def get(self, event_id: int, now: float) -> StoredEvent | None:
        kept = self._kept.get(event_id)
        if kept is None:
            return None
        return StoredEvent(
            id=event_id,
            event=_unpacked(kept),
            state=self._state(event_id),
            received_at=_received_at(kept),
            jobs=self.jobs.of(event_id, now),
        )

    def newest_first(self, before_id: int | None, now: float) -> Iterator[StoredEvent]:
        return (
            found
            for event_id in reversed(self._kept)
            if (before_id is None or event_id < before_id) and (found := self.get(event_id, now)) is not None
        )

    def ids(self) -> list[int]:
        return list(self._kept)

    def count(self) -> tuple[int, int, int, float | None]:
        """Return the number of events, of ready and of dead ones, and the Unix time of the oldest ready one."""
        ready = [event_id for event_id in self.jobs if self._state(event_id) is EventState.READY]
        dead = len(self._unusable.union(self.jobs).difference(ready))
        return len(self._kept), len(ready), dead, min((_received_at(self._kept[event_id]) for event_id in ready), default=None)

    def replace(self, event_id: int, event: Event) -> bool:
        """Replace an event; return whether it exists."""
        if event_id not in self._kept:
            return False
        self._repack(event_id, event)
        self._unusable.discard(event_id)
        if event.problem is not None:
            self._unusable.add(event_id)
        self._update_state(event_id)
        return True

    def assign(self, event_id: int, scope: str, handlers: Sequence[str], due_at: float) -> bool:
        """Replace the jobs of an event by new ones; return whether there are any."""
        self.jobs.assign(event_id, scope, handlers, due_at)
        self._update_state(event_id)
        return bool(handlers)

    def claim(self, handler: str, scopes: Collection[str], now: float, lease: float) -> ClaimedJob | None:
        """Lease the longest due job of a handler, None if none is due."""
        job = self.jobs.claim(handler, scopes, now, lease)
        return None if job is None else ClaimedJob(job=job, event=_unpacked(self._kept[job.event_id]))

    def finish(self, job: Job) -> bool:
        known = self.jobs.finish(job)
        self._update_state(job.event_id)
        return known

    def fail(self, job: Job, reason: str, due_at: float | None) -> bool:
        known = self.jobs.fail(job, reason, due_at)
        self._update_state(job.event_id)
        return known

    def dead_letter(self, handler: str, scope: str, reason: str) -> int:
        """Make the ready jobs of a handler dead letters; return how many there were."""
        event_ids = self.jobs.ready(handler, scope)
        for event_id in event_ids:
            self.jobs.kill(event_id, reason, handler)
            self._update_state(event_id)
        return len(event_ids)

    def purge(self, state: EventState, until: float, limit: int | None) -> int:
        doomed = list(self._received_until(until, limit, lambda event_id: self._state(event_id) is state))
        for event_id in doomed:
            self._remove(event_id)
        return len(doomed)

    def purge_identities(self, now: float, limit: int | None) -> int:
        oldest_day, before = int(now) // DAY - IDENTITY_DAYS, len(self.days)
        identities = self._identities
        while identities and self.days[identities[0]] < oldest_day and (limit is None or before - len(self.days) < limit):
            del self.days[identities.popleft()]
        return before - len(self.days)

    def erase(self, until: float, limit: int | None) -> int:
        def has_body(event_id: int) -> bool:
            return self._state(event_id) is EventState.DONE and bool(_body(self._kept[event_id]))

        doomed = list(self._received_until(until, limit, has_body))
        for event_id in doomed:
            self._erase(event_id)
        return len(doomed)

    def forget(self, event_ids: Sequence[int], mentioned: Callable[[bytes], bool], reason: str) -> int:
        """Erase the events whose bodies mention a user, and make their ready jobs dead letters; return how many."""
        doomed = [event_id for event_id in event_ids if (kept := self._kept.get(event_id)) and mentioned(_body(kept))]
        for event_id in doomed:
            self._erase(event_id)
            self.jobs.kill(event_id, reason)
            self._update_state(event_id)
        return len(doomed)

    def clear(self) -> None:
        for held in (self._kept, self._unusable, self._done, self._dead, self._identities, self.days, self.jobs):
            held.clear()

    def _state(self, event_id: int) -> EventState:
        by_jobs = self.jobs.state(event_id)
        if by_jobs is not None:
            return by_jobs
        return EventState.DEAD if event_id in self._unusable else EventState.DONE

    def _update_state(self, event_id: int) -> None:
        """Queue an event for eviction, unless it waits for a handler."""
        state = self._state(event_id)
        if state is not EventState.READY:
            (self._done if state is EventState.DONE else self._dead).append(event_id)

    def _repack(self, event_id: int, event: Event) -> None:
        received_at, received, _, _ = _HEAD.unpack_from(self._kept[event_id])
        self._kept[event_id] = _packed(event, received_at, received)

    def _erase(self, event_id: int) -> None:
        self._repack(event_id, evolve(_unpacked(self._kept[event_id]), body=b"", signature=None))

    def _received_until(self, moment: float, limit: int | None, fits: Callable[[int], bool]) -> Iterator[int]:
        """Iterate over the events received until a moment, oldest first; do not remove any meanwhile."""
        old = takewhile(lambda event_id: _received(self._kept[event_id]) <= moment, self._kept)
        return islice(filter(fits, old), limit)

    def _make_room(self) -> None:
        for ids, state in ((self._done, EventState.DONE), (self._dead, EventState.DEAD)):
            while ids:
                event_id = ids.popleft()
                if event_id in self._kept and self._state(event_id) is state:
                    self._remove(event_id)
                    return
        raise StoreFull(
            f"The memory store is full: all of its {len(self._kept)} events wait for their handlers. The new event was not "
            "stored. Let the handlers catch up, or raise max_events."
        )

    def _trim(self, now: float) -> None:
        """Remove old events, in slices that do not delay deliveries."""
        self._trim_at = now + self._retention / _TRIMS_PER_RETENTION
        for _ in range(_SLICE):
            if not self._done or self._stays(self._done[0], now - self._retention):
                return
            event_id = self._done.popleft()
            if event_id in self._kept and self._state(event_id) is EventState.DONE:
                self._remove(event_id)
        self._trim_at = now

    def _stays(self, event_id: int, oldest: float) -> bool:
        kept = self._kept.get(event_id)
        return kept is not None and _received(kept) >= oldest and self._state(event_id) is EventState.DONE

    def _remove(self, event_id: int) -> None:
        del self._kept[event_id]
        self._unusable.discard(event_id)
        self.jobs.remove(event_id)


def _packed(event: Event, received_at: float, received: float) -> bytes:
    ref = event.ref
    fields = (
        event.scope,
        event.name,
        None if ref is None else ref.kind,
        None if ref is None else ref.uid,
        event.occurred_at,
        event.correlation_id,
        event.attempt,
        event.signature,
        event.problem,
        [(one.kind, one.uid) for one in event.also],
    )
    about = pack(fields)
    return b"".join((_HEAD.pack(received_at, received, len(event.identity), len(about)), event.identity, about, event.body))


def _received_at(kept: bytes) -> float:
    received_at: float = _HEAD.unpack_from(kept)[0]
    return received_at


def _received(kept: bytes) -> float:
    received: float = _HEAD.unpack_from(kept)[1]
    return received


def _body(kept: bytes) -> bytes:
    _, _, identity_length, about_length = _HEAD.unpack_from(kept)
    return kept[_HEAD.size + identity_length + about_length :]


def _unpacked(kept: bytes) -> Event:
    _, _, identity_length, about_length = _HEAD.unpack_from(kept)
    about_at = _HEAD.size + identity_length
    body_at = about_at + about_length
    about = unpack(kept[about_at:body_at])
    scope, name, kind, uid, occurred_at, correlation_id, attempt, signature, problem, also = about
    return Event(
        scope=scope,
        name=name,
        identity=kept[_HEAD.size : about_at],
        body=kept[body_at:],
        ref=None if kind is None or uid is None else OperationRef(scope, kind, uid),
        also=tuple(OperationRef(scope, *one) for one in also),
        occurred_at=occurred_at,
        correlation_id=correlation_id,
        attempt=attempt,
        signature=signature,
        problem=problem,
    )
