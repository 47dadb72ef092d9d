"""Wait for operations: the outcome is stored first, those who wait hear of it second."""

from __future__ import annotations

import asyncio
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
from webhooks.errors import CompletionsClosed, CompletionsFailed, nothing_found, time_is_over
from webhooks.hub import LAST_LOOK, Hub
from webhooks.lookups import KeyWaiter, look_up_of, request_of
from webhooks.poller import BOOST
from webhooks.polling import AT_ONCE, PollPolicy
from webhooks.store.base import A_STORE, Store
from webhooks.streams import CompletionStream
from webhooks.supervise import RestartPolicy, keep_running
from webhooks.watchers import Ending, Settled, Waiter

if TYPE_CHECKING:
    from types import TracebackType

    from webhooks.store.base import Via

A = TypeVar("A", bound=Operation)


@frozen(kw_only=True)
class CompletionStatistics:
    """What was waited for since the start.

    Attributes:
        waiting: Callers inside `wait`.
        pending: Operations that are waited for or kept polled.
        settled_by_webhook: Of those, how many a delivery has settled.
        settled_by_poll: Of those, how many a poll has settled.
        timeouts: Waits that ran out of time.
        conflicts: Polls whose answer differs from the outcome that stands.
        polls: How often the vendor was asked.
        poll_errors: How often it did not answer.
        polls_pause_for: Seconds for which polls pause, because the vendor refused them or asked for patience.
        restarts: How often background work died and was started again.
        delays: For each way to learn an outcome, the latest seconds from then to the caller that waited for it.
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
        store: Where deliveries are kept: the receiver's, or the same one opened read-only.
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
        self._hub = Hub(client, store, policy, trusting=trusting, clock=clock, random=check_callable(random, "random"))
        self._policy = setting(restarts, "restarts", RestartPolicy)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._waiting = self._restarts = 0

    @property
    def statistics(self) -> CompletionStatistics:
        """What was waited for since the start."""
        hub = self._hub
        return CompletionStatistics(
            waiting=self._waiting,
            pending=len(hub.watchers),
            settled_by_webhook=hub.settlements["webhook"],
            settled_by_poll=hub.settlements["poll"],
            timeouts=hub.timeouts,
            conflicts=hub.conflicts,
            polls=hub.poller.polls,
            poll_errors=hub.poller.errors,
            polls_pause_for=0.0 if hub.loop is None or self._closing else max(0.0, hub.poller.paused_until - hub.loop.time()),
            restarts=self._restarts,
            delays={via: tuple(delays) for via, delays in hub.delays.items()},
        )

    def pending(self) -> Iterator[OperationRef]:
        """Iterate over the operations that are waited for or kept polled."""
        return (OperationRef(self._client.scope, kind, uid) for kind, uid in self._hub.watchers)

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
                about = f"how {ref} ended, which its caller knows"
                settled = await self._hub.in_time(self._hub.brought(operation), deadline + LAST_LOOK, about)
                return self._client.conclude(asked, operation if settled is None else settled.operation)
            poll_now = poll_now or operation.recovered
        ending: Ending | None = None
        begun = await self._begin(ref, deadline, poll_now=poll_now)
        if isinstance(begun, Waiter):
            try:
                ending = await begun.future
                self._hub.took(ending)
                if ending is None:
                    ending = await self._hub.last_look(ref)
            finally:
                self._leave(begun)
        else:
            ending = begun or await self._hub.last_look(ref)
        if ending is None:
            self._hub.timeouts += 1
            seen, error = (begun.last_seen, begun.last_error) if isinstance(begun, Waiter) else (None, None)
            raise time_is_over(ref, timeout or 0.0, seen, error, request)
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
            await self._hub.in_time(self._hub.brought(found), loop_time() + LAST_LOOK, f"how {found.ref} ended")
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
        return CompletionStream(self._hub, operations, timeout=timeout, poll_now=poll_now)

    async def adopt_pending(self) -> int:
        """Poll every operation that the store knows as pending, whether anybody waits or not; return how many are new here."""
        self._check_running()
        return await self._hub.adopt()

    async def start(self) -> None:
        """Begin to listen and to poll; idempotent."""
        self._hub.check()
        if not self._tasks:
            self._hub.loop = asyncio.get_running_loop()
            self._store.subscribe(self._hub)
            work = {"the poller": self._hub.poller.run}
            if not self._store.read_only:
                work["the asker of what events leave open"] = self._hub.ask_questions
            self._tasks = [asyncio.create_task(self._keep(name, run), name=name) for name, run in work.items()]

    async def aclose(self) -> None:
        """Stop; idempotent. Those who wait get `CompletionsClosed`."""
        hub = self._hub
        self._store.unsubscribe(hub)
        hub.over = hub.over or CompletionsClosed(
            "Completions was closed by aclose() while it was waited on; the operation may still settle"
        )
        if not self._closing:
            self._closing = True
            for task in self._tasks:
                task.cancel()
        try:
            await asyncio.gather(*(task for task in self._tasks if not task.done()), return_exceptions=True)
        finally:  # whoever cancels this leaves nobody behind who waits
            hub.end_all(hub.over)
        for stream in list(hub.streams):
            await stream.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def _check_running(self) -> None:
        self._hub.check()
        if not self._tasks:
            raise RuntimeError("Completions is not started; use it inside `async with`")

    async def _find(self, request: KeyedRequest, timeout: float | None, deadline: float) -> Operation | OperationRef:
        """Return the operation that a request has led to, or its ref if its outcome is in the store."""
        hub, loop = self._hub, asyncio.get_running_loop()
        waiter = KeyWaiter(loop.create_future(), look_up_of(request), deadline, hub.poller, request=request)
        self._set_timer(waiter)
        hub.seek(waiter)
        self._waiting += 1
        try:
            found: Operation | OperationRef | None = await hub.in_time(hub.find(request), deadline)
            if found is None:
                ending = await waiter.future
                if isinstance(ending, Exception):
                    raise ending
                found = waiter.found
            if found is None:
                found = await hub.in_time(hub.find(request), loop_time() + LAST_LOOK, f"about the key {request.key!r}")
                found = found or waiter.found
        finally:
            self._waiting -= 1
            waiter.disarm()
            hub.abandon(waiter)
        if found is None:
            hub.timeouts += 1
            raise nothing_found(request, timeout or 0.0, waiter.last_error, answered=waiter.answered)
        return found

    async def _begin(self, ref: OperationRef, deadline: float, *, poll_now: bool) -> Settled | Waiter | None:
        """Return the outcome if it is known, else who waits for it; None if the time is over before the store has answered."""
        waiter: Waiter | None = None
        limit = asyncio.timeout_at(None if deadline == math.inf else deadline)
        try:
            async with limit:
                settled = await self._hub.look_up(ref)
                if settled is not None:
                    return settled
                waiter = self._enter(ref, deadline)
                settled = await self._look_again(waiter, poll_now=poll_now)
        except BaseException as problem:
            if isinstance(problem, TimeoutError) and limit.expired():
                return waiter
            if waiter is not None:
                self._leave(waiter)
            raise
        if settled is None:
            return waiter
        self._leave(waiter)
        return settled

    def _enter(self, ref: OperationRef, deadline: float) -> Waiter:
        hub, loop = self._hub, asyncio.get_running_loop()
        hub.check()
        waiter = Waiter(loop.create_future(), ref, deadline, hub.poller)
        hub.watch(ref.kind, ref.uid, waiter, hub.poller.first_due())
        self._waiting += 1
        self._set_timer(waiter)
        return waiter

    def _set_timer(self, waiter: Waiter) -> None:
        if waiter.deadline != math.inf:
            waiter.timer = asyncio.get_running_loop().call_at(waiter.deadline - BOOST, waiter)

    async def _look_again(self, waiter: Waiter, *, poll_now: bool) -> Settled | None:
        """Look up once more, now that no news can be missed any more, and see that the vendor is asked if it is to be."""
        hub, ref = self._hub, waiter.ref
        await hub.register((ref,))
        outcome = await self._store.outcome(ref)
        settled = None if outcome is None else hub.usable(outcome)
        if settled is None and hub.watchers.has(ref.kind, ref.uid):
            if outcome is not None:
                hub.poller.hurry(ref.kind, ref.uid, AT_ONCE)
            elif poll_now:
                hub.poller.wish(ref.kind, ref.uid)
        return settled

    def _leave(self, waiter: Waiter) -> None:
        self._waiting -= 1
        waiter.disarm()
        self._hub.unwatch(waiter.ref.kind, waiter.ref.uid, waiter)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await keep_running(run, name=name, policy=self._policy, died=self._count_restart)
        except Exception as cause:  # noqa: BLE001 - told to everyone who waits
            self._hub.end_all(
                CompletionsFailed(
                    f"{name} died {self._policy.deaths} times in a row, last of {type(cause).__name__}. Operations may settle "
                    "all the same: make a new Completions and wait again.",
                    cause=cause,
                )
            )

    def _count_restart(self, _: Exception) -> None:
        self._restarts += 1
