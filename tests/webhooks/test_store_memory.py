"""The store contract in memory, and the limits of a `MemoryStore`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rewards_core.errors import StoreFull
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import FakeSource, a_ref, body_of
from tests.webhooks.store_contract import (
    A_DAY,
    PAY,
    LoopTime,
    PollsMachine,
    StoreContract,
    claim,
    event,
    outcome,
    ref,
    wants,
)
from tests.webhooks.store_contract.events import words
from webhooks.store.base import Store
from webhooks.store.memory import MemoryStore
from webhooks.store.records import Acceptance


@pytest_asyncio.fixture
async def time(monkeypatch: pytest.MonkeyPatch) -> LoopTime:
    time = LoopTime()
    time.rule(monkeypatch)
    return time


@pytest_asyncio.fixture
async def stores(time: LoopTime) -> AsyncIterator[tuple[Store, Store]]:
    store = MemoryStore(retention=1_000 * A_DAY, clock=time.clock)
    yield store, store
    await store.aclose()


class TestMemoryStore(StoreContract):
    pass


class MemoryPolls(PollsMachine):
    def make_store(self) -> Store:
        return MemoryStore(clock=wall)


TestPolls = pytest.mark.repeats_itself(MemoryPolls.TestCase)


async def a_store(time: LoopTime, *, max_events: int = 100_000, retention: float = A_DAY) -> MemoryStore:
    """Return a store in which a handler wants events that wait."""
    store = MemoryStore(max_events=max_events, retention=retention, clock=time.clock)
    await store.register_handlers([wants(PAY, "waits")])
    return store


# events


async def test_the_oldest_done_event_leaves_first_then_the_oldest_dead_letter(time: LoopTime) -> None:
    store = await a_store(time, max_events=3)
    await store.accept(event("dead", problem="unreadable"))
    await store.accept(event("ready", name="waits"))
    await store.accept(event("done"))
    await store.accept(event("1", name="waits"))
    assert await words(store) == ["1", "ready", "dead"]
    await store.accept(event("2", name="waits"))
    assert await words(store) == ["2", "1", "ready"]


async def test_an_event_is_refused_rather_than_one_forgotten_that_waits_for_its_handlers(time: LoopTime) -> None:
    store = await a_store(time, max_events=1)
    await store.accept(event("1", name="waits"))
    with pytest.raises(StoreFull) as caught:
        await store.accept(event("2", name="waits"))
    said("an event is refused rather than one forgotten that waits for its handlers", caught.value)
    (claimed,) = await claim(store)
    await store.finish_job(claimed.job)
    assert await store.accept(event("2", name="waits")) is Acceptance.NEW
    assert await words(store) == ["2"]


async def test_events_and_outcomes_leave_when_their_retention_is_over(time: LoopTime) -> None:
    store = await a_store(time, retention=60)
    await store.accept(event("waiting", name="waits"))
    await store.accept(event("old"))
    await store.record_outcome(outcome(ref("old"), at=time.wall))
    await time.jump(-10_000)
    await time.advance(59)
    await store.accept(event("young"))
    assert await words(store) == ["young", "old", "waiting"]
    await time.advance(2)
    for number in range(3):
        await store.accept(event(str(number)))
        await store.record_outcome(outcome(ref(str(number)), at=time.wall))
    assert await words(store) == ["2", "1", "0", "young", "waiting"]
    assert await store.outcome(ref("old")) is None
    assert await store.outcome(ref("0")) is not None


async def test_identities_stay_until_there_are_ten_times_as_many_as_events(time: LoopTime) -> None:
    store = await a_store(time, max_events=2)
    for number in range(30):
        await store.accept(event(str(number)))
    assert await store.accept(event("29")) is Acceptance.DUPLICATE
    assert await store.accept(event("10")) is Acceptance.DUPLICATE
    assert await store.accept(event("9")) is Acceptance.NEW


# outcomes


async def test_the_oldest_outcomes_leave_when_there_are_too_many(time: LoopTime) -> None:
    store = await a_store(time, max_events=2)
    for number in range(4):
        await store.record_outcome(outcome(ref(str(number)), at=time.wall))
    assert [one.ref.uid for one in await store.outcomes([ref(str(number)) for number in range(4)])] == ["2", "3"]


# pending operations


async def pending(store: MemoryStore) -> set[str]:
    return {one.ref.uid for one in await store.list_pending(limit=1_000)}


@virtual_time
async def test_of_too_many_pending_operations_those_leave_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(max_events=10, clock=wall)
    await store.watch([a_ref("watched")], poll_in=1)
    await store.add_pending([a_ref(str(number)) for number in range(150)], poll_in=10)
    left = await pending(store)
    assert 98 <= len(left) <= 101
    assert {"watched", "149"} <= left
    said("of too many pending operations those leave that nobody waits for", caplog.messages[0])
    await store.watch([a_ref(f"also watched {number}") for number in range(200)], poll_in=1)
    assert len(await pending(store)) >= 201


@virtual_time
async def test_operations_that_events_mention_are_bounded_too(caplog: pytest.LogCaptureFixture) -> None:
    store, source = MemoryStore(max_events=10, clock=wall), FakeSource()
    await store.watch([a_ref("watched")], poll_in=1)
    for number in range(300):
        await store.accept(source.parse(body_of(uid=str(number))))
    assert len(await pending(store)) == 100
    said("operations that events mention are bounded too", "\n".join(caplog.messages))
    await store.watch([a_ref("299")], poll_in=1)
    assert {"watched", "0", "299"} <= await pending(store)
