"""Connections of the hardened server that end early, half-closed, while draining, refused or over TLS."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from asyncio.sslproto import SSLProtocol

import attrs
import pytest
import trustme

from tests.webhooks.ingress_kit import (
    HEALTHY,
    IMPATIENT,
    SLOWEST,
    Inbox,
    close,
    read_all,
    read_answer,
    request,
    serving,
    status_of,
    until,
)
from webhooks.ingress.hardened_server import HardenedServer


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


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
        await until(lambda: running.inbox.begun)
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
        await until(lambda: running.refused)
        assert running.refused == {"broken": 1}
        await close(writer)


@pytest.mark.parametrize("count", [1, 2, 40])
async def test_a_half_closed_connection_is_answered_requests_pipelined_after_a_long_body(count: int) -> None:
    async with serving(attrs.evolve(SLOWEST, idle_seconds=900)) as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 9000\r\n") + b"x")
        await until(lambda: running.inbox.begun)
        writer.write(b"x" * 8_999 + HEALTHY * count)
        writer.write_eof()
        assert (await read_all(reader)).count(b"HTTP/1.1 200 OK\r\n") == 1 + count
        await close(writer)


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
        await until(lambda: running.inbox.begun)
        writer.write(b"zz\r\n")
        assert status_of(await read_all(reader)) == 400
        await close(writer)
        await until(lambda: running.refused)
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
    tls: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = asyncio.Event()
    receive_end = SSLProtocol.eof_received

    def noticed(self: SSLProtocol) -> None:
        receive_end(self)
        arrived.set()

    monkeypatch.setattr(SSLProtocol, "eof_received", noticed)
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
    await arrived.wait()
    inbox.go_on.set()
    await until(lambda: not hardened.open_connections)
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
