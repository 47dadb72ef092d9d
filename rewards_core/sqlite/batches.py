"""A thread that runs calls in batches: all calls that wait at one time together."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from rewards_core.batches import Batches, Call

T = TypeVar("T")

logger = logging.getLogger(__name__)


class BatchThread(Batches):
    """Run calls in one thread, in batches.

    Args:
        name: The thread's name.
        work: Runs a batch in the thread, sets `result` or `error` of each call, and returns the notifications.
        notify: As for `Batches`; it also gets the notifications of `tick`.
        end: Runs in the thread when it ends.
        tick: Runs in the thread about every `tick_every` seconds, between batches, from the start on.
        tick_every: Seconds, above 0.
        quiet_passes: As for `Batches`.
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
    ) -> None:
        super().__init__(notify=notify, quiet_passes=quiet_passes)
        self._name = name
        self._work = work
        self._end = end
        self._tick = tick
        self._tick_every = tick_every
        self._queue: SimpleQueue[list[Call[Any]]] = SimpleQueue()
        self._ending: asyncio.Future[None] | None = None

    async def aclose(self) -> None:
        """Run the queued calls and end the thread; submit nothing afterwards."""
        if self.home is not None and self._ending is None:
            self._ending = self.submit(Call[None](_end))
        if self._ending is not None:
            await asyncio.shield(self._ending)

    def _run_batch(self, batch: list[Call[Any]]) -> None:
        self._queue.put(batch)

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.home is None:
            threading.Thread(target=self._main, name=self._name, daemon=True).start()
        super()._move_to(loop)

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
        loop = batch[0].future.get_loop() if batch else self.home
        if loop is not self.home:
            self._call_in(self.home, [], notifications)
            notifications = []
        self._call_in(loop, batch, notifications)

    def _call_in(self, loop: asyncio.AbstractEventLoop | None, batch: list[Call[Any]], notifications: list[Any]) -> None:
        if loop is None or not (batch or notifications):
            return
        try:
            loop.call_soon_threadsafe(self._deliver, loop, batch, notifications)
        except RuntimeError:  # the loop ended before the store was closed, and its callers with it
            logger.debug("an event loop ended before its store was closed")


def _end() -> None:
    """Mark the last call of the thread."""
