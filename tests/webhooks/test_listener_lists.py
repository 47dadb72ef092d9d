"""What every list of `webhook-listener` has in common: two facts about an event, empty lists, and a narrow terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests.texts import said
from tests.webhooks.command_kit import FORWARD, a_dead_job, fill, lines, run, screen, some_events
from tests.webhooks.listener_process import environment
from tests.webhooks.store_contract import EPOCH, event, outcome, ref, wants
from webhooks.store.records import Priority
from webhooks.store.sqlite import SQLiteStore

UIDS = ("324167489835", "110985463782")
LISTS = ("events list", "dead-letters list", "pending list", "outcomes list", "handlers list", "tail --count 6")


def terminal(folder: Path, *arguments: str, columns: int = 80) -> list[str]:
    """Return what a command writes to a terminal of so many columns."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {name: value for name, value in environment().items() if name != "COLUMNS"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "webhooks", *arguments]
    with subprocess.Popen(command, cwd=folder, env=env, stdin=its_end, stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        written = b""
        with suppress(OSError):  # the command has ended
            while more := os.read(terminal, 65_536):
                written += more
        os.close(terminal)
    assert process.returncode == 0, written
    return re.sub(rb"\x1b\[[0-9;]*m", b"", written).decode().splitlines()


async def a_bit_of_everything(store: SQLiteStore) -> None:
    """Keep events of long names and of several scopes, with handlers, outcomes and pending operations."""
    await store.register_handlers([wants(FORWARD, scope="a-long-scope"), wants("a.handler.of.some.length", service="orders")])
    for uid in UIDS:
        await store.accept(event(uid, name="collection.deployed.somewhere", of=ref(uid, scope="a-long-scope")))
        await store.accept(event(uid, of=ref(uid), also=(ref("1"), ref("2"))))
        await store.accept(event(f"{uid} unread", of=ref(uid), problem="The body names another app."))
        await store.record_outcome(outcome(ref(uid), "failed", via="webhook", at=EPOCH))
        await store.record_outcome(outcome(ref(uid), "done", at=EPOCH, amount="7"))
        await store.hurry_polls([ref(uid, kind="claim", scope="a-long-scope")], Priority.ABANDONED)


@pytest.mark.slow
@pytest.mark.parametrize("command", LISTS)
def test_no_time_and_no_uid_is_broken_in_a_terminal_of_80_columns(folder: Path, command: str) -> None:
    fill(folder, a_bit_of_everything)
    shown = terminal(folder, *command.split())
    told = [line for line in shown if not line.startswith(("    conflict", "No running process"))]
    assert told
    assert max(map(len, told)) <= 80
    text = "\n".join(told)
    if command != "handlers list":
        assert all(uid in text for uid in UIDS)
        assert len(re.findall(r"\d\d-\d\d \d\d:\d\d(:\d\d)?(?!\d)", text)) >= 2
    else:
        assert FORWARD in text


@pytest.mark.slow
def test_where_cells_do_not_fit_one_line_a_record_goes_on_in_the_next(folder: Path) -> None:
    fill(folder, some_events, clock=lambda: EPOCH)
    assert terminal(folder, "events", "list", "--event", "reward.claimed", columns=40) == [
        "id  received (UTC)    handlers",
        "    operation  scope  event",
        " 2  2025-10-09 08:53  done",
        "    none       other  reward.claimed",
    ]


@pytest.mark.slow
def test_other_columns_give_way_before_the_time_does(folder: Path) -> None:
    fill(folder, some_events, clock=lambda: EPOCH)
    assert terminal(folder, "events", "list", "--event", "reward.claimed", columns=65)[1] == (
        " 2  2025-10-09 08:53:20  done      none       other  reward.clai…"
    )
    assert terminal(folder, "events", "list", "--event", "reward.claimed", columns=62)[1] == (
        " 2  2025-10-09 08:53  done      none       other  reward.clai…"
    )


# whether handlers ran, and whether operations have settled


async def standings(store: SQLiteStore) -> None:
    await store.record_outcome(outcome(ref("1"), "failed"))
    await store.record_outcome(outcome(ref("2")))
    await store.register_handlers([wants()])
    await store.accept(event("1", of=ref("1")))
    await store.accept(event("2", of=ref("2"), also=(ref("3"),)))
    await store.accept(event("3", of=ref("4")))
    await store.accept(event("4"))
    await store.remove_pending([ref("4")])


def test_an_event_says_whether_its_operation_has_settled_beside_whether_its_handlers_ran(folder: Path) -> None:
    fill(folder, standings)
    rows = lines(run("events", "list"))
    assert [(row["handlers"], row["operation"]) for row in rows] == [
        ("ready", None),
        ("ready", "unknown"),
        ("ready", "mixed"),
        ("ready", "failed"),
    ]
    assert rows[2]["operations"] == [
        {"kind": "allocation", "uid": "2", "status": "done"},
        {"kind": "allocation", "uid": "3", "status": "pending"},
    ]
    table = screen("events", "list")
    assert [re.split(r"  +", line.strip())[3] for line in table[1:]] == ["none", "not known", "1 done, 1 pending", "failed"]
    assert table[3].endswith("2 and 1 more")


def test_a_dead_letter_says_whether_its_operation_has_settled(folder: Path) -> None:
    fill(folder, a_dead_job)
    fill(folder, lambda store: store.remove_pending([ref("324167489835")]))
    (row,) = lines(run("dead-letters", "list"))
    assert (row["handlers"], row["operation"]) == ("dead", "unknown")
    said("events show: an unknown operation", "\n".join(screen("events", "show", "1")[5:6]))


def test_a_settled_operation_says_who_said_so_and_when(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(event("1", of=ref("1"), also=(ref("2"),)))
        await store.record_outcome(outcome(ref("1"), "failed", at=EPOCH))

    fill(folder, work)
    shown = [line for line in screen("events", "show", "1") if line.startswith("operation")]
    said("events show: operations", "\n".join(shown))


# empty lists


@pytest.mark.slow
def test_an_empty_store_says_what_is_not_there_yet(folder: Path) -> None:
    fill(folder, lambda store: store.ping())
    commands = (
        "events list",
        "events list --uid 7",
        "dead-letters list --event a",
        "pending list --kind claim",
        "outcomes list --status failed",
        "handlers list",
    )
    assert all(lines(run(*command.split())) == [] for command in commands)
    said("lists: empty", "\n".join(line for command in commands for line in screen(*command.split())))


@pytest.mark.slow
def test_a_filter_that_nothing_fits_is_told_from_an_empty_store(folder: Path) -> None:
    fill(folder, a_bit_of_everything)
    commands = (
        "events list --event a --state dead --before 9",
        "dead-letters list --uid 9",
        "pending list --uid 9 --scope a",
        "outcomes list --status done --kind b",
    )
    assert all(lines(run(*command.split())) == [] for command in commands)
    said("lists: no match", "\n".join(line for command in commands for line in screen(*command.split())))


# outcomes


async def some_outcomes(store: SQLiteStore) -> None:
    await store.record_outcome(outcome(ref("1"), via="webhook", key="n-1"))
    await store.record_outcome(outcome(ref("2", kind="claim", scope="shop"), "failed", confirmed=True))
    await store.record_outcome(outcome(ref("1"), "failed", amount="7", confirmed=True))


def test_outcomes_are_listed_as_typed_json_lines(folder: Path) -> None:
    fill(folder, some_outcomes)
    newest, oldest = sorted(lines(run("outcomes", "list")), key=lambda row: str(row["uid"]), reverse=True)
    assert (newest["scope"], newest["kind"], newest["uid"]) == ("shop", "claim", "2")
    assert (newest["status"], newest["via"], newest["confirmed"], newest["conflicts"]) == ("failed", "poll", True, [])
    assert (oldest["status"], oldest["via"], oldest["key"]) == ("done", "webhook", "n-1")
    assert oldest["settled_at"] == "2025-10-09T08:53:20.000+00:00"
    (later,) = oldest["conflicts"]
    assert (later["status"], later["via"], later["confirmed"], later["resource"]["amount"]) == ("failed", "poll", True, "7")


@pytest.mark.parametrize(
    ("options", "uids"),
    [
        (["--uid", "1"], ["1"]),
        (["--kind", "claim"], ["2"]),
        (["--scope", "shop"], ["2"]),
        (["--status", "done"], ["1"]),
        (["--conflicts"], ["1"]),
        (["--before", "1"], []),
        (["--limit", "1", "--status", "failed"], ["2"]),
    ],
)
def test_outcomes_are_chosen_by_options(folder: Path, options: list[str], uids: list[str]) -> None:
    fill(folder, some_outcomes)
    assert [row["uid"] for row in lines(run("outcomes", "list", *options))] == uids


def test_a_person_sees_a_conflict_below_the_outcome_that_stands(folder: Path) -> None:
    fill(folder, some_outcomes)
    said("outcomes list --conflicts", "\n".join(screen("outcomes", "list", "--conflicts")))


def test_pending_operations_are_chosen_by_uid_and_kind(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.add_pending([ref("1"), ref("2"), ref("1", kind="claim")], poll_in=15)

    fill(folder, work)
    assert [row["kind"] for row in lines(run("pending", "list", "--uid", "1"))] == ["allocation", "claim"]
    assert [row["uid"] for row in lines(run("pending", "list", "--kind", "allocation"))] == ["1", "2"]


@pytest.mark.parametrize(
    "verb",
    [
        *(("events", "list", option) for option in ("--event", "--uid", "--scope")),
        *(("tail", option) for option in ("--event", "--uid", "--scope")),
        *(("outcomes", "list", option) for option in ("--uid", "--kind", "--scope")),
        *(("pending", "list", option) for option in ("--uid", "--kind", "--scope")),
    ],
    ids=" ".join,
)
def test_a_filter_that_is_empty_is_refused_instead_of_finding_nothing(folder: Path, verb: tuple[str, ...]) -> None:
    result = run(*verb, " ")
    assert (result.exit_code, result.stdout) == (2, "")
