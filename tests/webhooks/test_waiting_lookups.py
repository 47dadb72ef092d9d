"""Waiting when an event or a stored outcome does not settle the operation: the vendor is asked."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from rewards_core.errors import OperationFailed
from rewards_core.operations import OperationStatus
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import a_ref
from tests.webhooks.waiting_kit import InBothWays, OpenWorld
from tests.webhooks.world import kept, settle


class TestWaiting(InBothWays):
    @virtual_time
    async def test_an_event_with_only_the_uid_costs_one_request(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            waiting = world.start("1", timeout=60)
            await asyncio.sleep(3)
            await world.deliver("1", status=None)
            await waiting
            assert world.in_time(3.0)
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_an_event_with_only_the_uid_before_anybody_waits_is_looked_into(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            await world.deliver("1", status=None)
            await asyncio.sleep(world.hint)
            assert (await world.wait("1", timeout=60)).status is OperationStatus.DONE
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_an_event_while_its_operation_is_polled_is_not_answered_by_the_older_poll(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 2.0
            world.vendor.will("1", "pending", "done")
            waiting = world.start("1", timeout=60)
            await asyncio.sleep(16)
            await world.deliver("1", status=None)
            await waiting
            assert world.in_time(18.0)
            assert len(world.vendor.reads) == 2

    @virtual_time
    async def test_a_resource_that_is_not_terminal_is_polled(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            waiting = world.start("1", timeout=60)
            await settle()
            await world.deliver("1", "pending")
            await waiting
            assert world.in_time(0.0)

    @virtual_time
    async def test_an_event_without_a_resource_about_a_failed_operation_is_looked_into(
        self, open_world: OpenWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_world() as world:
            world.vendor.will("1", "failed", "done")
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=60)
            await world.deliver("1", status=None)
            await asyncio.sleep(1 + world.hint)
            assert [one.status for one in await world.store.conflicts(a_ref("1"))] == ["done"]
            assert world.completions.statistics.conflicts == 1
            said("an event without a resource about a failed operation is looked into", "\n".join(caplog.messages))

    @virtual_time
    @pytest.mark.parametrize(("trusting", "via"), [(True, "webhook"), (False, "poll")])
    async def test_an_outcome_that_was_polled_because_of_an_event_counts_as_the_webhooks(
        self, open_world: OpenWorld, trusting: bool, via: str
    ) -> None:
        async with open_world(trust_event_body=trusting) as world:
            waiting = world.start("1")
            await settle()
            world.vendor.will("1", "done")
            await world.deliver("1", status=None)
            await waiting
            assert (await world.store.outcome(a_ref("1"))).via == via

    @virtual_time
    async def test_a_kept_outcome_that_cannot_be_read_is_polled(
        self, open_world: OpenWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            await world.receiving.record_outcome(evolve(kept("1"), resource={"uid": "1"}))
            assert (await world.wait("1", timeout=60)).status is OperationStatus.DONE
            assert world.in_time(0.0)
            said("a kept outcome that cannot be read", "\n".join(caplog.messages))
