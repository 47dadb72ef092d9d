"""Time, bytes and connections are bounded in the hardened server, and healthy deliveries continue."""

from __future__ import annotations

import asyncio
import gzip
import resource
import socket
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

import attrs
import pytest

from tests.stepped_time import SteppedTime
from tests.webhooks.fakes import FakeSource
from tests.webhooks.ingress_kit import (
    HEALTHY,
    IMPATIENT,
    SLOWEST,
    close,
    read_all,
    read_answer,
    request,
    serving,
    status_of,
    turns,
    until,
)
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Networks


@pytest.fixture(autouse=True)
def many_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
    async with serving(attrs.evolve(SLOWEST, header_seconds=0.2, idle_seconds=3_600)) as running:
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
            await turns()
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
        await until(lambda: running.inbox.begun)
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
        await until(lambda: running.inbox.begun)
        writer.transport.abort()
        await until(lambda: running.refused)
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
        await until(lambda: running.inbox.begun >= 2)
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
        await until(lambda: running.inbox.begun >= 2)
        assert await forwarded("203.0.113.7") == 429
        modest = asyncio.ensure_future(forwarded("203.0.113.8"))
        await until(lambda: running.inbox.begun >= 3)
        running.inbox.go_on.set()
        assert await asyncio.gather(*greedy, modest) == [200] * 3
        assert await forwarded("203.0.113.7") == 200
        assert await forwarded("unknown") == 200
        assert await running.healthy("127.0.0.3") == 200


async def test_a_trusted_proxy_that_forwards_no_address_has_no_quota() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=1), trusted=Networks(["127.0.0.1"])) as running:
        running.inbox.go_on.clear()
        busy = [asyncio.ensure_future(running.healthy()) for _ in range(3)]
        await until(lambda: running.inbox.begun >= 3 or running.refused)
        running.inbox.go_on.set()
        assert await asyncio.gather(*busy) == [200, 200, 200]
