"""Pay 5,000 rows by three workers on a bad day, and kill a worker, a listener and PostgreSQL itself on the way.

PostgreSQL holds the ledger and the listeners' store; three listeners stand behind nginx, and two services wait for the rewards.
The exit code is 0 only if the vendor's books, the ledger and the services agree, and every row was paid exactly once.
"""

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.fleet.processes import Postgres, Started, Trouble, free_port, nginx, python, until
from payouts import Entry, LedgerError, LedgerReader, State

CAMPAIGN = "demo"
REWARD = "764893807463"
WEBHOOK_KEY = "4o3vfxtcmo7b:demo-webhook-secret-of-the-sandbox"
API_KEY, API_SECRET = "demo-api-key", "demo-api-secret-of-more-than-32-bytes"
FAULTS = (
    *("--p503", "0.02", "--drop-after-commit", "0.01", "--confirm", "0.5:3", "--fail-rate", "0.01"),
    *("--webhook-loss", "0.05", "--webhook-duplicate", "0.2", "--webhook-body", "full,uid"),
    *("--duplicate-nonce", "reject", "--seed", "20261121"),
)
DOWN = 3.0
"""Seconds for which PostgreSQL is down."""
LEASE_IS_LONG = 30.0
"""Rows that ended this much later than the killed worker were taken over from it."""
WORKED = (0, 3)
"""Codes of a worker that has come to the end: every row is paid, or some have failed."""
ENDS = frozenset({State.DONE, State.FAILED})


Row = dict[str, str]
Books = dict[str, Any]


class Day:
    """The fleet, and what has happened to it."""

    def __init__(self, console: Console, folder: Path, rows: int, stack: ExitStack) -> None:
        self.console = console
        self.folder = folder
        self.rows = rows
        self.events: list[tuple[float, str]] = []
        self.postgres = Postgres(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-pg-"))), folder)
        self.listeners: list[Started] = []
        self.services: list[Started] = []
        self.workers: list[Started] = []
        self.env: dict[str, str] = {}
        self.vendor = ""
        self._stack = stack
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        at = time.monotonic() - self._began
        self.events.append((at, text))
        self.console.print(f"{at:6.1f} s  {text}", highlight=False, soft_wrap=True)

    def start(self, name: str, module: str, *arguments: str, **env: str) -> Started:
        started = python(name, module, *arguments, folder=self.folder, env={**self.env, **env})
        self._stack.callback(started.end)
        return started

    def open(self, rate: float) -> None:
        """Start everything, plan the rows, and let the workers begin."""
        store = self.postgres.url
        self._stack.callback(self.postgres.end)
        self.postgres.start()
        self.tell(f"PostgreSQL: {self.postgres.url}")
        for number in (1, 2, 3):
            serve = ("serve", "--store", store, "--port", "0", "--admin-port", "-1")
            self.listeners.append(self.start(f"listener {number}", "webhooks", *serve, ORIGINAL_WEBHOOK_KEYS=WEBHOOK_KEY))
        front = free_port()
        told = ("--webhook-url", f"http://127.0.0.1:{front}/webhooks/original", "--webhook-key", WEBHOOK_KEY)
        keys = ("--api-key", API_KEY, "--api-secret", API_SECRET, "--reward", REWARD)
        vendor = self.start("vendor", "vendor_sandboxes", "original", "--port", "0", *FAULTS, *told, *keys)
        ports = [int(each.first()["url"].rpartition(":")[2]) for each in self.listeners]
        self._stack.callback(nginx(front, ports, self.folder).end)
        self.vendor = vendor.first()["url"]
        self.env = {
            "ORIGINAL_API_KEY": API_KEY,
            "ORIGINAL_API_SECRET": API_SECRET,
            "ORIGINAL_BASE_URL": self.vendor,
            "PAYOUTS_LEDGER": self.postgres.url,
            "XDG_STATE_HOME": str(self.folder),
        }
        self.tell("three listeners behind nginx and the sandboxed vendor started")
        self.payouts("plan", str(self.folder / "rewards.csv"), "--vendor", "original", "--campaign", CAMPAIGN, "--yes")
        self.tell(f"{self.rows:,} rows planned")
        for number in (1, 2):
            wait = ("--share", f"{number}/2", "--campaign", CAMPAIGN, "--ledger", self.postgres.url, "--store", store)
            self.services.append(self.start(f"service {number}", "examples.fleet.waiting_service", *wait))
        options = ("--rate", f"{rate:g}", "--store", store, "--poll-after", "3", "--polls-per-second", "100")
        for number in (1, 2, 3):
            self.workers.append(self.start(f"worker {number}", "payouts", "work", "--campaign", CAMPAIGN, *options))
        self.tell(f"two waiting services and three workers started, {rate:g} rows a second together")

    def payouts(self, *words: str) -> None:
        """Run `payouts` to its end; show what it says if that is not good."""
        command = [sys.executable, "-m", "payouts", *words]
        ended = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise Trouble(
                f"payouts {words[0]} ended with code {ended.returncode}:\n{ended.stdout[-1_500:]}{ended.stderr[-1_500:]}"
            )

    def kill_worker(self) -> None:
        killed = self.workers.pop()
        killed.kill()
        self.killed_at = time.time()
        self.tell(f"{killed.name} (process {killed.pid}) killed; the others take its rows when its lease is over")

    def kill_listener(self) -> None:
        killed = self.listeners.pop()
        killed.kill()
        self.tell(f"{killed.name} (process {killed.pid}) killed; nginx sends its deliveries to the others")

    def kill_postgres(self) -> None:
        self.postgres.kill()
        killed_at = time.monotonic()
        self.tell("PostgreSQL killed (SIGKILL); nothing is sent without it")
        time.sleep(DOWN)
        self.postgres.start()
        self.tell(f"PostgreSQL started again; it was away for {time.monotonic() - killed_at:.1f} s")

    def counts(self) -> Counter[State]:
        """Return how many rows are in each state, none while PostgreSQL is away."""
        try:
            with LedgerReader(self.postgres.url) as reader:
                return Counter(reader.counts(reader.campaign(CAMPAIGN)))
        except LedgerError:
            return Counter()

    def entries(self) -> list[Entry]:
        with LedgerReader(self.postgres.url) as reader:
            return list(reader.entries(reader.campaign(CAMPAIGN)))

    def books(self) -> Books:
        with urlopen(self.vendor.removesuffix("/v1") + "/_sandbox/books") as reply:
            books: Books = json.load(reply)
        return books


def write_rows(file: Path, count: int) -> list[Row]:
    """Write the file of rewards: a thousand users, amounts of up to six places."""
    chance = random.Random(20261121)
    rows = [
        {
            "id": f"diwali-{number:05}",
            "reward_uid": REWARD,
            "to_user_uid": str(110_000_000_000 + chance.randrange(1_000)),
            "amount": str(Decimal(chance.randrange(1, 10_000_000)).scaleb(-chance.randrange(7)).normalize() + 0),
            "nonce": f"diwali-2026-{number:05}",
        }
        for number in range(1, count + 1)
    ]
    for row in rows:
        row["amount"] = f"{Decimal(row['amount']):f}"
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def pay(day: Day) -> None:
    """Follow the workers until they have ended, and let the accidents happen when a part of the rows has been sent."""
    accidents: list[tuple[float, Callable[[], None]]]
    accidents = [(0.05, day.kill_worker), (0.25, day.kill_listener), (0.5, day.kill_postgres)]
    columns = (TextColumn("rows settled"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=day.console, transient=True, disable=not day.console.is_terminal) as progress:
        bar = progress.add_task("", total=day.rows)
        while any(worker.process.poll() is None for worker in day.workers):
            for service in day.services:
                service.check()
            counts = day.counts()
            sent = counts.total() - counts[State.PLANNED]
            progress.update(bar, completed=sum(counts[state] for state in ENDS))
            if accidents and sent >= accidents[0][0] * day.rows:
                accidents.pop(0)[1]()
            time.sleep(0.25)
    if accidents:
        raise Trouble("the workers ended before everything had happened: " + day.workers[0].errors())
    for worker in day.workers:
        if worker.process.returncode not in WORKED:
            raise Trouble(f"{worker.name} ended with code {worker.process.returncode}: {worker.errors()}")
    day.tell("the workers have ended")


def close(day: Day) -> list[Books]:
    """Return what the waiting services saw, once they have ended and the vendor has nothing more to say."""
    for service in day.services:
        until(lambda service=service: service.process.poll() is not None, f"{service.name} to end")  # type: ignore[misc]
    books_are_quiet = lambda: not ((books := day.books())["under_way"] or books["webhooks"]["open"])  # noqa: E731
    until(books_are_quiet, "the vendor to deliver its last webhooks")
    return [service.first() for service in day.services]


def differences(rows: Sequence[Row], entries: Sequence[Entry], books: Books, seen: Sequence[Books]) -> list[str]:
    """Return every difference between the file, the ledger, the vendor's books and what the services saw."""
    held = {each["nonce"]: each for each in books["allocations"]}
    in_ledger = {entry.id: entry for entry in entries}
    ends = {uid: end for service in seen for uid, end in service["ends"].items()}
    wrong = []
    for row in rows:
        nonce, entry = row["nonce"], in_ledger.get(row["id"])
        there = held.pop(nonce, None)
        if there is None or books["created"][nonce] != 1:
            wrong.append(f"{nonce}: {books['created'].get(nonce, 0)} allocations in the books, not 1")
        elif Decimal(there["amount"]) != Decimal(row["amount"]) or there["to_user_uid"] != row["to_user_uid"]:
            wrong.append(f"{nonce}: {row['amount']} to {row['to_user_uid']} in the file, {there} in the books")
        elif entry is None or (entry.state, entry.uid) != (there["status"], there["uid"]):
            wrong.append(f"{nonce}: {there['status']} in the books, {entry and entry.state} in the ledger")
        elif ends.get(there["uid"]) != there["status"]:
            wrong.append(f"{nonce}: {there['status']} in the books, {ends.get(there['uid'])} to the service that waited for it")
    return wrong + [f"{nonce}: in the books, not in the file" for nonce in held]


def unwell(day: Day, entries: Sequence[Entry]) -> list[str]:
    """Return which workers and services did not end as they should: a worker says by code 3 that rows have failed."""
    wanted = 3 if any(entry.state is State.FAILED for entry in entries) else 0
    codes = [(each, wanted) for each in day.workers] + [(each, 0) for each in day.services]
    return [
        f"{each.name} ended with code {each.process.returncode}, not {code}: {each.errors()}"
        for each, code in codes
        if each.process.returncode != code
    ]


def show(day: Day, entries: Sequence[Entry], seen: Sequence[Books]) -> None:
    """Print the day as a table: what happened when, and its figures."""
    books = day.books()
    states, by = Counter(entry.state for entry in entries), Counter(entry.settled_by for entry in entries)
    sent = sorted(entry.sent_at for entry in entries if entry.sent_at is not None)
    pause = max(after - before for before, after in pairwise(sent))
    taken = sum((entry.sent_at or 0) < day.killed_at < (entry.settled_at or 0) - LEASE_IS_LONG for entry in entries)
    hooks = books["webhooks"]
    accepted = hooks.get("accepted", 0)
    delivered = sum(each["deliveries"] > 0 for each in books["allocations"])
    refused = hooks["attempts"] - accepted
    settled = f"{by['webhook']:,} rows by webhook, {by['poll']:,} by poll" + (
        f", {rest:,} otherwise" if (rest := len(entries) - by["webhook"] - by["poll"]) else ""
    )
    waited = ", ".join(f"{len(each['ends']):,} rows ({each['by']['webhook']:,} by webhook)" for each in seen)
    facts = {
        "rows": ", ".join(f"{states[state]:,} {state}" for state in State if states[state]),
        "settled": settled,
        "taken over": f"{taken:,} rows of the killed worker",
        "lost replies": f"{sum(asked > 1 for asked in books['asked'].values()):,} rows asked for again, under the same nonce",
        "webhooks": f"{hooks['events']:,} events, {hooks.get('lost', 0):,} lost, {refused:,} attempts failed",
        "duplicates": f"{accepted - delivered:,} deliveries received twice",
        "services": waited,
        "longest pause": f"{pause:.1f} s without a row being sent",
    }
    table = Table("at", "what happened", show_edge=False, pad_edge=False)
    for at, text in day.events:
        table.add_row(f"{at:.1f} s", text)
    table.add_section()
    for name, fact in facts.items():
        table.add_row(name, fact)
    day.console.print(table)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.fleet", description="Pay on a bad day with a fleet of processes.")
    parser.add_argument("--rows", type=int, default=5_000, help="how many rows are paid")
    parser.add_argument("--rate", type=float, default=60.0, help="rows a second of all workers together")
    return parser.parse_args(arguments)


def run(console: Console, folder: Path, options: argparse.Namespace) -> list[str]:
    """Return what was wrong on this day."""
    rows = write_rows(folder / "rewards.csv", options.rows)
    with ExitStack() as stack:
        try:
            day = Day(console, folder, options.rows, stack)
            day.open(options.rate)
            pay(day)
            seen = close(day)
            day.payouts("audit", "--campaign", CAMPAIGN, "--rate", "0")
            day.tell("payouts audit: the ledger and the vendor's books agree")
        except Trouble as trouble:
            return [str(trouble)]
        entries = day.entries()
        show(day, entries, seen)
        return differences(rows, entries, day.books(), seen) + unwell(day, entries)


def main() -> int:
    options, console = parsed(), Console()
    folder = Path(tempfile.mkdtemp(prefix="fleet-"))
    folder.chmod(0o711)  # nginx and PostgreSQL run as other users
    wrong = run(console, folder, options)
    for line in wrong[:20]:
        console.print(f"wrong: {line}", style="bold red", markup=False)
    if wrong:
        console.print(f"the logs of all processes: {folder}")
        return 1
    shutil.rmtree(folder)
    console.print("The books, the ledger and the services agree: every row was paid exactly once.", style="bold green")
    return 0


if __name__ == "__main__":
    sys.exit(main())
