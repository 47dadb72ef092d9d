"""What a recorded outcome changes in the tables of a `MemoryStore`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import evolve

from rewards_core.clock import loop_time
from rewards_core.errors import StoreFull
from webhooks.store.memory_outcomes import idempotency_of, key_of
from webhooks.store.outcomes import agree, conflict_event, contradiction, pack_outcome
from webhooks.store.records import Outcome, Recorded, Verdict

if TYPE_CHECKING:
    from webhooks.store.memory_events import EventTable
    from webhooks.store.memory_outcomes import OutcomeTable
    from webhooks.store.memory_pending import PollTables
    from webhooks.store.subscribers import Subscribers
    from webhooks.store.subscriptions import Subscriptions

logger = logging.getLogger(__name__)


class OutcomeRecorder:
    """Record outcomes: the first of an operation is final and ends its polling, a later one that differs is a conflict."""

    def __init__(
        self,
        outcomes: OutcomeTable,
        events: EventTable,
        polls: PollTables,
        subscriptions: Subscriptions,
        subscribers: Subscribers,
        clock: Callable[[], float],
    ) -> None:
        self._outcomes = outcomes
        self._events = events
        self._polls = polls
        self._subscriptions = subscriptions
        self._subscribers = subscribers
        self._clock = clock

    def record(self, outcome: Outcome, kept: bytes, now: float) -> Recorded:
        """Record an outcome, which `pack_outcome` has packed."""
        ref = outcome.ref
        key = key_of(ref)
        first = self._outcomes.get(key)
        if first is None:
            self._outcomes.add(key, kept, now, None if outcome.key is None else idempotency_of(ref, outcome.key))
            if (polls := self._polls.get(ref.scope)) is not None:
                polls.discard(ref.kind, ref.uid)
            self._subscribers.settled(outcome)
            return Recorded(verdict=Verdict.FIRST, outcome=outcome)
        if outcome.confirmed:
            self._polls[ref.scope].discard(ref.kind, ref.uid)
        if agree(first, outcome):
            return Recorded(verdict=Verdict.SAME, outcome=self._completed(first, outcome))
        event = conflict_event(first, outcome)
        unknown = event.identity not in self._events.days
        counts = contradiction(first, (*self._outcomes.conflicts(key), outcome))
        if unknown or counts is outcome:
            self._outcomes.add_conflict(key, kept)
        if counts is not None:
            self._subscribers.confirmed(counts)
        if unknown:
            handlers = self._subscriptions.handlers_for(event)
            try:
                self._events.add(event, self._clock(), loop_time(), handlers)
            except StoreFull:
                logger.exception(
                    "the store is full, so handlers get no event about a different outcome of %s; `Store.conflicts` returns it",
                    ref,
                )
                handlers = ()
            if handlers:
                self._subscribers.jobs_ready()
        return Recorded(verdict=Verdict.CONFLICT, outcome=first)

    def _completed(self, first: Outcome, then: Outcome) -> Outcome:
        """Return the first outcome with the key and the confirmation of a later one that agrees."""
        key = first.key or then.key
        confirmed = first.confirmed or then.confirmed
        if (key, confirmed) == (first.key, first.confirmed):
            return first
        idempotency = idempotency_of(first.ref, key) if first.key is None and key is not None else None
        completed = evolve(first, key=key, confirmed=confirmed)
        self._outcomes.replace(key_of(first.ref), pack_outcome(completed), idempotency)
        if confirmed and not first.confirmed:
            self._subscribers.confirmed(completed)
        return completed
