"""How often the vendor is asked for operations of which only the key is known."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from rewards_core.errors import Forbidden, NotFound, RateLimited, Unauthorized
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import a_ref, a_thing, lost
from tests.webhooks.world import a_world, kept, leave, now, settle
from webhooks import CompletionTimeout, MemoryStore, PollPolicy
from webhooks.store.records import Outcome


@virtual_time
async def test_look_ups_are_urgent_at_first_and_then_grow_apart_by_the_policy() -> None:
    async with a_world() as world:
        waiting = world.start(lost("k"))
        await asyncio.sleep(250)
        assert world.vendor.look_up_times == pytest.approx([0.0, 1.0, 3.0, 7.0, 15.0, 30.0, 54.0, 92.4, 142.4, 192.4, 242.4])
        world.vendor.holds(a_thing("1", "done", key="k"))
        await waiting
        assert now() == pytest.approx(292.4)


@virtual_time
async def test_two_seconds_before_its_deadline_a_key_is_looked_up_once_more() -> None:
    async with a_world() as world:
        waiting = world.start(lost("k"), timeout=27)
        await asyncio.sleep(20)
        world.vendor.holds(a_thing("1", "done", key="k"))
        await waiting
        assert now() == 25.0


@virtual_time
async def test_one_listing_serves_every_key_of_one_owner() -> None:
    async with a_world() as world:
        problems = [lost("a"), lost("b"), lost("b"), lost("c", owner="bob"), lost("d", kind="other")]
        waiting = [world.start(problem, timeout=300) for problem in problems]
        await asyncio.sleep(0.5)
        assert sorted(sorted(keys) for _, keys in world.vendor.look_ups) == [["a", "b"], ["c"], ["d"]]
        world.vendor.holds(a_thing("1", "done", key="a"), a_thing("2", "done", key="b"), a_thing("3", "done", key="c"))
        finals = await asyncio.gather(*waiting[:4])
        assert [final.ref.uid for final in finals] == ["1", "2", "2", "3"]
        assert len(world.vendor.look_ups) == 5
        await world.deliver("4", key="d", kind="other")
        assert (await waiting[4]).ref == a_ref("4", kind="other")


@virtual_time
async def test_look_ups_are_paid_from_the_budget_of_polls() -> None:
    async with a_world(polling=PollPolicy(max_per_second=2)) as world:
        for number in range(20):
            world.vendor.will(str(number), "pending")
        waiting = [world.start(lost(str(number), owner=str(number))) for number in range(20)]
        waiting += [world.start(str(number), poll_now=True) for number in range(20)]
        await asyncio.sleep(59.75)
        asked = sorted(world.vendor.look_up_times + world.vendor.read_times)
        assert len(world.vendor.reads) >= 1
        assert all(then - before >= 0.5 - 1e-9 for before, then in itertools.pairwise(asked))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert world.completions.statistics.polls == len(asked)


@virtual_time
async def test_what_is_found_during_the_last_look_counts() -> None:
    class Slow(MemoryStore):
        looks = 0

        async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
            found = await super().outcomes_by_key(scope, kind, key)
            self.looks += 1
            if self.looks > 1:
                await world.deliver("1", key="k")
            return found

    async with a_world(store=Slow()) as world:
        assert (await world.completions.wait(lost("k"), timeout=5)).ref == a_ref("1")


@virtual_time
async def test_newcomers_join_the_look_up_that_is_about_to_be_made() -> None:
    async with a_world() as world:
        waiting = []
        for number in range(60):
            waiting.append(world.start(lost(str(number))))
            await asyncio.sleep(0.03)
        await asyncio.sleep(12)
        assert world.vendor.look_up_times == pytest.approx([0.0, 1.0, 3.0, 7.0], abs=0.2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@virtual_time
async def test_in_a_crowd_every_owner_is_listed_once_before_any_is_listed_often() -> None:
    async with a_world(polling=PollPolicy(max_per_second=20)) as world:
        waiting = [world.start(lost(str(number), owner=str(number))) for number in range(300)]
        await asyncio.sleep(18.0)
        assert {keys[0] for _, keys in world.vendor.look_ups} == {str(number) for number in range(300)}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@virtual_time
async def test_a_failed_outcome_does_not_hide_one_that_is_done() -> None:
    async with a_world() as world:
        await world.store.record_outcome(kept("1", "failed", key="k"))
        await world.store.record_outcome(kept("2", "done", key="k"))
        assert (await world.completions.wait(lost("k"), timeout=5)).ref == a_ref("2")


@virtual_time
async def test_each_page_of_a_listing_is_paid_from_the_budget_too() -> None:
    async with a_world(polling=PollPolicy(max_per_second=2)) as world:
        world.vendor.pages = 40
        world.vendor.will("1", "pending")
        waiting = [world.start(lost("k")), world.start("1", poll_now=True)]
        await asyncio.sleep(60)
        asked = sorted(world.vendor.look_up_times + world.vendor.read_times)
        assert len(world.vendor.look_ups) >= 40
        assert world.vendor.reads
        assert all(then - before >= 0.5 - 1e-9 for before, then in itertools.pairwise(asked))
        assert world.completions.statistics.polls == len(asked)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@virtual_time
async def test_a_rate_limit_met_by_a_look_up_pauses_polls_and_look_ups() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        world.vendor.will_list(RateLimited("slow down", status=429, retry_after=33.0))
        world.vendor.holds(a_thing("2", "done", key="k"))
        await asyncio.gather(world.start("1"), world.start(lost("k")))
        assert world.vendor.look_up_times[0] == 0.0
        later = [*world.vendor.look_up_times[1:], *world.vendor.read_times]
        assert sorted(later) == pytest.approx([33.0, 33.05], abs=0.02)


@virtual_time
async def test_a_refusal_met_by_a_poll_suspends_look_ups() -> None:
    async with a_world() as world:
        world.vendor.will("1", Unauthorized("no", status=401), "done")
        waiting = [world.start("1", poll_now=True)]
        await asyncio.sleep(1)
        waiting.append(world.start(lost("k")))
        world.vendor.holds(a_thing("2", "done", key="k"))
        await asyncio.gather(*waiting)
        assert [round(at) for at in world.vendor.look_up_times] == [60]


@virtual_time
async def test_look_ups_that_alone_are_refused_hold_up_nothing_for_long(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", "done")
        world.vendor.will_list(*[Forbidden("no", status=403)] * 100)
        waiting = world.start(lost("k", owner="ann"), timeout=600)
        await settle()
        await world.completions.wait("1")
        assert now() == 84.0
        with pytest.raises(CompletionTimeout) as caught:
            await waiting
        assert type(caught.value.last_error) is Forbidden
    said("look ups that alone are refused hold up nothing for long", "\n".join(caplog.messages))


@virtual_time
async def test_a_look_up_that_was_refused_is_made_again_after_all_others() -> None:
    async with a_world() as world:
        waiting = [world.start(lost("other", owner="ann"), timeout=300)]
        await asyncio.sleep(10)
        looked_up = len(world.vendor.look_ups)
        world.vendor.will_list(Forbidden("no", status=403))
        waiting.append(world.start(lost("refused", owner="bob"), timeout=300))
        await asyncio.sleep(100)
        assert [keys for _, keys in world.vendor.look_ups[looked_up:]][:3] == [("refused",), ("other",), ("refused",)]
        await leave(*waiting)


@virtual_time
async def test_a_vendor_that_knows_no_such_owner_proves_nothing() -> None:
    async with a_world() as world:
        world.vendor.will_list(*[NotFound("no such user", status=404)] * 8)
        world.vendor.holds(a_thing("1", "done", key="k"))
        assert (await world.completions.wait(lost("k"))).ref == a_ref("1")
        assert len(world.vendor.look_ups) == 9


@virtual_time
async def test_a_request_that_the_client_cannot_list_ends_its_waits_alone() -> None:
    async with a_world(polling=PollPolicy(first_after=0.1, growth=1.0)) as world:
        world.vendor.will_list(*[ValueError("things of this kind cannot be listed")] * 10)
        waiting = [world.start(lost(key), timeout=60) for key in ("a", "b")]
        first, second = await asyncio.gather(*waiting, return_exceptions=True)
        assert (type(first), str(second)) == (ValueError, "things of this kind cannot be listed")
        assert first is not second
        world.vendor.will("1", "done")
        await world.completions.wait("1", timeout=60)
