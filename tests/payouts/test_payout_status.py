"""How a campaign stands is told and reported at any time, in few words or with every row."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.command_kit import HEADER, REWARD, TWO, Call, for_people, records, run_of, vendor
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.process_kit import (
    original_at,
)
from tests.texts import said

__all__ = ["vendor"]


def test_status_tells_how_a_campaign_stands(call: Call, folder: Path, vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*run_of(), env=original_at(vendor))
    told = records(call("status"))
    assert (told[0]["event"], told[0]["rows"], told[0]["rejected"]) == ("status", 2, 2)
    assert told[0]["sums"] == {REWARD: {"rejected": "3.75"}}
    assert [(row["id"], row["state"]) for row in told[1:]] == [("r1", "rejected"), ("r2", "rejected")]
    (row,) = records(call("status", "r1"))
    assert (row["id"], row["to_user_uid"], row["retired_keys"]) == ("r1", "32", [])
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    said("status: two rejected rows", call("status", "--all").stdout)
    assert "to_user_uid   32" in call("status", "r1").stdout
    assert call("status", "r9").exit_code == 5
    assert call("status", "--campaign=other").exit_code == 5
    assert call("status", "--ledger=none.db").exit_code == 7


def test_a_line_about_coins_is_still_known_as_a_row(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def plan() -> None:
        async with Ledger(folder / "payouts.db", vendor="enkash", campaign="c") as ledger:
            await ledger.plan([coin_row("r1", event="MEAL")])

    asyncio.run(plan())
    for arguments in (["status"], ["status", "r1"]):
        row = records(call(*arguments))[-1]
        assert (row["event"], row["id"], row["item"], row["user_id"]) == ("row", "r1", "MEAL", "EKQZVMQK")
        assert (row["sent_at"], row["settled_at"]) == (None, None)
        assert row["planned_at"].endswith("+00:00")
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    assert "event         MEAL" in call("status", "r1").stdout


@pytest.mark.slow
def test_for_people_all_is_well_in_few_words(call: Call, folder: Path, lenient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rewards.csv").write_text(TWO + "r3,other,34,1\n")
    call(*run_of("rewards.csv", "--limit=2"), env=original_at(lenient))
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    said("status: a row that is not sent yet", call("status").stdout)
    assert call(*run_of(), env=original_at(lenient)).exit_code == 0
    said("status: every row is paid", call("status").stdout)


def test_a_long_status_names_the_first_rows_only(call: Call, folder: Path, lenient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(30)))
    call(*run_of("rewards.csv", "--limit=1"), env=original_at(lenient))
    assert len(records(call("status"))) == 21
    assert len(records(call("status", "--all"))) == 30
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    listed = call("status").stdout
    assert ("\nr20: " in listed, "\nr21: " in listed) == (True, False)


def test_all_rows_that_are_not_paid_are_listed_for_a_program(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lead() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="c") as ledger:
            planned = await ledger.plan([token_row(f"r{n}") for n in range(6)])
            sent = [await ledger.move(entry, State.SENT) for entry in planned[3:]]
            await ledger.move(sent[0], State.REJECTED, problem="no")

    asyncio.run(lead())
    monkeypatch.setattr("payouts.cli.status.MAX_LISTED", 4)
    listed = [(record["id"], record["state"]) for record in records(call("status", "--all"))[1:]]
    assert listed == [
        ("r3", "rejected"),
        ("r4", "sent"),
        ("r5", "sent"),
        ("r0", "planned"),
        ("r1", "planned"),
        ("r2", "planned"),
    ]
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    said("status: more rows than are listed", call("status", "--all").stdout)


def test_a_report_can_be_written_afterwards(call: Call, folder: Path, lenient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*run_of(), env=original_at(lenient))
    result = call("report", "--results=results.csv")
    assert [record["path"] for record in records(result)] == ["payouts.html", "results.csv"]
    assert "diwali-2026" in (folder / "payouts.html").read_text()
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    assert "other.html" in call("report", "--out=other.html").stdout
    assert call("report", "--out=nowhere/report.html").exit_code == 2
