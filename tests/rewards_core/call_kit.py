"""Builders for the tests of the call engine, and a vendor made of raw sockets that reads and answers as a test wants."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConfigurationError, FieldError, UnexpectedResponse, VendorError
from rewards_core.http.messages import Answer, Effect, Headers, Refusal, Request
from rewards_core.http.timeouts import Timeouts
from rewards_core.http.transport import Transport
from rewards_core.json import loads
from rewards_core.observe import CallRetried

SECRET = "canary-3f9a1c-secret"


class Credentials:
    """An authorizer whose token can be renewed once if `renewable`."""

    def __init__(self, *, renewable: bool = False) -> None:
        self.current = Headers.of({"Authorization": f"Bearer {SECRET}"})
        self.renewable = renewable
        self.renewals = 0

    async def headers(self, timeout: float) -> Headers:
        return self.current

    async def renew(self, refused: Headers, timeout: float) -> bool:
        if not self.renewable:
            return False
        self.renewals += 1
        self.current = Headers.of({"Authorization": f"Bearer {SECRET}-{self.renewals}"})
        return True

    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)


def refusal(answer: Answer) -> Refusal:
    try:
        body = loads(answer.body)
    except UnexpectedResponse:
        return Refusal()
    details = [FieldError(**detail) for detail in body.get("details", ())]
    return Refusal(message=body.get("message", ""), code=body.get("code"), details=details, invalid=bool(body.get("invalid")))


PATIENT: dict[str, Any] = {"retry": RetryPolicy(first_delay=600.0, max_delay=600.0), "timeouts": Timeouts(total=3_600.0)}
"""Options of a transport whose calls pause far longer than a test takes."""


class Pausing:
    """An observer that sets an event when a pause begins."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    def on_retry(self, record: CallRetried) -> None:
        self.begun.set()


class Watcher:
    """An observer that keeps its records."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.on_start = self.on_retry = self.on_end = self.records.append


def read_json(answer: Answer) -> Any:
    return loads(answer.body)


def request_to(transport: Transport, effect: Effect = Effect.READ, **options: Any) -> Request[Any]:
    options.setdefault("operation", "do_it")
    options.setdefault("method", "GET" if effect is Effect.READ else "POST")
    options.setdefault("url", transport.url("thing"))
    options.setdefault("read", read_json)
    options.setdefault("deadline", transport.deadline())
    if effect is not Effect.READ:
        options.setdefault("body", b'{"a":1}')
    return Request(effect=effect, **options)


def untimed(error: object) -> str:
    """Return the text of an error without seconds, ports and the name of a reset, which differ from run to run."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", re.sub(r"\d+\.\d s\b", "N s", str(error)))
    return text.replace("ClientOSError", "ServerDisconnectedError")


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
