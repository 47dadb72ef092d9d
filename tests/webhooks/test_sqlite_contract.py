"""The contract over SQLite: one store object, two over one file, and one in each of two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.webhooks.contract_process import OtherProcess, SharedTime, other_process
from tests.webhooks.store_contract import EPOCH, DurableStoreContract, PollsMachine, Reopen
from tests.webhooks.store_contract.handlers import HOUR
from webhooks.store.base import Store
from webhooks.store.sqlite import SQLiteStore

Make = Callable[[], SQLiteStore]


def store_at(path: Path, time: Path) -> SQLiteStore:
    """Return a store object on a file, in the time that another file holds."""
    shared = SharedTime(time)
    return SQLiteStore(path, clock=shared.clock, uptime=shared.uptime)


class HostTime(SharedTime):
    """The time of a host, and the stores that are open on it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.stores: list[Store] = []

    @property
    def wall(self) -> float:
        return self.clock()

    async def advance(self, seconds: float) -> None:
        self.move(wall=seconds, passed=seconds)
        if seconds >= HOUR:
            for store in self.stores:
                await store.ping()

    async def jump(self, seconds: float) -> None:
        self.move(wall=seconds, passed=0)


@pytest.fixture
def time(tmp_path: Path) -> HostTime:
    return HostTime(tmp_path / "time")


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


@pytest.mark.slow
class TestOneObject(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make) -> AsyncIterator[tuple[Store, Store]]:
        store = make()
        yield store, store
        await store.aclose()


@pytest.mark.slow
class TestTwoObjects(DurableStoreContract):
    @pytest_asyncio.fixture
    async def stores(self, make: Make) -> AsyncIterator[tuple[Store, Store]]:
        here, there = make(), make()
        yield here, there
        await here.aclose()
        await there.aclose()


@pytest.fixture(scope="module")
def process() -> Iterator[OtherProcess]:
    with other_process() as process:
        yield process


@pytest_asyncio.fixture
async def make_elsewhere(tmp_path: Path, time: HostTime, process: OtherProcess) -> AsyncIterator[Callable[[], Any]]:
    async def make_elsewhere() -> Store:
        store = cast("Store", await process.open(partial(store_at, tmp_path / "inbox.db", tmp_path / "time")))
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


class SQLitePolls(PollsMachine):
    def make_store(self) -> Store:
        self.folder = TemporaryDirectory()
        seconds = self.loop.time  # asked by threads too
        return SQLiteStore(Path(self.folder.name) / "inbox.db", clock=lambda: EPOCH + seconds(), uptime=seconds, boot="virtual")

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


SQLitePolls.TestCase.settings = settings(max_examples=20)
TestPolls = pytest.mark.slow(pytest.mark.repeats_itself(SQLitePolls.TestCase))
