"""The command line: bad files are told with line and column, exit codes keep their word, a second run costs nothing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import Result

from payouts.cli.connections import Listening, client_of, completions_of, target_of
from payouts.cli.display import JsonLines, MovingLine, facts_of
from payouts.cli.supervision import run_to_end
from payouts.ledger.sqlite import Ledger
from payouts.progress import Progress
from payouts.runner import RunOptions
from payouts.states import Entry, State
from rewards_core.cli.output import Output
from tests.payouts.command_kit import HEADER, REWARD, TWO, Call, entries, for_people, records, run_of
from tests.payouts.payout_kit import Time, coin_row, token_row
from tests.payouts.process_kit import (
    books,
    create_event,
    end,
    enkash_at,
    environment,
    free_port,
    lines_of,
    original_at,
    payouts,
    playing,
    sandbox,
)
from tests.texts import said
from vendor_sandboxes import OriginalSandbox


@pytest.fixture
def vendor() -> Iterator[str]:
    with sandbox("original", "--confirm=0:0", "--strict") as url:
        yield url


@pytest.fixture
def lenient() -> Iterator[str]:
    with sandbox("original", "--confirm=0:0") as url:
        yield url


# files


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


# runs


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
    assert "refused the credentials" in result.stderr
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


# interrupted


def test_an_interrupt_during_the_check_sends_nothing(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("payouts.cli.preflight.check_rows", interrupted)
    (folder / "rewards.csv").write_text(TWO)
    result = call(*run_of())
    assert result.exit_code == 130
    said("run: interrupted during the check", result.stderr)


async def test_who_cancels_a_run_without_an_interrupt_is_heard() -> None:
    class Endless:
        progress = Progress(total=1)
        begun = asyncio.Event()

        async def __aenter__(self) -> Endless:
            return self

        async def __aexit__(self, *_: object) -> None:
            """Nothing to give back."""

        async def __aiter__(self) -> AsyncIterator[Entry]:
            self.begun.set()
            await asyncio.Event().wait()
            yield None  # type: ignore[misc]

        def stop(self) -> None:
            """Send nothing more."""

    run = Endless()
    following = asyncio.ensure_future(run_to_end(run, JsonLines(Output())))  # type: ignore[arg-type]
    await run.begun.wait()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


def interrupt(process: subprocess.Popen[bytes], number: int, times: int) -> tuple[int, str]:
    """Interrupt a process once rows have come out of it, the second time once it has said that it stops."""
    for line in lines_of(process):
        if line["event"] == "row":
            break
    assert process.stderr is not None
    for _ in range(times):
        process.send_signal(number)
        if times > 1:
            process.stderr.readline()
    told = end(process)
    return process.returncode, told


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_one_interrupt_lets_what_is_under_way_end(folder: Path, number: int, code: int) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(5000)))
    with sandbox("original", "--confirm=0:0.2") as url:
        env = original_at(url) | {"PWD": str(folder)}
        process = payouts(*run_of(str(folder / "rewards.csv"), f"--ledger={folder / 'payouts.db'}"), env=env)
        assert interrupt(process, number, 1)[0] == code
        paid = books(url)["allocations"]
    states = [entry.state for entry in entries(folder).values()]
    assert State.SENT not in states
    assert 0 < states.count(State.DONE) == len(paid) < 5000


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_and_leaves_the_ledger_whole(folder: Path) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(2000)))
    slow = OriginalSandbox(confirm=(0.0, 0.0), slow_after_commit=1.0, slow_seconds=600.0)
    slow.plan.script("none")  # one row comes out, and all others are under way
    with playing(slow):
        more = (f"--ledger={folder / 'payouts.db'}", f"--report={folder / 'report.html'}", "--grace=600")
        process = payouts(*run_of(str(folder / "rewards.csv"), *more), env=original_at(slow.url))
        assert interrupt(process, signal.SIGINT, 2)[0] == 130
        held = {allocation["nonce"] for allocation in books(slow.url)["allocations"]}
    for entry in entries(folder).values():
        assert entry.key in held or entry.state in {State.PLANNED, State.SENT}
    assert not (folder / "report.html").exists()


# afterwards


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


def test_an_unknown_row_is_settled_by_hand_with_a_note(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="c") as ledger:
            for entry in await ledger.plan([token_row("r1"), token_row("r2"), token_row("r3")]):
                if entry.id != "r3":
                    await ledger.move(await ledger.move(entry, State.SENT), State.UNKNOWN, problem=TimeoutError("no answer"))

    asyncio.run(lose())
    assert call("resolve", "r1", "--as=done", "--note= ").exit_code == 2
    result = call("resolve", "r1", "--as=done", "--note=seen in the console")
    assert records(result) == [{"event": "resolved", "id": "r1", "state": "done", "note": "seen in the console"}]
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    assert call("resolve", "r2", "--as=rejected", "--note=asked them").exit_code == 0
    found = entries(folder)
    assert (found["r1"].state, found["r1"].settled_by, found["r1"].problem) == (State.DONE, "hand", "no answer")
    assert found["r2"].state is State.REJECTED
    assert call("resolve", "r3", "--as=done", "--note=x").exit_code == 6


# parts


@pytest.mark.slow
def test_help_shows_examples() -> None:
    process = payouts("run", "--help", env=environment(COLUMNS="200"))
    text = process.communicate()[0].decode()
    assert "payouts run rewards.csv --vendor original --campaign diwali --dry-run" in text


def test_the_target_is_where_the_money_goes_out(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert target_of("original") == "https://api.getoriginal.com/v1"
    monkeypatch.setenv("ORIGINAL_ENVIRONMENT", "development")
    assert target_of("original") == "https://api-dev.getoriginal.com/v1"
    monkeypatch.setenv("ORIGINAL_BASE_URL", "https://other.example/v1")
    monkeypatch.setenv("ENKASH_COINS_BASE_URL", "https://coins.example")
    assert (target_of("original"), target_of("enkash")) == ("https://other.example/v1", "https://coins.example")


async def test_a_listeners_store_is_read_and_never_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from original_async import OriginalWebhooks
    from webhooks import Receiver
    from webhooks.store.sqlite import SQLiteStore

    monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    monkeypatch.setenv("ORIGINAL_API_SECRET", "s" * 32)
    path = folder / "inbox.db"
    source = OriginalWebhooks({"k1": "secret"})
    body = json.dumps(
        {
            "event": "reward.allocated",
            "data": {
                "allocation": {
                    "uid": "7",
                    "status": "done",
                    "reward_uid": REWARD,
                    "to_user_uid": "32",
                    "amount": "1",
                    "nonce": "n",
                    "created_at": "2023-08-10T14:07:14.494142Z",
                }
            },
        }
    ).encode()
    writing = await asyncio.to_thread(SQLiteStore, path)
    async with Receiver(source, writing) as receiver:
        await receiver.receive({"x-webhook-signature": source.sign(body)}, body)
        client = client_of("original")
        async with client, completions_of(client, Listening(store=str(path))) as completions:
            assert (await completions.wait("7", timeout=10)).status == "done"
    await writing.aclose()


def test_json_lines_tell_the_progress_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Time()
    lines = JsonLines(Output(), clock)
    lines.refresh()
    lines.end()
    progress = Progress(total=10)
    lines.begin(progress)
    for _ in range(11):
        clock.now += 1
        progress.read += 1
        lines.refresh()
    lines.end()
    told = records(capsys.readouterr().out)
    assert [(record["event"], record.get("read")) for record in told] == [
        ("begin", None),
        ("progress", 5),
        ("progress", 10),
        ("end", 11),
    ]


def test_the_moving_line_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time()
    output = Output()
    output.console = Console(file=io.StringIO(), force_terminal=True, width=160)
    line = MovingLine(output, clock)
    line.refresh()
    line.end()
    progress = Progress(total=100)
    line.begin(progress)
    clock.now += 10
    progress.ended[State.DONE] = 20
    progress.ended[State.UNKNOWN] = 1
    progress.settled_by = {"webhook": 18, "poll": 2}
    line.refresh()
    line.refresh()
    entry = Entry(
        number=1, id="r1", line=1, recipient="u", item="i", amount="1", key="k", state=State.UNKNOWN, problem="[bold]late\x1b[2J"
    )
    line.row(entry)
    line.row(Entry(number=1, id="r2", line=1, recipient="u", item="i", amount="1", key="k", state=State.DONE))
    line.end()
    text = output.console.file.getvalue()  # type: ignore[attr-defined]
    for words in ["2 rows/s", "18 by webhook", "2 by poll", "1 unknown", "left", "row r1: unknown: [bold]late"]:
        assert words in text
    assert "row r2" not in text
    assert "\x1b[2J" not in text
    assert "38 s left" in text


def test_rows_per_second_are_those_of_the_last_seconds() -> None:
    clock = Time()
    output = Output(as_json=False)
    output.console = Console(file=io.StringIO(), force_terminal=True, width=160)
    line = MovingLine(output, clock)
    progress = Progress(total=1000)
    line.begin(progress)
    for _ in range(10):
        clock.now += 1
        progress.ended[State.DONE] += 20
        line.refresh()
    shown = output.console.file.getvalue()  # type: ignore[attr-defined]
    assert "20 rows/s" in shown
    for _ in range(10):
        clock.now += 1
        line.refresh()
    shown = output.console.file.getvalue()[len(shown) :]  # type: ignore[attr-defined]
    assert "10 rows/s" in shown
    assert " 0 rows/s" in shown[shown.index("10 rows/s") :]
    line.end()
    assert "10 rows/s" in output.console.file.getvalue()[-300:]  # type: ignore[attr-defined]  # the mean of the whole run


def test_a_program_is_told_how_much_time_is_left() -> None:
    progress = Progress(total=100, skipped=20)
    assert facts_of(progress, 0.0)["seconds_left"] is None
    progress.ended[State.DONE] = 20
    assert facts_of(progress, 10.0)["seconds_left"] == 30.0
    progress.ended[State.DONE] = 80
    assert facts_of(progress, 10.0)["seconds_left"] == 0.0
    progress.total = None
    assert facts_of(progress, 10.0)["seconds_left"] is None
