"""Who waits: several waiters of one operation, and what those leave who wait no longer."""

from __future__ import annotations

import asyncio

import pytest

from rewards_core.errors import OperationMismatch
from rewards_core.operations import OperationStatus
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import Thing, a_ref, a_thing
from tests.webhooks.waiting_kit import InBothWays, OpenWorld, by_as_completed, by_wait
from tests.webhooks.world import leave, settle


class TestWaiting(InBothWays):
    @virtual_time
    async def test_several_waiters_of_one_operation_all_get_it_for_one_poll(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            waiting = [
                world.start("1", timeout=60),
                world.start(a_thing("1"), timeout=90),
                world.start(a_thing("1", amount="9"), timeout=90),
                asyncio.create_task(by_wait(world, "1")),
                asyncio.create_task(by_as_completed(world, "1")),
            ]
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(result) for result in results] == [Thing, Thing, OperationMismatch, Thing, Thing]
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_operations_of_different_kind_with_the_same_uid_are_told_apart(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            thing, other = world.start(a_ref("1")), world.start(a_ref("1", kind="other"))
            await settle()
            await world.deliver("1", kind="other")
            assert (await other).amount == "1.5"
            assert not thing.done()
            await world.deliver("1", amount="2.5")
            assert (await thing).amount == "2.5"

    @virtual_time
    async def test_a_cancelled_waiter_takes_no_other_along(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            first, second, third = (world.start("1", timeout=60) for _ in range(3))
            await settle()
            await leave(first, second)
            assert list(world.completions.pending()) == [a_ref("1")]
            await world.deliver("1")
            assert (await third).status is OperationStatus.DONE

    @pytest.mark.slow
    @pytest.mark.repeats_itself
    @virtual_time
    async def test_an_operation_that_nobody_waits_for_any_longer_stays_pending_and_is_polled_seldom(
        self, open_world: OpenWorld
    ) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending")
            waiting = world.start("1")
            await asyncio.sleep(0.1)
            assert await world.pending() == {"1"}
            await leave(waiting)
            await asyncio.sleep(3_600)
            assert 3 <= len(world.vendor.reads) <= 9
            world.vendor.will("1", "done")
            await asyncio.sleep(3_700)
            assert await world.pending() == set()

    @virtual_time
    async def test_a_waiter_that_comes_again_keeps_the_time_of_the_next_poll(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            for _ in range(20):
                waiting = world.start("1")
                await asyncio.sleep(0.5)
                await leave(waiting)
            await world.wait("1", timeout=300)
            assert world.vendor.read_times == pytest.approx([15.0, 39.0], abs=0.05)

    @virtual_time
    async def test_a_waiter_that_comes_while_its_operation_is_polled_shares_the_answer(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 5.0
            world.vendor.will("1", "done")
            first = world.start("1", timeout=60)
            await asyncio.sleep(16)
            await leave(first)
            await world.wait("1", timeout=60)
            assert world.in_time(20.0)
            assert len(world.vendor.reads) == 1
