"""What a person decides: rows paid anew and rows settled by hand, and every way out before it is decided."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from original_async import OriginalClient
from payouts.cli.by_hand import MOST_SHOWN
from payouts.ledger import Ledger
from payouts.states import State
from tests.payouts.command_kit import REWARD, Call, entries, for_people, records
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.process_kit import ROOT, enkash_at, original_at

NOBODY = original_at("http://127.0.0.1:1/v1")


def prepare(folder: Path, state: State, rows: int = 2) -> None:
    """Make a ledger of so many rows in one state."""

    async def lead() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026") as ledger:
            for entry in await ledger.plan([token_row(f"r{n}") for n in range(1, rows + 1)]):
                sent = await ledger.move(entry, State.SENT)
                await ledger.move(sent, state, problem=TimeoutError("no answer"))

    asyncio.run(lead())


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits before the terminal."""
    monkeypatch.setattr("payouts.cli.by_hand._somebody_is_there", lambda: True)
    monkeypatch.setattr("webhooks.cli.terminal.Output.__init__", for_people)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that a vendor was asked for which holds nothing."""
    keys: list[str] = []

    async def find_allocation(_: OriginalClient, user: str, nonce: str, reward: str | None = None) -> None:
        keys.append(nonce)

    monkeypatch.setattr(OriginalClient, "find_allocation", find_allocation)
    return keys


def test_the_vendor_is_asked_after_somebody_has_decided_and_not_before(
    call: Call, folder: Path, somebody: None, asked: list[str]
) -> None:
    prepare(folder, State.REJECTED)
    before = entries(folder)
    result = call("retry", "--state=rejected", text="no\n", env=NOBODY)
    assert (result.exit_code, asked, entries(folder)) == (6, [], before)
    assert "nothing was changed" in result.stderr
    result = call("retry", "--state=rejected", text="diwali-2026\n", env=NOBODY)
    assert (result.exit_code, asked) == (0, [entry.key for entry in before.values()])


def test_what_would_be_paid_anew_is_added_up_before_somebody_decides(
    call: Call, folder: Path, somebody: None, asked: list[str]
) -> None:
    prepare(folder, State.REJECTED, rows=MOST_SHOWN + 2)
    result = call("retry", "--state=rejected", text="no\n", env=NOBODY)
    assert f"{MOST_SHOWN + 2} rows get another key if the vendor agrees, and are paid anew by the next run" in result.stdout
    assert f"{1.5 * (MOST_SHOWN + 2):.2f} of {REWARD}" in result.stdout
    assert "and 2 more" in result.stdout
    assert f"r{MOST_SHOWN + 1} " not in result.stdout


def test_coins_are_not_added_up_because_their_event_says_how_many(call: Call, folder: Path, somebody: None) -> None:
    async def reject() -> None:
        async with Ledger(folder / "payouts.db", vendor="enkash", campaign="c") as ledger:
            (entry,) = await ledger.plan([coin_row("r1")])
            await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED, problem="no such event")

    asyncio.run(reject())
    result = call("retry", "r1", text="c\n", env=enkash_at("http://127.0.0.1:1", folder))
    assert (result.exit_code, "1 row gets another key" in result.stdout, "altogether" in result.stdout) == (0, True, False)


def test_a_row_that_cannot_be_paid_anew_is_no_question(call: Call, folder: Path, somebody: None, asked: list[str]) -> None:
    prepare(folder, State.UNKNOWN)
    result = call("retry", "r1", env=NOBODY)
    assert (result.exit_code, asked, "type" in result.stdout) == (6, [], False)
    assert "row r1 keeps its key: it is unknown" in result.stdout


def test_no_row_in_that_state_is_told(call: Call, folder: Path, somebody: None) -> None:
    prepare(folder, State.REJECTED)
    result = call("retry", "--state=failed", env=NOBODY)
    assert (result.exit_code, "diwali-2026: no row is failed" in result.stdout) == (0, True)


def test_several_rows_are_looked_up_at_once(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder, State.REJECTED, rows=25)
    under_way = most = 0

    async def find_allocation(_: OriginalClient, user: str, nonce: str, reward: str | None = None) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    monkeypatch.setattr(OriginalClient, "find_allocation", find_allocation)
    result = call("retry", "--state=rejected", "--yes", env=NOBODY)
    assert result.exit_code == 0
    assert [record["id"] for record in records(result)] == [f"r{n}" for n in range(1, 26)]
    assert most == 10


def test_a_ledger_in_use_is_told_before_somebody_is_asked(call: Call, folder: Path, somebody: None) -> None:
    prepare(folder, State.REJECTED)

    async def meanwhile() -> Any:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026"):
            return await asyncio.to_thread(call, "retry", "--state=rejected", env=NOBODY)

    result = asyncio.run(meanwhile())
    assert (result.exit_code, "rows get another key" in result.stdout) == (7, False)


def test_an_interrupt_at_the_question_ends_the_command_at_once(folder: Path) -> None:
    prepare(folder, State.REJECTED)
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "payouts", "retry", "r1", "--ledger", str(folder / "payouts.db")]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=NOBODY, cwd=ROOT)
    os.close(terminal)
    shown = b""
    while b"type diwali-2026 to go on" not in shown:
        shown += os.read(screen, 1000)
    while process.poll() is None:  # one that comes in the moment before Python begins to read is only seen with the next key
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    assert process.returncode == 130
    os.close(screen)
    assert {entry.state for entry in entries(folder).values()} == {State.REJECTED}


def test_many_rows_are_settled_by_hand_with_one_note(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN, rows=3)
    result = call("resolve", "r1", "r3", "r1", "--as=done", "--note=ticket 4711")
    assert [(record["id"], record["state"]) for record in records(result)] == [("r1", "done"), ("r3", "done")]
    assert [(entry.state, entry.note) for entry in entries(folder).values()] == [
        (State.DONE, "ticket 4711"),
        (State.UNKNOWN, None),
        (State.DONE, "ticket 4711"),
    ]


def test_one_row_that_cannot_be_settled_by_hand_leaves_all_as_they_are(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN)
    assert call("resolve", "r1", "--as=done", "--note=seen").exit_code == 0
    result = call("resolve", "r2", "r1", "--as=done", "--note=seen")
    assert (result.exit_code, entries(folder)["r2"].state) == (6, State.UNKNOWN)
    assert (
        "row r1 is done; only an unknown row is settled by hand, and a rejected one put right; nothing was changed"
        in result.stderr
    )
    assert call("resolve", "r2", "r9", "--as=done", "--note=seen").exit_code == 5


@pytest.mark.parametrize("to", ["done", "unknown"])
def test_a_row_that_was_wrongly_called_rejected_is_put_right_by_hand(call: Call, folder: Path, to: str) -> None:
    prepare(folder, State.REJECTED)
    (record,) = records(call("resolve", "r1", f"--as={to}", "--note=seen in the console"))
    assert (record["id"], record["state"]) == ("r1", to)
    row = entries(folder)["r1"]
    assert (row.state, row.note) == (State(to), "seen in the console")


@pytest.mark.parametrize("state", [State.REJECTED, State.UNKNOWN])
def test_a_row_is_not_settled_as_what_it_is(call: Call, folder: Path, state: State) -> None:
    prepare(folder, state)
    assert call("resolve", "r1", f"--as={state}", "--note=seen").exit_code == 6


def test_the_note_stays_with_the_key_that_a_retry_replaces(
    call: Call, folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(folder, State.UNKNOWN)
    call("resolve", "r1", "--as=rejected", "--note=ticket 4711: it never arrived")
    assert call("retry", "r1", "--yes", env=NOBODY).exit_code == 0
    (row,) = records(call("status", "r1"))
    assert row["note"] is None
    assert [(key["problem"], key["note"]) for key in row["retired_keys"]] == [("no answer", "ticket 4711: it never arrived")]
    monkeypatch.setattr("webhooks.cli.terminal.Output.__init__", for_people)
    assert "ticket 4711: it never arrived" in call("status", "r1").stdout
