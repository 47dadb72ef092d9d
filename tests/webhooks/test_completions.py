"""One caller waits for one operation."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from typing import Any, cast

import pytest

from rewards_core.errors import NotFound, OperationFailed, OperationMismatch
from rewards_core.operations import OperationRef, OperationStatus
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import FakeSource, Thing, a_ref, a_thing, body_of, trouble, words_of
from tests.webhooks.world import DeafStore, World, a_world, now, settle
from webhooks import (
    Completions,
    CompletionsClosed,
    CompletionsFailed,
    CompletionTimeout,
    MemoryStore,
    PollPolicy,
    RestartPolicy,
    StoreError,
)
from webhooks.store.base import Outcome, Recorded


def done(uid: str = "1", amount: str = "1.5", status: str = "done", via: Any = "webhook") -> Outcome:
    return Outcome(
        ref=a_ref(uid), status=OperationStatus(status), resource=words_of(uid, status, amount), via=via, settled_at=EPOCH
    )


class SlowStore(MemoryStore):
    """Answers look-ups some time after it has looked, as a store behind a thread or a network does."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(clock=wall)
        self.delay = delay
        self.look_ups = 0

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        self.look_ups += 1
        found = await super().outcome(ref)
        await asyncio.sleep(self.delay)
        return found


# where the news comes from


@virtual_time
async def test_an_event_before_its_waiter_resolves_immediately() -> None:
    async with a_world() as world:
        await world.deliver("1")
        final = await world.completions.wait("1", timeout=300)
        assert (now(), final.status, final.ref) == (0.0, OperationStatus.DONE, a_ref("1"))
        assert world.vendor.reads == []


@virtual_time
async def test_an_event_wakes_its_waiter_at_once_and_without_a_request() -> None:
    async with a_world() as world:
        waiting = world.start(a_thing("1"), timeout=300)
        await asyncio.sleep(7)
        await world.deliver("1")
        final = await waiting
        assert (now(), final.amount) == (7.0, "1.5")
        assert world.vendor.reads == []
        statistics = world.completions.statistics
        assert (statistics.settled_by_webhook, statistics.settled_by_poll) == (1, 0)
        assert statistics.delays["webhook"] == (0.0,)


@virtual_time
async def test_an_event_between_the_look_up_and_the_registration_is_not_missed() -> None:
    async with a_world(store=SlowStore(delay=0.5)) as world:
        waiting = world.start("1")
        await asyncio.sleep(0.1)
        await world.deliver("1")
        await waiting
        assert now() == 1.0


@virtual_time
async def test_without_a_webhook_the_poll_settles() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", "done")
        final = await world.completions.wait("1", timeout=300)
        assert final.status is OperationStatus.DONE
        assert world.vendor.read_times == [15.0, 39.0]
        assert world.completions.statistics.settled_by_poll == 1
        kept = await world.store.outcome(a_ref("1"))
        assert (kept.via, kept.settled_at) == ("poll", EPOCH + 39.0)


@virtual_time
async def test_an_operation_kept_as_settled_by_another_process_needs_no_request() -> None:
    store = MemoryStore(clock=wall)
    await store.record_outcome(done(via="poll"))
    async with a_world(store=store) as world:
        assert (await world.completions.wait(a_ref("1"), timeout=1)).status is OperationStatus.DONE
        assert world.vendor.reads == []


@virtual_time
async def test_poll_now_asks_at_once_and_then_as_usual() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", "done")
        await world.completions.wait("1", timeout=300, poll_now=True)
        assert world.vendor.read_times == [0.0, 15.0]


@virtual_time
async def test_an_operation_of_another_scope_or_kind_settles_nothing_here() -> None:
    async with a_world() as world:
        waiting = world.start("1", timeout=10)
        await settle()
        await world.deliver("1", kind="other")
        await world.store.record_outcome(
            Outcome(
                ref=a_ref("1", scope="other"),
                status=OperationStatus.DONE,
                resource=words_of("1", "done"),
                via="webhook",
                settled_at=EPOCH,
            )
        )
        with pytest.raises(CompletionTimeout):
            await waiting


# how it ends


@virtual_time
async def test_failed_is_raised_with_the_operation() -> None:
    async with a_world() as world:
        world.vendor.will("1", "failed")
        with pytest.raises(OperationFailed) as caught:
            await world.completions.wait("1", timeout=60)
        assert caught.value.operation.status is OperationStatus.FAILED
        with pytest.raises(OperationFailed):
            await world.completions.wait("1", timeout=60)
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_what_settled_as_another_than_was_asked_for_is_a_mismatch() -> None:
    async with a_world() as world:
        waiting = world.start(a_thing("1", amount="9"), timeout=60)
        await settle()
        await world.deliver("1", amount="1.5")
        with pytest.raises(OperationMismatch):
            await waiting
        assert (await world.completions.wait(a_ref("1"))).status is OperationStatus.DONE


@virtual_time
async def test_failed_then_done_keeps_the_first_and_shows_the_conflict() -> None:
    async with a_world() as world:
        world.vendor.will("1", "failed")
        with pytest.raises(OperationFailed):
            await world.completions.wait("1", timeout=60)
        await world.deliver("1", "done")
        with pytest.raises(OperationFailed):
            await world.completions.wait("1", timeout=60)
        assert [one.status for one in await world.store.conflicts(a_ref("1"))] == ["done"]
        assert (await world.store.statistics()).conflicts == 1


@virtual_time
async def test_an_event_without_a_resource_about_a_failed_operation_is_looked_into(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        world.vendor.will("1", "failed", "done")
        with pytest.raises(OperationFailed):
            await world.completions.wait("1", timeout=60)
        await world.deliver("1", status=None)
        await asyncio.sleep(1)
        assert [one.status for one in await world.store.conflicts(a_ref("1"))] == ["done"]
        assert world.completions.statistics.conflicts == 1
        assert "is kept as failed" in caplog.text


@virtual_time
async def test_a_timeout_says_what_was_last_known() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending")
        world.vendor.will("2", trouble())
        world.vendor.will("3", "pending", trouble())
        errors: dict[str, Any] = {}
        for uid, timeout in (("1", 20), ("2", 20), ("3", 20), ("4", 5)):
            with pytest.raises(CompletionTimeout) as caught:
                await world.completions.wait(uid, timeout=timeout, poll_now=uid == "3")
            errors[uid] = caught.value
        assert errors["1"].last_seen.status == "pending"
        assert errors["1"].last_error is None
        assert "saw pending" in str(errors["1"])
        assert type(errors["2"].last_error) is type(trouble())
        assert "ServerFailed" in str(errors["2"])
        assert errors["3"].last_seen.status == "pending"
        assert errors["3"].last_error is not None
        assert (errors["4"].ref, errors["4"].timeout, type(errors["4"].last_error)) == (a_ref("4"), 5, NotFound)
        assert isinstance(errors["1"], TimeoutError)
        for again in (pickle.loads(pickle.dumps(errors["1"])), cast("CompletionTimeout", copy.deepcopy(errors["1"]))):
            assert (str(again), again.ref, again.timeout) == (str(errors["1"]), a_ref("1"), 20)
        assert world.completions.statistics.timeouts == 4


@virtual_time
async def test_a_timeout_that_no_poll_preceded_says_so() -> None:
    async with a_world() as world:
        with pytest.raises(CompletionTimeout, match="no poll has answered"):
            await world.completions.wait("1", timeout=0)
        assert now() == 0.0


@virtual_time
async def test_no_wait_ends_later_than_its_timeout() -> None:
    async with a_world() as world:
        world.vendor.latency = 50.0
        with pytest.raises(CompletionTimeout):
            await world.completions.wait("1", timeout=20)
        assert now() == 20.0


@virtual_time
async def test_two_seconds_before_its_deadline_an_operation_is_asked_about_once_more() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        await world.completions.wait("1", timeout=10)
        assert world.vendor.read_times == [8.0]


@virtual_time
async def test_an_outcome_that_came_with_the_timeout_is_found_by_a_last_look() -> None:
    async with a_world(store=DeafStore(clock=wall)) as world:
        waiting = world.start("1", timeout=10)
        await settle()
        await world.store.record_outcome(done())
        await waiting
        assert now() == 10.0


# what is known already


class Unwritable(MemoryStore):
    """Keeps no outcome."""

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        raise StoreError("no room")


@virtual_time
async def test_an_operation_that_is_done_already_is_kept_and_returned_at_once() -> None:
    async with a_world() as world:
        final = await world.completions.wait(a_thing("1", "done", key="k", recovered=True), timeout=60)
        assert (now(), final.status, final.recovered) == (0.0, OperationStatus.DONE, True)
        assert await world.store.outcome(a_ref("1")) == Outcome(
            ref=a_ref("1"),
            status=OperationStatus.DONE,
            resource=words_of("1", "done", key="k"),
            via="poll",
            settled_at=EPOCH,
            key="k",
        )
        with pytest.raises(OperationFailed):
            await world.completions.wait(a_thing("2", "failed"))
        assert world.vendor.reads == []
        assert [ref async for ref in world.store.pending("default")] == []


@virtual_time
async def test_of_an_operation_that_is_done_already_the_first_outcome_stands() -> None:
    async with a_world() as world:
        await world.deliver("1", "failed")
        with pytest.raises(OperationFailed):
            await world.completions.wait(a_thing("1", "done"))
        assert (await world.store.statistics()).conflicts == world.completions.statistics.conflicts == 1


@virtual_time
async def test_without_trust_in_bodies_an_operation_that_is_done_already_is_believed() -> None:
    async with a_world(trust_event_body=False) as world:
        await world.deliver("1", "failed")
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE


@virtual_time
async def test_a_store_that_cannot_keep_it_keeps_nobody_from_what_is_done_already(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(store=Unwritable(clock=wall)) as world:
        beside = world.start("1")
        await settle()
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE
        assert (await beside).status is OperationStatus.DONE
        assert now() == 0.0
        assert "could not be kept" in caplog.text


@virtual_time
async def test_a_store_that_hangs_keeps_nobody_for_long_from_what_is_done_already(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(MemoryStore):
        async def record_outcome(self, outcome: Outcome) -> Recorded:
            await asyncio.sleep(1_000)
            return await super().record_outcome(outcome)

    async with a_world(store=Hanging(clock=wall)) as world:
        assert (await world.completions.wait(a_thing("1", "done"), timeout=10)).status is OperationStatus.DONE
        assert now() == 12.0
        assert "did not answer in time how default/thing/1 ended" in caplog.text
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE
        assert now() == 1_012.0


@virtual_time
async def test_an_operation_that_was_found_instead_of_made_is_asked_about_at_once() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", "done")
        world.vendor.will("2", "done")
        waiting = world.start(a_thing("1", recovered=True)), world.start(a_thing("2"))
        first, second = await asyncio.gather(*waiting)
        assert (first.recovered, second.recovered) == (True, False)
        assert [(at, ref.uid) for at, ref in world.vendor.reads] == [(0.0, "1"), (15.0, "1"), (15.05, "2")]


# who waits


@virtual_time
async def test_two_waiters_on_one_operation_both_get_it_for_one_poll() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        first, second = world.start("1", timeout=60), world.start(a_thing("1"), timeout=90)
        third = world.start(a_thing("1", amount="9"), timeout=90)
        results = await asyncio.gather(first, second, third, return_exceptions=True)
        assert [type(result) for result in results] == [Thing, Thing, OperationMismatch]
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_operations_of_different_kind_with_the_same_uid_are_told_apart() -> None:
    async with a_world() as world:
        thing, other = world.start(a_ref("1")), world.start(a_ref("1", kind="other"))
        await settle()
        await world.deliver("1", kind="other")
        await settle()
        assert (thing.done(), other.done()) == (False, True)
        await world.deliver("1", amount="2.5")
        assert ((await thing).amount, (await other).amount) == ("2.5", "1.5")


@virtual_time
async def test_a_cancelled_waiter_leaves_nothing_and_takes_nobody_with_it() -> None:
    async with a_world() as world:
        first, second, third = (world.start("1", timeout=60) for _ in range(3))
        await settle()
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert world.completions.statistics.waiting == 1
        await world.deliver("1")
        assert (await third).status is OperationStatus.DONE
        assert first.cancelled()
        assert list(world.completions.pending()) == []


@virtual_time
async def test_after_the_last_waiter_left_nothing_is_asked_any_more() -> None:
    async with a_world() as world:
        waiting = world.start("1", timeout=60)
        await settle()
        assert list(world.completions.pending()) == [a_ref("1")]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(600)
        assert world.vendor.reads == []


@virtual_time
async def test_who_waits_again_takes_the_old_turn_over() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", "done")
        for _ in range(20):
            waiting = world.start("1")
            await asyncio.sleep(0.5)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await world.completions.wait("1", timeout=300)
        assert world.vendor.read_times == [15.0, 39.0]


@virtual_time
async def test_a_waiter_that_comes_while_its_operation_is_asked_about_shares_the_answer() -> None:
    async with a_world() as world:
        world.vendor.latency = 5.0
        world.vendor.will("1", "done")
        first = world.start("1", timeout=60)
        await asyncio.sleep(16)
        first.cancel()
        second = world.start("1", timeout=60)
        await second
        assert now() == 20.0
        assert len(world.vendor.reads) == 1


# what events settle


@virtual_time
async def test_an_event_with_only_the_uid_costs_one_request() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        waiting = world.start("1", timeout=60)
        await asyncio.sleep(3)
        await world.deliver("1", status=None)
        await waiting
        assert world.vendor.read_times == [3.0]
        assert now() == 3.0


@virtual_time
async def test_an_event_with_only_the_uid_before_anybody_waits_is_looked_into() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        await world.deliver("1", status=None)
        await settle()
        assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
        assert (now(), world.vendor.read_times) == (0.0, [0.0])


@virtual_time
async def test_if_the_vendor_still_says_pending_it_is_asked_again_soon_and_then_as_usual() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", trouble(), "pending", "pending", "pending", "pending", "done")
        await world.deliver("1", status=None)
        await asyncio.sleep(100)
        assert world.vendor.read_times == [0.0, 1.0, 3.0, 7.0, 15.0, 30.0, 54.0]
        assert await world.store.outcome(a_ref("1")) is not None


@virtual_time
async def test_an_event_without_a_uid_costs_nothing() -> None:
    async with a_world() as world:
        assert await world.deliver(uid=None) == 200
        await asyncio.sleep(100)
        assert world.vendor.reads == []


@virtual_time
async def test_an_event_while_its_operation_is_asked_about_is_not_answered_by_the_older_question() -> None:
    async with a_world() as world:
        world.vendor.latency = 2.0
        world.vendor.will("1", "pending", "done")
        waiting = world.start("1", timeout=60)
        await asyncio.sleep(16)
        await world.deliver("1", status=None)
        await waiting
        assert world.vendor.read_times == [15.0, 17.0]


@virtual_time
async def test_a_resource_that_is_not_terminal_is_asked_about() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        waiting = world.start("1", timeout=60)
        await settle()
        await world.deliver("1", "pending")
        await waiting
        assert world.vendor.read_times == [0.0]


@virtual_time
async def test_without_trust_in_bodies_every_event_is_asked_about() -> None:
    async with a_world(trust_event_body=False) as world:
        world.vendor.will("1", "pending", "failed")
        world.vendor.will("2", "done")
        waiting = world.start("1", timeout=60)
        await settle()
        await world.deliver("1", "done")
        with pytest.raises(OperationFailed):
            await waiting
        assert world.vendor.read_times == [0.0, 1.0]
        world.vendor.reads.clear()
        await world.deliver("2", "done", "7.5")
        assert (await world.completions.wait("2", timeout=60)).amount == "1.5"  # type: ignore[attr-defined]
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_without_trust_an_outcome_learned_by_poll_is_still_the_first() -> None:
    async with a_world(trust_event_body=False) as world:
        world.vendor.will("1", "done")
        await world.completions.wait("1", timeout=60)
        assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_a_kept_outcome_that_cannot_be_read_is_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        unreadable = Outcome(ref=a_ref("1"), status=OperationStatus.DONE, resource={"uid": "1"}, via="webhook", settled_at=EPOCH)
        await world.store.record_outcome(unreadable)
        assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
        assert world.vendor.read_times == [0.0]
        assert "cannot be read" in caplog.text


@virtual_time
async def test_the_outcome_that_was_stored_first_wins_over_the_answer_of_a_poll() -> None:
    class Deaf(MemoryStore):
        def subscribe(self, subscriber: Any) -> None:
            """Tell nobody anything."""

    async with a_world(store=Deaf(clock=wall)) as world:
        world.vendor.will("1", "done")
        waiting = world.start("1", timeout=60)
        await settle()
        await world.store.record_outcome(done(status="failed"))
        with pytest.raises(OperationFailed):
            await waiting
        assert world.completions.statistics.conflicts == 1


# what the store needs


@virtual_time
async def test_who_is_waited_for_is_registered_as_pending_until_it_settles() -> None:
    async with a_world() as world:
        waiting = [world.start(uid, timeout=60) for uid in "123"]
        await settle()
        assert {ref.uid async for ref in world.store.pending("default")} == {"1", "2", "3"}
        await world.deliver("1")
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert {ref.uid async for ref in world.store.pending("default")} == {"2", "3"}


@virtual_time
async def test_pending_operations_of_the_store_can_be_adopted() -> None:
    store = MemoryStore(clock=wall)
    await store.add_pending([a_ref(str(number)) for number in range(1_500)])
    async with a_world(store=store, polling=PollPolicy(max_per_second=1_000)) as world:
        for number in range(1_500):
            world.vendor.will(str(number), "done")
        assert await world.completions.adopt_pending() == 1_500
        assert await world.completions.adopt_pending() == 0
        await asyncio.sleep(20)
        assert (await store.statistics()).outcomes == 1_500
        assert len(world.vendor.reads) == 1_500


@virtual_time
async def test_a_store_that_cannot_write_keeps_no_news_from_those_who_wait(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        async def add_pending(self, refs: Any) -> None:
            raise StoreError("the disk is full")

        async def record_outcome(self, outcome: Outcome) -> Recorded:
            raise StoreError("the disk is full")

        async def close_questions(self, refs: Any) -> None:
            raise StoreError("the disk is full")

    async with a_world(store=Full(clock=wall)) as world:
        world.vendor.will("1", "done")
        assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
        with pytest.raises(NotFound):
            await world.completions.wait("2", timeout=600)
        for words in ("could not be registered", "could not be kept", "could not be noted"):
            assert words in caplog.text


@virtual_time
async def test_a_store_that_cannot_be_asked_raises_and_leaves_nobody_behind() -> None:
    class Broken(SlowStore):
        async def outcome(self, ref: OperationRef) -> Outcome | None:
            if self.look_ups:
                raise StoreError("the disk is gone")
            return await super().outcome(ref)

    async with a_world(store=Broken()) as world:
        for _ in range(2):
            with pytest.raises(StoreError, match="gone"):
                await world.completions.wait("1", timeout=60)


@virtual_time
async def test_beside_a_store_that_another_process_writes_the_questions_are_left_to_it() -> None:
    class ReadOnly(MemoryStore):
        @property
        def read_only(self) -> bool:
            return True

        async def claim_questions(self, scope: str, **options: Any) -> Any:
            raise AssertionError

    async with a_world(store=ReadOnly(clock=wall)) as world:
        world.vendor.will("1", "done")
        waiting = world.start("1", timeout=60)
        await settle()
        await world.deliver("1", status=None)
        await world.deliver("2", status=None)
        await waiting
        assert [ref.uid for _, ref in world.vendor.reads] == ["1"]


# life


@virtual_time
async def test_closing_ends_every_wait() -> None:
    world = World()
    async with world.completions:
        waiting = [world.start("1"), world.start("1", timeout=60), world.start("2")]
        await world.deliver("3", status=None)
        await settle()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CompletionsClosed)
    assert list(world.completions.pending()) == []
    await world.completions.aclose()
    for use in (world.completions.wait("1"), world.completions.start(), world.completions.adopt_pending()):
        with pytest.raises(CompletionsClosed, match="aclose"):
            await use
    with pytest.raises(CompletionsClosed):
        world.completions.as_completed(["1"])
    assert world.completions.statistics.polls_pause_for == 0.0


@virtual_time
async def test_closing_while_a_wait_looks_up_ends_it_too() -> None:
    store = SlowStore(delay=1.0)
    world = World(store=store)
    async with world.completions:
        waiting = [world.start("1")]
        await asyncio.sleep(0.6)
        waiting.append(world.start("2"))
        await asyncio.sleep(0.9)
        assert store.look_ups == 3
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CompletionsClosed)
    assert list(world.completions.pending()) == []


async def test_waiting_before_the_start_says_how_to_start() -> None:
    world = World()
    with pytest.raises(RuntimeError, match="async with"):
        await world.completions.wait("1")


@virtual_time
async def test_starting_twice_is_starting_once() -> None:
    async with a_world() as world:
        await world.completions.start()
        world.vendor.will("1", "done")
        await world.completions.wait("1", timeout=60)
        assert len(world.vendor.reads) == 1


async def test_an_operation_of_another_scope_is_refused() -> None:
    async with Completions(World().vendor, MemoryStore()) as completions:
        with pytest.raises(ValueError, match="scope"):
            await completions.wait(a_ref(scope="other"))


@virtual_time
async def test_background_work_that_dies_is_logged_counted_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(MemoryStore):
        faults = 2

        async def claim_questions(self, scope: str, **options: Any) -> Any:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a fault of ours")
            return await super().claim_questions(scope, **options)

    async with a_world(restarts=RestartPolicy(first_delay=1.0), store=Faulty(clock=wall)) as world:
        world.vendor.will("1", "done")
        await world.deliver("1", status=None)
        await asyncio.sleep(10)
        assert await world.store.outcome(a_ref("1")) is not None
        assert world.completions.statistics.restarts == 2
        assert "what events leave open died and starts again in 1.0 s" in caplog.text


@virtual_time
async def test_background_work_that_keeps_dying_ends_every_wait() -> None:
    world = World(restarts=RestartPolicy(deaths=3), polling=PollPolicy(first_after=0.1, growth=1.0))
    async with world.completions:
        for uid in ("1", "2", "3"):
            world.vendor.will(uid, RuntimeError("a fault of ours"))
        waiting = world.start("1"), world.start("2", timeout=1_000)
        stream = world.completions.as_completed(["3"])
        async with stream:
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, CompletionsFailed)
                assert isinstance(result.cause, Exception)
            with pytest.raises(CompletionsFailed, match="the poller"):
                await anext(stream)
        with pytest.raises(CompletionsFailed):
            await world.completions.wait("4")
        assert now() < 10
    with pytest.raises(CompletionsFailed):
        await world.completions.wait("4")


@virtual_time
async def test_twenty_polls_in_a_row_without_any_delivery_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with a_world() as world:
        for number in range(60):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(19)))
        assert caplog.text == ""
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(19, 60)))
    assert caplog.text.count("20 operations in a row were settled by polling and no webhook delivery came to this process") == 1
    assert "another process" in caplog.text


@virtual_time
async def test_deliveries_that_were_all_refused_for_their_signature_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_world() as world:
        for number in range(200):
            body = body_of(number=number)
            signed = FakeSource(key=b"another").sign(body) if number else {}
            assert (await world.receiver.receive(signed, body)).status == 401
        caplog.clear()
        for number in range(60):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(60)))
    (warning,) = caplog.messages
    assert warning == (
        "20 operations in a row were settled by polling. Deliveries refused for their signature: 200, accepted: none "
        "(mismatch: 199, missing: 1). Compare the webhook keys with the vendor's console."
    )


@virtual_time
async def test_what_is_refused_for_another_reason_is_not_taken_for_a_wrong_key(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        world.receiver.refusal("GET", None, None)
        assert (await world.receiver.receive({}, b"x" * 300_000)).status == 413
        caplog.clear()
        for number in range(20):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(20)))
    assert "no webhook delivery came" in caplog.text


@virtual_time
@pytest.mark.parametrize("delivery", [{"uid": "x"}, {"uid": "x", "status": None}, {"uid": None}])
async def test_once_a_delivery_came_nothing_is_warned_about(caplog: pytest.LogCaptureFixture, delivery: dict[str, Any]) -> None:
    caplog.set_level(logging.WARNING)
    async with a_world() as world:
        await world.deliver(**delivery)
        for number in range(30):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(30)))
    assert caplog.text == ""


@virtual_time
async def test_a_store_that_cannot_say_whether_a_delivery_came_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Dumb(MemoryStore):
        async def statistics(self) -> Any:
            raise StoreError("no answer")

    async with a_world(store=Dumb(clock=wall)) as world:
        for number in range(25):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(25)))
    assert caplog.text.count("whether a delivery ever came") == 1


@virtual_time
@pytest.mark.parametrize(("trusting", "via"), [(True, "webhook"), (False, "poll")])
async def test_an_outcome_that_an_event_made_us_ask_for_counts_as_the_webhooks(trusting: bool, via: str) -> None:
    async with a_world(trust_event_body=trusting) as world:
        waiting = world.start("1")
        await settle()
        world.vendor.will("1", "done")
        await world.deliver("1", status=None)
        await waiting
        outcome = await world.store.outcome(a_ref("1"))
        assert outcome is not None
        assert outcome.via == via
