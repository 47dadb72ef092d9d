"""Who waits for which operation, and how outcomes reach them, from wherever they are learned first."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from attrs import define, field, frozen

from rewards_core.clock import loop_time
from rewards_core.errors import NotFound, StoreError, VendorError
from rewards_core.operations import OperationRef
from webhooks.polling import BOOST, Poller, PollPolicy
from webhooks.silence import SilenceWarning
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import Outcome, Priority, Verdict, Via

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationReader

T = TypeVar("T")

logger = logging.getLogger(__name__)

LAST_LOOK = 2.0
"""Seconds that a store gets to answer after the time of a wait is over."""
_FINEST = 1e-9
"""Seconds by which a loop may call a timer too early."""
_DELAYS_KEPT = 1_000
_SLICE = 1_000


@frozen
class Settled:
    """An outcome on its way to those who wait for it."""

    operation: Operation
    via: Via
    settled_at: float


Ending = Settled | Exception


class Waiting(Protocol):
    """One that waits for operations: a caller inside `wait`, or a stream of completions."""

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
        self.limit = limit = asyncio.timeout_at(None if self.deadline == math.inf else self.deadline)
        try:
            async with limit:
                return await answering
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self.limit = None
        return None

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
    """Operations with those who wait for each; one that a single one waits for costs one dictionary entry."""

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
        """Return those who wait for the operation."""
        return _several(self._kinds.get(kind, {}).get(uid, ()))

    def add(self, kind: str, uid: str, one: Waiting) -> None:
        """Add one who waits, once."""
        waiting = self._kinds.get(kind)
        if waiting is None:
            waiting = self._kinds[kind] = {}
        known = waiting.setdefault(uid, one)
        if known is not one and one not in (several := _several(known)):
            waiting[uid] = (*several, one)

    def remove(self, kind: str, uid: str, one: Waiting) -> None:
        """Remove one who waits, if it does."""
        waiting = self._kinds.get(kind, {})
        left = tuple(other for other in _several(waiting.pop(uid, ())) if other is not one)
        if left:
            waiting[uid] = left[0] if len(left) == 1 else left

    def take(self, kind: str, uid: str) -> tuple[Waiting, ...]:
        """Remove all who wait for the operation and return them."""
        return _several(self._kinds.get(kind, {}).pop(uid, ()))


class Waiters(Subscriber):
    """Bring outcomes to those who wait for them: from hints of the store, from polls, from look-ups.

    Args:
        client: The vendor's client.
        store: Where outcomes are kept.
        policy: When the vendor is asked.
        trusting: Whether an outcome that only the body of an event told counts without asking the vendor.
        clock: Unix time in seconds.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        client: OperationReader,
        store: Store,
        policy: PollPolicy,
        *,
        trusting: bool,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.client = client
        self.store = store
        self.poller = Poller(client, store, policy, self, random=random)
        self.silence = SilenceWarning(store)
        self.table = WaiterTable()
        self.settlements: dict[Via, int] = {"webhook": 0, "poll": 0}
        self.delays: dict[Via, deque[float]] = {"webhook": deque(maxlen=_DELAYS_KEPT), "poll": deque(maxlen=_DELAYS_KEPT)}
        self.conflicts = 0
        self.timeouts = 0
        self._trusting = trusting
        self._clock = clock
        self._missed = asyncio.Event()

    # for those who wait

    async def watch(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Hear from now on how operations end, and have them polled; bring the outcomes that are known, and return them."""
        poll_in = self.poller.first_in()
        known = await self.store.watch(refs, poll_in=poll_in)
        self.poller.expect(poll_in)
        for outcome in known:
            self.bring(outcome)
        return known

    def unwatch(self, refs: Sequence[OperationRef]) -> None:
        """Let the store know that operations are waited for no longer, once for each time they were watched."""
        with suppress(StoreError):
            self.store.unwatch(refs)

    def usable(self, outcome: Outcome) -> Settled | None:
        """Return the outcome as those who wait may have it, None if the vendor has to be asked first."""
        if not (outcome.confirmed or self._trusting):
            return None
        operation = read(self.client, outcome)
        return Settled(operation, outcome.via, outcome.settled_at) if operation is not None else None

    def bring(self, outcome: Outcome) -> None:
        """Bring a kept outcome to those who wait for it; if they may not have it as it is, have the vendor asked."""
        ref = outcome.ref
        if self.table.has(ref.kind, ref.uid):
            settled = self.usable(outcome)
            if settled is None:
                self.poller.hurry(ref, Priority.LOOKUP)
            else:
                self._finish(ref, settled)

    async def last_look(self, ref: OperationRef) -> Settled | None:
        """Look up once more after the time of a wait is over, but not for ever."""
        return await in_time(self._look_up(ref), loop_time() + LAST_LOOK, f"whether {ref} has ended")

    async def told(self, operation: Operation, until: float) -> Settled | None:
        """Store a terminal state that a caller knows already, bring it to those who wait, and return the one that stands.

        A store that does not answer until some time after a moment keeps the caller from nothing: then there is None to return.
        """
        ref = operation.ref
        keeping = self._keep(ref, operation, "poll")
        kept = await in_time(keeping, until + LAST_LOOK, f"how {ref} ended, which its caller knows")
        if kept is None:
            return None
        settled, _ = kept
        for one in self.table.take(ref.kind, ref.uid):
            one.end(ref.kind, ref.uid, settled)
        return settled

    def took(self, settled: Settled) -> None:
        """Note how long an outcome took from when it was learned to who waited for it."""
        self.delays[settled.via].append(self._clock() - settled.settled_at)

    async def catch_up(self) -> None:
        """Look up all that is waited for whenever hints may have been lost, until cancelled."""
        while True:
            await self._missed.wait()
            self._missed.clear()
            refs: list[OperationRef] = []
            for kind, uid in self.table:
                refs.append(OperationRef(self.client.scope, kind, uid))
                if len(refs) == _SLICE:
                    await self._look_for(refs)
                    refs = []
            await self._look_for(refs)

    # as a subscriber

    def waits_for(self, ref: OperationRef) -> bool:
        """Whether the operation is waited for."""
        return ref.scope == self.client.scope and self.table.has(ref.kind, ref.uid)

    def settled(self, outcome: Outcome) -> None:
        """Bring a new outcome to those who wait for it."""
        if outcome.ref.scope == self.client.scope:
            self.bring(outcome)

    def confirmed(self, outcome: Outcome) -> None:
        """Bring an outcome to those who may have it only now."""
        self.settled(outcome)

    def polls_due(self) -> None:
        """Look for due polls at once."""
        self.poller.expect(0.0)

    def missed(self) -> None:
        """Look up all that is waited for."""
        self._missed.set()

    # what the poller tells

    async def ended(self, ref: OperationRef, operation: Operation, *, mentioned: bool) -> bool:
        """Store a terminal answer first, then bring it to those who wait."""
        settled, stored = await self._keep(ref, operation, "webhook" if mentioned and self._trusting else "poll")
        self._finish(ref, settled)
        if settled.via == "poll":
            await self.silence.polled()
        return stored

    def missing(self, ref: OperationRef, error: NotFound) -> None:
        """End the waits for an operation that the vendor does not know."""
        for one in self.table.take(ref.kind, ref.uid):
            one.end(ref.kind, ref.uid, copy.copy(error))

    def noted(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Pass on what a poll saw or met."""
        for one in self.table.of(ref.kind, ref.uid):
            one.note(seen, error)

    async def _look_up(self, ref: OperationRef) -> Settled | None:
        outcome = await self.store.outcome(ref)
        settled = None if outcome is None else self.usable(outcome)
        if settled is not None or outcome is None or self._trusting:
            return settled
        later = await self.store.conflicts(ref)  # a poll of another process may have contradicted the event
        return next((self.usable(one) for one in later if one.confirmed), None)

    async def _look_for(self, refs: Sequence[OperationRef]) -> None:
        if refs:
            try:
                for outcome in await self.store.outcomes(refs):
                    self.bring(outcome)
            except StoreError:
                logger.exception("The store could not be asked for outcomes after hints may have been lost; it is asked again.")
                self._missed.set()
                await asyncio.sleep(1.0)

    async def _keep(self, ref: OperationRef, operation: Operation, via: Via) -> tuple[Settled, bool]:
        """Store what the vendor's API says; return what those who wait get, and whether it was stored."""
        outcome = Outcome(
            ref=ref,
            status=operation.status,
            resource=operation.raw,
            via=via,
            settled_at=self._clock(),
            key=operation.key,
            confirmed=True,
        )
        settled = Settled(operation, via, outcome.settled_at)
        try:
            recorded = await self.store.record_outcome(outcome)
        except Exception:
            logger.exception("The outcome of %s could not be stored. Those who wait get it all the same.", ref)
            return settled, False
        if recorded.verdict is Verdict.CONFLICT:
            self.conflicts += 1
            logger.error("%s ended as %s, but is kept as %s", ref, operation.status, recorded.outcome.status)
        if recorded.verdict is not Verdict.FIRST:
            settled = self.usable(recorded.outcome) or settled
        return settled, True

    def _finish(self, ref: OperationRef, settled: Settled) -> None:
        waiting = self.table.take(ref.kind, ref.uid)
        self.settlements[settled.via] += bool(waiting)
        for one in waiting:
            one.end(ref.kind, ref.uid, settled)


def read(client: OperationReader, outcome: Outcome) -> Operation | None:
    """Return the operation of a kept outcome, None if it cannot be read as one that has ended."""
    try:
        operation = client.parse_operation(outcome.ref, outcome.resource)
    except VendorError as problem:
        logger.warning("A kept outcome of %s cannot be read, the vendor is asked: %s", outcome.ref, problem)
        return None
    return operation if operation.status.terminal else None


async def in_time(answering: Awaitable[T], until: float, about: str) -> T | None:
    """Return what the store answers, None if it has not at a moment, which is logged."""
    limit = asyncio.timeout_at(None if until == math.inf else until)
    try:
        async with limit:
            return await answering
    except TimeoutError:
        if not limit.expired():
            raise
    logger.warning("The store did not answer in time %s.", about)
    return None


def _several(known: Waiting | tuple[Waiting, ...]) -> tuple[Waiting, ...]:
    return known if isinstance(known, tuple) else (known,)
