"""Pay two files of rewards to two sandboxed vendors with faults, and compare the vendors' books with the files afterwards.

The exit code is 0 only if every row was paid exactly once, and if the faults had an effect: a row settled by a poll, one failed
on the blockchain, and one recovered after a lost reply.
"""

import argparse
import asyncio
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from enkash_async import EnkashClient, PasswordCredentials
from rewards_core import OutcomeUnknown

HERE = Path(__file__).resolve().parent
REWARDS, CASHBACK = HERE / "rewards.csv", HERE / "cashback.csv"
REPORTS = Path("demo-reports")
EVENT = "MEAL_CARD_PAYMENT"
WEBHOOK_KEY = "4o3vfxtcmo7b:demo-webhook-secret-of-the-sandbox"
ORIGINAL = {"ORIGINAL_API_KEY": "demo-api-key", "ORIGINAL_API_SECRET": "demo-api-secret-of-more-than-32-bytes"}
ENKASH = {"CLIENT_ID": "CEKDEMO001", "CLIENT_SECRET": "demo-client-secret", "USERNAME": "9000000001", "PASSWORD": "demo-password"}
FAULTS = ["--p503", "0.02", "--drop-after-commit", "0.01", "--seed", "20261121"]
ORIGINAL_FAULTS = [
    *("--confirm", "0.5:3", "--fail-rate", "0.02", "--webhook-loss", "0.05", "--webhook-duplicate", "0.2"),
    *("--webhook-body", "full,uid", "--duplicate-nonce", "reject"),
]
ENKASH_FAULTS = ["--duplicate-request", "replay"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def sandbox(vendor: str, *options: str) -> Iterator[str]:
    """Run a sandboxed vendor in a process of its own; give its base URL."""
    command = [sys.executable, "-m", "vendor_sandboxes", vendor, "--port", "0", *FAULTS, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def books_of(url: str) -> dict[str, Any]:
    with urlopen(url.removesuffix("/v1") + "/_sandbox/books") as reply:
        books: dict[str, Any] = json.load(reply)
    return books


def pay(file: Path, vendor: str, scratch: Path, environment: dict[str, str], *options: str) -> dict[str, dict[str, str]]:
    """Run `payouts run` as a person would; return the rows of its results by id."""
    results = scratch / f"{vendor}.csv"
    job = [sys.executable, "-m", "payouts", "run", str(file), "--vendor", vendor, "--campaign", "demo", "--yes", "--rate", "0"]
    job += ["--ledger", str(scratch / f"{vendor}.db"), "--results", str(results), "--report", str(REPORTS / f"{vendor}.html")]
    subprocess.call([*job, *options], env={**os.environ, "XDG_STATE_HOME": str(scratch), **environment})
    return {row["id"]: row for row in csv.DictReader(results.read_text("utf-8").splitlines())}


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def compare_original(results: dict[str, dict[str, str]], books: dict[str, Any]) -> list[str]:
    """Return every difference between the file, the results and the vendor's books."""
    wrong = []
    rows, paid = rows_of(REWARDS), Counter(allocation["nonce"] for allocation in books["allocations"])
    held = {allocation["nonce"]: allocation for allocation in books["allocations"]}
    for row in rows:
        nonce = row["nonce"]
        result, allocation = results.get(row["id"]), held.get(nonce)
        if paid[nonce] != 1 or allocation is None:
            wrong.append(f"{nonce}: {paid[nonce]} allocations in the books, not 1")
        elif Decimal(allocation["amount"]) != Decimal(row["amount"]) or allocation["to_user_uid"] != row["to_user_uid"]:
            wrong.append(f"{nonce}: {row['amount']} to {row['to_user_uid']} in the file, {allocation} in the books")
        elif result is None or result["state"] != allocation["status"]:
            wrong.append(f"{nonce}: {allocation['status']} in the books, {result and result['state']} in the results")
    wrong += [f"{nonce}: in the books, not in the file" for nonce in held.keys() - {row["nonce"] for row in rows}]
    effects = {
        "settled by poll": any(result["settled_by"] == "poll" for result in results.values()),
        "failed on the blockchain": any(result["state"] == "failed" for result in results.values()),
        "recovered after a lost reply": any(books["asked"][nonce] > 1 for nonce in held),
    }
    return wrong + [f"no row was {what}: the faults had no effect" for what, seen in effects.items() if not seen]


def compare_enkash(results: dict[str, dict[str, str]], books: dict[str, Any]) -> list[str]:
    """Return every difference between the file, the results and the vendor's books."""
    keys = {result["request_id"] for result in results.values()}
    wrong = [f"{key}: in the books, not in the file" for key in books["created"].keys() - keys]
    for row in rows_of(CASHBACK):
        result = results.get(row["id"])
        credits_held = books["created"].get(result["request_id"], 0) if result else 0
        if result is None or result["state"] != "done" or credits_held != 1:
            wrong.append(f"{row['id']}: {result and result['state']} in the results, {credits_held} allocations in the books")
    return wrong


def show_settled(console: Console, results: dict[str, dict[str, str]], books: dict[str, Any]) -> None:
    """Print how the rows ended, and the times from the blockchain's confirmation to the ledger."""
    states = Counter(result["state"] for result in results.values())
    requests = sum(books["requests"].values()) / len(results)
    recovered = sum(asked > 1 for asked in books["asked"].values())
    console.print(
        f"settled {states['done'] + states['failed']}, done {states['done']}, failed {states['failed']}, unknown "
        f"{states['unknown']}, recovered {recovered}, requests per allocation {requests:.2f}\n"
        "from the blockchain's confirmation to the ledger:",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("settled by", "rows", "p50", "p99")
    confirmed = {allocation["uid"]: allocation["confirmed_at"] for allocation in books["allocations"]}
    for via in ("webhook", "poll"):
        times = [
            datetime.fromisoformat(result["settled_at"]).timestamp() - confirmed[result["uid"]]
            for result in results.values()
            if result["settled_by"] == via
        ]
        if len(times) > 1:
            cuts = statistics.quantiles(times, n=100, method="inclusive")
            table.add_row(via, str(len(times)), f"{cuts[49] * 1000:,.1f} ms", f"{cuts[98] * 1000:,.1f} ms")
    console.print(table)


async def configure_event(url: str) -> None:
    """Configure what a meal is worth, as an operator does once per campaign."""
    credentials = PasswordCredentials(**{name.lower(): value for name, value in ENKASH.items()})
    async with EnkashClient(coins_base_url=url, auth_base_url=url, credentials=credentials) as client:
        for attempt in range(1, 11):
            try:
                await client.create_event(event=EVENT, amount=6)
            except OutcomeUnknown:
                print(f"attempt {attempt} to configure {EVENT} was not answered; trying again, which is harmless in a sandbox")
            else:
                return


def pay_tokens(console: Console, scratch: Path) -> list[str]:
    """Pay the file of token rewards; return every difference."""
    console.rule(f"Original: {REWARDS.name}")
    port = free_port()
    options = ["--webhook-url", f"http://127.0.0.1:{port}/webhooks/original", "--webhook-key", WEBHOOK_KEY]
    options += ["--api-key", ORIGINAL["ORIGINAL_API_KEY"], "--api-secret", ORIGINAL["ORIGINAL_API_SECRET"]]
    with sandbox("original", *ORIGINAL_FAULTS, *options) as url:
        environment = {**ORIGINAL, "ORIGINAL_BASE_URL": url, "ORIGINAL_WEBHOOK_KEYS": WEBHOOK_KEY}
        job = ["--concurrency", "64", "--webhook-port", str(port), "--poll-after", "3", "--polls-per-second", "200"]
        results = pay(REWARDS, "original", scratch, environment, *job)
        books = books_of(url)
    show_settled(console, results, books)
    return compare_original(results, books)


def pay_coins(console: Console, scratch: Path) -> list[str]:
    """Pay the file of coin rewards; return every difference."""
    console.rule(f"EnKash: {CASHBACK.name}")
    options = [word for name, value in ENKASH.items() for word in (f"--{name.lower().replace('_', '-')}", value)]
    with sandbox("enkash", *ENKASH_FAULTS, *options) as url:
        asyncio.run(configure_event(url))
        environment = {f"ENKASH_{name}": value for name, value in ENKASH.items()}
        environment |= {"ENKASH_COINS_BASE_URL": url, "ENKASH_AUTH_BASE_URL": url}
        results = pay(CASHBACK, "enkash", scratch, environment, "--repeat-is-safe")
        return compare_enkash(results, books_of(url))


def main() -> int:
    console = Console()
    REPORTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wrong = pay_tokens(console, Path(scratch)) + pay_coins(console, Path(scratch))
    for line in wrong:
        console.print(f"wrong: {line}", style="bold red")
    if not wrong:
        console.print("The vendors' books agree: every row was paid exactly once.", style="bold green")
    console.print(f"reports: {' '.join(str(report) for report in sorted(REPORTS.glob('*.html')))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(main())
