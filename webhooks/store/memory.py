"""The store of one process: nothing outlives it, and tests of applications use it as their double."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from attrs import evolve

from rewards_core.clock import loop_time
from rewards_core.errors import StoreClosed, StoreFull
from rewards_core.operations import Event, OperationRef, OperationStatus
from rewards_core.validation import check_callable, check_id, check_number, check_whole
from webhooks.store.due import DueQueue
from webhooks.store.event_table import EventTable
from webhooks.store.listing import EventListing, EventQuery, check_limit, check_purge
from webhooks.store.mentions import mentioned_in, mentions
from webhooks.store.outcome_shelf import OutcomeShelf, key_of, made_with_of, packed, ref_of
from webhooks.store.outcomes import agree, conflict_event, outcome_of, terminal_status
from webhooks.store.pending import PendingShelf
from webhooks.store.records import (
    FORGOTTEN,
    RETIRED,
    UNSERVED,
    UNSERVED_DAYS,
    Acceptance,
    ClaimedJob,
    EventState,
    HandlerStatus,
    Job,
    Outcome,
    Recorded,
    StoredEvent,
    StoreStatistics,
    Subscription,
    Verdict,
    handler_of,
    job_name,
)
from webhooks.store.subscribers import Subscribers
from webhooks.store.subscriptions import Subscriptions

if TYPE_CHECKING:
    from webhooks.store.base import Subscriber

logger = logging.getLogger(__name__)

_PENDING_PER_EVENT = 10
_SLICE = 1_000
_HOUR = 3_600.0
_DAY = 86_400.0


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
        self._events = EventTable(max_events, retention)
        self._subscriptions = Subscriptions()
        self._count_at = 0.0
        self._outcomes = OutcomeShelf(max_events, retention)
        self._pending = PendingShelf(max_events * _PENDING_PER_EVENT, retention, clock())
        self._questions: dict[str, DueQueue[str]] = {}

    @property
    def read_only(self) -> bool:
        """Whether another process does the writing: never."""
        return False

    async def accept(self, event: Event) -> Acceptance:
        """Keep an event unless its identity is known, together with all that follows from it."""
        now = self._now()
        events = self._events
        if event.identity in events.days:
            return Acceptance.DUPLICATE
        at = self._clock()
        if event.problem is not None:
            events.add(event, at, now, ())
            return Acceptance.NEW
        outcome = _packed_outcome(event, at)
        handlers = self._subscriptions.wanting(event)
        events.add(event, at, now, handlers)
        self._draw_conclusions(event, outcome, at)
        if handlers:
            self._subscribers.jobs_ready()
        return Acceptance.NEW

    async def amend(self, event_id: int, event: Event) -> None:
        """Replace a kept event by what a later reading of its body found."""
        self._now()
        at = self._clock()
        outcome = _packed_outcome(event, at)
        if self._events.replace(event_id, event) and event.problem is None:
            self._draw_conclusions(event, outcome, at)

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

    async def subscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber from now on."""
        self._check_open()
        self._subscribers.add(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber no more."""
        self._subscribers.remove(subscriber)

    def refused(self, reason: str) -> None:
        """Tell the subscribers of a delivery that was refused for its signature."""
        self._subscribers.refused(reason)

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        """Serve these subscriptions from now on."""
        self._now()
        self._subscriptions.add(subscriptions)

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        """Serve these subscriptions no longer; they and their jobs stay."""
        self._subscriptions.release(subscriptions, self._now())

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        """Return every subscription, and the jobs of handlers that have none, by service, handler and scope."""
        self._now()
        counts = self._events.jobs.counts()
        listed = {(one.job_name, one.scope): one for one in self._subscriptions}
        for name, scope in counts.keys() - listed.keys():
            service, handler = handler_of(name)
            listed[name, scope] = Subscription(service=service, handler=handler, scope=scope, patterns=frozenset())
        statuses = []
        for key, one in listed.items():
            served, count = self._subscriptions.served(*key), counts.get(key, {})
            statuses.append(
                HandlerStatus(
                    subscription=one,
                    served=bool(served),
                    differing=any(other.patterns != one.patterns for other in served),
                    ready=count.get(EventState.READY, 0),
                    dead=count.get(EventState.DEAD, 0),
                )
            )
        return sorted(statuses, key=lambda each: (each.subscription.service, each.subscription.handler, each.subscription.scope))

    async def retire_handler(self, service: str, handler: str) -> int:
        """Remove a handler's subscriptions and make its ready jobs dead letters; return how many jobs there were."""
        self._now()
        self._subscriptions.remove(service, handler)
        retired = job_name(service, handler)
        waiting = self._events.jobs.waiting()
        return sum(self._events.bury(name, scope, RETIRED) for name, scope in waiting if name == retired)

    async def claim_jobs(self, handler: str, *, scopes: Collection[str], limit: int, lease: float) -> Sequence[ClaimedJob]:
        """Lease due jobs of one handler to the caller, the longest due first."""
        now = self._now()
        claimed: list[ClaimedJob] = []
        while len(claimed) < limit and (one := self._events.claim(handler, scopes, now, lease)) is not None:
            claimed.append(one)
        return claimed

    async def finish_job(self, job: Job) -> bool:
        """Mark a claimed job as done."""
        self._now()
        return self._events.finish(job)

    async def fail_job(self, job: Job, *, reason: str, retry_in: float | None) -> bool:
        """Give a claimed job back."""
        now = self._now()
        return self._events.fail(job, reason, None if retry_in is None else now + retry_in)

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
        now = self._now()
        if query.id is not None:
            found: Iterable[StoredEvent] = filter(None, [self._events.get(query.id, now)])
        else:
            found = self._events.newest_first(query.before_id, now)
        return list(islice(filter(query.fits, found), query.limit))

    async def requeue(self, event_ids: Sequence[int], *, every_handler: bool = False) -> int:
        """Let handlers run again for kept events, with no attempts counted."""
        now = self._now()
        count = 0
        for event_id in event_ids:
            stored = self._events.get(event_id, now)
            if stored is None or not stored.event.body:
                continue
            if every_handler:
                handlers = self._subscriptions.wanting(stored.event)
                count += self._events.assign(event_id, stored.event.scope, handlers, now)
            else:
                count += self._events.jobs.revive(event_id, now)
        if count:
            self._subscribers.jobs_ready()
        return count

    async def purge(self, older_than: float, *, state: EventState = EventState.DONE, limit: int | None = None) -> int:
        """Remove events in that state received more than so many seconds ago; their identities stay."""
        check_purge(older_than, limit)
        if state is EventState.READY:
            raise ValueError("state: give EventState.DONE or EventState.DEAD, not READY; such events wait for their handlers.")
        return self._events.purge(state, self._now() - older_than, limit)

    async def purge_identities(self, *, limit: int | None = None) -> int:
        """Forget identities that are more than 400 days old; return how many."""
        check_limit(limit)
        return self._events.purge_identities(self._now(), limit)

    async def erase_bodies(self, older_than: float, *, limit: int | None = None) -> int:
        """Erase bodies and signatures of done events received more than so many seconds ago; return how many."""
        check_purge(older_than, limit)
        return self._events.erase(self._now() - older_than, limit)

    async def forget_user(self, uid: str) -> int:
        """Erase every body and outcome that mentions a user; return how many there were."""
        check_id(uid, "uid")
        self._now()
        event_ids = self._events.ids()
        count = self._outcomes.forget(lambda resource: mentioned_in(resource, uid))
        for start in range(0, len(event_ids), _SLICE):
            some = event_ids[start : start + _SLICE]
            count += self._events.forget(some, lambda body: mentions(body, uid), FORGOTTEN)
            await asyncio.sleep(0)
        return count

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
            lookups=sum(len(questions) for questions in self._questions.values()),
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
        for held in (self._events, self._subscriptions, self._outcomes, self._pending, self._questions):
            held.clear()

    def _now(self) -> float:
        """Return the time by which things are due; once an hour let jobs die whose handlers were unserved for too long."""
        self._check_open()
        now = loop_time()
        if now >= self._count_at:
            self._count_at = now + _HOUR
            for name, scope in self._events.jobs.waiting():
                if self._subscriptions.unserved_for(name, scope, now) >= UNSERVED_DAYS * _DAY:
                    self._events.bury(name, scope, UNSERVED)
        return now

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
            self._subscribers.polls_due()

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
            handlers = self._subscriptions.wanting(event)
            self._outcomes.add_conflict(key, kept)
            try:
                self._events.add(event, self._clock(), loop_time(), handlers)
            except StoreFull:
                logger.exception("another outcome of %s is kept as a conflict, but no handler can be told", ref)
                handlers = ()
            if handlers:
                self._subscribers.jobs_ready()
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
