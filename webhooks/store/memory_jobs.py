"""The jobs of a `MemoryStore`, and when each is due, in the event loop's time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count

from attrs import evolve, frozen

from webhooks.store.records import EventState, Job

_SPARE = 1_000


@frozen(kw_only=True)
class _Row:
    """A job. `fence` is the token of its last claim, which is in force if `held`; its first claim was at `began_at`."""

    scope: str
    state: EventState = EventState.READY
    attempts: int = 0
    reason: str | None = None
    fence: str | None = None
    held: bool = False
    began_at: float | None = None


_NO_JOBS: Mapping[str, _Row] = {}


class JobTable:
    """Jobs by event and handler, except those that are done."""

    def __init__(self) -> None:
        self._rows: dict[int, Mapping[str, _Row]] = {}
        self._due: dict[tuple[str, str], _DueQueue] = {}
        self._fences = count(1)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the events that have jobs."""
        return iter(self._rows)

    def state(self, event_id: int) -> EventState | None:
        """Return the state of an event by its jobs, None if it has none."""
        rows = self._rows.get(event_id)
        if not rows:
            return None
        return EventState.READY if any(row.state is EventState.READY for row in rows.values()) else EventState.DEAD

    def of(self, event_id: int, now: float) -> tuple[Job, ...]:
        return tuple(self._job(event_id, name, row, now) for name, row in sorted(self._rows.get(event_id, _NO_JOBS).items()))

    def counts(self) -> dict[tuple[str, str], dict[EventState, int]]:
        """Return the number of jobs of each handler and scope, by state."""
        counts: dict[tuple[str, str], dict[EventState, int]] = {}
        for rows in self._rows.values():
            for name, row in rows.items():
                of_handler = counts.setdefault((name, row.scope), dict.fromkeys(EventState, 0))
                of_handler[row.state] += 1
        return counts

    def waiting(self) -> list[tuple[str, str]]:
        """Return the handlers and scopes with ready jobs."""
        return [key for key, queue in self._due.items() if queue]

    def ready(self, handler: str, scope: str) -> list[int]:
        """Return the events with a ready job of a handler."""
        return list(self._due.get((handler, scope), ()))

    def assign(self, event_id: int, scope: str, handlers: Iterable[str], due_at: float) -> None:
        """Replace the jobs of an event by new ones."""
        self.remove(event_id)
        self._put(event_id, dict.fromkeys(handlers, _Row(scope=scope)), due_at)

    def requeue(self, event_id: int, due_at: float) -> bool:
        """Make an event's dead jobs ready again; return whether it has any."""
        rows = self._rows.get(event_id, _NO_JOBS)
        dead = {name: _Row(scope=row.scope) for name, row in rows.items() if row.state is EventState.DEAD}
        self._put(event_id, dead, due_at)
        return bool(dead)

    def claim(self, handler: str, scopes: Collection[str], now: float, lease: float) -> Job | None:
        """Lease the longest due job of a handler, None if none is due."""
        queues = [queue for scope in scopes if (queue := self._due.get((handler, scope)))]
        event_id = min(queues, key=_due_at).claim(now, lease) if queues else None
        if event_id is None:
            return None
        row = self._rows[event_id][handler]
        began_at = now if row.began_at is None else row.began_at
        row = evolve(row, attempts=row.attempts + 1, fence=str(next(self._fences)), held=True, began_at=began_at)
        self._rows[event_id] = {**self._rows[event_id], handler: row}
        return self._job(event_id, handler, row, now)

    def finish(self, job: Job) -> bool:
        """Remove a job, unless another claim has replaced this one."""
        row = self._rows.get(job.event_id, _NO_JOBS).get(job.handler)
        if row is None or row.fence != job.fence:
            return row is None
        left = {name: other for name, other in self._rows[job.event_id].items() if name != job.handler}
        self._queue(job.handler, row.scope).discard(job.event_id)
        if left:
            self._rows[job.event_id] = left
        else:
            del self._rows[job.event_id]
        return True

    def fail(self, job: Job, reason: str, due_at: float | None) -> bool:
        """Return a job, or make it a dead letter, unless another claim has replaced this one."""
        row = self._rows.get(job.event_id, _NO_JOBS).get(job.handler)
        if row is None or row.fence != job.fence:
            return row is None
        if row.held and due_at is None:
            self.kill(job.event_id, reason, job.handler)
        elif row.held and due_at is not None:
            self._put(job.event_id, {job.handler: evolve(row, reason=reason, held=False)}, due_at)
        return True

    def kill(self, event_id: int, reason: str, handler: str | None = None) -> None:
        """Make the ready jobs of an event dead letters, or only that of one handler."""
        rows = self._rows.get(event_id, _NO_JOBS)
        dead = {
            name: evolve(row, state=EventState.DEAD, reason=reason, held=False)
            for name, row in rows.items()
            if row.state is EventState.READY and handler in {None, name}
        }
        for name, row in dead.items():
            self._queue(name, row.scope).discard(event_id)
        if dead:
            self._rows[event_id] = {**rows, **dead}

    def remove(self, event_id: int) -> None:
        for name, row in self._rows.pop(event_id, _NO_JOBS).items():
            self._queue(name, row.scope).discard(event_id)

    def clear(self) -> None:
        self._rows.clear()
        self._due.clear()

    def _put(self, event_id: int, rows: Mapping[str, _Row], due_at: float) -> None:
        if rows:
            self._rows[event_id] = {**self._rows.get(event_id, _NO_JOBS), **rows}
        for name, row in rows.items():
            self._queue(name, row.scope).put(event_id, due_at)

    def _job(self, event_id: int, handler: str, row: _Row, now: float) -> Job:
        due_at = self._queue(handler, row.scope).due_at(event_id)
        return Job(
            event_id=event_id,
            handler=handler,
            state=row.state,
            due_in=0.0 if due_at is None else max(0.0, due_at - now),
            attempts=row.attempts,
            reason=row.reason,
            fence=row.fence if row.held else None,
            age=0.0 if row.began_at is None else now - row.began_at,
        )

    def _queue(self, handler: str, scope: str) -> _DueQueue:
        queue = self._due.get((handler, scope))
        if queue is None:
            queue = self._due[handler, scope] = _DueQueue()
        return queue


def _due_at(queue: _DueQueue) -> float:
    head = queue.head()
    return math.inf if head is None else head[0]


class _DueQueue:
    """Event ids and the moment at which each may be claimed, the longest due first."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, event_id: int) -> bool:
        return event_id in self._due

    def __iter__(self) -> Iterator[int]:
        return iter(self._due)

    def put(self, event_id: int, due_at: float) -> None:
        self._due[event_id] = due_at
        heapq.heappush(self._heap, (due_at, event_id))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [(due_at, event_id) for event_id, due_at in self._due.items()]
            heapq.heapify(self._heap)

    def discard(self, event_id: int) -> None:
        self._due.pop(event_id, None)

    def due_at(self, event_id: int) -> float | None:
        return self._due.get(event_id)

    def head(self) -> tuple[float, int] | None:
        """Return the longest due id and its moment, None if there is none."""
        heap = self._heap
        while heap:
            due_at, event_id = heap[0]
            if self._due.get(event_id) == due_at:
                return due_at, event_id
            heapq.heappop(heap)
        return None

    def claim(self, now: float, lease: float) -> int | None:
        """Lease the longest due id until `now + lease`, None if none is due."""
        head = self.head()
        if head is None or head[0] > now:
            return None
        heapq.heapreplace(self._heap, (now + lease, head[1]))
        self._due[head[1]] = now + lease
        return head[1]
