"""A log that grows and a disk in trouble: nothing is acknowledged that is not durable, and it goes on afterwards."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import apsw
import pytest

from rewards_core.errors import StoreError, StoreFull
from rewards_core.sqlite import connection
from rewards_core.sqlite.connection import Connection, ConstraintError, transaction
from rewards_core.sqlite.engine import Engine
from tests.rewards_core.sqlite_kit import (
    OFTEN,
    Engines,
    Notebook,
    Other,
    after_a_kill,
    beside,
    break_down,
    pragma,
    refused,
    session_of,
    texts,
    until,
    write,
)
from tests.texts import said, without_places

# the log


async def test_a_log_above_its_limit_is_emptied(engines: Engines, path: Path) -> None:
    notes = engines.make(max_log_bytes=100_000, tick_every=OFTEN)
    await write(notes, "x" * 200_000)
    await until(lambda: beside(path, "-wal").stat().st_size == 0)
    assert await after_a_kill(path, "SELECT length(text) FROM line") == [200_000]


async def test_a_log_below_its_limit_is_left(engines: Engines, path: Path) -> None:
    notes = engines.make(max_log_bytes=10_000_000, tick_every=OFTEN)
    await write(notes, "x" * 200_000)
    notebook = await notes.write(session_of)
    seen = notebook.ticks
    await until(lambda: notebook.ticks > seen + 1)
    assert beside(path, "-wal").stat().st_size > 200_000


async def test_a_reader_that_stays_holds_up_no_commit_and_the_log_is_emptied_once_it_ends(
    engines: Engines, path: Path, other: Other
) -> None:
    notes = engines.make(max_log_bytes=100_000, busy_timeout=3_600.0, tick_every=OFTEN)
    await write(notes, "1")
    await other.do("look")
    await write(notes, "x" * 200_000)
    await write(notes, "2")
    await other.do("look-away")
    await until(lambda: beside(path, "-wal").stat().st_size == 0)


async def test_look_ups_that_overlap_let_the_log_be_emptied(engines: Engines, path: Path) -> None:
    notes = engines.make(max_log_bytes=100_000, tick_every=OFTEN)
    looking = [asyncio.ensure_future(_look_for_ever(notes)) for _ in range(3)]
    await write(notes, "x" * 200_000)
    await until(lambda: beside(path, "-wal").stat().st_size == 0)
    for task in looking:
        task.cancel()
    await asyncio.gather(*looking, return_exceptions=True)


async def _look_for_ever(notes: Engine[Notebook]) -> None:
    while True:
        await texts(notes)


async def test_the_log_is_emptied_when_asked_for(notes: Engine[Notebook], path: Path) -> None:
    await write(notes, "1")
    assert beside(path, "-wal").stat().st_size > 0
    await notes.truncate_log()
    assert beside(path, "-wal").stat().st_size == 0


@pytest.mark.slow
async def test_a_log_that_cannot_be_emptied_is_said_and_emptied_later(engines: Engines, path: Path, other: Other) -> None:
    notes = engines.make(busy_timeout=0.05, tick_every=OFTEN)
    await write(notes, "1")
    await other.do("look")
    await write(notes, "2")
    with refused("erased data in the log"):
        await notes.truncate_log()
    await other.do("look-away")
    await until(lambda: beside(path, "-wal").stat().st_size == 0)


# a disk in trouble


async def test_a_full_disk_acknowledges_nothing_and_it_goes_on_once_there_is_room(
    notes: Engine[Notebook], engines: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    await write(notes, "1")
    await pragma(notes, "max_page_count = 10")
    with refused("a full disk", StoreFull):
        await write(notes, "x" * 400_000)
    with refused("a full disk", StoreFull):
        await write(notes, "y" * 400_000, "2")
    assert await texts(notes) == engines.told == ["1"]
    assert all(record.exc_info is None for record in caplog.records)
    await pragma(notes, "max_page_count = 1000000")
    await write(notes, "z" * 400_000)


async def test_a_read_only_file_acknowledges_nothing_and_it_goes_on_once_it_can_be_written(
    notes: Engine[Notebook], engines: Engines
) -> None:
    await write(notes, "1")
    with pytest.raises(StoreError):
        await notes.write(lambda notebook: (notebook.db.execute("PRAGMA query_only = ON"), notebook.write("2")))
    assert await texts(notes) == engines.told == ["1"]
    await write(notes, "3")
    assert await texts(notes) == ["1", "3"]


async def test_a_connection_that_broke_is_opened_again(notes: Engine[Notebook]) -> None:
    await write(notes, "1")
    with refused("a broken connection"):
        await notes.write(lambda notebook: break_down(notebook.db))
    await write(notes, "3")
    with refused("a broken connection"):
        await notes.read(break_down)
    assert await texts(notes) == ["1", "3"]


def texts_of(db: Connection) -> list[Any]:
    return db.execute("SELECT * FROM line").fetchall()


@pytest.mark.slow
async def test_other_programs_that_look_into_the_file_leave_the_log_though_a_connection_broke(
    notes: Engine[Notebook], path: Path, other: Other
) -> None:
    await write(notes, "1")
    with pytest.raises(StoreError):
        await notes.write(lambda notebook: break_down(notebook.db))
    await write(notes, "3")
    await other.do("sql SELECT count(*) FROM line")
    await other.kill()
    assert beside(path, "-wal").exists()
    assert await after_a_kill(path) == ["1", "3"]


def test_every_error_of_sqlite_says_what_to_do(path: Path) -> None:
    kinds = ("FullError", "LockedError", "PermissionsError", "CorruptError", "CantOpenError", "IOError")
    errors = [connection.as_store_error(getattr(apsw, kind)("SQLite's text"), path) for kind in kinds]
    assert all(str(path) in str(error) for error in errors)
    said("sqlite: errors of SQLite", "\n".join(map(without_places, errors)))


def test_what_a_block_wrote_before_it_raised_is_taken_back(tmp_path: Path) -> None:
    db = connection.temporary()
    db.execute("CREATE TABLE line (text TEXT NOT NULL)")
    with pytest.raises(ConstraintError), transaction(db):
        db.execute("INSERT INTO line VALUES ('1'); INSERT INTO line VALUES (NULL)")
    with transaction(db):
        db.execute("INSERT INTO line VALUES ('2')")
    assert texts_of(db) == [("2",)]
    db.close()


async def test_a_tick_that_fails_is_repeated_and_logged(
    engines: Engines, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = engines.make(tick_every=OFTEN)
    failures: list[None] = []
    tick = Notebook.tick

    def fail_first(notebook: Notebook) -> list[Any]:
        if len(failures) < 2:
            failures.append(None)
            notebook.db.execute("BEGIN IMMEDIATE")
            notebook.write("taken back")
            notebook.db.execute("SELECT nonsense")
        return tick(notebook)

    monkeypatch.setattr(Notebook, "tick", fail_first)
    await write(notes, "1")
    await until(lambda: len(failures) == 2)
    notebook = await notes.write(session_of)
    await until(lambda: notebook.ticks)
    await write(notes, "2")
    assert (await notes.write(session_of)).ticks
    assert await texts(notes) == ["1", "2"]
    assert any(record.levelno == logging.WARNING for record in caplog.records)


async def test_before_the_file_is_open_a_tick_does_nothing(path: Path, engines: Engines) -> None:
    path.mkdir()
    notes = engines.make(tick_every=OFTEN)
    for _ in range(3):
        with pytest.raises(StoreError):
            await texts(notes)
    path.rmdir()
    notebook = await notes.write(session_of)
    await until(lambda: notebook.ticks)
