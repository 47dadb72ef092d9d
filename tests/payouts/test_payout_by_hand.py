"""Rows that a person lets pay again under a new key, and every way out before that is decided."""

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
from payouts.cli.confirmation import MAX_SHOWN
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.by_hand_kit import NOBODY, decided, lead, prepare, raw, row_of, somebody
from tests.payouts.command_kit import TWO, Call, entries, for_people, records, run_of, vendor
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.process_kit import ROOT, enkash_at, original_at
from tests.texts import said, without_places

__all__ = ["somebody", "vendor"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that a vendor was asked for which holds nothing."""
    keys: list[str] = []

    async def find_allocation(_: OriginalClient, user: str, *, nonce: str, reward_uid: str | None = None) -> None:
        keys.append(nonce)

    monkeypatch.setattr(OriginalClient, "find_allocation", find_allocation)
    return keys


def test_the_vendor_is_asked_after_somebody_has_decided_and_not_before(
    call: Call, folder: Path, somebody: None, asked: list[str]
) -> None:
    prepare(folder, State.REJECTED)
    before = entries(folder)
    result = call("retry", "--state=rejected", text="no\n", env=NOBODY)
    assert (result.exit_code, asked, entries(folder), decided(folder)) == (6, [], before, [])
    result = call("retry", "--state=rejected", text="diwali-2026\n", env=NOBODY)
    assert (result.exit_code, asked) == (0, [entry.key for entry in before.values()])


def test_what_would_be_paid_again_is_added_up_before_somebody_decides(
    call: Call, folder: Path, somebody: None, asked: list[str]
) -> None:
    rows = [token_row(f"r{n}", amount="39642.011136") for n in range(MAX_SHOWN + 2)]
    lead(folder, rows, State.REJECTED, TimeoutError("no answer"))
    said("retry: the question", call("retry", "--state=rejected", text="no\n", env=NOBODY).output)


def test_the_question_is_asked_beside_the_results_where_a_program_reads_them(
    call: Call, folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payouts.cli.confirmation.has_terminal", lambda: True)
    prepare(folder, State.REJECTED)
    result = call("retry", "--state=rejected", "--json", text="diwali-2026\n", env=NOBODY)
    assert result.exit_code == 0
    assert [record["event"] for record in records(result)] == ["renewed", "renewed"]
    said("retry: what is asked of a person beside JSON", without_places(result.stderr))


def test_nobody_is_asked_where_nobody_is_there(call: Call, folder: Path, asked: list[str]) -> None:
    prepare(folder, State.REJECTED)
    before = entries(folder)
    result = call("retry", "--state=rejected", text="diwali-2026\n", env=NOBODY)
    assert (result.exit_code, asked, entries(folder)) == (2, [], before)
    said("retry: without a terminal", result.output)


def test_coins_are_not_added_up_because_their_event_says_how_many(call: Call, folder: Path, somebody: None) -> None:
    lead(folder, [coin_row("r1")], State.REJECTED, TimeoutError("no such event"), vendor="enkash")
    result = call("retry", "r1", text="diwali-2026\n", env=enkash_at("http://127.0.0.1:1", Path(os.environ["XDG_STATE_HOME"])))
    assert result.exit_code == 0
    said("retry: coins", result.output)


def test_coins_that_a_newer_copy_may_have_paid_are_not_retried(call: Call, folder: Path) -> None:
    lead(folder, [coin_row("r1")], State.REJECTED, TimeoutError("no such event"), vendor="enkash")
    before = row_of(folder, "r1")
    with raw(folder) as database:
        database.execute("UPDATE campaigns SET restored_at = ?", (before["settled_at"] + 1,))
    result = call("retry", "r1", "--yes", env=enkash_at("http://127.0.0.1:1", Path(os.environ["XDG_STATE_HOME"])))
    assert (result.exit_code, row_of(folder, "r1")) == (6, before)


def test_a_row_that_cannot_be_paid_again_is_no_question(call: Call, folder: Path, somebody: None, asked: list[str]) -> None:
    prepare(folder, State.UNKNOWN)
    result = call("retry", "r1", env=NOBODY)
    assert (result.exit_code, asked) == (6, [])
    said("retry: an unknown row", result.output)


def test_no_row_in_that_state_is_told(call: Call, folder: Path, somebody: None) -> None:
    prepare(folder, State.REJECTED)
    result = call("retry", "--state=failed", env=NOBODY)
    assert result.exit_code == 0
    said("retry: no such rows", result.output)


def test_rows_are_named_by_ids_or_by_their_state(call: Call, folder: Path) -> None:
    prepare(folder, State.REJECTED)
    both = call("retry", "r1", "--state=rejected", env=NOBODY)
    assert (call("retry", env=NOBODY).exit_code, both.exit_code) == (2, 2)
    said("retry: ids and a state", both.output)
    assert call("retry", "r9", "--yes", env=NOBODY).exit_code == 5


def test_several_rows_are_looked_up_at_once(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder, State.REJECTED, rows=25)
    under_way = most = 0

    async def find_allocation(_: OriginalClient, user: str, *, nonce: str, reward_uid: str | None = None) -> None:
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
    assert (result.exit_code, "Retry?" in result.output) == (7, False)


@pytest.mark.slow
def test_an_interrupt_at_the_question_ends_the_command_at_once(folder: Path) -> None:
    prepare(folder, State.REJECTED)
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "payouts", "retry", "r1", "--ledger", str(folder / "payouts.db")]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=NOBODY, cwd=ROOT)
    os.close(terminal)
    shown = b""
    while b"Type diwali-2026" not in shown:
        shown += os.read(screen, 1000)
    while process.poll() is None:  # one that comes in the moment before Python begins to read is only seen with the next key
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
    assert process.returncode == 130
    os.close(screen)
    assert {entry.state for entry in entries(folder).values()} == {State.REJECTED}


def test_the_note_stays_with_the_key_that_a_retry_replaces(
    call: Call, folder: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(folder, State.UNKNOWN)
    call("resolve", "r1", "--as=rejected", "--note=ticket 4711: it never arrived")
    assert call("retry", "r1", "--yes", env=NOBODY).exit_code == 0
    (row,) = records(call("status", "r1"))
    assert row["note"] is None
    assert [(key["problem"], key["note"]) for key in row["retired_keys"]] == [("no answer", "ticket 4711: it never arrived")]
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    assert "ticket 4711: it never arrived" in call("status", "r1").stdout


def test_a_rejected_row_gets_a_new_key_after_the_vendor_was_asked(
    call: Call, folder: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    env = original_at(vendor)
    call(*run_of(), env=env)
    old = entries(folder)
    assert call("retry", "r1", env=env).exit_code == 2
    assert entries(folder) == old
    result = call("retry", "r1", "r1", "--yes", env=env)
    assert result.exit_code == 0
    new = entries(folder)["r1"]
    assert records(result) == [{"event": "renewed", "id": "r1", "old_key": old["r1"].key, "key": new.key}]
    assert (new.state, new.retries, new.key != old["r1"].key) == (State.PLANNED, 1, True)
    (row,) = records(call("status", "r1"))
    assert row["retired_keys"][0]["key"] == old["r1"].key
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    assert old["r1"].key in call("status", "r1").stdout
    result = call("retry", "r1", "r2", "--yes", env=env)
    assert result.exit_code == 6
    said("retry: one row that is planned already, and one that gets a new key", result.stdout)


def test_a_row_is_only_paid_anew_once_somebody_has_typed_the_campaign(
    call: Call, folder: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    env = original_at(vendor)
    call(*run_of(), env=env)
    monkeypatch.setattr("payouts.cli.confirmation.has_terminal", lambda: True)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    result = call("retry", "--state=rejected", text="no\n", env=env)
    assert (result.exit_code, {entry.state for entry in entries(folder).values()}) == (6, {State.REJECTED})
    result = call("retry", "--state=rejected", text="diwali-2026\n", env=env)
    assert (result.exit_code, {entry.state for entry in entries(folder).values()}) == (0, {State.PLANNED})


def test_retry_needs_rows_that_are_there_and_credentials(call: Call, folder: Path, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*run_of(), env=original_at(vendor))
    assert call("retry", "--yes").exit_code == 2
    assert call("retry", "r1", "--state=failed").exit_code == 2
    assert call("retry", "r9", "--yes").exit_code == 5
    result = call("retry", "r1", "--yes")
    assert result.exit_code == 2
    assert "ORIGINAL_API_KEY" in result.stderr


def test_a_row_that_keeps_its_key_is_told_to_programs_too(call: Call, folder: Path, lenient: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    env = original_at(lenient)
    call(*run_of(), env=env)
    result = call("retry", "r1", "--yes", env=env)
    assert result.exit_code == 6
    assert [(record["event"], record["state"]) for record in records(result)] == [("kept", "done")]
