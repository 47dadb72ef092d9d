"""Whatever vendor is drawn, and however often a run is killed and repeated, the ledger never says what the books deny."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from payouts.states import Entry, State
from tests.payouts.process_kit import end, free_port, lines_of, original_at, payouts, quiet_books, sandbox
from tests.payouts.test_payout_murder import REWARDS, rows_in

KNOWN_NONCE = (
    "Allocation already exists.",
    "Duplicate request.",
    "nonce must be unique",
    "The fields user, nonce must make a unique set.",
    "Nonce has already been used.",
)
MAX_RUNS = 30


@frozen
class Strange:
    """One vendor, the rows it is asked to pay, and how the runs go.

    Attributes:
        options: What the sandbox is told.
        users: Over how many users the rows are spread.
        lookup_timeout: How long a run looks for a row without an answer.
        kills: After how many rows each of the first runs is killed.
    """

    options: tuple[str, ...]
    users: int
    lookup_timeout: float
    kills: tuple[int, ...]

    @classmethod
    def drawn(cls, seed: int, rows: int) -> Strange:
        """Draw any mixture of switches."""
        chance = random.Random(seed)

        def rate(most: float) -> str:
            return f"{chance.choice([0.0, most / 4, most]):g}"

        switches = {
            "seed": str(seed),
            "confirm": chance.choice(["0:0.05", "0.05:0.4", "0.5:1"]),
            "latency": chance.choice(["0:0.005", "0.005:0.03"]),
            "fail-rate": rate(0.05),
            "p429": rate(0.05),
            "retry-after": "0.2",
            "p503": rate(0.1),
            "p503-after-commit": rate(0.2),
            "drop-before-commit": rate(0.05),
            "drop-after-commit": rate(0.2),
            "commit-late": chance.choice(["0", "0.5", "3"]),
            "list-lag": chance.choice(["0", "0.5", "3"]),
            "read-lag": chance.choice(["0", "0.3"]),
            "duplicate-nonce": chance.choice(["reject", "replay"]),
            "known-nonce-text": chance.choice(KNOWN_NONCE),
            "known-nonce-status": chance.choice(["400", "409", "422"]),
            "page-size": chance.choice(["0", "3", "7", "20"]),
            "page-shape": chance.choice(["beside", "inside"]),
            "read-path": chance.choice(["both", "allocation", "allocate"]),
            "amounts": chance.choice(["string", "number"]),
            "webhook-loss": rate(0.5),
            "webhook-duplicate": rate(0.1),
            "webhook-reorder": rate(0.1),
            "webhook-before-reply": rate(0.3),
            "webhook-body": chance.choice(["full", "uid", "opaque", "full,uid,opaque"]),
            "webhook-shape": chance.choice(
                ["allocation", "reward_allocation", "flat", "allocation_uid", "reward", "allocations", "allocation,flat,reward"]
            ),
        }
        options = [f"--{name}={value}" for name, value in switches.items()]
        if chance.random() < 0.5:
            options.append("--attempt-in-body")
        return cls(
            options=tuple(options),
            users=chance.choice([1, 3, 20, rows]),
            lookup_timeout=chance.choice([0.0, 1.0, 8.0]),
            kills=tuple(chance.randrange(rows) for _ in range(chance.randrange(4))),
        )


def write_rows(path: Path, count: int, users: int) -> None:
    lines = [f"row-{number},{REWARDS[number % 2]},user-{number % users},{number + 1}.25" for number in range(count)]
    path.write_text("\n".join(["id,reward_uid,to_user_uid,amount", *lines, ""]))


def run_until_all_has_ended(vendor: Strange, folder: Path, url: str, port: int) -> None:
    """Run again and again, the first times to a violent end, until no row is without an end."""
    command: tuple[str | Path, ...] = ("run", folder / "rewards.csv", "--vendor=original", "--campaign=strange", "--yes")
    command += ("--ledger", folder / "payouts.db", f"--webhook-port={port}", f"--lookup-timeout={vendor.lookup_timeout}")
    command += ("--rate=0", "--concurrency=10", "--poll-after=0.3", "--polls-per-second=300")
    command += ("--timeout=60", "--outage-timeout=30")
    kills = list(vendor.kills)
    for _ in range(MAX_RUNS):
        process = payouts(*command, env=original_at(url))
        if kills:
            left = kills.pop()
            for line in lines_of(process):
                left -= line["event"] == "row"
                if left <= 0 and line["event"] in {"begin", "row"}:
                    process.send_signal(signal.SIGKILL)
                    break
        told = end(process)
        states = {entry.state for entry in rows_in(folder / "payouts.db")}
        if process.returncode in {0, 3} and not states & {State.PLANNED, State.SENT, State.ACCEPTED, State.UNKNOWN}:
            return
        assert process.returncode in {0, 3, 4, 5, -signal.SIGKILL}, told
    pytest.fail(f"after {MAX_RUNS} runs some rows still have no end: {told}")


def lies(entries: list[Entry], known: dict[str, Any]) -> list[str]:
    """Return in words where the ledger says what the vendor's books deny."""
    held: dict[str, dict[str, Any]] = {each["nonce"]: each for each in known["allocations"]}
    found = [f"{nonce} was created {times} times" for nonce, times in known["created"].items() if times != 1]
    found += [f"{nonce} belongs to no row" for nonce in held.keys() - {entry.key for entry in entries}]
    for entry in entries:
        there = held.get(entry.key)
        if entry.state in {State.DONE, State.FAILED}:
            told = (entry.state.value, entry.uid, entry.recipient, entry.item, entry.amount)
            true = there and (there["status"], there["uid"], there["to_user_uid"], there["reward_uid"], there["amount"])
            if told != true:
                found.append(f"{entry.id} is {told}, the vendor holds {true}")
        elif entry.state is State.REJECTED and there is not None:
            found.append(f"{entry.id} is rejected, the vendor holds {there['uid']}")
        else:
            found.append(f"{entry.id} ended as {entry.state}: {entry.problem}")
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_vendor_makes_the_ledger_lie(tmp_path: Path, soak: bool) -> None:
    count, seeds = (250, range(40)) if soak else (60, range(100, 101))
    for seed in seeds:
        vendor, port = Strange.drawn(seed, count), free_port()
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_rows(folder / "rewards.csv", count, vendor.users)
        with sandbox("original", f"--webhook-url=http://127.0.0.1:{port}/webhooks/original", *vendor.options) as url:
            run_until_all_has_ended(vendor, folder, url, port)
            known = quiet_books(url)
        entries = rows_in(folder / "payouts.db")
        assert len(entries) == count
        assert lies(entries, known) == [], f"seed {seed}: {vendor}"
