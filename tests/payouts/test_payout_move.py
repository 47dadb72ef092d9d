"""A ledger moves from a file to a database: nothing of it is lost, and at no moment rows can be sent from both."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from typer.testing import Result

from payouts.ledger import postgres_transfer as transfer
from payouts.ledger.decisions import decisions, undo
from payouts.ledger.generation import Standing
from payouts.ledger.lock import LedgerLock
from payouts.ledger.place import place_of
from payouts.ledger.postgres_schema import SCHEMA_NAME
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import LEDGER, moved_of
from payouts.ledger.sqlite import Ledger
from payouts.states import LedgerError, State
from rewards_core.errors import StoreError
from rewards_core.postgres.statements import Statements
from rewards_core.sqlite.connection import connect
from rewards_core.sqlite.migrations import layout_of
from tests.payouts.command_kit import QUICK, TWO, Call, records
from tests.payouts.ledger_contract import PATHS
from tests.payouts.move_process import MOMENTS, killed
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.postgres_ledger_kit import run_sql
from tests.payouts.process_kit import books
from tests.texts import said, without_places

CAMPAIGN = "diwali-2026"
RUN = ("run", "rewards.csv", "--vendor=original", f"--campaign={CAMPAIGN}", "--yes", *QUICK)
IN_WORDS = ("--as=done", "--note=seen")
WRITING: tuple[tuple[str, ...], ...] = (
    RUN,
    (*RUN, "--dry-run"),
    ("resolve", "p-unknown", *IN_WORDS, "--vendor=original"),
    ("retry", "p-failed", "--yes", "--vendor=original"),
    ("audit",),
    ("audit", "--newest"),
)

END_LOCKS = (
    "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks WHERE locktype = 'advisory' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


@pytest.fixture
def path(folder: Path, url: str) -> Path:
    """A ledger with something in every table."""
    path = folder / "payouts.db"
    asyncio.run(fill(path))
    with closing(connect(path)) as file:
        for statement in (
            "UPDATE campaigns SET restored_at = 5.5 WHERE vendor = 'enkash'",
            "UPDATE ledger SET audited_at = 7.5",
            "INSERT INTO audits VALUES (4, 'original', '', NULL, 1.5, 2.5, 'p', 3, 2, 1)",
            "INSERT INTO audits VALUES (5, 'original', '', 1, 3.5, NULL, 'p', 1, 1, 0)",
            "INSERT INTO differences VALUES (4, 1, 'missing', 2, 'user-1', 'uid', 'ledger', 'vendor', 1)",
            "INSERT INTO differences VALUES (4, 2, 'foreign', NULL, 'user-2', NULL, '', 'vendor', 0)",
            "INSERT INTO balances VALUES ('EKQZVMQK', 250, 8.5)",
            "CREATE TABLE calendar (kept BLOB NOT NULL)",
            "INSERT INTO calendar VALUES (x'00ff')",
            "UPDATE rows SET problem = 'a' || char(0) || 'b' WHERE id = 'p-unknown'",
        ):
            file.execute(statement).fetchall()
    return path


async def fill(path: Path) -> None:
    """Lead rows into each state, and decide by hand about some of them."""
    for vendor, make in (("original", token_row), ("enkash", coin_row)):
        async with Ledger(path, vendor=vendor, campaign=CAMPAIGN) as ledger:
            for state, steps in PATHS[vendor].items():
                (entry,) = await ledger.plan([make(f"p-{state.value}")])
                for step in steps:
                    entry = await ledger.move(entry, step, uid=f"uid-{vendor}-{state.value}", problem=TimeoutError("no answer"))
                if state is State.REJECTED:
                    renewed = await ledger.renew_key(entry)
                    sent = await ledger.move(renewed, State.SENT)
                    await ledger.move(sent, State.REJECTED, problem=ValueError("no such user"))
                if state is State.UNKNOWN:
                    settled = await ledger.move(entry, State.DONE, settled_by="hand", note="seen", evidence="mail")
                    await ledger.transact(partial(undo, rows=[settled], note="another", at=9.5))


def move(url: str, *more: str) -> tuple[str, ...]:
    return ("move", f"--to={url}", *more)


def execute(url: str, statement: str, *values: Any) -> list[Any]:
    return asyncio.run(run_sql(url, statement, *values))


def in_file(path: Path, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    with closing(connect(path)) as file:
        return sorted((tuple(row) for row in file.execute(f"SELECT {', '.join(columns)} FROM {table}")), key=repr)


def in_database(url: str, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
    return sorted((tuple(row) for row in execute(url, f"SELECT {', '.join(columns)} FROM {table}")), key=repr)


def told(ledger: str | Path) -> dict[str, Any]:
    """Return all that a reader says of a ledger."""
    with LedgerReader(ledger) as reader:
        campaigns = reader.campaigns()
        return {
            "identity": reader.identity(),
            "campaigns": campaigns,
            "rows": [[each for each in reader.entries(one) if each.id != "p-unknown"] for one in campaigns],
            "keys": [list(reader.retired_keys(one)) for one in campaigns],
            "audits": [reader.last_audit(one) for one in campaigns],
            "differences": list(reader.differences(4, ["missing", "foreign"])),
            "decisions": reader.ask(lambda database: list(decisions(database))),
        }


def payable(path: Path, url: str) -> tuple[bool, bool]:
    """Return whether rows can be sent from the file, and from the database."""
    try:
        with place_of(path).lock():
            from_file = place_of(path).standing()[0] is Standing.NEWEST
    except LedgerError:
        from_file = False
    database = place_of(url)
    if not database.exists():
        return from_file, False
    with database.reader() as reader:
        has_rows = bool(reader.campaigns())
    return from_file, has_rows and database.standing()[0] is Standing.NEWEST


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3, 5_000])
def test_a_moved_ledger_is_the_same_in_every_table(
    call: Call, path: Path, url: str, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(transfer, "ROWS_AT_ONCE", at_once)
    before = told(path)
    moved = call(*move(url))
    assert (moved.exit_code, moved.stderr) == (0, "")
    assert told(url) == before
    assert told(path) == before
    with closing(connect(path)) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'move'")]
        columns = {table: [row[1] for row in file.execute(f"PRAGMA table_info({table})")] for table in tables}
    columns["ledger"] = ["identity", "audited_at"]
    counts = records(moved)[-1]["moved"]
    assert set(counts) == set(tables) - {"ledger"}
    for table, names in columns.items():
        there = in_file(path, table, names)
        if table == "rows":
            there = [tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row) for row in there]
        assert in_database(url, table, names) == there
        assert table == "ledger" or len(there) == counts[table] > 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_move_that_is_killed_is_continued_and_never_pays_from_both(
    call: Call, path: Path, url: str, folder: Path, moment: str
) -> None:
    before = told(path)
    killed(moment, url, folder)
    assert payable(path, url) != (True, True)
    moved = call(*move(url))
    assert (moved.exit_code, moved.stderr) == (0, "")
    assert payable(path, url) == (False, True)
    assert told(url) == before
    assert call(*move(url)).exit_code == 0
    assert told(url) == before


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_move_that_is_killed_is_given_up_unless_the_database_has_the_ledger(
    call: Call, path: Path, url: str, folder: Path, moment: str
) -> None:
    before = told(path)
    killed(moment, url, folder)
    given_up = call("move", "--cancel", f"--to={url}")
    if moment in {"after the commit", "file marked as moved"}:
        assert (given_up.exit_code, payable(path, url)) == (7, (False, True))
        return
    assert payable(path, url) == (True, False)
    assert given_up.exit_code == (7 if moment in {"tables made", "first note"} else 0), given_up.stderr
    assert told(path) == before
    assert call(*move(url)).exit_code == 0
    assert payable(path, url) == (False, True)


def test_a_moved_file_is_read_but_never_paid_from(call: Call, path: Path, url: str, folder: Path, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    with_password = url.replace("postgres@", "postgres:geheim@")
    moved = call(*move(with_password))
    assert moved.exit_code == 0
    for command in WRITING:
        refused = call(*command)
        assert refused.exit_code == 7, command
        assert str(place_of(url)) in refused.stderr
        assert refused.stderr.count("\n") == 1
        assert "geheim" not in refused.stdout + refused.stderr + moved.stdout
    with pytest.raises(LedgerError, match="was moved"):
        asyncio.run(Ledger(path, vendor="original", campaign="other").__aenter__())
    for command in (("status",), ("decisions",), ("report", "--vendor=original", "--out=report.html")):
        assert call(*command).exit_code == 0
    said("status: a ledger that was moved", without_places(call("status").stderr))
    assert books(vendor)["allocations"] == []
    with closing(connect(path)) as file, pytest.raises(StoreError, match="newer"):
        layout_of(file, path, LEDGER)  # all that an older version looks at


@pytest.mark.slow
def test_a_file_that_is_being_moved_is_refused_too(call: Call, path: Path, url: str, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)
    killed("file marked", url, folder)
    for command in WRITING:
        refused = call(*command)
        assert (refused.exit_code, "payouts move" in refused.stderr) == (7, True)
    assert call("status").exit_code == 0
    elsewhere = call(*move(url.replace("ledger_", "other_")))
    assert (elsewhere.exit_code, str(place_of(url)) in elsewhere.stderr) == (7, True)
    assert payable(path, url) == (False, False)


@pytest.mark.slow
def test_a_copy_of_a_moved_file_pays_nothing(call: Call, path: Path, url: str, folder: Path) -> None:
    copy = folder / "copy.db"
    shutil.copy(path, copy)
    assert call(*move(url)).exit_code == 0
    assert payable(copy, url) == (False, True)
    moved = call(*move(url, f"--ledger={copy}"))
    assert moved.exit_code == 7
    said("move: an older copy", without_places(moved.stderr))


@pytest.mark.slow
def test_a_copy_of_a_file_that_is_being_moved_pays_nothing_once_the_move_goes_on(
    call: Call, path: Path, url: str, folder: Path
) -> None:
    killed("after the second copy", url, folder)
    copy = folder / "copy.db"
    for end in ("", "-wal"):
        if Path(f"{path}{end}").exists():
            shutil.copy(f"{path}{end}", f"{copy}{end}")
    given_up = call("move", "--cancel", f"--to={url}", f"--ledger={copy}")
    assert (given_up.exit_code, payable(copy, url)) == (0, (True, False))
    refused = call(*move(url))
    assert refused.exit_code == 7
    said("move: the file of a move that a copy of it gave up", without_places(refused.stderr))
    assert payable(copy, url) == (True, False)


def test_an_older_copy_is_not_moved(call: Call, path: Path, url: str, folder: Path) -> None:
    copy = folder / "copy.db"
    shutil.copy(path, copy)

    async def send() -> None:
        async with Ledger(path, vendor="original", campaign=CAMPAIGN) as ledger:
            (entry,) = await ledger.plan([token_row("r9")])
            await ledger.move(entry, State.SENT)

    asyncio.run(send())
    moved = call(*move(url, f"--ledger={copy}"))
    assert moved.exit_code == 7
    said("move: an older copy", without_places(moved.stderr))
    assert not place_of(url).exists()
    assert payable(path, url) == (True, False)


@pytest.mark.slow
def test_a_ledger_moves_only_into_a_database_that_holds_none(call: Call, path: Path, url: str, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)
    assert call("plan", *RUN[1:5], f"--ledger={url}").exit_code == 0
    moved = call(*move(url))
    assert moved.exit_code == 7
    said("move: into a database that holds a ledger", without_places(moved.stderr))
    assert payable(path, url) == (True, True)
    assert told(path)["identity"] != told(url)["identity"]


@pytest.mark.slow
def test_a_move_goes_on_only_in_the_database_with_which_it_began(call: Call, path: Path, url: str, folder: Path) -> None:
    """Else one that was put in its place would be paid from beside it."""
    killed("before the commit", url, folder)
    execute(url, "DROP SCHEMA rewards_payouts CASCADE")
    moved = call(*move(url))
    assert moved.exit_code == 7
    said("move: resumed in another database", without_places(moved.stderr))
    assert payable(path, url) == (False, False)
    assert call("move", "--cancel", f"--to={url}").exit_code == 0
    assert call(*move(url)).exit_code == 0
    assert payable(path, url) == (False, True)


@pytest.mark.slow
def test_a_finished_move_is_not_given_up_though_its_database_is_gone(call: Call, path: Path, url: str) -> None:
    assert call(*move(url)).exit_code == 0
    execute(url, "DROP SCHEMA rewards_payouts CASCADE")
    given_up = call("move", "--cancel", f"--to={url}")
    assert (given_up.exit_code, payable(path, url)) == (7, (False, False))


@pytest.mark.slow
def test_a_move_is_not_given_up_while_nobody_knows_whether_it_has_ended(call: Call, path: Path, url: str, folder: Path) -> None:
    killed("before the commit", url, folder)
    with closing(connect(path)) as file:
        file.execute("UPDATE move SET moved_to = 'postgresql://nobody@127.0.0.1:1/none'").fetchall()
    given_up = call("move", "--cancel")
    assert (given_up.exit_code, payable(path, url)) == (7, (False, False))


@pytest.mark.slow
def test_a_move_is_given_up_only_after_its_last_commit_has_come_or_gone(call: Call, path: Path, url: str, folder: Path) -> None:
    """A server may still carry out what a killed process has asked for."""
    killed("before the commit", url, folder)

    async def late_commit() -> Result:
        late, beside = await asyncpg.connect(url, server_settings={"search_path": SCHEMA_NAME}), await asyncpg.connect(url)
        try:
            await late.execute("BEGIN; LOCK TABLE ledger IN EXCLUSIVE MODE")
            await late.execute("UPDATE ledger SET identity = $1", told(path)["identity"])
            cancelling = asyncio.create_task(asyncio.to_thread(call, "move", "--cancel", f"--to={url}"))
            while not await beside.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not cancelling.done()
            await late.execute("COMMIT")
            return await cancelling
        finally:
            await late.close()
            await beside.close()

    given_up = asyncio.run(late_commit())
    assert given_up.exit_code == 7
    said("move: cancelled after its last commit", without_places(given_up.stderr))


def test_nobody_else_uses_either_ledger_meanwhile(call: Call, path: Path, url: str) -> None:
    with place_of(path).lock():
        moved = call(*move(url))
    assert (moved.exit_code, f"process {os.getpid()}" in moved.stderr) == (7, True)
    with place_of(url).lock():
        moved = call(*move(url))
    assert (moved.exit_code, payable(path, url)) == (7, (True, False))


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["file", "database"])
def test_a_move_that_lost_a_lock_on_the_way_commits_nothing(
    call: Call, path: Path, url: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    other = LedgerLock(path)
    copy = Statements.copy

    def lose(*values: Any) -> None:
        copy(*values)
        if values[1] != "campaigns":
            return
        if lost == "file":
            path.with_name("payouts.db.lock").unlink(missing_ok=True)
            other.acquire()
        else:
            with ThreadPoolExecutor() as threads:  # an event loop runs here
                threads.submit(execute, url, END_LOCKS).result()

    with monkeypatch.context() as patch:
        patch.setattr(Statements, "copy", lose)
        moved = call(*move(url))
    other.release()
    assert (moved.exit_code, payable(path, url)) == (7, (False, False)), moved.stderr
    assert call(*move(url)).exit_code == 0
    assert payable(path, url) == (False, True)


@pytest.mark.slow
def test_what_is_decided_after_the_move_has_numbers_of_its_own(call: Call, path: Path, url: str) -> None:
    before = told(path)
    assert call(*move(url)).exit_code == 0
    resolved = call("resolve", "p-unknown", *IN_WORDS, "--vendor=original", f"--ledger={url}")
    assert resolved.exit_code == 0, resolved.stderr
    numbers = [each.number for each in told(url)["decisions"]]
    assert numbers == [*(each.number for each in before["decisions"]), max(each.number for each in before["decisions"]) + 1]
    undone = call("resolve", "p-unknown", "--undo", "--note=another", "--vendor=original", f"--ledger={url}")
    assert undone.exit_code == 0, undone.stderr
    for table in ("campaigns", "audits", "decisions"):
        highest = execute(url, f"SELECT max(number) FROM {table}")[0][0]
        following = execute(url, f"SELECT nextval(pg_get_serial_sequence('{table}', 'number'))")[0][0]
        assert following > highest


@pytest.mark.slow
def test_wrong_options_change_nothing(call: Call, path: Path, url: str, folder: Path) -> None:
    for wrong, code in (
        (("move",), 2),
        (("move", "--to=other.db"), 2),
        (("move", f"--ledger={url}", f"--to={url}"), 2),
        ((*move(url), "--ledger=none.db"), 7),
        (("move", "--cancel"), 7),
        (("move", "--to=postgresql://pay:geheim@127.0.0.1:1/none"), 7),
    ):
        result = call(*wrong)
        assert result.exit_code == code, wrong
        assert "geheim" not in result.stdout + result.stderr
    assert payable(path, url) == (True, False)
    assert not (folder / "none.db").exists()
    with closing(connect(path)) as file:
        assert moved_of(file) is None
    assert json.loads(call(*move(url)).stdout)["event"] == "moved"
