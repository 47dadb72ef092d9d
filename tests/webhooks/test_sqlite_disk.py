"""A SQLite store on a disk in trouble: nothing is acknowledged, and it goes on once the trouble is over."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from attrs import evolve

from tests.webhooks.store_contract import Ear, event, outcome, ref, resource
from webhooks.errors import StoreError, StoreFull
from webhooks.store.base import Acceptance
from webhooks.store.sqlite import SQLiteStore


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "inbox.db", busy_timeout=0.05)
    await store.accept(event("before"))
    yield store
    await store.aclose()


async def pragma(store: SQLiteStore, words: str) -> None:
    """Set something on the writing connection."""

    def change(writer: Any) -> None:
        writer._db.execute("ROLLBACK")
        writer._db.execute(f"PRAGMA {words}")
        writer._db.execute("BEGIN")

    await store._writing.run(change)


async def test_a_full_disk_acknowledges_nothing_and_deliveries_go_on_once_there_is_room(store: SQLiteStore) -> None:
    await pragma(store, "max_page_count=30")
    kept = []

    async def fill_up() -> None:
        for number in range(1_000):
            big = evolve(event(str(number)), body=b"x" * 4_000)
            await store.accept(big)
            kept.append(big.body)

    with pytest.raises(StoreFull, match="free some"):
        await fill_up()
    assert kept
    assert len(await store.list_events(limit=1_000)) == 1 + len(kept)
    with pytest.raises(StoreFull):
        await store.accept(evolve(event("still full"), body=b"x" * 400_000))
    await pragma(store, "max_page_count=100000")
    assert await store.accept(evolve(event("room again"), body=b"x" * 400_000)) is Acceptance.NEW


async def test_what_failed_changes_nothing_and_tells_nobody(store: SQLiteStore) -> None:
    ear = Ear()
    store.subscribe(ear)
    await pragma(store, "max_page_count=10")
    with pytest.raises(StoreFull):
        await store.accept(evolve(event("1", of=ref("1"), complete=resource("1")), body=b"x" * 400_000))
    await pragma(store, "max_page_count=100000")
    assert ear.settlements == []
    assert await store.outcome(ref("1")) is None
    assert await store.accept(event("1", of=ref("1"), complete=resource("1"))) is Acceptance.NEW
    assert len(ear.settlements) == 1


async def test_a_read_only_file_acknowledges_nothing_and_deliveries_go_on_once_it_is_writable(
    store: SQLiteStore, caplog: pytest.LogCaptureFixture
) -> None:
    await pragma(store, "query_only=ON")
    with caplog.at_level(logging.ERROR), pytest.raises(StoreError, match="read-only file"):
        await store.accept(event("1"))
    assert all(record.exc_info is None for record in caplog.records)
    assert await store.accept(event("1")) is Acceptance.NEW


async def test_a_locked_file_acknowledges_nothing_and_deliveries_go_on_once_it_is_free(store: SQLiteStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="a lock held by somebody else"):
        await store.accept(event("1"))
    with pytest.raises(StoreError):
        await store.ping()
    assert await store.outcome(ref("1")) is None
    other.execute("ROLLBACK")
    other.close()
    assert await store.accept(event("1")) is Acceptance.NEW


async def test_a_failing_connection_is_opened_anew(store: SQLiteStore) -> None:
    store._writing._writer._db.close()  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="check the disk"):
        await store.accept(event("1"))
    assert await store.accept(event("1")) is Acceptance.NEW
    await store.outcome(ref("1"))
    store._reading._reader._db.close()  # type: ignore[union-attr]
    with pytest.raises(StoreError):
        await store.outcome(ref("1"))
    assert await store.outcome(ref("1")) is None


async def test_an_outcome_that_could_not_be_kept_is_not_told(store: SQLiteStore) -> None:
    await pragma(store, "query_only=ON")
    with pytest.raises(StoreError):
        await store.record_outcome(outcome(ref("1")))
    assert await store.outcome(ref("1")) is None


async def test_a_disk_that_cannot_even_be_written_at_first_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "inbox.db"
    path.mkdir()
    store = SQLiteStore(path)
    with pytest.raises(StoreError, match="expected to open"):
        await store.accept(event("1"))
    path.rmdir()
    assert await store.accept(event("1")) is Acceptance.NEW
    await store.aclose()


async def test_a_file_moved_away_acknowledges_nothing(store: SQLiteStore) -> None:
    store.path.rename(store.path.with_name("moved.db"))
    with pytest.raises(StoreError):
        await store.accept(event("1"))
    store.path.with_name("moved.db").rename(store.path)
    assert await store.accept(event("1")) is Acceptance.NEW
    assert await store.accept(event("before")) is Acceptance.DUPLICATE
