"""What every store promises: the narrow interface behind receiver, completions and handlers.

Durable means here: it survives whatever the store is built to survive (the process for memory, the machine for a disk).
A method that returns has made its change durable. A method that raises may or may not have changed the store; every method may be
repeated: a repeated `accept` is `DUPLICATE`, a repeated `record_outcome` is `SAME`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef, OperationStatus

IDENTITY_DAYS = 400
FARTHEST_DUE = 86_400.0
"""Seconds that a store puts off a job or a question at most; what a clock that was wrong put off further is due at once."""
A_STORE = "a MemoryStore, a SQLiteStore or another Store"
"""What to give as a store, for messages."""
NO_SUCH_HANDLER = "no handler of this name is registered any more; retry it once there is one"

Via = Literal["webhook", "poll"]
"""How an outcome was learned: a delivery brought it, whole or by what it made us ask; or it was asked for without one."""


class Acceptance(StrEnum):
    """Whether an event was seen for the first time."""

    NEW = "new"
    DUPLICATE = "duplicate"


class Verdict(StrEnum):
    """What became of an outcome that was handed in."""

    FIRST = "first"
    SAME = "same"
    CONFLICT = "conflict"


class EventState(StrEnum):
    """Where an event or one handler's job on it stands.

    An event is `ready` while one of its jobs is, else `dead` if it cannot be used or one of its jobs is, else `done`.
    """

    READY = "ready"
    DONE = "done"
    DEAD = "dead"


@frozen(kw_only=True)
class Outcome:
    """The terminal state of one operation.

    Attributes:
        ref: The operation.
        status: `done` or `failed`.
        resource: The vendor's JSON object of it, complete.
        via: How it was learned.
        settled_at: When it was learned, Unix time.
        key: The caller's idempotency key of the operation, if known.
    """

    ref: OperationRef
    status: OperationStatus
    resource: Mapping[str, Any] = field(repr=False)
    via: Via
    settled_at: float
    key: str | None = None


@frozen(kw_only=True)
class Recorded:
    """What became of an outcome, and the one that stands: the first."""

    verdict: Verdict
    outcome: Outcome


@frozen(kw_only=True)
class Job:
    """One handler's work on one event.

    Attributes:
        event_id: The event's number in this store.
        handler: The handler's name.
        state: `ready` (leased if `due_at` is in the future) or `dead`.
        due_at: When it may be claimed (again), Unix time. On a claimed job it is the end of the lease, and the token that
            `finish_job` and `fail_job` compare.
        attempts: How often it was claimed.
        reason: What the last attempt met.
    """

    event_id: int
    handler: str
    state: EventState
    due_at: float
    attempts: int = 0
    reason: str | None = None


@frozen(kw_only=True)
class ClaimedJob:
    """A leased job and the event it works on."""

    job: Job
    event: Event


@frozen(kw_only=True)
class StoredEvent:
    """An event as kept.

    Attributes:
        id: Its number in this store, growing with arrival.
        event: The event; its `resource` may be missing, its `body` is what counts.
        state: Where it stands.
        received_at: When it was accepted, Unix time.
        jobs: Its jobs that are not done, in the order of their handlers' names.
    """

    id: int
    event: Event
    state: EventState
    received_at: float
    jobs: tuple[Job, ...] = ()


@frozen(kw_only=True)
class StoreStatistics:
    """How much a store holds right now, and how many conflicts it has met.

    Attributes:
        events: Events with their bodies.
        ready: Events that wait for a handler, leased ones included.
        dead: Dead letters.
        questions: Operations that an event spoke of without settling them.
        pending: Operations somebody registered as unsettled.
        outcomes: Outcomes.
        conflicts: Later outcomes that differ from the first.
        oldest_ready_at: When the oldest event that waits for its handlers was received, None if none waits.
    """

    events: int
    ready: int
    dead: int
    questions: int
    pending: int
    outcomes: int
    conflicts: int
    oldest_ready_at: float | None


class Subscriber:
    """Hear from a store what has become durable; override what is needed.

    The methods are called in the event loop once a change is durable and, where it was made through the same store object,
    before the call that made it returns. They are hints: a subscriber that must not miss anything registers first and looks up
    afterwards. They return quickly and do not raise (a store logs what they raise and goes on).
    """

    def settled(self, outcome: Outcome) -> None:
        """Hear of the first outcome of an operation."""

    def asked(self, ref: OperationRef) -> None:
        """Hear that an event spoke of an operation without settling it: there is a question to claim."""

    def ready(self) -> None:
        """Hear that there are jobs to claim."""

    def refused(self, reason: str) -> None:
        """Hear that a receiver on the same store object refused a delivery for its signature."""


class Store(Protocol):
    """Keep events, outcomes, questions and pending operations.

    Every method may raise `StoreError`, whether the change was made or not. A store opened read-only (another process writes)
    keeps what is recorded or registered through it in this process alone, claims nothing, and refuses `accept`, `amend`,
    `requeue` and `purge`.
    """

    @property
    def read_only(self) -> bool:
        """Whether another process does the writing."""
        ...

    async def accept(self, event: Event, *, handlers: Sequence[str] = ()) -> Acceptance:
        """Keep an event unless its identity is known, together with all that follows from it, in one step.

        * Identity known: nothing changes.
        * `event.problem`: a dead letter; settles and asks nothing, and no handler runs.
        * A resource with a terminal status: its outcome is recorded as by `record_outcome`, via webhook.
        * Only a ref, and each ref in `event.also`: a question, unless one is open or the operation is known as `done`.

        Args:
            event: The verified event.
            handlers: The names of the handlers that are to run; each gets a job.
        """
        ...

    async def accept_all(self, arrivals: Sequence[tuple[Event, Sequence[str]]]) -> Sequence[Acceptance | Exception]:
        """Keep several events, each as `accept` does and whatever becomes of the others.

        Args:
            arrivals: Each event with the names of its handlers.

        Returns:
            For each what became of it, or the error that kept it from being kept.
        """
        ...

    async def amend(self, event_id: int, event: Event) -> None:
        """Replace a kept event by what a later reading of its body found, and settle or ask as `accept` does.

        Its jobs stay. An unknown id changes nothing.
        """
        ...

    def route_conflicts(self, handlers: Mapping[str, Sequence[str]]) -> None:
        """Say which handlers get a job on the `outcome.conflict` events that this store object makes from now on.

        Args:
            handlers: Scope to the handlers' names; scopes not named keep what they have.
        """
        ...

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

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        """Record how an operation ended; the first one stands.

        The operation leaves the pending ones and its question is closed. A later one that says the same adds its key to a first
        one that has none. A later one that differs (see `agree`) is kept beside the first, once, and an event named
        `outcome.conflict` is kept for the handlers (see `route_conflicts`).
        """
        ...

    async def add_pending(self, refs: Sequence[OperationRef]) -> None:
        """Register operations as unsettled; those with an outcome, or registered already, are passed over."""
        ...

    async def remove_pending(self, refs: Sequence[OperationRef]) -> None:
        """Take operations out of the pending ones; unknown ones are passed over."""
        ...

    def pending(self, scope: str) -> AsyncIterator[OperationRef]:
        """Iterate over the pending operations of a scope; those that come or go meanwhile may be seen or not."""
        ...

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber from now on."""
        ...

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber no more; an unknown one is passed over."""
        ...

    def refused(self, reason: str) -> None:
        """Tell the subscribers in this process of a delivery that was refused for its signature; nothing is kept."""
        ...

    async def claim_jobs(self, handler: str, *, limit: int, lease: float) -> Sequence[ClaimedJob]:
        """Lease due jobs of one handler to the caller, the longest due first.

        Args:
            handler: The handler's name.
            limit: At most so many.
            lease: Seconds after which others may claim them.
        """
        ...

    async def finish_job(self, job: Job) -> bool:
        """Mark a claimed job as done; return False, changing nothing, if the lease has passed to another."""
        ...

    async def fail_job(self, job: Job, *, reason: str, retry_at: float | None) -> bool:
        """Give a claimed job back; return False, changing nothing, if the lease has passed to another.

        Args:
            job: As claimed.
            reason: What went wrong, one line.
            retry_at: Unix time at which it may be claimed again; None makes it, and so its event, a dead letter.
        """
        ...

    async def retire_jobs(self, scopes: Collection[str], keep: Collection[str]) -> int:
        """Make ready jobs of handlers that are no more dead letters (`NO_SUCH_HANDLER`).

        Called at start, so that the jobs of a handler that was renamed or removed do not wait unseen.

        Args:
            scopes: Look at the events of these scopes alone.
            keep: The names of the handlers there are.

        Returns:
            How many jobs there were.
        """
        ...

    async def claim_questions(self, scope: str, *, limit: int, lease: float) -> Sequence[OperationRef]:
        """Lease open questions to the caller, the longest due first; others may claim them when `lease` seconds are over.

        A question is closed by the operation's outcome or by `close_questions`.
        """
        ...

    async def close_questions(self, refs: Sequence[OperationRef]) -> None:
        """Close questions that will find no answer; unknown ones are passed over."""
        ...

    async def list_events(
        self,
        *,
        scope: str | None = None,
        state: EventState | None = None,
        name: str | None = None,
        ref: OperationRef | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> Sequence[StoredEvent]:
        """Return events that fit all given conditions, newest first; `before_id` pages on."""
        ...

    async def get_event(self, event_id: int) -> StoredEvent | None:
        """Return one event."""
        ...

    async def requeue(self, event_ids: Sequence[int], handlers: Sequence[str] | None = None) -> int:
        """Let handlers run again for kept events, with no attempts counted.

        Args:
            event_ids: The events; unknown ones are passed over.
            handlers: Give each event a job for each of these, in place of the jobs it has; None: its dead jobs again.

        Returns:
            How many events got a job.
        """
        ...

    async def purge(self, before: float, *, state: EventState = EventState.DONE) -> int:
        """Remove events in that state received before a Unix time; return how many.

        Their identities stay for 400 days, so that a replayed body is still a duplicate.

        Raises:
            ValueError: the state is `ready`; such events still wait for their handlers.
        """
        ...

    async def purge_outcomes(self, before: float) -> int:
        """Remove outcomes settled before a Unix time, with their conflicts, and operations pending since before it.

        Returns:
            How many outcomes there were.
        """
        ...

    async def statistics(self) -> StoreStatistics:
        """Count what is held."""
        ...

    async def ping(self) -> None:
        """Return if the store can read and, unless read-only, write."""
        ...

    async def aclose(self) -> None:
        """Finish what is under way and let go of everything; idempotent. Afterwards every other method raises `StoreClosed`."""
        ...
