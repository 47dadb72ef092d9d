"""Many operations waited for at once: no task and no future for each, only an entry in a dictionary."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from attrs import frozen

from rewards_core.clock import loop_time
from rewards_core.errors import VendorError
from rewards_core.operations import Operation, OperationRef
from rewards_core.validation import check_flag, check_wait, kind_of
from webhooks.errors import CompletionsClosed, time_is_over
from webhooks.poller import BOOST
from webhooks.polling import AT_ONCE
from webhooks.supervise import is_cancelled

if TYPE_CHECKING:
    from types import TracebackType

    from webhooks.hub import Hub
    from webhooks.store.base import Via
    from webhooks.watchers import Ending

A = TypeVar("A", bound=Operation)

Operations = Iterable[Any] | AsyncIterable[Any]

_Asked = Operation | tuple[Operation, ...]
_Ended = tuple[str, str, "Ending | None", _Asked | None]
"""Kind, uid, how it ended (None: its time is over), and what was asked for."""

_SLICE = 1_000
_EARLY = 0.02


@frozen(kw_only=True)
class Completion(Generic[A]):
    """How one operation ended for one who waited.

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

    def __init__(self, hub: Hub, operations: Operations, *, timeout: float | None, poll_now: bool) -> None:
        if isinstance(operations, str) or not isinstance(operations, Iterable | AsyncIterable):
            one = kind_of(operations)
            raise TypeError(f"operations: give an iterable of operations, refs or uids, not one {one}; put it in a list.")
        check_wait(timeout)
        check_flag(poll_now, "poll_now")
        self._hub = hub
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
        return sum(len(shelf) for shelves in (self._mine, self._soon) for shelf in shelves.values())

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
        """Wait for nothing any more; idempotent."""
        self._closed = True
        self._stop()
        leaving = self._leave()
        try:
            if self._intake is not None:
                await asyncio.gather(self._intake, return_exceptions=True)
            for place, _ in enumerate(leaving, start=1):
                if place % _SLICE == 0:
                    await asyncio.sleep(0)
        finally:  # whoever cancels this leaves nothing behind either
            for _ in leaving:
                pass
            self._asked.clear()
            self._ended.clear()
            self._news.set()
            self._hub.streams.discard(self)

    def fail(self, error: Exception) -> None:
        """Take nothing in any more, and raise this from now on, once what has ended was yielded."""
        self._stop()
        self._failure = self._failure or error
        self._news.set()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._intake is not None:
            self._intake.cancel()

    def _leave(self) -> Iterator[None]:
        for shelves in (self._mine, self._soon):
            for kind, shelf in shelves.items():
                while shelf:
                    uid, _ = shelf.popitem()
                    self._hub.unwatch(kind, uid, self)
                    yield

    # as a watcher

    def end(self, kind: str, uid: str, ending: Ending, /) -> None:
        """Keep how an operation ended until it is asked for."""
        for shelves in (self._mine, self._soon):
            if uid in shelves.get(kind, ()):
                del shelves[kind][uid]
                self._keep(kind, uid, ending)

    def note(self, _seen: Operation | None, _error: Exception | None, /) -> None:
        """Keep nothing: it would cost as much as the operation itself."""

    def _keep(self, kind: str, uid: str, ending: Ending | None) -> None:
        self._ended.append((kind, uid, ending, self._asked.pop((kind, uid), None)))
        self._news.set()

    # taking in

    def _start(self) -> None:
        if self._closed:
            raise CompletionsClosed("expected an open stream of completions, got one after aclose(); make a new one")
        if self._intake is None:
            self._hub.check()
            self._hub.streams.add(self)
            self._intake = asyncio.get_running_loop().create_task(self._take_in(), name="intake of as_completed")

    async def _take_in(self) -> None:
        try:
            if isinstance(self._operations, AsyncIterable):
                await self._take_in_one_by_one(self._operations)
            else:
                some: list[Any] = []
                for operation in self._operations:
                    some.append(operation)
                    if len(some) == _SLICE:
                        await self._register(some)
                        await asyncio.sleep(0)
                        some.clear()
                await self._register(some)
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

    async def _take_in_one_by_one(self, operations: AsyncIterable[Any]) -> None:
        coming = aiter(operations)
        try:
            place = 0
            async for operation in coming:
                await self._register((operation,))
                place += 1
                if place % _SLICE == 0:  # neither what gives them nor the store has to wait for anything
                    await asyncio.sleep(0)
        finally:
            if isinstance(coming, AsyncGenerator):
                await coming.aclose()  # now and here, not when it is collected

    async def _register(self, operations: Sequence[Any]) -> None:
        hub, asked = self._hub, self._asked
        deadline = math.inf if self._timeout is None else loop_time() + self._timeout
        due = hub.poller.first_due()
        refs: list[OperationRef] = []
        recovered: list[OperationRef] = []
        ended: list[Operation] = []
        for operation in operations:
            ref = hub.client.ref_of(operation)
            if not isinstance(operation, str | OperationRef):
                key = ref.kind, ref.uid
                asked[key] = _and(asked.get(key), operation)
                if operation.status.terminal:
                    ended.append(operation)
                elif operation.recovered:
                    recovered.append(ref)
            shelf = self._mine.get(ref.kind)
            if shelf is None:
                shelf = self._mine[ref.kind] = {}
                self._soon[ref.kind] = {}
            if ref.uid in shelf or ref.uid in self._soon[ref.kind]:
                continue
            shelf[ref.uid] = deadline
            hub.watch(ref.kind, ref.uid, self, due)
            refs.append(ref)
        if not refs and not ended:
            return
        if self._timer is None and deadline != math.inf:  # before the store is asked: it may hang
            self._timer = asyncio.get_running_loop().call_at(max(deadline - BOOST, loop_time()), self._tick)
        await hub.register(refs)
        await asyncio.gather(*map(hub.brought, ended))
        for ref in refs if self._poll_now else recovered:
            if self._awaits(ref):
                hub.poller.wish(ref.kind, ref.uid)
        for outcome in await hub.store.outcomes(refs):
            ref = outcome.ref
            if self._awaits(ref):
                settled = hub.usable(outcome)
                if settled is None:
                    hub.poller.hurry(ref.kind, ref.uid, AT_ONCE)
                else:
                    hub.unwatch(ref.kind, ref.uid, self)
                    self.end(ref.kind, ref.uid, settled)

    def _awaits(self, ref: OperationRef) -> bool:
        return ref.uid in self._mine[ref.kind] or ref.uid in self._soon[ref.kind]

    # time

    def _tick(self) -> None:
        """End what is over, hurry what is nearly over, and come back when there is more of either."""
        now = loop_time()
        next_at = math.inf
        for kind, shelf in self._mine.items():
            soon = self._soon[kind]
            for uid in _until(shelf, now + BOOST):
                soon[uid] = shelf.pop(uid)
                if soon[uid] > now:
                    self._hub.poller.hurry_before_deadline(kind, uid)
            for uid in _until(soon, now + _EARLY):
                self._hub.unwatch(kind, uid, self)
                del soon[uid]
                self._keep(kind, uid, None)
            later = _first(shelf) - BOOST
            next_at = min(next_at, _first(soon), later if later <= now else max(later, now + _EARLY))
        self._timer = None if next_at == math.inf else asyncio.get_running_loop().call_at(next_at, self._tick)

    # giving out

    async def _last_look(self, kind: str, uid: str) -> Ending | None:
        """Return an outcome that was kept without a hint before the time was over."""
        ref = OperationRef(self._hub.client.scope, kind, uid)
        try:
            return await self._hub.last_look(ref)
        except Exception as problem:  # noqa: BLE001 - told with the timeout
            return time_is_over(ref, self._timeout or 0.0, None, problem)

    def _completion(self, kind: str, uid: str, ending: Ending | None, asked: _Asked | None) -> Completion[A]:
        ref = OperationRef(self._hub.client.scope, kind, uid)
        if ending is None:
            self._hub.timeouts += 1
            timeout = self._timeout or 0.0
            return Completion(ref=ref, operation=None, error=time_is_over(ref, timeout, None, None), via=None)
        if isinstance(ending, Exception):
            return Completion(ref=ref, operation=None, error=ending, via=None)
        self._hub.took(ending)
        final, error = ending.operation, None
        try:
            for one in asked if isinstance(asked, tuple) else (asked,):
                final = self._hub.client.conclude(one, final)
        except VendorError as problem:
            error = problem
        return Completion(ref=ref, operation=cast("A", final), error=error, via=ending.via)


def _until(shelf: dict[str, float], moment: float) -> list[str]:
    """Return those whose deadline is no later than a moment, some at a time; a shelf is in the order of deadlines."""
    return [uid for uid, _ in takewhile(lambda one: one[1] <= moment, islice(shelf.items(), _SLICE))]


def _first(shelf: dict[str, float]) -> float:
    return next(iter(shelf.values()), math.inf)


def _and(known: _Asked | None, operation: Operation) -> _Asked:
    """Return all that was asked for under one uid: a vendor that replays a nonce gives it twice, and hides what differs."""
    if known is None or known == operation:
        return operation
    several = known if isinstance(known, tuple) else (known,)
    return known if operation in several else (*several, operation)
