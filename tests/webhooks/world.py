"""A vendor, its deliveries, a store, a receiver and somebody who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.virtual_time import wall
from tests.webhooks.fakes import FakeSource, FakeVendor, body_of, words_of
from webhooks import Completions, MemoryStore, Receiver
from webhooks.store.base import Outcome, Recorded


def now() -> float:
    """Seconds since the world began."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let everything run that can, without time passing."""
    for _ in range(30):
        await asyncio.sleep(0)


class DeafStore(MemoryStore):
    """Keeps what is recorded and tells nobody."""

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        subscribers, self._subscribers = self._subscribers, type(self._subscribers)()
        try:
            return await super().record_outcome(outcome)
        finally:
            self._subscribers = subscribers


class World:
    """Everything in one process, over the memory store unless another is given."""

    def __init__(self, store: Any = None, **options: Any) -> None:
        self.vendor = FakeVendor()
        self.source = FakeSource()
        self.store: Any = store or MemoryStore(clock=wall)
        self.receiver = Receiver(self.source, self.store, clock=wall)
        options.setdefault("random", lambda: 0.0)
        self.completions = Completions(self.vendor, self.store, clock=wall, **options)

    async def deliver(
        self, uid: str | None = "1", status: str | None = "done", amount: str = "1.5", key: str | None = None, **words: Any
    ) -> int:
        """Deliver an event; without a status it carries only the uid, without a uid not even that."""
        if status is not None and uid is not None:
            words["resource"] = words_of(uid, status, amount, key)
        elif uid is not None:
            words["uid"] = uid
        body = body_of(**words)
        return (await self.receiver.receive(self.source.sign(body), body)).status

    def start(self, operation: Any, **options: Any) -> asyncio.Task[Any]:
        """Begin to wait in a task of its own."""
        return asyncio.create_task(self.completions.wait(operation, **options))


@asynccontextmanager
async def a_world(**options: Any) -> AsyncIterator[World]:
    """Open a world, and see that nothing is left behind when it closes."""
    world = World(**options)
    async with world.completions:
        yield world
        await settle()
        assert world.completions.statistics.waiting == 0
    assert list(world.completions.pending()) == []
