"""A thread that runs what it is given, everything that waits at one time together."""

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
    """Work for the thread, and the future of its result.

    Args:
        run: What to run.
        item: If given, `run` takes the items of many calls at once and returns as many results.
    """

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
        work: Runs a batch in the thread, filling in `result` or `error` of each call; returns what the loop is to be told before
            the callers are.
        tell: Is called with what `work` or `tick` returned, if that is not empty, in the loop that called first.
        end: Runs in the thread when it ends.
        tick: Runs in the thread about every `tick_every` seconds, between batches, from the start on.
        tick_every: Seconds, above 0.
        quiet_passes: Passes of the loop in which no call is added that a batch waits for before it is handed over. Under load
            some passes bring those that are just being answered: one batch where there were two costs a third less. With nothing
            else to do a pass takes microseconds.
        gather: Seconds after a batch during which calls that may wait are gathered, 0 or more.

    Attributes:
        enough: Calls that may wait are handed over early once this many of them wait.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Call[Any]]], list[Any]],
        *,
        tell: Callable[[list[Any]], None],
        end: Callable[[], None],
        tick: Callable[[], list[Any]] | None = None,
        tick_every: float = 1.0,
        quiet_passes: int = 0,
        gather: float = 0.0,
    ) -> None:
        self.enough = 1
        self._name = name
        self._work = work
        self._tell = tell
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
        self._busy = False
        self._scheduled = False
        self._seen = self._passes = self._quiet = 0
        self._ending: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin in the running loop, if no loop that is still open has begun."""
        loop = asyncio.get_running_loop()
        if loop is not self._home and (self._home is None or self._home.is_closed()):
            self._move_to(loop)

    def submit(self, call: Call[T], *, may_wait: bool = False) -> asyncio.Future[T]:
        """Hand a call over; the future is resolved in its loop.

        Calls of one pass of the loop, and all that come while a batch is being run, go together; those of a second loop go alone.

        Args:
            call: What to run.
            may_wait: Whether the call may wait for others until `gather` seconds after the last batch.
        """
        self.start()
        if call.future.get_loop() is self._home:
            self._waiting.append(call)
            self._urgent = self._urgent or not may_wait
            self._schedule()
        else:
            self._queue.put([call])
        return call.future

    async def aclose(self) -> None:
        """Run what was handed over, and end; nothing may be handed over afterwards."""
        if self._home is not None and self._ending is None:
            self._ending = self.submit(Call[None](_end))
        if self._ending is not None:
            await asyncio.shield(self._ending)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin in this loop, or go on in it after another one has ended with all its callers."""
        if self._home is None:
            threading.Thread(target=self._main, name=self._name, daemon=True).start()
        self._home = loop
        self._waiting = []
        self._busy = self._scheduled = False
        self._timer = None

    def _schedule(self) -> None:
        loop = self._home
        if loop is None or self._busy or self._scheduled:
            return
        if not self._urgent and len(self._waiting) < self.enough and loop.time() < self._gather_until:
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
        self._queue.put(batch)

    def _may_grow(self) -> bool:
        """Return whether to let one more pass of the loop go by."""
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
            news = self._run([call for call in batch if call.run is not _end])
            if self._tick is not None and not last and time.monotonic() >= next_tick:
                next_tick = time.monotonic() + self._tick_every
                news = news + self._guarded(self._tick, [])
            if last:
                self._guarded(self._end, None)
            self._answer(batch, news)

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
        """Do what nobody waits for; a fault in it must not end the thread."""
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

    def _answer(self, batch: list[Call[Any]], news: list[Any]) -> None:
        loop = batch[0].future.get_loop() if batch else self._home
        if loop is not self._home:
            self._call_in(self._home, [], news)
            news = []
        self._call_in(loop, batch, news)

    def _call_in(self, loop: asyncio.AbstractEventLoop | None, batch: list[Call[Any]], news: list[Any]) -> None:
        if loop is None or not (batch or news):
            return
        try:
            loop.call_soon_threadsafe(self._deliver, loop, batch, news)
        except RuntimeError:  # the loop ended before the store was closed: nobody is left in it to answer
            logger.debug("a loop ended before the store it used was closed")

    def _deliver(self, loop: asyncio.AbstractEventLoop, batch: list[Call[Any]], news: list[Any]) -> None:
        if batch and loop is self._home:
            self._busy = False
            self._gather_until = loop.time() + self._gather
            if self._waiting:
                self._schedule()
        try:
            if news:
                self._tell(news)
        finally:
            for call in batch:
                if call.future.done():
                    continue
                if call.error is None:
                    call.future.set_result(call.result)
                else:
                    call.future.set_exception(call.error)


def _end() -> None:
    """Stand for the end of the thread."""
