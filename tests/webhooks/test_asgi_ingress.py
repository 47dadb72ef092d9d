"""Deliveries through ASGI: the application by itself, and inside FastAPI under uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from rewards_core.errors import StoreClosed
from rewards_core.operations import Event
from tests.webhooks.fakes import SIGNATURE, FakeSource, body_of
from webhooks.ingress.asgi import AsgiIngress
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore
from webhooks.store.records import EventState


def a_receiver(**options: Any) -> Receiver:
    return Receiver(FakeSource(), MemoryStore(), **options)


def scope(method: str = "POST", headers: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    return {"type": "http", "method": method, "headers": [(name.encode(), value.encode()) for name, value in headers]}


class Peer:
    """The server side of an ASGI application: sends its messages, then nothing."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        if self.messages:
            return self.messages.pop(0)
        return await asyncio.get_running_loop().create_future()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


def body(*parts: bytes) -> list[dict[str, Any]]:
    return [{"type": "http.request", "body": part, "more_body": number < len(parts) - 1} for number, part in enumerate(parts)]


def signed(raw: bytes) -> list[tuple[str, str]]:
    return list(FakeSource().sign(raw).items())


async def test_a_signed_delivery_in_parts_is_stored() -> None:
    receiver, raw = a_receiver(), body_of(uid="7")
    peer = Peer(*body(raw[:5], raw[5:]))
    await AsgiIngress(receiver)(scope(headers=signed(raw)), peer.receive, peer.send)
    assert peer.status == 200
    assert [kept.event.body for kept in await receiver.store.list_events()] == [raw]


async def test_an_unsigned_delivery_is_refused() -> None:
    peer = Peer(*body(b"{}"))
    await AsgiIngress(a_receiver())(scope(), peer.receive, peer.send)
    assert peer.status == 401


@pytest.mark.parametrize(
    ("asked", "messages", "status"),
    [
        (scope("GET"), [], 405),
        (scope(headers=[("content-encoding", "gzip")]), [], 415),
        (scope(headers=[("content-length", "101")]), [], 413),
        (scope(headers=[("content-length", "9" * 30)]), body(b"x" * 101), 413),
        (scope(headers=[("content-length", "many")]), body(b"x" * 101), 413),
        (scope(), body(b"x" * 60, b"x" * 60), 413),
        (scope(), body(b"x", b"y")[:1], 408),
    ],
)
async def test_limits_hold(asked: dict[str, Any], messages: list[dict[str, Any]], status: int) -> None:
    peer = Peer(*messages)
    await AsgiIngress(a_receiver(max_body=100, body_timeout=0.05))(asked, peer.receive, peer.send)
    assert peer.status == status
    assert peer.headers[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("headers", "messages", "status", "reason"),
    [
        ([("content-length", "5")], body(b"lo"), 500, "read_before"),
        ([("content-length", "5")], body(b""), 500, "read_before"),
        ([("transfer-encoding", "chunked")], body(b""), 500, "read_before"),
        ([("content-length", "5")], [], 408, "absent"),
        ([("content-length", "0")], body(b""), 401, "missing"),
        ([], body(b""), 401, "missing"),
    ],
)
async def test_a_body_consumed_before_the_receiver_has_its_own_reason(
    headers: list[tuple[str, str]],
    messages: list[dict[str, Any]],
    status: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver, peer = a_receiver(body_timeout=0.05), Peer(*messages)
    await AsgiIngress(receiver)(scope(headers=headers), peer.receive, peer.send)
    assert peer.status == status
    assert receiver.statistics.rejected == {reason: 1}
    assert ("a middleware" in caplog.text.lower()) == (reason != "missing")


async def test_a_disconnect_gets_no_answer_and_stores_nothing() -> None:
    receiver = a_receiver()
    peer = Peer(*body(b"{", b"}")[:1], {"type": "http.disconnect"})
    await AsgiIngress(receiver)(scope(), peer.receive, peer.send)
    assert peer.sent == []
    assert receiver.statistics.rejected == {"broken": 1}


async def test_a_websocket_is_closed_and_other_scopes_are_ignored() -> None:
    peer = Peer()
    await AsgiIngress(a_receiver())({"type": "websocket"}, peer.receive, peer.send)
    await AsgiIngress(a_receiver())({"type": "something new"}, peer.receive, peer.send)
    assert peer.sent == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.parametrize("given", [True, False])
async def test_served_alone_it_starts_and_closes_the_receiver_and_its_store(given: bool) -> None:
    receiver = Receiver(FakeSource(), MemoryStore() if given else "memory:")

    @receiver.on("*", name="app.note")
    async def handle(event: Event) -> None:
        raise AssertionError

    closed: list[bool] = []

    class Closing:
        async def aclose(self) -> None:
            (handler,) = await receiver.store.list_handlers()
            closed.append(handler.served)

    peer = Peer({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await AsgiIngress(receiver, Closing())({"type": "lifespan"}, peer.receive, peer.send)
    assert [message["type"] for message in peer.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert closed == [True]
    if given:
        assert [handler.served for handler in await receiver.store.list_handlers()] == [False]
    else:
        with pytest.raises(StoreClosed):
            await receiver.store.ping()


async def test_completions_on_a_route_without_lifespan_events_cause_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Closing:
        async def aclose(self) -> None:
            raise AssertionError

    ingress, raw = AsgiIngress(a_receiver(), Closing()), body_of(uid="7")
    for _ in range(2):
        peer = Peer(*body(raw))
        await ingress(scope(headers=signed(raw)), peer.receive, peer.send)
        assert peer.status == 200
    assert caplog.text.count("close_on_signal") == 1


async def test_a_failing_start_is_reported_to_the_server() -> None:
    receiver = a_receiver()

    @receiver.on("*")
    async def handle(event: Event) -> None:
        raise AssertionError

    await receiver.store.aclose()
    peer = Peer({"type": "lifespan.startup"})
    await AsgiIngress(receiver)({"type": "lifespan"}, peer.receive, peer.send)
    assert peer.sent[0]["type"] == "lifespan.startup.failed"
    await receiver.aclose()


class Server(uvicorn.Server):
    """uvicorn that reports when it is ready and installs no signal handlers."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on"))
        self.ready = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @property
    def url(self) -> str:
        host, port = self.servers[0].sockets[0].getsockname()
        return f"http://{host}:{port}"


async def test_inside_fastapi_under_uvicorn_deliveries_are_stored_and_handled() -> None:
    receiver = a_receiver()
    handled: asyncio.Queue[Event] = asyncio.Queue()

    @receiver.on("thing.done")
    async def handle(event: Event) -> None:
        handled.put_nowait(event)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with receiver:
            yield

    app = FastAPI(lifespan=lifespan)
    app.router.routes.append(Route("/webhooks/thing", AsgiIngress(receiver)))
    server = Server(app)
    serving = asyncio.create_task(server.serve())
    await server.ready.wait()
    raw = body_of("thing.done", uid="7")
    async with aiohttp.ClientSession() as session:

        async def post(data: bytes, **headers: str) -> int:
            url = f"{server.url}/webhooks/thing"
            async with session.post(url, data=data, headers=headers, allow_redirects=False) as answer:
                return answer.status

        assert await post(raw, **FakeSource().sign(raw)) == 200
        assert await post(raw, **FakeSource().sign(raw)) == 200
        assert await post(raw, **{SIGNATURE: "0" * 64}) == 401
        async with session.get(f"{server.url}/webhooks/thing") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert await post(b"x" * 300_000) == 413
        assert (await handled.get()).body == raw
    server.should_exit = True
    await serving
    assert [kept.state for kept in await receiver.store.list_events()] == [EventState.DONE]
    assert handled.empty()
