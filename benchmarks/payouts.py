"""What a payout costs beside its requests: memory over a million rows, the ledger's CPU, and the pace that is left.

Client, vendor and ledger each keep a thread busy. On two cores the ledger's thread runs where the vendor leaves room, so that the
pace depends on what else the machine does; on one core it is what the CPU of all three allows.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from benchmarks._vendor import vendor
from original_async import OriginalClient
from payouts import Layout, Ledger, OriginalRow, RunOptions, State, read_rows, run_payouts
from rewards_core import Limits
from webhooks import Completions, MemoryStore, PollPolicy

if TYPE_CHECKING:
    from payouts.ledger.base import Facts

AT_ONCE = 64
PACE = 500
"""Rows per second of the payout whose memory is measured; its polls keep up with it."""
SECRET = "benchmark-secret-of-more-than-32-bytes"
REWARD = "764893807463"
CAMPAIGN = "benchmark"
STEPS: tuple[tuple[State, Facts], ...] = (
    (State.SENT, {}),
    (State.ACCEPTED, {"uid": "324167489835"}),
    (State.DONE, {"settled_by": "webhook"}),
)


def rows(number: int) -> Iterator[OriginalRow]:
    for place in range(number):
        yield OriginalRow(id=f"row-{place}", reward_uid=REWARD, to_user_uid=f"{place:012d}", amount="1.23", line=place + 2)


def write_file(path: Path, number: int) -> None:
    with path.open("w") as stream:
        stream.write("id,reward_uid,to_user_uid,amount\n")
        for row in rows(number):
            stream.write(f"{row.id},{row.reward_uid},{row.to_user_uid},{row.amount}\n")


@asynccontextmanager
async def client_at(url: str) -> AsyncIterator[OriginalClient]:
    async with OriginalClient("key", SECRET, base_url=url, limits=Limits(connections=2 * AT_ONCE)) as client:
        yield client


@asynccontextmanager
async def waiting(client: OriginalClient) -> AsyncIterator[Completions]:
    store = MemoryStore(max_events=5_000)
    polling = PollPolicy(first_after=0.05, max_per_second=3 * PACE)
    async with Completions(client, store, polling=polling) as completions:
        yield completions
    await store.aclose()


async def bare(client: OriginalClient, number: int, *, read: bool) -> None:
    """Make the requests of so many rows in the simplest loop there is."""
    given = rows(number)

    async def work() -> None:
        for row in given:
            made = await client.create_allocation(
                reward_uid=row.reward_uid, to_user_uid=row.to_user_uid, amount=row.amount, nonce=row.id
            )
            if read:
                await client.get_allocation(made.uid)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())


async def pay(client: OriginalClient, ledger: Ledger, number: int) -> None:
    """Pay rows as `payouts run --no-wait` does."""
    options = RunOptions(rate=None, concurrency=AT_ONCE, wait=False)
    async for _ in run_payouts(rows(number), client=client, ledger=ledger, options=options):
        pass


async def keep(ledger: Ledger, number: int) -> None:
    """Take rows through all their states, in the ledger alone."""
    given = rows(number)
    while group := await ledger.plan(list(islice(given, 500))):
        for begin in range(0, len(group), AT_ONCE):
            some = group[begin : begin + AT_ONCE]
            for state, facts in STEPS:
                some = await ledger.move_each([(entry, state, facts) for entry in some])


@frozen
class Cost:
    """What so many rows cost, for one row in microseconds."""

    cpu: float
    wall: float


async def measure(work: Callable[[], Awaitable[None]], number: int) -> Cost:
    cpu, wall = time.process_time(), time.perf_counter()
    await work()
    return Cost((time.process_time() - cpu) / number * 1e6, (time.perf_counter() - wall) / number * 1e6)


async def costs(url: str, number: int, rounds: int) -> dict[str, Cost]:
    """Return the median cost of each way to pay, all taking their turn in each round; `paced` is a ratio of two neighbours."""
    found: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="payouts-") as folder:
        for turn in range(rounds + 1):
            measured: dict[str, Cost] = {}
            async with client_at(url) as client:
                measured["requests"] = await measure(lambda: bare(client, number, read=True), number)
                measured["create"] = await measure(lambda: bare(client, number, read=False), number)
                async with Ledger(Path(folder) / f"{turn}-paid.db", vendor="original", campaign=CAMPAIGN) as ledger:
                    measured["paid"] = await measure(lambda: pay(client, ledger, number), number)
            async with Ledger(Path(folder) / f"{turn}-kept.db", vendor="original", campaign=CAMPAIGN) as ledger:
                measured["ledger"] = await measure(lambda: keep(ledger, number), number)
            measured["paced"] = Cost(0.0, measured["create"].wall / measured["paid"].wall)
            if turn:  # the first round warms up
                for name, cost in measured.items():
                    found.setdefault(name, []).append(cost)
    return {
        name: Cost(statistics.median(cost.cpu for cost in some), statistics.median(cost.wall for cost in some))
        for name, some in found.items()
    }


def paid_on(cores: Collection[int], number: int, rounds: int) -> dict[str, Cost]:
    """Return the costs where this process, its threads and the vendor share some cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with vendor() as url:
            return asyncio.run(costs(url, number, rounds))
    finally:
        os.sched_setaffinity(0, allowed)


def paced_payout(number: int) -> tuple[float, float]:
    """Return the peak memory in MiB of a process that pays a file of so many rows at `PACE`, and its rows per second."""
    command = [sys.executable, "-m", "benchmarks.payouts", str(number)]
    memory, pace = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(memory), float(pace)


async def _pay_file(number: int) -> float:
    """Pay a file of so many rows and return how many per second."""
    with tempfile.TemporaryDirectory(prefix="payouts-") as folder, vendor() as url:
        path = Path(folder) / "rewards.csv"
        write_file(path, number)
        async with (
            client_at(url) as client,
            waiting(client) as completions,
            Ledger(Path(folder) / "payouts.db", vendor="original", campaign=CAMPAIGN) as ledger,
        ):
            with path.open("rb") as stream:
                given = read_rows(stream, Layout(vendor="original"))
                options = RunOptions(rate=PACE, concurrency=AT_ONCE)
                begun = time.monotonic()
                async for _ in run_payouts(given, client=client, completions=completions, ledger=ledger, options=options):
                    pass
                return number / (time.monotonic() - begun)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    few, many = (200, 1_000) if quick else (10_000, 1_000_000)
    (small, _), (large, pace) = paced_payout(few), paced_payout(many)
    extent = (100, 1) if quick else (6_000, 5)
    cores = sorted(os.sched_getaffinity(0))
    cost, alone = paid_on(cores, *extent), paid_on(cores[:1], *extent)
    return [
        {
            "name": f"Peak memory of a payout of {many:,} rows",
            "value": large,
            "unit": "MiB",
            "reference": f"{few:,} rows: {small:.1f} MiB",
            "ratio": large / small,
            "bar": "≤ 1.3",
        },
        {
            "name": "Rows per second of that payout",
            "value": pace,
            "unit": "/s",
            "reference": f"its rate: {PACE} /s",
            "ratio": pace / PACE,
            "bar": "≥ 0.95",
        },
        {
            "name": f"CPU of the ledger per row, from planned to done, {AT_ONCE} at a time",
            "value": cost["ledger"].cpu,
            "unit": "µs",
            "reference": f"the row's requests, a POST and a GET: {cost['requests'].cpu:.1f} µs",
            "ratio": cost["ledger"].cpu / cost["requests"].cpu,
            "bar": "≤ 0.25",
        },
        *(
            {
                "name": f"Rows per second with the ledger, {AT_ONCE} at a time, {where}",
                "value": 1e6 / measured["paid"].wall,
                "unit": "/s",
                "reference": f"bare create_allocation loop: {1e6 / measured['create'].wall:,.0f} /s",
                "ratio": measured["paced"].wall,
                "bar": bar,
            }
            for where, measured, bar in ((f"{len(cores)} cores", cost, "≥ 0.75"), ("all on one core", alone, ""))
        ),
    ]


if __name__ == "__main__":
    pace = asyncio.run(_pay_file(int(sys.argv[1])))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, pace)
