"""The receiver inside an aiohttp application, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web
from attrs import frozen

from rewards_core.errors import StoreClosed, StoreError
from rewards_core.operations import Event
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from webhooks import Acceptance, MemoryStore, Receiver

PATH = "/webhooks/fake"


@frozen
class Served:
    source: FakeSource
    store: MemoryStore
    receiver: Receiver
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    async def raw(self, *parts: bytes, end: bool = False) -> bytes:
        """Send literal bytes, and return the headers of the response, or nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
            if end:
                writer.write_eof()
            async with asyncio.timeout(120):
                return await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        finally:
            writer.close()
            await writer.wait_closed()

    def head(self, body: bytes, *more: str, method: str = "POST") -> bytes:
        lines = [f"{method} {PATH} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in self.source.sign(body).items())]
        return "\r\n".join([*lines, *more, "", ""]).encode()


@asynccontextmanager
async def served(store: MemoryStore | None = None, *, source: Any = None, **options: Any) -> AsyncIterator[Served]:
    receiver = Receiver(source or FakeSource(), store or MemoryStore(), **options)
    application = web.Application()
    receiver.register(application, PATH)
    async with serving(application, receiver) as there:
        yield there


@asynccontextmanager
async def serving(application: web.Application, receiver: Receiver) -> AsyncIterator[Served]:
    """Run an application in which aiohttp itself closes no connection with an unread request."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, lingering_time=100_000)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield Served(FakeSource(), cast("MemoryStore", receiver.store), receiver, runner.addresses[0][1])
    finally:
        await runner.cleanup()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_a_signed_delivery_is_stored_and_answered_200() -> None:
    body = body_of(resource=words_of("1", "done"))
    async with served() as there, aiohttp.ClientSession() as session:
        async with session.post(there.url, data=body, headers=there.source.sign(body)) as response:
            assert (response.status, await response.read()) == (200, b"")
        async with session.post(there.url, data=body) as response:
            assert response.status == 401
            assert "signature" in await response.text()
        assert await there.store.outcome(a_ref("1")) is not None
        assert (await there.store.statistics()).events == 1


@pytest.mark.parametrize("given", [True, False])
async def test_handlers_and_a_store_opened_by_the_receiver_live_as_long_as_the_application(given: bool) -> None:
    source, seen = FakeSource(), asyncio.Event()
    receiver = Receiver(source, MemoryStore() if given else "memory:")

    @receiver.on("thing.done")
    async def note(event: Event) -> None:
        seen.set()

    application = web.Application()
    receiver.register(application, PATH)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, lingering_time=0)
    await runner.setup()
    body = body_of(uid="1")
    assert (await receiver.receive(source.sign(body), body)).status == 200
    await seen.wait()
    await runner.cleanup()
    if given:
        assert [handler.served for handler in await receiver.store.list_handlers()] == [False]
    else:
        with pytest.raises(StoreClosed):
            await receiver.store.ping()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused_with_the_allowed_one(method: str) -> None:
    async with served() as there, aiohttp.ClientSession() as session, session.request(method, there.url) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_a_body_announced_as_too_large_is_refused_without_reading_it() -> None:
    async with served() as there:
        answer = await there.raw(there.head(b"", "Content-Length: 262145"))
        assert status_of(answer) == 413


async def test_a_body_that_turns_out_too_large_is_refused_while_it_arrives() -> None:
    async with served(max_body=1_000) as there:
        chunk = b"200\r\n" + b"x" * 512 + b"\r\n"
        answer = await there.raw(there.head(b"", "Transfer-Encoding: chunked"), chunk, chunk)
        assert status_of(answer) == 413
        assert there.receiver.statistics.rejected == {"size": 1}


async def test_a_large_body_within_the_limit_is_accepted() -> None:
    body = body_of(uid="1", filler="x" * 200_000)
    async with served() as there, aiohttp.ClientSession() as session:
        async with session.post(there.url, data=body, headers=there.source.sign(body)) as response:
            assert response.status == 200
        (kept,) = await there.store.list_events()
        assert kept.event.body == body


async def test_a_chunked_body_is_accepted() -> None:
    body = body_of(uid="1")

    async def pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(body), 7):
            yield body[place : place + 7]

    async with (
        served() as there,
        aiohttp.ClientSession() as session,
        session.post(there.url, data=pieces(), headers=there.source.sign(body)) as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "whatever"])
async def test_an_encoded_body_is_refused(encoding: str) -> None:
    async with served() as there:
        answer = await there.raw(
            there.head(b"x", f"Content-Encoding: {encoding}", "Content-Length: 1", "Connection: close"), b"x"
        )
        assert status_of(answer) in {400, 415}
        if encoding == "whatever":
            assert status_of(answer) == 415


async def test_a_body_that_does_not_arrive_times_out() -> None:
    async with served(body_timeout=0.05) as there:
        answer = await there.raw(there.head(b"xx", "Content-Length: 2"), b"x")
        assert status_of(answer) == 408
        assert b"connection: close" in answer.lower()
        assert there.receiver.statistics.rejected == {"slow": 1}


async def test_a_body_in_broken_chunks_is_refused() -> None:
    async with served() as there:
        answer = await there.raw(there.head(b"x", "Transfer-Encoding: chunked"), b"1\r\nx\r\n", b"zz\r\n")
        assert status_of(answer) == 400


async def test_a_disconnect_in_a_body_stores_nothing() -> None:
    async with served() as there:
        await there.raw(there.head(b"xx", "Content-Length: 2"), b"x", end=True)
        assert (await there.store.statistics()).events == 0


async def test_a_delivery_without_a_body_is_processed_like_any_other() -> None:
    async with served() as there, aiohttp.ClientSession() as session:
        async with session.post(there.url, headers=there.source.sign(b"")) as response:
            assert response.status == 200
        (kept,) = await there.store.list_events()
        assert kept.event.problem == "unreadable"


async def test_a_delivery_that_cannot_be_stored_is_answered_503_and_stored_on_retry() -> None:
    class Once(MemoryStore):
        failed = False

        async def accept(self, event: Event, **options: Any) -> Acceptance:
            if not self.failed:
                self.failed = True
                raise StoreError("the disk is full")
            return await super().accept(event, **options)

    body = body_of(uid="1")
    async with served(Once()) as there, aiohttp.ClientSession() as session:
        statuses = []
        for _ in range(2):
            async with session.post(there.url, data=body, headers=there.source.sign(body)) as response:
                statuses.append((response.status, response.headers.get("Retry-After")))
        assert statuses == [(503, "5"), (200, None)]
