from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from attrs import evolve

from rewards_core.errors import StoreFull
from tests.webhooks.store_contract import A_DAY, PAY, Clock, Ear, StoreContract, collect, event, made_with, outcome, ref, resource
from webhooks.store.base import Acceptance, EventState, Store
from webhooks.store.memory import MemoryStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    store = MemoryStore(clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
def ear(store: Store) -> Ear:
    ear = Ear()
    store.subscribe(ear)
    return ear


class TestMemoryStore(StoreContract):
    pass


async def words(store: Store) -> list[bytes]:
    return [kept.event.body for kept in await store.list_events()]


async def test_the_oldest_event_that_is_done_with_leaves_first_then_the_oldest_dead_letter(clock: Clock) -> None:
    store = MemoryStore(max_events=3, clock=clock)
    await store.accept(event("dead", problem="unreadable"))
    await store.accept(event("ready"), handlers=[PAY])
    await store.accept(event("done"))
    await store.accept(event("1"), handlers=[PAY])
    assert await words(store) == [event(word).body for word in ("1", "ready", "dead")]
    await store.accept(event("2"), handlers=[PAY])
    assert await words(store) == [event(word).body for word in ("2", "1", "ready")]


async def test_an_event_is_refused_rather_than_one_forgotten_that_waits_for_its_handlers(clock: Clock) -> None:
    store = MemoryStore(max_events=1, clock=clock)
    await store.accept(event("1"), handlers=[PAY])
    with pytest.raises(StoreFull, match="handlers"):
        await store.accept(event("2"), handlers=[PAY])
    (claimed,) = await store.claim_jobs(PAY, limit=1, lease=60)
    await store.finish_job(claimed.job)
    assert await store.accept(event("2"), handlers=[PAY]) is Acceptance.NEW
    assert await words(store) == [event("2").body]


async def test_a_requeued_event_does_not_leave(clock: Clock) -> None:
    store = MemoryStore(max_events=2, clock=clock)
    await store.accept(event("1"))
    await store.accept(event("2"))
    (_, first) = await store.list_events()
    await store.requeue([first.id], [PAY])
    await store.accept(event("3"))
    assert await words(store) == [event("3").body, event("1").body]


async def test_events_and_outcomes_leave_when_their_retention_is_over(clock: Clock) -> None:
    store = MemoryStore(retention=60, clock=clock)
    await store.accept(event("requeued"))
    (kept,) = await store.list_events()
    await store.accept(event("old"))
    await store.requeue([kept.id], [PAY])
    await store.record_outcome(outcome(ref("old"), at=clock.now))
    await store.purge(clock.now)
    clock.now += 61
    for number in range(3):
        await store.accept(event(str(number)))
        await store.record_outcome(outcome(ref(str(number)), at=clock.now))
    assert await words(store) == [event(word).body for word in ("2", "1", "0", "requeued")]
    assert await store.outcome(ref("old")) is None
    assert await store.outcome(ref("0")) is not None


async def test_the_oldest_outcomes_leave_when_there_are_too_many(clock: Clock) -> None:
    store = MemoryStore(max_events=2, clock=clock)
    for number in range(4):
        await store.record_outcome(outcome(ref(str(number)), at=clock.now))
    assert [one.ref.uid for one in await store.outcomes([ref(str(number)) for number in range(4)])] == ["2", "3"]


async def test_outcomes_that_left_are_not_found_by_their_keys(clock: Clock) -> None:
    store = MemoryStore(max_events=2, retention=60, clock=clock)
    for number in range(5):
        await store.record_outcome(outcome(ref(str(number)), at=clock.now, key=None if number == 2 else "k"))
    assert await made_with(store, "k") == ["3", "4"]
    clock.now += 61
    await store.record_outcome(outcome(ref("5"), at=clock.now))
    assert await made_with(store, "k") == []


async def test_keys_of_outcomes_that_left_take_no_room(clock: Clock) -> None:
    store = MemoryStore(max_events=2, clock=clock)
    for number in range(100):
        await store.record_outcome(outcome(ref(str(number)), at=clock.now, key=str(number)))
    assert len(store._outcomes._by_key) == 2


async def test_an_event_that_nobody_hears_of_is_found_by_its_key(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    await store.accept(event(of=ref("1"), complete=resource("1"), key="k"))
    assert await made_with(store, "k") == ["1"]


async def test_identities_stay_four_hundred_days_or_until_there_are_ten_times_as_many_as_events(clock: Clock) -> None:
    store = MemoryStore(max_events=2, clock=clock)
    await store.accept(event("old"))
    clock.now += 400 * A_DAY
    assert await store.accept(event("old")) is Acceptance.DUPLICATE
    await store.accept(event("other"))
    assert await store.accept(event("old")) is Acceptance.DUPLICATE
    clock.now += A_DAY
    await store.accept(event("another"))
    assert await store.accept(event("old")) is Acceptance.NEW
    for number in range(30):
        await store.accept(event(str(number)))
    assert await store.accept(event("29")) is Acceptance.DUPLICATE
    assert await store.accept(event("10")) is Acceptance.DUPLICATE
    assert await store.accept(event("9")) is Acceptance.NEW


async def test_pending_operations_leave_when_their_retention_is_over(clock: Clock) -> None:
    store = MemoryStore(retention=100, clock=clock)
    await store.add_pending([ref("old")])
    clock.now += 50
    await store.add_pending([ref("young")])
    clock.now += 60
    await store.add_pending([ref("new")])
    assert await collect(store) == {ref("young"), ref("new")}


async def test_the_oldest_question_leaves_when_there_are_too_many(clock: Clock) -> None:
    store = MemoryStore(max_events=2, clock=clock)
    for number in range(3):
        await store.accept(event(str(number), of=ref(str(number))))
        clock.now += 1
    assert list(await store.claim_questions("default", limit=5, lease=60)) == [ref("1"), ref("2")]


async def test_leases_given_over_and_over_leave_nothing_behind(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    for number in range(2_000):
        await store.accept(event(str(number), of=ref(str(number))), handlers=[PAY])
        await store.record_outcome(outcome(ref(str(number)), at=clock.now))
        (claimed,) = await store.claim_jobs(PAY, limit=1, lease=60)
        await store.finish_job(claimed.job)
    assert await store.claim_jobs(PAY, limit=1, lease=60) == []
    assert await store.claim_questions("default", limit=1, lease=60) == []
    counted = await store.statistics()
    assert (counted.ready, counted.questions) == (0, 0)


async def test_a_settled_event_state_is_listed_as_done(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    await store.accept(event("1"))
    assert [kept.state for kept in await store.list_events(state=EventState.DONE)] == [EventState.DONE]


async def test_an_event_that_cannot_be_kept_leaves_nothing_so_that_it_can_come_again(clock: Clock) -> None:
    store = MemoryStore(clock=clock)
    good = event("1", of=ref("1"), complete=resource("1"))
    unkeepable = [evolve(good, resource={**resource("1"), "more": object()}), evolve(good, correlation_id=object())]  # type: ignore[arg-type]
    for bad in unkeepable:
        with pytest.raises(TypeError, match="JSON"):
            await store.accept(bad)
    assert await words(store) == []
    assert await store.accept(good) is Acceptance.NEW
    assert await store.outcome(ref("1")) is not None


async def test_a_conflict_is_kept_though_there_is_no_room_to_tell_of_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(max_events=1, clock=clock)
    store.route_conflicts({"default": [PAY]})
    await store.record_outcome(outcome(ref("1"), "failed"))
    assert await store.accept(event("1", of=ref("1"), complete=resource("1")), handlers=[PAY]) is Acceptance.NEW
    assert [one.status for one in await store.conflicts(ref("1"))] == ["done"]
    assert await words(store) == [event("1", of=ref("1"), complete=resource("1")).body]
    assert "no handler can be told" in caplog.text


async def test_an_outcome_that_comes_again_after_a_purge_does_not_leave_too_early(clock: Clock) -> None:
    store = MemoryStore(max_events=2, clock=clock)
    await store.record_outcome(outcome(ref("1"), at=clock.now))
    assert await store.purge_outcomes(clock.now + 1) == 1
    await store.record_outcome(outcome(ref("1"), at=clock.now))
    await store.record_outcome(outcome(ref("2"), at=clock.now))
    assert await store.outcome(ref("1")) is not None


async def test_the_oldest_pending_operations_leave_when_there_are_about_ten_times_as_many_as_events(clock: Clock) -> None:
    store = MemoryStore(max_events=100, clock=clock)
    for number in range(2_000):
        await store.add_pending([ref(str(number), kind="claim" if number % 10 == 0 else "allocation")])
    left = {int(one.uid) for one in await collect(store)}
    assert 900 <= len(left) <= 1_001
    assert 1_999 in left
    assert 1 not in left
