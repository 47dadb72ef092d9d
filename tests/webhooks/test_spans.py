"""Spans of requests, deliveries, handlers and waits: names, kinds, parents, links, and what is not in them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from rewards_core import tracing
from rewards_core.errors import StoreError
from tests.span_kit import Spans, context_of, linked, parent_of, spans
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from tests.webhooks.listener_process import ROOT, delivery, environment, post, running, signed
from tests.webhooks.world import World, a_world, settle
from webhooks import CompletionTimeout, HandlerPolicy, MemoryStore, Receiver
from webhooks.errors import RetryLater
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.spans import links_of

__all__ = ["spans"]

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
REMOTE = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}
DONE = body_of(resource=words_of("1", "done"))


class Failing(MemoryStore):
    """A store that keeps nothing while it fails."""

    failing = True

    async def accept(self, event: Any) -> Any:
        if self.failing:
            raise StoreError("the password is hunter2")
        return await super().accept(event)


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[str]:
    """Serve a receiver as the listener does, and lend its address."""
    loop = asyncio.get_running_loop()
    hardened = HardenedServer({"/webhooks/original": receiver})
    server = await loop.create_server(hardened, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await hardened.drain(5.0)
        await server.wait_closed()


async def send(url: str, body: bytes, headers: Mapping[str, str], method: str = "POST") -> int:
    async with aiohttp.ClientSession() as session, session.request(method, url, data=body, headers=headers) as answer:
        return answer.status


async def deliver(receiver: Receiver, body: bytes = DONE) -> int:
    return (await receiver.receive(FakeSource().sign(body), body)).status


# requests


async def test_a_delivery_is_a_server_span_below_the_senders_and_storing_it_a_span_below_that(spans: Spans) -> None:
    source = FakeSource()
    async with listening(Receiver(source, MemoryStore())) as url:
        port = int(url.rpartition(":")[2])
        assert await send(f"{url}/%77ebhooks/original?token=SECRET", DONE, {**source.sign(DONE), **REMOTE}) == 200
    request, stored = spans.one("POST /webhooks/original"), spans.one("rewards.delivery")
    assert (request.kind, request.status.status_code) == (SpanKind.SERVER, StatusCode.UNSET)
    assert parent_of(request) == (TRACE, PARENT)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/webhooks/original",
        "http.response.status_code": 200,
        "url.path": "/webhooks/original",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert (stored.kind, parent_of(stored)) == (SpanKind.INTERNAL, context_of(request))
    assert dict(stored.attributes or {}) == {
        "rewards.scope": "default",
        "rewards.event.name": "thing.done",
        "rewards.operation.kind": "thing",
        "rewards.operation.uid": "1",
        "rewards.delivery.verdict": "new",
    }
    assert len(spans) == 2
    assert "SECRET" not in spans.text()


async def test_a_refused_stranger_leaves_one_span_without_what_was_sent(spans: Spans) -> None:
    async with listening(Receiver(FakeSource(), MemoryStore())) as url:
        headers = {"x-fake-signature": "SECRET", "Authorization": "SECRET", "Host": "evil host"}
        assert await send(f"{url}/webhooks/original", b"SECRET", headers) == 401
        assert await send(f"{url}/other/path?SECRET", b"SECRET", {}, "PUT") == 404
        assert await send(f"{url}/webhooks/original", b"SECRET", {}, "PROPFIND") == 405
    assert len(spans) == 3
    refused, unknown, other = spans.one("POST /webhooks/original"), spans.one("PUT"), spans.one("HTTP /webhooks/original")
    assert [dict(span.attributes or {})["http.response.status_code"] for span in (refused, unknown, other)] == [401, 404, 405]
    assert [span.status.status_code for span in (refused, unknown, other)] == [StatusCode.UNSET] * 3
    assert "http.route" not in (unknown.attributes or {})
    assert "server.address" not in (refused.attributes or {})
    assert (other.attributes or {})["http.request.method"] == "_OTHER"
    assert "SECRET" not in spans.text()


async def test_a_delivery_that_cannot_be_stored_fails_both_spans_without_the_text_of_the_error(spans: Spans) -> None:
    source = FakeSource()
    async with listening(Receiver(source, Failing())) as url:
        assert await send(f"{url}/webhooks/original", DONE, source.sign(DONE)) == 503
    request, stored = spans.one("POST /webhooks/original"), spans.one("rewards.delivery")
    assert [span.status.status_code for span in (request, stored)] == [StatusCode.ERROR] * 2
    assert (request.attributes or {})["error.type"] == "503"
    assert (stored.attributes or {})["error.type"] == "not_kept"
    assert "hunter2" not in spans.text()


async def test_a_bug_of_a_receiver_fails_the_span_of_its_request(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Receiver):
        async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Any:
            raise ZeroDivisionError("hunter2")

    source = FakeSource()
    async with listening(Broken(source, MemoryStore())) as url:
        assert await send(f"{url}/webhooks/original", DONE, source.sign(DONE)) == 500
    request = spans.one("POST /webhooks/original")
    assert request.status.status_code is StatusCode.ERROR
    assert (request.attributes or {})["error.type"] == "ZeroDivisionError"
    assert "hunter2" not in spans.text()
    assert "could not answer a request" in caplog.text


async def test_in_an_application_only_storing_is_a_span_below_the_applications_own(spans: Spans) -> None:
    receiver = Receiver(FakeSource(), MemoryStore())
    tracer = trace.get_tracer("application")

    @web.middleware
    async def instrumented(request: web.Request, handler: Any) -> Any:
        with tracer.start_as_current_span("the application"):
            return await handler(request)

    app = web.Application(middlewares=[instrumented])
    receiver.register(app, "/hook")
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        assert await send(f"http://127.0.0.1:{port}/hook", DONE, FakeSource().sign(DONE)) == 200
        assert await send(f"http://127.0.0.1:{port}/hook", DONE, {}) == 401
    finally:
        await runner.cleanup()
    assert [span.name for span in spans.named("the application")] == ["the application"] * 2
    assert parent_of(spans.one("rewards.delivery")) == context_of(spans.named("the application")[0])
    assert len(spans) == 3


# waits


async def wait_for(world: World, receiver: Receiver) -> None:
    waiting = world.start("1", timeout=60)
    await settle()
    assert await deliver(receiver) == 200
    await waiting


@virtual_time
async def test_a_wait_is_linked_to_the_delivery_that_settled_it(spans: Spans) -> None:
    async with a_world() as world:
        receiver = Receiver(world.source, world.store)
        await wait_for(world, receiver)
        assert await deliver(receiver) == 200
        assert await deliver(receiver, body_of("thing.closed", resource=words_of("1", "done"))) == 200
        await world.completions.wait("1", timeout=60)
    first, *later = spans.named("rewards.delivery")
    assert [(each.attributes or {})["rewards.delivery.verdict"] for each in later] == ["duplicate", "new"]
    waits = spans.named("rewards.wait")
    assert [linked(each) for each in waits] == [[context_of(first)]] * 2
    assert dict(waits[0].attributes or {}) == {
        "rewards.scope": "default",
        "rewards.operation.kind": "thing",
        "rewards.operation.uid": "1",
        "rewards.settled.via": "webhook",
    }
    assert (waits[0].kind, waits[0].status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)


@virtual_time
async def test_a_wait_is_linked_to_the_delivery_that_settled_it_and_not_to_one_before(spans: Spans) -> None:
    async with a_world() as world:
        receiver = Receiver(world.source, world.store)
        assert await deliver(receiver, body_of(uid="1")) == 200
        assert await deliver(receiver) == 200
        await world.completions.wait("1", timeout=60)
    assert linked(spans.one("rewards.wait")) == [context_of(spans.named("rewards.delivery")[1])]


@virtual_time
async def test_a_delivery_that_was_repeated_after_a_failure_is_the_one_that_counts(spans: Spans) -> None:
    store = Failing()
    async with a_world(store=store) as world:
        receiver = Receiver(world.source, store)
        assert await deliver(receiver) == 503
        store.failing = False
        await wait_for(world, receiver)
    assert linked(spans.one("rewards.wait")) == [context_of(spans.named("rewards.delivery")[1])]


@virtual_time
async def test_a_wait_that_a_poll_settled_has_no_link(spans: Spans) -> None:
    async with a_world() as world:
        receiver = Receiver(world.source, world.store)
        world.vendor.will("1", "done")
        await world.completions.wait("1", timeout=60)
        assert await deliver(receiver) == 200
    wait = spans.one("rewards.wait")
    assert (linked(wait), (wait.attributes or {})["rewards.settled.via"]) == ([], "poll")


@virtual_time
async def test_a_wait_that_times_out_fails_its_span(spans: Spans) -> None:
    async with a_world() as world:
        with pytest.raises(CompletionTimeout):
            await world.completions.wait("1", timeout=1)
    wait = spans.one("rewards.wait")
    assert wait.status.status_code is StatusCode.ERROR
    assert (wait.attributes or {})["error.type"] == "webhooks.errors.CompletionTimeout"


@virtual_time
async def test_links_are_kept_for_a_bounded_number_of_deliveries(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.spans._MAX_KEPT", 3)
    async with a_world() as world:
        receiver = Receiver(world.source, world.store)
        for uid in "01234":
            assert await deliver(receiver, body_of(resource=words_of(uid, "done"))) == 200
        for uid in "01234":
            await world.completions.wait(uid, timeout=60)
    assert [len(linked(each)) for each in spans.named("rewards.wait")] == [0, 0, 1, 1, 1]


@virtual_time
async def test_a_store_that_no_dictionary_takes_works_without_links(spans: Spans) -> None:
    class Unhashable(MemoryStore):
        __hash__ = None  # type: ignore[assignment]

    async with a_world(store=Unhashable()) as world:
        receiver = Receiver(world.source, world.store)
        await wait_for(world, receiver)
    assert linked(spans.one("rewards.wait")) == []


# handlers


class Runs:
    """Says when a handler has run so many times."""

    def __init__(self, expected: int = 1) -> None:
        self._left = expected
        self._all = asyncio.Event()

    @contextmanager
    def count(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._left -= 1
            if self._left == 0:
                self._all.set()

    async def of(self, receiver: Receiver) -> None:
        """Deliver an event, and wait for the runs."""
        async with receiver:
            assert await deliver(receiver) == 200
            await self._all.wait()


@virtual_time
async def test_a_handlers_run_is_a_trace_of_its_own_linked_to_the_delivery(spans: Spans) -> None:
    receiver = Receiver(FakeSource(), MemoryStore(), service="shop")
    inside: list[Any] = []
    runs = Runs()

    @receiver.on("thing.done", name="greet")
    async def greet(_: Any) -> None:
        with runs.count():
            inside.append(trace.get_current_span().get_span_context().span_id)

    with trace.get_tracer("application").start_as_current_span("start-up"):
        await runs.of(receiver)
    run, stored = spans.one("process thing.done"), spans.one("rewards.delivery")
    assert (run.kind, parent_of(run), linked(run)) == (SpanKind.CONSUMER, None, [context_of(stored)])
    assert inside == [context_of(run)[1]]
    about = dict(run.attributes or {})
    message = about.pop("messaging.message.id")
    assert isinstance(message, str)
    assert len(bytes.fromhex(message)) == 16
    assert about == {
        "messaging.system": "rewards_async",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "thing.done",
        "messaging.consumer.group.name": "shop/greet",
        "rewards.scope": "default",
        "rewards.event.name": "thing.done",
        "rewards.operation.kind": "thing",
        "rewards.operation.uid": "1",
        "rewards.attempt": 1,
    }


@virtual_time
async def test_a_run_after_a_duplicate_is_linked_to_the_first_delivery(spans: Spans) -> None:
    receiver = Receiver(FakeSource(), MemoryStore(), handlers=HandlerPolicy(first_delay=0.5, attempts=2))
    runs, repeated = Runs(2), list[int]()

    @receiver.on("*", name="fail")
    async def fail(_: Any) -> None:
        with runs.count():
            repeated.append(await deliver(receiver))
            raise ValueError

    await runs.of(receiver)
    assert repeated == [200, 200]
    first = next(each for each in spans.named("rewards.delivery") if (each.attributes or {})["rewards.delivery.verdict"] == "new")
    assert [linked(each) for each in spans.named("process thing.done")] == [[context_of(first)]] * 2


@virtual_time
@pytest.mark.parametrize("error", [ValueError("hunter2"), RetryLater("hunter2")])
async def test_a_run_that_fails_fails_its_span_and_each_run_has_its_own(spans: Spans, error: Exception) -> None:
    receiver = Receiver(FakeSource(), MemoryStore(), handlers=HandlerPolicy(first_delay=0.5, attempts=2))
    runs = Runs(2)

    @receiver.on("*", name="fail")
    async def fail(_: Any) -> None:
        with runs.count():
            raise error

    await runs.of(receiver)
    found = spans.named("process thing.done")
    assert [(each.attributes or {})["rewards.attempt"] for each in found] == [1, 2]
    assert [each.status.status_code for each in found] == [StatusCode.ERROR] * 2
    assert [linked(each) for each in found] == [[context_of(spans.one("rewards.delivery"))]] * 2
    assert str((found[0].attributes or {})["error.type"]).rpartition(".")[2] == type(error).__name__
    assert "hunter2" not in spans.text()


@virtual_time
async def test_a_run_that_takes_too_long_fails_its_span(spans: Spans) -> None:
    receiver = Receiver(FakeSource(), MemoryStore(), handlers=HandlerPolicy(timeout=1.0, lease=2.0, attempts=1))
    runs = Runs()

    @receiver.on("*", name="hang")
    async def hang(_: Any) -> None:
        with runs.count():
            await asyncio.Event().wait()

    await runs.of(receiver)
    assert (spans.one("process thing.done").attributes or {})["error.type"] == "TimeoutError"


# without the SDK


async def test_without_an_sdk_nothing_is_recorded_or_kept(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    source, store = FakeSource(), MemoryStore()
    async with listening(Receiver(source, store)) as url:
        assert await send(f"{url}/webhooks/original", DONE, {**source.sign(DONE), **REMOTE}) == 200
    assert (len(spans), tracing.recording()) == (0, False)
    assert links_of(store).of_operation(a_ref("1")) is None


ALONE = """
import asyncio, sys
if sys.argv[1:]:
    sys.modules["opentelemetry"] = None
from tests.webhooks.fakes import FakeSource, body_of, words_of
from webhooks import Completions, MemoryStore, Receiver
from tests.webhooks.fakes import FakeVendor

async def main():
    source, store, body = FakeSource(), MemoryStore(), body_of(resource=words_of("1", "done"))
    receiver = Receiver(source, store)
    ran = asyncio.Event()
    @receiver.on("*")
    async def handle(event):
        ran.set()
    async with receiver, Completions(FakeVendor(), store) as completions:
        statuses = [(await receiver.receive(headers, body)).status for headers in (source.sign(body), {})]
        await ran.wait()
        print(statuses, (await completions.wait("1", timeout=5)).status)
    print([name for name in sys.modules if name.startswith("opentelemetry.")])

asyncio.run(main())
"""


@pytest.mark.parametrize("missing", [[], ["missing"]])
def test_a_program_that_does_not_use_opentelemetry_does_not_import_it_and_one_without_it_works_alike(missing: list[str]) -> None:
    command = [sys.executable, "-c", ALONE, *missing]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert done.stdout == "[200, 401] done\n[]\n"


WRONGLY = """
import asyncio, logging
import opentelemetry.sdk.trace
from opentelemetry import trace
from tests.webhooks.test_spans import DONE, FakeSource, MemoryStore, Receiver, listening, send

async def main():
    source = FakeSource()
    async with listening(Receiver(source, MemoryStore())) as url:
        print([await send(f"{url}/webhooks/original", DONE, source.sign(DONE)) for _ in range(2)])

if "OTEL_PROPAGATORS" in __import__("os").environ:
    trace.set_tracer_provider(opentelemetry.sdk.trace.TracerProvider())
asyncio.run(main())
"""


@pytest.mark.parametrize("setting", ["OTEL_PROPAGATORS", "OTEL_PYTHON_TRACER_PROVIDER"])
def test_a_wrong_setting_of_opentelemetry_refuses_no_delivery(setting: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), setting: "nonsense"}
    done = subprocess.run([sys.executable, "-c", WRONGLY], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[200, 200]\n"), done.stderr
    assert done.stderr.count("no spans are recorded, because OpenTelemetry is set up wrongly") == 1


# processes

SITE = """
import os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
file = open(os.environ["SPANS"], "a")
provider = TracerProvider()
line = lambda span: span.to_json(indent=None) + chr(10)
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=file, formatter=line)))
trace.set_tracer_provider(provider)
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_listener_started_with_the_sdk_records_its_requests(tmp_path: Path, workers: int) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}", "SPANS": str(tmp_path / "spans")}
    body = delivery("1")
    async with running(tmp_path, "--workers", str(workers), env=env) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, body, {**signed(body), **REMOTE}) == 200
        assert await post(session, listener.url, body, {}) == 401
        async with session.get(f"{listener.where['admin']}/healthz") as answer:
            assert answer.status == 200
    found = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    assert sorted(each["name"] for each in found) == ["POST /webhooks/original", "POST /webhooks/original", "rewards.delivery"]
    (request,) = [each for each in found if each["parent_id"] == f"0x{PARENT:016x}"]
    (stored,) = [each for each in found if each["name"] == "rewards.delivery"]
    assert request["context"]["trace_id"] == stored["context"]["trace_id"] == f"0x{TRACE:032x}"
    assert stored["attributes"]["rewards.operation.uid"] == "1"
