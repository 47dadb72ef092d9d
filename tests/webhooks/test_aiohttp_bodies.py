"""A receiver in an aiohttp application whose middlewares read or consume bodies, and requests refused before their bodies."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from original_async import OriginalWebhooks
from tests.texts import said
from tests.webhooks.fakes import FakeSource, body_of
from tests.webhooks.test_ingress_aiohttp import PATH, Served, serving, status_of
from webhooks import MemoryStore, Receiver
from webhooks.ingress.aiohttp_app import serve

Read = Callable[[web.Request], Awaitable[Any]]
BODIES = {
    "small": body_of(uid="1"),
    "large": body_of(uid="1", filler="x" * 200_000),
    "empty": b"",
}


def before(read: Read) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.method == "POST":
            await read(request)
        response: web.StreamResponse = await handler(request)
        return response

    return middleware


def after(read: Read, seen: list[Any]) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        seen.append(await read(request))
        return response

    return middleware


def a_receiver(**options: Any) -> Receiver:
    return Receiver(FakeSource(), MemoryStore(), **options)


def an_application(receiver: Receiver, *middlewares: Any, within: bool = False) -> web.Application:
    if not within:
        application = web.Application(middlewares=middlewares)
        receiver.register(application, PATH)
        return application
    inner, application = web.Application(), web.Application(middlewares=middlewares)
    receiver.register(inner, PATH.removeprefix("/webhooks"))
    application.add_subapp("/webhooks", inner)
    return application


async def deliver(there: Served, body: bytes, *, chunked: bool = False) -> int:
    if not chunked:
        return status_of(await there.raw(there.head(body, f"Content-Length: {len(body)}"), body))
    middle = len(body) // 2 or 1
    pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:middle], body[middle:]) if piece]
    return status_of(await there.raw(there.head(body, "Transfer-Encoding: chunked"), *pieces, b"0\r\n\r\n"))


async def no_read(_: web.Request) -> None:
    return None


@pytest.mark.parametrize("within", [False, True], ids=["application", "sub-application"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("read", [no_read, web.Request.read, web.Request.text, web.Request.post], ids=lambda read: read.__name__)
async def test_a_middleware_may_read_the_body_first(read: Read, body: bytes, chunked: bool, within: bool) -> None:
    receiver = a_receiver()
    application = an_application(receiver, before(read), before(no_read), before(read), within=within)
    async with serving(application, receiver) as there:
        assert await deliver(there, body, chunked=chunked) == 200
        assert [kept.event.body for kept in await there.store.list_events()] == [body]


async def test_a_middleware_may_read_it_as_json() -> None:
    receiver = a_receiver()
    async with serving(an_application(receiver, before(web.Request.json)), receiver) as there:
        assert await deliver(there, BODIES["small"]) == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_middleware_may_read_the_body_afterwards(body: bytes, chunked: bool) -> None:
    receiver, seen = a_receiver(), list[Any]()
    async with serving(an_application(receiver, after(web.Request.read, seen)), receiver) as there:
        assert await deliver(there, body, chunked=chunked) == 200
    assert seen == [body]


async def takes_ten_bytes(request: web.Request) -> None:
    await request.content.read(10)


async def takes_a_line(request: web.Request) -> None:
    await request.content.readline()


async def takes_all_in_pieces(request: web.Request) -> None:
    async for _ in request.content.iter_chunked(1_000):
        pass


async def takes_ten_bytes_and_reads_the_rest(request: web.Request) -> None:
    await request.content.read(10)
    await request.read()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("body", [BODIES["small"], BODIES["large"]], ids=["small", "large"])
@pytest.mark.parametrize(
    "read",
    [takes_ten_bytes, takes_a_line, takes_all_in_pieces, takes_ten_bytes_and_reads_the_rest],
    ids=lambda read: read.__name__,
)
async def test_a_body_consumed_by_a_middleware_is_refused_for_that_reason_and_not_as_unsigned(
    read: Read, body: bytes, chunked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = a_receiver()
    with caplog.at_level(logging.WARNING):
        async with serving(an_application(receiver, before(read)), receiver) as there:
            assert await deliver(there, body, chunked=chunked) == 500
    assert receiver.statistics.rejected == {"read_before": 1}
    assert (await receiver.store.statistics()).events == 0
    assert "await request.read()" in caplog.text


@pytest.mark.slow
async def test_an_application_with_a_smaller_limit_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"^client_max_size: ") as refused:
        a_receiver().register(web.Application(client_max_size=1_000), PATH)
    said("register: an application with a smaller client_max_size", refused.value)
    with pytest.raises(ValueError, match=r"^client_max_size: "):
        a_receiver(max_body=2_000_000).register(web.Application(), PATH)


async def test_an_outer_application_with_a_smaller_limit_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    receiver = a_receiver()
    inner, application = web.Application(), web.Application(client_max_size=1_000)
    receiver.register(inner, "/fake")
    application.add_subapp("/webhooks", inner)
    async with serving(application, receiver) as there:
        for body in BODIES.values():  # no middleware reads them, so none is too large
            assert await deliver(there, body) == 200
    assert caplog.text.count("client_max_size=262144") == 1


@pytest.mark.parametrize("size", [0, 300_000, 262_144])
async def test_an_application_with_the_same_limit_is_accepted(size: int) -> None:
    receiver = a_receiver()
    application = web.Application(client_max_size=size, middlewares=[before(web.Request.read)])
    receiver.register(application, PATH)
    body = b"x" * receiver.max_body
    async with serving(application, receiver) as there:
        assert await deliver(there, body) == 200


async def test_a_custom_handler_can_serve_a_body_that_it_has_read(caplog: pytest.LogCaptureFixture) -> None:
    receiver, started = a_receiver(), asyncio.Event()

    @receiver.on("*", name="app.note")
    async def note(_: object) -> None:
        started.set()

    async def own(request: web.Request) -> web.StreamResponse:
        assert json.loads(await request.text())["event"] == "thing.done"
        return await serve(receiver, request)

    application = web.Application()
    application.router.add_post(PATH, own)
    async with serving(application, receiver) as there:
        for uid in "12":
            assert await deliver(there, body_of(uid=uid)) == 200
        said("handlers that nobody started are warned about at the first delivery and once", "\n".join(caplog.messages))
        async with receiver:
            assert await deliver(there, body_of(uid="3")) == 200
            await started.wait()


@pytest.mark.parametrize("size", [1_000_000, 8_000_000])
@pytest.mark.parametrize("whole", [True, False], ids=["sent whole", "begun"])
async def test_an_unknown_key_is_refused_before_the_body_and_its_connection_closed(size: int, whole: bool) -> None:
    receiver = Receiver(OriginalWebhooks({"4o3vfxtcmo7b": "a-webhook-secret"}), MemoryStore(), max_body=8_000_000)
    application = web.Application(client_max_size=8_000_000)
    receiver.register(application, PATH)
    async with serving(application, receiver) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        sent = asyncio.create_task(send(writer, head, b"x" * (size if whole else 1)))
        assert status_of(await reader.readuntil(b"\r\n\r\n")) == 401
        await until_closed(reader)
        await sent
        writer.close()
    assert receiver.statistics.rejected == {"missing": 1}


async def send(writer: asyncio.StreamWriter, *parts: bytes) -> None:
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
    except ConnectionError:
        return  # the server closed while we sent


async def until_closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(65_536):
            pass
    except ConnectionError:
        return


async def test_a_body_refused_while_it_arrives_closes_its_connection() -> None:
    receiver = a_receiver(max_body=1_000)
    async with serving(an_application(receiver), receiver) as there:
        reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
        await send(writer, there.head(b"", "Transfer-Encoding: chunked"), b"800\r\n" + b"x" * 0x800 + b"\r\n")
        assert status_of(await reader.readuntil(b"\r\n\r\n")) == 413
        await until_closed(reader)
        writer.close()
