"""Before anything is paid, sums are shown, a person is asked, and limits hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.payouts.campaign_kit import FIVE, ROWS, Desk, events, untimed
from tests.payouts.command_kit import HEADER, REWARD, Call
from tests.texts import said


@pytest.mark.slow
def test_nobody_is_asked_where_there_is_nobody(desk: Desk) -> None:
    result = desk.pay(FIVE, "diwali")
    assert (result.exit_code, desk.paid) == (2, 0)
    assert "--yes" in result.stderr
    assert desk.pay(FIVE, "diwali", "--yes").exit_code == 0
    assert desk.pay(FIVE, "diwali").exit_code == 0  # nothing of it is new


@pytest.mark.parametrize(("answer", "code", "paid"), [("yes\n", 0, 5), ("y\n", 0, 5), ("no\n", 6, 0), ("\n", 6, 0), ("", 130, 0)])
def test_a_person_is_asked_once(desk: Desk, somebody: None, answer: str, code: int, paid: int) -> None:
    result = desk.pay(FIVE, "diwali", text=answer)
    assert (result.exit_code, desk.paid) == (code, paid)


def test_what_is_to_be_paid_is_added_up_before_somebody_is_asked(desk: Desk, somebody: None) -> None:
    rows = [f"{row.split(',')[0]},{REWARD},{row.split(',')[2]},1234567.{n}5" for n, row in enumerate(ROWS)]
    more = f"r6,764893807499,110985463782,0.000000000000000001\nr7,{REWARD},110985463781,1\n"
    result = desk.pay(HEADER + "\n".join(rows) + "\n" + more, "diwali", text="no\n")
    said("run: what is asked before a file is paid", untimed(result))


@pytest.mark.slow
def test_rows_that_are_new_to_a_campaign_are_told_apart_from_those_it_has(desk: Desk, somebody: None) -> None:
    assert desk.pay(FIVE, "diwali", "--yes", "--limit=3").exit_code == 4
    result = desk.pay(FIVE + f"r6,{REWARD},110985463786,1234.5\n", "diwali", text="no\n")
    said("run: a new row beside rows of an earlier run", untimed(result))


def test_programs_read_the_same_summary(desk: Desk) -> None:
    (checked,) = events(desk.pay(FIVE + f"r9,{REWARD},110985463781,1\n", "diwali", "--dry-run"), "checked")
    assert {name: checked[name] for name in ("campaign", "vendor", "rows", "known", "users", "counts", "totals")} == {
        "campaign": "diwali",
        "vendor": "original",
        "rows": 6,
        "known": 0,
        "users": 5,
        "counts": {REWARD: 6},
        "totals": {REWARD: "18.50"},
    }
    assert checked["target"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize(("most", "code"), [("17.50", 0), ("17.5", 0), ("17.49", 2), ("1,000", 2), ("0", 2), ("1E+05", 2)])
def test_a_file_that_asks_for_more_than_was_allowed_is_not_paid(desk: Desk, most: str, code: int) -> None:
    result = desk.pay(FIVE, "diwali", "--yes", f"--max-total={most}")
    assert (result.exit_code, desk.paid) == (code, 5 if code == 0 else 0)
    if code:
        assert "--max-total" in result.stderr


def test_the_most_is_meant_for_each_reward(desk: Desk) -> None:
    other = FIVE + "r6,764893807499,110985463782,10\n"
    assert desk.pay(other, "diwali", "--dry-run", "--max-total=17.50").exit_code == 0
    assert desk.pay(other, "diwali", "--dry-run", "--max-total=9.99").exit_code == 2


@pytest.mark.slow
def test_more_rewards_than_can_be_added_up_are_not_let_through(desk: Desk) -> None:
    many = HEADER + "".join(f"r{n},{10**11 + n},110985463782,1\n" for n in range(1001))
    assert desk.pay(many, "diwali", "--dry-run").exit_code == 0
    assert desk.pay(many, "diwali", "--dry-run", "--max-total=5").exit_code == 2


def test_coins_have_no_amount_to_limit(call: Call, folder: Path) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,EK000001,MEAL\n")
    result = call("run", "coins.csv", "--vendor=enkash", "--campaign=c", "--dry-run", "--max-total=5")
    assert (result.exit_code, "--max-total" in result.stderr) == (2, True)


@pytest.mark.slow
def test_a_restored_ledger_is_not_paid_from(desk: Desk, folder: Path) -> None:
    assert desk.pay(FIVE, "diwali", "--yes", "--limit=2").exit_code == 4
    backup = (folder / "payouts.db").read_bytes()
    assert desk.pay(FIVE, "diwali", "--yes").exit_code == 0
    (folder / "payouts.db").write_bytes(backup)
    for more in (("--yes",), ("--dry-run",)):
        result = desk.pay(FIVE, "diwali", *more)
        assert (result.exit_code, desk.paid) == (7, 5)
        assert "payouts audit" in result.stderr
