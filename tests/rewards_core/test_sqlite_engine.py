"""One file and the engines that share it: group commits, locks, trouble with the disk, and how it is opened and closed."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from rewards_core.errors import StoreError, StoreFull
from rewards_core.sqlite.connection import Connection
from rewards_core.sqlite.engine import Engine
from rewards_core.sqlite.files import FileLock
from tests.rewards_core.sqlite_kit import (
    ROOT,
    Engines,
    Notebook,
    Other,
    after_a_kill,
    beside,
    pragma,
    refused,
    run_elsewhere,
    session_of,
    texts,
    texts_in,
    write,
    write_all,
)
from tests.texts import said, without_places

# opening


async def test_the_file_is_opened_by_the_first_call(path: Path, notes: Engine[Notebook]) -> None:
    assert list(path.parent.iterdir()) == []
    assert await texts(notes) == []
    assert {file.name for file in path.parent.iterdir()} == {f"notes.db{suffix}" for suffix in ("", "-wal", "-shm", ".lock")}


async def test_files_are_for_their_owner_alone(path: Path, notes: Engine[Notebook]) -> None:
    before = os.umask(0)
    try:
        await write(notes, "1")
        await notes.back_up(path.with_name("copy.db"))
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


async def test_an_engine_that_was_never_used_closes_without_a_file(path: Path, notes: Engine[Notebook]) -> None:
    await notes.aclose()
    assert list(path.parent.iterdir()) == []


async def test_the_last_to_close_moves_the_log_into_the_file(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "1")
    await notes.aclose()
    assert {file.name for file in path.parent.iterdir()} == {"notes.db", "notes.db.lock"}
    assert await after_a_kill(path) == ["1"]


async def test_commits_wait_for_the_disk_and_erased_bytes_are_overwritten(notes: Engine[Notebook]) -> None:
    assert await pragma(notes, "journal_mode") == [("wal",)]
    assert await pragma(notes, "synchronous") == [(2,)]
    assert await pragma(notes, "secure_delete") == [(1,)]
    assert await pragma(notes, "temp_store") == [(2,)]


async def test_on_macos_commits_wait_for_the_platter(notes: Engine[Notebook], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert await pragma(notes, "fullfsync") == [(1,)]
    assert await pragma(notes, "checkpoint_fullfsync") == [(1,)]


async def test_a_reading_connection_cannot_write(notes: Engine[Notebook]) -> None:
    with refused("a write on a reading connection"):
        await notes.read(lambda db: db.execute("DELETE FROM line"))


@pytest.mark.parametrize("where", ["missing/notes.db", "file/notes.db"])
async def test_a_folder_that_is_not_there_is_said_and_tried_again(engines: Engines, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    notes = engines.make(path=tmp_path / where)
    for call in (write(notes, "1"), texts(notes)):
        with refused(f"no folder, {where}"):
            await call
    (tmp_path / "file").unlink()
    (tmp_path / where).parent.mkdir()
    await write(notes, "1")


async def test_a_folder_in_place_of_the_file_is_said(path: Path, notes: Engine[Notebook]) -> None:
    path.mkdir()
    with refused("a folder"):
        await write(notes, "1")


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path, notes: Engine[Notebook]) -> None:
    path.write_bytes(b"something else entirely" * 100)
    with refused("another kind of file"):
        await write(notes, "1")
    with refused("another kind of file"):
        await texts(notes)
    assert path.read_bytes() == b"something else entirely" * 100


async def test_a_link_to_the_file_is_the_same_file(path: Path, notes: Engine[Notebook], engines: Engines, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    linked = engines.make(path=link)
    await write(linked, "1")
    await write(notes, "2")
    assert await texts(linked) == await texts(notes) == ["1", "2"]
    assert not beside(link, "-wal").exists()


async def test_a_hard_link_is_refused(path: Path, notes: Engine[Notebook], engines: Engines, tmp_path: Path) -> None:
    await write(notes, "1")
    (tmp_path / "second.db").hardlink_to(path)
    with pytest.raises(StoreError, match="hard links"):
        await write(engines.make(path=tmp_path / "second.db"), "2")
    await write(notes, "3")


async def test_a_file_on_a_network_file_system_is_refused(
    notes: Engine[Notebook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("22 1 8:1 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr("rewards_core.sqlite.files.MOUNTS", mounts)
    with pytest.raises(StoreError):
        await write(notes, "1")


# calls


async def test_calls_of_one_moment_are_one_commit(notes: Engine[Notebook], engines: Engines) -> None:
    notebook = await notes.write(session_of)
    before = notebook.commits
    await asyncio.gather(
        *(notes.write(lambda notebook, text=str(number): notebook.write(text)) for number in range(50)),  # type: ignore[misc]
        *(notes.write_together(write_all, str(number)) for number in range(50, 100)),
    )
    assert notebook.commits == before + 1
    assert sorted(map(int, await texts(notes))) == list(range(100))
    assert sorted(map(int, engines.told)) == list(range(100))


async def test_results_of_calls_that_go_together_come_back_to_each(notes: Engine[Notebook]) -> None:
    assert await asyncio.gather(*(notes.write_together(write_all, str(number)) for number in range(5))) == list("01234")


async def test_what_became_durable_is_told_before_the_call_returns(notes: Engine[Notebook], engines: Engines) -> None:
    for text in ("1", "2"):
        await write(notes, text)
        assert engines.told[-1] == text


def break_a_rule(notebook: Notebook) -> None:
    notebook.write("taken back")
    notebook.write(None)


def break_down(notebook: Notebook) -> None:
    notebook.write("taken back")
    raise ZeroDivisionError


async def test_a_call_that_fails_fails_alone(notes: Engine[Notebook], engines: Engines) -> None:
    answers = await asyncio.gather(
        notes.write(lambda notebook: notebook.write("1")),
        notes.write(break_a_rule),
        notes.write(break_down),
        notes.write_together(write_all, 2**80),  # type: ignore[arg-type]
        notes.write_together(write_all, "2"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [str, StoreError, ZeroDivisionError, OverflowError, str]
    assert await texts(notes) == engines.told == ["1", "2"]


async def test_a_change_may_raise_errors_of_the_store_itself(notes: Engine[Notebook]) -> None:
    def refuse(notebook: Notebook) -> None:
        raise StoreFull("enough")

    answers = await asyncio.gather(notes.write(refuse), notes.write(session_of), return_exceptions=True)
    assert isinstance(answers[0], StoreFull)
    assert isinstance(answers[1], Notebook)


async def test_a_look_up_that_fails_fails_alone(notes: Engine[Notebook]) -> None:
    def divide(db: Connection) -> None:
        raise ZeroDivisionError

    answers = await asyncio.gather(
        notes.read(lambda db: db.execute("SELECT nonsense FROM nowhere")),
        notes.read(divide),
        texts(notes),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [StoreError, ZeroDivisionError, list]


async def test_a_fault_after_a_commit_fails_no_call_and_repeats_none(
    notes: Engine[Notebook], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(notebook: Notebook) -> None:
        raise OSError("too many open files")

    await write(notes, "1")
    monkeypatch.setattr(Notebook, "committed", broken)
    await write(notes, "2", "3")
    assert await texts(notes) == ["1", "2", "3"]
    assert [record.levelno for record in caplog.records if record.name == "rewards_core.sqlite.engine"] == [logging.ERROR]


# the lock to write


@pytest.mark.slow
async def test_a_lock_that_is_not_given_back_fails_the_call_and_the_next_one_goes_on(engines: Engines, other: Other) -> None:
    notes = engines.make(busy_timeout=0.05)
    await write(notes, "1")
    await other.do("lock")
    with refused("locked by another program"):
        await write(notes, "2")
    assert await texts(notes) == ["1"]
    await other.do("unlock")
    await write(notes, "3")
    assert await texts(notes) == ["1", "3"]


@pytest.mark.slow
async def test_without_a_time_to_wait_a_lock_is_refused_at_once(engines: Engines, other: Other) -> None:
    notes = engines.make(busy_timeout=0)
    await write(notes, "1")
    await other.do("lock")
    with refused("locked by another program"):
        await write(notes, "2")


@pytest.mark.slow
async def test_a_lock_is_waited_for(notes: Engine[Notebook], other: Other) -> None:
    await write(notes, "1")
    await other.do("lock")
    writing = asyncio.ensure_future(write(notes, "2"))
    await other.do("sql INSERT INTO line (text) VALUES ('theirs')")
    assert not writing.done()
    await other.do("sql COMMIT")
    await writing
    assert await texts(notes) == ["1", "theirs", "2"]


LONGEST_RUN = 500
"""Commits of one process in a row; with SQLite's own pauses they are thousands."""


@pytest.mark.slow
async def test_of_two_processes_that_write_all_the_time_none_starves(path: Path, notes: Engine[Notebook], other: Other) -> None:
    await other.do("write begin")
    await write(notes, "begin")
    other.tell("race theirs")
    order: list[str] = []
    while min(order.count("ours"), order.count("theirs")) < 200 and len(order) < 20 * LONGEST_RUN:
        await asyncio.gather(*(write(notes, "ours") for _ in range(2)))
        order = (await texts(notes))[2:]
    await other.kill()
    first = order.index("theirs")
    last = len(order) - 1 - order[::-1].index("theirs")
    assert max(len(list(run)) for _, run in groupby(order[first:last])) < LONGEST_RUN


# loops, forks and closing


async def test_closing_answers_what_is_under_way(notes: Engine[Notebook]) -> None:
    under_way: list[asyncio.Future[Any]] = [notes.write(lambda notebook: notebook.write("1")), notes.read(texts_in)]
    await notes.aclose()
    assert all(future.done() and future.exception() is None for future in under_way)


async def test_a_close_that_was_cancelled_lets_go_all_the_same(path: Path, notes: Engine[Notebook]) -> None:
    await write(notes, "1")
    closing = asyncio.ensure_future(notes.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await notes.aclose()
    assert not beside(path, "-wal").exists()


async def test_an_engine_may_be_used_from_one_loop_after_the_other(notes: Engine[Notebook]) -> None:
    await asyncio.to_thread(asyncio.run, write(notes, "1"))
    await asyncio.to_thread(asyncio.run, write(notes, "2"))
    await write(notes, "3")
    assert await texts(notes) == ["1", "2", "3"]


async def test_a_loop_that_ended_in_the_middle_harms_nobody(notes: Engine[Notebook]) -> None:
    async def leave() -> None:
        notes.write(lambda notebook: notebook.write("1"))
        notes.read(texts_in)

    await asyncio.to_thread(asyncio.run, leave())
    await write(notes, "2")
    assert "2" in await texts(notes)


FORKED = """
import asyncio, os, sys
from pathlib import Path
from rewards_core.errors import StoreError
from tests.rewards_core.sqlite_kit import Engines, texts, write

notes = Engines(Path(sys.argv[1])).make()

async def refused():
    for call in (write(notes, "child"), texts(notes)):
        try:
            await call
        except StoreError as problem:
            print(problem, flush=True)
    await notes.aclose()

asyncio.run(write(notes, "before"))
if os.fork() == 0:
    asyncio.run(refused())
    sys.exit()
os.wait()

async def go_on():
    await write(notes, "after")
    print(await texts(notes))
    await notes.aclose()

asyncio.run(go_on())
"""


@pytest.mark.slow
async def test_after_a_fork_the_child_is_refused_and_the_parent_unharmed(path: Path) -> None:
    first, second, last = (await run_elsewhere(FORKED, path)).splitlines()
    assert first == second
    said("sqlite: after a fork", without_places(first))
    assert last == "['before', 'after']"
    assert await after_a_kill(path) == ["before", "after"]


LEFT_BEHIND = """
import asyncio, os, sys
from pathlib import Path
from rewards_core.errors import StoreError
from tests.rewards_core.sqlite_kit import Engines, write

engines = Engines(Path(sys.argv[1]))
asyncio.run(write(engines.make(), "parent"))
until_killed, open_while_alive = os.pipe()
if os.fork() == 0:
    os.close(open_while_alive)
    os.read(until_killed, 1)
    print("parent was killed", flush=True)
    sys.stdin.readline()
    try:
        asyncio.run(write(engines.make(), "child"))
    except StoreError as problem:
        print(problem, flush=True)
    os._exit(0)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_child_that_outlives_its_parent_keeps_nobody_away_and_does_not_open_the_file(path: Path) -> None:
    command = [sys.executable, "-c", LEFT_BEHIND, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"parent was killed\n"
        lock = FileLock(path)
        taken = lock.take()
        lock.release()
        process.stdin.write(b"go on\n")
        process.stdin.close()
        told = process.stdout.read()
    assert taken
    assert b"was open in the process that this process was forked from" in told
    assert asyncio.run(after_a_kill(path)) == ["parent"]


FORKED_BEFORE = """
import asyncio, os, sys
from pathlib import Path
from tests.rewards_core.sqlite_kit import Engines, write

notes = Engines(Path(sys.argv[1])).make()
children = [os.fork() for _ in range(3)]

async def use():
    for number in range(20):
        await write(notes, str(os.getpid()))
    await notes.aclose()

asyncio.run(use())
if 0 not in children:
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
async def test_an_engine_made_before_a_fork_is_used_by_every_process_after_it(path: Path) -> None:
    await run_elsewhere(FORKED_BEFORE, path)
    assert await after_a_kill(path, "SELECT count(*) FROM line GROUP BY text") == [20] * 8
