"""One batching step: the calls of one pass of the loop, and those that arrive while a batch runs, go together."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_MAX_BATCH = 1_000
_ENOUGH = 128
_MAX_PASSES = 32


class Call(Generic[T]):
    """A function to run, and the future of its result; with an `item`, `run` takes the items of many calls at once."""

    __slots__ = ("error", "future", "item", "result", "run", "size")

    def __init__(self, run: Callable[..., Any], item: object = None) -> None:
        self.run = run
        self.item = item
        self.size = 1
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.result: T | None = None
        self.error: Exception | None = None


class Batches(ABC):
    """Collect calls into batches, few of which run at a time, and answer each batch with one wake-up of the loop.

    Args:
        notify: Called with the notifications of a batch, if any, in the loop of the first call, before the callers resume.
        quiet_passes: Passes of the loop without a new call that a batch waits for. Under load, some passes bring the callers that
            were just answered: one batch instead of two costs a third less. Without other work a pass takes microseconds.
        largest: The size of all calls of one batch together, unless it is a single call; infinite by default.
        at_once: Maximum number of batches that run at a time.

    Attributes:
        home: The loop whose calls it collects; None before the first call.
        running: How many batches run now.
    """

    def __init__(
        self,
        *,
        notify: Callable[[list[Any]], None],
        quiet_passes: int = 0,
        largest: float = math.inf,
        at_once: int = 1,
    ) -> None:
        self._notify = notify
        self._quiet_passes = quiet_passes
        self._largest = largest
        self._at_once = at_once
        self.home: asyncio.AbstractEventLoop | None = None
        self._waiting: list[Call[Any]] = []
        self.running = 0
        self._scheduled = False
        self._seen = self._passes = self._quiet = 0

    @abstractmethod
    def _run_batch(self, batch: list[Call[Any]]) -> None:
        """Run a batch, set `result` or `error` of each call, and call `_deliver` in the loop of the first."""

    def start(self) -> None:
        """Start in the running loop, unless another open loop has started it."""
        loop = asyncio.get_running_loop()
        if loop is not self.home and (self.home is None or self.home.is_closed()):
            self._move_to(loop)

    def submit(self, call: Call[T], *, size: int = 1) -> asyncio.Future[T]:
        """Queue a call and return its future.

        Calls of one pass of the loop, and those that arrive while a batch runs, go together; those of a second loop go alone.

        Args:
            call: The call.
            size: How much of `largest` it is.
        """
        self.start()
        if call.future.get_loop() is self.home:
            call.size = size
            self._waiting.append(call)
            self._schedule()
        else:
            self._run_batch([call])
        return call.future

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start in this loop, also after another one ended with all its callers."""
        self.home = loop
        self._waiting = []
        self.running = 0
        self._scheduled = False

    def _schedule(self) -> None:
        loop = self.home
        if loop is None or self.running == self._at_once or self._scheduled:
            return
        self._scheduled = True
        self._seen = self._passes = self._quiet = 0
        loop.call_soon(self._hand_over, loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._may_grow():
            loop.call_soon(self._hand_over, loop)
            return
        self._scheduled = False
        self.running += 1
        count = self._fitting()
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._run_batch(batch)
        if self._waiting:
            self._schedule()

    def _fitting(self) -> int:
        """Return how many of the waiting calls go into the next batch."""
        size = 0
        for count, call in enumerate(self._waiting[:_MAX_BATCH]):
            size += call.size
            if count and size > self._largest:
                return count
        return _MAX_BATCH

    def _may_grow(self) -> bool:
        """Return whether to wait one more pass of the loop for further calls."""
        count = len(self._waiting)
        self._passes += 1
        self._quiet = self._quiet + 1 if count == self._seen else 0
        self._seen = count
        return self._quiet < self._quiet_passes and count < _ENOUGH and self._passes < _MAX_PASSES

    def _deliver(self, loop: asyncio.AbstractEventLoop, batch: list[Call[Any]], notifications: list[Any]) -> None:
        if batch and loop is self.home:
            self.running -= 1
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
