from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.webhooks.fakes import FakeSource, FakeVendor, a_ref, a_thing, body_of, words_of
from tests.webhooks.virtual_time import EPOCH, virtual_time, wall
from vendor_http.errors import OperationFailed
from vendor_http.operations import OperationStatus
from webhooks import (
    Completions,
    CompletionTimeout,
    MemoryStore,
    Receiver,
)


def now() -> float:
    return asyncio.get_running_loop().time()


class World:
    """A vendor, its deliveries, a store and somebody who waits."""

    def __init__(self, store: MemoryStore | None = None, **options: Any) -> None:
        self.vendor = FakeVendor()
        self.source = FakeSource()
        self.store = store or MemoryStore(clock=wall)
        self.receiver = Receiver(self.source, self.store, clock=wall)
        options.setdefault("chance", lambda: 0.0)
        self.completions = Completions(self.vendor, self.store, clock=wall, **options)

    async def deliver(self, uid: str = "1", status: str | None = "done", amount: str = "1.5", **words: Any) -> int:
        body = body_of(uid=uid, **words) if status is None else body_of(resource=words_of(uid, status, amount), **words)
        reply = await self.receiver.receive(self.source.sign(body), body)
        return reply.status

    def start(self, operation: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.completions.wait(operation, **options))


@asynccontextmanager
async def a_world(**options: Any) -> AsyncIterator[World]:
    world = World(**options)
    async with world.completions:
        yield world
    assert list(world.completions.pending()) == []
    assert world.completions.statistics.waiting == 0


async def settle() -> None:
    """Let everything run that can, without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


@virtual_time
async def test_an_event_before_its_waiter_resolves_immediately() -> None:
    async with a_world() as world:
        await world.deliver("1")
        done = await world.completions.wait("1", timeout=300)
        assert (now(), done.status, done.ref) == (0.0, OperationStatus.DONE, a_ref("1"))
        assert world.vendor.reads == []


@virtual_time
async def test_an_event_wakes_its_waiter_at_once_and_without_a_request() -> None:
    async with a_world() as world:
        waiting = world.start(a_thing("1"), timeout=300)
        await asyncio.sleep(7)
        await world.deliver("1")
        done = await waiting
        assert (now(), done.amount) == (7.0, "1.5")
        assert world.vendor.reads == []
        statistics = world.completions.statistics
        assert (statistics.settled_by_webhook, statistics.settled_by_poll) == (1, 0)
        assert statistics.delays["webhook"] == (0.0,)


@virtual_time
async def test_without_a_webhook_the_poll_settles() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", "done")
        done = await world.completions.wait("1", timeout=300)
        assert done.status is OperationStatus.DONE
        assert world.vendor.read_times == [15.0, 39.0]
        assert world.completions.statistics.settled_by_poll == 1
        kept = await world.store.outcome(a_ref("1"))
        assert kept is not None
        assert (kept.via, kept.settled_at) == ("poll", EPOCH + 39.0)


@virtual_time
async def test_as_completed_yields_each_as_it_ends() -> None:
    async with a_world() as world:
        world.vendor.will("2", "failed")
        async with world.completions.as_completed([a_thing("1"), a_ref("2"), "3"], timeout=100) as outcomes:
            await asyncio.sleep(1)
            await world.deliver("1")
            seen = [(one.ref.uid, now(), type(one.error)) async for one in outcomes]
        assert seen == [
            ("1", 1.0, type(None)),
            ("2", 15.0, OperationFailed),
            ("3", pytest.approx(100, abs=0.1), CompletionTimeout),
        ]
