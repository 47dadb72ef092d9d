"""The whole job on a bad day: a sandboxed vendor with trouble switched on, a file of rewards, and its books compared afterwards.

Exit code 0 only if the vendor's books agree with the file, row by row, that nobody was paid twice or forgotten, and if the
trouble showed: a row settled by poll, one that failed on the chain, one recovered after a lost reply.
"""

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
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
REWARDS = HERE / "rewards.csv"
KEY_ID, WEBHOOK_SECRET = "4o3vfxtcmo7b", "demo-webhook-secret-of-the-sandbox"
API_KEY, API_SECRET = "demo-api-key", "demo-api-secret-of-more-than-32-bytes"
TROUBLE = {
    "--confirm": "0.5:3",
    "--p503": "0.02",
    "--drop-after-commit": "0.01",
    "--fail-rate": "0.02",
    "--webhook-loss": "0.05",
    "--webhook-duplicate": "0.2",
    "--webhook-body": "full,uid",
    "--duplicate-nonce": "reject",
    "--seed": "20261121",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def sandbox(webhook_port: int) -> Iterator[str]:
    """Run the sandboxed vendor in its own process; give its base URL."""
    command = [sys.executable, "-m", "vendor_sandboxes", "original", "--port", "0"]
    command += [
        "--webhook-url",
        f"http://127.0.0.1:{webhook_port}/webhooks/original",
        "--webhook-key",
        f"{KEY_ID}:{WEBHOOK_SECRET}",
    ]
    command += ["--api-key", API_KEY, "--api-secret", API_SECRET]
    command += [word for pair in TROUBLE.items() for word in pair]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def faults(rows: list[dict[str, str]], results: dict[str, dict[str, Any]], books: dict[str, Any]) -> list[str]:
    """Return what is wrong: every difference between the file, the results and the vendor's books."""
    wrong = []
    paid = Counter(allocation["nonce"] for allocation in books["allocations"])
    held = {allocation["nonce"]: allocation for allocation in books["allocations"]}
    for row in rows:
        nonce = row["nonce"]
        result, allocation = results.get(nonce), held.get(nonce)
        if paid[nonce] != 1 or allocation is None:
            wrong.append(f"{nonce}: expected one allocation in the books, got {paid[nonce]}")
        elif Decimal(allocation["amount"]) != Decimal(row["amount"]) or allocation["to_user_uid"] != row["to_user_uid"]:
            wrong.append(f"{nonce}: expected {row['amount']} to {row['to_user_uid']}, the books say {allocation}")
        elif result is None or result["state"] != allocation["status"]:
            wrong.append(f"{nonce}: the books say {allocation['status']}, the job said {result and result['state']}")
    wrong += [f"{nonce}: in the books, not in the file" for nonce in held.keys() - {row["nonce"] for row in rows}]
    for what, seen in (
        ("settled by poll", any(result.get("via") == "poll" for result in results.values())),
        ("failed on the chain", any(result["state"] == "failed" for result in results.values())),
        ("recovered after a lost reply", any(result.get("recovered") for result in results.values())),
    ):
        if not seen:
            wrong.append(f"no row was {what}: the trouble did not show")
    return wrong


def latencies(results: dict[str, dict[str, Any]], books: dict[str, Any]) -> Table:
    """Return a table of the time from the chain's confirmation to the caller."""
    table = Table("settled by", "rows", "p50", "p99", title="from the chain's confirmation to the caller", title_justify="left")
    confirmed = {allocation["nonce"]: allocation["confirmed_at"] for allocation in books["allocations"]}
    for via in ("webhook", "poll"):
        times = sorted(result["settled_at"] - confirmed[nonce] for nonce, result in results.items() if result.get("via") == via)
        if len(times) > 1:
            cuts = statistics.quantiles(times, n=100, method="inclusive")
            table.add_row(via, str(len(times)), f"{cuts[49] * 1000:,.1f} ms", f"{cuts[98] * 1000:,.1f} ms")
    return table


def main() -> int:
    console = Console()
    rows = list(csv.DictReader(REWARDS.read_text("utf-8").splitlines()))
    webhook_port = free_port()
    with sandbox(webhook_port) as base_url, tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "results.jsonl"
        environment = {
            **os.environ,
            "ORIGINAL_API_KEY": API_KEY,
            "ORIGINAL_API_SECRET": API_SECRET,
            "ORIGINAL_BASE_URL": base_url,
            "ORIGINAL_WEBHOOK_KEY": f"{KEY_ID}:{WEBHOOK_SECRET}",
        }
        job = [sys.executable, str(HERE / "batch_allocate.py"), str(REWARDS)]
        job += ["--webhook-port", str(webhook_port), "--results", str(written)]
        console.print(f"{len(rows)} rewards, and a vendor with trouble: " + " ".join(f"{k[2:]}={v}" for k, v in TROUBLE.items()))
        code = subprocess.call(job, env=environment)
        results = {line["nonce"]: line for line in map(json.loads, written.read_text("utf-8").splitlines())}
        with urlopen(base_url.removesuffix("/v1") + "/_sandbox/books") as reply:
            books = json.load(reply)
    console.print(latencies(results, books))
    wrong = faults(rows, results, books)
    for line in wrong:
        console.print(f"wrong: {line}", style="bold red")
    if not wrong and code == 0:
        console.print(f"the vendor's books agree: {len(rows)} rewards, each exactly once", style="bold green")
    return 0 if not wrong and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
