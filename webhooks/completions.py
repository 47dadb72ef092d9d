"""Wait for operations: the outcome is stored first, its waiters hear of it second."""

from __future__ import annotations

import asyncio
import copy
import math
import random
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from attrs import field, frozen

from rewards_core.clock import loop_time
from rewards_core.errors import OutcomeUnknown
from rewards_core.operations import KeyedRequest, Operation, OperationReader, OperationRef
from rewards_core.validation import check_callable, check_flag, check_methods, check_wait, setting
from webhooks.as_completed import CompletionStream
from webhooks.errors import CompletionsClosed, CompletionsFailed, nothing_found, time_is_over
from webhooks.key_waiters import KeyWaiter, KeyWaiters, request_of
from webhooks.polling import PollPolicy
from webhooks.settlement import Settlement
from webhooks.store.base import A_STORE, Store
from webhooks.store.records import Priority
from webhooks.supervise import RestartPolicy, keep_running
from webhooks.waiters import Ending, Settled, TimedWaiter, Waiter

if TYPE_CHECKING:
    from types import TracebackType

    from webhooks.store.records import Via

A = TypeVar("A", bound=Operation)


@frozen(kw_only=True)
class CompletionStatistics:
    """What was waited for since the start.

    Attributes:
        waiting: Callers inside `wait` and `find`.
        pending: Operations that are waited for.
        settled_by_webhook: Of those, how many a delivery has settled.
        settled_by_poll: Of those, how many a poll has settled.
        timeouts: Waits that ran out of time.
        conflicts: Polls whose answer differs from the outcome that stands.
        polls: How often the vendor was asked.
        poll_errors: How often it did not answer.
        polls_pause_for: Seconds for which polls still pause because the vendor refused this process, or asked it to wait.
        restarts: How often background work died and was started again.
        delays: For each way in which outcomes were learned, the latest seconds from then to the caller that waited.
    """

    waiting: int
    pending: int
    settled_by_webhook: int
    settled_by_poll: int
    timeouts: int
    conflicts: int
    polls: int
    poll_errors: int
    polls_pause_for: float
    restarts: int
    delays: dict[Via, Sequence[float]] = field(repr=False)


class Completions:
    """Turn "it was accepted" into "it is done": by webhook within moments, by polling where no webhook comes.

    Use it inside `async with`. The client and the store stay the caller's to close.

    Args:
        client: The vendor's client, which reads operations.
        store: Where deliveries are kept: the receiver's, or another store object on the same engine.
        polling: When the vendor is asked.
        trust_event_body: Whether a complete resource in a signed event settles without asking the vendor.
        restarts: How background work that died is started again before every wait fails.
        clock: Unix time in seconds.
        random: Returns a number from 0 to 1.

    Raises:
        TypeError: an argument is of another type.
    """

    def __init__(
        self,
        client: OperationReader,
        store: Store,
        *,
        polling: PollPolicy | None = None,
        trust_event_body: bool = True,
        restarts: RestartPolicy | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._client = check_methods(client, "client", "a vendor's client", OperationReader)
        self._store = check_methods(store, "store", A_STORE, Store)
        policy = setting(polling, "polling", PollPolicy)
        trusting = check_flag(trust_event_body, "trust_event_body")
        check_callable(clock, "clock")
        check_callable(random, "random")
        self._restart_policy = setting(restarts, "restarts", RestartPolicy)
        self._settlement = Settlement(client, store, policy, trusting=trusting, clock=clock, random=random)
        self._poller = self._settlement.poller
        self._key_waiters = KeyWaiters(client, store, self._poller, policy, random=random)
        self._subscribers = (self._settlement, self._key_waiters)
        self._streams: set[CompletionStream[Any]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: Exception | None = None
        self._callers: set[TimedWaiter] = set()
        self._closing = False
        self._restarts = 0

    @property
    def statistics(self) -> CompletionStatistics:
        """What was waited for since the start."""
        settlement, pacer = self._settlement, self._poller.pacer
        return CompletionStatistics(
            waiting=len(self._callers),
            pending=len(settlement.table),
            settled_by_webhook=settlement.settlements["webhook"],
            settled_by_poll=settlement.settlements["poll"],
            timeouts=settlement.timeouts,
            conflicts=settlement.conflicts,
            polls=pacer.requests,
            poll_errors=pacer.errors,
            polls_pause_for=0.0 if self._loop is None or self._closing else max(0.0, pacer.paused_until - self._loop.time()),
            restarts=self._restarts,
            delays={via: tuple(delays) for via, delays in settlement.delays.items()},
        )

    def pending(self) -> Iterator[OperationRef]:
        """Iterate over the operations that are waited for."""
        return (OperationRef(self._client.scope, kind, uid) for kind, uid in self._settlement.table)

    @overload
    async def wait(self, operation: OutcomeUnknown, *, timeout: float | None = None, poll_now: bool = False) -> Operation: ...

    @overload
    async def wait(self, operation: A, *, timeout: float | None = None, poll_now: bool = False) -> A: ...

    @overload
    async def wait(self, operation: OperationRef | str, *, timeout: float | None = None, poll_now: bool = False) -> Operation: ...

    async def wait(self, operation: Any, *, timeout: float | None = None, poll_now: bool = False) -> Any:
        """Return the operation once it is done.

        For an `OutcomeUnknown` the operation is first looked for by the key of its request: in the store, in what deliveries
        bring, and by listing the operations of the request's owner, at once and then at growing intervals. It is what was asked
        for only if its whole content is.

        Args:
            operation: As the client returned it, or its ref, or a bare uid, or the `OutcomeUnknown` that the call which was to
                make it raised. One in a terminal state is kept in the store and concluded at once; one that was `recovered` is
                asked about like with `poll_now`.
            timeout: Seconds to wait at most, 0 or more; None waits for as long as it takes. A store that hangs gets 2 s more to
                answer a last look.
            poll_now: Ask the vendor instead of waiting for the first poll, as soon as the budget allows: for resuming after a
                restart.

        Returns:
            The operation in its terminal state, of the same type as given.

        Raises:
            OperationFailed: the chain said failed.
            OperationMismatch: it settled as another operation than was asked for.
            CompletionTimeout: the time is over; also a `TimeoutError`. Its `ref` is None if no operation was found by the key.
            NotFound: the vendor knows no such operation, and has said so for a while.
            CompletionsClosed: this object is closed.
            CompletionsFailed: its background work kept dying.
            StoreError: the store could not be asked.
            TypeError: the timeout is no number, or `poll_now` neither True nor False.
            ValueError: the uid cannot be one, the operation belongs to another scope, the timeout is negative or not finite, or
                what the `OutcomeUnknown` was raised for has no key that it could be found by.
            RuntimeError: this object is not started, or another event loop runs.
        """
        request = request_of(operation, self._client.scope) if isinstance(operation, OutcomeUnknown) else None
        asked = request or (None if isinstance(operation, str | OperationRef) else operation)
        check_wait(timeout)
        check_flag(poll_now, "poll_now")
        self._check_running()
        deadline = math.inf if timeout is None else loop_time() + timeout
        if request is not None:
            operation, poll_now = await self._find(request, timeout, deadline), True
        ref = self._client.ref_of(operation)
        if not isinstance(operation, str | OperationRef):
            if operation.status.terminal:
                settled = await self._settlement.told(operation, deadline)
                return self._client.conclude(asked, operation if settled is None else settled.operation)
            poll_now = poll_now or operation.recovered
        waiter = Waiter(asyncio.get_running_loop().create_future(), deadline, self._poller, ref=ref)
        ending = await self._wait(waiter, poll_now=poll_now)
        if ending is None:
            self._settlement.timeouts += 1
            raise time_is_over(ref, timeout or 0.0, waiter.last_seen, waiter.last_error, request)
        if isinstance(ending, Exception):
            raise ending
        return self._client.conclude(asked, ending.operation)

    async def find(self, unknown: OutcomeUnknown, *, timeout: float | None = None) -> OperationRef:
        """Return which operation a call has led to that ended without an answer, as soon as it is found; it may be pending.

        `wait` does this first and then waits. Use this to keep the uid before waiting.

        Args:
            unknown: The error of the call that was to make it.
            timeout: Seconds to look for it at most, 0 or more; None looks for as long as it takes.

        Raises:
            CompletionTimeout: nothing was found in time; also a `TimeoutError`.
            CompletionsClosed, CompletionsFailed, StoreError, TypeError, ValueError, RuntimeError: as `wait`.
        """
        request = request_of(unknown, self._client.scope)
        check_wait(timeout)
        self._check_running()
        deadline = math.inf if timeout is None else loop_time() + timeout
        found = await self._find(request, timeout, deadline)
        if not isinstance(found, OperationRef) and found.status.terminal:
            await self._settlement.told(found, loop_time())
        return self._client.ref_of(found)

    @overload
    def as_completed(
        self, operations: Iterable[A] | AsyncIterable[A], *, timeout: float | None = None, poll_now: bool = False
    ) -> CompletionStream[A]: ...

    @overload
    def as_completed(
        self,
        operations: Iterable[Operation | OperationRef | str] | AsyncIterable[Operation | OperationRef | str],
        *,
        timeout: float | None = None,
        poll_now: bool = False,
    ) -> CompletionStream[Operation]: ...

    def as_completed(
        self, operations: Iterable[Any] | AsyncIterable[Any], *, timeout: float | None = None, poll_now: bool = False
    ) -> CompletionStream[Any]:
        """Return a stream that yields each operation as it ends: done, failed or timed out; none of these raises.

        Args:
            operations: Operations, refs or bare uids, taken in as they come; one given twice while it is pending counts once, and
                is compared with all that was asked for.
            timeout: Seconds from when an operation is taken in, 0 or more; None waits for as long as it takes.
            poll_now: Ask the vendor about each as soon as the budget allows, behind what events and deadlines make urgent.

        Raises:
            CompletionsClosed: this object is closed.
            CompletionsFailed: its background work kept dying.
            TypeError: `operations` is no iterable or one str, the timeout is no number, or `poll_now` neither True nor False.
            ValueError: the timeout is negative or not finite.
            RuntimeError: this object is not started, or another event loop runs.
        """
        self._check_running()
        return CompletionStream(self._settlement, operations, self._streams, self._check, timeout=timeout, poll_now=poll_now)

    async def start(self) -> None:
        """Begin to listen and to poll; idempotent.

        Raises:
            CompletionsClosed: this object is closed.
            RuntimeError: it was started in another event loop.
            StoreError: the store cannot be listened to.
        """
        self._check()
        if self._tasks:
            return
        self._loop = asyncio.get_running_loop()
        for subscriber in self._subscribers:
            await self._store.subscribe(subscriber)
        self._check()
        if not self._tasks:
            work: dict[str, Callable[[], Awaitable[None]]] = {
                "the poller": self._poller.run,
                "the search by keys": self._key_waiters.run,
                "the search for missed outcomes": self._settlement.catch_up,
            }
            self._tasks = [asyncio.create_task(self._keep(name, run), name=name) for name, run in work.items()]

    async def aclose(self) -> None:
        """Stop; idempotent. Every wait ends at once with `CompletionsClosed`."""
        for subscriber in self._subscribers:
            self._store.unsubscribe(subscriber)
        self._end_all(
            CompletionsClosed("Completions was closed by aclose() while it was waited on; the operation may still settle")
        )
        if not self._closing:
            self._closing = True
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*(task for task in self._tasks if not task.done()), return_exceptions=True)
        for stream in list(self._streams):
            await stream.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def _check(self) -> None:
        """Raise what ended every wait, if it has."""
        if self._over is not None:
            raise copy.copy(self._over)
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("Completions was started in another event loop; make one in each loop")

    def _check_running(self) -> None:
        self._check()
        if not self._tasks:
            raise RuntimeError("Completions is not started; use it inside `async with`")

    async def _wait(self, waiter: Waiter, *, poll_now: bool) -> Ending | None:
        """Return how an operation ended, None if it has not in time."""
        self._check()  # it may have been closed while the operation was looked for
        ref, settlement = waiter.ref, self._settlement
        settlement.table.add(ref.kind, ref.uid, waiter)
        waiter.arm()
        self._callers.add(waiter)
        ending: Ending | None = None
        try:
            await waiter.meanwhile(self._register(ref, poll_now=poll_now))
            ending = await waiter.future
            if ending is None:
                ending = await settlement.last_look(ref)
            elif isinstance(ending, Settled):
                settlement.took(ending)
            return ending
        finally:
            self._callers.discard(waiter)
            waiter.disarm()
            settlement.table.remove(ref.kind, ref.uid, waiter)
            if not isinstance(ending, Settled):
                settlement.unwatch((ref,))

    async def _register(self, ref: OperationRef, *, poll_now: bool) -> None:
        """Watch an operation, and see that the vendor is asked if it is to be."""
        known = await self._settlement.watch((ref,))
        if poll_now and not known:
            await self._store.hurry_polls((ref,), Priority.WISH)

    async def _find(self, request: KeyedRequest, timeout: float | None, deadline: float) -> Operation | OperationRef:
        """Return the operation that a request has led to, or its ref if its outcome is in the store."""
        keys, loop = self._key_waiters, asyncio.get_running_loop()
        waiter = KeyWaiter(loop.create_future(), deadline, self._poller, request=request, waiters=keys)
        waiter.arm()
        keys.add(waiter)
        self._callers.add(waiter)
        try:
            found: Operation | OperationRef | None = await waiter.meanwhile(keys.find(request))
            if found is None:
                ending = await waiter.future
                if isinstance(ending, Exception):
                    raise ending
                found = waiter.found or await keys.last_look(request) or waiter.found
        finally:
            self._callers.discard(waiter)
            waiter.disarm()
            keys.remove(waiter)
        if found is None:
            self._settlement.timeouts += 1
            raise nothing_found(request, timeout or 0.0, waiter.last_error, answered=waiter.answered)
        return found

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await keep_running(run, name=name, policy=self._restart_policy, died=self._count_restart)
        except Exception as cause:  # noqa: BLE001 - told to everyone who waits
            self._end_all(
                CompletionsFailed(
                    f"{name} died {self._restart_policy.deaths} times in a row, last of {type(cause).__name__}. Operations may "
                    "settle all the same: make a new Completions and wait again.",
                    cause=cause,
                )
            )

    def _count_restart(self, _: Exception) -> None:
        self._restarts += 1

    def _end_all(self, error: Exception) -> None:
        """End every wait with a copy of this error, or of the one that ended them before, and let none begin."""
        self._over = self._over or error
        for stream in list(self._streams):
            stream.fail(copy.copy(self._over))
        for waiter in list(self._callers):
            waiter.wake(copy.copy(self._over))
