"""The listener as it is shipped, on SQLite: deliveries per second, time to the waiter, slow peers, start with many rows."""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks._load import CONNECTIONS, body_of, race, request_of, send, server
from benchmarks._processes import pin, pinned
from benchmarks._results import percentile, row
from benchmarks._servers import KEY_ID, PATH, SECRET
from benchmarks._strangers import strangers
from original_async import OriginalClient, OriginalWebhooks
from rewards_core.sqlite.connection import connect
from webhooks import Completions, Receiver
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.store.sqlite import SQLiteStore

SLOW_PEERS = 500
GARBAGE_PEERS = 10
DELIVERIES_PER_SECOND = 200
MANY = 1_000_000


def run(quick: bool = False) -> list[dict[str, Any]]:
    with pinned():
        return [*throughput(quick), *to_the_waiter(quick), *among_slow_peers(quick), *at_many_rows(quick)]


@contextmanager
def listener(folder: Path, *options: str, core: int | None = 1, changed: str = "") -> Iterator[tuple[int, int, str]]:
    """Run the listener, on one core if one is given; give its port, its process id, and its admin address or its console's link.

    It is as it is shipped, unless a statement of Python changes it first.
    """
    program = f"from webhooks.cli import app\n{changed}\napp()"
    command = [sys.executable, "-c", program, "serve", "--json", "--port", "0", "--admin-port", "0", *options]
    env = {**os.environ, "ORIGINAL_WEBHOOK_KEYS": f"{KEY_ID}:{SECRET}", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if core is not None:
            pin(process.pid, core)  # workers start on the same core
        where = json.loads(process.stdout.readline())
        yield int(where["url"].rpartition(":")[2]), process.pid, where.get("console", where["admin"])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def throughput(quick: bool) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server(name)) for name in ("bare", "fastapi")}
        for name, options in (("one worker", ()), ("two workers", ("--workers", "2"))):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers[name] = stack.enter_context(listener(folder, *options))[:2]
        paces = race(servers, quick=quick)
    rate = {name: pace.rate for name, pace in paces.items()}
    cpu = {name: pace.cpu for name, pace in paces.items()}
    bare = "an aiohttp handler that reads the body and answers 204"
    fastapi = "FastAPI under uvicorn[standard], as idle as the bare handler"
    what = f"durable deliveries per second, SQLite with fsync, {CONNECTIONS} connections, unique bodies, one worker"
    one, two = rate["one worker"], cpu["two workers"]
    return [
        row(what, one, "1/s", reference=f"{bare}: {rate['bare']:,.0f}/s", ratio=one / rate["bare"], bar="≥ 0.50"),
        row(what, one, "1/s", reference=f"{fastapi}: {rate['fastapi']:,.0f}/s", ratio=one / rate["fastapi"], bar="≥ 0.8"),
        row(
            "CPU of the listener per durable delivery, one worker",
            cpu["one worker"],
            "µs",
            reference=f"{bare}: {cpu['bare']:.0f} µs",
            ratio=cpu["one worker"] / cpu["bare"] if cpu["bare"] else None,
        ),
        row(
            "CPU of the listener per durable delivery, two workers",
            two,
            "µs",
            reference=f"one worker: {cpu['one worker']:.0f} µs",
            ratio=two / cpu["one worker"] if cpu["one worker"] else None,
            bar="≤ 1.25",
        ),
    ]


def to_the_waiter(quick: bool) -> list[dict[str, Any]]:
    count = 20 if quick else 1_000
    with tempfile.TemporaryDirectory() as folder:
        trip, awake = asyncio.run(_wake_here(Path(folder), count))
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder)) as (port, _, _):
        elsewhere = asyncio.run(_wake_elsewhere(Path(folder), port, 2 * count))
    extra = (statistics.median(awake) - statistics.median(trip)) * 1e3
    return [
        row(
            "delivery in → waiter awake, beyond a bare POST's round trip, p50, one worker",
            extra,
            "ms",
            reference=f"bare round trip: {statistics.median(trip) * 1e3:.2f} ms",
            bar="≤ +5 ms",
        ),
        row(
            f"delivery answered → waiter awake in another process, p99, {DELIVERIES_PER_SECOND} deliveries/s, one worker",
            percentile(elsewhere, 99) * 1e3,
            "ms",
            reference=f"p50: {statistics.median(elsewhere) * 1e3:.1f} ms",
            bar="≤ 10 ms",
        ),
    ]


async def _wake_here(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Return round trips to an idle server, and times from sending a delivery to waking a waiter in the receiving process."""
    store = SQLiteStore(folder / "inbox.db")
    receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(HardenedServer({PATH: receiver}), "127.0.0.1", 0)
    trips: list[float] = []
    awake: list[float] = []
    with server("bare") as (bare_port, _):
        bare = await asyncio.open_connection("127.0.0.1", bare_port)
        here = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
        async with (
            OriginalClient("key", "s" * 32, base_url="http://127.0.0.1:9/v1") as client,
            Completions(client, store) as completions,
        ):
            for number in range(count):
                trips.append(await _round_trip(*bare, request_of(number)))
                waiting = asyncio.create_task(completions.wait(str(300_000_000_000 + number), timeout=60))
                while not completions.statistics.waiting:
                    await asyncio.sleep(0)
                await store.ping()
                sent_at = time.perf_counter()
                answering = asyncio.create_task(_round_trip(*here, request_of(number)))
                await waiting
                awake.append(time.perf_counter() - sent_at)
                await answering
        for _, writer in (bare, here):
            writer.close()
    listening.close()
    await store.aclose()
    return trips, awake


async def _wake_elsewhere(folder: Path, port: int, count: int) -> list[float]:
    """Return times from a listener's answer to waking a waiter on the same store in this process, at a steady rate."""
    store = SQLiteStore(folder / "inbox.db")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered: dict[str, float] = {}
    async with (
        OriginalClient("key", "s" * 32, base_url="http://127.0.0.1:9/v1") as client,
        Completions(client, store) as completions,
    ):
        uids = [str(300_000_000_000 + number) for number in range(count)]
        async with completions.as_completed(uids, timeout=60) as stream:
            while stream.pending < count:
                await asyncio.sleep(0.01)

            async def deliver() -> None:
                loop = asyncio.get_running_loop()
                started = loop.time()
                for number in range(count):
                    await asyncio.sleep(max(0.0, started + number / DELIVERIES_PER_SECOND - loop.time()))
                    await _round_trip(reader, writer, request_of(number))
                    answered[uids[number]] = time.perf_counter()

            delivering = asyncio.create_task(deliver())
            settled: dict[str, float] = {}
            async for completion in stream:
                settled[completion.ref.uid] = time.perf_counter()
            await delivering
    times = [max(0.0, settled[uid] - answered[uid]) for uid in uids]
    writer.close()
    await store.aclose()
    return times


async def _round_trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    started = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 2"), head
    return time.perf_counter() - started


def among_slow_peers(quick: bool) -> list[dict[str, Any]]:
    count, peers = (100, 50) if quick else (6_000, SLOW_PEERS)
    options = ["--max-per-peer", "2000", "--max-connections", "2000", "--header-timeout", "3", "--body-timeout", "3"]
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder), *options) as (port, _, _):
        calm: list[float] = []
        stormy: list[float] = []
        asyncio.run(send(port, [request_of(number) for number in range(count)], connections=16))
        asyncio.run(send(port, [request_of(count + number) for number in range(count)], connections=16, times=calm))
        with strangers("slow", port, peers), strangers("garbage", port, GARBAGE_PEERS):
            asyncio.run(send(port, [request_of(2 * count + number) for number in range(count)], connections=16, times=stormy))
    before, during = percentile(calm, 99) * 1e3, percentile(stormy, 99) * 1e3
    what = f"one worker: healthy deliveries among {peers} slow peers and others that send garbage, p99"
    return [row(what, during, "ms", reference=f"undisturbed: {before:.2f} ms", ratio=during / before, bar="≤ 3")]


def at_many_rows(quick: bool) -> list[dict[str, Any]]:
    rows, starts = (1_000, 1) if quick else (MANY, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "inbox.db", rows)
        ready = statistics.median(_seconds_to_ready(folder) for _ in range(starts))
        per_second = asyncio.run(_stored_per_second(folder, 500 if quick else 40_000))
    return [
        row(f"from the command to ready, with {rows:,} events in the inbox, one worker", ready, "s", bar="≤ 1 s"),
        row(
            f"deliveries stored per second at {rows:,} rows, {CONNECTIONS} at a time, one process",
            per_second,
            "1/s",
            bar="≥ 10,000",
        ),
    ]


def fill(path: Path, rows: int) -> None:
    """Put settled events into a store, with uids and identities in random order."""
    asyncio.run(_make(path))
    body = body_of(0)
    connection = connect(path)
    connection.execute("PRAGMA synchronous = OFF; BEGIN")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    connection.execute("CREATE TEMP TABLE seed (i INTEGER PRIMARY KEY, identity BLOB, uid TEXT)")
    connection.execute(
        f"INSERT INTO seed {numbers} SELECT i, randomblob(16), printf('%012d', abs(random()) % 1000000000000) FROM n", (rows,)
    )
    connection.execute("INSERT INTO identity SELECT identity, 20000 FROM seed ORDER BY identity")
    connection.execute(
        "INSERT INTO event SELECT i, 'default', 'reward.allocated', identity, 'allocation', uid, 0, 1.7e9 + i, "
        "NULL, NULL, '1', NULL, NULL, ? FROM seed",
        (body,),
    )
    resource = json.dumps(json.loads(body)["data"]["allocation"]).encode()
    connection.execute(
        "INSERT OR IGNORE INTO outcome "
        "SELECT i, 'default', 'allocation', uid, 'done', ?, 'webhook', 1.7e9 + i, 'nonce-' || i, 0 FROM seed",
        (resource,),
    )
    connection.execute("COMMIT")
    connection.close()


async def _make(path: Path) -> None:
    store = SQLiteStore(path)
    await store.ping()
    await store.aclose()


def _seconds_to_ready(folder: Path) -> float:
    started = time.perf_counter()
    with listener(folder, "--keep-days", "36500") as (_, _, admin):
        with urllib.request.urlopen(f"{admin}/readyz") as answer:
            assert answer.status == 200
        return time.perf_counter() - started


async def _stored_per_second(folder: Path, count: int) -> float:
    store = SQLiteStore(folder / "inbox.db")
    await store.ping()
    source = OriginalWebhooks({KEY_ID: SECRET})
    chance = random.Random(0)
    events = [source.parse(body_of(5_000_000 + chance.randrange(10**11) + number)) for number in range(count)]
    waiting = iter(events)

    async def deliver() -> None:
        for event in waiting:
            await store.accept(event)

    started = time.perf_counter()
    await asyncio.gather(*(deliver() for _ in range(CONNECTIONS)))
    elapsed = time.perf_counter() - started
    await store.aclose()
    return count / elapsed
