"""The contract over PostgreSQL: one store object, two over one schema, and one in each of two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
import pytest_asyncio

from tests.postgres_server import Server
from tests.webhooks.contract_process import OtherProcess, other_process
from tests.webhooks.postgres_kit import OFTEN, DatabaseTime, schema_of_its_own, store_in
from tests.webhooks.store_contract import DurableStoreContract, Reopen
from webhooks.store.base import Store
from webhooks.store.postgres import PostgresStore

Make = Callable[[], PostgresStore]


@pytest_asyncio.fixture
async def time(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_of_its_own(postgres, monkeypatch) as moved:
        yield moved


@pytest.fixture
def make(time: DatabaseTime, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr("webhooks.store.postgres_life.RENEW_EVERY", OFTEN)
    return time.open


@pytest.fixture
def reopen(make: Make) -> Reopen:
    async def reopen(store: Store) -> Store:
        await store.aclose()
        return make()

    return reopen


@pytest.mark.slow
class TestOneObject(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make, time: DatabaseTime) -> AsyncIterator[tuple[Store, Store]]:
        store = make()
        yield store, store
        for each in time.stores:
            await each.aclose()


@pytest.mark.slow
class TestTwoObjects(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make, time: DatabaseTime) -> AsyncIterator[tuple[Store, Store]]:
        yield make(), make()
        for each in time.stores:
            await each.aclose()


@pytest.fixture(scope="module")
def process() -> Iterator[OtherProcess]:
    with other_process() as process:
        yield process


@pytest_asyncio.fixture
async def make_elsewhere(time: DatabaseTime, process: OtherProcess) -> AsyncIterator[Callable[[], Any]]:
    async def make_elsewhere() -> Store:
        store = cast("Store", await process.open(partial(store_in, time.url, time.schema, time.passed)))
        time.stores.append(store)
        return store

    yield make_elsewhere
    await process.close_all()


class TestTwoProcesses(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make, make_elsewhere: Callable[[], Any]) -> AsyncIterator[tuple[Store, Store]]:
        here, there = make(), await make_elsewhere()
        yield here, there
        await here.aclose()

    @pytest.fixture
    def reopen(self, make_elsewhere: Callable[[], Any]) -> Reopen:
        async def reopen(store: Store) -> Store:
            await store.aclose()
            return cast("Store", await make_elsewhere())

        return reopen
