"""One budget of polls for all processes, operations and waiters."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest

from rewards_core.errors import RateLimited, Unauthorized
from tests.texts import said
from tests.virtual_time import VirtualLoop, virtual_time, wall
from tests.webhooks.fakes import FakeVendor, a_ref, lost, most_in_a_second
from tests.webhooks.world import leave, now
from webhooks import Completions, CompletionTimeout, MemoryStore, PollPolicy
from webhooks.store.records import PollClaims, PollPermit

pytestmark = pytest.mark.repeats_itself

RATE = 20
SOON = PollPolicy(first_after=0.5, growth=1.0, max_interval=1.0, max_per_second=RATE)
CROWD = [str(number) for number in range(200)]
processes = pytest.mark.parametrize("processes", [1, 4])


@asynccontextmanager
async def several(
    count: int, vendor: FakeVendor, policy: PollPolicy = SOON, store: MemoryStore | None = None
) -> AsyncIterator[list[Completions]]:
    """Open several `Completions` on one store, like several processes; each waits for everything."""
    dice = random.Random(count)
    store = store or MemoryStore(clock=wall)
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            completions = Completions(vendor, store, polling=policy, clock=wall, random=dice.random)
            opened.append(await stack.enter_async_context(completions))
        for completions in opened:
            await stack.enter_async_context(completions.as_completed(CROWD))
        yield opened


def a_vendor(answer: Any = "pending") -> FakeVendor:
    vendor = FakeVendor(latency=0.2)
    for uid in CROWD:
        vendor.will(uid, answer)
    return vendor


@virtual_time
@processes
async def test_no_second_sees_more_polls_than_the_budget_and_none_is_wasted(processes: int) -> None:
    vendor = a_vendor()
    async with several(processes, vendor):
        await asyncio.sleep(30)
    assert most_in_a_second(vendor.read_times) <= RATE + 1
    assert len(vendor.reads) >= 29 * RATE * 0.95


@virtual_time
@processes
async def test_after_a_pause_polls_resume_without_a_burst(processes: int) -> None:
    vendor = a_vendor()
    async with several(processes, vendor):
        await asyncio.sleep(10)
        for uid in CROWD:
            vendor.will(uid, RateLimited("slow down", status=429, retry_after=4.0), "pending")
        await asyncio.sleep(0.3)
        for uid in CROWD:
            vendor.will(uid, "pending")
        began = max(time for time in vendor.read_times if time <= 10.3)
        await asyncio.sleep(10)
    resumed = [time for time in vendor.read_times if time > began]
    assert began + 3.5 <= min(resumed) <= began + 5
    assert most_in_a_second(vendor.read_times) <= RATE + 1
    assert len([time for time in resumed if time <= min(resumed) + 2]) >= 2 * RATE * 0.9


@virtual_time
@processes
@pytest.mark.parametrize("seed", range(5))
async def test_a_process_that_stalls_sends_no_burst_afterwards(processes: int, seed: int) -> None:
    loop, dice, vendor = cast("VirtualLoop", asyncio.get_running_loop()), random.Random(seed), a_vendor()
    async with several(processes, vendor):
        for _ in range(20):
            await asyncio.sleep(dice.uniform(0, 2))
            loop.stall(dice.choice([0.02, 0.3, 3.0]))
    assert most_in_a_second(vendor.read_times) <= RATE + 2 * processes
    if processes == 1:
        gaps = [later - earlier for earlier, later in itertools.pairwise(vendor.read_times)]
        assert min(gaps) >= 1 / RATE - 1e-6


class Slow(MemoryStore):
    """Answers late, as after a long fsync."""

    def __init__(self, late: Callable[[], float]) -> None:
        super().__init__(clock=wall)
        self._late = late

    async def claim_polls(self, scope: str, *, limit: int, lease: float, max_per_second: float) -> PollClaims:
        claims = await super().claim_polls(scope, limit=limit, lease=lease, max_per_second=max_per_second)
        await asyncio.sleep(self._late())
        return claims

    async def permit_poll(self, scope: str, *, max_per_second: float) -> PollPermit:
        permit = await super().permit_poll(scope, max_per_second=max_per_second)
        await asyncio.sleep(self._late())
        return permit


@pytest.mark.slow
@virtual_time
@processes
async def test_processes_whose_store_answers_late_keep_to_the_budget(processes: int) -> None:
    vendor, dice = a_vendor(), random.Random(0)
    async with several(processes, vendor, store=Slow(lambda: 0.3 * dice.random() ** 3)):
        await asyncio.sleep(120)
    assert most_in_a_second(vendor.read_times) <= RATE + 1
    assert len(vendor.reads) >= 120


@virtual_time
@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0, 2.0])
async def test_where_the_store_answers_late_a_small_budget_is_used_all_the_same(rate: float) -> None:
    vendor = a_vendor()
    policy = PollPolicy(first_after=0.5, growth=1.0, max_interval=1.0, max_per_second=rate)
    async with several(1, vendor, policy, store=Slow(lambda: 1.5)):
        await asyncio.sleep(600)
    assert 60 * rate <= len(vendor.reads) <= 600 * rate


@virtual_time
@processes
async def test_each_operation_settles_within_twice_the_best_that_the_budget_allows(processes: int) -> None:
    vendor = a_vendor("done")
    async with several(processes, vendor) as opened, opened[0].as_completed(CROWD) as outcomes:
        await asyncio.gather(*[anext(outcomes) for _ in CROWD])
    assert now() <= 2 * (0.5 + len(CROWD) / RATE)
    assert len(vendor.reads) == len(CROWD)


@virtual_time
async def test_look_ups_by_key_and_their_pages_are_paid_from_the_same_budget() -> None:
    vendor = a_vendor()
    vendor.pages = 3
    async with several(2, vendor) as opened:
        waiting = [asyncio.create_task(one.wait(lost(str(number), owner=str(number)))) for one in opened for number in range(20)]
        await asyncio.sleep(20)
        await leave(*waiting)
    assert len(vendor.look_ups) >= 100
    assert most_in_a_second(vendor.read_times + vendor.look_up_times) <= RATE + 1


@virtual_time
async def test_long_listings_hold_off_neither_what_is_urgent_nor_each_other() -> None:
    vendor, store = FakeVendor(latency=0.1), MemoryStore(clock=wall)
    vendor.will("1", "done")
    async with AsyncExitStack() as stack:
        policy = PollPolicy(max_per_second=1)
        opened = [
            await stack.enter_async_context(Completions(vendor, store, polling=policy, clock=wall, random=lambda: 0.0))
            for _ in range(2)
        ]
        vendor.pages = 200
        listing = [
            asyncio.create_task(one.wait(lost(f"{place} {number}", owner=f"{place} {number}")))
            for place, one in enumerate(opened)
            for number in range(3)
        ]
        await asyncio.sleep(10)
        began = now()
        await opened[0].wait("1", timeout=30, poll_now=True)
        assert now() - began <= 5
        vendor.will("2", "pending")
        with pytest.raises(CompletionTimeout):
            await opened[1].wait("2", timeout=10)
        assert [ref.uid for _, ref in vendor.reads] == ["1", "2"]
        await leave(*listing)
    assert now() - 20 <= len(vendor.look_ups) + len(vendor.reads) + 5
    assert {keys[0] for _, keys in vendor.look_ups} == {f"{place} {number}" for place in range(2) for number in range(3)}
    requests = Counter(keys[0].partition(" ")[0] for _, keys in vendor.look_ups)
    assert min(requests["0"], requests["1"]) >= requests.total() / 3
    assert most_in_a_second(vendor.read_times + vendor.look_up_times) <= 2


@pytest.mark.slow
@virtual_time
async def test_of_several_budgets_the_lowest_holds_and_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    vendor, store = a_vendor(), MemoryStore(clock=wall)
    async with several(1, vendor, store=store):
        async with Completions(vendor, store, polling=PollPolicy(max_per_second=5)):
            await asyncio.sleep(20)
            assert most_in_a_second([time for time in vendor.read_times if time > 1]) <= 6
        await asyncio.sleep(60)
    said("of several budgets the lowest holds and is warned about once", "\n".join(caplog.messages))
    assert most_in_a_second([time for time in vendor.read_times if time > 60]) >= RATE


@pytest.mark.slow
@virtual_time
async def test_operations_that_nobody_waits_for_take_a_tenth_at_most_and_come_last() -> None:
    vendor, store = FakeVendor(), MemoryStore(clock=wall)
    async with Completions(vendor, store, polling=SOON, clock=wall) as completions:
        stuck = [a_ref(f"stuck {number}") for number in range(400)]
        for ref in stuck:
            vendor.will(ref.uid, "pending")
        await store.add_pending(stuck, poll_in=0)
        await asyncio.sleep(60)
        assert 110 <= len(vendor.reads) <= 122
        before = len(vendor.reads)
        for number in range(200):
            vendor.will(str(number), "pending", "done")
        async with completions.as_completed([str(number) for number in range(200)]) as outcomes:
            await asyncio.gather(*[anext(outcomes) for _ in range(200)])
        assert now() - 60 <= 2 * 200 / RATE * 1.1
        assert len(vendor.reads) - before <= 400 * 1.1


@pytest.mark.slow
@virtual_time
@processes
async def test_of_a_vendor_that_refuses_one_operation_at_a_time_is_asked_about_until_it_answers(processes: int) -> None:
    vendor = a_vendor(Unauthorized("no", status=401))
    vendor.latency = 3.0
    async with several(processes, vendor):
        await asyncio.sleep(300)
        after = [time for time in vendor.read_times if time > 10]
        assert len(after) <= 3
        for uid in CROWD:
            vendor.will(uid, "pending")
        await asyncio.sleep(240)
        assert most_in_a_second([time for time in vendor.read_times if time > 440]) >= RATE - 1
    assert most_in_a_second(vendor.read_times) <= RATE + 1
