"""The hardened server over raw sockets: hostile peers are refused, and healthy ones continue."""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import pytest

from tests.webhooks.ingress_kit import HEALTHY, SLOWEST, Inbox, Running, close, read_answer, request, serving, status_of, until
from webhooks.ingress.base import Reply, StreamReply
from webhooks.ingress.hardened_server import HardenedServer


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
        await until(lambda: running.inbox.begun)
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
