"""Ledgers that version 0.1 made, and 0.1 itself beside this version.

`data/layout-1.sqlite` and `data/layout-3.sqlite` were written by the code of their time, `data/note` beside the second, and
`data/rows.json` is what its reader said of both.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict

from payouts.ledger.generation import Standing
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import LEDGER, MoveMark, connect_to_write, mark_moved
from payouts.ledger.sqlite import Ledger
from payouts.states import LedgerError, LedgerInUse, State
from rewards_core.sqlite.connection import connect
from tests.payouts.payout_kit import ledger_at, standing_of

DATA = Path(__file__).parent / "data"
SAID: dict[str, Any] = json.loads((DATA / "rows.json").read_text("utf-8"))


def older(path: Path, layout: int) -> bytes:
    """Put a ledger of an older version there, and return its bytes."""
    shutil.copyfile(DATA / f"layout-{layout}.sqlite", path)
    return path.read_bytes()


def assert_it_says_the_same(path: Path) -> None:
    with LedgerReader(path) as reader:
        for campaign in reader.campaigns():
            said = SAID[campaign.vendor]
            assert asdict(campaign) == said["campaign"]
            for entry, row in zip(reader.entries(campaign), said["rows"], strict=True):
                assert {name: getattr(entry, name) for name in row} == row
            for retired, key in zip(reader.retired_keys(campaign), said["retired"], strict=True):
                assert {name: getattr(retired, name) for name in key} == key
            assert reader.counts(campaign)[State.DONE] == sum(row["state"] == "done" for row in said["rows"])


async def opened(path: Path, vendor: str = "original") -> None:
    """Open a ledger to pay from it, and find the first row of its campaign."""
    async with ledger_at(path, vendor, target=SAID[vendor]["campaign"]["target"]) as ledger:
        row = SAID[vendor]["rows"][0]
        entry = await ledger.find(row["id"])
        assert entry is not None
        assert entry.key == row["key"]


@pytest.mark.parametrize("layout", [1, 3])
def test_a_ledger_of_an_older_version_opens_and_says_the_same(path: Path, layout: int) -> None:
    older(path, layout)
    asyncio.run(opened(path))
    assert_it_says_the_same(path)
    asyncio.run(opened(path, "enkash"))
    assert_it_says_the_same(path)


def test_an_older_layout_is_backed_up_before_it_is_led_forward(path: Path) -> None:
    before = older(path, 1)
    backup = path.with_name("payouts.db.layout-1.backup")
    asyncio.run(opened(path))
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(connect(backup, read_only=True)) as old, closing(connect(path, read_only=True)) as new:
        assert (old.pragma("user_version"), new.pragma("user_version")) == (1, LEDGER.layout)
        assert old.pragma("integrity_check") == "ok"
        assert [row[1] for row in old.execute("SELECT * FROM campaigns ORDER BY number")] == ["original", "enkash"]
    assert sorted(left.name for left in path.parent.glob("*backup*")) == [backup.name]
    shutil.copyfile(backup, path)  # as a person does who goes back
    for beside in ("payouts.db-wal", "payouts.db-shm"):
        path.with_name(beside).unlink(missing_ok=True)
    assert_it_says_the_same(path)
    assert len(before) == backup.stat().st_size


def test_an_older_layout_gets_the_identity_that_older_versions_gave_it(path: Path) -> None:
    """Else a copy that one of them brought to this layout, and paid from, would be taken for another ledger."""
    older(path, 1)
    with LedgerReader(path) as reader:
        assert reader.generation()[0] == hashlib.sha256(b"originaldiwali-20261760000000.12346").hexdigest()[:32]


def test_the_newest_layout_needs_no_backup(path: Path) -> None:
    older(path, 3)
    asyncio.run(opened(path))
    path.with_name("payouts.db.layout-3.backup").unlink()
    asyncio.run(opened(path))
    assert list(path.parent.glob("*backup*")) == []


def test_a_ledger_that_the_version_before_moved_can_still_be_read(path: Path) -> None:
    older(path, 3)
    with closing(connect(path)) as connection:
        mark_moved(connection, MoveMark(to="postgresql://db/payouts", begun_with=None))
    assert_it_says_the_same(path)
    with closing(connect(path, read_only=True)) as connection:
        assert connection.pragma("user_version") == 1_003


def test_a_ledger_that_cannot_be_backed_up_is_left_as_it_is(path: Path) -> None:
    before = older(path, 1)
    path.with_name("payouts.db.layout-1.backup").mkdir()
    with pytest.raises(LedgerError, match=r"layout-1\.backup.*Nothing was sent"):
        asyncio.run(opened(path))
    assert path.read_bytes() == before
    assert [left.name for left in path.parent.glob("*unfinished*")] == []


def test_a_ledger_of_an_older_version_is_still_known_to_be_the_newest_copy(path: Path, tmp_path: Path) -> None:
    """The note of this machine was written by the older version too."""
    older(path, 3)
    state = tmp_path / "state"
    state.mkdir()
    assert standing_of(path, state) is Standing.UNKNOWN
    with LedgerReader(path) as reader:
        shutil.copy(DATA / "note", state / f"ledger-{reader.generation()[0]}")
    assert standing_of(path, state) is Standing.NEWEST


# beside a process of version 0.1

HOLDER_OF_0_1 = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1] + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("in use by", open(sys.argv[1] + ".lock").read().strip(), flush=True)
    sys.exit()
os.ftruncate(descriptor, 0)
os.pwrite(descriptor, b"%d\\n" % os.getpid(), 0)
print("holding", flush=True)
sys.stdin.read()
"""
"""What version 0.1 does before it writes a ledger."""


@contextmanager
def held_by_0_1(path: Path) -> Iterator[int]:
    """Hold a ledger as a process of version 0.1 does, and give its number."""
    command = [sys.executable, "-c", HOLDER_OF_0_1, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        yield process.pid
        process.communicate()


@pytest.mark.parametrize("layout", [1, 3])
def test_a_ledger_in_use_by_the_older_version_is_refused(path: Path, layout: int) -> None:
    before = older(path, layout)
    with held_by_0_1(path) as pid, pytest.raises(LedgerInUse) as refused:
        asyncio.run(opened(path))
    assert refused.value.pid == pid
    assert path.read_bytes() == before
    asyncio.run(opened(path))


def test_a_ledger_of_an_older_layout_that_the_older_version_uses_cannot_be_read_yet(path: Path) -> None:
    before = older(path, 1)
    with held_by_0_1(path) as pid, pytest.raises(LedgerInUse) as refused:
        LedgerReader(path)
    assert refused.value.pid == pid
    assert path.read_bytes() == before


def test_a_ledger_that_the_older_version_uses_can_be_read(path: Path) -> None:
    older(path, 3)
    with held_by_0_1(path):
        assert_it_says_the_same(path)


async def test_the_older_version_is_kept_away_and_told_by_whom(path: Path) -> None:
    async with Ledger(path, vendor="original", campaign="diwali-2026"):
        command = [sys.executable, "-c", HOLDER_OF_0_1, str(path)]
        said = await asyncio.to_thread(subprocess.check_output, command, stdin=subprocess.DEVNULL, text=True)
    assert said.startswith("in use by ")
    assert int(said.split()[-1]) > 0


# locks of this process

TRY_TO_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)
"""
"""Take SQLite's lock of a file that nobody has open."""


def is_locked(path: Path) -> bool:
    """Return whether SQLite's lock on a file is held, as another process sees it."""
    return subprocess.run([sys.executable, "-c", TRY_TO_LOCK, path], stderr=subprocess.DEVNULL, check=False).returncode != 0


def test_opening_a_ledger_gives_up_no_lock_that_this_process_has_on_it(path: Path) -> None:
    """Closing any descriptor of a file gives up all POSIX locks that the process holds on it, those of other connections too."""
    connect_to_write(path).close()
    with LedgerReader(path) as reader:
        reader.campaigns()
        assert is_locked(path)
        lock = LedgerLock(path)
        lock.acquire()
        connect_to_write(path).close()
        lock.release()
        with LedgerReader(path) as another:
            another.campaigns()
        assert is_locked(path)
    assert not is_locked(path)
