"""One caller inside `wait`: its timeout, and what events and polls leave open."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
from typing import Any, cast

import pytest

from rewards_core.errors import NotFound, OperationFailed
from rewards_core.operations import OperationStatus
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import a_ref, trouble
from tests.webhooks.waiting_kit import Way, in_both_ways
from tests.webhooks.world import DeafStore, a_world, kept, now, settle
from webhooks import CompletionTimeout

# time


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
        assert type(errors["2"].last_error) is type(trouble())
        assert errors["3"].last_seen.status == "pending"
        assert errors["3"].last_error is not None
        assert (errors["4"].ref, errors["4"].timeout, type(errors["4"].last_error)) == (a_ref("4"), 5, NotFound)
        said("a timeout says what was last known", "\n".join(map(str, errors.values())))
        assert isinstance(errors["1"], TimeoutError)
        for again in (pickle.loads(pickle.dumps(errors["1"])), cast("CompletionTimeout", copy.deepcopy(errors["1"]))):
            assert (str(again), again.ref, again.timeout) == (str(errors["1"]), a_ref("1"), 20)
        assert world.completions.statistics.timeouts == 4


@virtual_time
async def test_a_timeout_that_no_poll_preceded_says_so() -> None:
    async with a_world() as world:
        with pytest.raises(CompletionTimeout) as caught:
            await world.completions.wait("1", timeout=0)
        said("a timeout that no poll preceded says so", caught.value)
        assert now() == 0.0


@virtual_time
@in_both_ways
async def test_an_outcome_that_came_with_the_timeout_is_found_by_a_last_look(way: Way) -> None:
    async with a_world(store=DeafStore(clock=wall)) as world:
        waiting = asyncio.ensure_future(way(world, "1", timeout=10))
        await settle()
        await world.store.record_outcome(kept("1"))
        await waiting
        assert now() == pytest.approx(10.0, abs=0.1)


# what events leave open


@virtual_time
async def test_if_the_vendor_still_says_pending_it_is_asked_again_soon_and_then_as_usual() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", trouble(), "pending", "pending", "pending", "pending", "done")
        waiting = world.start("1")
        await settle()
        await world.deliver("1", status=None)
        await waiting
        assert world.vendor.read_times == pytest.approx([0.0, 1.0, 2.0, 6.0, 14.0, 29.0, 53.0])


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_an_operation_that_nobody_waits_for_is_looked_up_as_often_and_then_seldom() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending")
        await world.deliver("1", status=None)
        await asyncio.sleep(6 * 3_600)
        gaps = [later - earlier for earlier, later in itertools.pairwise(world.vendor.read_times)]
        assert gaps[:8] == pytest.approx([1, 2, 4, 8, 15, 60, 96, 153.6], abs=0.1)
        assert gaps[14:] == pytest.approx([3_600] * 4, abs=0.1)
        world.vendor.will("1", "done")
        await asyncio.sleep(3_600)
        assert (await world.store.outcome(a_ref("1"))).status is OperationStatus.DONE


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_an_operation_polled_seldom_is_polled_soon_once_it_is_waited_for() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending")
        await world.store.add_pending([a_ref("1")], poll_in=0)
        await asyncio.sleep(10 * 3_600)
        world.vendor.will("1", "done")
        await world.completions.wait("1")
        assert now() <= 10 * 3_600 + 15.1


@virtual_time
async def test_an_event_without_a_uid_costs_nothing() -> None:
    async with a_world() as world:
        await world.deliver(uid=None)
        await asyncio.sleep(100)
        assert world.vendor.reads == []


@virtual_time
async def test_the_outcome_that_was_stored_first_wins_over_the_answer_of_a_poll() -> None:
    async with a_world(store=DeafStore(clock=wall)) as world:
        world.vendor.will("1", "done")
        waiting = world.start("1", timeout=60)
        await settle()
        await world.store.record_outcome(kept("1", "failed"))
        with pytest.raises(OperationFailed):
            await waiting
        assert world.completions.statistics.conflicts == 1
