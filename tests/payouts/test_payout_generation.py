"""A ledger that is put back from a backup is recognised, and nothing is sent from it before an audit."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from payouts.audit.release import release
from payouts.ledger.generation import GenerationNote, NoteContents, Standing, standing, state_folder
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import connect_to_write
from payouts.ledger.sqlite import Ledger
from payouts.runner import RunOptions, run_payouts
from payouts.states import AuditNeeded, LedgerError, LedgerInUse, State
from tests.payouts.payout_kit import LAYOUT_2, StubEnkash, coin_row, ledger_at, standing_of, token_row
from tests.payouts.process_kit import ROOT, environment
from tests.texts import raises, said


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


async def send(path: Path, *rows: str, state: Path, campaign: str = "diwali-2026", vendor: str = "original") -> None:
    """Mark rows as sent, each in a commit of its own, and copy nothing."""
    async with Ledger(path, vendor=vendor, campaign=campaign, state=state) as ledger:
        given = [token_row(row) if vendor == "original" else coin_row(row) for row in rows]
        for entry in await ledger.plan(given):
            await ledger.move(entry, State.SENT)


def copied(path: Path, to: str) -> Path:
    copy = path.with_name(to)
    shutil.copy(path, copy)  # closed, so there is no log beside it
    return copy


async def test_a_copy_from_before_the_last_send_is_an_older_one(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    await send(path, "r1", state=state)
    backup = copied(path, "backup.db")
    assert await asyncio.to_thread(standing_of, backup, state) is Standing.NEWEST
    await send(path, "r2", state=state)
    assert await asyncio.to_thread(standing_of, backup, state) is Standing.OLDER
    assert await asyncio.to_thread(standing_of, path, state) is Standing.NEWEST
    with pytest.raises(AuditNeeded):
        await send(backup, "r2", state=state)
    async with ledger_at(backup, state=state) as ledger:
        with pytest.raises(AuditNeeded):
            await ledger.plan_sent([token_row("r3")], 1)
        assert await ledger.counts() == {State.SENT: 1, State.PLANNED: 1}
        with pytest.raises(AuditNeeded):
            async with ledger.one_run():
                pass


async def test_a_backup_from_before_anything_was_sent_is_an_older_one_too(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path, state=state) as ledger:
        await ledger.plan([token_row("r1")])
    backup = copied(path, "backup.db")
    await send(path, "r1", state=state)
    with pytest.raises(AuditNeeded):
        await send(backup, "r1", state=state)


async def test_a_ledger_that_this_machine_has_no_note_of_needs_an_audit_once_it_was_paid_from(
    tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "payouts.db"
    (tmp_path / "other").mkdir()
    await send(path, "r1", state=tmp_path / "other")
    assert await asyncio.to_thread(standing_of, path, state) is Standing.UNKNOWN
    with pytest.raises(AuditNeeded):
        await send(path, "r2", state=state)
    fresh = tmp_path / "fresh.db"
    async with ledger_at(fresh, state=state) as ledger:
        await ledger.plan([token_row("r1")])
    await send(fresh, "r1", state=state)


async def test_a_ledger_of_the_layout_before_goes_on_without_an_audit_and_its_copies_are_known_to_be_its_copies(
    tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "payouts.db"

    def make() -> None:
        connection = connect_to_write(path, schema=LAYOUT_2)
        connection.execute("INSERT INTO campaigns VALUES (1, 'original', 'diwali-2026', '', 12.5)")
        connection.execute(
            "INSERT INTO rows (campaign, vendor, id, line, recipient, item, amount, key, state, planned_at) "
            "VALUES (1, 'original', 'r0', 2, '0032', '21', '1.50', 'k', 'done', 1)"
        )
        connection.close()

    await asyncio.to_thread(make)
    backup = copied(path, "backup.db")
    await send(path, "r1", state=state)
    with pytest.raises(AuditNeeded):
        await send(backup, "r1", state=state)

    def read() -> dict[str, list[int]]:
        with LedgerReader(path) as reader:
            return reader.paid_alike("original", ["32\x1f21\x1f1.5"])

    assert list((await asyncio.to_thread(read)).values()) == [[1]]


async def test_two_copies_are_not_paid_from_at_one_time(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    await send(path, "r1", state=state)
    copy = copied(path, "copy.db")
    async with ledger_at(path, state=state) as ledger, ledger.one_run():
        with pytest.raises(LedgerInUse):
            await send(copy, "r2", state=state)
    await send(copy, "r2", state=state)
    with pytest.raises(AuditNeeded):
        await send(path, "r2", state=state)


async def test_the_generation_is_noted_before_anybody_hears_that_a_row_is_marked_as_sent(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path, state=state) as ledger:
        for number, entry in enumerate(await ledger.plan([token_row(f"r{n}") for n in range(3)]), 1):
            await ledger.move(entry, State.SENT)
            (note,) = state.iterdir()
            assert int(note.read_bytes().split(b" ")[0]) == number
        for _ in range(2):  # the second time, the row is known, and nothing is marked
            await ledger.plan_sent([token_row("r3")], 1)
            assert int(note.read_bytes().split(b" ")[0]) == 4


def _without(folder: Path, problem: Exception) -> str:
    """Return an error without the names that differ from run to run."""
    return re.sub("ledger-[0-9a-f]{32}", "ledger-IDENTITY", str(problem).replace(f"{folder}/", ""))


async def test_a_note_that_cannot_be_written_stops_the_run_before_anything_leaves(tmp_path: Path) -> None:
    async with ledger_at(tmp_path / "payouts.db", state=tmp_path / "nowhere") as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        with pytest.raises(LedgerError) as refused:
            await ledger.move(entry, State.SENT)
        said("ledger: a note that cannot be written", _without(tmp_path, refused.value))


async def test_a_note_that_is_removed_meanwhile_stops_the_run(tmp_path: Path, state: Path) -> None:
    async with ledger_at(tmp_path / "payouts.db", state=state) as ledger:
        first, second = await ledger.plan([token_row("r1"), token_row("r2")])
        await ledger.move(first, State.SENT)
        for note in state.iterdir():
            note.unlink()
        with pytest.raises(LedgerError) as refused:
            await ledger.move(second, State.SENT)
        said("ledger: a note that was removed", _without(tmp_path, refused.value))


async def test_a_damaged_note_is_none(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    await send(path, "r1", state=state)
    (note,) = state.iterdir()
    note.write_bytes(b"12\n")
    assert await asyncio.to_thread(standing_of, path, state) is Standing.UNKNOWN


async def test_after_an_audit_the_ledger_is_the_newest_and_the_newer_copy_is_not(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    await send(path, "r1", state=state)
    backup = copied(path, "backup.db")
    await send(path, "r2", state=state)
    async with ledger_at(backup, state=state) as ledger:
        assert await release(ledger, 5000.0, state) == 0
    await send(backup, "r3", state=state)
    with pytest.raises(AuditNeeded):
        await send(path, "r4", state=state)


async def test_coins_that_may_have_been_paid_since_the_copy_are_unknown_and_no_run_sends_them(
    tmp_path: Path, state: Path
) -> None:
    path = tmp_path / "payouts.db"
    async with ledger_at(path, "enkash", state=state) as ledger:
        await ledger.plan([coin_row("r1"), coin_row("r2")])
    backup = copied(path, "backup.db")
    await send(path, "r1", "r2", "r3", state=state, vendor="enkash")
    await send(path, "q1", state=state, vendor="enkash", campaign="holi-2027")
    async with ledger_at(backup, "enkash", state=state) as ledger:
        assert await release(ledger, 5000.0, state) == 2
    client = StubEnkash()
    for campaign, rows in (("diwali-2026", ["r1", "r2", "r3"]), ("holi-2027", ["q1"]), ("new", ["n1"])):
        async with Ledger(backup, vendor="enkash", campaign=campaign, state=state) as ledger:
            given = [coin_row(row) for row in rows]
            async for _ in run_payouts(given, client=client, ledger=ledger, options=RunOptions(rate=None)):
                pass
            assert await ledger.counts() == {State.DONE if campaign == "new" else State.UNKNOWN: len(rows)}
    assert len(client.given) == 1


def test_what_a_note_says() -> None:
    def noted(generation: int, *branches: str) -> NoteContents:
        return NoteContents(generation=generation, at=0.0, branches=(branches[0], branches[-1]))

    assert standing(0, None, None) is Standing.NEWEST
    assert standing(3, "a", None) is Standing.UNKNOWN
    assert standing(3, "a", noted(3, "a")) is Standing.NEWEST
    assert standing(4, "a", noted(3, "a")) is Standing.NEWEST
    assert standing(3, "a", noted(4, "a")) is Standing.OLDER
    assert standing(4, "a", noted(3, "b")) is Standing.OLDER  # something else was made of another copy
    assert standing(3, "b", noted(3, "a", "b")) is Standing.NEWEST  # killed while it began this branch
    assert standing(3, "a", noted(3, "a", "b")) is Standing.NEWEST
    assert standing(0, None, noted(0, "-" * 16, "b")) is Standing.NEWEST
    assert standing(0, None, noted(1, "a")) is Standing.OLDER


def test_a_process_without_a_home_is_told_what_to_set(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom payouts.ledger.generation import state_folder\n"
    code += "def none(): raise RuntimeError('Could not determine home directory.')\nPath.home = none\nstate_folder()"
    kept = environment()
    kept.pop("XDG_STATE_HOME")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, check=False, capture_output=True, text=True)
    assert "XDG_STATE_HOME" in ended.stderr.splitlines()[-1]


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(LedgerError) as refused:
        state_folder()
    said("ledger: a state folder that cannot be made", _without(tmp_path, refused.value))


def test_a_note_is_taken_before_it_is_written(state: Path) -> None:
    with pytest.raises(RuntimeError):
        GenerationNote("1", state).write(1, 0.0, ("a" * 16, "a" * 16))


def test_the_note_names_each_campaign_once(state: Path) -> None:
    note = GenerationNote("1", state)
    for generation in range(1, 4):
        note.take()
        note.write(generation, 1000.5, (None, "b" * 16), ("original", f"c{generation % 2}"))
        note.release()
        note.release()
    said = NoteContents(
        generation=3, at=1000.5, branches=("-" * 16, "b" * 16), campaigns=(("original", "c1"), ("original", "c0"))
    )
    assert note.read() == said


@pytest.mark.parametrize("end", [b'["original", "c', b'["original"]\n', b"\x00\x00", b'"ab"\n{}\n'])
def test_a_line_that_was_cut_off_is_left_out(state: Path, end: bytes) -> None:
    note = GenerationNote("1", state)
    note.take()
    note.write(1, 0.0, ("a" * 16, "a" * 16), ("original", "c"))
    note.release()
    note.path.write_bytes(note.path.read_bytes() + end)
    noted = note.read()
    assert noted is not None
    assert noted.campaigns[0] == ("original", "c")


@pytest.mark.parametrize("name", ["c", 'a "b", c', "दिवाली-2026", "\U0001f381"])
def test_notes_of_earlier_versions_are_read(state: Path, name: str) -> None:
    note = GenerationNote("1", state)
    note.take()
    note.write(1, 0.0, ("a" * 16, "a" * 16), ("original", name))
    note.release()
    earlier = json.dumps(("enkash", name)) + "\n"  # with every other character than ASCII escaped
    note.path.write_bytes(note.path.read_bytes() + earlier.encode())
    noted = note.read()
    assert noted is not None
    assert noted.campaigns == (("original", name), ("enkash", name))


async def test_a_note_for_which_there_is_no_room_stops_the_run_before_a_row_is_marked(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.pwrite

    def full(descriptor: int, data: bytes, place: int) -> int:
        return written(descriptor, data[: len(data) // 2], place) if data.startswith(b"0") else written(descriptor, data, place)

    async with ledger_at(tmp_path / "payouts.db", state=state) as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LedgerError) as refused:
            await ledger.move(entry, State.SENT)
        said("ledger: a note on a full disk", _without(tmp_path, refused.value))
        monkeypatch.undo()
        assert await ledger.counts() == {State.PLANNED: 1}


async def test_a_killed_ledger_and_its_backup_are_never_both_the_newest(tmp_path: Path, state: Path) -> None:
    """The killed one had committed a row that its note does not know yet, so that both have come equally far."""
    path = tmp_path / "payouts.db"
    await send(path, "r1", state=state)
    backup = copied(path, "backup.db")
    (note,) = state.iterdir()
    before = note.read_bytes()
    await send(path, "r2", state=state)
    note.write_bytes(before)
    await send(backup, "r3", state=state)
    with pytest.raises(AuditNeeded):
        await send(path, "r4", state=state)


KILLED = """
import asyncio, os, sys
from pathlib import Path
from payouts.ledger.sqlite import Ledger
from payouts.vendors import OriginalRow
from payouts.states import State

async def send():
    async with Ledger(sys.argv[1], vendor="original", campaign="diwali-2026", state=Path(sys.argv[2])) as ledger:
        rows = [OriginalRow(id=f"{sys.argv[3]}{n}", reward_uid="1", to_user_uid="2", amount="3") for n in range(20)]
        for entry in await ledger.plan(rows):
            await ledger.move(entry, State.SENT)
        os.kill(os.getpid(), 9)

asyncio.run(send())
"""


def killed(path: Path, state: Path, prefix: str = "k") -> None:
    """Send rows from a process that is killed, which leaves its log."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(state), prefix], cwd=ROOT, env=environment(), check=False
    )
    assert ended.returncode == -9
    assert path.with_name("payouts.db-wal").stat().st_size


@pytest.mark.slow
def test_a_backup_beneath_the_log_of_a_killed_run_is_refused(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    asyncio.run(send(path, "r1", state=state))
    backup = copied(path, "backup.db")
    killed(path, state)
    shutil.copy(backup, path)
    with raises(LedgerError, "ledger: a backup beneath the log of another file"):
        asyncio.run(send(path, "r2", state=state))
    for beside in ("payouts.db-wal", "payouts.db-shm"):
        (tmp_path / beside).unlink()
    with pytest.raises(AuditNeeded):
        asyncio.run(send(path, "r2", state=state))


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    killed(path, state)
    asyncio.run(send(path, "r2", state=state))
    killed(path, state, "q")
    asyncio.run(send(path, "r3", state=state))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [(), ("r1",)])
def test_a_ledger_that_is_copied_without_its_log_is_known_to_be_a_copy(
    tmp_path: Path, state: Path, rows: tuple[str, ...]
) -> None:
    path, copy = tmp_path / "payouts.db", tmp_path / "copy.db"
    if rows:
        asyncio.run(send(path, *rows, state=state))
    killed(path, state)
    shutil.copy(path, copy)
    with pytest.raises(AuditNeeded):
        asyncio.run(send(copy, "r2", state=state))


@pytest.mark.slow
def test_a_log_without_its_ledger_is_not_thrown_away(tmp_path: Path, state: Path) -> None:
    path = tmp_path / "payouts.db"
    killed(path, state)
    path.rename(tmp_path / "moved.db")
    with raises(LedgerError, "ledger: a log without its ledger"):
        asyncio.run(send(path, "r2", state=state))
    assert not path.exists()
