"""One caller waits for the operation of a call whose reply was lost: only its key is known."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Sequence

import pytest

from rewards_core.errors import OperationFailed
from rewards_core.operations import KeyedRequest, Operation, OperationStatus
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import FakeVendor, Thing, ThingRequest, a_ref, a_thing, lost, trouble
from tests.webhooks.world import DeafStore, World, a_world, kept, now, settle
from webhooks import CompletionsClosed, CompletionsFailed, CompletionTimeout, MemoryStore, PollPolicy, RestartPolicy, StoreError
from webhooks.store.records import Outcome

# where it is found


@virtual_time
async def test_an_outcome_kept_under_the_key_needs_no_request() -> None:
    async with a_world() as world:
        await world.deliver("1", key="k")
        final = await world.completions.wait(lost("k"), timeout=300)
        assert (now(), final.ref, final.status, final.recovered) == (0.0, a_ref("1"), OperationStatus.DONE, True)
        assert (world.vendor.reads, world.vendor.look_ups) == ([], [])


@virtual_time
async def test_an_event_that_carries_the_key_wakes_its_waiter_at_once() -> None:
    async with a_world() as world:
        waiting = world.start(lost("k"), timeout=300)
        await asyncio.sleep(8.5)
        await world.deliver("2", key="another")
        await world.deliver("3", key="k", kind="other")
        await world.deliver("1", key="k")
        assert (await waiting).ref == a_ref("1")
        assert now() == 8.5
        assert world.vendor.reads == []


@virtual_time
async def test_a_pending_operation_that_a_look_up_finds_is_asked_about_at_once_and_then_as_usual() -> None:
    async with a_world() as world:
        world.vendor.holds(a_thing("1", key="k"))
        world.vendor.will("1", "pending", a_thing("1", "done", key="k"))
        final = await world.completions.wait(lost("k"), timeout=300)
        assert (final.status, final.key, final.recovered) == (OperationStatus.DONE, "k", True)
        assert world.vendor.look_up_times == [0.0]
        assert world.vendor.read_times == pytest.approx([0.05, 15.05], abs=0.02)
        assert await world.pending() == set()


@virtual_time
async def test_a_terminal_operation_that_a_look_up_finds_is_stored_and_concluded_without_another_request() -> None:
    async with a_world() as world:
        world.vendor.holds(a_thing("1", "done", key="k"))
        assert (await world.completions.wait(lost("k"), timeout=300)).recovered
        outcome = await world.store.outcome(a_ref("1"))
        assert (outcome.via, outcome.key, outcome.settled_at) == ("poll", "k", EPOCH)
        assert (world.vendor.look_up_times, world.vendor.reads) == ([0.0], [])


@virtual_time
async def test_what_failed_is_raised_as_usual() -> None:
    async with a_world() as world:
        world.vendor.holds(a_thing("1", "failed", key="k"))
        with pytest.raises(OperationFailed):
            await world.completions.wait(lost("k"), timeout=300)


@virtual_time
async def test_the_outcome_that_stands_wins_over_what_a_look_up_finds() -> None:
    async with a_world() as world:
        await world.deliver("1", "failed")
        world.vendor.holds(a_thing("1", "done", key="k"))
        with pytest.raises(OperationFailed):
            await world.completions.wait(lost("k"), timeout=300)
        assert world.completions.statistics.conflicts == 1


@virtual_time
async def test_an_event_with_only_the_uid_is_asked_about_and_the_answer_names_the_key() -> None:
    async with a_world() as world:
        world.vendor.will("1", a_thing("1", "done", key="k"))
        waiting = world.start(lost("k"), timeout=300)
        await asyncio.sleep(8.5)
        await world.deliver("1", status=None)
        assert (await waiting).ref == a_ref("1")
        assert (now(), world.vendor.read_times) == (8.5, [8.5])


@virtual_time
@pytest.mark.parametrize("before", [True, False])
async def test_without_trust_in_bodies_what_an_event_names_is_asked_about(before: bool) -> None:
    async with a_world(trust_event_body=False) as world:
        if before:
            await world.deliver("1", key="k")
        world.vendor.will("1", a_thing("1", "failed", key="k"))
        waiting = world.start(lost("k"), timeout=300)
        await settle()
        await world.deliver("1", key="k")
        with pytest.raises(OperationFailed):
            await waiting
        assert len(world.vendor.reads) == 1


# what does not count


@virtual_time
async def test_operations_under_the_key_with_other_content_do_not_count() -> None:
    async with a_world() as world:
        await world.store.record_outcome(kept("9", amount="9", key="k"))
        world.vendor.holds(a_thing("8", "done", amount="8", key="k"))
        waiting = world.start(lost("k"), timeout=300)
        await asyncio.sleep(2)
        await world.deliver("7", key="k", amount="7")
        await settle()
        assert not waiting.done()
        await world.deliver("1", key="k")
        assert (await waiting).ref == a_ref("1")
        assert now() == 2.0


@virtual_time
async def test_a_kept_outcome_that_cannot_be_read_is_left_to_the_look_ups(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        broken = Outcome(
            ref=a_ref("1"), status=OperationStatus.DONE, resource={"uid": "1"}, via="poll", settled_at=EPOCH, key="k"
        )
        await world.store.record_outcome(broken)
        world.vendor.holds(a_thing("1", "done", key="k"))
        assert (await world.completions.wait(lost("k"), timeout=300)).ref == a_ref("1")
        said("a kept outcome that cannot be read", "\n".join(caplog.messages))


# who waits


@virtual_time
async def test_a_cancelled_waiter_of_a_key_takes_nobody_with_it() -> None:
    async with a_world() as world:
        first, second, third = (world.start(lost("k"), timeout=60) for _ in range(3))
        await settle()
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert world.completions.statistics.waiting == 1
        await world.deliver("1", key="k")
        assert (await third).ref == a_ref("1")


@virtual_time
@pytest.mark.parametrize("passes", range(12))
async def test_after_the_last_waiter_of_an_owner_left_nothing_is_asked_any_more(passes: int) -> None:
    async with a_world() as world:
        waiting = world.start(lost("k"), timeout=60)
        for _ in range(passes):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        asked = len(world.vendor.look_ups)
        await asyncio.sleep(600)
        assert len(world.vendor.look_ups) == asked <= 1
        assert world.completions.statistics.polls == asked


@virtual_time
async def test_what_is_looked_for_is_no_pending_operation() -> None:
    async with a_world() as world:
        waiting = world.start(lost("k"), timeout=60)
        await settle()
        assert list(world.completions.pending()) == []
        assert (world.completions.statistics.pending, world.completions.statistics.waiting) == (0, 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@virtual_time
async def test_no_task_is_made_for_a_look_up_that_waits_its_turn() -> None:
    async with a_world() as world:
        await settle()
        before = len(asyncio.all_tasks())
        waiting = [world.start(lost("k", owner=str(number))) for number in range(100)]
        await asyncio.sleep(20)
        assert len(asyncio.all_tasks()) - before == 100
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@virtual_time
async def test_closing_ends_the_waits_for_keys() -> None:
    world = World()
    async with world.completions:
        waiting = [world.start(lost("k")), world.start(lost("k"), timeout=60)]
        await settle()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CompletionsClosed)
    with pytest.raises(CompletionsClosed):
        await world.completions.wait(lost("k"))


@virtual_time
async def test_background_work_that_keeps_dying_ends_the_waits_for_keys() -> None:
    world = World(restarts=RestartPolicy(max_crashes=3), polling=PollPolicy(first_after=0.1, growth=1.0))
    async with world.completions:
        world.vendor.will_list(*[RuntimeError("a fault of ours")] * 100)
        with pytest.raises(CompletionsFailed):
            await world.completions.wait(lost("k"))


# time


@virtual_time
async def test_a_timeout_says_what_may_still_be_and_what_the_last_look_up_met() -> None:
    async with a_world() as world:
        errors: list[CompletionTimeout] = []
        for answers in ([], [trouble()] * 4):
            world.vendor.will_list(*answers)
            with pytest.raises(CompletionTimeout) as caught:
                await world.completions.wait(lost("k"), timeout=5)
            errors.append(caught.value)
        world.vendor.latency = 60
        with pytest.raises(CompletionTimeout) as caught:
            await world.completions.wait(lost("k"), timeout=5)
        errors.append(caught.value)
        said("a timeout says what may still be and what the last lookup met", "\n".join(map(str, errors)))
        assert [type(error.last_error) for error in errors] == [type(None), type(trouble()), type(None)]
        for error in errors:
            for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
                assert (again.ref, again.request, again.timeout) == (None, ThingRequest(key="k"), 5)
                assert str(again) == str(error)
        assert world.completions.statistics.timeouts == 3


@virtual_time
async def test_the_time_that_is_left_is_for_the_operation_that_was_found() -> None:
    async with a_world() as world:
        world.vendor.holds(a_thing("1", key="k"))
        world.vendor.will("1", "pending")
        with pytest.raises(CompletionTimeout) as caught:
            await world.completions.wait(lost("k"), timeout=20)
        said("the time that is left is for the operation that was found", caught.value)
        assert now() == 20.0
        assert (caught.value.ref, caught.value.request) == (a_ref("1"), ThingRequest(key="k"))
        assert world.completions.statistics.timeouts == 1


@virtual_time
async def test_a_wait_without_time_finds_what_is_kept() -> None:
    async with a_world() as world:
        with pytest.raises(CompletionTimeout):
            await world.completions.wait(lost("k"), timeout=0)
        await world.deliver("1", key="k")
        assert (await world.completions.wait(lost("k"), timeout=0)).ref == a_ref("1")


class SlowByKey(MemoryStore):
    """Answers lookups by key with a delay."""

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        found = await super().outcomes_by_key(scope, kind, key)
        await asyncio.sleep(0.5)
        return found


@virtual_time
async def test_an_event_while_the_store_looks_for_the_key_is_not_missed() -> None:
    async with a_world(store=SlowByKey(clock=wall)) as world:
        waiting = world.start(lost("k"), timeout=300)
        await asyncio.sleep(0.1)
        await world.deliver("1", key="k")
        assert (await waiting).ref == a_ref("1")
        assert now() == 0.1


@virtual_time
async def test_an_outcome_kept_without_a_hint_is_found_by_a_last_look() -> None:
    async with a_world(store=DeafStore(clock=wall)) as world:
        waiting = world.start(lost("k"), timeout=10)
        await settle()
        await world.store.record_outcome(kept("1", key="k"))
        assert (await waiting).ref == a_ref("1")
        assert now() == 10.0


@virtual_time
async def test_of_two_operations_found_in_one_moment_the_first_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        waiting = world.start(lost("k"), timeout=10)
        await asyncio.sleep(0.5)
        for uid in ("2", "1"):
            await world.store.record_outcome(kept(uid, key="k"))
        assert (await waiting).ref == a_ref("2")
        assert caplog.text == ""


# a store that fails or hangs


class Failing(MemoryStore):
    """Fails to look up keys from the third lookup on."""

    looks = 0

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        self.looks += 1
        if self.looks > 2:
            raise StoreError("no answer")
        return await super().outcomes_by_key(scope, kind, key)


@virtual_time
async def test_a_store_that_cannot_be_asked_by_key_ends_the_wait() -> None:
    async with a_world(store=Failing(clock=wall)) as world:
        with pytest.raises(CompletionTimeout):
            await world.completions.wait(lost("k"), timeout=10)
        with pytest.raises(StoreError, match="no answer"):
            await world.completions.wait(lost("k"), timeout=10)
        assert now() == 10.0


class Hanging(MemoryStore):
    """Does not answer lookups by key."""

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        await asyncio.sleep(1_000)
        return ()


@virtual_time
async def test_a_store_that_hangs_keeps_no_wait_for_a_key_beyond_its_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with a_world(store=Hanging(clock=wall)) as world:
        with pytest.raises(CompletionTimeout):
            await world.completions.wait(lost("k"), timeout=10)
        assert now() == 12.0
        said("a store that hangs keeps no wait for a key beyond its time", "\n".join(caplog.messages))


@virtual_time
async def test_who_is_cancelled_while_the_store_looks_for_the_key_leaves_nothing_behind() -> None:
    async with a_world(store=Hanging(clock=wall)) as world:
        waiting = world.start(lost("k"), timeout=60)
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(600)
        assert len(world.vendor.look_ups) == 1


# types, which a type checker reads


@virtual_time
async def test_an_error_that_was_pickled_is_as_good_as_the_first() -> None:
    async with a_world() as world:
        world.vendor.holds(a_thing("1", "done", key="k"))
        final: Operation = await world.completions.wait(pickle.loads(pickle.dumps(lost("k"))), timeout=60)
        assert isinstance(final, Thing)


def test_the_request_of_these_tests_is_one() -> None:
    assert isinstance(ThingRequest(key="k"), KeyedRequest)
    assert not isinstance(FakeVendor(), KeyedRequest)
