"""The background work of `Completions`: it is restarted when it dies, and warns if no delivery comes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import a_ref
from tests.webhooks.world import World, a_world, now
from webhooks import CompletionsFailed, MemoryStore, PollPolicy, RestartPolicy, StoreError
from webhooks.store.records import PollClaims


@virtual_time
async def test_background_work_that_dies_is_logged_counted_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(MemoryStore):
        faults = 2

        async def claim_polls(self, scope: str, **options: Any) -> PollClaims:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a fault of ours")
            return await super().claim_polls(scope, **options)

    async with a_world(restarts=RestartPolicy(first_delay=1.0), store=Faulty(clock=wall)) as world:
        world.vendor.will("1", "done")
        await world.deliver("1", status=None)
        await asyncio.sleep(10)
        assert await world.store.outcome(a_ref("1")) is not None
        assert world.completions.statistics.restarts == 2
        said("background work that dies is logged counted and started again", "\n".join(caplog.messages))


@virtual_time
@pytest.mark.parametrize("trouble", [False, True], ids=["granted", "failed"])
async def test_polls_that_are_claimed_while_a_process_closes_are_left_to_the_others(trouble: bool) -> None:
    class Slow(MemoryStore):
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def claim_polls(self, scope: str, **options: Any) -> PollClaims:
            claims = await super().claim_polls(scope, **options)
            if claims.claims and not self.asked.is_set():
                self.asked.set()
                await self.go_on.wait()
                if trouble:
                    raise StoreError("the answer was lost")
            return claims

    store = Slow(clock=wall)
    async with a_world(store=store):
        await store.watch([a_ref("1")], poll_in=1.0, waiter="another process")
        await store.asked.wait()
        asyncio.get_running_loop().call_later(1.0, store.go_on.set)
    claimed = await store.claim_polls("default", limit=1, lease=60, max_per_second=20)
    assert [claim.ref.uid for claim in claimed.claims] == ([] if trouble else ["1"])


@virtual_time
async def test_background_work_that_keeps_dying_ends_every_wait() -> None:
    world = World(restarts=RestartPolicy(max_crashes=3), polling=PollPolicy(first_after=0.1, growth=1.0))
    async with world.completions:
        for uid in ("1", "2", "3"):
            world.vendor.will(uid, RuntimeError("a fault of ours"))
        waiting = world.start("1"), world.start("2", timeout=1_000)
        stream = world.completions.as_completed(["3"])
        async with stream:
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, CompletionsFailed)
                assert isinstance(result.cause, Exception)
            with pytest.raises(CompletionsFailed) as caught:
                await anext(stream)
            said("background work that keeps dying ends every wait", caught.value)
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
    said("twenty polls in a row without any delivery are warned about once", "\n".join(caplog.messages))


@virtual_time
async def test_deliveries_that_were_all_refused_for_their_signature_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_world() as world:
        for number in range(200):
            world.store.refused("mismatch" if number else "missing")
        for number in range(60):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(60)))
    said("deliveries that were all refused for their signature are named", "\n".join(caplog.messages))


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
    said("a store that cannot say whether a delivery came breaks nothing", "\n".join(caplog.messages))
