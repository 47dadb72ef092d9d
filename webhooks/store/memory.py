"""The store of one process: nothing outlives it, and tests of applications use it as their double."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice

from attrs import evolve

from rewards_core.operations import Event, OperationRef, OperationStatus
from rewards_core.validation import check_callable, check_number, check_whole
from webhooks.errors import StoreClosed, StoreFull
from webhooks.store.base import (
    NO_SUCH_HANDLER,
    Acceptance,
    ClaimedJob,
    EventState,
    Job,
    Outcome,
    Recorded,
    StoredEvent,
    StoreStatistics,
    Subscriber,
    Verdict,
)
from webhooks.store.due import DueQueue
from webhooks.store.listing import EventListing, EventQuery
from webhooks.store.outcome_shelf import OutcomeShelf, key_of, made_with_of, packed, ref_of
from webhooks.store.outcomes import agree, conflict_event, outcome_of, terminal_status
from webhooks.store.pending import PendingShelf
from webhooks.store.shelf import EventShelf
from webhooks.store.subscribers import Subscribers

logger = logging.getLogger(__name__)

_PENDING_PER_EVENT = 10
_SLICE = 1_000


class MemoryStore(EventListing):
    """Keep everything in this process, within bounds.

    Args:
        max_events: At most so many events, outcomes and questions each, 1 or more. The oldest that are done with leave first,
            then the oldest dead letters; events that wait for a handler never leave, a new one is refused with `StoreFull`. Ten
            times as many identities are kept, for 400 days, and about as many pending operations.
        retention: Seconds that events which are done with, outcomes and pending operations stay, above 0.
        clock: Returns Unix time in seconds.

    Raises:
        TypeError: `max_events` is no whole number, or `retention` no number.
        ValueError: one of them is out of range.
    """

    def __init__(self, *, max_events: int = 100_000, retention: float = 86_400.0, clock: Callable[[], float] = time.time) -> None:
        self._max_events = check_whole(max_events, "max_events", at_least=1)
        check_number(retention, "retention", above=0, unit="seconds")
        self._clock = check_callable(clock, "clock")
        self._closed = False
        self._subscribers = Subscribers()
        self._events = EventShelf(max_events, retention)
        self._outcomes = OutcomeShelf(max_events, retention)
        self._pending = PendingShelf(max_events * _PENDING_PER_EVENT, retention, clock())
        self._questions: dict[str, DueQueue[str]] = {}
        self._conflict_handlers: dict[str, Sequence[str]] = {}

    @property
    def read_only(self) -> bool:
        """Whether another process does the writing: never."""
        return False

    async def accept(self, event: Event, *, handlers: Sequence[str] = ()) -> Acceptance:
        """Keep an event unless its identity is known, together with all that follows from it."""
        if self._closed:
            self._check_open()
        events = self._events
        if event.identity in events.days:
            return Acceptance.DUPLICATE
        now = self._clock()
        if event.problem is not None:
            events.add(event, now, ())
            return Acceptance.NEW
        outcome = _packed_outcome(event, now)
        events.add(event, now, handlers)
        self._draw_conclusions(event, outcome, now)
        if handlers:
            self._subscribers.ready()
        return Acceptance.NEW

    async def accept_all(self, arrivals: Sequence[tuple[Event, Sequence[str]]]) -> Sequence[Acceptance | Exception]:
        """Keep several events, each as `accept` does and whatever becomes of the others."""
        self._check_open()
        results: list[Acceptance | Exception] = []
        for event, handlers in arrivals:
            try:
                results.append(await self.accept(event, handlers=handlers))
            except Exception as problem:  # noqa: BLE001 - told with the result
                results.append(problem)
        return results

    async def amend(self, event_id: int, event: Event) -> None:
        """Replace a kept event by what a later reading of its body found."""
        self._check_open()
        now = self._clock()
        outcome = _packed_outcome(event, now)
        if self._events.replace(event_id, event) and event.problem is None:
            self._draw_conclusions(event, outcome, now)

    def route_conflicts(self, handlers: Mapping[str, Sequence[str]]) -> None:
        """Say which handlers get a job on `outcome.conflict` events from now on."""
        self._check_open()
        self._conflict_handlers.update(handlers)

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        """Return the outcome that stands, the first one."""
        self._check_open()
        return self._outcomes.get(key_of(ref))

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Return the outcomes that stand of those refs that have one."""
        self._check_open()
        known = self._outcomes
        return [outcome for key in map(key_of, refs) if key in known and (outcome := known.get(key)) is not None]

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        """Return the outcomes that stand of the operations made with an idempotency key."""
        self._check_open()
        return self._outcomes.by_key(key_of(OperationRef(scope, kind, key)))

    async def conflicts(self, ref: OperationRef) -> Sequence[Outcome]:
        """Return the later outcomes that differ from the first, oldest first."""
        self._check_open()
        return self._outcomes.conflicts(key_of(ref))

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        """Record how an operation ended; the first one stands."""
        self._check_open()
        return self._record(outcome, _packed(outcome))

    async def add_pending(self, refs: Sequence[OperationRef]) -> None:
        """Register operations as unsettled."""
        self._check_open()
        now = self._clock()
        self._pending.trim(now)
        for ref in refs:
            if key_of(ref) not in self._outcomes:
                self._pending.add(ref, now)

    async def remove_pending(self, refs: Sequence[OperationRef]) -> None:
        """Take operations out of the pending ones."""
        self._check_open()
        for ref in refs:
            self._pending.discard(ref)

    async def pending(self, scope: str) -> AsyncIterator[OperationRef]:
        """Iterate over the pending operations of a scope."""
        self._check_open()
        for place, ref in enumerate(self._pending.of(scope), start=1):
            if ref is not None:
                yield ref
            if place % _SLICE == 0:
                await asyncio.sleep(0)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber from now on."""
        self._check_open()
        self._subscribers.add(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber no more."""
        self._subscribers.remove(subscriber)

    def refused(self, reason: str) -> None:
        """Tell the subscribers of a delivery that was refused for its signature."""
        self._subscribers.refused(reason)

    async def claim_jobs(self, handler: str, *, limit: int, lease: float) -> Sequence[ClaimedJob]:
        """Lease due jobs of one handler to the caller, the longest due first."""
        self._check_open()
        now = self._clock()
        claimed: list[ClaimedJob] = []
        while len(claimed) < limit and (one := self._events.claim(handler, now, lease)) is not None:
            claimed.append(one)
        return claimed

    async def finish_job(self, job: Job) -> bool:
        """Mark a claimed job as done."""
        self._check_open()
        if not self._events.leased(job):
            return False
        self._events.finish(job)
        return True

    async def fail_job(self, job: Job, *, reason: str, retry_at: float | None) -> bool:
        """Give a claimed job back."""
        self._check_open()
        if not self._events.leased(job):
            return False
        if retry_at is None:
            self._events.put(evolve(job, state=EventState.DEAD, reason=reason))
        else:
            self._events.put(evolve(job, due_at=retry_at, reason=reason))
        return True

    async def retire_jobs(self, scopes: Collection[str], keep: Collection[str]) -> int:
        """Make ready jobs of handlers that are no more dead letters."""
        self._check_open()
        orphans = [job for job in self._events.ready_jobs(scopes) if job.handler not in keep]
        for job in orphans:
            self._events.put(evolve(job, state=EventState.DEAD, reason=NO_SUCH_HANDLER))
        return len(orphans)

    async def claim_questions(self, scope: str, *, limit: int, lease: float) -> Sequence[OperationRef]:
        """Lease open questions to the caller, the longest due first."""
        self._check_open()
        questions = self._questions.get(scope)
        claimed: list[OperationRef] = []
        if questions is not None:
            now = self._clock()
            while len(claimed) < limit and (key := questions.claim(now, lease)) is not None:
                claimed.append(ref_of(key))
        return claimed

    async def close_questions(self, refs: Sequence[OperationRef]) -> None:
        """Close questions that will find no answer."""
        self._check_open()
        for ref in refs:
            self._drop_question(ref)

    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        """Return events that meet every condition, newest first."""
        self._check_open()
        if query.id is not None:
            found: Iterable[StoredEvent] = filter(None, [self._events.get(query.id)])
        else:
            found = self._events.newest_first(query.before_id)
        return list(islice(filter(query.fits, found), query.limit))

    async def requeue(self, event_ids: Sequence[int], handlers: Sequence[str] | None = None) -> int:
        """Let handlers run again for kept events, with no attempts counted."""
        self._check_open()
        now = self._clock()
        count = 0
        for event_id in event_ids:
            if self._events.get(event_id) is None:
                continue
            if handlers is not None:
                self._events.assign(event_id, handlers, now)
                count += bool(handlers)
                continue
            dead = [job for job in self._events.jobs(event_id).values() if job.state is EventState.DEAD]
            for job in dead:
                self._events.put(evolve(job, state=EventState.READY, due_at=now, attempts=0, reason=None))
            count += bool(dead)
        if count:
            self._subscribers.ready()
        return count

    async def purge(self, before: float, *, state: EventState = EventState.DONE) -> int:
        """Remove events in that state received before a Unix time; their identities stay."""
        self._check_open()
        if state is EventState.READY:
            raise ValueError("state: give EventState.DONE or EventState.DEAD, not READY; such events wait for their handlers.")
        return self._events.purge(state, before)

    async def purge_outcomes(self, before: float) -> int:
        """Remove outcomes settled before a Unix time, with their conflicts, and operations pending since before it."""
        self._check_open()
        self._pending.purge(before)
        return self._outcomes.purge(before)

    async def statistics(self) -> StoreStatistics:
        """Count what is held."""
        self._check_open()
        events, ready, dead, oldest_ready_at = self._events.count()
        return StoreStatistics(
            events=events,
            ready=ready,
            dead=dead,
            questions=sum(len(questions) for questions in self._questions.values()),
            pending=len(self._pending),
            outcomes=len(self._outcomes),
            conflicts=self._outcomes.conflict_count,
            oldest_ready_at=oldest_ready_at,
        )

    async def ping(self) -> None:
        """Return if the store is open."""
        self._check_open()

    async def aclose(self) -> None:
        """Let go of everything."""
        self._closed = True
        self._subscribers.clear()
        for held in (self._events, self._outcomes, self._pending, self._questions):
            held.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("expected an open store, got one after aclose(); make a new one")

    def _draw_conclusions(self, event: Event, kept: bytes | None, now: float) -> None:
        ref = event.ref
        if ref is None:
            pass
        elif kept is None:
            self._ask(ref, now)
        elif (key := key_of(ref)) not in self._outcomes and not self._subscribers:  # nobody is to be told
            self._settle(ref, key, kept, now, event.key)
        elif (outcome := outcome_of(event, now)) is not None:
            self._record(outcome, kept)
        for also in event.also:
            self._ask(also, now)

    def _ask(self, ref: OperationRef, now: float) -> None:
        key = key_of(ref)
        known = self._outcomes.get(key)
        if known is not None and known.status is OperationStatus.DONE:
            return
        questions = self._questions.get(ref.scope)
        if questions is None:
            questions = self._questions[ref.scope] = DueQueue()
        if key not in questions:
            if len(questions) >= self._max_events and (oldest := questions.head()) is not None:
                questions.discard(oldest[1])
            questions.put(key, now)
            self._subscribers.asked(ref)

    def _settle(self, ref: OperationRef, key: str, outcome: bytes, now: float, idempotency_key: str | None) -> None:
        self._outcomes.add(key, outcome, now, None if idempotency_key is None else made_with_of(ref, idempotency_key))
        if self._questions:
            self._drop_question(ref)
        self._pending.discard(ref)

    def _record(self, outcome: Outcome, kept: bytes) -> Recorded:
        ref = outcome.ref
        key = key_of(ref)
        first = self._outcomes.get(key)
        if first is None:
            self._settle(ref, key, kept, outcome.settled_at, outcome.key)
            self._subscribers.settled(outcome)
            return Recorded(verdict=Verdict.FIRST, outcome=outcome)
        self._drop_question(ref)
        if agree(first, outcome):
            if first.key is None and outcome.key is not None:
                first = evolve(first, key=outcome.key)
                self._outcomes.replace(key, _packed(first), made_with_of(ref, outcome.key))
            return Recorded(verdict=Verdict.SAME, outcome=first)
        event = conflict_event(first, outcome)
        if event.identity not in self._events.days:
            handlers = self._conflict_handlers.get(ref.scope, ())
            self._outcomes.add_conflict(key, kept)
            try:
                self._events.add(event, self._clock(), handlers)
            except StoreFull:
                logger.exception("another outcome of %s is kept as a conflict, but no handler can be told", ref)
                handlers = ()
            if handlers:
                self._subscribers.ready()
        return Recorded(verdict=Verdict.CONFLICT, outcome=first)

    def _drop_question(self, ref: OperationRef) -> None:
        questions = self._questions.get(ref.scope)
        if questions is not None:
            questions.discard(key_of(ref))


def _packed_outcome(event: Event, now: float) -> bytes | None:
    """Return the outcome an event carries, None if it carries none; what cannot be packed raises before anything is kept."""
    status = terminal_status(event.resource)
    return None if status is None or event.resource is None else packed(status, "webhook", now, event.key, event.resource)


def _packed(outcome: Outcome) -> bytes:
    return packed(outcome.status, outcome.via, outcome.settled_at, outcome.key, outcome.resource)
