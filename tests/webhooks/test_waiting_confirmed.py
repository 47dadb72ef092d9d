"""Waiting without trust in the bodies of events: the vendor confirms what they say."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from rewards_core.errors import OperationFailed
from rewards_core.operations import OperationStatus
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import a_ref, a_thing, trouble
from tests.webhooks.waiting_kit import InBothWays, OpenWorld
from tests.webhooks.world import kept, now, settle
from webhooks import CompletionTimeout


class TestWaiting(InBothWays):
    @virtual_time
    async def test_without_trust_in_bodies_what_an_event_says_is_confirmed_first(self, open_world: OpenWorld) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", "pending", "pending", "done")
            waiting = world.start("1", timeout=60)
            await settle()
            await world.deliver("1", "done")
            assert (await waiting).status is OperationStatus.DONE
            assert world.in_time(3.0)
            assert len(world.vendor.reads) == 3
            stored = await world.store.outcome(a_ref("1"))
            assert (stored.via, stored.confirmed) == ("webhook", True)
            assert (await world.wait("1")).status is OperationStatus.DONE
            assert len(world.vendor.reads) == 3

    @virtual_time
    async def test_without_trust_in_bodies_what_the_vendor_says_counts_against_the_event(self, open_world: OpenWorld) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", "pending", "failed")
            world.vendor.will("2", "done")
            waiting = world.start("1", timeout=60)
            await settle()
            await world.deliver("1", "done")
            with pytest.raises(OperationFailed):
                await waiting
            await world.deliver("2", "done", "7.5")
            assert (await world.wait("2", timeout=60)).amount == "1.5"

    @virtual_time
    async def test_without_trust_in_bodies_what_another_process_polled_against_the_event_is_heard_at_once(
        self, open_world: OpenWorld
    ) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", "pending")
            waiting = world.start("1", timeout=600)
            await settle()
            await world.deliver("1", "done")
            await asyncio.sleep(5)
            await world.receiving.record_outcome(evolve(kept("1", "failed", via="poll"), confirmed=True))
            with pytest.raises(OperationFailed):
                await waiting
            assert world.in_time(5.0)
            reads = len(world.vendor.reads)
            await asyncio.sleep(60)
            assert (len(world.vendor.reads), await world.pending()) == (reads, set())

    @virtual_time
    async def test_without_trust_in_bodies_what_was_polled_against_the_event_ends_a_later_wait_at_once(
        self, open_world: OpenWorld
    ) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", trouble())
            await world.deliver("1", "done")
            await world.receiving.record_outcome(evolve(kept("1", "failed", via="poll"), confirmed=True))
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=600)
            assert (world.in_time(0.0), world.vendor.reads) == (True, [])

    @virtual_time
    @pytest.mark.parametrize("before", [True, False])
    async def test_without_trust_in_bodies_a_long_confirmation_is_waited_for(self, open_world: OpenWorld, before: bool) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", *["pending"] * 8, "done")
            if before:
                await world.deliver("1", "done")
            waiting = [world.start("1", timeout=600), world.start("1", timeout=10)]
            await asyncio.sleep(2)
            for said in ("once", "again"):
                await world.deliver("1", "done", said=said)
                await asyncio.sleep(1)
            with pytest.raises(CompletionTimeout):
                await waiting[1]
            assert (await waiting[0]).status is OperationStatus.DONE
            assert len(world.vendor.reads) == 9
            assert now() < 200

    @virtual_time
    async def test_without_trust_in_bodies_an_operation_that_is_done_already_is_believed(self, open_world: OpenWorld) -> None:
        async with open_world(trust_event_body=False) as world:
            await world.deliver("1", "failed")
            assert (await world.wait(a_thing("1", "done"))).status is OperationStatus.DONE
