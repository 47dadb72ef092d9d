"""Many operations waited for at once: no task and no future for each, only entries in dictionaries."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from attrs import frozen

from rewards_core.clock import loop_time
from rewards_core.errors import VendorError
from rewards_core.operations import Operation, OperationRef
from rewards_core.validation import check_flag, check_wait, kind_of
from webhooks.errors import CompletionsClosed, time_is_over
from webhooks.polling import BOOST
from webhooks.store.records import Priority
from webhooks.supervise import is_cancelled
from webhooks.waiters import Settled

if TYPE_CHECKING:
    from types import TracebackType

    from webhooks.settlement import Settlement
    from webhooks.store.records import Via
    from webhooks.waiters import Ending

A = TypeVar("A", bound=Operation)

Operations = Iterable[Any] | AsyncIterable[Any]

_Asked = Operation | tuple[Operation, ...]
_Ended = tuple[str, str, "Ending | None", _Asked | None]
"""Kind, uid, how it ended (None: its time is over), and what was asked for."""

_SLICE = 1_000
_EARLY = 0.02


@frozen(kw_only=True)
class Completion(Generic[A]):
    """How one operation ended for the caller that waited.

    Attributes:
        ref: The operation.
        operation: Its terminal state; None if it did not come to one in time.
        error: None if it is done and is what was asked for. Otherwise what `wait` would have raised.
        via: How the outcome was learned, None if there is none.
    """

    ref: OperationRef
    operation: A | None
    error: Exception | None
    via: Via | None


class CompletionStream(Generic[A]):
    """Yield a `Completion` for each operation, in the order in which they end.

    Made by `Completions.as_completed`. Use it inside `async with`, or close it with `aclose()`.
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
            one = kind_of(operations)
            raise TypeError(f"operations: give an iterable of operations, refs or uids, not one {one}; put it in a list.")
        check_wait(timeout)
        check_flag(poll_now, "poll_now")
        self._settlement = settlement
        self._open_streams = open_streams
        self._check = check
        self._operations = operations
        self._timeout = timeout
        self._poll_now = poll_now
        self._mine: dict[str, dict[str, float]] = {}
        self._soon: dict[str, dict[str, float]] = {}
        self._asked: dict[tuple[str, str], _Asked] = {}
        self._ended: deque[_Ended] = deque()
        self._news = asyncio.Event()
        self._intake: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Exception | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """How many operations were taken in and have not ended."""
        return sum(len(uids) for kinds in (self._mine, self._soon) for uids in kinds.values())

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
                        ending = await self._last_look(kind, uid)
                    except asyncio.CancelledError:
                        self._ended.appendleft((kind, uid, None, asked))
                        raise
                return self._completion(kind, uid, ending, asked)
            if self._failure is not None:
                raise self._failure
            if self._closed or (self._intake is not None and self._intake.done() and not self.pending):
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()

    async def aclose(self) -> None:
        """Stop waiting; idempotent."""
        self._closed = True
        self._stop()
        leaving = self._leave()
        try:
            if self._intake is not None:
                await asyncio.gather(self._intake, return_exceptions=True)
            for _ in leaving:
                await asyncio.sleep(0)
        finally:  # nothing is left behind where this is cancelled
            for _ in leaving:
                pass
            self._asked.clear()
            self._ended.clear()
            self._news.set()
            self._open_streams.discard(self)

    def fail(self, error: Exception) -> None:
        """Take no more in, and raise this from now on, once what has ended was yielded."""
        self._stop()
        self._failure = self._failure or error
        self._news.set()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._intake is not None:
            self._intake.cancel()

    def _leave(self) -> Iterator[None]:
        """Stop waiting for all operations, some at a time."""
        for kinds in (self._mine, self._soon):
            for kind, uids in kinds.items():
                while uids:
                    self._drop(kind, [uids.popitem()[0] for _ in range(min(len(uids), _SLICE))])
                    yield

    def _drop(self, kind: str, uids: Sequence[str]) -> None:
        """Stop waiting for operations that have not ended."""
        for uid in uids:
            self._settlement.table.remove(kind, uid, self)
        self._settlement.unwatch([OperationRef(self._settlement.client.scope, kind, uid) for uid in uids])

    # as a waiter

    def end(self, kind: str, uid: str, ending: Ending, /) -> None:
        """Keep how an operation ended until it is asked for."""
        for kinds in (self._mine, self._soon):
            if uid in kinds.get(kind, ()):
                del kinds[kind][uid]
                self._keep(kind, uid, ending)
                if not isinstance(ending, Settled):
                    self._drop(kind, [uid])

    def note(self, _seen: Operation | None, _error: Exception | None, /) -> None:
        """Keep nothing: it would cost as much as the operation itself."""

    def _keep(self, kind: str, uid: str, ending: Ending | None) -> None:
        self._ended.append((kind, uid, ending, self._asked.pop((kind, uid), None)))
        self._news.set()

    # taking in

    def _start(self) -> None:
        if self._closed:
            raise CompletionsClosed("This stream of completions was closed by aclose(), so nothing was added. Make a new one.")
        if self._intake is None:
            self._check()
            self._open_streams.add(self)
            self._intake = asyncio.get_running_loop().create_task(self._take_in(), name="intake of as_completed")

    async def _take_in(self) -> None:
        try:
            if isinstance(self._operations, AsyncIterable):
                await self._take_in_as_they_come(self._operations)
            else:
                coming = iter(self._operations)
                while some := list(islice(coming, _SLICE)):
                    await self._register(some)
                    await asyncio.sleep(0)
        except asyncio.CancelledError as problem:
            if is_cancelled():
                raise
            self._failure = RuntimeError("expected operations to their end, but what gives them was cancelled from inside")
            self._failure.__cause__ = problem
        except Exception as problem:  # noqa: BLE001 - it is raised where the completions are asked for
            self._failure = self._failure or problem
        finally:
            self._operations = ()
            self._news.set()

    async def _take_in_as_they_come(self, operations: AsyncIterable[Any]) -> None:
        """Register together what is ready together, and what comes while the store is at work."""
        gathered: list[Any] = []
        ready, room = asyncio.Event(), asyncio.Event()
        gathering = asyncio.get_running_loop().create_task(_gather(operations, gathered, ready, room))
        gathering.add_done_callback(lambda _: ready.set())
        try:
            while gathered or not gathering.done():
                await ready.wait()
                ready.clear()
                some = gathered.copy()
                gathered.clear()
                room.set()
                await self._register(some)
                await asyncio.sleep(0)
            await gathering
        finally:
            gathering.cancel()
            await asyncio.gather(gathering, return_exceptions=True)

    async def _register(self, operations: Sequence[Any]) -> None:
        settlement = self._settlement
        deadline = math.inf if self._timeout is None else loop_time() + self._timeout
        new: list[OperationRef] = []
        refs: list[OperationRef] = []
        urgent: list[OperationRef] = []
        ended: list[Operation] = []
        for operation in operations:
            ref = settlement.client.ref_of(operation)
            terminal = False
            if not isinstance(operation, str | OperationRef):
                key = ref.kind, ref.uid
                self._asked[key] = _and(self._asked.get(key), operation)
                terminal = operation.status.terminal
                if terminal:
                    ended.append(operation)
                elif operation.recovered and not self._poll_now:
                    urgent.append(ref)
            uids = self._mine.get(ref.kind)
            if uids is None:
                uids = self._mine[ref.kind] = {}
                self._soon[ref.kind] = {}
            if ref.uid in uids or ref.uid in self._soon[ref.kind]:
                continue
            uids[ref.uid] = deadline
            new.append(ref)
            if not terminal:
                refs.append(ref)
        if self._timer is None and deadline != math.inf and operations:  # before the store is asked: it may hang
            self._timer = asyncio.get_running_loop().call_at(max(deadline - BOOST, loop_time()), self._tick)
        await _let_others_run(new)
        for ref in filter(self._awaits, new):
            settlement.table.add(ref.kind, ref.uid, self)
        await _let_others_run(new)
        if refs:
            await settlement.watch(refs)
        await asyncio.gather(*(settlement.told(operation, math.inf) for operation in ended))
        urgent = [ref for ref in (refs if self._poll_now else urgent) if self._awaits(ref)]
        if urgent:
            await settlement.store.hurry_polls(urgent, Priority.WISH)

    def _awaits(self, ref: OperationRef) -> bool:
        return ref.uid in self._mine[ref.kind] or ref.uid in self._soon[ref.kind]

    # time

    def _tick(self) -> None:
        """End what is over, hurry what is nearly over, and come back when there is more of either."""
        now, poller, scope = loop_time(), self._settlement.poller, self._settlement.client.scope
        next_at = math.inf
        for kind, uids in self._mine.items():
            soon = self._soon[kind]
            for uid in _until(uids, now + BOOST):
                soon[uid] = uids.pop(uid)
                if soon[uid] > now and poller.may_hurry():
                    poller.hurry(OperationRef(scope, kind, uid), Priority.DEADLINE)
            over = _until(soon, now + _EARLY)
            for uid in over:
                del soon[uid]
                self._keep(kind, uid, None)
            self._drop(kind, over)
            later = _first(uids) - BOOST
            next_at = min(next_at, _first(soon), later if later <= now else max(later, now + _EARLY))
        self._timer = None if next_at == math.inf else asyncio.get_running_loop().call_at(next_at, self._tick)

    # giving out

    async def _last_look(self, kind: str, uid: str) -> Ending | None:
        """Return an outcome that was kept without a hint before the time was over."""
        ref = OperationRef(self._settlement.client.scope, kind, uid)
        try:
            return await self._settlement.last_look(ref)
        except Exception as problem:  # noqa: BLE001 - told with the timeout
            return time_is_over(ref, self._timeout or 0.0, None, problem)

    def _completion(self, kind: str, uid: str, ending: Ending | None, asked: _Asked | None) -> Completion[A]:
        ref = OperationRef(self._settlement.client.scope, kind, uid)
        if ending is None:
            self._settlement.timeouts += 1
            timeout = self._timeout or 0.0
            return Completion(ref=ref, operation=None, error=time_is_over(ref, timeout, None, None), via=None)
        if isinstance(ending, Exception):
            return Completion(ref=ref, operation=None, error=ending, via=None)
        self._settlement.took(ending)
        final, error = ending.operation, None
        try:
            for one in asked if isinstance(asked, tuple) else (asked,):
                final = self._settlement.client.conclude(one, final)
        except VendorError as problem:
            error = problem
        return Completion(ref=ref, operation=cast("A", final), error=error, via=ending.via)


def _until(deadlines: dict[str, float], moment: float) -> list[str]:
    """Return those whose deadline is no later than a moment, some at a time; they are in the order of their deadlines."""
    return [uid for uid, _ in takewhile(lambda one: one[1] <= moment, islice(deadlines.items(), _SLICE))]


def _first(deadlines: dict[str, float]) -> float:
    return next(iter(deadlines.values()), math.inf)


def _and(known: _Asked | None, operation: Operation) -> _Asked:
    """Return all that was asked for under one uid: a vendor that replays a nonce gives it twice, and hides what differs."""
    if known is None or known == operation:
        return operation
    several = known if isinstance(known, tuple) else (known,)
    return known if operation in several else (*several, operation)


async def _let_others_run(new: Sequence[OperationRef]) -> None:
    """Let a pass of the loop end after many entries: dictionaries that grow together would stop it for longer than each alone."""
    if len(new) >= _SLICE // 2:
        await asyncio.sleep(0)


async def _gather(operations: AsyncIterable[Any], gathered: list[Any], ready: asyncio.Event, room: asyncio.Event) -> None:
    """Iterate over operations, not more than a slice ahead of those that were taken."""
    coming = aiter(operations)
    try:
        async for operation in coming:
            gathered.append(operation)
            ready.set()
            if len(gathered) == _SLICE:
                room.clear()
                await room.wait()
    finally:
        if isinstance(coming, AsyncGenerator):
            await coming.aclose()  # now and here, not when it is collected
