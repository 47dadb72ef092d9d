"""An SDK that fails costs spans, and nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from rewards_core import tracing
from rewards_core.observe import CallEnded, CallRetried, CallStarted
from rewards_core.tracing import UNRECORDED, CallSpans, start_span
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import FakeSource
from tests.webhooks.receiver_kit import DONE, deliver, listening, send
from tests.webhooks.world import a_world, settle
from webhooks import MemoryStore, Receiver

FAULT = "the OpenTelemetry SDK failed"


class BadSampler(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    def get_description(self) -> str:
        return "bad"


class BadStart(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise ZeroDivisionError


class BadEnd(SpanProcessor):
    def on_end(self, span: Any) -> None:
        raise ZeroDivisionError


class BadExporter(SpanExporter):
    def export(self, spans: Any) -> Any:
        raise ZeroDivisionError


def raises(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


def use(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Set up an SDK that fails in one place."""
    provider = TracerProvider(sampler=BadSampler() if fault == "sampler" else ALWAYS_ON, shutdown_on_exit=False)
    if fault == "exporter":
        provider.add_span_processor(SimpleSpanProcessor(BadExporter()))
    elif fault in {"on_start", "on_end"}:
        provider.add_span_processor(BadStart() if fault == "on_start" else BadEnd())
    elif fault != "sampler":
        monkeypatch.setattr(Span, fault, raises)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    assert tracing.recording()


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test see the first fault of its process, and leave no provider behind."""
    monkeypatch.setattr(tracing, "_told", False)
    monkeypatch.setattr(tracing, "_ask_at", 0.0)
    yield
    monkeypatch.undo()
    tracing.recording()


def _fail_inside_a_span() -> None:
    with start_span("a", {}) as span:
        span.event("b", {})
        raise KeyError("mine")


FAULTS = ["sampler", "on_start", "on_end", "exporter", "set_attribute", "set_attributes", "set_status", "update_name", "end"]
FAULTS += ["add_link", "add_event", "get_span_context"]


@virtual_time
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_delivery_is_stored_handled_and_waited_for_whatever_the_sdk_raises(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, fault)
    ran = asyncio.Event()
    async with a_world() as world:
        receiver = Receiver(world.source, world.store)

        @receiver.on("*", name="greet")
        async def greet(_: Any) -> None:
            ran.set()

        async with receiver:
            waiting = world.start("1", timeout=60)
            await settle()
            assert await deliver(receiver) == 200
            await waiting
            await ran.wait()
    levels = [record.levelno for record in caplog.records if FAULT in record.message]
    unseen = {"exporter", "set_attribute", "set_status", "update_name", "add_event"}  # the SDK's own log, or not called
    assert levels == ([] if fault in unseen else [logging.WARNING])


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_request_is_answered_whatever_the_sdk_raises(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fault)
    source = FakeSource()
    async with listening(Receiver(source, MemoryStore())) as url:
        statuses = [await send(f"{url}/webhooks/original", DONE, headers) for headers in (source.sign(DONE), {})]
    assert statuses == [200, 401]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_of_the_body_passes_and_its_span_is_no_longer_current(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fault)
    with pytest.raises(KeyError, match="mine"):
        _fail_inside_a_span()
    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("fault", FAULTS)
def test_an_observer_of_calls_raises_nothing(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fault)
    observer = CallSpans("acme")
    observer.on_start(CallStarted(operation="x", method="GET", path="/", idempotency_key=None))
    observer.on_retry(CallRetried(operation="x", attempt=1, status=503, reason="", delay=1.0))
    observer.on_end(
        CallEnded(operation="x", idempotency_key=None, attempts=2, elapsed=1.0, status=None, error="X", outcome_unknown=False)
    )


def test_what_stops_a_program_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "sampler")
    monkeypatch.setattr(BadSampler, "should_sample", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        start_span("a", {})


def test_an_sdk_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "sampler")
    assert start_span("a", {}) is UNRECORDED
    monkeypatch.setattr(BadSampler, "should_sample", ALWAYS_ON.should_sample)
    with start_span("a", {}) as span:
        assert span is not UNRECORDED


def test_an_sdk_that_is_set_up_later_is_found_without_asking_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 1000.0, list[None]()

    def provider() -> Any:
        asked.append(None)
        return trace.get_tracer_provider()

    monkeypatch.setattr(tracing, "monotonic", lambda: now)
    monkeypatch.setattr(tracing, "_find_provider", provider)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    tracing.recording()
    asked.clear()
    monkeypatch.setattr(tracing, "_ask_at", 0.0)
    assert [tracing.recording() for _ in range(100)] == [False] * 100
    assert len(asked) == 1
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", TracerProvider(shutdown_on_exit=False))
    now += 1.0
    assert tracing.recording()
