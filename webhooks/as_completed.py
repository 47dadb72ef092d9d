"""Wait for many operations at once, with dictionary entries instead of a task and a future for each."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from attrs import frozen

from rewards_core.clock import loop_time
from rewards_core.errors import OutcomeUnknown, VendorError
from rewards_core.operations import Operation, OperationRef
from rewards_core.validation import check_flag, check_wait, kind_of
from webhooks.errors import CompletionsClosed, timed_out
from webhooks.polling import DEADLINE_LEAD
from webhooks.store.records import Priority
from webhooks.supervise import is_cancelled
from webhooks.waiters import SettledOutcome

if TYPE_CHECKING:
    from types import TracebackType

    from webhooks.settlement import Settlement
    from webhooks.store.records import Via
    from webhooks.waiters import Ending

A = TypeVar("A", bound=Operation)

Operations = Iterable[Any] | AsyncIterable[Any]

_Requested = Operation | tuple[Operation, ...]
_Ended = tuple[str, str, "Ending | None", _Requested | None]
"""Kind, uid, how it ended (None: timeout), and what was requested."""

_SLICE = 1_000
_EARLY = 0.02

_UNKNOWN = (
    "operations: give an OutcomeUnknown to wait(), or the ref that find() returns for it. It and the operations after it were "
    "not added."
)


@frozen(kw_only=True)
class Completion(Generic[A]):
    """How the wait for one operation ended.

    Attributes:
        ref: The operation.
        operation: Its terminal state, None if it reached none in time.
        error: What `wait` would have raised; None if the operation is done and matches the request.
        via: How the outcome was learned, `"webhook"` or `"poll"`; None if there is none.
    """

    ref: OperationRef
    operation: A | None
    error: Exception | None
    via: Via | None


class CompletionStream(Generic[A]):
    """An async iterator over a `Completion` for each operation, in the order in which they end.

    Returned by `Completions.as_completed`. Use it inside `async with`, or close it with `aclose()`.

    Iterating raises `TypeError` or `ValueError` for what is no operation, ref or uid of the client, whatever the iterable itself
    raises, `StoreError`, `CompletionsClosed` and `CompletionsFailed`: after the completions so far, and without adding later
    operations. Those that were added stay pending in the store, so give them again.
    """

    def __init__(
        self,
        settlement: Settlement,
        operations: Operations,
        open_streams: set[CompletionStream[Any]],
        check: Callable[[], None],
        *,
        timeout: float | None,
        poll_now: bool,
    ) -> None:
        if isinstance(operations, str) or not isinstance(operations, Iterable | AsyncIterable):
            raise TypeError(f"operations: give a list of operations, refs or uids, not a single {kind_of(operations)}.")
        check_wait(timeout)
        check_flag(poll_now, "poll_now")
        self._settlement = settlement
        self._open_streams = open_streams
        self._check = check
        self._operations = operations
        self._timeout = timeout
        self._poll_now = poll_now
        self._waiting: dict[str, dict[str, float]] = {}
        self._near_deadline: dict[str, dict[str, float]] = {}
        self._requested: dict[tuple[str, str], _Requested] = {}
        self._ended: deque[_Ended] = deque()
        self._changed = asyncio.Event()
        self._intake: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """The number of operations that were registered and have not ended."""
        return sum(len(uids) for kinds in (self._waiting, self._near_deadline) for uids in kinds.values())

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        self._start()
        return self

    async def __anext__(self) -> Completion[A]:
        while True:
            if self._ended:
                kind, uid, ending, asked = self._ended.popleft()
                if ending is None:
                    try:
                        ending = await self._final_lookup(kind, uid)
                    except asyncio.CancelledError:
                        self._ended.appendleft((kind, uid, None, asked))
                        raise
                return self._completion(kind, uid, ending, asked)
            if self._failure is not None:
                raise self._failure
            if self._closed or (self._intake is not None and self._intake.done() and not self.pending):
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Stop waiting; idempotent."""
        self._closed = True
        self._stop()
        leaving = self._abandon_all()
        try:
            if self._intake is not None:
                await asyncio.gather(self._intake, return_exceptions=True)
            for _ in leaving:
                await asyncio.sleep(0)
        finally:  # also if this is cancelled
            for _ in leaving:
                pass
            self._requested.clear()
            self._ended.clear()
            self._changed.set()
            self._open_streams.discard(self)

    def fail(self, error: Exception) -> None:
        """Stop registering operations, and raise this error after the completions so far."""
        self._stop()
        self._failure = self._failure or error
        self._changed.set()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._intake is not None:
            self._intake.cancel()

    def _abandon_all(self) -> Iterator[None]:
        """Stop waiting for all operations, in slices."""
        for kinds in (self._waiting, self._near_deadline):
            for kind, uids in kinds.items():
                while uids:
                    self._stop_waiting(kind, [uids.popitem()[0] for _ in range(min(len(uids), _SLICE))])
                    yield

    def _stop_waiting(self, kind: str, uids: Sequence[str]) -> None:
        """Stop waiting for operations that have not ended."""
        for uid in uids:
            self._settlement.table.remove(kind, uid, self)
        self._settlement.unwatch([OperationRef(self._settlement.client.scope, kind, uid) for uid in uids])

    # as a waiter

    def end(self, kind: str, uid: str, ending: Ending, /) -> None:
        """Keep the ending until the caller iterates to it."""
        for kinds in (self._waiting, self._near_deadline):
            if uid in kinds.get(kind, ()):
                del kinds[kind][uid]
                self._keep(kind, uid, ending)
                if not isinstance(ending, SettledOutcome):
                    self._stop_waiting(kind, [uid])

    def note_poll(self, _seen: Operation | None, _error: Exception | None, /) -> None:
        """Keep nothing, which would cost as much memory as the operation itself."""

    def _keep(self, kind: str, uid: str, ending: Ending | None) -> None:
        self._ended.append((kind, uid, ending, self._requested.pop((kind, uid), None)))
        self._changed.set()

    # registering

    def _start(self) -> None:
        if self._closed:
            raise CompletionsClosed("This stream of completions was closed by aclose(), so nothing was added. Make a new one.")
        if self._intake is None:
            self._check()
            self._open_streams.add(self)
            self._intake = asyncio.get_running_loop().create_task(self._register_all(), name="intake of as_completed")

    async def _register_all(self) -> None:
        try:
            if isinstance(self._operations, AsyncIterable):
                await self._register_async(self._operations)
            else:
                iterator = iter(self._operations)
                while some := list(islice(iterator, _SLICE)):
                    await self._register(some)
                    await asyncio.sleep(0)
        except asyncio.CancelledError as problem:
            if is_cancelled():
                raise
            self._failure = RuntimeError("The iterable of operations raised CancelledError. Its later operations were not added.")
            self._failure.__cause__ = problem
        except Exception as problem:  # noqa: BLE001 - raised by `__anext__`
            self._failure = self._failure or problem
        finally:
            self._operations = ()
            self._changed.set()

    async def _register_async(self, operations: AsyncIterable[Any]) -> None:
        """Register operations in batches: those ready at the same time, and those that arrive while the store is busy."""
        buffer: list[Any] = []
        ready, room = asyncio.Event(), asyncio.Event()
        reading = asyncio.get_running_loop().create_task(_read_ahead(operations, buffer, ready, room))
        reading.add_done_callback(lambda _: ready.set())
        try:
            while buffer or not reading.done():
                await ready.wait()
                ready.clear()
                some = buffer.copy()
                buffer.clear()
                room.set()
                await self._register(some)
                await asyncio.sleep(0)
            await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _register(self, operations: Sequence[Any]) -> None:
        settlement = self._settlement
        deadline = math.inf if self._timeout is None else loop_time() + self._timeout
        new: list[OperationRef] = []
        refs: list[OperationRef] = []
        urgent: list[OperationRef] = []
        ended: list[Operation] = []
        wrong: Exception | None = None
        for operation in operations:
            try:
                ref = settlement.client.ref_of(operation)
            except Exception as problem:  # noqa: BLE001 - raised once the operations before it are registered
                wrong = TypeError(_UNKNOWN) if isinstance(operation, OutcomeUnknown) else problem
                break
            terminal = False
            if not isinstance(operation, str | OperationRef):
                key = ref.kind, ref.uid
                self._requested[key] = _merge_requested(self._requested.get(key), operation)
                terminal = operation.status.terminal
                if terminal:
                    ended.append(operation)
                elif operation.recovered and not self._poll_now:
                    urgent.append(ref)
            uids = self._waiting.get(ref.kind)
            if uids is None:
                uids = self._waiting[ref.kind] = {}
                self._near_deadline[ref.kind] = {}
            if ref.uid in uids or ref.uid in self._near_deadline[ref.kind]:
                continue
            uids[ref.uid] = deadline
            new.append(ref)
            if not terminal:
                refs.append(ref)
        if self._timer is None and deadline != math.inf and operations:  # before the store is called, as it may hang
            self._timer = asyncio.get_running_loop().call_at(max(deadline - DEADLINE_LEAD, loop_time()), self._tick)
        await _yield_to_loop(new)
        for ref in filter(self._is_waiting, new):
            settlement.table.add(ref.kind, ref.uid, self)
        await _yield_to_loop(new)
        if refs:
            await settlement.watch(refs)
        await asyncio.gather(*(settlement.record_known(operation, math.inf) for operation in ended))
        urgent = [ref for ref in (refs if self._poll_now else urgent) if self._is_waiting(ref)]
        if urgent:
            await settlement.store.hurry_polls(urgent, Priority.WISH)
        if wrong is not None:
            raise wrong

    def _is_waiting(self, ref: OperationRef) -> bool:
        return ref.uid in self._waiting[ref.kind] or ref.uid in self._near_deadline[ref.kind]

    # deadlines

    def _tick(self) -> None:
        """End the waits that time out, request a poll for those near their deadline, and schedule the next tick."""
        now, poller, scope = loop_time(), self._settlement.poller, self._settlement.client.scope
        next_at = math.inf
        for kind, uids in self._waiting.items():
            soon = self._near_deadline[kind]
            for uid in _due_by(uids, now + DEADLINE_LEAD):
                soon[uid] = uids.pop(uid)
                if soon[uid] > now and poller.may_hurry():
                    poller.hurry(OperationRef(scope, kind, uid), Priority.DEADLINE)
            over = _due_by(soon, now + _EARLY)
            for uid in over:
                del soon[uid]
                self._keep(kind, uid, None)
            self._stop_waiting(kind, over)
            later = _first_deadline(uids) - DEADLINE_LEAD
            next_at = min(next_at, _first_deadline(soon), later if later <= now else max(later, now + _EARLY))
        self._timer = None if next_at == math.inf else asyncio.get_running_loop().call_at(next_at, self._tick)

    # yielding

    async def _final_lookup(self, kind: str, uid: str) -> Ending | None:
        """Return an outcome that was stored in time, but whose hint was lost."""
        ref = OperationRef(self._settlement.client.scope, kind, uid)
        try:
            return await self._settlement.final_lookup(ref)
        except Exception as problem:  # noqa: BLE001 - it is part of the timeout error
            return timed_out(ref, self._timeout or 0.0, None, problem)

    def _completion(self, kind: str, uid: str, ending: Ending | None, asked: _Requested | None) -> Completion[A]:
        ref = OperationRef(self._settlement.client.scope, kind, uid)
        if ending is None:
            self._settlement.timeouts += 1
            timeout = self._timeout or 0.0
            return Completion(ref=ref, operation=None, error=timed_out(ref, timeout, None, None), via=None)
        if isinstance(ending, Exception):
            return Completion(ref=ref, operation=None, error=ending, via=None)
        self._settlement.record_wake(ending)
        final, error = ending.operation, None
        try:
            for request in asked if isinstance(asked, tuple) else (asked,):
                final = self._settlement.client.conclude(request, final)
        except VendorError as problem:
            error = problem
        return Completion(ref=ref, operation=cast("A", final), error=error, via=ending.via)


def _due_by(deadlines: dict[str, float], moment: float) -> list[str]:
    """Return at most a slice of the uids whose deadline has passed at a moment; they are in the order of their deadlines."""
    return [uid for uid, _ in takewhile(lambda item: item[1] <= moment, islice(deadlines.items(), _SLICE))]


def _first_deadline(deadlines: dict[str, float]) -> float:
    return next(iter(deadlines.values()), math.inf)


def _merge_requested(known: _Requested | None, operation: Operation) -> _Requested:
    """Add to what was requested under one uid. Two calls with one nonce return the same uid, though their requests may differ."""
    if known is None or known == operation:
        return operation
    requests = known if isinstance(known, tuple) else (known,)
    return known if operation in requests else (*requests, operation)


async def _yield_to_loop(new: Sequence[OperationRef]) -> None:
    """Yield to the event loop after many new entries, as several dictionaries that grow in one pass would block it for long."""
    if len(new) >= _SLICE // 2:
        await asyncio.sleep(0)


async def _read_ahead(operations: AsyncIterable[Any], buffer: list[Any], ready: asyncio.Event, room: asyncio.Event) -> None:
    """Read operations, at most a slice ahead of those that are registered."""
    iterator = aiter(operations)
    try:
        async for operation in iterator:
            buffer.append(operation)
            ready.set()
            if len(buffer) == _SLICE:
                room.clear()
                await room.wait()
    finally:
        if isinstance(iterator, AsyncGenerator):
            await iterator.aclose()  # here, not when it is garbage collected
