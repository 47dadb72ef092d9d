"""One ledger is one file under one name, from the first moment to the last, and nothing is paid where that is not so."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from payouts.cli import app
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.states import LedgerError, LedgerInUse, State
from tests.payouts.command_kit import records
from tests.payouts.payout_kit import ledger_at, token_row
from tests.payouts.process_kit import books, original_at, sandbox
from tests.texts import raises

REWARD = "764893807463"
HEADER = "id,reward_uid,to_user_uid,amount\n"
TWO = HEADER + f"r1,{REWARD},32,1.50\nr2,{REWARD},33,2.25\n"

Call = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and an environment without credentials."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ORIGINAL_", "ENKASH_")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def vendor() -> Iterator[str]:
    with sandbox("original", "--confirm=0:0") as url:
        yield url


@pytest.fixture
def call(folder: Path, vendor: str) -> Call:
    def invoke(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), env=original_at(vendor) | (env or {}))

    return invoke


def run_of(file: str = "rewards.csv", campaign: str = "diwali-2026", *more: str) -> list[str]:
    options = ("--rate=0", "--poll-after=0.05", "--polls-per-second=1000")
    return ["run", file, "--vendor=original", f"--campaign={campaign}", "--yes", *options, *more]


def states(folder: Path, campaign: str = "diwali-2026") -> set[State]:
    with LedgerReader(folder / "payouts.db") as reader:
        return {entry.state for entry in reader.entries(reader.campaign(campaign))}


# the beginning

MAKING = """
import os, sys
from pathlib import Path
from payouts.ledger.schema import connect_to_write
from rewards_core.sqlite import migrations

migrations.transaction = lambda connection: os.kill(os.getpid(), 9)
connect_to_write(Path(sys.argv[1]))
"""


def test_a_run_that_was_killed_while_it_made_the_ledger_can_be_started_again(call: Call, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", MAKING, str(folder / "payouts.db")], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (folder / "payouts.db").stat().st_size
    result = call(*run_of())
    assert (result.exit_code, result.stderr) == (0, "")
    assert states(folder) == {State.DONE}


# one name


async def test_a_ledger_with_a_second_name_is_refused_because_it_could_be_paid_from_twice(tmp_path: Path) -> None:
    async with ledger_at(tmp_path / "payouts.db"):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "name.db").hardlink_to(tmp_path / "payouts.db")
    for path in (tmp_path / "payouts.db", tmp_path / "other" / "name.db"):
        with pytest.raises(LedgerError, match=f"{path.name} has 2 "):
            await ledger_at(path).__aenter__()
    (tmp_path / "payouts.db").unlink()
    async with ledger_at(tmp_path / "other" / "name.db"):
        pass


async def test_a_ledger_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards_core.sqlite.files.file_system", lambda *_: "nfs4")
    with raises(LedgerError, "ledger: on a network file system"):
        await ledger_at(tmp_path / "payouts.db").__aenter__()
    assert list(tmp_path.iterdir()) == []


async def test_a_ledger_made_through_a_link_is_its_owners_alone(tmp_path: Path) -> None:
    link, real = tmp_path / "link.db", tmp_path / "real.db"
    link.symlink_to("real.db")
    old = os.umask(0)
    try:
        async with ledger_at(link) as ledger:
            await ledger.plan([token_row("r1")])
            assert {stray.name: stray.stat().st_mode & 0o777 for stray in tmp_path.glob("real.db*")} == {
                f"real.db{suffix}": 0o600 for suffix in ("", "-wal", "-shm", ".lock")
            }
    finally:
        os.umask(old)
    real.unlink()
    Path(f"{real}-wal").write_bytes(b"what was paid")
    with pytest.raises(LedgerError, match="gone"):
        await ledger_at(link).__aenter__()


async def test_a_ledger_is_a_file_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("file:payouts.db?mode=memory")
    async with ledger_at(name) as ledger:
        await ledger.plan([token_row("r1")])
    async with ledger_at(name) as ledger:
        assert await ledger.find("r1") is not None


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_ledger_that_is_deleted_or_replaced_while_it_is_open_takes_nothing_more(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path) as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        path.rename(tmp_path / "moved.db")
        if replaced:
            path.touch()
        with raises(LedgerError, "ledger: its files were moved, deleted or replaced"):
            await ledger.move(entry, State.SENT)


async def test_a_ledger_whose_log_is_removed_beneath_it_takes_nothing_more_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path) as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        Path(f"{path}-wal").unlink()
        with raises(LedgerError, "ledger: its files were moved, deleted or replaced"):
            await ledger.move(entry, State.SENT)
    async with ledger_at(path) as ledger:
        assert await ledger.find("r1") is not None


async def test_two_runs_never_write_one_ledger_also_where_the_lock_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path) as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        Path(f"{path}.lock").unlink()
        entry = await ledger.move(entry, State.SENT)
        other = await asyncio.to_thread(LedgerLock, path)
        with raises(LedgerInUse, "ledger: its lock is held by another run"):
            await asyncio.to_thread(other.acquire)
        Path(f"{path}.lock").unlink()
        await asyncio.to_thread(other.acquire)
        Path(f"{path}.lock").write_text("")
        with raises(LedgerInUse, "ledger: its lock was taken meanwhile"):
            await ledger.move(entry, State.ACCEPTED, uid="300000000001")
        other.release()


async def test_a_lock_that_cannot_be_made_again_ends_what_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path) as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        entry = await ledger.move(entry, State.SENT)
        Path(f"{path}.lock").unlink()
        Path(f"{path}.lock").mkdir()
        with raises(LedgerError, "ledger: a lock that cannot be made again"):
            await ledger.move(entry, State.ACCEPTED, uid="300000000001")


async def test_a_ledger_stays_the_same_file_when_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with ledger_at(Path("payouts.db")) as ledger:
        monkeypatch.chdir("elsewhere")
        assert len(await ledger.plan([token_row("r1")])) == 1
    assert list(tmp_path.glob("elsewhere/*")) == []


# one place where the money goes out


def test_a_key_of_another_campaign_is_seen_before_anything_is_sent(call: Call, folder: Path, vendor: str) -> None:
    (folder / "rewards.csv").write_text("nonce," + HEADER + f"n1,r1,{REWARD},32,1.50\n")
    assert call(*run_of()).exit_code == 0
    (folder / "more.csv").write_text("nonce," + HEADER + f"n2,q1,{REWARD},32,1.50\nn1,q2,{REWARD},33,1\n")
    result = call(*run_of("more.csv", "holi-2027"))
    assert result.exit_code == 2
    (mistake,) = (record for record in records(result) if record["event"] == "mistake")
    assert (mistake["kind"], mistake["line"]) == ("key_of_another_campaign", 3)
    assert len(books(vendor)["allocations"]) == 1


def test_nobody_asks_elsewhere_whether_a_row_may_be_paid_anew(call: Call, folder: Path) -> None:
    async def reject(ledger: Ledger) -> None:
        async with ledger:
            (entry,) = await ledger.plan([token_row("r1")])
            await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED)

    asyncio.run(reject(ledger_at(folder / "payouts.db", target="https://api.getoriginal.com/v1")))
    result = call("retry", "r1", "--yes")
    assert (result.exit_code, states(folder)) == (7, {State.REJECTED})
    assert "https://api.getoriginal.com/v1" in result.stderr
