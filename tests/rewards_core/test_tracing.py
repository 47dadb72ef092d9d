"""Spans of a client's calls."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from original_async import OriginalClient
from rewards_core import CallSpans, RetryPolicy
from rewards_core.errors import ConnectFailed, ServerFailed
from rewards_core.http.messages import Effect
from rewards_core.observe import CallEnded, CallStarted
from rewards_core.tracing import UNRECORDED, start_span
from tests.rewards_core.call_kit import Vendor, http, request_to, vendor
from tests.rewards_core.conftest import MakeTransport
from tests.span_kit import Spans, context_of, parent_of, spans
from vendor_sandboxes.original import API_KEY, API_SECRET, REWARDS, OriginalSandbox

__all__ = ["spans"]

QUICK = RetryPolicy(attempts=3, first_delay=0.001, max_delay=0.001)


async def fails_twice(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    failed = http(b"hunter2", "503 Service Unavailable")
    await v.answer(reader, writer, failed, failed, http())


async def fails(v: Vendor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await v.answer(reader, writer, *[http(b"hunter2", "503 Service Unavailable")] * 3)


async def test_a_call_is_one_span_with_an_event_for_each_retry(make_transport: MakeTransport, spans: Spans) -> None:
    async with vendor(fails_twice) as v:
        transport = make_transport(v.url, observers=[CallSpans("acme")], retry=QUICK)
        with trace.get_tracer("application").start_as_current_span("the application"):
            await transport.call(request_to(transport))
            inside = trace.get_current_span()
    call = spans.one("acme.do_it")
    assert (call.kind, parent_of(call)) == (SpanKind.INTERNAL, context_of(spans.one("the application")))
    assert context_of(spans.one("the application"))[1] == inside.get_span_context().span_id
    assert call.status.status_code is StatusCode.UNSET
    assert dict(call.attributes or {}) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "rewards.attempts": 3,
    }
    assert [(each.name, (each.attributes or {})["rewards.attempt"]) for each in call.events] == [("retry", 1), ("retry", 2)]
    assert (call.events[0].attributes or {})["http.response.status_code"] == 503


@pytest.mark.parametrize(("effect", "error"), [(Effect.READ, ServerFailed), (Effect.KEYED, Exception)])
async def test_a_call_that_fails_fails_its_span_without_its_text_key_or_path(
    make_transport: MakeTransport, spans: Spans, effect: Effect, error: type[Exception]
) -> None:
    async with vendor(fails) as v:
        transport = make_transport(v.url, observers=[CallSpans("acme")], retry=QUICK)
        with pytest.raises(error):
            await transport.call(request_to(transport, effect, key="hunter2-key", url=transport.url("user", "hunter2")))
    call = spans.one("acme.do_it")
    assert call.status.status_code is StatusCode.ERROR
    about = call.attributes or {}
    assert about["error.type"] == ("ServerFailed" if effect is Effect.READ else "OutcomeUnknown")
    assert about.get("rewards.outcome_unknown") == (None if effect is Effect.READ else True)
    assert "hunter2" not in spans.text()


async def test_calls_within_a_call_and_beside_it_keep_their_own_spans(spans: Spans) -> None:
    async with OriginalSandbox() as sandbox:
        client = OriginalClient(API_KEY, API_SECRET, base_url=sandbox.url, observers=[CallSpans("original")])
        async with client:
            reward = next(iter(REWARDS))

            async def grant(nonce: str) -> Any:
                with trace.get_tracer("application").start_as_current_span(nonce):
                    return await client.create_allocation(
                        reward_uid=reward, to_user_uid="754566475542", amount="1.23", nonce=nonce
                    )

            await asyncio.gather(*(grant(f"n{number}") for number in range(5)))
            await grant("n0")  # its nonce is known, so it is looked up
    made = spans.named("original.create_allocation")
    assert sorted(str(parent_of(each)) for each in made[:5]) == sorted(
        str(context_of(spans.named(f"n{number}")[0])) for number in range(5)
    )
    again = context_of(spans.named("n0")[1])
    later = [span for name in spans.names() for span in spans.named(name) if name.startswith("original.")][5:]
    assert len(later) > 1
    assert all(parent_of(each) in {again, context_of(made[5])} for each in later)


def test_calls_within_a_call_end_their_own_spans(spans: Spans) -> None:
    observer = CallSpans("acme")

    def begin(name: str) -> None:
        observer.on_start(CallStarted(operation=name, method="GET", path="/", idempotency_key=None))

    def end(name: str) -> None:
        observer.on_end(
            CallEnded(
                operation=name, idempotency_key=None, attempts=1, elapsed=1.0, status=200, error=None, outcome_unknown=False
            )
        )

    begin("outer")
    for name in ("first", "second"):
        begin(name)
        end(name)
    end("outer")
    assert spans.names() == ["acme.first", "acme.second", "acme.outer"]
    assert {parent_of(spans.one(f"acme.{name}")) for name in ("first", "second")} == {context_of(spans.one("acme.outer"))}


async def test_the_sessions_of_others_are_used_with_their_own_hooks(make_transport: MakeTransport, spans: Spans) -> None:
    """An instrumentation of aiohttp's client hangs on such a hook."""
    hooks, seen = aiohttp.TraceConfig(), list[int]()

    async def note(*_: Any) -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    hooks.on_request_start.append(note)
    async with vendor(fails_twice) as v, aiohttp.ClientSession(trace_configs=[hooks]) as session:
        transport = make_transport(v.url, session=session, observers=[CallSpans("acme")], retry=QUICK)
        await transport.call(request_to(transport))
    assert seen == [context_of(spans.one("acme.do_it"))[1]] * 3


async def test_a_call_that_ends_where_it_did_not_begin_is_left_alone(spans: Spans) -> None:
    ended = CallEnded(
        operation="do_it", idempotency_key=None, attempts=1, elapsed=1.0, status=None, error="X", outcome_unknown=False
    )
    CallSpans("acme").on_end(ended)
    assert len(spans) == 0


async def test_a_call_without_an_sdk_records_nothing(
    make_transport: MakeTransport, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    transport = make_transport(observers=[CallSpans("acme")], retry=QUICK)
    with pytest.raises(ConnectFailed):
        await transport.call(request_to(transport))
    assert len(spans) == 0
    assert start_span("x", {}) is UNRECORDED


def test_text_that_cannot_be_exported_is_replaced(spans: Spans) -> None:
    with start_span("a\ud800b\n" + "x" * 300, {"a": "\udfff1", "long": "y" * 300, "none": None}):
        pass
    (name,) = spans.names()
    assert (name[:4], len(name)) == ("a b ", 256)
    about = spans.one(name).attributes or {}
    assert (about["a"], len(str(about["long"])), "none" in about) == ("1", 256, False)


@pytest.mark.parametrize(("vendor_name", "error"), [("", ValueError), (1, TypeError)])
def test_the_name_of_the_vendor_is_checked(vendor_name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="vendor"):
        CallSpans(vendor_name)
