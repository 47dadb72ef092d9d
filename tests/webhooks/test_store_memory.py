"""The store contract in memory, and the limits of a `MemoryStore`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from attrs import evolve

from rewards_core.errors import StoreFull
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import FakeSource, a_ref, body_of
from tests.webhooks.store_contract import (
    A_DAY,
    PAY,
    LoopTime,
    StoreContract,
    claim,
    event,
    made_with,
    outcome,
    ref,
    resource,
    wants,
)
from tests.webhooks.store_contract.events import words
from webhooks.store.base import Store
from webhooks.store.memory import MemoryStore
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.records import Acceptance, EventState


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


async def test_an_event_that_waits_again_does_not_leave(time: LoopTime) -> None:
    store = await a_store(time, max_events=2)
    await store.accept(event("1"))
    await store.accept(event("2"))
    (_, first) = await store.list_events()
    await store.register_handlers([wants()])
    await store.requeue([first.id], every_handler=True)
    await store.retire_handler("shop", PAY)
    await store.accept(event("3"))
    assert await words(store) == ["3", "1"]


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


async def test_leases_given_over_and_over_leave_nothing_behind(time: LoopTime) -> None:
    store = await a_store(time)
    for number in range(2_000):
        await store.accept(event(str(number), name="waits", of=ref(str(number))))
        await store.record_outcome(outcome(ref(str(number)), at=time.wall))
        (claimed,) = await claim(store, limit=1)
        await store.finish_job(claimed.job)
    assert await claim(store) == []
    counted = await store.statistics()
    assert (counted.ready, counted.lookups, counted.pending) == (0, 0, 0)


async def test_an_event_that_cannot_be_kept_leaves_nothing_so_that_it_can_come_again(time: LoopTime) -> None:
    store = await a_store(time)
    good = event("1", of=ref("1"), complete=resource("1"))
    unkeepable = [evolve(good, resource={**resource("1"), "more": object()}), evolve(good, correlation_id=object())]  # type: ignore[arg-type]
    for bad in unkeepable:
        with pytest.raises(TypeError, match="JSON"):
            await store.accept(bad)
    assert await words(store) == []
    assert await store.accept(good) is Acceptance.NEW
    assert await store.outcome(ref("1")) is not None


async def test_a_conflict_is_kept_though_there_is_no_room_to_tell_of_it(time: LoopTime, caplog: pytest.LogCaptureFixture) -> None:
    store = await a_store(time, max_events=1)
    await store.register_handlers([wants(PAY, "waits", CONFLICT_EVENT)])
    await store.record_outcome(outcome(ref("1"), "failed"))
    assert await store.accept(event("1", name="waits", of=ref("1"), complete=resource("1"))) is Acceptance.NEW
    assert [one.status for one in await store.conflicts(ref("1"))] == ["done"]
    assert await words(store) == ["1"]
    said("a conflict is kept though there is no room to tell of it", "\n".join(caplog.messages))


async def test_names_of_events_that_the_sender_chooses_make_jobs_however_many_there_are(time: LoopTime) -> None:
    store = await a_store(time)
    await store.register_handlers([wants()])
    for number in range(1_200):
        await store.accept(event(str(number), name=f"strange.{number}"))
    assert len(await claim(store, limit=2_000)) == 1_200


async def test_a_done_event_is_listed_as_done(time: LoopTime) -> None:
    store = await a_store(time)
    await store.accept(event("1"))
    assert [kept.state for kept in await store.list_events(state=EventState.DONE)] == [EventState.DONE]


# outcomes


async def test_the_oldest_outcomes_leave_when_there_are_too_many(time: LoopTime) -> None:
    store = await a_store(time, max_events=2)
    for number in range(4):
        await store.record_outcome(outcome(ref(str(number)), at=time.wall))
    assert [one.ref.uid for one in await store.outcomes([ref(str(number)) for number in range(4)])] == ["2", "3"]


async def test_outcomes_that_left_are_not_found_by_their_keys(time: LoopTime) -> None:
    store = await a_store(time, max_events=2, retention=60)
    for number in range(5):
        await store.record_outcome(outcome(ref(str(number)), at=time.wall, key=None if number == 2 else "k"))
    assert await made_with(store, "k") == ["3", "4"]
    await time.advance(61)
    await store.record_outcome(outcome(ref("5"), at=time.wall))
    assert await made_with(store, "k") == []


async def test_an_event_that_no_subscriber_hears_of_is_found_by_its_key(time: LoopTime) -> None:
    store = await a_store(time)
    await store.accept(event(of=ref("1"), complete=resource("1"), key="k"))
    assert await made_with(store, "k") == ["1"]


async def test_an_outcome_that_comes_again_after_a_purge_does_not_leave_too_early(time: LoopTime) -> None:
    store = await a_store(time, max_events=2)
    await store.record_outcome(outcome(ref("1"), at=time.wall))
    assert await store.purge_outcomes(0) == 1
    await store.record_outcome(outcome(ref("1"), at=time.wall))
    await store.record_outcome(outcome(ref("2"), at=time.wall))
    assert await store.outcome(ref("1")) is not None


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


@virtual_time
async def test_operations_that_are_no_longer_due_are_passed_over_a_thousand_at_a_time() -> None:
    store = MemoryStore(clock=wall)
    many = [a_ref(str(number)) for number in range(2_500)]
    await store.watch(many, poll_in=1)
    await store.remove_pending(many)
    await store.watch([a_ref("left")], poll_in=1)
    await asyncio.sleep(1)
    claims = []
    for _ in range(3):
        some = await store.claim_polls("default", limit=10, lease=60, max_per_second=20)
        claims.append([one.ref.uid for one in some.claims])
        assert some.next_in == 0.0 or some.claims
    assert claims == [[], [], ["left"]]
