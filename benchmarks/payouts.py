"""What a payout costs beside its requests: memory over a million rows, the ledger's CPU, and the pace it leaves."""

from __future__ import annotations

import asyncio
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from attrs import frozen

from benchmarks._vendor import vendor
from original_async import OriginalClient
from payouts import Entry, Layout, Ledger, OriginalRow, Row, RunOptions, State, read_rows, run_payouts
from rewards_core import Limits
from webhooks import Completions, MemoryStore, PollPolicy

if TYPE_CHECKING:
    from payouts.ledger.base import Facts, Move

AT_ONCE = 64
SECRET = "benchmark-secret-of-more-than-32-bytes"
REWARD = "764893807463"
CAMPAIGN = "benchmark"


class NoLedger:
    """What a run asks of a ledger, without a disk: the run then costs what it costs without one."""

    vendor = "original"

    def __init__(self) -> None:
        self._numbers = count(1)

    async def plan(self, rows: Sequence[Row]) -> list[Entry]:
        return [_entry(row, next(self._numbers), row.id, State.PLANNED) for row in rows]

    async def move(self, entry: Entry, to: State, **facts: Unpack[Facts]) -> Entry:
        return _entry(entry, entry.number, entry.key, to, facts.get("uid") or entry.uid)

    async def move_each(self, wanted: Sequence[Move]) -> list[Entry]:
        return [await self.move(entry, to, **facts) for entry, to, facts in wanted]

    async def entries(self, *_: Any, **__: Any) -> list[Entry]:
        return []

    async def other_keys(self, _: Entry) -> frozenset[str]:
        return frozenset()

    def one_run(self, *, rows_at_once: int = 1) -> AbstractAsyncContextManager[None]:
        return nullcontext()


def _entry(row: Row | Entry, number: int, key: str, state: State, uid: str | None = None) -> Entry:
    return Entry(
        number=number,
        id=row.id,
        line=row.line,
        recipient=row.recipient,
        item=row.item,
        amount=row.amount,
        key=key,
        state=state,
        uid=uid,
    )


def rows(number: int) -> Iterator[OriginalRow]:
    for place in range(number):
        yield OriginalRow(id=f"row-{place}", reward_uid=REWARD, to_user_uid=f"{place:012d}", amount="1.23", line=place + 2)


@asynccontextmanager
async def client_at(url: str) -> AsyncIterator[OriginalClient]:
    async with OriginalClient("key", SECRET, base_url=url, limits=Limits(connections=2 * AT_ONCE)) as client:
        yield client


@asynccontextmanager
async def waiting(client: OriginalClient) -> AsyncIterator[Completions]:
    store = MemoryStore(max_events=5_000)
    polling = PollPolicy(first_after=0.05, max_per_second=100_000)
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


async def pay(client: OriginalClient, ledger: Any, number: int, *, wait: bool) -> None:
    """Pay so many rows as `payouts run` does."""
    options = RunOptions(rate=None, concurrency=AT_ONCE, wait=wait)
    if not wait:
        run = run_payouts(rows(number), client=client, ledger=ledger, options=options)
        async for _ in run:
            pass
        return
    async with waiting(client) as completions:
        async for _ in run_payouts(rows(number), client=client, completions=completions, ledger=ledger, options=options):
            pass


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
    """Return the median cost of each way to pay, all taking their turn in each round."""
    found: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="payouts-") as folder:
        for turn in range(rounds + 1):

            async def with_ledger(turn: int = turn, *, wait: bool) -> Cost:
                path = Path(folder) / f"{turn}-{wait}.db"
                async with client_at(url) as client, Ledger(path, vendor="original", campaign=CAMPAIGN) as ledger:
                    return await measure(lambda: pay(client, ledger, number, wait=wait), number)

            async with client_at(url) as client:
                measured = {
                    "create": await measure(lambda: bare(client, number, read=False), number),
                    "requests": await measure(lambda: bare(client, number, read=True), number),
                    "no ledger": await measure(lambda: pay(client, NoLedger(), number, wait=True), number),
                }
            measured |= {"ledger": await with_ledger(wait=True), "no wait": await with_ledger(wait=False)}
            if turn:  # the first round warms up
                for name, cost in measured.items():
                    found.setdefault(name, []).append(cost)
    return {
        name: Cost(statistics.median(cost.cpu for cost in some), statistics.median(cost.wall for cost in some))
        for name, some in found.items()
    }


def peak_memory(number: int) -> float:
    """Return the peak memory in MiB of a process that pays a file of so many rows."""
    command = [sys.executable, "-m", "benchmarks.payouts", str(number)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


async def _pay_file(number: int) -> None:
    with tempfile.TemporaryDirectory(prefix="payouts-") as folder, vendor() as url:
        path = Path(folder) / "rewards.csv"
        with path.open("w") as stream:
            stream.write("id,reward_uid,to_user_uid,amount\n")
            for row in rows(number):
                stream.write(f"{row.id},{row.reward_uid},{row.to_user_uid},{row.amount}\n")
        async with (
            client_at(url) as client,
            waiting(client) as completions,
            Ledger(Path(folder) / "payouts.db", vendor="original", campaign=CAMPAIGN) as ledger,
        ):
            with path.open("rb") as stream:
                given = read_rows(stream, Layout(vendor="original"))
                options = RunOptions(rate=None, concurrency=AT_ONCE)
                async for _ in run_payouts(given, client=client, completions=completions, ledger=ledger, options=options):
                    pass


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    many = 8_000 if quick else 1_000_000
    small, large = peak_memory(10_000), peak_memory(many)
    with vendor() as url:
        cost = asyncio.run(costs(url, *((600, 1) if quick else (6_000, 5))))
    ledger = cost["ledger"].cpu - cost["no ledger"].cpu
    paced, plain = 1e6 / cost["no wait"].wall, 1e6 / cost["create"].wall
    return [
        {
            "name": f"Peak memory of a payout of {many:,} rows",
            "value": large,
            "unit": "MiB",
            "reference": f"10,000 rows: {small:.1f} MiB",
            "ratio": large / small,
            "bar": "≤ 1.3",
        },
        {
            "name": f"CPU of the ledger per row, {AT_ONCE} at a time",
            "value": ledger,
            "unit": "µs",
            "reference": f"the row's requests, a POST and a GET: {cost['requests'].cpu:.1f} µs",
            "ratio": ledger / cost["requests"].cpu,
            "bar": "< 0.25",
        },
        {
            "name": f"Rows per second with the ledger, {AT_ONCE} at a time",
            "value": paced,
            "unit": "/s",
            "reference": f"bare create_allocation loop: {plain:,.0f} /s",
            "ratio": paced / plain,
            "bar": "≥ 0.6",
        },
    ]


if __name__ == "__main__":
    asyncio.run(_pay_file(int(sys.argv[1])))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
