"""Allocate a file of rewards, several at a time, and wait until the blockchain has settled each.

    python examples/batch_allocate.py rewards.csv --webhook-port 8080 --results results.jsonl

The file has the columns reward_uid, to_user_uid, amount and nonce. Credentials come from the environment: ORIGINAL_API_KEY,
ORIGINAL_API_SECRET, ORIGINAL_BASE_URL, and ORIGINAL_WEBHOOK_KEYS as id:secret. Exit code 0 if every row ended as done or failed.
"""

import argparse
import asyncio
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from original_async import AllocationFailed, OriginalClient, OriginalWebhooks
from rewards_core import CallEnded, RewardsError
from webhooks import Completions, MemoryStore, PollPolicy, Receiver, Store

ORDER = ("settled", "done", "failed", "unknown", "recovered", "rows", "requests per allocation")


class Tally:
    """Counts how rows ended, and the requests that they took."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.requests = 0
        self.results: list[dict[str, Any]] = []

    def on_end(self, record: CallEnded) -> None:
        self.requests += record.attempts

    def add(self, row: dict[str, str], state: str, **facts: Any) -> None:
        self.counts[state] += 1
        self.results.append({"nonce": row["nonce"], "state": state, **facts})

    def table(self) -> Table:
        rows = len(self.results)
        shown: dict[str, Any] = {
            **self.counts,
            "settled": self.counts["done"] + self.counts["failed"],
            "unknown": rows - self.counts["done"] - self.counts["failed"],
            "recovered": sum(result.get("recovered", False) for result in self.results),
            "rows": rows,
            "requests per allocation": f"{self.requests / max(rows, 1):.2f}",
        }
        table = Table(title="rewards", title_justify="left", show_header=False)
        for name in ORDER:
            table.add_row(name, str(shown.get(name, 0)))
        return table


async def pay(
    row: dict[str, str], original: OriginalClient, completions: Completions, store: Store, tally: Tally, timeout: float
) -> None:
    """Allocate one row, wait until it has settled, and record how it ended."""
    recovered = False
    try:
        allocation = await original.create_allocation(
            reward_uid=row["reward_uid"], to_user_uid=row["to_user_uid"], amount=row["amount"], nonce=row["nonce"]
        )
        recovered = allocation.recovered
        await completions.wait(allocation, timeout=timeout)
    except AllocationFailed:
        state = "failed"
    except (RewardsError, ValueError) as error:
        tally.add(row, "unknown", recovered=recovered, error=f"{type(error).__name__}: {error}")
        return
    else:
        state = "done"
    settled_at = time.time()
    outcome = await store.outcome(allocation.ref)
    tally.add(row, state, recovered=recovered, settled_at=settled_at, via=outcome.via if outcome else None)


async def run(options: argparse.Namespace) -> int:
    tally = Tally()
    store = MemoryStore()
    app = web.Application()
    Receiver(OriginalWebhooks.from_env(), store).register(app, "/webhooks/original")
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.webhook_port).start()
    rows = read_rows(options.file)
    console = Console(stderr=True)
    columns = (TextColumn("allocating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        async with (
            OriginalClient.from_env(observers=[tally]) as original,
            Completions(original, store, polling=PollPolicy(first_after=options.first_poll)) as completions,
        ):
            with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
                task = progress.add_task("rewards", total=sum(1 for _ in read_rows(options.file)))

                async def work() -> None:
                    for row in rows:
                        await pay(row, original, completions, store, tally, options.timeout)
                        progress.advance(task)

                async with asyncio.TaskGroup() as group:
                    for _ in range(options.at_once):
                        group.create_task(work())
    finally:
        await runner.cleanup()
    if options.results:
        options.results.write_text("".join(json.dumps(result) + "\n" for result in tally.results), "utf-8")
    console.print(tally.table())
    return 0 if tally.counts["done"] + tally.counts["failed"] == len(tally.results) else 1


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """Read the file row by row."""
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Allocate a file of rewards and wait until each is settled.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--webhook-port", type=int, default=8080)
    parser.add_argument("--at-once", type=int, default=64, help="rows in progress at a time (default 64)")
    parser.add_argument("--first-poll", type=float, default=3.0, help="seconds before an operation is polled (default 3)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds one row may take (default 120)")
    parser.add_argument("--results", type=Path, help="write how each row ended to this file, as JSON lines")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
