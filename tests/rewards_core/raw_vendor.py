"""A vendor made of raw sockets, which reads and answers exactly as much as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConfigurationError, VendorError

ONCE = RetryPolicy(attempts=1)


def http(body: bytes = b"{}", status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


class Vendor:
    """A raw socket server: what each connection gets is a coroutine."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.arrived = asyncio.Event()
        self.release = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *answers: bytes) -> None:
        for answer in answers:
            self.requests.append(await read_request(reader))
            self.arrived.set()
            writer.write(answer)
            await writer.drain()


@asynccontextmanager
async def vendor(
    peer: Callable[[Vendor, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], **options: Any
) -> AsyncIterator[Vendor]:
    played = Vendor()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        played.connections += 1
        try:
            await peer(played, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    scheme = "https" if "ssl" in options else "http"
    played.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield played
    finally:
        played.release.set()
        server.close()
        await asyncio.sleep(0)


async def ends(awaitable: Awaitable[Any]) -> Any:
    """Return the error that a call ends with."""
    try:
        result = await awaitable
    except (VendorError, ConfigurationError) as error:
        return error
    raise AssertionError(f"expected an error, got {result!r}")


async def reads_then_hangs_up(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    v.requests.append(await read_request(reader))


async def hangs_up_at_once(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


async def says_nothing(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    v.arrived.set()
    await v.release.wait()


async def stops_half_way(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    v.requests.append(await read_request(reader))
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()


async def talks_nonsense(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    v.requests.append(await read_request(reader))
    writer.write(b"\x00\x01 nonsense\r\n\r\n")
    await writer.drain()


async def never_answers(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    v.requests.append(await read_request(reader))
    v.arrived.set()
    await v.release.wait()


async def answers_well(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await v.answer(reader, writer, http())
