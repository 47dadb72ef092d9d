"""Very many operations at once: a crowd does not block others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import pytest

from rewards_core.operations import OperationRef, OperationStatus
from tests.virtual_time import run, virtual_time, wall
from tests.webhooks.fakes import lost
from tests.webhooks.world import a_world, leave, now, settle
from webhooks import CompletionTimeout, MemoryStore, PollPolicy
from webhooks.store.records import Priority

pytestmark = pytest.mark.repeats_itself

SELDOM = PollPolicy(first_after=10_000.0, max_interval=20_000.0)


def lines_run(uids: list[str]) -> int:
    """Return how many lines of as_completed run while all these time out at one moment."""
    count = 0

    def in_as_completed(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
        return in_as_completed

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return in_as_completed if frame.f_code.co_filename.endswith("as_completed.py") else None

    async def time_out() -> None:
        async with a_world(polling=SELDOM) as world, world.completions.as_completed(uids, timeout=100) as outcomes:
            assert len([one async for one in outcomes]) == len(uids)
            assert 99.9 <= now() <= 100

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(time_out())
    finally:
        sys.settrace(before)
    return count


@pytest.mark.slow
def test_the_work_of_timing_out_grows_with_the_number_and_no_faster() -> None:
    few, many = lines_run([str(number) for number in range(2_500)]), lines_run([str(number) for number in range(10_000)])
    assert 3.5 < many / few < 4.5


@virtual_time
@pytest.mark.parametrize("waits", [True, False])
async def test_a_crowd_that_resumes_does_not_delay_what_an_event_leaves_open(waits: bool) -> None:
    async with a_world() as world:
        crowd = [str(number) for number in range(5_000)]
        for uid in crowd:
            world.vendor.will(uid, "pending")
        world.vendor.will("news", "done")
        async with world.completions.as_completed(crowd, poll_now=True):
            await asyncio.sleep(1)
            waiting = world.start("news") if waits else None
            await settle()
            began = now()
            await world.deliver("news", status=None)
            await asyncio.sleep(0.2)
            assert (await world.completions.wait("news")).status is OperationStatus.DONE
            assert now() <= began + 0.3
            if waiting is not None:
                await waiting


@virtual_time
async def test_a_crowd_that_looks_for_its_keys_does_not_hold_up_what_an_event_leaves_open() -> None:
    async with a_world() as world:
        crowd = [world.start(lost(str(number), owner=str(number)), timeout=120) for number in range(1_000)]
        world.vendor.will("news", "done")
        await asyncio.sleep(10)
        began = now()
        await world.deliver("news", status=None)
        assert (await world.completions.wait("news")).status is OperationStatus.DONE
        assert now() <= began + 4
        await asyncio.sleep(50)
        assert len({keys for _, keys in world.vendor.look_ups}) == 1_000
        await leave(*crowd)


@pytest.mark.slow
@virtual_time
async def test_a_crowd_that_resumes_keeps_no_other_from_a_last_poll_before_the_deadline() -> None:
    async with a_world() as world:
        crowd = [str(number) for number in range(5_000)]
        for uid in crowd:
            world.vendor.will(uid, "pending")
        world.vendor.will("1", "done")
        async with world.completions.as_completed(crowd[2:], poll_now=True):
            assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
            assert now() == pytest.approx(58.0, abs=0.2)


@virtual_time
async def test_of_a_crowd_of_waits_that_end_together_as_many_are_asked_about_as_the_budget_allows() -> None:
    hurried: list[OperationRef] = []

    class Noting(MemoryStore):
        async def hurry_polls(self, refs: Sequence[OperationRef], priority: Priority) -> None:
            hurried.extend(refs)
            await super().hurry_polls(refs, priority)

    async with a_world(polling=PollPolicy(max_per_second=5), store=Noting(clock=wall)) as world:
        crowd = [str(number) for number in range(100)]
        for uid in crowd:
            world.vendor.will(uid, "done")
        results = await asyncio.gather(*(world.start(uid, timeout=10) for uid in crowd), return_exceptions=True)
        assert [type(result) for result in results].count(CompletionTimeout) == 90
        assert min(world.vendor.read_times) == 8.0
        assert len(world.vendor.reads) == len(hurried) == 10  # a crowd is not written to the store for nothing
        await asyncio.sleep(20)
        assert len(world.vendor.reads) <= 20  # of those that are left, in a tenth of the budget
