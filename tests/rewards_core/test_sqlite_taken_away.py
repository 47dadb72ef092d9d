"""Files that are removed, moved or replaced beneath their users: what was acknowledged stays, and it goes on."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from rewards_core.errors import StoreError
from rewards_core.sqlite import connection, database, migrations
from rewards_core.sqlite.engine import Engine
from tests.rewards_core.sqlite_kit import (
    OFTEN,
    Engines,
    Notebook,
    Other,
    after_a_kill,
    beside,
    break_down,
    other_process,
    pragma,
    refused,
    session_of,
    texts,
    until,
    write,
)
from tests.texts import said, without_places

SUFFIXES = ("-wal", "-shm", ".lock")
SOME = [some for count in (1, 2, 3) for some in itertools.combinations(SUFFIXES, count)]
parametrize_suffixes = pytest.mark.parametrize("suffixes", SOME, ids="".join)


def remove(path: Path, suffixes: tuple[str, ...]) -> None:
    """Remove the files; an engine that notices the first may take away the others itself."""
    first, *others = (beside(path, suffix) for suffix in suffixes)
    first.unlink()
    for other in others:
        other.unlink(missing_ok=True)


def move(path: Path, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        beside(path, suffix).rename(beside(path, f"{suffix}.moved"))


def replace(path: Path, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        beside(path, ".new").write_bytes(b"something else")
        beside(path, ".new").replace(beside(path, suffix))


take_away = pytest.mark.parametrize(
    ("take", "suffixes"),
    [(remove, some) for some in SOME] + [(take, (suffix,)) for take in (move, replace) for suffix in SUFFIXES],
)


@take_away
async def test_a_log_taken_away_before_a_commit_takes_nothing_with_it(
    path: Path, notes: Engine[Notebook], suffixes: tuple[str, ...], take: Any
) -> None:
    await write(notes, "before")
    take(path, suffixes)
    await write(notes, "after")
    assert await texts(notes) == ["before", "after"]
    assert await after_a_kill(path) == ["before", "after"]


@pytest.mark.slow
@take_away
async def test_a_log_taken_away_during_a_commit_takes_nothing_with_it(
    path: Path, notes: Engine[Notebook], engines: Engines, suffixes: tuple[str, ...], take: Any
) -> None:
    await write(notes, "before")

    def change(notebook: Notebook) -> None:
        notebook.write("meanwhile")
        take(path, suffixes)

    await notes.write(change)
    assert engines.told == ["before", "meanwhile"]
    assert await after_a_kill(path) == ["before", "meanwhile"]
    await write(notes, "after")
    assert await after_a_kill(path) == ["before", "meanwhile", "after"]


@parametrize_suffixes
async def test_a_log_taken_away_between_commits_is_noticed_without_a_call(
    path: Path, engines: Engines, suffixes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    notes = engines.make(tick_every=OFTEN)
    await write(notes, "before")
    session = await notes.write(session_of)
    remove(path, suffixes)
    while await notes.write(session_of) is session:
        await asyncio.sleep(0)
    assert await after_a_kill(path) == ["before"]
    said("sqlite: a log that was removed, logged", without_places(caplog.records[-1].getMessage()))


async def test_a_lock_that_was_moved_is_noticed_without_a_call(path: Path, engines: Engines) -> None:
    notes = engines.make(tick_every=OFTEN)
    await write(notes, "before")
    move(path, (".lock",))
    await until(beside(path, ".lock").exists)
    await write(notes, "after")
    assert await after_a_kill(path) == ["before", "after"]


async def test_a_process_that_only_reads_notices_too(path: Path, engines: Engines) -> None:
    reading = engines.make(tick_every=OFTEN)
    assert await texts(reading) == []
    remove(path, ("-wal", "-shm"))
    notes = engines.make(busy_timeout=60.0)
    await write(notes, "1")
    assert await texts(reading) == ["1"]


async def test_a_reading_connection_that_cannot_be_opened_is_opened_by_a_later_call(
    notes: Engine[Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any) -> int:
        raise connection.SQLiteError("disk I/O error")

    await write(notes, "1")
    with pytest.raises(StoreError):
        await notes.read(break_down)
    with monkeypatch.context() as patch:
        patch.setattr(database, "layout_of", unreadable)
        with pytest.raises(StoreError):
            await texts(notes)
    assert await texts(notes) == ["1"]


@parametrize_suffixes
async def test_two_engines_of_one_process_lose_nothing(path: Path, engines: Engines, suffixes: tuple[str, ...]) -> None:
    first, second = engines.make(tick_every=OFTEN), engines.make(tick_every=OFTEN)
    await write(first, "first")
    await write(second, "second")
    remove(path, suffixes)
    await asyncio.gather(write(first, "third"), write(second, "fourth"))
    await asyncio.gather(write(first, "fifth"), write(second, "sixth"))
    everything = {"first", "second", "third", "fourth", "fifth", "sixth"}
    assert set(await texts(first)) == set(await texts(second)) == everything
    assert set(await after_a_kill(path)) == everything


@pytest.mark.slow
@parametrize_suffixes
async def test_two_processes_lose_nothing(path: Path, engines: Engines, other: Other, suffixes: tuple[str, ...]) -> None:
    notes = engines.make(tick_every=OFTEN, busy_timeout=60.0)
    await write(notes, "ours")
    await other.do("write theirs")
    remove(path, suffixes)
    theirs = asyncio.ensure_future(other.do("write theirs too"))
    await write(notes, "ours too")
    await theirs
    everything = {"ours", "theirs", "ours too", "theirs too"}
    assert set(await texts(notes)) == everything
    assert set(await after_a_kill(path)) == everything


@pytest.mark.slow
@parametrize_suffixes
async def test_what_another_process_wrote_that_was_killed_is_moved_too(
    path: Path, notes: Engine[Notebook], other: Other, suffixes: tuple[str, ...]
) -> None:
    await write(notes, "ours")
    await other.do("write theirs")
    remove(path, suffixes)
    await other.kill()
    await write(notes, "ours too")
    assert await after_a_kill(path) == ["ours", "theirs", "ours too"]


# opening beside others whose files were replaced


@parametrize_suffixes
async def test_a_process_is_kept_away_while_others_have_the_earlier_files(
    path: Path, notes: Engine[Notebook], engines: Engines, suffixes: tuple[str, ...]
) -> None:
    await write(notes, "1")
    remove(path, suffixes)
    late = engines.make(busy_timeout=0, open_timeout=0)
    with refused("replaced files, not noticed yet"):
        await write(late, "too early")
    await write(notes, "2")
    await write(late, "3")
    assert await after_a_kill(path) == ["1", "2", "3"]


async def test_a_process_that_is_kept_away_goes_on_once_the_others_have_noticed(
    path: Path, notes: Engine[Notebook], engines: Engines
) -> None:
    await write(notes, "1")
    remove(path, ("-wal", "-shm"))
    late = asyncio.ensure_future(write(engines.make(busy_timeout=60.0), "3"))
    await write(notes, "2")
    await late
    assert sorted(await after_a_kill(path)) == ["1", "2", "3"]


async def test_a_process_that_is_kept_away_makes_no_log(path: Path, notes: Engine[Notebook], engines: Engines) -> None:
    await write(notes, "1")
    remove(path, ("-wal", "-shm"))
    with pytest.raises(StoreError):
        await texts(engines.make(busy_timeout=0, open_timeout=0))
    assert not beside(path, "-wal").exists()


@pytest.mark.slow
async def test_a_file_taken_away_while_it_is_opened_is_opened_again(
    path: Path, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def look(connection: Any, *more: Any) -> int:
        if len(taken) < 1:
            taken.append("-wal")
            beside(path, "-wal").unlink()
        return migrations.layout_of(connection, *more)

    await write(engines.make(), "1")
    await engines.close()
    monkeypatch.setattr(database, "layout_of", look)
    notes = engines.make()
    await write(notes, "2")
    assert taken == ["-wal"]
    assert await after_a_kill(path) == ["1", "2"]


async def test_a_look_up_opens_no_connection_beside_files_that_were_replaced(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "1")
    remove(path, ("-wal",))
    with pytest.raises(StoreError):
        await notes.read(break_down)
    with refused("replaced before a read"):
        await texts(notes)
    await write(notes, "2")
    assert await texts(notes) == ["1", "2"]


# the file itself


@pytest.mark.slow
async def test_a_file_moved_away_acknowledges_nothing_and_takes_everything_acknowledged_with_it(
    path: Path, notes: Engine[Notebook], engines: Engines
) -> None:
    await write(notes, "before")
    moved = path.with_name("moved.db")
    path.rename(moved)
    with refused("moved while in use"):
        await write(notes, "not acknowledged")
    await write(notes, "a new file")
    assert await after_a_kill(path) == ["a new file"]
    assert (await after_a_kill(moved))[0] == "before"


async def test_a_file_moved_during_a_commit_acknowledges_nothing(path: Path, notes: Engine[Notebook], engines: Engines) -> None:
    def change(notebook: Notebook) -> None:
        notebook.write("not acknowledged")
        path.rename(path.with_name("moved.db"))

    await write(notes, "before")
    with refused("moved while in use"):
        await notes.write(change)
    assert engines.told == ["before"]


async def test_a_file_that_was_put_back_is_gone_on_with(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "before")
    path.rename(path.with_name("moved.db"))
    with pytest.raises(StoreError):
        await write(notes, "not acknowledged")
    path.with_name("moved.db").rename(path)
    await write(notes, "after")
    found = await texts(notes)
    assert (found[0], found[-1]) == ("before", "after")


async def test_no_tick_makes_a_file_in_place_of_the_one_that_was_moved(path: Path, engines: Engines) -> None:
    notes = engines.make(tick_every=OFTEN)
    notebook = await notes.write(session_of)
    path.rename(path.with_name("moved.db"))
    await until(lambda: not beside(path, "-wal").exists())
    seen = notebook.ticks
    for _ in range(50):
        await asyncio.to_thread(os.sched_yield)
    assert not path.exists()
    assert notebook.ticks == seen
    path.with_name("moved.db").rename(path)
    await until(lambda: beside(path, "-wal").exists())


@pytest.mark.slow
async def test_everybody_goes_on_with_the_file_that_took_the_place(path: Path, engines: Engines, other: Other) -> None:
    await write(engines.make(path=path.with_name("restored.db")), "restored")
    await engines.close()
    notes = engines.make(tick_every=OFTEN, busy_timeout=60.0)
    await write(notes, "before")
    await other.do("write theirs")
    path.with_name("restored.db").replace(path)
    calls = write(notes, "1"), other.do("write 2")
    answers = await asyncio.gather(*calls, return_exceptions=True)  # who notices in a tick need not fail a call
    assert all(answer is None or isinstance(answer, (StoreError, RuntimeError)) for answer in answers)
    await write(notes, "3")
    await other.do("write 4")
    found = await texts(notes)
    assert found[0] == "restored"
    assert found[-2:] == ["3", "4"]
    assert "before" not in found
    assert await after_a_kill(path) == found


@pytest.mark.slow
async def test_a_file_with_its_own_log_may_take_the_place(path: Path, engines: Engines) -> None:
    notes = engines.make()
    await write(notes, "before")
    restored = path.with_name("restored.db")
    async with other_process(restored) as other:
        await other.do("write restored")
        await other.do("write not yet in the file")
        await other.kill()
    for suffix in ("", "-wal", "-shm"):
        beside(restored, suffix).replace(beside(path, suffix))
    with refused("moved while in use"):
        await write(notes, "not acknowledged")
    await write(notes, "after")
    assert await texts(notes) == ["restored", "not yet in the file", "after"]


@pytest.mark.slow
async def test_the_log_of_another_file_is_not_moved_into_the_one_that_took_the_place(
    path: Path, engines: Engines, other: Other
) -> None:
    restored = path.with_name("restored.db")
    await write(engines.make(path=restored), "restored")
    await engines.close()
    await other.do("write before")
    await other.kill()
    restored.replace(path)
    notes = engines.make()
    for call in (write(notes, "1"), texts(notes)):
        with refused("replaced beside the earlier log"):
            await call
    beside(path, "-wal").rename(path.with_name("kept-wal"))
    await write(notes, "after")
    assert await texts(notes) == ["restored", "after"]


# readers that keep the log from being moved


@pytest.mark.slow
async def test_a_log_that_is_gone_and_read_acknowledges_nothing_until_it_is_moved(
    path: Path, engines: Engines, other: Other
) -> None:
    notes = engines.make(busy_timeout=0.05)
    await write(notes, "1")
    await other.do("look")
    await write(notes, "2")
    remove(path, ("-wal",))
    with refused("a removed log that is read"):
        await write(notes, "not acknowledged")
    await other.do("look-away")
    await write(notes, "3")
    found = await after_a_kill(path)
    assert (found[:2], found[-1]) == (["1", "2"], "3")


async def write_for_ever(notes: Engine[Notebook]) -> None:
    while True:
        await write(notes, "again")


@pytest.mark.slow
async def test_another_process_that_moves_the_log_is_waited_for(
    path: Path, engines: Engines, other: Other, caplog: pytest.LogCaptureFixture
) -> None:
    notes, impatient = engines.make(busy_timeout=60.0), engines.make(busy_timeout=0)
    await write(notes, "1")
    await other.do("look")
    await write(notes, "2")
    async with other_process(path) as mover:
        await mover.do("sql SELECT 1")
        mover.tell("sql PRAGMA wal_checkpoint(FULL)")  # waits for the one that looks, and holds the lock to write
        with pytest.raises(StoreError):
            await write_for_ever(impatient)
        remove(path, ("-wal",))
        writing = asyncio.ensure_future(write(notes, "3"))
        await until(lambda: any(record.levelno == logging.ERROR for record in caplog.records))
        await other.do("look-away")
        await impatient.aclose()
        await writing
    found = await after_a_kill(path)
    assert (found[:2], found[-1]) == (["1", "2"], "3")


@pytest.mark.slow
async def test_a_log_removed_before_the_end_is_moved_into_the_file_though_another_process_has_it_open(
    path: Path, notes: Engine[Notebook], other: Other
) -> None:
    await other.do("write theirs")
    await write(notes, "ours")
    remove(path, ("-wal",))
    await notes.aclose()
    await other.kill()
    assert await after_a_kill(path) == ["theirs", "ours"]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
async def test_a_log_that_cannot_be_moved_at_the_end_is_said(
    path: Path, engines: Engines, other: Other, caplog: pytest.LogCaptureFixture, broken: bool
) -> None:
    notes = engines.make(busy_timeout=0.05)
    await write(notes, "1")
    await other.do("look")
    await write(notes, "2")
    notebook = await notes.write(lambda notebook: notebook)
    remove(path, ("-wal",))
    if broken:
        notebook.db.close(True)
    with caplog.at_level(logging.ERROR):
        await notes.aclose()
    said(f"sqlite: a removed log at the end{', broken' if broken else ''}", without_places(caplog.records[-1].getMessage()))


@pytest.mark.slow
async def test_a_lock_that_another_version_holds_by_now_keeps_away(path: Path, engines: Engines, other: Other) -> None:
    notes = engines.make(busy_timeout=0, open_timeout=0)
    await write(notes, "1")
    remove(path, (".lock",))
    await other.do("flock")
    await write(notes, "2")
    with pytest.raises(StoreError):
        await write(notes, "not acknowledged")
    await other.kill()
    await write(notes, "3")
    assert await texts(notes) == ["1", "2", "3"]
    assert await pragma(notes, "integrity_check") == [("ok",)]
