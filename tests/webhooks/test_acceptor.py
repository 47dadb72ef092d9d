"""The acceptor: peers that never finish a TLS handshake hold nothing that others need."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trustme

from tests.texts import said
from webhooks.ingress.acceptor import Acceptor
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Networks

LIMITS = ServerLimits(header_seconds=9, linger_seconds=0.1, drain_grace_seconds=0.1)
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class Running:
    """An acceptor on a loopback port, with clients."""

    def __init__(self, acceptor: Acceptor, hardened: HardenedServer, port: int, client: ssl.SSLContext) -> None:
        self.acceptor = acceptor
        self.hardened = hardened
        self.port = port
        self.client = client

    async def silent(self, source: str = "127.0.0.1") -> Pair:
        """Connect, and send nothing."""
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))

    async def opened(self, source: str = "127.0.0.1") -> Pair:
        """Complete a handshake, and send nothing else."""
        return await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), ssl=self.client, server_hostname="localhost"
        )

    async def status(self, source: str = "127.0.0.1") -> int:
        """Return the status of a request over TLS."""
        reader, writer = await self.opened(source)
        writer.write(REQUEST)
        answer = await reader.read()
        await close(writer)
        return int(answer.split(b" ", 2)[1])

    async def at_it(self, number: int) -> None:
        """Wait until this many handshakes are in progress."""
        while handshakes() != number:
            await asyncio.sleep(0)


def handshakes() -> int:
    """Return how many handshakes are in progress."""
    return sum(task.get_name() == "TLS handshake" for task in asyncio.all_tasks())


@asynccontextmanager
async def serving(
    contexts: tuple[ssl.SSLContext | None, ssl.SSLContext],
    limits: ServerLimits = LIMITS,
    listening: socket.socket | None = None,
    **options: Any,
) -> AsyncIterator[Running]:
    hardened = HardenedServer({}, limits=limits)
    acceptor = Acceptor(hardened, contexts[0], limits=limits, refusals=hardened.refusals, **options)
    listening = socket.socket() if listening is None else listening
    listening.bind(("127.0.0.1", 0))
    listening.listen(100)
    listening.setblocking(False)
    acceptor.open([listening])
    try:
        yield Running(acceptor, hardened, listening.getsockname()[1], contexts[1])
    finally:
        await acceptor.aclose()
        await hardened.drain(5)


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def ended(pair: Pair) -> bool:
    """Wait until the server has closed the connection."""
    with suppress(ConnectionError):
        assert b"HTTP" not in await pair[0].read()
    await close(pair[1])
    return True


async def test_a_tls_connection_is_served(contexts: Any) -> None:
    async with serving(contexts) as running:
        assert await running.status() == 404
        assert await asyncio.gather(*(running.status() for _ in range(20))) == [404] * 20
        await running.at_it(0)


async def test_a_peer_beyond_its_quota_of_handshakes_loses_its_oldest_one(contexts: Any) -> None:
    async with serving(contexts, attrs.evolve(LIMITS, connections_per_peer=3)) as running:
        other = await running.silent("127.0.0.8")
        await running.at_it(1)
        held = [await running.silent("127.0.0.9") for _ in range(3)]
        await running.at_it(4)
        assert await running.status("127.0.0.9") == 404
        assert await ended(held[0])
        await running.at_it(3)
        assert await running.status("127.0.0.1") == 404
        for _, writer in (other, *held[1:]):
            await close(writer)
        assert running.hardened.refusals.total["handshakes_per_peer"] == 1


async def test_beyond_the_limit_of_handshakes_the_oldest_is_evicted_and_connections_stay_open(contexts: Any) -> None:
    async with serving(contexts, attrs.evolve(LIMITS, handshakes=3)) as running:
        opened = [await running.opened() for _ in range(5)]
        held = [await running.silent(f"127.0.0.{number}") for number in range(2, 5)]
        await running.at_it(3)
        assert await running.status() == 404
        assert running.hardened.refusals.total["evicted"] == 1
        (evicted,) = [each for each in running.hardened.refusals.newest_first() if each.reason == "evicted"]
        assert evicted.peer == "127.0.0.2"
        assert await ended(held[0])
        assert running.hardened.open_connections == 5
        for _, writer in (*held[1:], *opened):
            await close(writer)


async def test_beyond_the_limit_of_handshakes_a_peer_with_many_loses_one_before_a_peer_with_few(contexts: Any) -> None:
    async with serving(contexts, attrs.evolve(LIMITS, handshakes=3)) as running:
        alone = await running.silent("127.0.0.2")
        await running.at_it(1)
        many = [await running.silent("127.0.0.3") for _ in range(2)]
        await running.at_it(3)
        assert await running.status() == 404
        (evicted,) = [each for each in running.hardened.refusals.newest_first() if each.reason == "evicted"]
        assert evicted.peer == "127.0.0.3"
        assert await ended(many[0])
        for _, writer in (alone, many[1]):
            await close(writer)


async def test_a_trusted_proxy_has_no_quota(contexts: Any) -> None:
    async with serving(contexts, attrs.evolve(LIMITS, connections_per_peer=1), trusted=Networks(["127.0.0.1"])) as running:
        held = [await running.silent() for _ in range(3)]
        await running.at_it(3)
        for _, writer in held:
            await close(writer)


async def test_a_handshake_times_out(contexts: Any) -> None:
    async with serving(contexts, attrs.evolve(LIMITS, header_seconds=0.05)) as running:
        assert await ended(await running.silent())
        assert running.hardened.refusals.total["handshake"] == 1


async def test_bytes_other_than_tls_are_dropped_without_an_answer(contexts: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(contexts) as running:
        reader, writer = await running.silent()
        writer.write(REQUEST)
        assert await ended((reader, writer))
    assert all(record.exc_info is None for record in caplog.records)


async def test_closing_cancels_handshakes(contexts: Any) -> None:
    async with serving(contexts) as running:
        held = [await running.silent() for _ in range(3)]
        await running.at_it(3)
        await running.acceptor.close()
        assert handshakes() == 3
        with pytest.raises(ConnectionRefusedError):
            await running.silent()
        await running.acceptor.aclose()
        await running.acceptor.aclose()
        assert [await ended(pair) for pair in held] == [True] * 3


class Troubled(socket.socket):
    """A listening socket that cannot accept at first."""

    troubles: list[OSError]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.troubles:
            raise self.troubles.pop(0)
        return super().accept()


@pytest.mark.slow
async def test_after_an_error_it_pauses_and_resumes(contexts: Any, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    listening = Troubled()
    trouble = OSError(errno.EMFILE, "Too many open files")
    listening.troubles = [trouble, trouble, ConnectionAbortedError(), BlockingIOError()]
    began_at = loop.time()
    with caplog.at_level(logging.ERROR):
        async with serving(contexts, listening=listening) as running:
            assert await running.status() == 404
    assert loop.time() - began_at >= 0.4  # for a file to come free
    said("listener: no file for a connection", "\n".join(caplog.messages).replace(str(running.port), "PORT"))


async def test_it_can_be_closed_during_a_pause(contexts: Any) -> None:
    listening = Troubled()
    listening.troubles = [OSError(errno.EMFILE, "Too many open files")]
    async with serving(contexts, listening=listening) as running:
        pair = await running.silent()
        while listening.troubles:
            await asyncio.sleep(0)
    assert await ended(pair)


async def test_closing_can_wait_for_handshakes(contexts: Any) -> None:
    async with serving(contexts) as running:
        asking = asyncio.create_task(running.status())
        await running.at_it(1)
        await running.acceptor.close(timeout=9)
        assert handshakes() == 0
        assert await asking == 404


async def test_a_plain_connection_accepted_while_closing_is_passed_on(contexts: Any) -> None:
    listening = Troubled()
    listening.troubles = [ConnectionAbortedError()]  # it accepts the next connection at once
    async with serving((None, contexts[1]), listening=listening) as running:
        opening = asyncio.create_task(running.silent())
        while listening.troubles:
            await asyncio.sleep(0)
        assert running.hardened.open_connections == 0
        await running.acceptor.close(timeout=9)
        assert running.hardened.open_connections == 1
        reader, writer = await opening
        writer.write(REQUEST)
        assert b" 404 " in await reader.readline()
        await close(writer)


async def test_a_handshake_cancelled_as_it_completes_leaves_its_socket_to_its_transport(
    contexts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(contexts) as running:
        admit, sockets = running.hardened.admit, []

        def cancelled(connection: Any) -> int | None:
            sockets.append(connection.wire.get_extra_info("socket"))
            next(task for task in asyncio.all_tasks() if task.get_name() == "TLS handshake").cancel()
            return admit(connection)

        monkeypatch.setattr(running.hardened, "admit", cancelled)
        reader, writer = await running.opened()
        turns = 0
        while not sockets or running.hardened.open_connections:
            turns += bool(sockets) and sockets[0].fileno() == -1
            await asyncio.sleep(0)
        assert turns <= 1  # the transport closes it, and tells of that in its next turn
        assert await ended((reader, writer))


async def test_plain_connections_have_no_quota_of_handshakes(contexts: Any) -> None:
    limits = attrs.evolve(LIMITS, handshakes=1, connections_per_peer=2)
    async with serving((None, contexts[1]), limits) as running:
        held = [await running.silent() for _ in range(2)]
        for reader, writer in held:
            writer.write(REQUEST)
            assert b" 404 " in await reader.readline()
            await close(writer)


async def test_a_busy_loop_accepts_larger_batches(contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real, turns = loop.time, 0
    async with serving((None, contexts[1])) as running:
        waiting = [socket.socket() for _ in range(60)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", running.port))
        monkeypatch.setattr(loop, "time", lambda: real() + 0.01 * turns)  # each turn of the loop takes that much longer
        while running.hardened.open_connections < len(waiting):
            turns += 1
            await asyncio.sleep(0)
        for each in waiting:
            each.close()
        monkeypatch.undo()
    assert turns < len(waiting) / 3


async def test_no_protocol_is_made_before_the_handshake(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = HardenedServer.__call__

    def counted(self: HardenedServer) -> Any:
        made.append(self)
        return make(self)

    monkeypatch.setattr(HardenedServer, "__call__", counted)
    async with serving(contexts) as running:
        silent = await running.silent()
        await running.at_it(1)
        assert await running.status() == 404
        assert len(made) == 1
        await close(silent[1])
