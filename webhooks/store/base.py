"""What every store promises: the interface behind receiver, handlers, completions and polling.

Durable means here: it survives whatever the store is built to survive (the process for memory, the machine for a disk).
A method that returns has made its change durable. A method that raises may or may not have changed the store, and every method
may be repeated: a repeated `accept` is `DUPLICATE` and as durable as the first, a repeated `record_outcome` is `SAME`,
`finish_job` of a finished job is true.

Time is the store's own: callers give and get seconds from now. A lease is a fence, an opaque token that a claim brings along and
that no later claim shares. The stamps that people see (`received_at`, `settled_at`) are Unix time; nothing is due, leased or
paused by them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from rewards_core.clock import DAY
from webhooks.store.records import DEAD_DAYS, EventState

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef, OperationStatus
    from webhooks.store.records import (
        Acceptance,
        ClaimedJob,
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
        StoreStatistics,
        Subscription,
    )

A_STORE = "a MemoryStore, a SQLiteStore, another Store or a store URL"
"""What to give as a store, for messages."""


class Subscriber:
    """Hear from a store what has become durable; override what is needed.

    The methods are called in the event loop once a change is durable and, where it was made through the same store object,
    before the call that made it returns. They are hints: a subscriber that must not miss anything registers first and looks up
    afterwards. They return quickly and do not raise (a store logs what they raise and goes on).
    """

    def waits_for(self, ref: OperationRef) -> bool:  # noqa: ARG002 - for those who override it
        """Whether this subscriber is to hear how an operation settled through another store object on the same engine."""
        return False

    def settled(self, outcome: Outcome) -> None:
        """Hear of the first outcome of an operation: each made through this store object, and those it waits for from others."""

    def confirmed(self, outcome: Outcome) -> None:
        """Hear what the vendor's API confirmed where only an event had told the first outcome: that one, or one that differs."""

    def polls_due(self) -> None:
        """Hear that there may be an operation to poll at once."""

    def jobs_ready(self) -> None:
        """Hear that there may be jobs to claim."""

    def missed(self) -> None:
        """Hear that hints may have been lost: look up everything that is waited for."""

    def refused(self, reason: str) -> None:
        """Hear that a receiver on the same store object refused a delivery for its signature."""


class Store(Protocol):
    """Keep events, jobs, outcomes and pending operations.

    Every method may raise `StoreError`, whether the change was made or not.
    """

    async def subscribe(self, subscriber: Subscriber) -> None:
        """Return once the subscriber hears of every later change; a subscriber that is known already stays so."""
        ...

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber no longer; an unknown one is passed over."""
        ...

    def refused(self, reason: str) -> None:
        """Tell the subscribers of this store object of a delivery that was refused for its signature; nothing is kept."""
        ...

    # events

    async def accept(self, event: Event) -> Acceptance:
        """Keep an event unless its identity is known, together with all that follows from it, in one step.

        * Identity known: nothing changes.
        * `event.problem`: a dead letter; settles and asks nothing, and no handler runs.
        * A job for every subscription that wants it, whichever process serves the handler.
        * A resource with a terminal status: its outcome is recorded as by `record_outcome`, via webhook.
        * Only a ref, and each ref in `event.also`: a pending operation that is polled at once, as `LOOKUP`, unless the operation
          is known as `done`.
        """
        ...

    async def amend(self, event_id: int, event: Event) -> None:
        """Replace a kept event by what a later reading of its body found, and settle or ask as `accept` does.

        Its jobs stay. An unknown id changes nothing.
        """
        ...

    async def list_events(
        self,
        *,
        scope: str | None = None,
        state: EventState | None = None,
        name: str | None = None,
        ref: OperationRef | None = None,
        uid: str | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[StoredEvent]:
        """Return events that fit all given conditions, newest first; `before_id` pages on.

        Args:
            scope: Only events of this scope.
            state: Only events in this state.
            name: Only events of this name.
            ref: Only events that speak of this operation, alone or among others.
            uid: Only events that speak of an operation with this uid, of whatever kind, alone or among others.
            before_id: Only events with lower ids.
            limit: At most so many.
        """
        ...

    async def get_event(self, event_id: int) -> StoredEvent | None:
        """Return one event."""
        ...

    # handlers

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        """Serve these subscriptions from now on, until `release_handlers` or the end of this store object.

        They are durable, and stay when the process ends. The newest patterns of a handler apply.
        """
        ...

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        """Serve each of these subscriptions once less; they stay.

        The jobs of a handler that no process serves wait for one, and become dead letters after 14 days: of hours that a running
        store has counted, whatever the clock was set to.
        """
        ...

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        """Return every subscription, and the jobs of handlers that have none, by service, handler and scope."""
        ...

    async def retire_handler(self, service: str, handler: str) -> int:
        """Remove a handler's subscriptions and make its ready jobs dead letters; return how many jobs there were."""
        ...

    async def claim_jobs(self, handler: str, *, scopes: Collection[str], limit: int, lease: float) -> Sequence[ClaimedJob]:
        """Lease due jobs of one handler to the caller, the longest due first.

        Args:
            handler: The name of its jobs, see `Subscription.job_name`.
            scopes: Only jobs on events of these scopes.
            limit: At most so many.
            lease: Seconds after which others may claim them.
        """
        ...

    async def finish_job(self, job: Job) -> bool:
        """Mark a claimed job as done; return False, changing nothing, if another claim holds it by now."""
        ...

    async def fail_job(self, job: Job, *, reason: str, retry_in: float | None) -> bool:
        """Give a claimed job back; return False, changing nothing, if another claim holds it by now.

        Args:
            job: As claimed.
            reason: What went wrong, one line.
            retry_in: Seconds until it may be claimed again; None makes it, and so its event, a dead letter.
        """
        ...

    async def requeue(self, event_ids: Sequence[int], *, every_handler: bool = False) -> int:
        """Let handlers run again for kept events, with no attempts counted.

        Args:
            event_ids: The events; unknown ones and erased ones are passed over, and no handler runs for one with a `problem`.
            every_handler: Give each event a job for every subscription that wants it, in place of the jobs it has; otherwise only
                its dead jobs run again.

        Returns:
            How many events got a job.
        """
        ...

    # outcomes

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        """Return the outcome that stands, the first one."""
        ...

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Return the outcomes that stand of those refs that have one, in any order."""
        ...

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        """Return the outcomes that stand of the operations made with an idempotency key, in any order.

        They are candidates: a vendor may hold one key for several of its users, so compare their content with what was asked for.
        """
        ...

    async def conflicts(self, ref: OperationRef) -> Sequence[Outcome]:
        """Return the later outcomes that differ from the first, oldest first."""
        ...

    async def list_outcomes(
        self,
        *,
        scope: str | None = None,
        kind: str | None = None,
        uid: str | None = None,
        status: OperationStatus | None = None,
        conflicting: bool = False,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[StoredOutcome]:
        """Return outcomes that fit all given conditions, with their conflicts, newest first; `before_id` pages on.

        Args:
            scope: Only those of operations of this scope.
            kind: Only those of operations of this kind.
            uid: Only those of operations with this uid.
            status: Only those with this status.
            conflicting: Only those that a later outcome differs from.
            before_id: Only those with lower ids.
            limit: At most so many.
        """
        ...

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        """Record how an operation ended; the first one stands.

        The first one, and each that is confirmed, ends what is pending: a poll that is to confirm what an event said goes on when
        another event says something. A later one that says the same adds its key to a first one that has none, and confirms one
        that was not confirmed. A later one that differs (see `agree`) is kept beside the first, once, and an event named
        `outcome.conflict` is kept for the handlers that want it. One that is confirmed, against a first one that is not, is kept
        though an event has said the same, and those who wait for the operation hear of it as confirmed.
        """
        ...

    # pending operations and polls

    async def watch(
        self, refs: Sequence[OperationRef], *, poll_in: float, confirmed: bool = False, watcher: str = ""
    ) -> Sequence[Outcome]:
        """Wait for operations from now on, in one step with looking up those that have an outcome.

        The subscribers of this store object hear how they settle, through whichever store object that happens. Those without an
        outcome are pending; their next poll is due in `poll_in` seconds at the latest.

        Args:
            refs: The operations.
            poll_in: Seconds, 0 or more.
            confirmed: Whether only a confirmed outcome counts, so that an operation with another one is watched and pending.
            watcher: Who waits, by a name that no other caller of this store object has; what it watches twice is watched once.

        Returns:
            The outcomes that stand; operations with one that counts are not watched.
        """
        ...

    def unwatch(self, refs: Sequence[OperationRef], *, watcher: str = "") -> None:
        """Let this watcher wait for operations no longer; they stay pending. Those it does not watch are passed over."""
        ...

    async def add_pending(self, refs: Sequence[OperationRef], *, poll_in: float) -> None:
        """Register operations as unsettled, to be polled though nobody waits; those with an outcome are passed over.

        Args:
            refs: The operations.
            poll_in: Seconds until the first poll of those that are new, 0 or more.
        """
        ...

    async def remove_pending(self, refs: Sequence[OperationRef]) -> int:
        """Poll operations no longer, even where a caller still waits for them; return how many were pending."""
        ...

    async def list_pending(
        self,
        *,
        scope: str | None = None,
        kind: str | None = None,
        uid: str | None = None,
        after: OperationRef | None = None,
        limit: int = 100,
    ) -> Sequence[PendingOperation]:
        """Return pending operations that fit all given conditions in the order of their refs; `after` pages on.

        Args:
            scope: Only operations of this scope.
            kind: Only operations of this kind.
            uid: Only operations with this uid.
            after: Only operations behind this one.
            limit: At most so many.
        """
        ...

    async def pending(self, refs: Sequence[OperationRef]) -> Sequence[PendingOperation]:
        """Return those of some operations that are pending, in any order."""
        ...

    async def hurry_polls(self, refs: Sequence[OperationRef], priority: Priority) -> None:
        """Have operations polled now, ranked no lower than `priority`; those that are not pending become so.

        As `LOOKUP` and `WISH` this ends the claim of a poll that is under way: its answer may be older than what the caller
        knows. As `DEADLINE` it leaves such a poll alone.
        """
        ...

    async def claim_polls(self, scope: str, *, limit: int, lease: float, max_per_second: float) -> PollClaims:
        """Lease due operations to the caller, as far as the budget of the scope allows.

        All processes share one budget: of the values of `max_per_second` that were given during the last 30 s the lowest holds,
        with a warning where they differ. Requests never come in bursts.

        Args:
            scope: The scope of the operations.
            limit: At most so many, 1 or more.
            lease: Seconds after which others may claim them.
            max_per_second: Requests per second that this caller allows, above 0.
        """
        ...

    async def permit_poll(self, scope: str, *, max_per_second: float) -> PollPermit:
        """Take one further request from the budget, if it is its turn.

        It is no further ahead than what `claim_polls` hands out. While operations are due it takes turns with them, so that
        neither holds off the other.
        """
        ...

    async def settle_polls(self, results: Sequence[PollResult]) -> None:
        """Give claims back whose operations did not settle; a claim that another has replaced is passed over."""
        ...

    async def resume_polls(self, scope: str) -> None:
        """Let polls go on because the vendor answers: ends what `pause_polls` with `refused` began, but no pause."""
        ...

    async def pause_polls(self, scope: str, seconds: float, *, refused: bool = False) -> None:
        """Let no process poll a scope for so many seconds; a longer pause stays.

        Args:
            scope: The scope.
            seconds: Above 0.
            refused: The vendor refuses this client: after the pause one operation is polled at a time, every 10 s at most, until
                `resume_polls`.
        """
        ...

    # upkeep

    async def upkeep(self, *, keep: float, keep_bodies: float | None = None, keep_dead: float = DEAD_DAYS * DAY) -> bool:
        """Let go of what is old, unless a process has done so within the hour; return whether it was done.

        Done events and outcomes that are older than `keep` seconds are purged, and dead letters that are older than `keep_dead`;
        bodies of done events that are older than `keep_bodies` are erased, and identities are forgotten after 400 days. One call
        removes at most twice what an hour of a steady stream would bring, so that a wrong clock cannot empty the store, and logs
        what it removed; events that wait for a handler and pending operations are never removed.

        Args:
            keep: Seconds, above 0.
            keep_bodies: Seconds, above 0; None keeps them as long as their events.
            keep_dead: Seconds since the event was received, at least those of 14 days, after which an event that no process
                serves becomes a dead letter; by default those of 180 days.

        Raises:
            ValueError: one of them is out of range; nothing was removed.
        """
        ...

    async def purge(self, older_than: float, *, state: EventState = EventState.DONE, limit: int | None = None) -> int:
        """Remove events in that state received more than so many seconds ago; return how many.

        Their identities stay for 400 days, so that a replayed body is still a duplicate.

        Args:
            older_than: Seconds, 0 or more.
            state: `DONE` or `DEAD`.
            limit: At most so many; None for all.

        Raises:
            ValueError: the state is `ready`; such events still wait for their handlers.
        """
        ...

    async def purge_outcomes(self, older_than: float, *, limit: int | None = None) -> int:
        """Remove outcomes settled more than so many seconds ago, with their conflicts; return how many."""
        ...

    async def purge_identities(self, *, limit: int | None = None) -> int:
        """Forget identities that are more than 400 days old; return how many."""
        ...

    async def erase_bodies(self, older_than: float, *, limit: int | None = None) -> int:
        """Erase bodies and signatures of done events received more than so many seconds ago; return how many.

        What was erased cannot be replayed or handed on; its identity and its outcome stay.
        """
        ...

    async def forget_user(self, uid: str) -> int:
        """Erase every body and outcome that mentions a user: nothing of it but identities and outcomes' statuses stays.

        Events that wait for a handler are erased too, and become dead letters.

        Returns:
            How many events and outcomes there were.
        """
        ...

    async def statistics(self) -> StoreStatistics:
        """Count what is held."""
        ...

    async def ping(self) -> None:
        """Return if the store can write a row and read it back."""
        ...

    async def aclose(self) -> None:
        """Finish what is under way and let go of everything; idempotent. Afterwards every other method raises `StoreClosed`."""
        ...
