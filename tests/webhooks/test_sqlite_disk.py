"""A SQLite store on a disk in trouble: nothing is acknowledged, and it goes on once the trouble is over."""

from __future__ import annotations

import asyncio
import logging
import resource as resource_module
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from attrs import evolve

from rewards_core.errors import StoreError, StoreFull
from rewards_core.operations import Event
from tests.webhooks.store_contract import Ear, event, outcome, ref, resource
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


async def test_without_a_folder_for_temporary_files_deliveries_are_kept(store: SQLiteStore) -> None:
    def crowd(number: int) -> list[tuple[Event, list[str]]]:
        return [(event(f"{number} {place}"), []) for place in range(1_000)]

    for number in range(5):
        await store.accept_all(crowd(number))
    soft, hard = resource_module.getrlimit(resource_module.RLIMIT_NOFILE)
    resource_module.setrlimit(resource_module.RLIMIT_NOFILE, (3, hard))  # no further file can be opened
    try:
        answers = await store.accept_all(crowd(5))
    finally:
        resource_module.setrlimit(resource_module.RLIMIT_NOFILE, (soft, hard))
    assert set(answers) == {Acceptance.NEW}


# files that somebody removes or opens beneath a running store


LOOK_AROUND = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM event').fetchone()"


def copy(path: Path) -> Path:
    """Return a copy of a store's files as a kill would leave them now."""
    there = path.with_name(f"left of {path.name}")
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).exists():
            shutil.copyfile(path.with_name(path.name + suffix), there.with_name(there.name + suffix))
    return there


async def after_a_kill(path: Path) -> list[bytes]:
    """Return the bodies that a store would hold if its process were killed now, newest first."""
    return await bodies(SQLiteStore(await asyncio.to_thread(copy, path)), close=True)


async def bodies(store: SQLiteStore, *, close: bool = False) -> list[bytes]:
    try:
        return [stored.event.body for stored in await store.list_events(limit=1_000)]
    finally:
        if close:
            await store.aclose()


@pytest.mark.parametrize("removed", [["-wal"], ["-shm"], ["-wal", "-shm"]])
async def test_a_log_removed_beneath_the_store_takes_nothing_acknowledged_with_it(store: SQLiteStore, removed: list[str]) -> None:
    await store.list_events()
    for suffix in removed:
        store.path.with_name(store.path.name + suffix).unlink()
    for word in ("at once", "and later"):
        assert await store.accept(event(word)) is Acceptance.NEW
        assert await store.outcome(ref("1")) is None
    everything = [event(word).body for word in ("and later", "at once", "before")]
    assert await bodies(store) == everything
    assert await after_a_kill(store.path) == everything


async def test_a_log_removed_before_the_end_is_moved_into_the_file_though_another_reads(store: SQLiteStore) -> None:
    reader = SQLiteStore(store.path, read_only=True)
    assert len(await reader.list_events()) == 1
    store.path.with_name(store.path.name + "-wal").unlink()
    await store.aclose()
    assert await after_a_kill(store.path) == [event("before").body]
    await reader.aclose()


async def test_a_log_that_is_gone_and_being_read_acknowledges_nothing_until_it_is_safe(store: SQLiteStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM event").fetchall()
    store.path.with_name(store.path.name + "-wal").unlink()
    with pytest.raises(StoreError, match="end what reads it"):
        await store.accept(event("1"))
    other.execute("ROLLBACK")
    other.close()
    assert await store.accept(event("1")) is Acceptance.DUPLICATE
    assert await after_a_kill(store.path) == [event("1").body, event("before").body]


async def test_a_file_moved_away_takes_everything_acknowledged_with_it(store: SQLiteStore) -> None:
    await store.list_events()
    moved = store.path.with_name("moved.db")
    store.path.rename(moved)
    with pytest.raises(StoreError, match="in its place"):
        await store.accept(event("1"))
    assert await after_a_kill(moved) == [event("before").body]


async def test_everybody_looks_at_the_file_that_took_the_place_of_another(store: SQLiteStore) -> None:
    ear = Ear()
    reader = SQLiteStore(store.path, read_only=True)
    reader.subscribe(ear)
    assert len(await reader.list_events()) == len(await store.list_events()) == 1
    for suffix in ("", "-wal", "-shm"):
        store.path.with_name(store.path.name + suffix).rename(store.path.with_name(f"moved.db{suffix}"))
    with pytest.raises(StoreError):
        await store.ping()
    await store.accept(event("new", of=ref("1"), complete=resource("1")))
    for one in (store, reader):
        assert await bodies(one) == [event("new").body]
        assert await one.outcome(ref("1")) is not None
    assert [settled.ref for settled in ear.settlements] == [ref("1")]
    await reader.aclose()


async def test_another_program_that_looks_into_the_file_leaves_the_log_though_the_store_met_trouble(store: SQLiteStore) -> None:
    await store.list_events()
    store._writing._writer._db.close()  # type: ignore[union-attr]
    with pytest.raises(StoreError):
        await store.accept(event("in trouble"))
    await store.accept(event("after it"))
    look_around = await asyncio.create_subprocess_exec(sys.executable, "-c", LOOK_AROUND, str(store.path))
    assert await look_around.wait() == 0
    assert store.path.with_name(store.path.name + "-wal").exists()
