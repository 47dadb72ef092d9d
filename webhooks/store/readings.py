"""What is read from a store beside its records: what it holds, and who uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.records import Via


@frozen(kw_only=True)
class StoreStatistics:
    """What a store holds.

    PostgreSQL counts events, pending operations, outcomes and conflicts beyond 100,000 roughly, and counts no more than 100,000
    ready events, dead letters or lookups.

    Attributes:
        events: Events.
        ready: Events that wait for a handler, including leased ones.
        dead: Dead letters.
        lookups: Pending operations that an event mentioned without settling them.
        pending: Pending operations, including lookups.
        outcomes: Outcomes.
        conflicts: Later outcomes that differ from the first.
        oldest_ready_at: When the oldest event that waits for a handler was received, Unix time; None if none waits.
    """

    events: int
    ready: int
    dead: int
    lookups: int
    pending: int
    outcomes: int
    conflicts: int
    oldest_ready_at: float | None


@frozen(kw_only=True)
class Wake:
    """A caller that was woken with the outcome of an operation. All times are Unix time.

    Attributes:
        ref: The operation.
        via: How the outcome was learned.
        asked_at: When the caller began to wait, None if that is not kept.
        settled_at: When the outcome was learned.
        woken_at: When the caller got it.
    """

    ref: OperationRef
    via: Via
    asked_at: float | None = None
    settled_at: float
    woken_at: float


@frozen(kw_only=True)
class ProcessActivity:
    """What a living process that shares a store last reported, which it does every 10 s.

    Attributes:
        id: The name of its store object, a new one for each.
        renewed_ago: Seconds since it reported.
        waiting: Operations that it watches now.
        polls: Polls that the budget has allowed it since it opened the store.
        wakes: The callers that it woke last, oldest first, at most 64.
    """

    id: str
    renewed_ago: float
    waiting: int
    polls: int
    wakes: tuple[Wake, ...] = ()


@frozen(kw_only=True)
class PollBudget:
    """The budget of polls of one scope.

    Attributes:
        scope: The scope.
        per_second: The lowest `max_per_second` of the last 30 s, None if no process polls.
        paused_for: Seconds until polls resume, 0 if they are not paused.
        refused: Whether the vendor refused the last poll, so that one operation is polled at a time.
    """

    scope: str
    per_second: float | None
    paused_for: float
    refused: bool


@frozen(kw_only=True)
class StoreActivity:
    """Who uses a store now.

    Attributes:
        processes: The living processes that wait, poll or serve handlers.
        budgets: The budgets of polls, by scope.
    """

    processes: Sequence[ProcessActivity]
    budgets: Sequence[PollBudget]
