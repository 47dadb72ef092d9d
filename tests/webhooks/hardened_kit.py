"""A hardened server with an inbox, and peers that talk to it over raw sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import attrs

from tests.webhooks.fakes import FakeSource
from webhooks.ingress.base import Reply
from webhooks.ingress.connection import Connection
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Networks
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore

HEALTHY = b"POST /hook HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello"
SLOWEST = ServerLimits(
    header_seconds=3_600,
    answer_seconds=3_600,
    idle_seconds=3_600,
    linger_seconds=0.2,
    drain_grace_seconds=0.2,
    connections=2000,
    connections_per_peer=2000,
)
IMPATIENT = attrs.evolve(SLOWEST, answer_seconds=0.3)
"""A peer that left is noticed so soon, because nothing is read from a connection while its request is being answered."""


class Inbox(Receiver):
    """A receiver that can be held up."""

    def __init__(self, **options: Any) -> None:
        super().__init__(options.pop("source", None) or FakeSource(), MemoryStore(), **options)
        self.begun = 0
        self.bodies: list[bytes] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.finished = asyncio.Event()
        self.headers: Mapping[str, str] = {}
        self.words = b"kept"
        self.fault: Exception | None = None

    def refusal(self, *request: Any, **more: Any) -> Reply | None:
        refused = super().refusal(*request, **more)
        self.begun += refused is None
        return refused

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        if len(body) > self.max_body:
            return self.refuse("size", peer)
        self.entered.set()
        await self.go_on.wait()
        if self.fault is not None:
            raise self.fault
        self.headers = headers
        self.bodies.append(body)
        self.finished.set()
        return Reply(status=200, headers={"X-Kept": "yes"}, body=self.words)


class Running:
    """A server on a loopback port, with raw clients."""

    def __init__(self, server: HardenedServer, inbox: Inbox, port: int) -> None:
        self.server = server
        self.inbox = inbox
        self.port = port

    async def connect(
        self, source: str = "127.0.0.1", *, receive_buffer: int | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        client = socket.socket()
        if receive_buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.setblocking(False)
        client.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        return await asyncio.open_connection(sock=client)

    async def until_closed(self, data: bytes, source: str = "127.0.0.1") -> bytes:
        """Send bytes, and return everything received until the server closes."""
        reader, writer = await self.connect(source)
        try:
            writer.write(data)
            return await read_all(reader)
        finally:
            await close(writer)

    async def healthy(self, source: str = "127.0.0.1") -> int:
        """Make one healthy delivery and return its status."""
        return status_of(await self.until_closed(HEALTHY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), source))

    @property
    def connections(self) -> list[Connection]:
        return cast("list[Connection]", self.server.connections)

    @property
    def refused(self) -> Mapping[str, int]:
        return {**self.server.refusals.total, **self.inbox.statistics.rejected}


@asynccontextmanager
async def serving(
    limits: ServerLimits = SLOWEST,
    *,
    trusted: Networks | None = None,
    allowed: Networks | None = None,
    send_buffer: int = 0,
    others: Mapping[str, Receiver] = {},
    **options: Any,
) -> AsyncIterator[Running]:
    inbox = Inbox(**options)
    hardened = HardenedServer({"/hook": inbox, **others}, limits=limits, trusted=trusted, allowed=allowed)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0, backlog=1000)
    if send_buffer:
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    try:
        yield Running(hardened, inbox, listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        inbox.go_on.set()
        await hardened.drain(5)


async def until(condition: Callable[[], object]) -> None:
    """Run the loop until a condition holds."""
    while not condition():
        await asyncio.sleep(0)


async def turns() -> None:
    """Run all tasks as far as possible, and the timers that are due."""
    for _ in range(20):
        await asyncio.sleep(0)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Read to the end; a reset counts as the end."""
    data = b""
    try:
        while block := await reader.read(65536):
            data += block
    except ConnectionError:
        pass
    return data


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Read one response of a connection that stays open, and return its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return status_of(head)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def status_of(answer: bytes) -> int:
    """Return the status of a response; 0 if the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def request(head: str = "", body: bytes = b"", method: str = "POST", path: str = "/hook") -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nHost: here\r\n{head}"
    if body and "content-length" not in head.lower() and "transfer-encoding" not in head.lower():
        lines += f"Content-Length: {len(body)}\r\n"
    return lines.encode() + b"\r\n" + body
