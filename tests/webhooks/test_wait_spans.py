"""Spans of waits, and their links to the deliveries that settled them."""

from __future__ import annotations

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from tests.span_kit import Spans, context_of, linked, spans
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import body_of, words_of
from tests.webhooks.receiver_kit import Failing, deliver
from tests.webhooks.world import World, a_world, settle
from webhooks import CompletionTimeout, MemoryStore, Receiver

__all__ = ["spans"]


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
    monkeypatch.setattr("webhooks.spans.MAX_KEPT", 3)
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
