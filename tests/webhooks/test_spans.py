"""Spans of requests and deliveries: names, kinds, parents, and what is not in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from tests.span_kit import Spans, context_of, parent_of, spans
from tests.texts import said
from tests.webhooks.fakes import FakeSource
from tests.webhooks.receiver_kit import DONE, PARENT, REMOTE, TRACE, Failing, listening, send
from webhooks import MemoryStore, Receiver

__all__ = ["spans"]


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


async def test_what_a_stranger_sends_beside_a_traceparent_goes_nowhere(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    many = ",".join(f"vendor{number}=SECRET" for number in range(60))
    async with listening(Receiver(FakeSource(), MemoryStore())) as url:
        for headers in (
            {**REMOTE, "tracestate": many, "baggage": "SECRET=" + "SECRET" * 700},
            {"traceparent": "SECRET" * 500},
        ):
            assert await send(f"{url}/webhooks/original", b"", headers) == 401
    assert [parent_of(span) for span in spans.named("POST /webhooks/original")] == [(TRACE, PARENT), None]
    assert "SECRET" not in caplog.text + spans.text()


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
    said("a bug in answering a request", "\n".join(each.getMessage() for each in caplog.records if each.levelname == "ERROR"))


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
