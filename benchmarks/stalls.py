"""How long one signed delivery of 256 KiB stalls the event loop, by the content of its body.

Each delivery goes through a receiver with a handler, beside a task that runs in every turn of the loop; the value is the longest
time between two turns. The reference is one `OriginalWebhooks.parse` of the same body on the loop.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._load import headers_of
from benchmarks._processes import watched
from benchmarks._results import row
from benchmarks._servers import KEY_ID, PATH, SECRET
from original_async import OriginalWebhooks
from original_async.signature import SIGNATURE_HEADER
from webhooks import MemoryStore, Receiver, SQLiteStore
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.receiver import MAX_BODY

if TYPE_CHECKING:
    from rewards_core.operations import Event

BAR = 0.05
_BODY = (
    b'{"event":"reward.allocated","event_time":"2024-08-01T11:24:36.531141+00:00","data":{"allocation":{"uid":"300000000001",'
    b'"status":"%b","reward_uid":"112144981245","to_user_uid":"223144788242","amount":"1.23","nonce":"n",'
    b'"created_at":"2023-08-10T14:07:14.494142Z","more":%b}}}'
)


def bodies(size: int) -> Mapping[str, bytes]:
    """Return the bodies that take longest to parse, by their content."""
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
    return _BODY % (status, more)


async def longest_stall(store: Any, body: bytes) -> float:
    """Return the longest stall by a delivery and its handler."""
    receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
    handled = asyncio.Event()

    @receiver.on("*", name="stalls")
    async def handle(event: Event) -> None:
        handled.set()

    async with receiver, watched() as stalls:
        reply = await receiver.receive(headers_of(body, 0), body)
        assert reply.status == 200, reply
        await handled.wait()
    return max(stalls)


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


async def _chunked(size: int, rounds: int) -> float:
    """Return the median of the longest stalls by a body in chunks of one byte, sent to the listener's server."""
    body = _body(b'"%b"' % (b"x" * (size - 600)))
    framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    signature = headers_of(body, 0)[SIGNATURE_HEADER]
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{SIGNATURE_HEADER}: {signature}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    longest = []
    for _ in range(rounds):
        store = MemoryStore()
        receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
        server = HardenedServer({PATH: receiver})
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        async with watched() as stalls:
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
    rounds, size = (1, MAX_BODY // 16) if quick else (7, MAX_BODY)
    kib = size // 1024
    stall = asyncio.run(_chunked(size, rounds))
    name = f"longest stall, {kib} KiB in chunks of one byte, the listener's server"
    rows = [row(name, stall * 1e3, "ms", reference=f"{BAR * 1e3:.0f} ms", ratio=stall / BAR, bar="<= 1")]
    for content, body in bodies(size).items():
        memory, sqlite, parsing = asyncio.run(_measure(body, rounds))
        reference = f"{parsing * 1e3:.1f} ms to parse it on the loop"
        rows += [
            row(
                f"longest stall, {kib} KiB of {content}, {store}",
                stall * 1e3,
                "ms",
                reference=reference,
                ratio=stall / parsing,
                bar=f"<= {BAR * 1e3:.0f} ms",
            )
            for store, stall in (("memory", memory), ("SQLite", sqlite))
        ]
    return rows
