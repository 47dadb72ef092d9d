"""The events that a process keeps in memory, within bounds, with their jobs.

An event is kept as one `bytes`: the garbage collector does not look at it, so that hundreds of thousands of them do not slow down
every delivery that follows. Times are those of a clock that cannot be set, unless they are called Unix time.
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
from webhooks.store.job_table import JobTable
from webhooks.store.outcomes import pack_any, unpack_any
from webhooks.store.records import IDENTITY_DAYS, ClaimedJob, EventState, Job, StoredEvent

_IDENTITIES_PER_EVENT = 10
_SLICE = 1_000
_TRIMS_PER_RETENTION = 100

_HEAD = struct.Struct("<ddHI")
"""When it was received, Unix time and ours; then the lengths of identity and description, which follow with the body."""


class EventTable:
    """Events by id, their identities, and the jobs on them.

    Args:
        max_events: At most so many events; ten times as many identities.
        retention: Seconds for which done events stay.
    """

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
        """Every identity that was kept, with the day on which."""
        self.jobs = JobTable()
        """Read only: whatever changes an event's state is a method of this class."""

    def add(self, event: Event, received_at: float, now: float, handlers: Sequence[str]) -> None:
        """Keep an event, with a job for each handler.

        Args:
            event: The event.
            received_at: Unix time.
            now: Our time.
            handlers: The names of its jobs.

        Raises:
            StoreFull: there is no room, and nothing may leave.
        """
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
        """Return one event."""
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
        """Iterate over all events, or those before one."""
        return (
            found
            for event_id in reversed(self._kept)
            if (before_id is None or event_id < before_id) and (found := self.get(event_id, now)) is not None
        )

    def ids(self) -> list[int]:
        """Return the ids of all events, oldest first."""
        return list(self._kept)

    def count(self) -> tuple[int, int, int, float | None]:
        """Return how many events there are, wait for a handler and are dead, and the Unix time of the first that waits."""
        ready = [event_id for event_id in self.jobs if self._state(event_id) is EventState.READY]
        dead = len(self._unusable.union(self.jobs).difference(ready))
        return len(self._kept), len(ready), dead, min((_received_at(self._kept[event_id]) for event_id in ready), default=None)

    def replace(self, event_id: int, event: Event) -> bool:
        """Put another reading in an event's place; return whether it is here."""
        if event_id not in self._kept:
            return False
        self._repack(event_id, event)
        self._unusable.discard(event_id)
        if event.problem is not None:
            self._unusable.add(event_id)
        self._refile(event_id)
        return True

    def assign(self, event_id: int, scope: str, handlers: Sequence[str], due_at: float) -> bool:
        """Give an event a fresh job for each of these handlers, in place of the jobs it has; return whether there are any."""
        self.jobs.assign(event_id, scope, handlers, due_at)
        self._refile(event_id)
        return bool(handlers)

    def claim(self, handler: str, scopes: Collection[str], now: float, lease: float) -> ClaimedJob | None:
        """Lease the longest due job of a handler; None if none is due."""
        job = self.jobs.claim(handler, scopes, now, lease)
        return None if job is None else ClaimedJob(job=job, event=_unpacked(self._kept[job.event_id]))

    def finish(self, job: Job) -> bool:
        """Remove a job, unless another claim has it."""
        known = self.jobs.finish(job)
        self._refile(job.event_id)
        return known

    def fail(self, job: Job, reason: str, due_at: float | None) -> bool:
        """Give a job back, or let it die, unless another claim has it."""
        known = self.jobs.fail(job, reason, due_at)
        self._refile(job.event_id)
        return known

    def bury(self, handler: str, scope: str, reason: str) -> int:
        """Let the ready jobs of a handler on events of a scope die; return how many there were."""
        event_ids = self.jobs.ready(handler, scope)
        for event_id in event_ids:
            self.jobs.kill(event_id, reason, handler)
            self._refile(event_id)
        return len(event_ids)

    def purge(self, state: EventState, until: float, limit: int | None) -> int:
        """Remove the oldest events in that state received until a moment; return how many."""
        doomed = list(self._received_until(until, limit, lambda event_id: self._state(event_id) is state))
        for event_id in doomed:
            self._remove(event_id)
        return len(doomed)

    def purge_identities(self, now: float, limit: int | None) -> int:
        """Forget the oldest identities that are older than they have to be; return how many."""
        oldest_day, before = int(now) // DAY - IDENTITY_DAYS, len(self.days)
        identities = self._identities
        while identities and self.days[identities[0]] < oldest_day and (limit is None or before - len(self.days) < limit):
            del self.days[identities.popleft()]
        return before - len(self.days)

    def erase(self, until: float, limit: int | None) -> int:
        """Erase the bodies of the oldest done events received until a moment; return how many."""

        def has_body(event_id: int) -> bool:
            return self._state(event_id) is EventState.DONE and bool(_body(self._kept[event_id]))

        doomed = list(self._received_until(until, limit, has_body))
        for event_id in doomed:
            self._erase(event_id)
        return len(doomed)

    def forget(self, event_ids: Sequence[int], mentioned: Callable[[bytes], bool], reason: str) -> int:
        """Erase those of some events whose bodies mention a user, and let their ready jobs die; return how many."""
        doomed = [event_id for event_id in event_ids if (kept := self._kept.get(event_id)) and mentioned(_body(kept))]
        for event_id in doomed:
            self._erase(event_id)
            self.jobs.kill(event_id, reason)
            self._refile(event_id)
        return len(doomed)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._unusable, self._done, self._dead, self._identities, self.days, self.jobs):
            held.clear()

    def _state(self, event_id: int) -> EventState:
        by_jobs = self.jobs.state(event_id)
        if by_jobs is not None:
            return by_jobs
        return EventState.DEAD if event_id in self._unusable else EventState.DONE

    def _refile(self, event_id: int) -> None:
        """Queue an event to be evicted when the table is full, unless it still waits for a handler."""
        state = self._state(event_id)
        if state is not EventState.READY:
            (self._done if state is EventState.DONE else self._dead).append(event_id)

    def _repack(self, event_id: int, event: Event) -> None:
        received_at, received, _, _ = _HEAD.unpack_from(self._kept[event_id])
        self._kept[event_id] = _packed(event, received_at, received)

    def _erase(self, event_id: int) -> None:
        self._repack(event_id, evolve(_unpacked(self._kept[event_id]), body=b"", signature=None))

    def _received_until(self, moment: float, limit: int | None, fits: Callable[[int], bool]) -> Iterator[int]:
        """Iterate over the events that were received until a moment and fit, oldest first; they must not leave meanwhile."""
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
            f"The memory store is full: all of its {len(self._kept)} events wait for their handlers. The new one was not kept. "
            "Let the handlers catch up, or raise max_events."
        )

    def _trim(self, now: float) -> None:
        """Remove what is too old, so much at a time that no delivery waits for it."""
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
        [(one.kind, one.uid) for one in event.also],
    )
    about = pack_any(said)
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
    about = unpack_any(kept[about_at:body_at])
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
