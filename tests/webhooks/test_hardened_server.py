"""The hardened server over raw sockets: hostile peers are refused, and healthy ones continue."""

from __future__ import annotations

import asyncio
import gc
import gzip
import logging
import random
import resource
import socket
import ssl
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import attrs
import pytest
import trustme

from tests.stepped_time import SteppedTime
from tests.webhooks.fakes import FakeSource
from webhooks.ingress.base import Reply, StreamReply
from webhooks.ingress.connection import Connection
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Networks
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore

HEALTHY = b"POST /hook HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello"
SLOWEST = ServerLimits(
    header_seconds=9,
    answer_seconds=9,
    idle_seconds=9,
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
        self.bodies: list[bytes] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.finished = asyncio.Event()
        self.headers: Mapping[str, str] = {}
        self.words = b"kept"
        self.fault: Exception | None = None

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
        return cast("list[Connection]", list(self.server._sweeper._open))

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
    **options: Any,
) -> AsyncIterator[Running]:
    inbox = Inbox(**options)
    hardened = HardenedServer({"/hook": inbox}, limits=limits, trusted=trusted, allowed=allowed)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0, backlog=1000)
    if send_buffer:
        listening.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    try:
        yield Running(hardened, inbox, listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        inbox.go_on.set()
        await hardened.drain(5)


@pytest.fixture(autouse=True)
def many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def until(condition: Callable[[], object]) -> None:
    """Run the loop until a condition holds."""
    while not condition():
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


async def test_the_duration_of_a_delivery_is_observed() -> None:
    seconds: list[float] = []
    inbox = Inbox()
    hardened = HardenedServer({"/hook": inbox}, limits=SLOWEST, observe=seconds.append)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0)
    running = Running(hardened, inbox, listening.sockets[0].getsockname()[1])
    assert await running.healthy() == 200
    assert len(seconds) == 1
    listening.close()
    await hardened.drain(5)


async def test_a_healthy_delivery_reaches_the_receiver_with_headers_and_bytes_unchanged() -> None:
    async with serving() as running:
        answer = await running.until_closed(request("X-Webhook-Signature: k,abc\r\nConnection: close\r\n", b'{ "a":1}\n'))
        assert status_of(answer) == 200
        assert answer.endswith(b"\r\n\r\nkept")
        assert b"x-kept: yes" in answer.lower()
        assert running.inbox.bodies == [b'{ "a":1}\n']
        assert running.inbox.headers["x-webhook-signature"] == "k,abc"


class Streaming(Inbox):
    """Answers with frames until there is nobody to read them."""

    def __init__(self) -> None:
        super().__init__()
        self.going = asyncio.Event()
        self.ended = asyncio.Event()

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        return StreamReply(status=200, headers={"Content-Type": "text/plain"}, frames=self.frames())

    async def frames(self) -> AsyncGenerator[bytes, None]:
        try:
            yield b"one"
            self.going.set()
            await self.go_on.wait()
            yield b"two"
        finally:
            self.ended.set()


@asynccontextmanager
async def streaming() -> AsyncIterator[tuple[Streaming, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve a stream whose first frame has been read."""
    inbox = Streaming()
    inbox.go_on.clear()
    hardened = HardenedServer({"/hook": inbox}, limits=SLOWEST)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", listening.sockets[0].getsockname()[1])
    writer.write(HEALTHY)
    head = await reader.readuntil(b"\r\n\r\n")
    assert status_of(head) == 200
    assert b"connection: close" in head.lower()
    assert b"content-length" not in head.lower()
    assert await reader.readexactly(3) == b"one"
    await inbox.going.wait()
    yield inbox, reader, writer
    await close(writer)
    listening.close()
    assert await hardened.drain(5)


async def test_a_stream_is_sent_frame_by_frame_and_closes_its_connection() -> None:
    async with streaming() as (inbox, reader, _):
        inbox.go_on.set()
        assert await reader.read() == b"two"
        await inbox.ended.wait()


@pytest.mark.parametrize("leave", ["close", "abort", "half"])
async def test_a_stream_ends_with_its_connection(leave: str) -> None:
    async with streaming() as (inbox, _, writer):
        {"close": writer.close, "abort": writer.transport.abort, "half": writer.write_eof}[leave]()
        await inbox.ended.wait()  # although it has nothing to send


async def test_a_connection_serves_several_deliveries() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        for _ in range(3):
            writer.write(HEALTHY)
            assert await read_answer(reader) == 200
        await close(writer)
        assert running.inbox.bodies == [b"hello"] * 3


async def test_pipelined_deliveries_are_all_answered_in_order() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(b"".join(request(body=b"%d" % number) for number in range(200)))
        assert [await read_answer(reader) for _ in range(200)] == [200] * 200
        await close(writer)
        assert running.inbox.bodies == [b"%d" % number for number in range(200)]


async def test_deliveries_pipelined_behind_a_body_in_two_pieces_are_all_answered() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 2\r\n") + b"0")
        await until(lambda: running.server._in_flight)
        writer.write(b"0" + b"".join(request(body=b"%d" % number) for number in range(1, 200)))
        assert [await read_answer(reader) for _ in range(200)] == [200] * 200
        await close(writer)
        assert running.inbox.bodies == [b"00", *(b"%d" % number for number in range(1, 200))]


async def test_a_body_whose_headers_were_pipelined_is_read() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(HEALTHY + request("Content-Length: 5\r\n"))
        assert await read_answer(reader) == 200
        writer.write(b"hello" + HEALTHY)
        assert [await read_answer(reader) for _ in range(2)] == [200, 200]
        await close(writer)
        assert running.inbox.bodies == [b"hello"] * 3


async def test_a_chunked_body_in_slow_pieces_arrives_whole() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        for piece in (request("Transfer-Encoding: chunked\r\n"), b"3\r\nhel\r\n", b"2\r\nlo\r\n", b"0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
        assert await read_answer(reader) == 200
        await close(writer)
        assert running.inbox.bodies == [b"hello"]


async def test_expect_100_continue_is_answered() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(request("Expect: 100-continue\r\nContent-Length: 5\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert await read_answer(reader) == 200
        await close(writer)


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (request(path="/other"), 404, "path"),
        (request(method="GET"), 405, "method"),
        (request(method="PUT", body=b"x"), 405, "method"),
        (request("Content-Encoding: gzip\r\n", gzip.compress(b"x", mtime=0)), 415, "encoding"),
        (request("Content-Length: 262145\r\n"), 413, "size"),
        (request(body=b"x" * 262_145), 413, "size"),
        (request("Transfer-Encoding: chunked\r\n", b"50000\r\n" + b"x" * 0x50000 + b"\r\n0\r\n\r\n"), 413, "size"),
        (request("Transfer-Encoding: chunked\r\n", b"zz\r\nhello"), 400, "malformed"),
        (request("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", b"abc"), 400, "malformed"),
        (request("Content-Length: 3\r\nContent-Length: 4\r\n", b"abc"), 400, "malformed"),
        (request("Content-Length: -1\r\n"), 400, "malformed"),
        (request("Content-Length: 99999999999999999999999\r\n"), 400, "malformed"),
        (b"POST /hook HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, 400, "malformed"),
        (b"\x00\xff\xfe garbage\r\n\r\n", 400, "malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
        (request("".join(f"X-{number}: y\r\n" for number in range(100))), 400, "malformed"),
        (request(f"X-Long: {'y' * 9000}\r\n"), 400, "malformed"),
        (request(path="/" + "x" * 9000), 400, "malformed"),
        (request("Bad Header: y\r\n"), 400, "malformed"),
    ],
)
async def test_a_hostile_request_is_refused_and_its_connection_closed(data: bytes, status: int, reason: str) -> None:
    async with serving() as running:
        answer = await running.until_closed(data)
        assert status_of(answer) == status
        assert running.refused == {reason: 1}
        assert running.inbox.bodies == []
        assert await running.healthy() == 200


async def test_a_wrong_method_gets_the_allowed_one() -> None:
    async with serving() as running:
        assert b"\r\nallow: post\r\n" in (await running.until_closed(request(method="DELETE"))).lower()


async def test_the_identity_encoding_is_accepted() -> None:
    async with serving() as running:
        assert status_of(await running.until_closed(request("Content-Encoding: identity\r\nConnection: close\r\n", b"x"))) == 200


async def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    async with serving() as running:
        assert status_of(await running.until_closed(request("Connection: close\r\n", b"x" * 262_144))) == 200


async def test_an_upgrade_is_not_followed() -> None:
    async with serving() as running:
        answer = await running.until_closed(
            request("Connection: Upgrade\r\nUpgrade: websocket\r\n", method="GET") + b"\x00" * 100
        )
        assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (405, 1)


@pytest.mark.slow
@pytest.mark.repeats_itself
async def test_500_connections_with_unfinished_headers_are_closed_and_healthy_deliveries_continue() -> None:
    limits = attrs.evolve(SLOWEST, header_seconds=2)
    async with serving(limits) as running:
        slow = [asyncio.ensure_future(running.until_closed(b"POST /hook HTTP/1.1\r\nHost: he")) for _ in range(500)]
        statuses = set()
        while not all(task.done() for task in slow):
            statuses.add(await running.healthy())
        assert statuses == {200}
        assert {status_of(await task) for task in slow} == {408}
        assert running.refused == {"header_timeout": 500}


@pytest.mark.slow
@pytest.mark.repeats_itself
async def test_500_connections_with_unfinished_bodies_are_closed_and_healthy_deliveries_continue() -> None:
    async with serving(body_timeout=0.5) as running:
        slow = [asyncio.ensure_future(running.until_closed(request("Content-Length: 100\r\n") + b"x")) for _ in range(500)]
        statuses = set()
        while not all(task.done() for task in slow):
            statuses.add(await running.healthy())
        assert statuses == {200}
        assert {status_of(await task) for task in slow} == {408}
        assert running.refused == {"slow": 500}


@pytest.mark.parametrize("start", [b"POST /hook HTTP/1.1\r\nX: ", request("Content-Length: 100000\r\n")])
async def test_a_byte_now_and_then_does_not_extend_a_timeout(start: bytes) -> None:
    async with serving(attrs.evolve(SLOWEST, header_seconds=0.3), body_timeout=0.3) as running:
        reader, writer = await running.connect()
        writer.write(start)
        answer = asyncio.ensure_future(read_all(reader))
        while not answer.done():
            writer.write(b"y")
            await asyncio.wait([answer], timeout=0.02)
        assert status_of(await answer) == 408
        await close(writer)


async def test_a_silent_peer_is_closed_without_an_answer() -> None:
    async with serving(attrs.evolve(SLOWEST, header_seconds=0.2)) as running:
        assert await running.until_closed(b"") == b""
        assert running.refused == {}


async def test_a_connection_idle_after_its_delivery_is_closed() -> None:
    async with serving(attrs.evolve(SLOWEST, idle_seconds=0.2)) as running:
        assert status_of(await running.until_closed(HEALTHY)) == 200


PROXIES = {"nginx": 60, "AWS ALB": 60, "Apache Traffic Server": 120, "caddy": 120, "GCP": 600, "Cloudflare": 900}
"""Default idle timeouts of connections to a backend, in seconds."""


def test_the_idle_timeout_exceeds_that_of_common_proxies() -> None:
    assert ServerLimits().idle_seconds > max(PROXIES.values())


@pytest.mark.parametrize(
    ("limits", "silence"), [(ServerLimits(), max(PROXIES.values())), (ServerLimits(idle_seconds=7_200), 7_000)]
)
async def test_a_connection_can_be_used_after_the_longest_idle_time_of_a_proxy(
    limits: ServerLimits, silence: float, stepped_time: SteppedTime
) -> None:
    async with serving(limits) as running:
        reader, writer = await running.connect()
        for _ in range(3):
            writer.write(HEALTHY)
            assert await read_answer(reader) == 200
            stepped_time.at += silence
            running.server._sweeper._sweep()
            for _ in range(3):  # timers that are due run
                await asyncio.sleep(0)
        await close(writer)


async def test_endless_headers_are_refused_at_their_size() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(b"POST /hook HTTP/1.1\r\nHost: here\r\n")
        answer = asyncio.ensure_future(read_all(reader))
        number = 0
        while not answer.done():
            number += 1
            writer.write(b"X-%d: %s\r\n" % (number, b"y" * 4000))
            await asyncio.wait([answer], timeout=0.001)
        assert status_of(await answer) == 431
        assert running.refused == {"headers_too_large": 1}
        await close(writer)


async def test_an_endless_body_is_refused_closed_and_takes_no_memory() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        answer = asyncio.ensure_future(read_all(reader))
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        tracemalloc.start()
        try:
            writer.write(request("Transfer-Encoding: chunked\r\n"))
            while not answer.done():
                writer.write(chunk)
                try:
                    await writer.drain()
                except ConnectionError:
                    break
            assert status_of(await answer) == 413
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await close(writer)
        assert peak < 4_000_000
        assert running.refused == {"size": 1}


@pytest.mark.slow
async def test_a_gzip_bomb_is_never_decompressed() -> None:
    bomb = gzip.compress(b"\x00" * 50_000_000)
    async with serving() as running:
        tracemalloc.start()
        try:
            assert status_of(await running.until_closed(request("Content-Encoding: gzip\r\n", bomb))) == 415
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4_000_000


async def test_a_peer_that_reads_no_answers_is_aborted() -> None:
    async with serving(IMPATIENT) as running:
        running.inbox.words = b"k" * 50_000
        reader, writer = await running.connect(receive_buffer=4_096)
        cast("asyncio.Transport", writer.transport).pause_reading()
        while running.server.open_connections:
            writer.write(HEALTHY * 1000)
            try:
                await asyncio.wait_for(writer.drain(), 0.05)
            except TimeoutError:
                pass
            except ConnectionError:
                break
        assert running.refused["answer_timeout"] == 1
        assert await running.healthy() == 200
        writer.transport.abort()
        del reader


@pytest.mark.slow
async def test_a_peer_that_sends_faster_than_it_is_answered_is_not_read_faster() -> None:
    async with serving() as running:
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", running.port))
        await loop.sock_sendall(client, request("Content-Length: 2\r\n") + b"0")
        await until(lambda: running.server._in_flight)
        await loop.sock_sendall(client, b"0")
        sent = held = 0
        while len(running.inbox.bodies) < 6_000:
            with suppress(BlockingIOError):
                client.recv(1_000_000)
            with suppress(BlockingIOError):
                sent += client.send((HEALTHY * 1_000)[sent % len(HEALTHY) :])
            held = max(held, sent - len(running.inbox.bodies) * len(HEALTHY))
            await asyncio.sleep(0)
        client.close()
        await until(lambda: not running.server.open_connections)
        assert held < 1_000_000


@pytest.mark.slow
async def test_random_bytes_never_get_a_server_error() -> None:
    chance = random.Random(20240229)
    alphabet = [
        b"POST ",
        b"/hook",
        b" HTTP/1.1",
        b"\r\n",
        b"\r\n\r\n",
        b"Host: x",
        b"Content-Length: ",
        b"5",
        b"chunked",
        b":",
        b" ",
        b"\x00",
    ]
    async with serving(attrs.evolve(SLOWEST, header_seconds=0.1, idle_seconds=0.1), body_timeout=0.1) as running:

        async def attack(data: bytes) -> int:
            return status_of(await running.until_closed(data))

        blobs = [
            b"".join(chance.choice([*alphabet, chance.randbytes(9)]) for _ in range(chance.randint(1, 30))) for _ in range(400)
        ]
        statuses = await asyncio.gather(*(attack(blob) for blob in blobs))
        assert set(statuses) <= {0, 400, 404, 405, 408}
        assert await running.healthy() == 200


async def test_hostile_requests_leave_one_log_line_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as running:
        with caplog.at_level(logging.DEBUG):
            for _ in range(20):
                await running.until_closed(b"\x16\x03\x01 secret-looking garbage\r\n\r\n")
                await running.until_closed(request("Transfer-Encoding: chunked\r\n", b"zz\r\n"))
    lines = [record for record in caplog.records if not record.name.startswith("asyncio")]
    assert [record.levelname for record in lines] == ["WARNING"]
    assert all(record.exc_info is None for record in caplog.records)
    assert "secret-looking" not in caplog.text


async def test_a_bug_is_answered_500_with_its_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as running:
        running.inbox.fault = RuntimeError("a bug")
        assert status_of(await running.until_closed(HEALTHY)) == 500
    assert "a bug" in caplog.text


async def test_a_disconnect_does_not_cancel_the_handler() -> None:
    async with serving(IMPATIENT) as running:
        running.inbox.go_on.clear()
        _, writer = await running.connect()
        writer.write(HEALTHY)
        await running.inbox.entered.wait()
        writer.transport.abort()
        await until(lambda: not running.server.open_connections)
        running.inbox.go_on.set()
        await running.inbox.finished.wait()
        assert running.inbox.bodies == [b"hello"]


async def test_abandoned_requests_are_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with serving(IMPATIENT) as running:
            running.inbox.go_on.clear()
            _, writer = await running.connect()
            writer.write(HEALTHY * 5)
            await running.inbox.entered.wait()
            writer.transport.abort()
            await until(lambda: not running.server.open_connections)
            running.inbox.go_on.set()
            await running.inbox.finished.wait()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [each for each in gc.garbage if type(each).__module__.startswith(("webhooks.", "aiohttp."))] == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


class Choosy(FakeSource):
    """A source that rejects unknown keys by the headers."""

    def admits(self, headers: Mapping[str, str]) -> bool:
        return "x-fake-signature" in headers


@pytest.mark.parametrize("framing", ["Content-Length: 200000", "Transfer-Encoding: chunked"])
async def test_an_unadmitted_request_is_refused_and_closed_before_its_body(framing: str) -> None:
    async with serving(source=Choosy()) as running:
        answer = await running.until_closed(f"POST /hook HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n1".encode())
        assert status_of(answer) == 401
        assert b"\r\nConnection: close\r\n" in answer
        assert running.refused["missing"] == 1


async def test_a_disconnect_inside_a_body_delivers_nothing() -> None:
    async with serving() as running:
        _, writer = await running.connect()
        writer.write(request("Content-Length: 10\r\n") + b"hel")
        await writer.drain()
        await until(lambda: running.server._in_flight)
        writer.transport.abort()
        await until(lambda: not running.server._in_flight)
        assert running.inbox.bodies == []
        assert running.refused == {"broken": 1}


async def test_one_peer_cannot_exceed_its_quota_and_others_continue() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=3)) as running:
        held = [await running.connect("127.0.0.9") for _ in range(5)]
        await until(lambda: running.refused.get("evicted") == 2)
        assert [status_of(await read_all(reader)) for reader, _ in held[:2]] == [429, 429]
        assert running.server.open_connections == 3
        assert await running.healthy("127.0.0.1") == 200
        for _, writer in held:
            await close(writer)
        await until(lambda: not running.server.open_connections)
        assert await running.healthy("127.0.0.9") == 200
        assert running.refused == {"evicted": 2}


async def test_an_idle_connection_is_evicted_without_a_response_that_would_answer_its_next_request() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=1)) as running:
        reader, writer = await running.connect()
        writer.write(HEALTHY)
        assert await read_answer(reader) == 200
        assert await running.healthy() == 200
        assert await read_all(reader) == b""
        await close(writer)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_half_closed_connection_gets_all_its_answers_and_is_closed(count: int) -> None:
    async with serving(attrs.evolve(SLOWEST, idle_seconds=900)) as running:
        running.inbox.go_on.clear()
        reader, writer = await running.connect()
        writer.write(HEALTHY * count)
        writer.write_eof()
        await running.inbox.entered.wait()
        running.inbox.go_on.set()
        assert (await read_all(reader)).count(b"HTTP/1.1 200 OK\r\n") == count
        assert len(running.inbox.bodies) == count
        await close(writer)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_half_closed_connection_is_answered_even_if_its_body_came_after_the_headers(chunked: bool) -> None:
    head, body = "Content-Length: 5\r\n", b"hello"
    if chunked:
        head, body = "Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(request(head))
        await until(lambda: running.server._body_memory._held)
        writer.write(body)
        writer.write_eof()
        assert status_of(await read_all(reader)) == 200
        assert running.inbox.bodies == [b"hello"]
        await close(writer)


async def test_a_connection_half_closed_inside_a_body_is_closed_at_once() -> None:
    async with serving(body_timeout=900) as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 5\r\n") + b"hel")
        writer.write_eof()
        assert await read_all(reader) == b""
        await until(lambda: not running.server._in_flight)
        assert running.refused == {"broken": 1}
        await close(writer)


@pytest.mark.parametrize("count", [1, 2, 40])
async def test_a_half_closed_connection_is_answered_requests_pipelined_after_a_long_body(count: int) -> None:
    async with serving(attrs.evolve(SLOWEST, idle_seconds=900)) as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 9000\r\n") + b"x")
        await until(lambda: running.server._body_memory._held)
        writer.write(b"x" * 8_999 + HEALTHY * count)
        writer.write_eof()
        assert (await read_all(reader)).count(b"HTTP/1.1 200 OK\r\n") == 1 + count
        await close(writer)


async def test_a_refused_body_that_was_pipelined_is_read_to_its_end() -> None:
    async with serving(max_body=10) as running:
        running.inbox.go_on.clear()
        reader, writer = await running.connect()
        writer.write(HEALTHY)
        await running.inbox.entered.wait()
        writer.write(request("Content-Length: 300000\r\n") + b"x" * 300_000)
        await until(lambda: any(connection.pipelined for connection in running.connections))
        running.inbox.go_on.set()
        assert await read_answer(reader) == 200
        assert status_of(await reader.read()) == 413
        await close(writer)


async def test_when_all_slots_are_taken_a_connection_without_a_request_is_evicted() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=5)) as running:
        held = [await running.connect() for _ in range(5)]
        for _, writer in held:
            writer.write(b"POST /ho")
        assert await running.healthy() == 200
        assert running.refused["evicted"] == 1
        for _, writer in held:
            await close(writer)


async def test_when_all_slots_are_taken_by_requests_a_newcomer_is_refused() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=2)) as running:
        running.inbox.go_on.clear()
        busy = [asyncio.ensure_future(running.healthy()) for _ in range(2)]
        await until(lambda: running.server._in_flight >= 2)
        assert status_of(await running.until_closed(HEALTHY)) == 429
        running.inbox.go_on.set()
        assert await asyncio.gather(*busy) == [200, 200]
        assert running.refused == {"connections": 1}


async def test_an_address_that_is_not_allowed_is_refused_before_a_byte_is_read() -> None:
    async with serving(allowed=Networks(["127.0.0.2/32"])) as running:
        assert status_of(await running.until_closed(b"", "127.0.0.1")) == 403
        assert await running.healthy("127.0.0.2") == 200
        assert running.refused == {"address": 1}


async def test_behind_a_trusted_proxy_the_forwarded_address_must_be_allowed() -> None:
    async with serving(trusted=Networks(["127.0.0.2"]), allowed=Networks(["203.0.113.0/24"])) as running:

        async def forwarded(address: str, source: str = "127.0.0.2") -> int:
            data = request(f"X-Forwarded-For: {address}\r\nConnection: close\r\n", b"x")
            return status_of(await running.until_closed(data, source))

        assert await forwarded("203.0.113.7") == 200
        assert await forwarded("203.0.113.7, 198.51.100.1") == 403
        assert await forwarded("nonsense") == 403
        assert await forwarded("203.0.113.7", "127.0.0.1") == 403
        assert running.refused == {"address": 3}


async def test_a_trusted_proxy_may_hold_many_connections_but_one_client_behind_it_only_its_quota() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=2), trusted=Networks(["127.0.0.2"])) as running:

        async def forwarded(address: str) -> int:
            data = request(f"X-Forwarded-For: {address}\r\nConnection: close\r\n", b"x")
            return status_of(await running.until_closed(data, "127.0.0.2"))

        running.inbox.go_on.clear()
        greedy = [asyncio.ensure_future(forwarded("203.0.113.7")) for _ in range(2)]
        await until(lambda: running.server._in_flight >= 2)
        assert await forwarded("203.0.113.7") == 429
        modest = asyncio.ensure_future(forwarded("203.0.113.8"))
        await until(lambda: running.server._in_flight >= 3)
        running.inbox.go_on.set()
        assert await asyncio.gather(*greedy, modest) == [200] * 3
        assert await forwarded("203.0.113.7") == 200
        assert await forwarded("unknown") == 200
        assert await running.healthy("127.0.0.3") == 200


async def test_a_trusted_proxy_that_forwards_no_address_has_no_quota() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=1), trusted=Networks(["127.0.0.1"])) as running:
        running.inbox.go_on.clear()
        busy = [asyncio.ensure_future(running.healthy()) for _ in range(3)]
        await until(lambda: running.server._in_flight >= 3 or running.refused)
        running.inbox.go_on.set()
        assert await asyncio.gather(*busy) == [200, 200, 200]


async def test_draining_answers_requests_in_progress_and_new_ones_on_open_connections() -> None:
    async with serving(attrs.evolve(SLOWEST, drain_grace_seconds=1)) as running:
        running.inbox.go_on.clear()
        under_way = asyncio.ensure_future(running.until_closed(HEALTHY))
        await running.inbox.entered.wait()
        reader, writer = await running.connect()
        drained = asyncio.ensure_future(running.server.drain(20))
        await until(lambda: running.server.draining)
        writer.write(HEALTHY)
        running.inbox.go_on.set()
        answers = [await under_way, await read_all(reader)]
        assert [status_of(answer) for answer in answers] == [200, 200]
        assert all(b"\r\nconnection: close\r\n" in answer.lower() for answer in answers)
        assert await drained
        assert running.server.open_connections == 0
        await close(writer)


async def test_draining_closes_idle_connections_after_the_grace() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(HEALTHY)
        assert await read_answer(reader) == 200
        assert await running.server.drain(20)
        assert await read_all(reader) == b""
        await close(writer)


@pytest.mark.slow
async def test_draining_ends_at_its_timeout_and_acknowledges_nothing_it_aborts() -> None:
    async with serving() as running:
        running.inbox.go_on.clear()
        stuck = asyncio.ensure_future(running.until_closed(HEALTHY))
        await running.inbox.entered.wait()
        assert not await running.server.drain(0.1)
        assert await stuck == b""
        assert running.inbox.bodies == []


async def test_a_body_that_becomes_malformed_is_refused_at_once() -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(request("Transfer-Encoding: chunked\r\n") + b"3\r\nhel\r\n")
        await until(lambda: running.server._in_flight)
        writer.write(b"zz\r\n")
        assert status_of(await read_all(reader)) == 400
        await close(writer)
        await until(lambda: not running.server._in_flight)
        assert running.refused == {"broken": 1}
        assert running.inbox.bodies == []


async def test_a_small_chunked_body_is_measured_too() -> None:
    async with serving(max_body=1000) as running:
        data = request("Transfer-Encoding: chunked\r\n", b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n")
        assert status_of(await running.until_closed(data)) == 413


@pytest.mark.slow
async def test_a_refused_peer_that_does_not_read_its_refusal_is_aborted() -> None:
    async with serving(send_buffer=4096) as running:
        running.inbox.words = b"x" * 16_000
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", running.port))
        await asyncio.get_running_loop().sock_sendall(client, HEALTHY)
        await running.inbox.finished.wait()
        await asyncio.get_running_loop().sock_sendall(client, b"garbage\r\n\r\n")
        await until(lambda: running.refused)
        await until(lambda: not running.server.open_connections)
        client.close()
        assert running.refused == {"malformed": 1}


async def test_a_refused_peer_that_disconnects_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 262145\r\n"))
        assert await read_answer(reader) == 413
        writer.transport.abort()
        await until(lambda: not running.server.open_connections)
        await until(lambda: not running.server.connections)
        assert running.refused == {"size": 1}
    assert all(record.exc_info is None for record in caplog.records)


async def test_over_tls_deliveries_arrive_and_plain_bytes_are_dropped(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    inbox = Inbox()
    hardened = HardenedServer({"/hook": inbox}, limits=SLOWEST)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0, ssl=tls[0])
    port = listening.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEALTHY)
    assert b"HTTP" not in await read_all(reader)
    await close(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls[1], server_hostname="localhost")
    writer.write(HEALTHY)
    assert await read_answer(reader) == 200
    await close(writer)
    listening.close()
    await hardened.drain(5)


@pytest.mark.slow
async def test_over_tls_a_peer_that_leaves_while_reading_is_paused_is_removed(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    inbox.go_on.clear()
    hardened = HardenedServer({"/hook": inbox}, limits=SLOWEST)
    listening = await asyncio.get_running_loop().create_server(hardened, "127.0.0.1", 0, ssl=tls[0])
    port = listening.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls[1], server_hostname="localhost")
    writer.write(HEALTHY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    await inbox.entered.wait()
    writer.write(HEALTHY)  # it is read from no further until the first is answered
    writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.1)  # for the end to arrive, which asyncio keeps to itself
    inbox.go_on.set()
    while hardened.open_connections:
        await asyncio.sleep(0.01)
    assert [record for record in caplog.records if record.exc_info] == []
    writer.transport.abort()
    await asyncio.sleep(0)
    listening.close()
    await hardened.drain(5)


async def test_a_refused_peer_that_disconnects_with_its_last_bytes_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 262145\r\n"))
        assert await read_answer(reader) == 413
        (connection,) = running.server.connections
        connection.data_received(b"x")  # as a TLS connection does with what came in one piece
        connection.eof_received()
        await until(lambda: not running.server.connections)
        await close(writer)
    assert [record for record in caplog.records if record.exc_info] == []
