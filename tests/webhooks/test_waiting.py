"""Waiting: where an outcome comes from, how a wait ends, and when."""

from __future__ import annotations

import asyncio
import logging

import pytest
from attrs import evolve

from rewards_core.errors import NotFound, OperationFailed, OperationMismatch
from rewards_core.operations import OperationStatus
from tests.virtual_time import EPOCH, virtual_time
from tests.webhooks.fakes import a_ref, a_thing, lost, trouble
from tests.webhooks.waiting_kit import InBothWays, OpenWorld, by_wait
from tests.webhooks.world import kept, leave, now, settle
from webhooks import CompletionsClosed, CompletionTimeout


class TestWaiting(InBothWays):
    # where an outcome comes from

    @virtual_time
    async def test_an_event_before_its_waiter_resolves_immediately(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await world.deliver("1")
            final = await world.wait("1", timeout=300)
            assert (final.status, final.ref) == (OperationStatus.DONE, a_ref("1"))
            assert world.in_time(0.0)
            assert world.vendor.reads == []

    @virtual_time
    async def test_an_event_wakes_its_waiter_at_once_and_without_a_request(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = world.start(a_thing("1"), timeout=300)
            await asyncio.sleep(7)
            await world.deliver("1")
            assert (await waiting).amount == "1.5"
            assert world.in_time(7.0)
            assert world.vendor.reads == []
            statistics = world.completions.statistics
            assert (statistics.settled_by_webhook, statistics.settled_by_poll) == (1, 0)
            assert len(statistics.delays["webhook"]) == 1

    @virtual_time
    async def test_a_woken_caller_is_noted_with_its_times(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await asyncio.sleep(3)
            waiting = world.start(a_thing("1"), timeout=300)
            await asyncio.sleep(7)
            await world.deliver("1")
            await waiting
            ((wake,),) = [one.wakes for one in (await world.store.activity()).processes if one.wakes]
            assert (wake.ref, wake.via) == (a_ref("1"), "webhook")
            assert wake.asked_at in ({EPOCH + 3.0} if world.way is by_wait else {None})
            assert (wake.settled_at, wake.woken_at) == pytest.approx((EPOCH + 10.0, EPOCH + 10.0), abs=world.hint + 0.1)

    @virtual_time
    @pytest.mark.parametrize("passes", range(8))
    async def test_an_event_while_its_waiter_registers_is_not_missed(self, open_world: OpenWorld, passes: int) -> None:
        async with open_world() as world:
            waiting = world.start("1", timeout=300)
            for _ in range(passes):
                await asyncio.sleep(0)
            await world.deliver("1")
            await waiting
            assert world.in_time(0.0)

    @virtual_time
    async def test_without_a_webhook_the_poll_settles(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            assert (await world.wait("1", timeout=300)).status is OperationStatus.DONE
            assert world.vendor.read_times == pytest.approx([15.0, 39.0], abs=0.05)
            assert world.completions.statistics.settled_by_poll == 1
            kept = await world.store.outcome(a_ref("1"))
            assert (kept.via, kept.confirmed, kept.settled_at) == ("poll", True, pytest.approx(EPOCH + 39.0, abs=0.05))
            assert await world.pending() == set()

    @virtual_time
    async def test_an_outcome_that_is_kept_needs_no_request(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await world.receiving.record_outcome(kept("1", via="poll"))
            assert (await world.wait(a_ref("1"), timeout=1)).status is OperationStatus.DONE
            assert world.vendor.reads == []

    @virtual_time
    async def test_poll_now_polls_at_once_and_then_as_usual(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            await world.wait("1", timeout=300, poll_now=True)
            assert world.vendor.read_times == pytest.approx([0.0, 15.0], abs=0.05)

    @virtual_time
    async def test_an_operation_of_another_scope_or_kind_settles_nothing_here(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = world.start("1", timeout=10)
            await settle()
            await world.deliver("1", kind="other")
            await world.receiving.record_outcome(evolve(kept("1"), ref=a_ref("1", scope="other")))
            with pytest.raises(CompletionTimeout):
                await waiting

    # how it ends

    @virtual_time
    async def test_failed_is_raised_with_the_operation(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "failed")
            for _ in range(2):
                with pytest.raises(OperationFailed) as caught:
                    await world.wait("1", timeout=60)
                assert caught.value.operation.status is OperationStatus.FAILED
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_an_operation_that_settled_as_another_than_was_asked_for_is_a_mismatch(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = world.start(a_thing("1", amount="9"), timeout=60)
            await settle()
            await world.deliver("1", amount="1.5")
            with pytest.raises(OperationMismatch):
                await waiting
            assert (await world.wait(a_ref("1"))).status is OperationStatus.DONE

    @virtual_time
    async def test_failed_then_done_keeps_the_first_and_shows_the_conflict(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "failed")
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=60)
            await world.deliver("1", "done")
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=60)
            assert [one.status for one in await world.store.conflicts(a_ref("1"))] == ["done"]

    @virtual_time
    async def test_an_operation_that_is_done_already_is_stored_and_given_at_once(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            final = await world.wait(a_thing("1", "done", key="k", recovered=True), timeout=60)
            assert (final.status, final.recovered) == (OperationStatus.DONE, True)
            with pytest.raises(OperationFailed):
                await world.wait(a_thing("2", "failed"))
            assert world.in_time(0.0)
            stored = await world.store.outcome(a_ref("1"))
            assert (stored.via, stored.key, stored.confirmed) == ("poll", "k", True)
            assert (await world.pending(), world.vendor.reads) == (set(), [])

    @virtual_time
    async def test_of_an_operation_that_is_done_already_the_first_outcome_stands(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await world.deliver("1", "failed")
            with pytest.raises(OperationFailed):
                await world.wait(a_thing("1", "done"))
            assert (await world.store.statistics()).conflicts == world.completions.statistics.conflicts == 1

    @virtual_time
    async def test_an_operation_that_was_found_instead_of_made_is_polled_at_once(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            assert (await world.wait(a_thing("1", recovered=True))).recovered
            assert world.vendor.read_times == pytest.approx([0.0, 15.0], abs=0.05)

    @virtual_time
    async def test_five_times_unknown_over_a_minute_ends_every_wait(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = [world.start("1"), world.start("1", timeout=1_000)]
            first, second = await asyncio.gather(*waiting, return_exceptions=True)
            assert (type(first), type(second)) == (NotFound, NotFound)
            assert first is not second
            assert world.vendor.read_times == pytest.approx([15.0, 39.0, 77.4, 127.4, 177.4], abs=0.1)
            await asyncio.sleep(120)
            assert await world.pending() == set()

    # time

    @virtual_time
    async def test_no_wait_ends_later_than_its_timeout(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 50.0
            with pytest.raises(CompletionTimeout) as caught:
                await world.wait("1", timeout=20)
            assert (caught.value.ref, caught.value.timeout) == (a_ref("1"), 20)
            assert 19.9 <= now() <= 20.1
            assert world.completions.statistics.timeouts == 1

    @virtual_time
    async def test_two_seconds_before_its_deadline_an_operation_is_polled_once_more(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            await world.wait("1", timeout=10)
            assert world.vendor.read_times == pytest.approx([8.0], abs=0.05)

    @virtual_time
    async def test_a_wait_without_time_finds_what_is_kept(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            with pytest.raises(CompletionTimeout):
                await world.wait("1", timeout=0)
            await world.deliver("1")
            assert (await world.wait("1", timeout=0)).status is OperationStatus.DONE

    @virtual_time
    async def test_hints_that_were_missed_are_made_up_for(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = [world.start(str(number), timeout=30) for number in range(3)]
            waiting.append(asyncio.create_task(by_wait(world, lost("k"), timeout=30)))
            await settle()
            world.hints.lost = True
            await world.deliver("1")
            await world.deliver("9", key="k")
            await asyncio.sleep(5)
            assert not any(one.done() for one in waiting)
            world.hints.lost = False
            world.hints.missed()
            await asyncio.gather(waiting[1], waiting[3])
            assert now() <= 5.1
            await leave(*waiting)

    # failures and closing

    @virtual_time
    async def test_after_trouble_of_the_vendor_it_is_asked_again_soon(
        self, open_world: OpenWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        async with open_world() as world:
            world.vendor.will("1", trouble(), "done")
            await world.wait("1")
            assert world.vendor.read_times == pytest.approx([15.0, 16.0], abs=0.05)
        assert caplog.text == ""

    @virtual_time
    async def test_closing_ends_every_wait_at_once(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 30.0
            waiting = [world.start("1"), world.start("1", timeout=60), world.start("2")]
            await asyncio.sleep(20)
            await world.completions.aclose()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, CompletionsClosed)
            assert 20.0 <= now() <= 20.1
            with pytest.raises(CompletionsClosed, match="aclose"):
                await world.wait("1")

    @virtual_time
    async def test_an_operation_of_another_scope_is_refused(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            with pytest.raises(ValueError, match="scope"):
                await world.wait(a_ref(scope="other"))
