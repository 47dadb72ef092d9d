"""The command line pays a file once, and its exit codes and its help keep their word."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import Result

from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.command_kit import HEADER, REWARD, TWO, Call, entries, for_people, records, run_of, vendor
from tests.payouts.process_kit import (
    books,
    create_event,
    enkash_at,
    environment,
    free_port,
    original_at,
    payouts,
    sandbox,
)
from tests.texts import said

__all__ = ["vendor"]


@pytest.mark.slow
def test_a_file_is_paid_reported_and_paid_only_once(call: Call, folder: Path, lenient: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    env = original_at(lenient)
    result = call(*run_of("rewards.csv", "--report=report.html", "--results=results.csv"), env=env)
    assert (result.exit_code, result.stderr) == (0, "")
    told = records(result)
    assert [record["event"] for record in told] == ["checked", "begin", "row", "row", "end", "report", "results", "summary"]
    assert {record["id"]: record["state"] for record in told if record["event"] == "row"} == {"r1": "done", "r2": "done"}
    assert (told[-1]["done"], told[-4]["by_poll"]) == (2, 2)
    assert "diwali-2026" in (folder / "report.html").read_text()
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    before = books(lenient)
    result = call(*run_of(), env=env)
    assert (result.exit_code, records(result)[-2]["settled_before"]) == (0, 2)
    assert books(lenient)["requests"] == before["requests"]
    assert [allocation["amount"] for allocation in before["allocations"]] == ["1.50", "2.25"]


@pytest.mark.slow
def test_rows_come_from_standard_input_and_webhooks_bring_the_news(call: Call, folder: Path) -> None:
    lines = "".join(
        json.dumps({"order": f"o{n}", "reward_uid": REWARD, "to_user_uid": str(n), "amount": "1"}) + "\n" for n in range(5)
    )

    port = free_port()
    with sandbox("original", "--confirm=0.1:0.2", f"--webhook-url=http://127.0.0.1:{port}/webhooks/original") as url:
        result = call(
            *run_of("-", "--id-column=order", f"--webhook-port={port}", "--poll-after=15"), text=lines, env=original_at(url)
        )
    assert result.exit_code == 0, result.stderr
    assert records(result)[-2]["by_webhook"] == 5


def test_for_people_a_run_ends_with_what_there_is_to_do(
    call: Call, folder: Path, vendor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    (folder / "rewards.csv").write_text(HEADER + f"r1,{REWARD},32,1.50\n")
    result = call(*run_of("rewards.csv", "--report=report.html", "--results=results.csv"), env=original_at(vendor))
    assert result.exit_code == 3
    lines = [
        line for line in result.output.splitlines() if "rows/s" not in line and "in flight" not in line
    ]  # of no fixed length
    said("run: a row that the vendor refuses", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9400", "\n".join(lines)))


def test_rejected_rows_give_another_exit_code(call: Call, folder: Path, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    result = call(*run_of(), env=original_at(vendor))
    assert result.exit_code == 3
    row = next(record for record in records(result) if record["event"] == "row")
    assert (row["state"], row["problem_kind"]) == ("rejected", "NotFound")


@pytest.mark.slow
@pytest.mark.parametrize(("option", "states"), [("--no-wait", {State.ACCEPTED}), ("--limit=1", {State.DONE, State.PLANNED})])
def test_rows_without_an_end_give_another_exit_code(
    call: Call, folder: Path, lenient: str, option: str, states: set[State]
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    assert call(*run_of("rewards.csv", option), env=original_at(lenient)).exit_code == 4
    assert {entry.state for entry in entries(folder).values()} == states
    assert call(*run_of(), env=original_at(lenient)).exit_code == 0


def test_a_vendor_that_cannot_be_reached_or_refuses_the_credentials_gives_another_exit_code(
    call: Call, folder: Path, lenient: str
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    wrong = original_at(lenient) | {"ORIGINAL_API_SECRET": "x" * 40}
    result = call(*run_of(), env=wrong)
    assert result.exit_code == 7
    said("run: credentials that the vendor refuses", result.stderr)
    assert {entry.state for entry in entries(folder).values()} == {State.PLANNED}
    assert "x" * 40 not in result.output


def test_a_ledger_in_use_is_told_with_the_process_that_has_it(call: Call, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)

    async def meanwhile() -> Result:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="other"):
            return await asyncio.to_thread(call, *run_of())

    result = asyncio.run(meanwhile())
    assert result.exit_code == 7
    assert f"process {os.getpid()}" in result.stderr


def test_another_place_needs_another_campaign(call: Call, folder: Path, lenient: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    env = original_at(lenient)
    assert call(*run_of(), env=env).exit_code == 0
    result = call(*run_of(), env=env | {"ORIGINAL_BASE_URL": "http://127.0.0.1:1/v1"})
    assert result.exit_code == 7
    assert "http://127.0.0.1:1/v1" in result.stderr


@pytest.mark.slow
def test_coins_are_paid(call: Call, folder: Path) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,EK000001,MEAL_CARD_PAYMENT\nb,EK000002,NO_SUCH_EVENT\n")
    with sandbox("enkash") as url:
        env = enkash_at(url, folder)
        create_event(env, "MEAL_CARD_PAYMENT")
        result = call("run", "coins.csv", "--vendor=enkash", "--campaign=c", "--yes", "--rate=0", env=env)
        assert result.exit_code == 3, result.stderr
        rows = {record["id"]: record for record in records(result) if record["event"] == "row"}
        assert (rows["a"]["state"], rows["a"]["amount"], rows["b"]["state"]) == ("done", None, "rejected")
        assert call("retry", "b", "--yes", env=env).exit_code == 0
        create_event(env, "NO_SUCH_EVENT")
        assert call("run", "coins.csv", "--vendor=enkash", "--campaign=c", "--yes", "--rate=0", env=env).exit_code == 0
        assert len(books(url)["allocations"]) == 2
    assert (folder / "rewards-async").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_help_shows_examples() -> None:
    process = payouts("run", "--help", env=environment(COLUMNS="200"))
    text = process.communicate()[0].decode()
    assert "payouts run rewards.csv --vendor original --campaign diwali --dry-run" in text
