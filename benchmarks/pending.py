"""What waiting costs: memory, stalls of the loop, the way from a delivery to who waits, and polls under the budget.

Each figure is taken in a process of its own, so that one does not find the memory of another.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks._load import body_of, headers_of
from benchmarks._servers import KEY_ID, PATH, SECRET
from original_async import Allocation, OriginalClient, OriginalWebhooks
from rewards_core import ConnectFailed, KeyedRequest, Operation, OperationRef, OperationStatus
from webhooks import Completions, MemoryStore, PollPolicy, Receiver

MILLION = 1_000_000
NEVER = PollPolicy(first_after=3600.0, max_interval=7200.0)
API_SECRET = "benchmark-secret-of-more-than-32-bytes"


def _uids(count: int) -> list[str]:
    return [str(300_000_000_000 + number) for number in range(count)]


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@asynccontextmanager
async def _waiting(policy: PollPolicy = NEVER) -> AsyncIterator[tuple[Completions, Receiver]]:
    store = MemoryStore()
    async with (
        OriginalClient("key", API_SECRET, base_url="http://127.0.0.1:9/v1") as client,
        Completions(client, store, polling=policy) as completions,
    ):
        yield completions, Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)


async def _taken_in(stream: Any, count: int) -> None:
    while stream.pending < count:
        await asyncio.sleep(0.01)


async def memory_of_pending(count: int) -> float:
    """Return the bytes one operation takes inside as_completed, its uid aside."""
    uids = _uids(count)
    async with _waiting() as (completions, _):
        before = _resident()
        async with completions.as_completed(uids) as stream:
            await _taken_in(stream, count)
            return (_resident() - before) / count


async def memory_of_waiting(count: int) -> float:
    """Return the bytes one caller inside wait takes, its uid and task aside."""
    uids = _uids(count)
    hold = asyncio.Event()

    async def idle() -> None:
        await hold.wait()

    tracemalloc.start()
    async with _waiting() as (completions, _):
        for _ in range(2):  # the first grows what the loop keeps of its tasks
            hold.clear()
            before = _traced()
            idlers = [asyncio.ensure_future(idle()) for _ in uids]
            await asyncio.sleep(0)
            task = (_traced() - before) / count
            hold.set()
            await asyncio.gather(*idlers)
            del idlers
        before = _traced()
        waiting = [asyncio.ensure_future(completions.wait(uid)) for uid in uids]
        while completions.statistics.waiting < count:
            await asyncio.sleep(0.01)
        used = (_traced() - before) / count
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    tracemalloc.stop()
    return used - task


async def delivery_to_yield(count: int) -> float:
    """Return the microseconds from handing a signed delivery to the receiver until as_completed yields its operation."""
    spent = []
    async with _waiting() as (completions, receiver), completions.as_completed(_uids(count)) as stream:
        await _taken_in(stream, count)
        for number in range(min(count, 1000) // 2):
            body = body_of(number)
            headers = headers_of(body, number)
            started = time.perf_counter()
            await receiver.receive(headers, body)
            completion = await anext(aiter(stream))
            spent.append(time.perf_counter() - started)
            assert completion.ref.uid == str(300_000_000_000 + number)
    return statistics.median(spent) * 1e6


async def longest_stall(count: int) -> float:
    """Return the longest time in milliseconds that the loop stood still while so many came, waited, and garbage was collected."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    uids = _uids(count)
    gc.collect()
    gc.freeze()  # the uids and modules of this benchmark are not what is measured
    async with _waiting() as (completions, _):
        watching = asyncio.ensure_future(watch())
        async with completions.as_completed(uids) as stream:
            await _taken_in(stream, count)
            gc.collect()
            await asyncio.sleep(0.2)
            taken = longest
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return taken * 1000


async def delivery_to_waiter(count: int) -> tuple[float, float]:
    """Return medians in milliseconds: of a bare POST's round trip, and from sending a delivery until its waiter runs."""

    async def nothing(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    async with _waiting() as (completions, receiver):
        app = web.Application()
        receiver.register(app, PATH)
        app.router.add_post("/bare", nothing)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        bare, woken = [], []
        async with aiohttp.ClientSession() as session:
            for number in range(count):
                body = body_of(number)
                headers = headers_of(body, number)
                waiter = asyncio.ensure_future(completions.wait(str(300_000_000_000 + number)))
                await asyncio.sleep(0)
                started = time.perf_counter()
                async with session.post(url + "/bare", data=body, headers=headers) as reply:
                    await reply.read()
                bare.append(time.perf_counter() - started)
                waking = asyncio.ensure_future(_moment_of(waiter))
                started = time.perf_counter()
                async with session.post(url + PATH, data=body, headers=headers) as reply:
                    await reply.read()
                woken.append(await waking - started)
        await runner.cleanup()
    return statistics.median(bare) * 1000, statistics.median(woken) * 1000


async def _moment_of(waiter: asyncio.Future[Any]) -> float:
    await waiter
    return time.perf_counter()


class _Counting:
    """A vendor that counts its reads and settles nothing."""

    scope = "default"

    def __init__(self) -> None:
        self.reads: list[float] = []

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        assert isinstance(operation, str)
        return OperationRef("default", "allocation", operation)

    async def read_operation(self, ref: OperationRef, *, may_send: Callable[[], Awaitable[bool]] | None = None) -> Operation:
        if may_send is not None and not await may_send():
            raise ConnectFailed("it was too late for its turn")
        self.reads.append(time.monotonic())
        return Allocation(
            uid=ref.uid, status=OperationStatus.PENDING, reward_uid="1", to_user_uid="1", amount=Decimal(1), nonce="n"
        )

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Operation:
        raise AssertionError("nothing settles here")

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: Callable[[], Awaitable[bool]] | None = None,
    ) -> Sequence[Operation]:
        raise AssertionError("nothing is looked for here")

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        return final


async def polls_per_second(count: int, seconds: float) -> float:
    """Return the most polls within any second, with webhooks dead and a budget of 20."""
    vendor = _Counting()
    policy = PollPolicy(first_after=0.05, growth=1.0, max_interval=0.05, max_per_second=20.0)
    async with (
        Completions(vendor, MemoryStore(), polling=policy) as completions,
        completions.as_completed(_uids(count)) as stream,
    ):
        await _taken_in(stream, count)
        await asyncio.sleep(seconds)
    reads = vendor.reads
    most = 0
    first = 0
    for last, moment in enumerate(reads):
        while moment - reads[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return float(most)


def _apart(name: str, *arguments: float) -> Any:
    """Run one of these in a process of its own."""
    code = f"import asyncio, json; from benchmarks.pending import *; print(json.dumps(asyncio.run({name}(*{list(arguments)}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    few, many = (100, 1_000) if quick else (1_000, MILLION)
    few_us, many_us = _apart("delivery_to_yield", few), _apart("delivery_to_yield", many)
    bare, woken = _apart("delivery_to_waiter", 20 if quick else 2000)
    seconds = 0.2 if quick else 10.0
    return [
        _row(
            f"memory per pending operation, {many:,} in as_completed",
            _apart("memory_of_pending", many),
            "bytes",
            bar="≤ 210",
        ),
        _row("memory per waiting wait, its task excluded", _apart("memory_of_waiting", many // 10), "bytes", bar="≤ 900"),
        _row(
            f"a delivery until as_completed yields it, {many:,} pending",
            many_us,
            "µs",
            reference=f"{few:,} pending: {few_us:.0f} µs",
            ratio=many_us / few_us,
            bar="≤ 1.5",
        ),
        _row(f"longest stall of the loop, {many:,} pending, full collection", _apart("longest_stall", many), "ms", bar="≤ 60"),
        _row(
            "extra time from delivery to waiter, p50",
            woken - bare,
            "ms",
            reference=f"a bare POST round trip: {bare:.2f} ms",
            ratio=woken / bare,
            bar="≤ +1 ms",
        ),
        *(
            _row(
                f"most GETs in a second, webhooks dead, {count:,} pending",
                _apart("polls_per_second", count, seconds),
                "",
                bar="≤ 20",
            )
            for count in ((many,) if quick else (10, 1_000, many))
        ),
    ]


def _row(name: str, value: float, unit: str, *, reference: str = "", ratio: float | None = None, bar: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio, "bar": bar}
