"""The listener as it is shipped, with its SQLite store: deliveries per second, time to the waiter, readiness, hostile peers."""

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks._load import CONNECTIONS, body_of, race, request_of, send, server
from benchmarks._servers import KEY_ID, PATH, SECRET
from benchmarks._wire import beside, pin
from original_async import OriginalClient, OriginalWebhooks
from rewards_core.sqlite.connection import connect
from webhooks import Completions, Receiver
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.store.sqlite import SQLiteStore

SLOW_PEERS = 500
DELIVERIES_PER_SECOND = 200
MANY = 1_000_000


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    try:
        pin(os.getpid(), 0)
        return [*throughput(quick), *to_the_waiter(quick), *among_hostile_peers(quick), *at_many_rows(quick)]
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


@contextmanager
def listener(folder: Path, *options: str) -> Iterator[tuple[int, int, str]]:
    """Run the listener as it is shipped; give its port, its process id and where its health is."""
    command = [sys.executable, "-m", "webhooks", "serve", "--json", "--port", "0", "--admin-port", "0", *options]
    env = {**os.environ, "ORIGINAL_WEBHOOK_KEYS": f"{KEY_ID}:{SECRET}", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        pin(process.pid, 1)  # its workers begin on the same core
        where = json.loads(process.stdout.readline())
        yield int(where["url"].rpartition(":")[2]), process.pid, where["admin"]
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
    bare, fastapi = (
        "an aiohttp handler that reads the body and answers 204",
        "FastAPI under uvicorn[standard], doing the same nothing",
    )
    what = f"durable deliveries per second, SQLite with fsync, {CONNECTIONS} connections, unique bodies, one worker"
    value, unit = rate["one worker"], "1/s"
    return [
        row(what, value, unit, f"{bare}: {rate['bare']:,.0f}/s", value / rate["bare"], "≥ 0.50"),
        row(what, value, unit, f"{fastapi}: {rate['fastapi']:,.0f}/s", value / rate["fastapi"], "≥ 0.8"),
        row(
            "CPU of the listener per durable delivery, one worker",
            cpu["one worker"],
            "µs",
            f"{bare}: {cpu['bare']:.0f} µs",
            cpu["one worker"] / cpu["bare"] if cpu["bare"] else None,
            None,
        ),
        row(
            "CPU of the listener per durable delivery, two workers",
            cpu["two workers"],
            "µs",
            f"one worker: {cpu['one worker']:.0f} µs",
            cpu["two workers"] / cpu["one worker"] if cpu["one worker"] else None,
            "≤ 1.25",
        ),
    ]


def to_the_waiter(quick: bool) -> list[dict[str, Any]]:
    count = 100 if quick else 1_000
    with tempfile.TemporaryDirectory() as folder:
        trip, awake = asyncio.run(_awaken_here(Path(folder), count))
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder)) as (port, _, _):
        elsewhere = asyncio.run(_awaken_elsewhere(Path(folder), port, 2 * count))
    extra = (statistics.median(awake) - statistics.median(trip)) * 1e3
    return [
        row(
            "delivery in → waiter awake, beyond a bare POST's round trip, p50, one worker",
            extra,
            "ms",
            f"bare round trip: {statistics.median(trip) * 1e3:.2f} ms",
            None,
            "≤ +5 ms",
        ),
        row(
            f"delivery answered → waiter awake in another process, p99, {DELIVERIES_PER_SECOND} deliveries/s, one worker",
            percentile(elsewhere, 99) * 1e3,
            "ms",
            f"p50: {statistics.median(elsewhere) * 1e3:.1f} ms",
            None,
            "≤ 10 ms",
        ),
    ]


async def _awaken_here(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Return round trips to a server that does nothing, and times from sending to a waiter of the receiving process."""
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


async def _awaken_elsewhere(folder: Path, port: int, count: int) -> list[float]:
    """Return times from a listener's answer to a waiter on the same store in this process, at a steady rate of deliveries."""
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
                begun = loop.time()
                for number in range(count):
                    await asyncio.sleep(max(0.0, begun + number / DELIVERIES_PER_SECOND - loop.time()))
                    await _round_trip(reader, writer, request_of(number))
                    answered[uids[number]] = time.perf_counter()

            delivering = asyncio.create_task(deliver())
            heard: dict[str, float] = {}
            async for completion in stream:
                heard[completion.ref.uid] = time.perf_counter()
            await delivering
    times = [max(0.0, heard[uid] - answered[uid]) for uid in uids]
    writer.close()
    await store.aclose()
    return times


async def _round_trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    started = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 2"), head
    return time.perf_counter() - started


def among_hostile_peers(quick: bool) -> list[dict[str, Any]]:
    count = 1_000 if quick else 6_000
    options = ["--max-per-peer", "2000", "--max-connections", "2000", "--header-timeout", "3", "--body-timeout", "3"]
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder), *options) as (port, _, _):
        calm: list[float] = []
        stormy: list[float] = []
        asyncio.run(send(port, [request_of(number) for number in range(count)], connections=16))
        asyncio.run(send(port, [request_of(count + number) for number in range(count)], connections=16, times=calm))
        with hostile(port):
            asyncio.run(send(port, [request_of(2 * count + number) for number in range(count)], connections=16, times=stormy))
    before, during = percentile(calm, 99) * 1e3, percentile(stormy, 99) * 1e3
    what = f"one worker: healthy deliveries among {SLOW_PEERS} slow peers and others that send garbage, p99"
    return [row(what, during, "ms", f"undisturbed: {before:.2f} ms", during / before, "≤ 3")]


HOSTILE = """
import asyncio, sys

port, peers = int(sys.argv[1]), int(sys.argv[2])
HEAD = b"POST /webhooks/original HTTP/1.1\\r\\nHost: x"
STARTS = [HEAD, HEAD + b"\\r\\nContent-Length: 9999\\r\\n\\r\\n"]


async def slow(number):
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(STARTS[number % 2])
            while not reader.at_eof():
                writer.write(b"x")
                try:
                    await asyncio.wait_for(reader.read(1000), 1.0)
                except TimeoutError:
                    pass
            writer.close()
        except OSError:
            await asyncio.sleep(0.1)


async def garbage():
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\\x16\\x03\\x01 nothing of the kind\\r\\n\\r\\n")
        await reader.read()
        writer.close()
        await asyncio.sleep(0.01)


async def main():
    tasks = [asyncio.create_task(slow(number)) for number in range(peers)] + [asyncio.create_task(garbage())]
    await asyncio.sleep(1.0)
    print("ready", flush=True)
    await asyncio.gather(*tasks)


asyncio.run(main())
"""


@contextmanager
def hostile(port: int) -> Iterator[None]:
    """Let slow peers and a sender of garbage at a port."""
    with beside([sys.executable, "-c", HOSTILE, str(port), str(SLOW_PEERS)]):
        yield


def at_many_rows(quick: bool) -> list[dict[str, Any]]:
    rows = 50_000 if quick else MANY
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "inbox.db", rows)
        ready = statistics.median(_seconds_to_ready(folder) for _ in range(3))
        per_second = asyncio.run(_stored_per_second(folder, 5_000 if quick else 40_000))
    return [
        row(f"from the command to ready, with {rows:,} events in the inbox, one worker", ready, "s", None, None, "≤ 1 s"),
        row(
            f"deliveries stored per second at {rows:,} rows, {CONNECTIONS} at a time, one process",
            per_second,
            "1/s",
            None,
            None,
            "≥ 10,000",
        ),
    ]


def fill(path: Path, rows: int) -> None:
    """Put so many settled events into a store, with uids and identities in no order, as they come in life."""
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
    events = []
    for number in range(count):
        event = source.parse(body_of(5_000_000 + chance.randrange(10**11) + number))
        events.append(event)
    waiting = iter(events)

    async def deliver() -> None:
        for event in waiting:
            await store.accept(event)

    started = time.perf_counter()
    await asyncio.gather(*(deliver() for _ in range(CONNECTIONS)))
    elapsed = time.perf_counter() - started
    await store.aclose()
    return count / elapsed


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def row(name: str, value: float, unit: str, reference: str | None, ratio: float | None, bar: str | None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": ratio, "bar": bar}
