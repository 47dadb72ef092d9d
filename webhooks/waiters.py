"""Who waits for which operation, and until when."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from attrs import define, field, frozen

from rewards_core.clock import loop_time
from webhooks.polling import BOOST, Poller
from webhooks.store.records import Priority

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationRef
    from webhooks.store.records import Via

T = TypeVar("T")

logger = logging.getLogger(__name__)

LAST_LOOK = 2.0
"""Seconds that a store gets to answer after the time of a wait is over."""
_FINEST = 1e-9
"""Seconds by which a loop may call a timer too early."""


@frozen
class Settled:
    """An outcome on its way to its waiters."""

    operation: Operation
    via: Via
    settled_at: float


Ending = Settled | Exception


class Waiting(Protocol):
    """What waits for operations: a caller inside `wait`, or a stream of completions."""

    def end(self, kind: str, uid: str, ending: Ending, /) -> None:
        """Take how an operation ended, or why it cannot be waited for any longer."""
        ...

    def note(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Take what a poll saw or met that settled nothing."""
        ...


@define(eq=False, weakref_slot=False)
class TimedWaiter:
    """One caller who waits until a deadline; the future's result is None when its time is over.

    It is its own timer's callback: there may be very many of them.
    """

    future: asyncio.Future[Ending | None]
    deadline: float
    poller: Poller
    last_seen: Operation | None = None
    last_error: Exception | None = None
    timer: asyncio.TimerHandle | None = None
    limit: asyncio.Timeout | None = None

    def __call__(self) -> None:
        """Have the vendor asked shortly before the deadline, and wake the caller when it has come."""
        loop = self.future.get_loop()
        if loop.time() >= self.deadline - _FINEST:
            if not self.future.done():
                self.future.set_result(None)
            return
        if not self.future.done() and self.poller.may_hurry():
            self.hurry()
        self.timer = loop.call_at(self.deadline, self)

    def hurry(self) -> None:
        """Have the vendor asked at once."""
        raise NotImplementedError

    async def meanwhile(self, answering: Awaitable[T]) -> T | None:
        """Return what the store answers, None if the wait ends before it does."""
        self.limit = limit = _limit_at(self.deadline)
        try:
            return await _within(limit, answering)
        finally:
            self.limit = None

    def wake(self, ending: Ending | None) -> None:
        """Wake the caller, whatever it is doing."""
        if not self.future.done():
            self.future.set_result(ending)
            if self.limit is not None and not self.limit.expired():
                self.limit.reschedule(loop_time())

    def end(self, _kind: str, _uid: str, ending: Ending, /) -> None:
        """Wake the caller with how the operation ended."""
        self.wake(ending)

    def note(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Keep it for the caller's `CompletionTimeout`."""
        if seen is not None:
            self.last_seen, self.last_error = seen, None
        else:
            self.last_error = error

    def arm(self) -> None:
        """Set the timer, if there is a deadline."""
        if self.deadline != math.inf:
            self.timer = self.future.get_loop().call_at(self.deadline - BOOST, self)

    def disarm(self) -> None:
        """Cancel the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


@define(eq=False, weakref_slot=False)
class Waiter(TimedWaiter):
    """One caller inside `wait`."""

    ref: OperationRef = field(kw_only=True)

    def hurry(self) -> None:
        """Have the operation polled at once."""
        self.poller.hurry(self.ref, Priority.DEADLINE)


class WaiterTable:
    """Operations with their waiters; an operation with a single waiter costs one dictionary entry."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Waiting | tuple[Waiting, ...]]] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._kinds.values())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((kind, uid) for kind, waiting in list(self._kinds.items()) for uid in list(waiting))

    def has(self, kind: str, uid: str) -> bool:
        """Whether the operation is waited for."""
        return uid in self._kinds.get(kind, ())

    def of(self, kind: str, uid: str) -> tuple[Waiting, ...]:
        """Return the waiters of the operation."""
        return _several(self._kinds.get(kind, {}).get(uid, ()))

    def add(self, kind: str, uid: str, one: Waiting) -> None:
        """Add a waiter, once."""
        waiting = self._kinds.get(kind)
        if waiting is None:
            waiting = self._kinds[kind] = {}
        known = waiting.setdefault(uid, one)
        if known is not one and one not in (several := _several(known)):
            waiting[uid] = (*several, one)

    def remove(self, kind: str, uid: str, one: Waiting) -> None:
        """Remove a waiter, if it is there."""
        waiting = self._kinds.get(kind, {})
        left = tuple(other for other in _several(waiting.pop(uid, ())) if other is not one)
        if left:
            waiting[uid] = left[0] if len(left) == 1 else left

    def take(self, kind: str, uid: str) -> tuple[Waiting, ...]:
        """Remove all waiters of the operation and return them."""
        return _several(self._kinds.get(kind, {}).pop(uid, ()))


async def in_time(answering: Awaitable[T], until: float, about: str) -> T | None:
    """Return what the store answers, None if it has not at a moment, which is logged."""
    limit = _limit_at(until)
    answer = await _within(limit, answering)
    if limit.expired():
        logger.warning("The store did not answer in time %s.", about)
    return answer


def _limit_at(moment: float) -> asyncio.Timeout:
    return asyncio.timeout_at(None if moment == math.inf else moment)


async def _within(limit: asyncio.Timeout, answering: Awaitable[T]) -> T | None:
    """Return what is answered, None if the limit expires before."""
    try:
        async with limit:
            return await answering
    except TimeoutError:
        if not limit.expired():
            raise
    return None


def _several(known: Waiting | tuple[Waiting, ...]) -> tuple[Waiting, ...]:
    return known if isinstance(known, tuple) else (known,)
