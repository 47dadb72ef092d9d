"""A ledger's file: its owner, its lock, its disk, and what is no ledger."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from attrs import evolve

from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import LEDGER, connect_to_write
from payouts.states import LedgerError, LedgerInUse
from rewards_core.sqlite.connection import connect
from tests.payouts.ledger_contract import tokens
from tests.payouts.payout_kit import LAYOUT_2, ledger_at
from tests.texts import raises


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        (tmp_path / "loose.db").touch(0o666)
        for name in ("new.db", "loose.db"):
            async with ledger_at(tmp_path / name) as ledger:
                await ledger.plan([tokens()])
                assert {stray.name: stray.stat().st_mode & 0o777 for stray in tmp_path.glob(f"{name}*")} == {
                    f"{name}{suffix}": 0o600 for suffix in ("", "-wal", "-shm", ".lock")
                }
    finally:
        os.umask(old)


async def test_the_disk_is_asked_to_keep_every_commit(path: Path) -> None:
    ask = ["journal_mode", "synchronous", "fullfsync", "application_id"]
    async with ledger_at(path) as ledger:
        said = await ledger.transact(lambda database: [database.execute(f"PRAGMA {name}").get for name in ask])
    assert said == ["wal", 2, sys.platform == "darwin", LEDGER.application_id]


async def test_a_second_ledger_on_the_same_file_is_refused_while_the_first_is_open(path: Path) -> None:
    link = path.with_name("link.db")
    async with ledger_at(path):
        link.symlink_to(path)
        for way in (path, link):
            with pytest.raises(LedgerInUse, match=f"process {os.getpid()}") as refused:
                await ledger_at(way).__aenter__()
            assert refused.value.pid == os.getpid()
    async with ledger_at(path):
        pass


HOLDER = """
import asyncio, sys
from payouts.ledger.sqlite import Ledger

async def hold():
    async with Ledger(sys.argv[1], vendor="original", campaign="c"):
        print("holding", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""


@pytest.mark.slow
async def test_the_lock_ends_with_the_process_even_if_it_is_killed(path: Path) -> None:
    def start() -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        return process

    process = await asyncio.to_thread(start)
    try:
        with pytest.raises(LedgerInUse, match=f"process {process.pid}"):
            await ledger_at(path).__aenter__()
    finally:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.communicate)
    async with ledger_at(path):
        pass


async def test_a_lock_whose_holder_has_not_yet_written_its_name_is_still_a_lock(path: Path) -> None:
    async with ledger_at(path):
        path.with_name("payouts.db.lock").write_bytes(b"")
        with pytest.raises(LedgerInUse) as refused:
            await ledger_at(path).__aenter__()
        assert refused.value.pid is None


async def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "rewards.csv"
    text.write_text("id,reward_uid\n" * 100)
    other = tmp_path / "inbox.db"

    def make() -> None:
        with closing(connect(other)) as connection:
            connection.execute("CREATE TABLE events (id TEXT)")

    await asyncio.to_thread(make)
    for path, words in [(text, "damaged or not a SQLite file"), (other, "database of another program")]:
        before = path.read_bytes()
        with pytest.raises(LedgerError, match=words):
            await ledger_at(path).__aenter__()
        with pytest.raises(LedgerError, match=words):
            await asyncio.to_thread(LedgerReader, path)
        assert path.read_bytes() == before


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with raises(LedgerError, "ledger: in no folder"):
        await ledger_at(tmp_path / "nowhere" / "payouts.db").__aenter__()
    (tmp_path / "folder").mkdir()
    with raises(LedgerError, "ledger: a folder in its place"):
        await ledger_at(tmp_path / "folder").__aenter__()
    with raises(LedgerError, "ledger: no file to read"):
        await asyncio.to_thread(LedgerReader, tmp_path / "none.db")


def test_an_older_layout_is_led_forward_with_its_rows(path: Path) -> None:
    connect_to_write(path).close()
    with closing(connect(path)) as connection:
        connection.execute("INSERT INTO campaigns (vendor, name, target, opened_at) VALUES ('original', 'c', '', 0)")
    added = "ALTER TABLE campaigns ADD COLUMN owner TEXT; UPDATE campaigns SET owner = 'nobody'"
    newer = connect_to_write(path, schema=evolve(LEDGER, migrations=(*LEDGER.migrations, added)))
    assert newer.execute("SELECT name, owner FROM campaigns").fetchall() == [("c", "nobody")]
    assert newer.pragma("user_version") == LEDGER.layout + 1
    newer.close()
    with pytest.raises(LedgerError, match=f"layout {LEDGER.layout + 1} "):
        connect_to_write(path)
    with pytest.raises(LedgerError, match=f"layout {LEDGER.layout + 1} "):
        LedgerReader(path)


def test_a_step_forward_that_fails_changes_nothing(path: Path) -> None:
    connect_to_write(path).close()
    added = "ALTER TABLE campaigns ADD COLUMN owner TEXT; NONSENSE"
    with pytest.raises(LedgerError, match="syntax error"):
        connect_to_write(path, schema=evolve(LEDGER, migrations=(*LEDGER.migrations, added)))
    connection = connect_to_write(path)
    assert "owner" not in connection.execute("SELECT sql FROM sqlite_master WHERE name = 'campaigns'").get
    connection.close()


def test_an_older_layout_is_led_forward_also_by_who_only_reads(path: Path) -> None:
    old = connect_to_write(path, schema=LAYOUT_2)
    old.execute("INSERT INTO campaigns VALUES (1, 'original', 'c', '', 0)")
    old.close()
    with LedgerReader(path) as reader:
        assert [campaign.name for campaign in reader.campaigns()] == ["c"]
        assert reader.generation()[1] == 0


def test_an_older_layout_that_is_in_use_waits(path: Path) -> None:
    connect_to_write(path, schema=LAYOUT_2).close()
    lock = LedgerLock(path)
    lock.acquire()
    with pytest.raises(LedgerInUse):
        LedgerReader(path)
    lock.release()
    LedgerReader(path).__exit__(None, None, None)


def test_an_empty_file_is_no_ledger(path: Path) -> None:
    path.touch()
    with raises(LedgerError, "ledger: an empty file to read"):
        LedgerReader(path)


SENDER = """
import asyncio, os, sys
from payouts.ledger.sqlite import Ledger
from payouts.vendors import OriginalRow
from payouts.states import State

async def send():
    async with Ledger(sys.argv[1], vendor="original", campaign="c") as ledger:
        for number in range(5):
            row = OriginalRow(id=f"r{number}", reward_uid="1", to_user_uid="2", amount="3")
            (entry,) = await ledger.plan([row])
            os.write(1, b"MARKING %d" % number)
            await ledger.move(entry, State.SENT)
            os.write(1, b"SENDING %d" % number)
            row = OriginalRow(id=f"q{number}", reward_uid="1", to_user_uid="2", amount="3")
            os.write(1, b"STORING %d" % number)
            await ledger.plan_sent([row], 1)
            os.write(1, b"LEAVING %d" % number)

asyncio.run(send())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("strace") is None, reason="this machine has no strace; tests/install_system_parts.sh installs it"
)
def test_a_row_is_on_the_disk_as_sent_before_anything_of_it_can_leave(path: Path, tmp_path: Path) -> None:
    """Killing a process proves nothing about the disk; the order of its system calls does."""
    trace = tmp_path / "trace"
    root = Path(__file__).parents[2]
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        str(trace),
        "-e",
        "trace=write,fdatasync,fsync",
        sys.executable,
        "-c",
        SENDER,
        str(path),
    ]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    calls = trace.read_text()
    for begin, end in (("MARKING", "SENDING"), ("STORING", "LEAVING")):
        for number in range(5):
            between = calls[calls.index(f'"{begin} {number}"') : calls.index(f'"{end} {number}"')]
            assert "-wal>) = 0" in between, f"row {number} could leave before the log that holds it was on the disk"
