"""What a store keeps and tells: events, jobs, outcomes, pending operations and polls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef, OperationStatus

IDENTITY_DAYS = 400
"""Days for which a delivery is recognized as a duplicate after its event was purged."""
DEAD_DAYS = 180
"""Days for which dead letters are kept, unless a store's owner says otherwise."""
UNSERVED_DAYS = 14
"""Days after which the jobs of a handler that no process serves become dead letters."""
ANY_EVENT = "*"
"""The pattern of a handler that wants every event of its scopes."""
DEFAULT_SERVICE = "default"
RETIRED = "the handler was retired; retry it once it is registered again"
FORGOTTEN = "the event was erased because it mentions a user who was forgotten; it cannot be retried"
UNSERVED = f"no process has served the handler for {UNSERVED_DAYS} days; retry it once one does"

Via = Literal["webhook", "poll"]
"""How an outcome was learned: a delivery brought it, whole or by the lookup it caused; or by a poll."""


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


class Priority(IntEnum):
    """Which poll goes first."""

    LOOKUP = 0
    """An event mentioned the operation without settling it."""
    DEADLINE = 1
    """A wait is about to time out."""
    WISH = 2
    """A caller asked for a poll now."""
    ROUTINE = 3
    """Somebody waits for the operation."""
    ABANDONED = 4
    """Nobody waits for it; at most a tenth of the budget."""


@frozen(kw_only=True)
class Outcome:
    """The terminal state of one operation.

    Attributes:
        ref: The operation.
        status: `done`, `failed` or another terminal status.
        resource: The vendor's JSON object of it, complete.
        via: How it was learned.
        settled_at: When it was learned, Unix time.
        key: The caller's idempotency key of the operation, if known.
        confirmed: Whether the vendor's API said so, not only the body of an event.
    """

    ref: OperationRef
    status: OperationStatus
    resource: Mapping[str, Any] = field(repr=False)
    via: Via
    settled_at: float
    key: str | None = None
    confirmed: bool = False


@frozen(kw_only=True)
class Recorded:
    """What became of an outcome, and the one that stands: the first."""

    verdict: Verdict
    outcome: Outcome


@frozen(kw_only=True)
class Subscription:
    """Which events of one scope a handler wants.

    Attributes:
        service: The service that the handler belongs to.
        handler: The handler's name in its service.
        scope: The scope of the events.
        patterns: Event names, `"*"` for all.
    """

    service: str
    handler: str
    scope: str
    patterns: frozenset[str]

    @property
    def job_name(self) -> str:
        """The name under which its jobs are kept."""
        return job_name(self.service, self.handler)

    def wants(self, event: Event) -> bool:
        """Whether an event makes a job for it."""
        return event.scope == self.scope and (event.name in self.patterns or ANY_EVENT in self.patterns)


@frozen(kw_only=True)
class HandlerStatus:
    """How a subscription stands.

    Attributes:
        subscription: The subscription that applies, the newest.
        served: Whether a living process runs the handler.
        differing: Whether a living process has registered the handler with other patterns.
        ready: Its jobs that wait or run.
        dead: Its jobs that became dead letters.
    """

    subscription: Subscription
    served: bool
    differing: bool
    ready: int
    dead: int


@frozen(kw_only=True)
class Job:
    """One handler's work on one event.

    Attributes:
        event_id: The event's id in this store.
        handler: The name under which the job is kept, see `Subscription.job_name`.
        state: `ready` or `dead`.
        due_in: Seconds until it may be claimed; 0 if it may be now.
        attempts: How often it was claimed.
        reason: What the last attempt met.
        fence: The token of the claim that holds it, None if none does.
        age: Seconds since it was claimed first, without the time in which the host was off; 0 if it never was.
    """

    event_id: int
    handler: str
    state: EventState
    due_in: float = 0.0
    attempts: int = 0
    reason: str | None = None
    fence: str | None = None
    age: float = 0.0


@frozen(kw_only=True)
class ClaimedJob:
    """A leased job and the event it works on."""

    job: Job
    event: Event


@frozen(kw_only=True)
class StoredEvent:
    """An event as kept.

    Attributes:
        id: Its id in this store: unique, and greater for an event that came clearly later.
        event: The event; its `resource` may be missing, its `body` is what counts. An erased body is empty.
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
class StoredOutcome:
    """An outcome as kept.

    Attributes:
        id: Its place in this store: greater for an outcome that was recorded, or confirmed against an earlier one, later.
        outcome: The outcome that stands, the first one.
        conflicts: The later outcomes of the same operation that differ from it, oldest first.
    """

    id: int
    outcome: Outcome
    conflicts: tuple[Outcome, ...] = ()


@frozen(kw_only=True)
class PendingOperation:
    """An operation that is not known to have settled.

    Attributes:
        ref: The operation.
        added_at: When it was registered first, Unix time.
        polls: How often it was polled.
        priority: How its next poll is ranked.
        due_in: Seconds until its next poll is due, 0 if it is; the budget may put it off.
    """

    ref: OperationRef
    added_at: float
    polls: int
    priority: Priority
    due_in: float


@frozen(kw_only=True)
class PollClaim:
    """The right to poll one operation, until its lease is over or the operation is hurried.

    Attributes:
        ref: The operation.
        priority: Why it is polled.
        polls: How often it was polled before.
        attempt: How often it was polled before at this priority, since it was raised to it.
        start_in: Seconds until the request may be sent.
        refusals: How many pauses in a row the vendor's refusals have caused before.
        missing: How often in a row the vendor has said that it knows no such operation.
        missing_for: Seconds since it said so first, 0 if it has not.
        fence: The token of the claim.
    """

    ref: OperationRef
    priority: Priority
    polls: int
    attempt: int
    start_in: float
    refusals: int
    missing: int = 0
    missing_for: float = 0.0
    fence: str


@frozen(kw_only=True)
class PollClaims:
    """What may be polled now.

    Attributes:
        claims: The claims, in the order in which to poll.
        next_in: Seconds until another claim may succeed, infinity if only a new operation can bring one.
    """

    claims: Sequence[PollClaim]
    next_in: float


@frozen(kw_only=True)
class PollPermit:
    """Whether a request that was not claimed may be sent.

    Attributes:
        granted: Whether it was taken from the budget.
        seconds: Seconds until it may be sent if it was, otherwise until it may be asked for again.
    """

    granted: bool
    seconds: float


@frozen(kw_only=True)
class PollResult:
    """What became of a claim that did not settle its operation.

    Attributes:
        claim: As claimed.
        again_in: Seconds until the operation is due again.
        priority: The rank of its next poll. `ROUTINE` becomes `ABANDONED`, and the reverse, by whether somebody waits.
        counted: Whether the vendor answered about this operation, so that `polls` and `attempt` grow.
        known: Whether it knows the operation, so that `missing` starts again or grows; None if it did not say.
    """

    claim: PollClaim
    again_in: float
    priority: Priority = Priority.ROUTINE
    counted: bool = True
    known: bool | None = None


@frozen(kw_only=True)
class StoreStatistics:
    """How much a store holds right now, and how many conflicts it has met.

    Attributes:
        events: Events.
        ready: Events that wait for a handler, leased ones included.
        dead: Dead letters.
        lookups: Pending operations that an event mentioned without settling them.
        pending: Operations that are not known to have settled, lookups included.
        outcomes: Outcomes.
        conflicts: Later outcomes that differ from the first.
        oldest_ready_at: When the oldest event that waits for its handlers was received, Unix time; None if none waits.
    """

    events: int
    ready: int
    dead: int
    lookups: int
    pending: int
    outcomes: int
    conflicts: int
    oldest_ready_at: float | None


def job_name(service: str, handler: str) -> str:
    """Return the name under which a handler's jobs are kept: its own in the default service, else with the service before it."""
    return handler if service == DEFAULT_SERVICE else f"{service}/{handler}"


def handler_of(name: str) -> tuple[str, str]:
    """Return the service and the handler whose jobs are kept under a name: what `job_name` made the name of."""
    service, slash, handler = name.partition("/")
    return (service, handler) if slash and service and service == service.strip() else (DEFAULT_SERVICE, name)
