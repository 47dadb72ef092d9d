"""`webhook-listener move`: what a person and a program see of it, and a process that is killed in the middle."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.postgres_server import Server
from tests.texts import said
from tests.webhooks.command_kit import a_dead_job, alone, fill, lines, records, run, screen, some_events
from tests.webhooks.listener_process import environment
from tests.webhooks.postgres_kit import PASSWORD, shown_url
from tests.webhooks.store_contract import event
from webhooks.store.sqlite import SQLiteStore

HERE = "sqlite:///inbox.db"
KILLED = """
import os, signal, sys
from webhooks.cli import app
from webhooks.store import sqlite_transfer, {module} as module
sqlite_transfer.MAX_ROWS = 1
write, left = module.{mover}.write, int(sys.argv.pop(1))
async def dying(*args):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    await write(*args)
module.{mover}.write = dying
app()
"""


async def _contents(store: SQLiteStore) -> None:
    await some_events(store)
    await a_dead_job(store)


def _ids(url: str) -> list[int]:
    return [row["id"] for row in lines(run("events", "list", "--store", url))]


@pytest.mark.slow
def test_a_file_moves_to_a_database_and_the_dead_letters_with_it(folder: Path, postgres: Server, database: str) -> None:
    fill(folder, _contents)
    before = lines(run("dead-letters", "list"))
    told = lines(run("move", "--from", HERE, "--to", database))
    assert told[-1] == {
        "from": HERE,
        "to": shown_url(postgres),
        "moved": {"subscription": 1, "identity": 4, "event": 4, "also": 0, "job": 1, "outcome": 1, "conflict": 0, "pending": 0},
    }
    assert told[:-1] == [
        {"table": table, "moved": count, "of": count}
        for table, count in (("subscription", 1), ("identity", 4), ("event", 4), ("outcome", 1), ("conflict", 0), ("pending", 0))
    ]
    assert lines(run("dead-letters", "list", "--store", database)) == before
    assert lines(run("dead-letters", "retry", "4", "--store", database))[0]["retried"] == 1
    assert _ids(HERE) == _ids(database) == [4, 3, 2, 1]


@pytest.mark.slow
def test_a_person_sees_how_far_it_is_and_what_to_do(folder: Path, postgres: Server, database: str) -> None:
    fill(folder, _contents)
    moved = screen("move", "--from", HERE, "--to", database)
    again = screen("move", "--from", HERE, "--to", database)
    used = run("dead-letters", "retry", "4")
    undone = screen("move", "--from", HERE, "--undo")
    nothing = screen("move", "--from", HERE, "--undo")
    assert used.exit_code == 7
    text = "\n".join([*moved, *again, used.stderr.strip(), *undone, *nothing])
    assert PASSWORD not in text
    said("move: a file to a database, again, used, undone twice", text.replace(str(postgres.folder), "FOLDER"))
    assert run("dead-letters", "retry", "4").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", HERE),
        ("--from", HERE, "--to", "sqlite:///new.db", "--undo"),
        ("--from", "memory:", "--to", HERE),
        ("--from", HERE, "--to", "memory:"),
        ("--from", HERE, "--to", "sqlite:///./inbox.db"),
        ("--from", HERE, "--to", "new.db"),
        (
            "--from",
            "postgresql://user:pa55-canary@db/a?sslmode=require",
            "--to",
            "postgresql://user:pa55-canary@db/a?sslmode=require",
        ),
    ],
)
def test_what_cannot_be_moved_is_wrong_usage(folder: Path, arguments: tuple[str, ...]) -> None:
    fill(folder, some_events)
    result = run("move", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert PASSWORD not in result.stderr
    said(f"move: {' '.join(arguments).replace(PASSWORD, 'PASSWORD')}", result.stderr)
    assert sorted(path.name for path in folder.iterdir()) == ["inbox.db", "inbox.db.lock"]


def test_a_missing_source_is_not_made(folder: Path) -> None:
    result = run("move", "--from", "sqlite:///none.db", "--to", "sqlite:///new.db")
    assert (result.exit_code, "sqlite:///none.db" in result.stderr) == (7, True)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["database", "file"])
def test_a_move_killed_between_slices_goes_on_and_nothing_comes_twice(
    kind: str, folder: Path, database: str, postgres: Server
) -> None:
    async def many(store: SQLiteStore) -> None:
        for number in range(6):
            await store.accept(event(f"another {number}"))
        await _contents(store)

    fill(folder, many)
    target = database if kind == "database" else "sqlite:///new.db"
    module, mover = ("postgres_transfer", "DatabaseMover") if kind == "database" else ("sqlite_transfer", "FileMover")
    program = KILLED.format(module=module, mover=mover)
    expected = _ids(HERE)
    for writes in (2, 9, 7, 20):  # among handlers, identities, events, outcomes
        command = [sys.executable, "-c", program, str(writes), "move", "--from", HERE, "--to", target]
        killed = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if killed.returncode != -signal.SIGKILL:  # there was less left to write
            assert (killed.returncode, writes) == (0, 20), killed.stderr
            break
        refused = run("wait", "1", "--timeout", "0", "--store", target)
        assert (refused.exit_code, " being moved here" in refused.stderr) == (7, True)
    done = lines(run("move", "--from", HERE, "--to", target))
    assert done[-1]["moved"]["event"] == len(expected)
    assert _ids(target) == expected
    assert len(lines(run("outcomes", "list", "--store", target))) == 1


@pytest.mark.slow
def test_an_unfinished_move_can_be_given_up(folder: Path) -> None:
    fill(folder, _contents)
    program = KILLED.format(module="sqlite_transfer", mover="FileMover")
    command = [sys.executable, "-c", program, "3", "move", "--from", HERE, "--to", "sqlite:///new.db"]
    killed = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    elsewhere = run("move", "--from", HERE, "--to", "sqlite:///other.db")
    assert (elsewhere.exit_code, elsewhere.stdout) == (7, "")
    said("move: it was begun to another place", elsewhere.stderr.replace(str(folder), "/FOLDER"))
    (row,) = lines(run("move", "--from", HERE, "--undo"))
    assert row == {"from": HERE, "undone": True, "to": f"sqlite:///{folder / 'new.db'}"}
    assert records(run("dead-letters", "retry", "4"))[0]["retried"] == 1
    assert lines(run("move", "--from", HERE, "--to", "sqlite:///other.db"))[-1]["moved"]["event"] == 4


@pytest.mark.slow
def test_a_store_that_a_listener_uses_is_not_moved(folder: Path) -> None:
    async def with_listener(store: SQLiteStore) -> None:
        from webhooks.store.base import Subscriber

        await store.subscribe(Subscriber())
        done = alone("move", "--from", HERE, "--to", "sqlite:///new.db", cwd=folder)
        assert done.returncode == 7
        said("move: a store in use", re.sub(r"\d+ s ago", "N s ago", done.stderr))
        await store.accept(event())

    fill(folder, with_listener)
    assert json.loads(alone("move", "--from", HERE, "--to", "sqlite:///new.db", cwd=folder).stdout.splitlines()[-1])["moved"]
