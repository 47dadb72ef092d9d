"""Large bodies are parsed off the loop, and only once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from rewards_core.operations import Event
from tests.webhooks.fakes import FakeSource, body_of
from webhooks import MemoryStore, Receiver, SQLiteStore
from webhooks.handlers import Handler
from webhooks.parsing import LARGE_BODY

LARGE = body_of(uid="1", filler="x" * LARGE_BODY)


class Watched(FakeSource):
    """Records the threads in which it parses, and waits there for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[int] = []
        self.reading = 0
        self.most_at_once = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self._lock = threading.Lock()

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        with self._lock:
            self.threads.append(threading.get_ident())
            self.reading += 1
            self.most_at_once = max(self.most_at_once, self.reading)
        try:
            assert self.may_go_on.wait(60)
            return super().parse(body, headers)
        finally:
            with self._lock:
                self.reading -= 1


async def deliver(receiver: Receiver, body: bytes) -> int:
    return (await receiver.receive(FakeSource().sign(body), body)).status


async def until_reading(source: Watched, count: int) -> None:
    while source.reading < count:
        await asyncio.sleep(0)


async def test_a_large_body_leaves_the_loop_free_while_it_is_read_and_a_small_one_is_read_at_once() -> None:
    source = Watched()
    receiver = Receiver(source, MemoryStore())
    assert await deliver(receiver, body_of(uid="2")) == 200
    assert source.threads == [threading.get_ident()]
    source.may_go_on.clear()
    delivery = asyncio.create_task(deliver(receiver, LARGE))
    await until_reading(source, 1)  # the loop runs
    source.may_go_on.set()
    assert await delivery == 200
    assert source.threads[1] != threading.get_ident()
    assert [kept.event.body for kept in await receiver.store.list_events()] == [LARGE, body_of(uid="2")]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_large_body_is_read_once_for_its_delivery_and_all_its_handlers(kind: str, tmp_path: Path) -> None:
    source, seen = Watched(), asyncio.Queue[Event]()
    store = MemoryStore() if kind == "memory" else SQLiteStore(tmp_path / "inbox.db")
    receiver = Receiver(source, store)
    for name in ("one", "two"):
        receiver.on("*", name=name)(put_into(seen))
    body = body_of(resource={"uid": "1", "status": "done", "amount": "1.5", "more": "x" * LARGE_BODY})
    async with receiver:
        reply = await receiver.receive({**source.sign(body), "x-attempt": "2"}, body)
        assert reply.status == 200
        events = [await seen.get(), await seen.get()]
    await store.aclose()
    assert len(source.threads) == 1
    for event in events:
        assert (event.body, event.attempt) == (body, "2")
        assert event.resource is not None
        assert event.resource["amount"] == "1.5"


def put_into(seen: asyncio.Queue[Event]) -> Handler:
    async def handle(event: Event) -> None:
        seen.put_nowait(event)

    return handle


async def test_what_another_body_said_is_not_taken_for_it() -> None:
    """Two bodies of one event may differ in what its identity leaves out: the kept one is what handlers get."""
    source, seen = Watched(), asyncio.Queue[Event]()
    receiver = Receiver(source, MemoryStore())
    first, second = (body_of(uid="1", filler="x" * LARGE_BODY, sent_at=at) for at in ("10:00", "10:05"))
    for body in (first, second):
        assert await deliver(receiver, body) == 200
    receiver.on("*", name="late")(put_into(seen))
    async with receiver:
        assert await deliver(receiver, second) == 200
        (kept,) = await receiver.store.list_events()
        assert await receiver.replay([kept.id]) == 1
        assert (await seen.get()).body == first


async def test_few_large_bodies_are_read_at_once() -> None:
    source = Watched()
    receiver = Receiver(source, MemoryStore())
    source.may_go_on.clear()
    bodies = [body_of(uid=str(number), filler="x" * LARGE_BODY) for number in range(8)]
    async with asyncio.TaskGroup() as group:
        deliveries = [group.create_task(deliver(receiver, body)) for body in bodies]
        await until_reading(source, 2)
        source.may_go_on.set()
    assert {delivery.result() for delivery in deliveries} == {200}
    assert source.most_at_once == 2


async def test_many_large_bodies_are_all_read_for_their_handlers() -> None:
    source, seen = Watched(), asyncio.Queue[Event]()
    receiver = Receiver(source, MemoryStore())
    for uid in map(str, range(9)):
        assert await deliver(receiver, body_of(uid=uid, filler="x" * LARGE_BODY)) == 200
    receiver.on("*", name="late")(put_into(seen))
    async with receiver:
        assert await receiver.replay([kept.id for kept in await receiver.store.list_events()]) == 9
        handled = {(event.ref.uid if event.ref else None) for event in [await seen.get() for _ in range(9)]}
    assert handled == set(map(str, range(9)))


async def test_a_delivery_that_is_cancelled_while_it_is_read_ends_and_holds_up_nothing() -> None:
    source = Watched()
    receiver = Receiver(source, MemoryStore())
    source.may_go_on.clear()
    deliveries = [asyncio.create_task(deliver(receiver, LARGE)) for _ in range(2)]
    await until_reading(source, 2)
    for delivery in deliveries:
        delivery.cancel()
    assert all(isinstance(ended, asyncio.CancelledError) for ended in await asyncio.gather(*deliveries, return_exceptions=True))
    source.may_go_on.set()
    assert await deliver(receiver, LARGE) == 200
    assert len(await receiver.store.list_events()) == 1


async def test_a_large_body_that_its_source_cannot_read_is_kept_as_a_dead_letter() -> None:
    class Failing(FakeSource):
        def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
            raise LookupError

    receiver = Receiver(Failing(), MemoryStore())
    assert await deliver(receiver, LARGE) == 200
    (kept,) = await receiver.store.list_events()
    assert "LookupError" in (kept.event.problem or "")
