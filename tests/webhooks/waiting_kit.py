"""Callers that wait by `wait` or by `as_completed`, with receiver and waiter on one store object or on two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from rewards_core.operations import OperationRef
from tests.virtual_time import EPOCH, wall
from tests.webhooks.world import World, now, settle
from webhooks import MemoryStore, Outcome, SQLiteStore
from webhooks.store.base import Store, Subscriber


@frozen
class Stores:
    """The stores of receiver and waiter, and the seconds that a hint takes between them."""

    receiving: Store
    waiting: Store
    hint: float


@asynccontextmanager
async def one_memory_store(_: Path) -> AsyncIterator[Stores]:
    store = MemoryStore(clock=wall)
    yield Stores(store, store, hint=0.0)
    await store.aclose()


@asynccontextmanager
async def two_objects_on_one_file(folder: Path) -> AsyncIterator[Stores]:
    seconds = asyncio.get_running_loop().time  # asked by threads too

    def one() -> SQLiteStore:
        return SQLiteStore(folder / "inbox.db", clock=lambda: EPOCH + seconds(), uptime=seconds, boot="virtual")

    receiving, waiting = one(), one()
    yield Stores(receiving, waiting, hint=0.2)
    await waiting.aclose()
    await receiving.aclose()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {
    "one memory store": one_memory_store,
    "two objects on one file": two_objects_on_one_file,
}


async def by_wait(world: World, operation: Any, **options: Any) -> Any:
    return await world.completions.wait(operation, **options)


async def by_as_completed(world: World, operation: Any, **options: Any) -> Any:
    async with world.completions.as_completed([operation], **options) as outcomes:
        one = await anext(outcomes)
    if one.error is not None:
        raise one.error
    return one.operation


Way = Callable[..., Awaitable[Any]]

WAYS: dict[str, Way] = {"wait": by_wait, "as_completed": by_as_completed}
in_both_ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


class Hints(Subscriber):
    """Intercept a store's subscriptions, so that hints can be lost."""

    def __init__(self, store: Any) -> None:
        self.lost = False
        self.subscribers: list[Subscriber] = []
        self.subscribe_in_truth = store.subscribe
        store.subscribe, store.unsubscribe = self.subscribe, self.unsubscribe

    async def subscribe(self, subscriber: Subscriber) -> None:
        self.subscribers.append(subscriber)
        await self.subscribe_in_truth(self)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self.subscribers = [one for one in self.subscribers if one is not subscriber]

    def waits_for(self, ref: OperationRef) -> bool:
        return any(one.waits_for(ref) for one in self.subscribers)

    def settled(self, outcome: Outcome) -> None:
        self.tell("settled", outcome)

    def confirmed(self, outcome: Outcome) -> None:
        self.tell("confirmed", outcome)

    def polls_due(self) -> None:
        self.tell("polls_due")

    def missed(self) -> None:
        self.tell("missed")

    def tell(self, hint: str, *what: Any) -> None:
        for one in () if self.lost else list(self.subscribers):
            getattr(one, hint)(*what)


class WaitingWorld(World):
    """A world in which a caller waits in one of the ways."""

    def __init__(self, way: Way, stores: Stores, **options: Any) -> None:
        super().__init__(stores.waiting, stores.receiving, **options)
        self.way = way
        self.hint = stores.hint
        self.hints = Hints(stores.waiting)

    async def wait(self, operation: Any, **options: Any) -> Any:
        return await self.way(self, operation, **options)

    def start(self, operation: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.wait(operation, **options))

    def in_time(self, moment: float) -> bool:
        """Return whether this is the moment, allowing for the delay of a hint."""
        return moment <= now() <= moment + self.hint + 0.02


OpenWorld = Callable[..., AbstractAsyncContextManager[WaitingWorld]]


@asynccontextmanager
async def waiting_world(
    make_stores: Callable[[], AbstractAsyncContextManager[Stores]], way: Way, **options: Any
) -> AsyncIterator[WaitingWorld]:
    """Open a world, and check that it leaves nothing behind."""
    async with make_stores() as stores:
        world = WaitingWorld(way, stores, **options)
        async with world.completions:
            yield world
            await settle()
            assert world.completions.statistics.waiting == 0
            assert list(world.completions.pending()) == []


class InBothWays:
    """Tests of callers that wait by `wait` and by `as_completed`, with receiver and waiter on one store object or on two."""

    @pytest.fixture(params=STORES)
    def make_stores(self, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[Stores]]:
        return partial(STORES[request.param], tmp_path)

    @pytest.fixture(params=WAYS)
    def open_world(self, request: pytest.FixtureRequest, make_stores: Any) -> OpenWorld:
        return partial(waiting_world, make_stores, WAYS[request.param])
