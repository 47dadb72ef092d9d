"""The contract over SQLite: one store object, and two over one file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.webhooks.store_contract import EPOCH, DurableStoreContract, Reopen
from tests.webhooks.store_contract.handlers import HOUR
from webhooks.store.base import Store
from webhooks.store.sqlite import SQLiteStore

Make = Callable[[], SQLiteStore]


class HostTime:
    """The host's uptime and its wall clock, which move only when a test moves them."""

    def __init__(self) -> None:
        self.wall = EPOCH
        self.passed = 1_000.0
        self.stores: list[SQLiteStore] = []

    def clock(self) -> float:
        return self.wall

    def uptime(self) -> float:
        return self.passed

    async def advance(self, seconds: float) -> None:
        self.passed += seconds
        self.wall += seconds
        if seconds >= HOUR:
            for store in self.stores:
                await store.ping()

    async def jump(self, seconds: float) -> None:
        self.wall += seconds


@pytest.fixture
def time() -> HostTime:
    return HostTime()


@pytest.fixture
def make(tmp_path: Path, time: HostTime) -> Make:
    def make() -> SQLiteStore:
        store = SQLiteStore(tmp_path / "inbox.db", clock=time.clock, uptime=time.uptime)
        time.stores.append(store)
        return store

    return make


@pytest.fixture
def reopen(make: Make) -> Reopen:
    async def reopen(store: Store) -> Store:
        await store.aclose()
        return make()

    return reopen


class TestOneObject(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make) -> AsyncIterator[tuple[Store, Store]]:
        store = make()
        yield store, store
        await store.aclose()


class TestTwoObjects(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make) -> AsyncIterator[tuple[Store, Store]]:
        here, there = make(), make()
        yield here, there
        await here.aclose()
        await there.aclose()
