"""The jobs on the events that a process keeps in memory, and when each is due.

Times are those of a clock that cannot be set.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count

from attrs import evolve, frozen

from webhooks.store.due import DueQueue
from webhooks.store.records import EventState, Job


@frozen(kw_only=True)
class _Row:
    """A job; `fence` is the token of its last claim, which still has it if it is `held`; at `began_at` it was claimed first."""

    scope: str
    state: EventState = EventState.READY
    attempts: int = 0
    reason: str | None = None
    fence: str | None = None
    held: bool = False
    began_at: float | None = None


_NO_JOBS: Mapping[str, _Row] = {}


class JobTable:
    """Jobs by event and handler; a job that is done is not kept."""

    def __init__(self) -> None:
        self._rows: dict[int, Mapping[str, _Row]] = {}
        self._due: dict[tuple[str, str], DueQueue[int]] = {}
        self._fences = count(1)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the events that have jobs."""
        return iter(self._rows)

    def state(self, event_id: int) -> EventState | None:
        """Return where an event stands by its jobs, None if it has none."""
        rows = self._rows.get(event_id)
        if not rows:
            return None
        return EventState.READY if any(row.state is EventState.READY for row in rows.values()) else EventState.DEAD

    def of(self, event_id: int, now: float) -> tuple[Job, ...]:
        """Return an event's jobs, in the order of their handlers' names."""
        return tuple(self._job(event_id, name, row, now) for name, row in sorted(self._rows.get(event_id, _NO_JOBS).items()))

    def counts(self) -> dict[tuple[str, str], dict[EventState, int]]:
        """Return how many jobs of each handler and scope are ready and dead."""
        counts: dict[tuple[str, str], dict[EventState, int]] = {}
        for rows in self._rows.values():
            for name, row in rows.items():
                of_handler = counts.setdefault((name, row.scope), dict.fromkeys(EventState, 0))
                of_handler[row.state] += 1
        return counts

    def waiting(self) -> list[tuple[str, str]]:
        """Return the handlers and scopes that have ready jobs."""
        return [key for key, queue in self._due.items() if queue]

    def ready(self, handler: str, scope: str) -> list[int]:
        """Return the events with a ready job of a handler."""
        return list(self._due.get((handler, scope), ()))

    def assign(self, event_id: int, scope: str, handlers: Iterable[str], due_at: float) -> None:
        """Give an event a fresh job for each of these handlers, in place of the jobs it has."""
        self.remove(event_id)
        self._put(event_id, dict.fromkeys(handlers, _Row(scope=scope)), due_at)

    def revive(self, event_id: int, due_at: float) -> bool:
        """Let an event's dead jobs run again; return whether it has any."""
        rows = self._rows.get(event_id, _NO_JOBS)
        dead = {name: _Row(scope=row.scope) for name, row in rows.items() if row.state is EventState.DEAD}
        self._put(event_id, dead, due_at)
        return bool(dead)

    def claim(self, handler: str, scopes: Collection[str], now: float, lease: float) -> Job | None:
        """Lease the longest due job of a handler; None if none is due."""
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
        """Remove a job, unless another claim has it."""
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
        """Give a job back, or let it die, unless another claim has it."""
        row = self._rows.get(job.event_id, _NO_JOBS).get(job.handler)
        if row is None or row.fence != job.fence:
            return row is None
        if row.held and due_at is None:
            self.kill(job.event_id, reason, job.handler)
        elif row.held and due_at is not None:
            self._put(job.event_id, {job.handler: evolve(row, reason=reason, held=False)}, due_at)
        return True

    def kill(self, event_id: int, reason: str, handler: str | None = None) -> None:
        """Let the ready jobs of an event die, or only that of one handler."""
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
        """Remove an event's jobs."""
        for name, row in self._rows.pop(event_id, _NO_JOBS).items():
            self._queue(name, row.scope).discard(event_id)

    def clear(self) -> None:
        """Remove everything."""
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

    def _queue(self, handler: str, scope: str) -> DueQueue[int]:
        queue = self._due.get((handler, scope))
        if queue is None:
            queue = self._due[handler, scope] = DueQueue()
        return queue


def _due_at(queue: DueQueue[int]) -> float:
    head = queue.head()
    return math.inf if head is None else head[0]
