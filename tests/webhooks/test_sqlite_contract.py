"""The store contract over SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.webhooks.store_contract import Clock, DurableStoreContract, Ear, MakeStore
from webhooks.store.base import Store
from webhooks.store.sqlite import SQLiteStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_store(tmp_path: Path, clock: Clock) -> MakeStore:
    async def make() -> Store:
        return SQLiteStore(tmp_path / "inbox.db", clock=clock)

    return make


@pytest_asyncio.fixture
async def store(make_store: MakeStore) -> AsyncIterator[Store]:
    store = await make_store()
    yield store
    await store.aclose()


@pytest.fixture
def ear(store: Store) -> Ear:
    ear = Ear()
    store.subscribe(ear)
    return ear


class TestSQLiteStore(DurableStoreContract):
    pass
