"""Spans of handlers, and their links to the deliveries that caused them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from tests.span_kit import Spans, context_of, linked, parent_of, spans
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import FakeSource
from tests.webhooks.receiver_kit import deliver
from webhooks import HandlerPolicy, MemoryStore, Receiver
from webhooks.errors import RetryLater

__all__ = ["spans"]


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
