"""What a file holds: older and newer layouts, other programs' files, other versions that have it open, and backups."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rewards_core.errors import StoreError
from rewards_core.sqlite import connection, database, engine, migrations
from rewards_core.sqlite.connection import Connection, FullError, SQLiteError, connect, connect_without_log, in_use
from rewards_core.sqlite.database import open_database
from rewards_core.sqlite.engine import Engine
from rewards_core.sqlite.files import FileLock
from rewards_core.sqlite.migrations import Schema
from tests.rewards_core.sqlite_kit import (
    LINES,
    OLDER,
    SCHEMA,
    Engines,
    Notebook,
    Other,
    after_a_kill,
    beside,
    other_process,
    pragma,
    refused,
    run_elsewhere,
    texts,
    until,
    write,
)

MAKE_FOREIGN = """
import sys
import apsw
apsw.Connection(sys.argv[1]).execute("CREATE TABLE theirs (x); PRAGMA journal_mode = DELETE")
"""
SET_LAYOUT = "import sys, apsw; apsw.Connection(sys.argv[1]).execute('PRAGMA user_version = 99')"


# layouts


@pytest.mark.slow
async def test_an_older_layout_is_brought_to_the_newest_after_a_backup_beside_it(path: Path, engines: Engines) -> None:
    await write(engines.make(OLDER), "1")
    await engines.close()
    notes = engines.make()
    await write(notes, "2")
    assert await texts(notes) == ["1", "2"]
    assert await pragma(notes, "user_version") == [(2,)]
    backup = path.with_name("notes.db.layout-1.backup")
    assert await after_a_kill(backup) == ["1"]
    assert await after_a_kill(backup, "SELECT user_version FROM pragma_user_version") == [1]


async def test_a_new_file_and_one_of_the_newest_layout_need_no_backup(path: Path, engines: Engines) -> None:
    for text in ("1", "2"):
        await write(engines.make(), text)
        await engines.close()
    assert {file.name for file in path.parent.iterdir()} == {"notes.db", "notes.db.lock"}


async def test_a_migration_that_fails_leaves_the_older_layout(path: Path, engines: Engines) -> None:
    await write(engines.make(OLDER), "1")
    await engines.close()
    broken = Schema(kind="notebook", application_id=SCHEMA.application_id, migrations=(LINES, "CREATE TABLE new (x)", LINES))
    with pytest.raises(StoreError):
        await write(engines.make(broken), "2")
    assert await after_a_kill(path, "SELECT name FROM sqlite_schema WHERE name IN ('line', 'new')") == ["line"]
    older = engines.make(OLDER)
    await write(older, "3")
    assert await texts(older) == ["1", "3"]


async def test_without_room_for_its_backup_a_file_is_not_migrated(path: Path, engines: Engines) -> None:
    await write(engines.make(OLDER), "1")
    await engines.close()
    path.with_name("notes.db.layout-1.backup").mkdir()
    with refused("no room for a backup"):
        await write(engines.make(), "2")
    assert await after_a_kill(path, "SELECT user_version FROM pragma_user_version") == [1]


async def test_a_newer_layout_is_refused(path: Path, notes: Engine[Notebook], engines: Engines) -> None:
    await write(notes, "1")
    await notes.aclose()
    await run_elsewhere(SET_LAYOUT, path)
    late = engines.make()
    for call in (write(late, "2"), texts(late)):
        with refused("a newer layout"):
            await call


async def test_another_programs_database_is_refused_and_left_as_it_is(path: Path, notes: Engine[Notebook]) -> None:
    await run_elsewhere(MAKE_FOREIGN, path)
    before = path.read_bytes()
    for call in (write(notes, "2"), texts(notes)):
        with refused("another program's database"):
            await call
    assert path.read_bytes() == before


async def test_functions_are_registered_before_migrations_run_and_beside_others(path: Path, engines: Engines) -> None:
    registered: list[Any] = []
    schema = Schema(
        kind="notebook", application_id=SCHEMA.application_id, migrations=SCHEMA.migrations, register=registered.append
    )
    await write(engines.make(schema), "1")
    await write(engines.make(schema), "2")
    assert len(registered) == 2


# other versions that have it open


@pytest.mark.slow
async def test_a_file_in_use_by_processes_of_an_older_layout_is_refused_until_they_end(
    path: Path, engines: Engines, other: Other
) -> None:
    await other.do("older-write 1")
    notes = engines.make()
    for call in (write(notes, "2"), texts(notes)):
        with refused("open in an older version"):
            await call
    await other.do("older-write 3")
    await other.kill()
    await write(notes, "4")
    assert await texts(notes) == ["1", "3", "4"]


@pytest.mark.slow
async def test_a_process_of_version_0_1_keeps_away(path: Path, engines: Engines, other: Other) -> None:
    await other.do("flock")
    notes = engines.make(busy_timeout=0, open_timeout=0)
    for call in (write(notes, "1"), texts(notes)):
        with refused("open in version 0.1"):
            await call
    assert not path.exists()
    await other.kill()
    await write(notes, "2")


@pytest.mark.slow
async def test_a_process_of_version_0_1_is_kept_away(notes: Engine[Notebook], other: Other) -> None:
    await write(notes, "1")
    with pytest.raises(RuntimeError, match="BlockingIOError"):
        await other.do("flock")
    await notes.aclose()
    await other.do("flock")


@pytest.mark.slow
async def test_many_processes_that_start_at_once_share_a_new_file(path: Path) -> None:
    async def one(number: int) -> None:
        async with other_process(path) as other:
            await other.do(f"write {number}")
            started.append(number)
            await until(lambda: len(started) == 5)

    started: list[int] = []
    await asyncio.gather(*(one(number) for number in range(5)))
    assert sorted(await after_a_kill(path)) == ["0", "1", "2", "3", "4"]


CROWD = """
import asyncio, os, sys
from pathlib import Path
from tests.rewards_core.sqlite_kit import Engines, write

gate, open_gate = os.pipe()
children = []
for number in range(30):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(open_gate)
        os.read(gate, 1)
        asyncio.run(write(Engines(Path(sys.argv[1])).make(), str(number)))
        os._exit(0)
os.close(open_gate)
print([os.waitpid(child, 0)[1] for child in children].count(0))
"""


@pytest.mark.slow
async def test_a_crowd_that_starts_at_once_shares_a_new_file(path: Path) -> None:
    assert await run_elsewhere(CROWD, path) == "30\n"
    assert sorted(map(int, await after_a_kill(path))) == list(range(30))


class Patience:
    """A clock that goes on by 3 s with each nap, in which something else happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Iterable[Callable[[], object]]) -> None:
        self.now = 0.0
        self._happens = iter(happens)
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        for waiting in (connection, database):
            monkeypatch.setattr(waiting, "nap", self.nap)

    def nap(self, _: int) -> None:
        self.now += 3
        next(self._happens, object)()


def open_now(path: Path, schema: Schema = SCHEMA) -> None:
    open_database(path, schema, session=Notebook, busy_timeout=5, open_timeout=5).close()


def test_a_lock_to_write_is_waited_for_while_others_commit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_now(path)
    theirs, ours = connect(path), connect(path, busy_timeout=5)
    theirs.execute("BEGIN IMMEDIATE")
    commit = partial(theirs.execute, "INSERT INTO mark VALUES ('another'); COMMIT; BEGIN IMMEDIATE")
    waiting = Patience(monkeypatch, [*[commit] * 10, partial(theirs.execute, "COMMIT")])
    ours.execute("BEGIN IMMEDIATE; COMMIT")
    assert waiting.now > 30
    theirs.execute("BEGIN IMMEDIATE")
    waiting.now = 0
    with pytest.raises(SQLiteError):
        ours.execute("BEGIN IMMEDIATE")
    assert waiting.now < 10
    theirs.close()
    ours.close()


def test_one_that_opens_the_file_alone_is_waited_for_while_it_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = FileLock(path)
    assert holder.take()
    touched = [partial(os.utime, holder.path, ns=(number, number)) for number in range(10)]
    waiting = Patience(monkeypatch, [*touched, holder.release])
    open_now(path)
    assert waiting.now > 30
    assert holder.take()
    waiting.now = 0
    with refused("no progress of another process"):
        open_now(path)
    assert waiting.now < 10
    holder.release()


def test_files_that_never_become_complete_end_the_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process itself notes while it has the file alone is no progress."""

    def migrate(connection: Connection, *rest: Any) -> None:
        migrations.migrate(connection, *rest)
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()

    monkeypatch.setattr(database, "migrate", migrate)
    waiting = Patience(monkeypatch, [*[object] * 10, partial(pytest.fail, "it still waits")])
    with refused("replaced at each attempt"):
        open_now(path)
    assert waiting.now < 10


def test_a_file_that_cannot_have_a_log_is_refused_and_left_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shared memory SQLite keeps the journal it has, and raises no error."""
    run = Connection(str(path))
    run.execute(f"{LINES}; PRAGMA application_id = {OLDER.application_id}; PRAGMA user_version = 1")
    run.close()
    before = path.read_bytes()
    monkeypatch.setattr(database, "connect", lambda path, **_: Connection(str(path), vfs="unix-none"))
    waiting = Patience(monkeypatch, [partial(pytest.fail, "it waits")])
    with refused("no write-ahead log"):
        open_now(path)
    assert waiting.now == 0
    assert path.read_bytes() == before
    assert not beside(path, ".layout-1.backup").exists()


class Counted(FileLock):
    """A lock that counts how often it was touched."""

    touched = 0

    def touch(self) -> None:
        Counted.touched += 1
        super().touch()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    monkeypatch.setattr(database, "FileLock", Counted)
    monkeypatch.setattr(Counted, "touched", 0)
    return Counted


@pytest.mark.slow
def test_a_long_migration_says_that_it_goes_on(path: Path, counted: type[Counted]) -> None:
    long = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n"
    open_now(path, Schema(kind="notebook", application_id=SCHEMA.application_id, migrations=(LINES, long)))
    assert counted.touched > 1


def test_a_long_backup_before_a_migration_says_that_it_goes_on(
    path: Path, counted: type[Counted], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_now(path, OLDER)
    filled = connect(path)
    filled.execute("INSERT INTO line (text) VALUES (?)", ("x" * 100_000,))
    filled.close()
    monkeypatch.setattr(migrations, "PAGES_AT_ONCE", 2)
    open_now(path)
    assert counted.touched >= 10
    backup = connect_without_log(beside(path, ".layout-1.backup"))
    assert backup.execute("PRAGMA integrity_check; SELECT length(text) FROM line").fetchall() == [("ok",), (100_000,)]
    backup.close()


def test_a_backup_in_slices_does_not_begin_again_when_somebody_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_now(path)
    source, theirs = connect(path), connect(path)
    source.execute("INSERT INTO line (text) VALUES (?)", ("x" * 100_000,))
    slices: list[int] = []

    def write_between() -> None:
        slices.append(len(slices))
        assert len(slices) < 100
        theirs.execute("INSERT INTO line (text) VALUES ('meanwhile')")

    monkeypatch.setattr(migrations, "PAGES_AT_ONCE", 2)
    migrations.back_up(source, path.with_name("copy.db"), write_between)
    assert len(slices) >= 10
    source.execute("INSERT INTO line (text) VALUES ('after')")  # no transaction was left open
    copy = connect_without_log(path.with_name("copy.db"))
    assert copy.execute("PRAGMA integrity_check; SELECT count(*) FROM line").fetchall() == [("ok",), (1,)]
    for one in (copy, source, theirs):
        one.close()


async def test_a_process_that_gets_in_between_makes_the_first_one_try_again(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exclusive lock becomes a shared one in two steps; another process may take it exclusively between them."""
    took: list[bool] = []

    class Contested(FileLock):
        def take(self, *, shared: bool = False, note: bool = True) -> bool:
            took.append(shared)
            if took == [False, True]:
                self.release()
                return False
            return super().take(shared=shared, note=note)

    monkeypatch.setattr(database, "FileLock", Contested)
    notes = engines.make()
    await write(notes, "1")
    assert took == [False, True, False, True]
    assert await texts(notes) == ["1"]


async def test_whether_any_connection_has_a_file_open_is_known_without_its_lock(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "1")
    assert in_use(path)
    for suffix in ("-wal", "-shm", ".lock"):
        beside(path, suffix).unlink()
    assert in_use(path)
    await notes.aclose()
    assert not in_use(path)


# backups


async def test_a_backup_is_one_complete_file(path: Path, notes: Engine[Notebook], engines: Engines) -> None:
    await write(notes, "1", "x" * 1_000_000)
    copy = path.with_name("copy.db")
    copy.write_text("what stood there")
    await notes.back_up(copy)
    await write(notes, "2")
    assert len(await after_a_kill(copy)) == 2
    db = connect_without_log(copy)
    assert db.execute("PRAGMA journal_mode").fetchall() == [("delete",)]
    db.close()
    assert {file.name for file in path.parent.iterdir() if "copy" in file.name} == {"copy.db"}


@pytest.mark.slow
async def test_a_backup_is_made_though_others_write_all_the_time(path: Path, notes: Engine[Notebook], other: Other) -> None:
    await write(notes, *(f"{number}" + "x" * 100_000 for number in range(100)))
    await other.do("write begin")
    other.tell("race theirs")
    copy = path.with_name("copy.db")
    await notes.back_up(copy)
    await other.kill()
    assert len(await after_a_kill(copy, "SELECT text FROM line WHERE length(text) > 100000")) == 100


async def test_look_ups_and_changes_go_on_during_a_backup(
    path: Path, notes: Engine[Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    def look_and_copy(*arguments: Any) -> None:
        assert not threading.current_thread().name.startswith("sqlite-")  # the threads that look and change
        assert asyncio.run_coroutine_threadsafe(texts(notes), loop).result() == ["1"]
        asyncio.run_coroutine_threadsafe(write(notes, "2"), loop).result()
        migrations.back_up(*arguments)

    await write(notes, "1")
    monkeypatch.setattr(engine, "back_up", look_and_copy)
    await notes.back_up(path.with_name("copy.db"))
    assert await after_a_kill(path.with_name("copy.db")) == ["1", "2"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
async def test_a_backup_is_never_written_over_a_file_of_the_database_itself(
    path: Path, notes: Engine[Notebook], suffix: str
) -> None:
    await write(notes, "1")
    link = path.with_name("link")
    link.symlink_to(beside(path, suffix))
    for to in (beside(path, suffix), link):
        with pytest.raises(StoreError):
            await notes.back_up(to)
    assert await after_a_kill(path) == ["1"]


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
async def test_a_backup_is_never_written_beneath_the_log_of_another_database(
    path: Path, notes: Engine[Notebook], suffix: str
) -> None:
    await write(notes, "1")
    theirs = path.with_name("theirs.db")
    theirs.write_text("a database")
    beside(theirs, suffix).write_text("its log")
    with refused(f"a backup over a database with {suffix}"):
        await notes.back_up(theirs)
    assert theirs.read_text() == "a database"
    assert {file.name for file in path.parent.iterdir() if "theirs" in file.name} == {"theirs.db", f"theirs.db{suffix}"}


async def test_a_backup_is_never_written_into_a_folder_by_chance(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "1")
    with pytest.raises(StoreError):
        await notes.back_up(path.parent)


async def test_a_backup_that_fails_is_not_there(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "x" * 1_000_000)
    copy = path.with_name("copy.db")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError):
            await notes.back_up(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [file for file in path.parent.iterdir() if "copy" in file.name]
    with refused("a backup into a missing folder"):
        await notes.back_up(path.parent / "missing" / "copy.db")


async def test_a_full_disk_is_said_to_be_that_of_the_backup(
    path: Path, notes: Engine[Notebook], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise FullError("database or disk is full")

    await write(notes, "1")
    monkeypatch.setattr(engine, "back_up", full)
    with refused("a backup on a full disk"):
        await notes.back_up(path.with_name("copy.db"))


async def test_a_backup_brings_an_older_file_to_the_newest_layout_first(path: Path, engines: Engines) -> None:
    await write(engines.make(OLDER), "1")
    await engines.close()
    await engines.make().back_up(path.with_name("copy.db"))
    assert await after_a_kill(path.with_name("copy.db"), "SELECT user_version FROM pragma_user_version") == [2]
