"""Exactly once under murder: a process that pays is killed again and again, and the vendor's books are compared row by row."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from payouts import money
from payouts.ledger.reader import LedgerReader
from payouts.report.figures import gather
from payouts.report.page import write_report
from payouts.states import Entry, State
from tests.payouts.process_kit import (
    books,
    create_event,
    end,
    enkash_at,
    free_port,
    lines_of,
    original_at,
    payouts,
    quiet_books,
    sandbox,
)

REWARDS = ("764893807463", "112144981245")
TROUBLE = ("--p503=0.01", "--p503-after-commit=0.01", "--drop-after-commit=0.02", "--webhook-loss=0.05")
STRANGE = (
    "--page-size=20",
    "--known-nonce-text=Allocation already exists.",
    "--commit-late=3",
    "--list-lag=1",
    "--attempt-in-body",
)
MAX_LAST_RUNS = 10


def amount_of(number: int) -> str:
    """Return an amount whose sums would show any rounding."""
    return f"{number % 977 + 1}.{number * 7919 % 10**18:018d}"


def write_rows(path: Path, count: int, rows_per_user: int) -> None:
    with path.open("w") as stream:
        stream.write("id,reward_uid,to_user_uid,amount\n")
        for number in range(count):
            user = 100_000_000_000 + number // rows_per_user
            stream.write(f"row-{number},{REWARDS[number % 2]},{user},{amount_of(number)}\n")


def rows_in(ledger: Path) -> list[Entry]:
    with LedgerReader(ledger) as reader:
        return list(reader.entries(reader.campaign()))


class Murders:
    """Start a process that pays and kill it, as often as it takes: in turn while a row is under way, and at a seeded moment.

    Attributes:
        kills: How often it was killed.
        while_sent: How often rows were under way at that moment, by what the ledger said afterwards.
    """

    def __init__(self, seed: int, ledger: Path) -> None:
        self._chance = random.Random(seed)
        self._ledger = ledger
        self.kills = self.while_sent = 0

    def run(self, *arguments: str | Path, env: dict[str, str], kills: int, rows: int, last_runs: int = 1) -> int:
        """Kill so often; then let so many runs end, until one ends well.

        No run that is to be killed may send more than its share of the rows, however fast it is, so that there are rows for all.

        Returns:
            The exit code of the last run.
        """
        while self.kills < kills:
            process = payouts(*arguments, f"--limit={rows // (kills + 1)}", env=env)
            if self.kills % 2:
                self._kill_after(process, self._chance.randrange(rows // (kills + 1)))
            else:
                self._kill_while_sent(process)
            self.kills += 1
            self.while_sent += self._is_sent()
        for _ in range(last_runs):
            process = payouts(*arguments, env=env)
            end(process)
            if process.returncode == 0:
                break
        return process.returncode

    def _kill_after(self, process: subprocess.Popen[bytes], rows: int) -> None:
        for line in lines_of(process):
            rows -= line["event"] == "row"
            if rows <= 0 and line["event"] in {"begin", "row"}:
                process.send_signal(signal.SIGKILL)
                break
        else:
            pytest.fail(f"the process ended before it was killed: {end(process)}")
        end(process)

    def _kill_while_sent(self, process: subprocess.Popen[bytes]) -> None:
        next(line for line in lines_of(process) if line["event"] == "begin")
        while process.poll() is None:
            if self._is_sent():
                process.send_signal(signal.SIGSTOP)
                if self._is_sent():
                    process.send_signal(signal.SIGKILL)
                    break
                process.send_signal(signal.SIGCONT)
        else:
            pytest.fail(f"the process ended before it was killed: {end(process)}")
        end(process)

    def _is_sent(self) -> bool:
        return any(entry.state is State.SENT for entry in rows_in(self._ledger))


def total(amounts: Iterator[str]) -> Decimal:
    exact = money.ZERO
    for amount in amounts:
        exact = money.add(exact, amount)
    return exact


@pytest.mark.repeats_itself
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("duplicate_nonce", "strange"),
    [
        pytest.param("reject", (), marks=pytest.mark.soak),
        ("reject", STRANGE),
        pytest.param("replay", (), marks=pytest.mark.soak),
        pytest.param("replay", STRANGE, marks=pytest.mark.soak),
    ],
    ids=["reject-plain", "reject-pages-and-late-commits", "replay-plain", "replay-pages-and-late-commits"],
)
def test_every_row_is_paid_exactly_once_however_often_the_process_is_killed(
    duplicate_nonce: str, strange: tuple[str, ...], tmp_path: Path, soak: bool
) -> None:
    count, wanted = (30_000, 150) if soak else (100, 2)
    rewards, ledger = tmp_path / "rewards.csv", tmp_path / "payouts.db"
    write_rows(rewards, count, rows_per_user=50 if strange else 1)
    port = free_port()
    options = (
        "--seed=7",
        "--confirm=0.05:0.4",
        "--latency=0.005:0.03",
        f"--duplicate-nonce={duplicate_nonce}",
        "--amounts=string",
    )
    with sandbox("original", f"--webhook-url=http://127.0.0.1:{port}/webhooks/original", *options, *TROUBLE, *strange) as url:
        murders = Murders(11, ledger)
        run: tuple[str | Path, ...] = ("run", rewards, "--vendor=original", "--campaign=diwali-2026", "--yes", "--ledger", ledger)
        run += ("--rate=0", "--concurrency=30", f"--webhook-port={port}", "--poll-after=1", "--polls-per-second=500")
        code = murders.run(*run, env=original_at(url), kills=wanted, rows=count, last_runs=MAX_LAST_RUNS)
        known = quiet_books(url)

    assert code == 0
    assert murders.while_sent >= wanted // 2
    compare(known, rows_in(ledger), count)
    compare_report(known, ledger, tmp_path / "report.html", count)


def compare(known: dict[str, Any], entries: list[Entry], count: int) -> None:
    """See that the vendor's books and the ledger say the same of every row."""
    assert {entry.id: entry.state.value for entry in entries if entry.state is not State.DONE} == {}
    assert {entry.id for entry in entries} == {f"row-{number}" for number in range(count)}
    assert len(known["allocations"]) == count, "somebody was paid twice, or nobody"
    assert set(known["created"].values()) == {1}
    held = {allocation["nonce"]: allocation for allocation in known["allocations"]}
    for entry in entries:
        there = held[entry.key]
        assert (there["uid"], there["status"]) == (entry.uid, "done")
        assert (there["to_user_uid"], there["reward_uid"], there["amount"]) == (entry.recipient, entry.item, entry.amount)
        assert entry.amount == amount_of(int(entry.id.removeprefix("row-")))
    assert total(iter(balance["amount"] for balance in known["balances"])) == total(iter(amount_of(n) for n in range(count)))


def compare_report(known: dict[str, Any], ledger: Path, report: Path, count: int) -> None:
    """See that the report says what the vendor's books add up to."""
    write_report(ledger, report)
    with LedgerReader(ledger) as reader:
        figures = gather(reader, reader.campaign())
    assert (figures.rows, figures.done) == (count, count)
    for reward in REWARDS:
        paid = total(iter(each["amount"] for each in known["allocations"] if each["reward_uid"] == reward))
        assert figures.items[reward].sums == {State.DONE: paid}
        assert money.text(paid) in report.read_text("utf-8")


@pytest.mark.slow
def test_no_coins_are_given_twice_however_often_the_process_is_killed(tmp_path: Path) -> None:
    count, wanted = 200, 3
    rewards, ledger = tmp_path / "rewards.csv", tmp_path / "payouts.db"
    rewards.write_text("id,user_id,event\n" + "".join(f"row-{n},EK{n:06d},MEAL_CARD_PAYMENT\n" for n in range(count)))
    with sandbox("enkash", "--seed=7", "--latency=0.005:0.03", "--drop-after-commit=0.02", "--p503=0.01") as url:
        env = enkash_at(url, tmp_path)
        create_event(env, "MEAL_CARD_PAYMENT")
        murders = Murders(11, ledger)
        run: tuple[str | Path, ...] = ("run", rewards, "--vendor=enkash", "--campaign=diwali-2026", "--yes", "--ledger", ledger)
        code = murders.run(*run, "--rate=0", "--concurrency=10", env=env, kills=wanted, rows=count)
        known = books(url)

    entries = rows_in(ledger)
    given = {credit["requestId"] for credit in known["allocations"]}
    assert set(known["created"].values()) == {1}, "somebody got coins twice"
    assert {entry.state for entry in entries} == {State.DONE, State.UNKNOWN}
    assert code == 3
    assert len(entries) == count
    for entry in entries:
        assert entry.key in given or entry.state is State.UNKNOWN, "a row counts as paid that was not"
    assert given <= {entry.key for entry in entries}
