"""Callers that wait for an operation, their deadlines, and the table in which an outcome finds them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from attrs import define, field, frozen

from rewards_core.clock import loop_time
from webhooks.polling import DEADLINE_LEAD, Poller
from webhooks.store.records import Priority

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationRef
    from webhooks.store.records import Via

T = TypeVar("T")

logger = logging.getLogger(__name__)

FINAL_LOOKUP_TIMEOUT = 2.0
"""Seconds that the store has for one more lookup after the timeout of a wait."""
_TIMER_SLACK = 1e-9
"""Seconds by which an event loop may call a timer too early."""


@frozen
class SettledOutcome:
    """An outcome as its waiters get it."""

    operation: Operation
    via: Via
    settled_at: float


Ending = SettledOutcome | Exception


class Waiter(Protocol):
    """A caller inside `wait`, or a stream of completions."""

    def end(self, kind: str, uid: str, ending: Ending, /) -> None:
        """Receive the outcome of an operation, or the reason why the wait for it ends."""
        ...

    def note_poll(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Receive the result of a poll that settled nothing."""
        ...


@define(eq=False, weakref_slot=False)
class TimedWaiter:
    """One caller and its deadline. The future's result is None on timeout.

    It is its own timer's callback, because there may be a million of them.
    """

    future: asyncio.Future[Ending | None]
    deadline: float
    poller: Poller
    last_seen: Operation | None = None
    last_error: Exception | None = None
    timer: asyncio.TimerHandle | None = None
    limit: asyncio.Timeout | None = None

    def __call__(self) -> None:
        """Request a poll shortly before the deadline, and wake the caller at the deadline."""
        loop = self.future.get_loop()
        if loop.time() >= self.deadline - _TIMER_SLACK:
            if not self.future.done():
                self.future.set_result(None)
            return
        if not self.future.done() and self.poller.may_hurry():
            self.hurry()
        self.timer = loop.call_at(self.deadline, self)

    def hurry(self) -> None:
        """Request a poll now."""
        raise NotImplementedError

    async def while_waiting(self, answering: Awaitable[T]) -> T | None:
        """Return the store's answer, None if the wait ends first."""
        self.limit = limit = _timeout_at(self.deadline)
        try:
            return await _within(limit, answering)
        finally:
            self.limit = None

    def wake(self, ending: Ending | None) -> None:
        """Wake the caller, also while it waits for the store."""
        if not self.future.done():
            self.future.set_result(ending)
            if self.limit is not None and not self.limit.expired():
                self.limit.reschedule(loop_time())

    def end(self, _kind: str, _uid: str, ending: Ending, /) -> None:
        """Wake the caller."""
        self.wake(ending)

    def note_poll(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Keep the result of the last poll for the caller's `CompletionTimeout`."""
        if seen is not None:
            self.last_seen, self.last_error = seen, None
        else:
            self.last_error = error

    def start_timer(self) -> None:
        """Start the timer, if there is a deadline."""
        if self.deadline != math.inf:
            self.timer = self.future.get_loop().call_at(self.deadline - DEADLINE_LEAD, self)

    def stop_timer(self) -> None:
        """Cancel the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@define(eq=False, weakref_slot=False)
class OperationWaiter(TimedWaiter):
    """One caller inside `wait` that knows the operation."""

    ref: OperationRef = field(kw_only=True)

    def hurry(self) -> None:
        """Request a poll of the operation now."""
        self.poller.hurry(self.ref, Priority.DEADLINE)


class WaiterTable:
    """The waiters of each operation. An operation with a single waiter costs one dictionary entry."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Waiter | tuple[Waiter, ...]]] = {}

    def __len__(self) -> int:
        return sum(len(uids) for uids in self._kinds.values())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((kind, uid) for kind, uids in list(self._kinds.items()) for uid in list(uids))

    def has(self, kind: str, uid: str) -> bool:
        """Return whether the operation has a waiter."""
        return uid in self._kinds.get(kind, ())

    def of(self, kind: str, uid: str) -> tuple[Waiter, ...]:
        """Return the waiters of the operation."""
        return _as_tuple(self._kinds.get(kind, {}).get(uid, ()))

    def add(self, kind: str, uid: str, waiter: Waiter) -> None:
        """Add a waiter, once."""
        uids = self._kinds.setdefault(kind, {})
        known = uids.setdefault(uid, waiter)
        if known is not waiter and waiter not in (waiters := _as_tuple(known)):
            uids[uid] = (*waiters, waiter)

    def remove(self, kind: str, uid: str, waiter: Waiter) -> None:
        """Remove a waiter, if it is there."""
        uids = self._kinds.get(kind, {})
        left = tuple(other for other in _as_tuple(uids.pop(uid, ())) if other is not waiter)
        if left:
            uids[uid] = left[0] if len(left) == 1 else left

    def take(self, kind: str, uid: str) -> tuple[Waiter, ...]:
        """Remove all waiters of the operation and return them."""
        return _as_tuple(self._kinds.get(kind, {}).pop(uid, ()))


async def answer_by(moment: float, answering: Awaitable[T], purpose: str) -> T | None:
    """Return the store's answer, None if it does not come by a moment; that is logged."""
    limit = _timeout_at(moment)
    answer = await _within(limit, answering)
    if limit.expired():
        logger.warning("The store did not answer in time %s.", purpose)
    return answer


def _timeout_at(moment: float) -> asyncio.Timeout:
    return asyncio.timeout_at(None if moment == math.inf else moment)


async def _within(limit: asyncio.Timeout, answering: Awaitable[T]) -> T | None:
    try:
        async with limit:
            return await answering
    except TimeoutError:
        if not limit.expired():
            raise
    return None


def _as_tuple(known: Waiter | tuple[Waiter, ...]) -> tuple[Waiter, ...]:
    return known if isinstance(known, tuple) else (known,)
