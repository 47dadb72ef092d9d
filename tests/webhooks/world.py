"""A fake vendor, its events, a store, and callers that wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rewards_core.operations import OperationStatus
from tests.virtual_time import EPOCH, VirtualLoop, wall
from tests.webhooks.fakes import FakeSource, FakeVendor, a_ref, body_of, words_of
from webhooks import Acceptance, Completions, MemoryStore, Outcome
from webhooks.store.base import Store, Subscriber


def now() -> float:
    """Seconds since the world began."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Run every task that is ready and let every store answer, without advancing time."""
    loop = asyncio.get_running_loop()
    for _ in range(30):
        await asyncio.sleep(0)
        while isinstance(loop, VirtualLoop) and loop.threads_at_work:
            await asyncio.sleep(0)


class DeafStore(MemoryStore):
    """Stores everything and notifies nobody."""

    async def subscribe(self, subscriber: Subscriber) -> None:
        pass


class World:
    """Everything in one process, over one memory store unless others are given.

    Args:
        store: What the waiter uses.
        receiving: What the receiver uses, if that is another store object on the same engine.
        options: For `Completions`.
    """

    def __init__(self, store: Any = None, receiving: Store | None = None, **options: Any) -> None:
        self.vendor = FakeVendor()
        self.source = FakeSource()
        self.store: Any = store or MemoryStore(clock=wall)
        self.receiving = receiving or self.store
        options.setdefault("random", lambda: 0.0)
        self.completions = Completions(self.vendor, self.store, clock=wall, **options)

    async def deliver(
        self, uid: str | None = "1", status: str | None = "done", amount: str = "1.5", key: str | None = None, **words: Any
    ) -> Acceptance:
        """Accept an event as a receiver does. Without a status it has only a uid, without a uid not even that."""
        if status is not None and uid is not None:
            words["resource"] = words_of(uid, status, amount, key)
        elif uid is not None:
            words["uid"] = uid
        return await self.receiving.accept(self.source.parse(body_of(**words)))

    def start(self, operation: Any, **options: Any) -> asyncio.Task[Any]:
        """Start a wait in its own task."""
        return asyncio.create_task(self.completions.wait(operation, **options))

    async def pending(self) -> set[str]:
        """Return the uids of the pending operations."""
        return {one.ref.uid for one in await self.store.list_pending(limit=10_000)}


@asynccontextmanager
async def a_world(**options: Any) -> AsyncIterator[World]:
    """Open a world, and check that it leaves nothing behind."""
    world = World(**options)
    async with world.completions:
        yield world
        await settle()
        assert world.completions.statistics.waiting == 0
    assert list(world.completions.pending()) == []


async def leave(*waiting: asyncio.Task[Any]) -> None:
    """Cancel waits."""
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def kept(uid: str, status: str = "done", *, amount: str = "1.5", key: str | None = None, via: Any = "webhook") -> Outcome:
    """Return an outcome to record."""
    words = words_of(uid, status, amount, key)
    return Outcome(ref=a_ref(uid), status=OperationStatus(status), resource=words, via=via, settled_at=EPOCH, key=key)
