"""The interface of all stores, used by the receiver, handlers, completions and polling.

A method that returns has made its change durable: it survives what the store is built to survive (memory: nothing; a file: a
crash and a power cut). A method that raises may or may not have changed the store. Every method may be repeated: a repeated
`accept` returns `DUPLICATE` and is as durable as the first, a repeated `record_outcome` returns `SAME`, and `finish_job` of a
finished job returns True.

Callers give and get seconds from now. A claim carries a fence, an opaque token that no later claim shares. Timestamps such as
`received_at` are Unix time and only for people: no schedule or lease depends on them.

The methods for pending operations and their polls are in `webhooks.store.polls`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from rewards_core.clock import DAY
from webhooks.store.polls import PollStore
from webhooks.store.records import DEAD_DAYS, EventState

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef, OperationStatus
    from webhooks.store.readings import StoreActivity, StoreStatistics, Wake
    from webhooks.store.records import (
        Acceptance,
        ClaimedJob,
        HandlerStatus,
        Job,
        Outcome,
        Recorded,
        StoredEvent,
        StoredOutcome,
        Subscription,
    )

A_STORE = "a MemoryStore, a SQLiteStore, another Store or a store URL"
"""What to pass as a store, for error messages."""


class Subscriber:
    """Receives notifications of durable changes; override the methods you need.

    They are called in the event loop after a change is durable, and before the call that made it through the same store object
    returns. They are hints: to miss nothing, subscribe first and look up afterwards. They must return quickly and should not
    raise (the store logs the error and continues).
    """

    def waits_for(self, ref: OperationRef) -> bool:  # noqa: ARG002 - for overriding methods
        """Return whether to be notified when another store object on the same file or database settles this operation."""
        return False

    def settled(self, outcome: Outcome) -> None:
        """Receive an operation's first outcome: always if this store object stored it, else only if `waits_for` is True."""

    def confirmed(self, outcome: Outcome) -> None:
        """Receive the API's answer about an operation that an event settled: it confirms that outcome or conflicts with it."""

    def polls_due(self) -> None:
        """Learn that an operation may be due for a poll."""

    def jobs_ready(self) -> None:
        """Learn that there may be jobs to claim."""

    def missed(self) -> None:
        """Look up everything that is waited for, as notifications may have been lost."""

    def refused(self, reason: str) -> None:
        """Learn that a receiver on this store object refused a delivery for its signature."""


class Store(PollStore, Protocol):
    """Keeps events, jobs, outcomes and pending operations. Any method may raise `StoreError`, also after its change was made."""

    async def subscribe(self, subscriber: Subscriber) -> None:
        """Return once the subscriber is notified of every later change; subscribing twice has no effect."""
        ...

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop notifying a subscriber, if it is subscribed."""
        ...

    def refused(self, reason: str) -> None:
        """Notify the subscribers of this store object that a delivery was refused for its signature; nothing is stored."""
        ...

    def woken(self, wake: Wake) -> None:
        """Remember the last callers that were woken, so that `activity` shows them for this process."""
        ...

    # events

    async def accept(self, event: Event) -> Acceptance:
        """Store an event unless its identity is known, with all its consequences, in one transaction.

        * If its identity is known, nothing changes.
        * An event with a `problem` becomes a dead letter without consequences.
        * Every subscription that wants the event gets a job, whichever process serves the handler.
        * A resource with a terminal status is recorded as by `record_outcome`, via webhook.
        * An event with only a ref, and each ref in `event.also`, requests a poll with the priority `LOOKUP`, unless the operation
          is known to be `done`.
        * So does any ref in it, also one that settles or has settled, for the pending operations of its scope whose `about` names
          it: at most 1,000 of them.
        """
        ...

    async def amend(self, event_id: int, event: Event) -> None:
        """Replace a stored event after its body was parsed again, with the consequences of `accept` except jobs.

        An unknown id changes nothing.
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
        """Return the events that match all given conditions, newest first.

        Args:
            scope: The events' scope.
            state: Their state.
            name: Their name.
            ref: An operation that they mention.
            uid: The uid of an operation that they mention, of any kind.
            before_id: Only events with lower ids; pass the last id of a page for the next page.
            limit: Maximum number of events, 0 or more.

        Raises:
            TypeError: a condition has the wrong type.
            ValueError: `limit` or `before_id` is negative.
        """
        ...

    async def get_event(self, event_id: int) -> StoredEvent | None:
        """Return one event, None if there is none with this id.

        Raises:
            TypeError: `event_id` is not an int.
            ValueError: it is negative.
        """
        ...

    # handlers

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        """Store subscriptions and serve them until `release_handlers` or the end of this store object.

        They stay when the process ends. The newest patterns of a handler apply.
        """
        ...

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        """Stop serving subscriptions, each as often as it was registered; they stay stored.

        Jobs of a handler that no process serves become dead letters after 14 days of running time, whatever the clock says.
        """
        ...

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        """Return all subscriptions, and handlers that have only jobs, by service, handler and scope."""
        ...

    async def retire_handler(self, service: str, handler: str) -> int:
        """Remove a handler's subscriptions and make its ready jobs dead letters; return the number of jobs."""
        ...

    async def claim_jobs(self, handler: str, *, scopes: Collection[str], limit: int, lease: float) -> Sequence[ClaimedJob]:
        """Lease due jobs of one handler, the longest due first.

        Args:
            handler: The name of its jobs, see `Subscription.job_name`.
            scopes: The scopes of the jobs' events.
            limit: Maximum number of jobs.
            lease: Seconds after which other processes may claim them.
        """
        ...

    async def finish_job(self, job: Job) -> bool:
        """Mark a claimed job as done. If another claim has replaced this one, change nothing and return False."""
        ...

    async def fail_job(self, job: Job, *, reason: str, retry_in: float | None) -> bool:
        """Return a claimed job. If another claim has replaced this one, change nothing and return False.

        Args:
            job: As claimed.
            reason: Why the handler failed, in one line.
            retry_in: Seconds until it may be claimed again; None makes the job, and so its event, a dead letter.
        """
        ...

    async def requeue(self, event_ids: Sequence[int], *, every_handler: bool = False) -> int:
        """Run handlers again for stored events, with their attempts reset.

        Args:
            event_ids: The events; unknown and erased ones are skipped, and no handler runs for one with a `problem`.
            every_handler: Replace the jobs of each event by one for every subscription that wants it, instead of retrying its
                dead jobs.

        Returns:
            The number of events with a new job.
        """
        ...

    # outcomes

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        """Return the first outcome of an operation, which is final; None if the operation has not settled."""
        ...

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Return the first outcomes of those operations that have settled, in any order."""
        ...

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        """Return the first outcomes of the operations with an idempotency key, in any order.

        A vendor may accept one key for several users, so compare their content with the request.
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
        """Return the outcomes that match all given conditions, with their conflicts, newest first.

        Args:
            scope: The operations' scope.
            kind: Their kind.
            uid: Their uid.
            status: The outcomes' status.
            conflicting: Only outcomes with conflicts.
            before_id: Only outcomes with lower ids; pass the last id of a page for the next page.
            limit: Maximum number of outcomes, 0 or more.

        Raises:
            TypeError: a condition has the wrong type.
            ValueError: `limit` or `before_id` is negative.
        """
        ...

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        """Record an outcome of an operation. The first outcome is final.

        The first outcome, and any confirmed outcome, ends the polling of the operation. A later outcome that agrees (see
        `agree`) adds its key and its confirmation to the first. A later outcome that differs is stored once as a conflict, with
        an event named `outcome.conflict` for the handlers that want it. A confirmed conflict with an unconfirmed first outcome
        is stored even if an event has said the same before, and subscribers are notified of it as confirmed.
        """
        ...

    # upkeep

    async def upkeep(self, *, keep: float, keep_bodies: float | None = None, keep_dead: float = DEAD_DAYS * DAY) -> bool:
        """Remove what is old, unless a process has done so within the hour; return whether it was done.

        This purges done events and outcomes after `keep` seconds and dead letters after `keep_dead`, erases bodies of done events
        after `keep_bodies`, and forgets identities after 400 days. One call removes at most twice what a steady stream adds in an
        hour, so that a wrong clock cannot empty the store, and logs what it removed. Events that wait for a handler and pending
        operations are never removed.

        Args:
            keep: Seconds, above 0.
            keep_bodies: Seconds, above 0; None keeps bodies as long as their events.
            keep_dead: Seconds since the event was received, at least 14 days (after which unserved events become dead letters).

        Raises:
            TypeError: an argument is not a number; nothing was removed.
            ValueError: an argument is out of range; nothing was removed.
        """
        ...

    async def purge(self, older_than: float, *, state: EventState = EventState.DONE, limit: int | None = None) -> int:
        """Remove events in a state that are older than an age; return how many. Their identities stay, to recognize duplicates.

        Args:
            older_than: Seconds since they were received, 0 or more.
            state: `DONE` or `DEAD`.
            limit: Maximum number of events to remove; None removes all.

        Raises:
            TypeError: an argument has the wrong type; nothing was removed.
            ValueError: `older_than` or `limit` is negative, or the state is `READY`, whose events still wait for their handlers;
                nothing was removed.
        """
        ...

    async def purge_outcomes(self, older_than: float, *, limit: int | None = None) -> int:
        """Remove outcomes that were recorded this many seconds ago, with their conflicts; return how many.

        Raises:
            TypeError, ValueError: as `purge`.
        """
        ...

    async def purge_identities(self, *, limit: int | None = None) -> int:
        """Forget identities that are more than 400 days old; return how many.

        Raises:
            TypeError, ValueError: as `purge`.
        """
        ...

    async def erase_bodies(self, older_than: float, *, limit: int | None = None) -> int:
        """Erase bodies and signatures of done events received this many seconds ago; return how many.

        Such events cannot be replayed or processed again; their identities and outcomes stay.

        Raises:
            TypeError, ValueError: as `purge`.
        """
        ...

    async def forget_user(self, uid: str) -> int:
        """Erase every body and outcome that mentions a user; only identities and the outcomes' statuses stay.

        Events that wait for a handler are erased too, and become dead letters.

        Returns:
            The number of events and outcomes.
        """
        ...

    async def statistics(self) -> StoreStatistics:
        """Count what the store holds."""
        ...

    async def activity(self) -> StoreActivity:
        """Return who waits and polls. What other processes say of themselves may be 10 s old."""
        ...

    async def ping(self) -> None:
        """Return if the store can write and read a row."""
        ...

    async def aclose(self) -> None:
        """Finish pending calls and close the store; idempotent. Afterwards every other method raises `StoreClosed`."""
        ...
