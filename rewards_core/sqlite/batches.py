"""A thread that runs calls in batches: all calls that wait at one time together."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_BATCH = 1_000
_ENOUGH = 128
_MAX_PASSES = 32


class Call(Generic[T]):
    """A function for the thread, and the future of its result; with an `item`, `run` takes the items of many calls at once."""

    __slots__ = ("error", "future", "item", "result", "run")

    def __init__(self, run: Callable[..., Any], item: object = None) -> None:
        self.run = run
        self.item = item
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.result: T | None = None
        self.error: Exception | None = None


class BatchThread:
    """Run calls in one thread, in batches, and answer each batch with one wake-up of the loop.

    Args:
        name: The thread's name.
        work: Runs a batch in the thread, sets `result` or `error` of each call, and returns the notifications.
        notify: Called with the notifications of `work` and `tick`, if any, in the loop of the first call, before the callers
            resume.
        end: Runs in the thread when it ends.
        tick: Runs in the thread about every `tick_every` seconds, between batches, from the start on.
        tick_every: Seconds, above 0.
        quiet_passes: Passes of the loop without a new call that a batch waits for. Under load, some passes bring the callers that
            were just answered: one batch instead of two costs a third less. Without other work a pass takes microseconds.
        gather: Seconds after a batch during which calls with `may_wait` are collected, 0 or more.

    Attributes:
        enough: The size of all waiting calls together at which they are handed over early.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Call[Any]]], list[Any]],
        *,
        notify: Callable[[list[Any]], None],
        end: Callable[[], None],
        tick: Callable[[], list[Any]] | None = None,
        tick_every: float = 1.0,
        quiet_passes: int = 0,
        gather: float = 0.0,
    ) -> None:
        self.enough = 1
        self._name = name
        self._work = work
        self._notify = notify
        self._end = end
        self._tick = tick
        self._tick_every = tick_every
        self._quiet_passes = quiet_passes
        self._gather = gather
        self._gather_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._urgent = False
        self._queue: SimpleQueue[list[Call[Any]]] = SimpleQueue()
        self._home: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Call[Any]] = []
        self._size = 0
        self._busy = False
        self._scheduled = False
        self._seen = self._passes = self._quiet = 0
        self._ending: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Start in the running loop, unless another open loop has started the thread."""
        loop = asyncio.get_running_loop()
        if loop is not self._home and (self._home is None or self._home.is_closed()):
            self._move_to(loop)

    def submit(self, call: Call[T], *, may_wait: bool = False, size: int = 1) -> asyncio.Future[T]:
        """Queue a call and return its future.

        Calls of one pass of the loop, and those that arrive while a batch runs, go together; those of a second loop go alone.

        Args:
            call: The call.
            may_wait: Whether it may wait for others until `gather` seconds after the last batch.
            size: How much of `enough` it is.
        """
        self.start()
        if call.future.get_loop() is self._home:
            self._waiting.append(call)
            self._size += size
            self._urgent = self._urgent or not may_wait
            self._schedule()
        else:
            self._queue.put([call])
        return call.future

    async def aclose(self) -> None:
        """Run the queued calls and end the thread; submit nothing afterwards."""
        if self._home is not None and self._ending is None:
            self._ending = self.submit(Call[None](_end))
        if self._ending is not None:
            await asyncio.shield(self._ending)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start in this loop, also after another one ended with all its callers."""
        if self._home is None:
            threading.Thread(target=self._main, name=self._name, daemon=True).start()
        self._home = loop
        self._waiting = []
        self._size = 0
        self._busy = self._scheduled = False
        self._timer = None

    def _schedule(self) -> None:
        loop = self._home
        if loop is None or self._busy or self._scheduled:
            return
        if not self._urgent and self._size < self.enough and loop.time() < self._gather_until:
            self._timer = self._timer or loop.call_at(self._gather_until, self._stop_gathering)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._scheduled = True
        self._seen = self._passes = self._quiet = 0
        loop.call_soon(self._hand_over, loop)

    def _stop_gathering(self) -> None:
        self._timer = None
        self._urgent = True
        self._schedule()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._may_grow():
            loop.call_soon(self._hand_over, loop)
            return
        self._scheduled = False
        self._busy = True
        batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
        self._urgent = bool(self._waiting)
        self._size = 0
        self._queue.put(batch)

    def _may_grow(self) -> bool:
        """Return whether to wait one more pass of the loop for further calls."""
        count = len(self._waiting)
        self._passes += 1
        self._quiet = self._quiet + 1 if count == self._seen else 0
        self._seen = count
        return self._quiet < self._quiet_passes and count < _ENOUGH and self._passes < _MAX_PASSES

    def _main(self) -> None:
        last = False
        next_tick = time.monotonic() + self._tick_every
        while not last:
            batch = self._next_batch(next_tick)
            last = any(call.run is _end for call in batch)
            notifications = self._run([call for call in batch if call.run is not _end])
            if self._tick is not None and not last and time.monotonic() >= next_tick:
                next_tick = time.monotonic() + self._tick_every
                notifications = notifications + self._guarded(self._tick, [])
            if last:
                self._guarded(self._end, None)
            self._answer(batch, notifications)

    def _run(self, work: list[Call[Any]]) -> list[Any]:
        if not work:
            return []
        try:
            return self._work(work)
        except Exception as problem:  # noqa: BLE001 - each caller of the batch gets it
            for call in work:
                call.error = problem
            return []

    def _guarded(self, do: Callable[[], T], otherwise: T) -> T:
        """Run `do`; an error must not end the thread."""
        try:
            return do()
        except Exception:
            logger.exception("the %s thread failed between two batches", self._name)
            return otherwise

    def _next_batch(self, next_tick: float) -> list[Call[Any]]:
        if self._tick is None:
            return self._queue.get()
        try:
            return self._queue.get(timeout=max(0.0, next_tick - time.monotonic()))
        except Empty:
            return []

    def _answer(self, batch: list[Call[Any]], notifications: list[Any]) -> None:
        loop = batch[0].future.get_loop() if batch else self._home
        if loop is not self._home:
            self._call_in(self._home, [], notifications)
            notifications = []
        self._call_in(loop, batch, notifications)

    def _call_in(self, loop: asyncio.AbstractEventLoop | None, batch: list[Call[Any]], notifications: list[Any]) -> None:
        if loop is None or not (batch or notifications):
            return
        try:
            loop.call_soon_threadsafe(self._deliver, loop, batch, notifications)
        except RuntimeError:  # the loop ended before the store was closed, and its callers with it
            logger.debug("an event loop ended before its store was closed")

    def _deliver(self, loop: asyncio.AbstractEventLoop, batch: list[Call[Any]], notifications: list[Any]) -> None:
        if batch and loop is self._home:
            self._busy = False
            self._gather_until = loop.time() + self._gather
            if self._waiting:
                self._schedule()
        try:
            if notifications:
                self._notify(notifications)
        finally:
            for call in batch:
                if call.future.done():
                    continue
                if call.error is None:
                    call.future.set_result(call.result)
                else:
                    call.future.set_exception(call.error)


def _end() -> None:
    """Mark the last call of the thread."""
