"""The store of one process, lost when it ends; also the test double for applications."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rewards_core.clock import DAY, HOUR, loop_time
from rewards_core.errors import StoreClosed
from rewards_core.operations import Event, OperationRef
from rewards_core.validation import check_callable, check_id, check_number, check_whole
from webhooks.store.members import Member
from webhooks.store.memory_events import EventTable
from webhooks.store.memory_mentioned import Mentions
from webhooks.store.memory_outcomes import OutcomeTable, key_of
from webhooks.store.memory_pending import PollTables
from webhooks.store.memory_recorder import OutcomeRecorder
from webhooks.store.outcomes import mentioned_in, mentions, outcome_of, pack_outcome
from webhooks.store.queries import EventQuery, OutcomeQuery, StoreQueries, by_poll_priority, check_page, lookups_of, operations_of
from webhooks.store.readings import StoreActivity, StoreStatistics
from webhooks.store.records import (
    DEAD_DAYS,
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
    PendingOperation,
    PollClaims,
    PollPermit,
    PollResult,
    Priority,
    Recorded,
    StoredEvent,
    StoredOutcome,
    Subscription,
    job_name,
)
from webhooks.store.subscribers import Subscribers
from webhooks.store.subscriptions import Subscriptions
from webhooks.store.upkeep import UPKEEP_EVERY, check_keep, check_limit, check_purge, remove_old

if TYPE_CHECKING:
    from webhooks.store.base import Subscriber
    from webhooks.store.readings import Wake

logger = logging.getLogger(__name__)

_SLICE = 1_000


class MemoryStore(StoreQueries):
    """Keep everything in the memory of this process, within limits.

    Args:
        max_events: Maximum number of events and of outcomes, 1 or more. The oldest done events are evicted first, then the oldest
            dead letters. Events that wait for a handler are never evicted; if only these are left, `accept` raises `StoreFull`.
            Ten times as many identities are kept, for 400 days, and in each scope ten times as many pending operations; those
            with a waiter are kept beyond that.
        retention: Seconds for which done events and outcomes are kept, above 0.
        clock: Returns Unix time in seconds.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: `max_events` or `retention` is out of range.
    """

    def __init__(self, *, max_events: int = 100_000, retention: float = 86_400.0, clock: Callable[[], float] = time.time) -> None:
        check_whole(max_events, "max_events", at_least=1)
        check_number(retention, "retention", above=0, unit="seconds")
        self._clock = check_callable(clock, "clock")
        self._closed = False
        self._subscribers = Subscribers()
        self._events = EventTable(max_events, retention)
        self._mentioned = Mentions()
        self._subscriptions = Subscriptions()
        self._upkeep_at = self._count_at = 0.0
        self._outcomes = OutcomeTable(max_events, retention)
        self._polls = PollTables(max_events)
        self._recorder = OutcomeRecorder(
            self._outcomes, self._events, self._polls, self._subscriptions, self._subscribers, self._clock
        )
        self._member = Member()

    async def accept(self, event: Event) -> Acceptance:
        self._check_open()
        now = asyncio.get_running_loop().time()
        events = self._events
        if event.identity in events.days:
            return Acceptance.DUPLICATE
        at = self._clock()
        if event.problem is not None:
            events.add(event, at, now, ())
            return Acceptance.NEW
        outcome = outcome_of(event, at)
        kept = None if outcome is None else pack_outcome(outcome)  # if it cannot be packed, nothing is stored
        handlers = self._subscriptions.handlers_for(event)
        events.add(event, at, now, handlers)
        self._apply(event, outcome, kept, now)
        if handlers:
            self._subscribers.jobs_ready()
        return Acceptance.NEW

    async def amend(self, event_id: int, event: Event) -> None:
        now = self._now()
        outcome = outcome_of(event, self._clock())
        kept = None if outcome is None else pack_outcome(outcome)
        if self._events.replace(event_id, event) and event.problem is None:
            self._apply(event, outcome, kept, now)

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        self._check_open()
        return self._outcomes.get(key_of(ref))

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        self._check_open()
        known = self._outcomes
        return [outcome for key in map(key_of, refs) if key in known and (outcome := known.get(key)) is not None]

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        self._check_open()
        return self._outcomes.by_key(key_of(OperationRef(scope, kind, key)))

    async def conflicts(self, ref: OperationRef) -> Sequence[Outcome]:
        self._check_open()
        return self._outcomes.conflicts(key_of(ref))

    async def find_outcomes(self, query: OutcomeQuery) -> Sequence[StoredOutcome]:
        self._check_open()
        return list(islice(filter(query.fits, self._outcomes.newest_first()), query.limit))

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        self._check_open()
        return self._recorder.record(outcome, pack_outcome(outcome), loop_time())

    async def watch(
        self, refs: Sequence[OperationRef], *, poll_in: float, confirmed: bool = False, waiter: str = ""
    ) -> Sequence[Outcome]:
        self._check_open()
        due, at, outcomes = loop_time() + poll_in, self._clock(), self._outcomes
        known: list[Outcome] = []
        watched: list[OperationRef] = []
        for ref in refs:
            outcome = outcomes.get(key_of(ref)) if outcomes else None
            if outcome is not None:
                known.append(outcome)
            if outcome is None or (confirmed and not outcome.confirmed):
                self._polls[ref.scope].watch(ref.kind, ref.uid, due, at, waiter, ref.about)
                watched.append(ref)
        self._hurry_mentioned(watched)
        return known

    def unwatch(self, refs: Sequence[OperationRef], *, waiter: str = "") -> None:
        for ref in refs:
            self._polls[ref.scope].unwatch(ref.kind, ref.uid, waiter)

    async def add_pending(self, refs: Sequence[OperationRef], *, poll_in: float) -> None:
        self._check_open()
        due, at = loop_time() + poll_in, self._clock()
        fresh = [ref for ref in refs if key_of(ref) not in self._outcomes]
        for ref in fresh:
            self._polls[ref.scope].add(ref.kind, ref.uid, due, at, ref.about)
        self._hurry_mentioned(fresh)

    async def remove_pending(self, refs: Sequence[OperationRef]) -> int:
        self._check_open()
        return sum(self._polls[ref.scope].discard(ref.kind, ref.uid) for ref in refs)

    async def list_pending(
        self,
        *,
        scope: str | None = None,
        kind: str | None = None,
        uid: str | None = None,
        after: OperationRef | None = None,
        limit: int = 100,
    ) -> Sequence[PendingOperation]:
        check_page(limit)
        self._check_open()
        return self._polls.listed(scope, kind, uid, after, limit, loop_time())

    async def pending(self, refs: Sequence[OperationRef]) -> Sequence[PendingOperation]:
        self._check_open()
        return self._polls.pending(refs, loop_time())

    async def hurry_polls(self, refs: Sequence[OperationRef], priority: Priority) -> None:
        self._check_open()
        self._hurry(refs, priority)

    async def claim_polls(self, scope: str, *, limit: int, lease: float, max_per_second: float) -> PollClaims:
        self._check_open()
        return self._polls[scope].claim(loop_time(), limit, lease, max_per_second)

    async def permit_poll(self, scope: str, *, max_per_second: float) -> PollPermit:
        self._check_open()
        return self._polls[scope].permit(loop_time(), max_per_second)

    async def settle_polls(self, results: Sequence[PollResult]) -> None:
        self._check_open()
        now = loop_time()
        for result in results:
            self._polls[result.claim.ref.scope].settle(result, now)

    async def resume_polls(self, scope: str) -> None:
        self._check_open()
        polls = self._polls[scope]
        polls.budget = polls.budget.answered(loop_time())

    async def pause_polls(self, scope: str, seconds: float, *, refused: bool = False) -> None:
        check_number(seconds, "seconds", above=0, unit="seconds")
        self._check_open()
        polls = self._polls[scope]
        polls.budget = polls.budget.pause(loop_time(), seconds, refused=refused)

    async def subscribe(self, subscriber: Subscriber) -> None:
        self._check_open()
        self._subscribers.add(subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.remove(subscriber)

    def refused(self, reason: str) -> None:
        self._subscribers.refused(reason)

    def woken(self, wake: Wake) -> None:
        self._member.wakes.append(wake)

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        self._now()
        self._subscriptions.add(subscriptions)

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions.release(subscriptions, self._now())

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        self._now()
        return self._subscriptions.statuses(self._events.jobs.counts())

    async def retire_handler(self, service: str, handler: str) -> int:
        self._now()
        self._subscriptions.remove(service, handler)
        retired = job_name(service, handler)
        waiting = self._events.jobs.waiting()
        return sum(self._events.dead_letter(name, scope, RETIRED) for name, scope in waiting if name == retired)

    async def claim_jobs(self, handler: str, *, scopes: Collection[str], limit: int, lease: float) -> Sequence[ClaimedJob]:
        now = self._now()
        claimed: list[ClaimedJob] = []
        while len(claimed) < limit and (one := self._events.claim(handler, scopes, now, lease)) is not None:
            claimed.append(one)
        return claimed

    async def finish_job(self, job: Job) -> bool:
        self._now()
        return self._events.finish(job)

    async def fail_job(self, job: Job, *, reason: str, retry_in: float | None) -> bool:
        now = self._now()
        return self._events.fail(job, reason, None if retry_in is None else now + retry_in)

    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        now = self._now()
        if query.id is not None:
            found: Iterable[StoredEvent] = filter(None, [self._events.get(query.id, now)])
        else:
            found = self._events.newest_first(query.before_id, now)
        return list(islice(filter(query.fits, found), query.limit))

    async def requeue(self, event_ids: Sequence[int], *, every_handler: bool = False) -> int:
        now = self._now()
        count = 0
        for event_id in event_ids:
            stored = self._events.get(event_id, now)
            if stored is None or not stored.event.body:
                continue
            if every_handler:
                handlers = self._subscriptions.handlers_for(stored.event)
                count += self._events.assign(event_id, stored.event.scope, handlers, now)
            else:
                count += self._events.jobs.requeue(event_id, now)
        if count:
            self._subscribers.jobs_ready()
        return count

    async def upkeep(self, *, keep: float, keep_bodies: float | None = None, keep_dead: float = DEAD_DAYS * DAY) -> bool:
        check_keep(keep, keep_bodies, keep_dead)
        now = self._now()
        if now < self._upkeep_at:
            return False
        self._upkeep_at = now + UPKEEP_EVERY
        await remove_old(self, keep=keep, keep_bodies=keep_bodies, keep_dead=keep_dead, identities=len(self._events.days))
        return True

    async def purge(self, older_than: float, *, state: EventState = EventState.DONE, limit: int | None = None) -> int:
        check_purge(older_than, limit, state)
        return self._events.purge(state, self._now() - older_than, limit)

    async def purge_identities(self, *, limit: int | None = None) -> int:
        check_limit(limit)
        return self._events.purge_identities(self._now(), limit)

    async def erase_bodies(self, older_than: float, *, limit: int | None = None) -> int:
        check_purge(older_than, limit)
        return self._events.erase(self._now() - older_than, limit)

    async def forget_user(self, uid: str) -> int:
        check_id(uid, "uid")
        self._now()
        event_ids = self._events.ids()
        count = self._outcomes.forget(lambda resource: mentioned_in(resource, uid))
        for start in range(0, len(event_ids), _SLICE):
            some = event_ids[start : start + _SLICE]
            count += self._events.forget(some, lambda body: mentions(body, uid), FORGOTTEN)
            await asyncio.sleep(0)
        return count

    async def purge_outcomes(self, older_than: float, *, limit: int | None = None) -> int:
        check_purge(older_than, limit)
        return self._outcomes.purge(self._now() - older_than, limit)

    async def statistics(self) -> StoreStatistics:
        self._check_open()
        events, ready, dead, oldest_ready_at = self._events.count()
        return StoreStatistics(
            events=events,
            ready=ready,
            dead=dead,
            lookups=sum(polls.lookups for polls in self._polls.values()),
            pending=sum(map(len, self._polls.values())),
            outcomes=len(self._outcomes),
            conflicts=self._outcomes.conflict_count,
            oldest_ready_at=oldest_ready_at,
        )

    async def activity(self) -> StoreActivity:
        self._check_open()
        self._member.polls = sum(polls.granted for polls in self._polls.values())
        waiting = sum(polls.watched for polls in self._polls.values())
        process = self._member.activity_of(self._member.make_id(), 0.0, waiting, None)
        now = loop_time()
        return StoreActivity(processes=[process], budgets=[self._polls[scope].shown_budget(now) for scope in sorted(self._polls)])

    async def ping(self) -> None:
        self._check_open()

    async def aclose(self) -> None:
        self._closed = True
        self._subscribers.clear()
        for held in (self._events, self._subscriptions, self._outcomes, self._polls):
            held.clear()

    def _now(self) -> float:
        """Return the loop's time. Once an hour, make the jobs of handlers dead letters that were unserved for too long."""
        self._check_open()
        now = loop_time()
        if now >= self._count_at:
            self._count_at = now + HOUR
            for name, scope in self._events.jobs.waiting():
                if self._subscriptions.unserved_for(name, scope, now) >= UNSERVED_DAYS * DAY:
                    killed = self._events.dead_letter(name, scope, UNSERVED)
                    logger.warning("%d jobs of %s became dead letters, as no receiver serves the handler", killed, name)
        return now

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("This store was closed by aclose(). Nothing was read or written. Make a new one.")

    def _apply(self, event: Event, outcome: Outcome | None, kept: bytes | None, now: float) -> None:
        settles = outcome is not None and kept is not None
        lookups = [ref for ref in lookups_of(event) if not (settles and ref == event.ref)]
        if outcome is not None and kept is not None:
            self._recorder.record(outcome, kept, now)
        for ref in operations_of(event):
            self._mentioned.note(ref)
            if (polls := self._polls.get(ref.scope)) is not None:
                lookups += polls.dependents(ref)
        if lookups:
            self._hurry([one for one in lookups if not self._outcomes.is_done(one)], Priority.LOOKUP)

    def _hurry_mentioned(self, refs: Sequence[OperationRef]) -> None:
        """Request polls of operations about something that an event mentioned lately."""
        for priority, mentioned in by_poll_priority(self._mentioned.lately(refs)).items():
            self._hurry(mentioned, priority)

    def _hurry(self, refs: Sequence[OperationRef], priority: Priority) -> None:
        if not refs:
            return
        now, at = loop_time(), self._clock()
        for ref in refs:
            self._polls[ref.scope].hurry(ref.kind, ref.uid, priority, now, at, ref.about)
        self._subscribers.polls_due()
