"""A loop whose time jumps to the next timer when nothing else can run, and whose order among what can run may be seeded."""

from __future__ import annotations

import asyncio
import functools
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_760_000_000.0


class _Jumps(selectors.BaseSelector):
    """Instead of waiting for files, let the time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing can run and no timer is set")
        self.now += max(timeout, 0.0)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> Any:
        raise KeyError(fileobj)


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module; without `order` what can run runs in the usual order."""

    def __init__(self, order: random.Random | None = None) -> None:
        self._jumps = _Jumps()
        self._order = order
        self.steps = 0
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    def _run_once(self) -> None:
        self.steps += 1
        ready = self._ready  # type: ignore[attr-defined]
        if self._order is not None and len(ready) > 1:
            some = list(ready)
            self._order.shuffle(some)
            ready.clear()
            ready.extend(some)
        super()._run_once()  # type: ignore[misc]


def wall() -> float:
    """Unix time in the world of the running loop."""
    return EPOCH + asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T], order: random.Random | None = None) -> T:
    """Run to the end in virtual time, and see that no task is left."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(order)) as runner:

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
