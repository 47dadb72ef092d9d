"""SQLite stores that share a file, on a host whose clocks move only when a test moves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards_core.sqlite.engine import Engine
from tests.webhooks.store_contract import EPOCH, Ear, ref
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

NEVER, OFTEN = 3_600.0, 0.005


class OpenStore(SQLiteStore):
    """A store whose engine a test may use too.

    Attributes:
        engine: The engine of its file.
        notify: What the engine calls with what others wrote.
    """

    engine: Engine[Session]
    notify: Callable[[list[Any]], None]

    def __init__(self, path: Path, *, tick_every: float, **options: Any) -> None:
        def make(*args: Any, notify: Callable[[list[Any]], None], **more: Any) -> Engine[Session]:
            self.notify = notify
            self.engine = Engine(*args, notify=notify, tick_every=tick_every, **more)
            return self.engine

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("webhooks.store.sqlite_life.Engine", make)
            super().__init__(path, **options)


class Host:
    """Clocks, which boot this is, and the stores of one file.

    Attributes:
        wall: Unix time.
        passed: Seconds since the boot.
        boot: Which boot it is.
        stores: The stores that were opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wall = EPOCH
        self.passed = 1_000.0
        self.boot = "first"
        self.stores: list[SQLiteStore] = []

    def open(self, *, ticks: bool = True, **options: Any) -> SQLiteStore:
        """Return another store object on the file; without ticks it learns of others only by hints."""
        settings: dict[str, Any] = {"clock": lambda: self.wall, "uptime": lambda: self.passed, "boot": self.boot, **options}
        store = OpenStore(settings.pop("path", self.path), tick_every=OFTEN if ticks else NEVER, **settings)
        self.stores.append(store)
        return store

    def advance(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds

    async def reboot(self, boot: str = "second") -> None:
        """Close every store and reboot the host, so that the file is of an earlier boot."""
        for store in self.stores:
            await store.aclose()
        self.stores = []
        self.boot, self.passed = boot, 10.0
        self.wall += 60.0


async def on_file(store: SQLiteStore, run: Callable[[Session], Any]) -> Any:
    """Run a function in a transaction of the store and return its result."""
    assert isinstance(store, OpenStore)
    return await store.engine.write(run)


async def rows(store: SQLiteStore, statement: str, *values: Any) -> list[Any]:
    """Return the rows of a statement."""
    return await on_file(store, lambda session: session.db.execute(statement, values).fetchall())


async def id_of(store: SQLiteStore) -> str:
    """Return the name of a store object in its file."""
    return str(await on_file(store, lambda session: session.member.id))


async def cut_power(store: SQLiteStore) -> None:
    """Let a store object say no farewell."""
    await on_file(store, lambda session: setattr(session.member, "registered", False))


async def ear_of(store: SQLiteStore, *uids: str) -> Ear:
    """Return a subscriber of the store that waits for these operations."""
    ear = Ear(*map(ref, uids))
    await store.subscribe(ear)
    return ear
