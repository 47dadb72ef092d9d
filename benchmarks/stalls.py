"""How long one signed delivery keeps the loop from everything else, by what its 256 KiB hold.

Each delivery goes through a receiver whose handler reads it, beside a task that goes through the loop as often as it can; the
value is the longest time that task had to wait. The reference is the same body read on the loop: `OriginalWebhooks.parse` once.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._load import headers_of
from benchmarks._servers import KEY_ID, PATH, SECRET
from original_async import OriginalWebhooks
from original_async.signature import SIGNATURE_HEADER
from webhooks import MemoryStore, Receiver, SQLiteStore
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.receiver import MAX_BODY

if TYPE_CHECKING:
    from rewards_core.operations import Event

BAR = 0.05
_WORDS = (
    b'{"event":"reward.allocated","event_time":"2024-08-01T11:24:36.531141+00:00","data":{"allocation":{"uid":"300000000001",'
    b'"status":"%b","reward_uid":"112144981245","to_user_uid":"223144788242","amount":"1.23","nonce":"n",'
    b'"created_at":"2023-08-10T14:07:14.494142Z","more":%b}}}'
)


def bodies(size: int) -> Mapping[str, bytes]:
    """Return the bodies that take longest to read, by what they are full of."""
    floats = _full(b"0.1", size)
    return {
        "fractions": _body(floats),
        "fractions of a pending operation": _body(floats, status=b"pending"),
        "fractions in objects": _body(_full(b'{"a":{"b":0.1}}', size)),
        "look-alikes of kept numbers": _body(_full(b'{"$decimal":1}', size)),
        "empty lists": _body(_full(b"[]", size)),
        "empty objects": _body(_full(b"{}", size)),
        "whole numbers of 4,300 digits": _body(_full(b"9" * 4_300, size)),
        "keys": _body(b"{%b}" % b",".join(b'"%06x":0.1' % number for number in range((size - 600) // 13))),
    }


def _full(item: bytes, size: int) -> bytes:
    return b"[%b]" % b",".join([item] * ((size - 600) // (len(item) + 1)))


def _body(more: bytes, status: bytes = b"done") -> bytes:
    return _WORDS % (status, more)


async def longest_stall(store: Any, body: bytes) -> float:
    """Return the longest time for which a delivery and its handler kept the loop from a task beside them."""
    receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
    handled = asyncio.Event()

    @receiver.on("*", name="stalls")
    async def handle(event: Event) -> None:
        handled.set()

    async with receiver, _watched() as stalls:
        reply = await receiver.receive(headers_of(body, 0), body)
        assert reply.status == 200, reply
        await handled.wait()
    return max(stalls)


@asynccontextmanager
async def _watched() -> AsyncIterator[list[float]]:
    stalls: list[float] = []
    over = False

    async def watch() -> None:
        last = time.perf_counter()
        while not over:
            await asyncio.sleep(0)
            now = time.perf_counter()
            stalls.append(now - last)
            last = now

    gc.collect()
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield stalls
    finally:
        over = True
        await watching


async def _measure(body: bytes, rounds: int) -> tuple[float, float, float]:
    memory, sqlite, parsing = [], [], []
    for _ in range(rounds):
        store = MemoryStore()
        memory.append(await longest_stall(store, body))
        await store.aclose()
        with tempfile.TemporaryDirectory() as folder:
            on_disk = SQLiteStore(Path(folder) / "inbox.db")
            sqlite.append(await longest_stall(on_disk, body))
            await on_disk.aclose()
        started = time.perf_counter()
        OriginalWebhooks({KEY_ID: SECRET}).parse(body)
        parsing.append(time.perf_counter() - started)
    return sorted(memory)[rounds // 2], sorted(sqlite)[rounds // 2], sorted(parsing)[rounds // 2]


async def _chunked(rounds: int) -> float:
    """Return the median of the longest stalls by a body in chunks of one byte, before the listener's own server."""
    body = _body(b'"%b"' % (b"x" * (MAX_BODY - 600)))
    framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    signature = headers_of(body, 0)[SIGNATURE_HEADER]
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{SIGNATURE_HEADER}: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    longest = []
    for _ in range(rounds):
        store = MemoryStore()
        receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
        server = HardenedServer({PATH: receiver})
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        async with _watched() as stalls:
            status = await asyncio.to_thread(_send, listening.sockets[0].getsockname()[1], head + framed)
            assert status == 200, status
        longest.append(max(stalls))
        listening.close()
        await server.drain(1.0)
        await store.aclose()
    return sorted(longest)[rounds // 2]


def _send(port: int, data: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(data)
        return int(connection.recv(1_000).split(b" ")[1])


def run(quick: bool) -> list[dict[str, Any]]:
    """Return the median of the longest stalls for each body and store, and for a body in chunks of one byte."""
    rounds = 1 if quick else 7
    rows: list[dict[str, Any]] = [
        {
            "name": "longest stall, 256 KiB in chunks of one byte, the listener's server",
            "value": (stall := asyncio.run(_chunked(rounds))) * 1e3,
            "unit": "ms",
            "reference": f"{BAR * 1e3:.0f} ms",
            "ratio": stall / BAR,
            "bar": "<= 1",
        }
    ]
    for full_of, body in bodies(MAX_BODY).items():
        memory, sqlite, parsing = asyncio.run(_measure(body, rounds))
        for name, stall in (("memory", memory), ("SQLite", sqlite)):
            rows.append(
                {
                    "name": f"longest stall, 256 KiB of {full_of}, {name}",
                    "value": stall * 1e3,
                    "unit": "ms",
                    "reference": f"{parsing * 1e3:.1f} ms to read it on the loop",
                    "ratio": stall / parsing,
                    "bar": f"<= {BAR * 1e3:.0f} ms",
                }
            )
    return rows
