"""Wait for operations. An outcome is stored before its waiters get it."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from attrs import field, frozen

from rewards_core.clock import loop_time
from rewards_core.errors import OutcomeUnknown, StoreClosed
from rewards_core.operations import KeyedRequest, Operation, OperationReader, OperationRef
from rewards_core.validation import check_callable, check_flag, check_instance, check_methods, check_wait, setting
from webhooks.as_completed import CompletionStream
from webhooks.errors import CompletionsClosed, not_found_by_key, tasks_ended, timed_out
from webhooks.key_search import KeySearch, KeyWaiter, request_of
from webhooks.polling import PollPolicy
from webhooks.settlement import Settlement
from webhooks.spans import links_of, note_operation, note_settled, wait_span
from webhooks.store.base import Store
from webhooks.store.records import Priority
from webhooks.supervise import RestartPolicy, keep_running
from webhooks.waiters import Ending, OperationWaiter, SettledOutcome, TimedWaiter

if TYPE_CHECKING:
    from types import TracebackType

    from webhooks.store.records import Via

logger = logging.getLogger(__name__)

A = TypeVar("A", bound=Operation)


@frozen(kw_only=True)
class CompletionStatistics:
    """Counters since the start.

    Attributes:
        waiting: Callers inside `wait` and `find`.
        pending: Operations that have a waiter.
        settled_by_webhook: Waits that a delivery has settled.
        settled_by_poll: Waits that a poll has settled.
        timeouts: Waits that timed out.
        conflicts: Polls whose answer differs from the stored outcome.
        polls: Requests to the vendor.
        poll_errors: Requests without an answer.
        polls_pause_for: Seconds until polling resumes, if the vendor refused this process or asked for a pause.
        restarts: Restarts of a background task that crashed.
        delays: The latest delays between an outcome and its waiter, in seconds, by how the outcome was learned.
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
    """Wait until accepted operations are done: by webhook within moments, or by polling where no webhook arrives.

    Use it inside `async with`. It closes neither the client nor the store.

    Args:
        client: The vendor's client, which reads operations.
        store: The receiver's store, or another store object on the same file or database.
        polling: When the vendor is polled.
        trust_event_body: Whether a complete resource in a signed event settles an operation without a poll.
        restarts: How crashed background tasks are restarted, and after how many crashes all waits fail.
        clock: Returns Unix time in seconds.
        random: Returns a number from 0 to 1.

    Raises:
        TypeError: an argument has the wrong type.
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
        self._store = check_methods(store, "store", "a MemoryStore, a SQLiteStore, another Store or open_store(url)", Store)
        self._links = links_of(store)
        policy = setting(polling, "polling", PollPolicy)
        trust_event_body = check_flag(trust_event_body, "trust_event_body")
        check_callable(clock, "clock")
        check_callable(random, "random")
        self._restart_policy = setting(restarts, "restarts", RestartPolicy)
        self._settlement = Settlement(client, store, policy, trust_event_body=trust_event_body, clock=clock, random=random)
        self._poller = self._settlement.poller
        self._key_search = KeySearch(client, store, self._poller, policy, random=random)
        self._subscribers = (self._settlement, self._key_search)
        self._streams: set[CompletionStream[Any]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: Exception | None = None
        self._callers: set[TimedWaiter] = set()
        self._closing = False
        self._restarts = 0

    @property
    def statistics(self) -> CompletionStatistics:
        """Counters since the start."""
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
        """Iterate over the operations that have a waiter."""
        return (OperationRef(self._client.scope, kind, uid) for kind, uid in self._settlement.table)

    @overload
    async def wait(self, operation: OutcomeUnknown, *, timeout: float | None = None, poll_now: bool = False) -> Operation: ...

    @overload
    async def wait(self, operation: A, *, timeout: float | None = None, poll_now: bool = False) -> A: ...

    @overload
    async def wait(self, operation: OperationRef | str, *, timeout: float | None = None, poll_now: bool = False) -> Operation: ...

    async def wait(self, operation: Any, *, timeout: float | None = None, poll_now: bool = False) -> Any:
        """Return the operation once it is done.

        For an `OutcomeUnknown` the operation is first found by the idempotency key of its request: in the store, in deliveries,
        and by listing the operations of the request's owner, at once and then at growing intervals. An operation matches only if
        its whole content does.

        Args:
            operation: As the client returned it, or its ref, or its uid, or the `OutcomeUnknown` that the call raised. One in a
                terminal state is stored and returned at once; one that was `recovered` is polled as with `poll_now`.
            timeout: Maximum seconds to wait, 0 or more; None waits without a limit. A store that hangs gets 2 s more for a last
                lookup.
            poll_now: Poll the vendor as soon as the budget allows, instead of after `PollPolicy.first_after`: for resuming after
                a restart.

        Returns:
            The operation in its terminal state, of the same type as given.

        Raises:
            OperationFailed: the operation failed on the blockchain.
            OperationCancelled: it was cancelled and will never be done.
            OperationMismatch: it settled with other content than was requested.
            CompletionTimeout: it did not settle in time; also a `TimeoutError`. `ref` is None if no operation was found by the
                key.
            NotFound: the vendor does not know the operation and has repeated that for a minute.
            CompletionsClosed: this object is closed.
            CompletionsFailed: its background tasks kept crashing.
            StoreError: the store failed.
            TypeError: `operation` is none of those, the timeout is not a number, or `poll_now` not a bool.
            ValueError: the uid is malformed, the operation belongs to another scope, the timeout is negative or not finite, or
                the request of the `OutcomeUnknown` has no idempotency key.
            RuntimeError: this object is not started, or was started in another event loop.
        """
        request = request_of(operation, self._client.scope) if isinstance(operation, OutcomeUnknown) else None
        asked = request or (None if isinstance(operation, str | OperationRef) else operation)
        check_wait(timeout)
        check_flag(poll_now, "poll_now")
        self._check_running()
        deadline = math.inf if timeout is None else loop_time() + timeout
        with wait_span() as span:
            if request is not None:
                operation, poll_now = await self._find(request, timeout, deadline), True
            ref = self._client.ref_of(operation)
            note_operation(span, ref)
            if not isinstance(operation, str | OperationRef):
                if operation.status.terminal:
                    settled = await self._settlement.record_known(operation, deadline)
                    return self._client.conclude(asked, operation if settled is None else settled.operation)
                poll_now = poll_now or operation.recovered
            waiter = OperationWaiter(asyncio.get_running_loop().create_future(), deadline, self._poller, ref=ref)
            ending = await self._wait(waiter, poll_now=poll_now)
            if ending is None:
                self._settlement.timeouts += 1
                raise timed_out(ref, timeout or 0.0, waiter.last_seen, waiter.last_error, request)
            if isinstance(ending, Exception):
                raise ending
            note_settled(span, ref, ending.via, self._links)
            return self._client.conclude(asked, ending.operation)

    async def find(self, unknown: OutcomeUnknown, *, timeout: float | None = None) -> OperationRef:
        """Return the operation of a call that ended without an answer, as soon as it is found; it may still be pending.

        `wait` does this first and then waits. Use this to save the uid before waiting.

        Args:
            unknown: The error that the call raised.
            timeout: Maximum seconds to search, 0 or more; None searches without a limit.

        Raises:
            CompletionTimeout: nothing was found in time; also a `TimeoutError`.
            TypeError: `unknown` is no `OutcomeUnknown`, or the timeout is not a number.
            CompletionsClosed, CompletionsFailed, StoreError, ValueError, RuntimeError: as `wait`.
        """
        request = request_of(check_instance(unknown, "unknown", OutcomeUnknown), self._client.scope)
        check_wait(timeout)
        self._check_running()
        deadline = math.inf if timeout is None else loop_time() + timeout
        found = await self._find(request, timeout, deadline)
        if not isinstance(found, OperationRef) and found.status.terminal:
            await self._settlement.record_known(found, loop_time())
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
        """Return a stream that yields each operation as it ends: done, failed or timed out, without raising.

        Args:
            operations: Operations, refs or uids; `find` returns the ref of an `OutcomeUnknown`. Each counts once while it is
                pending, and is compared with every request that was given for it.
            timeout: Seconds from the moment at which an operation is read from the iterable, 0 or more; None waits without a
                limit.
            poll_now: Poll each as soon as the budget allows, after urgent polls.

        Raises:
            CompletionsClosed: this object is closed.
            CompletionsFailed: its background tasks kept crashing.
            TypeError: `operations` is not an iterable or is a str, the timeout is not a number, or `poll_now` not a bool.
            ValueError: the timeout is negative or not finite.
            RuntimeError: this object is not started, or was started in another event loop.
        """
        self._check_running()
        return CompletionStream(self._settlement, operations, self._streams, self._check, timeout=timeout, poll_now=poll_now)

    async def start(self) -> None:
        """Subscribe to the store and start polling; idempotent.

        Raises:
            CompletionsClosed: this object is closed.
            RuntimeError: it was started in another event loop.
            StoreError: the store failed.
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
                "the search by key": self._key_search.run,
                "the lookup of missed outcomes": self._settlement.catch_up,
            }
            self._tasks = [asyncio.create_task(self._keep(name, run), name=name) for name, run in work.items()]

    async def aclose(self) -> None:
        """Stop; idempotent. All waits end at once with `CompletionsClosed`."""
        for subscriber in self._subscribers:
            self._store.unsubscribe(subscriber)
        self._end_all(
            CompletionsClosed("Completions was closed by aclose(), so this wait ended. The operation may still settle.")
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
        """Raise the error that ended all waits, if there is one."""
        if self._over is not None:
            raise copy.copy(self._over)
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError("This Completions was started in another event loop. Make one in each loop.")

    def _check_running(self) -> None:
        self._check()
        if not self._tasks:
            raise RuntimeError("This Completions is not started. Use it inside `async with`.")

    async def _wait(self, waiter: OperationWaiter, *, poll_now: bool) -> Ending | None:
        """Return how an operation ended, None on timeout."""
        self._check()  # it may have been closed during the search by key
        ref, settlement = waiter.ref, self._settlement
        asked_at = settlement.now()
        settlement.table.add(ref.kind, ref.uid, waiter)
        waiter.start_timer()
        self._callers.add(waiter)
        ending: Ending | None = None
        try:
            await waiter.while_waiting(self._register(ref, poll_now=poll_now))
            ending = await waiter.future
            if ending is None:
                ending = await settlement.final_lookup(ref)
            elif isinstance(ending, SettledOutcome):
                settlement.record_wake(ending, asked_at)
            return ending
        finally:
            self._callers.discard(waiter)
            waiter.stop_timer()
            settlement.table.remove(ref.kind, ref.uid, waiter)
            if not isinstance(ending, SettledOutcome):
                settlement.unwatch((ref,))

    async def _register(self, ref: OperationRef, *, poll_now: bool) -> None:
        """Watch an operation, and request a poll if `poll_now`."""
        known = await self._settlement.watch((ref,))
        if poll_now and not known:
            await self._store.hurry_polls((ref,), Priority.WISH)

    async def _find(self, request: KeyedRequest, timeout: float | None, deadline: float) -> Operation | OperationRef:
        """Return the operation of a request, or its ref if its outcome is in the store."""
        keys, loop = self._key_search, asyncio.get_running_loop()
        waiter = KeyWaiter(loop.create_future(), deadline, self._poller, request=request, waiters=keys)
        waiter.start_timer()
        keys.add(waiter)
        self._callers.add(waiter)
        try:
            found: Operation | OperationRef | None = await waiter.while_waiting(keys.find(request))
            if found is None:
                ending = await waiter.future
                if isinstance(ending, Exception):
                    raise ending
                found = waiter.found or await keys.final_lookup(request) or waiter.found
        finally:
            self._callers.discard(waiter)
            waiter.stop_timer()
            keys.remove(waiter)
        if found is None:
            self._settlement.timeouts += 1
            raise not_found_by_key(request, timeout or 0.0, waiter.last_error, answered=waiter.answered)
        return found

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await keep_running(run, name=name, policy=self._restart_policy, died=self._count_restart)
        except Exception as cause:  # noqa: BLE001 - it ends all waits
            error = tasks_ended(cause, name, self._restart_policy.max_crashes)
            if isinstance(cause, StoreClosed) and self._over is None:
                logger.error("%s", error)  # noqa: TRY400 - once for all tasks, and their tracebacks tell nothing more
            self._end_all(error)

    def _count_restart(self, _: Exception) -> None:
        self._restarts += 1

    def _end_all(self, error: Exception) -> None:
        """End all waits, present and future, with a copy of this error, or of the first such error."""
        self._over = self._over or error
        for stream in list(self._streams):
            stream.fail(copy.copy(self._over))
        for waiter in list(self._callers):
            waiter.wake(copy.copy(self._over))
