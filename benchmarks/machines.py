"""Listeners and waiting services on one PostgreSQL: deliveries per second, and what a waiter in another process costs."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks._load import CONNECTIONS, race, request_of
from benchmarks._processes import pinned, running
from benchmarks._results import percentile, row
from benchmarks.durable import listener
from original_async import OriginalClient
from rewards_core.operations import OperationRef
from tests.postgres_server import postgres_server
from webhooks import Completions, PostgresStore

PER_SECOND = 400
MANY = 16
LISTENERS = 8
_SENDERS = 8
_FIRST_UID = 300_000_000_000


def run(quick: bool = False) -> list[dict[str, Any]]:
    with postgres_server(durable=True, max_connections="200") as server:
        return [*throughput(server.url, quick), *waking(server.url, quick), *beside_waiters(server.url, quick)]


def throughput(url: str, quick: bool) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        servers = {}
        for name, options in (("sqlite", ()), ("postgres", ("--store", url))):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers[name] = stack.enter_context(listener(folder, *options))[:2]
        stack.enter_context(pinned())
        paces = race(servers, quick=quick)
    sqlite, postgres = paces["sqlite"].rate, paces["postgres"].rate
    what = f"durable deliveries per second, PostgresStore on one node, {CONNECTIONS} connections, unique bodies, one worker"
    return [row(what, postgres, "1/s", reference=f"SQLiteStore: {sqlite:,.0f}/s", ratio=postgres / sqlite, bar="≥ 0.95")]


def waking(url: str, quick: bool) -> list[dict[str, Any]]:
    """Deliver to one listener, and wake one process, then many that share the same number of waits."""
    events = 80 if quick else 4_000
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder), "--store", url, core=None) as (port, _, _):
        warm_up = _Waiters(url, 1, 40, first=1_000_000)
        warm_up.settle([port])
        one = _Waiters(url, 1, events, first=2_000_000)
        one.settle([port])
        many = _Waiters(url, MANY, events, first=3_000_000)
        many.settle([port])
    awake = many.seconds_from(many.sent_at)
    after = many.seconds_from(many.answered_at)
    what = f"delivery sent → waiter awake in another process, {PER_SECOND} deliveries/s, {MANY} waiting processes"
    return [
        row(
            f"CPU of all waiting processes per event, {MANY} processes",
            many.cpu_per_event,
            "µs",
            reference=f"one process: {one.cpu_per_event:.0f} µs",
            ratio=many.cpu_per_event / one.cpu_per_event,
            bar="≤ 2.5",
        ),
        row(f"{what}, p50", statistics.median(awake) * 1e3, "ms", bar="≤ 3 ms"),
        row(
            f"{what}, p99",
            percentile(awake, 99) * 1e3,
            "ms",
            reference=f"from the answer: p50 {statistics.median(after) * 1e3:.1f}, p99 {percentile(after, 99) * 1e3:.1f} ms",
            bar="≤ 10 ms",
        ),
    ]


def beside_waiters(url: str, quick: bool) -> list[dict[str, Any]]:
    """Deliver to listeners that wake those who wait, and to listeners that leave them to the net: their next renewal."""
    events, rounds = (80, 1) if quick else (2_000, 3)
    silent = "from webhooks.store.postgres_wake import Waker; Waker.wake = lambda *_: None"
    took: dict[str, list[float]] = {"": [], silent: []}
    for number in range(2 * rounds):
        changed = (silent, "")[number % 2]
        with ExitStack() as stack:
            ports = []
            for _ in range(LISTENERS):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                ports.append(stack.enter_context(listener(folder, "--store", url, core=None, changed=changed))[0])
            waiters = _Waiters(url, 4, events, first=10_000_000 * (number + 1))
            waiters.settle(ports)
            took[changed] += waiters.seconds_to_answer
    on, off = took[""], took[silent]
    return [
        row(
            f"submit → durable, {LISTENERS} listeners, {PER_SECOND} deliveries/s, each of which wakes a waiting process, p50",
            statistics.median(on) * 1e3,
            "ms",
            reference=f"wake-ups off: {statistics.median(off) * 1e3:.2f} ms",
            ratio=statistics.median(on) / statistics.median(off),
            bar="≤ 1.3",
        )
    ]


class _Deliveries:
    """When each delivery was sent and answered."""

    def __init__(self) -> None:
        self.sent_at: dict[int, float] = {}
        self.answered_at: dict[int, float] = {}

    def values_between(self) -> list[float]:
        return [answered - self.sent_at[number] for number, answered in self.answered_at.items()]


class _Waiters:
    """Processes that wait for events, each for its share."""

    def __init__(self, url: str, processes: int, events: int, *, first: int) -> None:
        self._url = url
        self._processes = processes
        self._numbers = range(first, first + events)
        self._settled_at: dict[int, float] = {}
        self.sent_at: dict[int, float] = {}
        self.answered_at: dict[int, float] = {}
        self.seconds_to_answer: list[float] = []
        self.cpu_per_event = 0.0

    def settle(self, ports: Sequence[int]) -> None:
        """Start the processes, deliver what they wait for, and see how they fared."""
        with ExitStack() as stack:
            outputs = [stack.enter_context(self._waiter(number)) for number in range(self._processes)]
            for output in outputs:
                assert output.readline() == b"ready\n"
            made = asyncio.run(_deliver(ports, self._numbers))
            told = [json.loads(output.readline()) for output in outputs]
        self.sent_at, self.answered_at, self.seconds_to_answer = made.sent_at, made.answered_at, made.values_between()
        for one in told:
            self._settled_at.update({int(number): at for number, at in one["settled_at"].items()})
        self.cpu_per_event = sum(one["cpu"] for one in told) / len(self._numbers) * 1e6

    def seconds_from(self, moments: dict[int, float]) -> list[float]:
        return [max(0.0, at - moments[number]) for number, at in self._settled_at.items()]

    @contextmanager
    def _waiter(self, number: int) -> Iterator[IO[bytes]]:
        share = self._numbers[number :: self._processes]
        with running("-m", "benchmarks.machines", self._url, str(share.start), str(share.stop), str(share.step)) as (output, _):
            yield output


async def _deliver(ports: Sequence[int], numbers: Sequence[int]) -> _Deliveries:
    """Deliver at a steady rate, to each port in turn."""
    made = _Deliveries()
    connections = [await asyncio.open_connection("127.0.0.1", ports[place % len(ports)]) for place in range(_SENDERS)]
    loop = asyncio.get_running_loop()
    started = loop.time()
    due = iter(enumerate(numbers))

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for place, number in due:
            request = request_of(number)
            await asyncio.sleep(max(0.0, started + place / PER_SECOND - loop.time()))
            made.sent_at[number] = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            made.answered_at[number] = time.perf_counter()
            assert head.startswith(b"HTTP/1.1 2"), head
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for connection in connections:
            tasks.create_task(send(*connection))
    return made


async def _wait(url: str, numbers: Sequence[int]) -> None:
    """Wait for events, as one of several processes."""
    store = PostgresStore(url)
    settled_at: dict[int, float] = {}
    async with (
        OriginalClient("key", "s" * 32, base_url="http://127.0.0.1:9/v1") as client,
        Completions(client, store) as completions,
        completions.as_completed([str(_FIRST_UID + number) for number in numbers], timeout=120) as stream,
    ):
        refs = [OperationRef("default", "allocation", str(_FIRST_UID + number)) for number in numbers]
        while len(await store.pending(refs)) < len(refs):
            await asyncio.sleep(0.01)
        began = time.process_time()
        print("ready", flush=True)
        async for completion in stream:
            settled_at[int(completion.ref.uid) - _FIRST_UID] = time.perf_counter()
        cpu = time.process_time() - began
    await store.aclose()
    print(json.dumps({"settled_at": settled_at, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    asyncio.run(_wait(sys.argv[1], range(*map(int, sys.argv[2:5]))))
