"""What is wrong with a file, its options or its credentials is told before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from payouts.runner import RunOptions
from tests.payouts.command_kit import HEADER, REWARD, TWO, Call, entries, for_people, records, run_of
from tests.payouts.process_kit import (
    books,
    original_at,
)
from tests.texts import said


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", (1, 1)),
        (b"id,reward_uid,to_user_uid\n", (1, 4)),
        (HEADER.encode() + b"r1,21,32,1.5.5\n", (2, 4)),
        (HEADER.encode() + b"r1,21,32,1\nr1,21,33,1\n", (3, 1)),
        (HEADER.encode() + b"r1,21,caf\xe9,1\n", (2, 3)),
        (HEADER.encode() + b"r1,21," + b"x" * 10_000_000 + b",1\n", (2, 3)),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_bad_file_is_told_with_line_and_column_and_nothing_is_sent(
    call: Call, folder: Path, content: bytes, place: tuple[int, int], dry: tuple[str, ...]
) -> None:
    (folder / "rewards.csv").write_bytes(content)
    result = call(*run_of("rewards.csv", *dry))
    assert result.exit_code == 2
    (mistake,) = records(result)
    assert (mistake["event"], mistake["line"], mistake["column"]) == ("mistake", *place)
    assert not (folder / "payouts.db").exists()


def test_a_dry_run_lists_every_mistake_for_people_too(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    (folder / "rewards.csv").write_text(HEADER + "r1,,32,x\nr2,21,32,1\nr3,21,32,-1\n")
    result = call(*run_of("rewards.csv", "--dry-run"))
    assert result.exit_code == 2
    said("run: a file with three mistakes", result.output)


def test_a_dry_run_of_a_good_file_adds_up_and_sends_nothing(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rewards.csv").write_text("note," + HEADER + f"x,r1,{REWARD},32,1.50\ny,r2,{REWARD},33,2.25\n")
    result = call(*run_of("rewards.csv", "--dry-run"))
    assert result.exit_code == 0
    (checked,) = records(result)
    assert (checked["rows"], checked["counts"], checked["totals"]) == (2, {REWARD: 2}, {REWARD: "3.75"})
    assert [note["kind"] for note in checked["notes"]] == ["ignored"]
    assert [path.name for path in folder.iterdir()] == ["rewards.csv"]
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    said("run: a dry run", call(*run_of("rewards.csv", "--dry-run")).output)


def test_a_dry_run_of_coins_counts_them(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,EK1,MEAL\n")
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    result = call("run", "coins.csv", "--vendor=enkash", "--campaign=c", "--dry-run")
    said("run: a dry run of coins", result.output)


def test_ids_from_line_come_with_a_warning(call: Call, folder: Path) -> None:
    (folder / "rewards.csv").write_text("reward_uid,to_user_uid,amount\n21,32,1\n")
    result = call(*run_of("rewards.csv", "--ids-from-line", "--dry-run"))
    assert result.exit_code == 0
    assert "--ids-from-line" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--user-id-column=x"], "--user-id-column"),
        (["--delimiter=ab"], "--delimiter"),
        (["--rate=-1"], "--rate"),
        (["--rate=fast"], "--rate"),
        (["--rate=nan/s"], "--rate"),
        (["--polls-per-second=inf"], "--polls-per-second"),
        (["--ids-from-line", "--id-column=order"], "--ids-from-line"),
        (["--campaign="], "campaign"),
    ],
)
def test_options_that_do_not_fit_are_refused(call: Call, folder: Path, arguments: list[str], words: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    result = call(*run_of("rewards.csv", "--dry-run", *arguments))
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(("given", "rate"), [("--rate=5", 5.0), ("--rate=5/s", 5.0), ("--rate=0", None), ("--limit=9", 20.0)])
def test_a_rate_is_so_many_rows_per_second(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, given: str, rate: float | None
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    heard: list[float | None] = []
    made = RunOptions

    def hear(**options: Any) -> RunOptions:
        heard.append(options["rate"])
        return made(**options)

    monkeypatch.setattr("payouts.cli.send_options.RunOptions", hear)
    result = call("run", "rewards.csv", "--vendor=original", "--campaign=c", "--dry-run", given)
    assert (result.exit_code, heard) == (0, [rate])


def test_a_file_that_is_not_there_is_named(call: Call) -> None:
    result = call(*run_of("nowhere.csv"))
    assert result.exit_code == 2
    assert "nowhere.csv: No such file or directory" in result.stderr


def test_missing_credentials_are_named_before_anything_else(call: Call, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)
    result = call(*run_of())
    assert result.exit_code == 2
    assert "ORIGINAL_API_KEY" in result.stderr
    result = call(*run_of("rewards.csv", "--webhook-port=0"), env={"ORIGINAL_API_KEY": "k", "ORIGINAL_API_SECRET": "s" * 32})
    assert result.exit_code == 2
    assert "ORIGINAL_WEBHOOK_KEYS" in result.stderr


@pytest.mark.slow
def test_a_row_that_changed_is_refused_before_anything_is_sent_and_both_versions_are_shown(
    call: Call, folder: Path, lenient: str
) -> None:
    env = original_at(lenient)
    (folder / "rewards.csv").write_text("nonce," + HEADER + f"n1,r1,{REWARD},32,1.50\n,r2,{REWARD},33,2.25\n")
    call(*run_of(), env=env)
    changed = [f",r2,{REWARD},34,2.26", f",r3,{REWARD},1,1", f"n1,r4,{REWARD},1,1", f"n9,r5,{REWARD},1,1"]
    (folder / "rewards.csv").write_text("nonce," + HEADER + "\n".join(changed) + "\n")
    before = books(lenient)["requests"]
    result = call(*run_of(), env=env)
    assert result.exit_code == 2
    told = records(result)
    assert [(record["kind"], record["line"], record["column"], record["name"]) for record in told] == [
        ("changed", 2, 4, "to_user_uid"),
        ("key_of_another_row", 4, 1, "nonce"),
    ]
    assert all(words in told[0]["message"] for words in ("33", "2.25", "34", "2.26"))
    (folder / "rewards.csv").write_text("nonce," + HEADER + f"n1,r1,{REWARD},32,1.5000\n,r2,{REWARD},33,2.25\n")
    assert call(*run_of(), env=env).exit_code == 0
    assert books(lenient)["requests"] == before


def test_a_file_that_changes_after_the_check_is_paid_as_it_was_checked(
    call: Call, folder: Path, lenient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    from payouts.source.checks import check_rows

    def check_and_change(*arguments: Any, **options: Any) -> Any:
        checked = check_rows(*arguments, **options)
        (folder / "rewards.csv").write_text("x" + TWO)
        return checked

    monkeypatch.setattr("payouts.cli.preflight.check_rows", check_and_change)
    assert call(*run_of(), env=original_at(lenient)).exit_code == 0
    assert {(entry.id, entry.recipient, entry.amount) for entry in entries(folder).values()} == {
        ("r1", "32", "1.50"),
        ("r2", "33", "2.25"),
    }


def test_what_a_program_wrote_before_it_broke_down_is_not_paid(call: Call, folder: Path, lenient: str) -> None:
    result = call(*run_of("-"), text=TWO[:-3], env=original_at(lenient))
    assert result.exit_code == 2
    assert [mistake["kind"] for mistake in records(result)] == ["cut_off"]
    assert books(lenient)["allocations"] == []
