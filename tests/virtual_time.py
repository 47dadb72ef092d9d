"""A loop whose time jumps to the next timer when nothing else can run, and whose order among what can run may be seeded.

No time passes while a thread of a store or a ledger is at work; what else would go to a thread runs at once.
"""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar
from unittest.mock import patch

from rewards_core.batches import Call
from rewards_core.sqlite.batches import BatchThread

T = TypeVar("T")

EPOCH = 1_760_000_000.0


class _Jumps(selectors.DefaultSelector):
    """Instead of waiting for files, let the time pass; wait for threads that are at work."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads: set[BatchThread] = set()
        self.at_work = 0

    @property
    def busy(self) -> bool:
        return bool(self.at_work) or any(thread.running for thread in self.threads)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0 and self.busy:
            return super().select(None)
        if (events := super().select(0)) or timeout == 0:
            return events
        if timeout is None:
            raise RuntimeError("deadlock: nothing can run and no timer is set")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module; without `order` what can run runs in the usual order."""

    def __init__(self, order: random.Random | None = None) -> None:
        self._jumps = _Jumps()
        self._order = order
        self.steps = 0
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    @property
    def threads_at_work(self) -> bool:
        """Whether a thread of a store or a ledger is at work."""
        return self._jumps.busy

    def stall(self, seconds: float) -> None:
        """Let time pass while nothing runs, as a call that blocks does."""
        self._jumps.now += seconds

    def wait_for_thread(self, thread: BatchThread, future: asyncio.Future[Any]) -> None:
        """Let no time pass while a thread is at work."""
        if thread.home is self:
            self._jumps.threads.add(thread)
        else:
            self._jumps.at_work += 1
            future.add_done_callback(self._thread_is_done)

    def _thread_is_done(self, _: object) -> None:
        self._jumps.at_work -= 1

    def run_in_executor(self, _: object, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(work(*args))
        except Exception as problem:
            done.set_exception(problem)
        return done

    def _run_once(self) -> None:
        self.steps += 1
        ready = self._ready  # type: ignore[attr-defined]
        if self._order is not None and len(ready) > 1:
            some = list(ready)
            self._order.shuffle(some)
            ready.clear()
            ready.extend(some)
        super()._run_once()  # type: ignore[misc]


def _submit(thread: BatchThread, call: Call[T], *, submit: Any = BatchThread.submit, **how: Any) -> asyncio.Future[T]:
    future: asyncio.Future[T] = submit(thread, call, **how)
    loop = future.get_loop()
    if isinstance(loop, VirtualLoop):
        loop.wait_for_thread(thread, future)
    return future


def threads_hold_time() -> AbstractContextManager[Any]:
    """Let no time pass in virtual loops while a thread is at work."""
    return patch.object(BatchThread, "submit", _submit)


def wall() -> float:
    """Unix time in the world of the running loop."""
    return EPOCH + asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T], order: random.Random | None = None) -> T:
    """Run to the end in virtual time, and see that no task is left."""
    with threads_hold_time(), asyncio.Runner(loop_factory=lambda: VirtualLoop(order)) as runner:

        async def watched() -> T:
            result = await main
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left behind: {left}"
            return result

        return runner.run(watched())


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return in_virtual_time
