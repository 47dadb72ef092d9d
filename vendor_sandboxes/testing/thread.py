"""An event loop in a thread of its own, where sandboxes run beside synchronous tests and beside tests of any event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")


class LoopThread:
    """A thread that runs an event loop, inside `with`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="vendor sandboxes", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.get_loop().run_forever()

    def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a function in the thread and return its result."""
        if threading.current_thread() is self._thread:
            return function(*arguments, **options)

        async def called() -> T:
            return function(*arguments, **options)

        return self.run(called())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread and return its result; meanwhile this thread is blocked."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def wait_for(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread and await its result."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))
