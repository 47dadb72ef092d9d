"""A thread that runs what it is given, everything that waits at one time together."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 1_000
_ENOUGH = 128
_LONGEST_WAIT = 32


class Call(Generic[T]):
    """One thing to run in the thread, and who waits for it.

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
        tell: Is called in the loop with what `work` or `idle` returned, if that is not empty.
        end: Runs in the thread when it ends.
        idle: Runs in the thread when nothing was asked for `idle_every` seconds, while `watching` is set.
        idle_every: Seconds.
        patience: Passes of the loop in which no call is added that a batch waits for before it is handed over. Under load some
            passes bring those that are just being answered: one batch where there were two costs a third less. With nothing else
            to do a pass takes microseconds.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Call[Any]]], list[Any]],
        *,
        tell: Callable[[list[Any]], None],
        end: Callable[[], None],
        idle: Callable[[], list[Any]] | None = None,
        idle_every: float = 0.02,
        patience: int = 0,
    ) -> None:
        self.watching = False
        self._name = name
        self._work = work
        self._tell = tell
        self._end = end
        self._idle = idle
        self._idle_every = idle_every
        self._patience = patience
        self._queue: SimpleQueue[list[Call[Any]]] = SimpleQueue()
        self._home: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Call[Any]] = []
        self._busy = False
        self._scheduled = False
        self._seen = self._passes = self._quiet_passes = 0

    def submit(self, call: Call[T]) -> asyncio.Future[T]:
        """Hand a call over; the future is resolved in the loop.

        Calls of one pass of the loop, and all that come while a batch is being run, go together.
        """
        loop = call.future.get_loop()
        if loop is not self._home:
            if self._home is not None and not self._home.is_closed():
                self._queue.put([call])
                return call.future
            self._move_to(loop)
        self._waiting.append(call)
        self._schedule()
        return call.future

    async def aclose(self) -> None:
        """Run what was handed over, and end; nothing may be handed over afterwards."""
        if self._home is not None:
            await self.submit(Call(_end))

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin in this loop, or go on in it after another one has ended with all its callers."""
        if self._home is None:
            threading.Thread(target=self._main, name=self._name, daemon=True).start()
        self._home = loop
        self._waiting = []
        self._busy = self._scheduled = False

    def _schedule(self) -> None:
        if self._home is not None and not self._busy and not self._scheduled:
            self._scheduled = True
            self._seen = self._passes = self._quiet_passes = 0
            self._home.call_soon(self._hand_over, self._home)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._may_grow():
            loop.call_soon(self._hand_over, loop)
            return
        self._scheduled = False
        self._busy = True
        batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
        self._queue.put(batch)

    def _may_grow(self) -> bool:
        """Return whether to let one more pass of the loop go by."""
        count = len(self._waiting)
        self._passes += 1
        self._quiet_passes = self._quiet_passes + 1 if count == self._seen else 0
        self._seen = count
        return self._quiet_passes < self._patience and count < _ENOUGH and self._passes < _LONGEST_WAIT

    def _main(self) -> None:
        last = False
        while not last:
            try:
                batch = self._queue.get(timeout=self._idle_every if self.watching else None)
            except Empty:
                batch = []
            last = any(call.run is _end for call in batch)
            work = [call for call in batch if call.run is not _end]
            news: list[Any] = []
            try:
                if work:
                    news = self._work(work)
                elif not batch and self._idle is not None:
                    news = self._idle()
            except Exception as problem:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
                for call in work:
                    call.error = problem
            if last:
                self._end()
            if batch or news:
                self._answer(batch, news)

    def _answer(self, batch: list[Call[Any]], news: list[Any]) -> None:
        loop = batch[0].future.get_loop() if batch else self._home
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver, loop, batch, news)
        except RuntimeError:  # the loop ended before the store was closed: nobody is left in it to answer
            logger.debug("a loop ended before the store it used was closed")

    def _deliver(self, loop: asyncio.AbstractEventLoop, batch: list[Call[Any]], news: list[Any]) -> None:
        if batch and loop is self._home:
            self._busy = False
            if self._waiting:
                self._schedule()
        if news:
            self._tell(news)
        for call in batch:
            if call.future.done():
                continue
            if call.error is None:
                call.future.set_result(call.result)
            else:
                call.future.set_exception(call.error)


def _end() -> None:
    """Stand for the end of the thread."""
