"""SQLite stores that share a file, on a host whose clocks move only when a test moves them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rewards_core.sqlite.engine import Engine
from tests.webhooks.store_contract import EPOCH, Ear, ref
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

NEVER, OFTEN = 3_600.0, 0.005


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
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("webhooks.store.sqlite_life.Engine", partial(Engine, tick_every=OFTEN if ticks else NEVER))
            store = SQLiteStore(settings.pop("path", self.path), **settings)
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
    return await store._engine.write(run)


async def rows(store: SQLiteStore, statement: str, *values: Any) -> list[Any]:
    """Return the rows of a statement."""
    return await on_file(store, lambda session: session.db.execute(statement, values).fetchall())


async def ear_of(store: SQLiteStore, *uids: str) -> Ear:
    """Return a subscriber of the store that waits for these operations."""
    ear = Ear(*map(ref, uids))
    await store.subscribe(ear)
    return ear
