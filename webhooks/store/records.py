"""The records of a store: events, jobs, outcomes, pending operations and polls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef, OperationStatus

IDENTITY_DAYS = 400
"""Days for which a purged event is still recognized as a duplicate."""
DEAD_DAYS = 180
"""Days for which dead letters are kept by default."""
UNSERVED_DAYS = 14
"""Days after which the jobs of a handler that no process serves become dead letters."""
ANY_EVENT = "*"
"""The pattern that matches every event name."""
DEFAULT_SERVICE = "default"
RETIRED = "the handler was retired; retry the job after registering the handler again"
FORGOTTEN = "the event was erased because it mentions a forgotten user; it cannot be retried"
UNSERVED = f"no process has served the handler for {UNSERVED_DAYS} days; retry the job once one does"
UNSERVED_JOBS = (
    f"%d jobs of %s became dead letters, as no process has served the handler for {UNSERVED_DAYS} days; once one does, run "
    "`webhook-listener dead-letters retry`"
)

Via = Literal["webhook", "poll"]
"""How an outcome was learned: from a delivery (or the lookup it caused), or from a poll."""


class Acceptance(StrEnum):
    """Whether an event is new."""

    NEW = "new"
    DUPLICATE = "duplicate"


class Verdict(StrEnum):
    """How a recorded outcome relates to the first one."""

    FIRST = "first"
    SAME = "same"
    CONFLICT = "conflict"


class EventState(StrEnum):
    """The state of an event or a job.

    An event is `ready` while one of its jobs is ready, else `dead` if it is unusable or one of its jobs is dead, else `done`.
    """

    READY = "ready"
    DONE = "done"
    DEAD = "dead"


class Priority(IntEnum):
    """The order of polls, the most urgent first."""

    LOOKUP = 0
    """An event mentioned the operation without settling it."""
    DEADLINE = 1
    """A wait is about to time out."""
    WISH = 2
    """A caller requested a poll."""
    ROUTINE = 3
    """A caller waits for the operation."""
    ABANDONED = 4
    """No caller waits; at most a tenth of the budget."""


@frozen(kw_only=True)
class Outcome:
    """The terminal state of one operation.

    Attributes:
        ref: The operation.
        status: `done`, `failed` or another terminal status.
        resource: The vendor's complete JSON object.
        via: How it was learned: `"webhook"` for a delivery or the lookup it caused, `"poll"` for a poll.
        settled_at: When it was learned, Unix time.
        key: The idempotency key of the operation, if known.
        confirmed: Whether it comes from the vendor's API, not only from the body of an event.
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
    """What became of a recorded outcome.

    Attributes:
        verdict: How it relates to the first outcome of the operation.
        outcome: The first outcome.
    """

    verdict: Verdict
    outcome: Outcome


@frozen(kw_only=True)
class Subscription:
    """The events of one scope that a handler wants.

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
        """The handler's name in its jobs."""
        return job_name(self.service, self.handler)

    def wants(self, event: Event) -> bool:
        """Return whether an event matches."""
        return event.scope == self.scope and (event.name in self.patterns or ANY_EVENT in self.patterns)


@frozen(kw_only=True)
class HandlerStatus:
    """The status of a subscription.

    Attributes:
        subscription: The newest subscription.
        served: Whether a running process serves it.
        differing: Whether a running process has registered other patterns for the handler.
        ready: Jobs that wait or run.
        dead: Jobs that are dead letters.
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
        handler: The job's name, see `Subscription.job_name`.
        state: `ready` or `dead`.
        due_in: Seconds until it may be claimed, 0 if it is due.
        attempts: The number of claims.
        reason: Why the last attempt failed.
        fence: The token of the claim that holds it, None if unclaimed.
        age: Seconds since its first claim, without the time while the host was off; 0 before it.
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
    """A leased job and its event.

    Attributes:
        job: The job, with the fence of its claim.
        event: The event, to give to the handler.
    """

    job: Job
    event: Event


@frozen(kw_only=True)
class StoredEvent:
    """A stored event.

    Attributes:
        id: Its id in this store: unique, and greater for later events.
        event: The event. `resource` may be missing; `body` is complete, or empty if it was erased.
        state: Its state.
        received_at: Unix time.
        jobs: Its jobs that are not done, by handler name.
    """

    id: int
    event: Event
    state: EventState
    received_at: float
    jobs: tuple[Job, ...] = ()


@frozen(kw_only=True)
class StoredOutcome:
    """A stored outcome.

    Attributes:
        id: Greater for an outcome that was recorded or confirmed later.
        outcome: The first outcome of the operation, which is final.
        conflicts: The later outcomes that differ from it, oldest first.
    """

    id: int
    outcome: Outcome
    conflicts: tuple[Outcome, ...] = ()


@frozen(kw_only=True)
class PendingOperation:
    """An operation that is not known to have settled.

    Attributes:
        ref: The operation, with what it is about if that is known.
        added_at: When it became pending, Unix time.
        polls: The number of polls.
        priority: The priority of its next poll.
        due_in: Seconds until its next poll is due, 0 if it is; the budget may delay it.
    """

    ref: OperationRef
    added_at: float
    polls: int
    priority: Priority
    due_in: float


@frozen(kw_only=True)
class PollClaim:
    """The right to poll one operation, until the lease expires or the operation is hurried.

    Attributes:
        ref: The operation, with what it is about if that is known.
        priority: The priority of the poll.
        polls: Earlier polls.
        attempt: Earlier polls at this priority.
        start_in: Seconds until the request may be sent.
        refusals: Consecutive pauses because of refusals so far.
        missing: Consecutive answers that the operation does not exist.
        missing_for: Seconds since the first of them, 0 if there is none.
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
    """The polls to make now.

    Attributes:
        claims: The claims, in the order of their polls.
        next_in: Seconds until another claim may succeed, infinity if nothing is pending.
    """

    claims: Sequence[PollClaim]
    next_in: float


@frozen(kw_only=True)
class PollPermit:
    """Whether a request without a claim may be sent.

    Attributes:
        granted: Whether the budget allows the request.
        seconds: Seconds until the request may be sent; if not granted, until the budget may be asked again.
    """

    granted: bool
    seconds: float


@frozen(kw_only=True)
class PollResult:
    """The result of a poll that did not settle its operation.

    Attributes:
        claim: As claimed.
        retry_in: Seconds until the operation is due again.
        priority: The priority of its next poll; `ROUTINE` and `ABANDONED` replace each other by whether a caller waits.
        counted: Whether to count it in `polls` and `attempt`.
        known: Whether the vendor knows the operation, which resets or increases `missing`; None if it did not say.
        about: What the operation is about according to the vendor, kept if nothing else is; None if it did not say.
    """

    claim: PollClaim
    retry_in: float
    priority: Priority = Priority.ROUTINE
    counted: bool = True
    known: bool | None = None
    about: str | None = None


def job_name(service: str, handler: str) -> str:
    """Return a handler's name in its jobs: its own in the default service, else `service/handler`."""
    return handler if service == DEFAULT_SERVICE else f"{service}/{handler}"


def handler_of(name: str) -> tuple[str, str]:
    """Return the service and the handler of a job name, the reverse of `job_name`."""
    service, slash, handler = name.partition("/")
    return (service, handler) if slash and service and service == service.strip() else (DEFAULT_SERVICE, name)
