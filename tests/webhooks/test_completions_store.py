"""What waits need of their store, and what they do without: stores that keep nothing, fail or hang."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewards_core.operations import OperationStatus
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import a_ref, a_thing
from tests.webhooks.waiting_kit import Way, in_both_ways
from tests.webhooks.world import a_world, leave, now, settle
from webhooks import MemoryStore, Outcome, PollPolicy, StoreError
from webhooks.store.records import PollClaims, Priority, Recorded


class Unwritable(MemoryStore):
    """Stores no outcome."""

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        raise StoreError("no room")


@virtual_time
async def test_a_store_that_cannot_keep_it_keeps_nobody_from_what_is_done_already(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(store=Unwritable(clock=wall)) as world:
        beside = world.start("1")
        await settle()
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE
        assert (await beside).status is OperationStatus.DONE
        assert now() == 0.0
        said("a store that cannot keep an outcome", "\n".join(caplog.messages))


@virtual_time
async def test_a_store_that_hangs_keeps_nobody_for_long_from_what_is_done_already(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(MemoryStore):
        async def record_outcome(self, outcome: Outcome) -> Recorded:
            await asyncio.sleep(1_000)
            return await super().record_outcome(outcome)

    async with a_world(store=Hanging(clock=wall)) as world:
        assert (await world.completions.wait(a_thing("1", "done"), timeout=10)).status is OperationStatus.DONE
        assert now() == 12.0
        said("a store that hangs keeps nobody for long from what is done already", "\n".join(caplog.messages))
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE
        assert now() == 1_012.0


@virtual_time
async def test_who_is_waited_for_is_registered_as_pending_until_it_settles() -> None:
    async with a_world() as world:
        waiting = [world.start(uid, timeout=60) for uid in "123"]
        await settle()
        assert await world.pending() == {"1", "2", "3"}
        await world.deliver("1")
        await leave(*waiting)
        assert await world.pending() == {"2", "3"}


@pytest.mark.slow
@virtual_time
async def test_whatever_the_store_has_pending_is_polled() -> None:
    store = MemoryStore(clock=wall)
    await store.add_pending([a_ref(str(number)) for number in range(1_500)], poll_in=5)
    async with a_world(store=store, polling=PollPolicy(max_per_second=1_000)) as world:
        for number in range(1_500):
            world.vendor.will(str(number), "done")
        await asyncio.sleep(21)
        assert (await store.statistics()).outcomes == pytest.approx(1_500, abs=5)  # in a tenth of the budget


@virtual_time
async def test_a_store_that_cannot_keep_outcomes_keeps_them_from_no_caller(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(store=Unwritable(clock=wall)) as world:
        world.vendor.will("1", "done")
        assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
        assert await world.pending() == {"1"}
        said("a store that cannot keep an outcome", "\n".join(caplog.messages))


class Troubled(MemoryStore):
    """Fails to claim polls for a while."""

    trouble_until = 0.0

    async def claim_polls(self, scope: str, **options: Any) -> PollClaims:
        if now() < self.trouble_until:
            raise StoreError("no answer")
        return await super().claim_polls(scope, **options)


@virtual_time
async def test_a_store_in_trouble_ends_no_wait_and_is_told_of_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    store = Troubled(clock=wall)
    store.trouble_until = 3_600.0
    async with a_world(store=store) as world:
        world.vendor.will("1", "done")
        await world.completions.wait("1")
        assert 3_600 <= now() <= 3_606
        said("a store in trouble ends no wait and is told of in one line", "\n".join(caplog.messages))
        assert world.completions.statistics.restarts == 0


@virtual_time
async def test_polls_that_a_store_in_trouble_could_not_take_back_are_given_back_later() -> None:
    class Forgetful(MemoryStore):
        async def settle_polls(self, results: Any, **options: Any) -> None:
            if now() < 20:
                raise StoreError("no answer")
            await super().settle_polls(results, **options)

    async with a_world(store=Forgetful(clock=wall)) as world:
        world.vendor.will("1", "pending", "done")
        await world.completions.wait("1")
        assert now() < 50


@virtual_time
@in_both_ways
async def test_a_wait_that_could_not_be_registered_takes_nothing_from_another_one(way: Way) -> None:
    class Failing(MemoryStore):
        broken = False

        async def watch(self, refs: Any, **options: Any) -> Any:
            if self.broken:
                raise StoreError("no answer")
            return await super().watch(refs, **options)

    async with a_world(store=(store := Failing(clock=wall))) as world:
        first = world.start("1")
        await settle()
        store.broken = True
        with pytest.raises(StoreError):
            await way(world, "1")
        await settle()
        assert [one.priority for one in await store.list_pending()] == [Priority.ROUTINE]
        await leave(first)
        assert [one.priority for one in await store.list_pending()] == [Priority.ABANDONED]


@virtual_time
@in_both_ways
async def test_a_store_that_cannot_be_asked_raises_and_leaves_nobody_behind(way: Way) -> None:
    class Broken(MemoryStore):
        async def watch(self, refs: Any, **options: Any) -> Any:
            raise StoreError("the disk is gone")

    async with a_world(store=Broken(clock=wall)) as world:
        for _ in range(2):
            with pytest.raises(StoreError, match="gone"):
                await way(world, "1", timeout=60)
