from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest

from rewards_core.rate import Limiter, Limits
from tests.stepped_time import each_jump
from tests.virtual_time import virtual_time


def limiter(*, random: float = 0.0, **limits: Any) -> Limiter:
    return Limiter(Limits(**limits), random=lambda: random)


def now() -> float:
    return round(asyncio.get_running_loop().time(), 6)


async def start(slots: Limiter, starts: list[float]) -> None:
    assert await slots.wait(60.0)
    starts.append(now())
    slots.release()


@virtual_time
async def test_slots_run_out_and_come_back() -> None:
    slots = limiter(connections=2)
    assert slots.take()
    assert slots.take()
    assert not slots.take()
    slots.release()
    assert await slots.wait(1.0)


@each_jump
@virtual_time
async def test_a_pause_and_a_rate_hold_though_the_clock_jumps(monkeypatch: pytest.MonkeyPatch, jumps: list[float]) -> None:
    slots = limiter(calls_per_second=1.0, burst=1)
    slots.pause(10.0)
    wall, starts = [time.time()], list[float]()
    monkeypatch.setattr(time, "time", lambda: wall[0])
    starting = [asyncio.create_task(start(slots, starts)) for _ in range(3)]
    for jump in jumps:
        await asyncio.sleep(4.0)
        wall[0] += jump
    await asyncio.gather(*starting)
    assert starts == [10.0, 11.0, 12.0]


@virtual_time
async def test_first_who_waits_is_served_first() -> None:
    slots = limiter(connections=1)
    assert slots.take()
    order: list[int] = []

    async def want(number: int) -> None:
        assert await slots.wait()
        order.append(number)
        slots.release()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(want(number))
        await asyncio.sleep(0)
        slots.release()
    assert order == [0, 1, 2, 3, 4]


@virtual_time
async def test_slots_without_number_never_run_out() -> None:
    slots = limiter(connections=None)
    for _ in range(1_000):
        assert slots.take()
        assert await slots.wait(0.0)
    slots.release()
    assert slots.take()


@virtual_time
async def test_waiting_ends_at_its_time_without_a_slot() -> None:
    slots = limiter(connections=1)
    assert slots.take()
    assert not await slots.wait(0.01)
    assert now() == 0.01
    slots.release()
    assert slots.take()


@virtual_time
async def test_slot_handed_over_in_the_moment_of_the_timeout_is_kept() -> None:
    slots = limiter(connections=1)
    assert slots.take()
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(slots.wait(0.01))
    await asyncio.sleep(0)
    fired = asyncio.Event()
    loop.call_at(loop.time() + 0.01, slots.release)
    loop.call_at(loop.time() + 0.01, fired.set)
    await fired.wait()
    if await waiting:  # either way, there is one slot in the end
        slots.release()
    assert slots.take()
    assert not slots.take()


@virtual_time
async def test_cancelled_in_the_moment_of_the_handover_gives_the_slot_on() -> None:
    slots = limiter(connections=1)
    assert slots.take()
    first = asyncio.ensure_future(slots.wait(5.0))
    second = asyncio.ensure_future(slots.wait(5.0))
    await asyncio.sleep(0)
    slots.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second


@virtual_time
async def test_rate_spaces_the_starts_after_the_burst() -> None:
    slots = limiter(calls_per_second=10, burst=2)
    starts = []
    for _ in range(5):
        assert await slots.wait(60.0)
        starts.append(now())
    assert starts == [0.0, 0.0, 0.1, 0.2, 0.3]


@virtual_time
async def test_no_two_calls_start_at_once_where_no_burst_is_allowed() -> None:
    slots = limiter(calls_per_second=10, burst=1)
    await asyncio.sleep(60.0)
    starts = []
    for _ in range(4):
        while not slots.take():
            await asyncio.sleep(slots.ready_in())
        starts.append(now())
    assert starts == [60.0, 60.1, 60.2, 60.3]
    assert round(slots.ready_in(), 6) == 0.1


@virtual_time
async def test_whoever_waits_for_the_rate_is_not_overtaken() -> None:
    slots = limiter(calls_per_second=1)
    assert slots.take()
    waiting = asyncio.ensure_future(slots.wait())
    await asyncio.sleep(0.5)
    assert not slots.take()
    assert await waiting
    assert (now(), slots.take()) == (1.0, False)


@virtual_time
async def test_rate_under_one_per_second() -> None:
    slots = limiter(calls_per_second=0.5)
    assert await slots.wait(60.0)
    assert await slots.wait(60.0)
    assert now() == 2.0


@virtual_time
async def test_rate_that_leaves_no_time_sends_nothing() -> None:
    slots = limiter(calls_per_second=0.01)
    assert await slots.wait(1.0)
    assert not await slots.wait(1.0)
    assert now() == 0.0


@virtual_time
@pytest.mark.parametrize(("chance", "back_at"), [(0.0, 10.0), (0.5, 12.5), (1.0, 15.0)])
async def test_pause_holds_everybody_and_spreads_their_return(chance: float, back_at: float) -> None:
    slots = limiter(random=chance)
    slots.pause(10.0)
    assert slots.paused_for() == slots.ready_in() == 10.0
    assert not slots.take()
    assert await slots.wait(60.0)
    assert now() == back_at
    assert slots.take()


@virtual_time
async def test_pause_that_is_over_holds_nobody() -> None:
    slots = limiter(random=1.0)
    slots.pause(10.0)
    await asyncio.sleep(10.0)
    assert slots.take()


@virtual_time
async def test_longer_pause_wins_and_a_shorter_one_changes_nothing() -> None:
    slots = limiter()
    slots.pause(10.0)
    slots.pause(1.0)
    assert slots.paused_for() == 10.0
    assert not await slots.wait(5.0)


@virtual_time
async def test_pause_holds_those_who_wait_for_a_slot_too() -> None:
    slots = limiter(connections=1)
    assert slots.take()
    starts: list[float] = []
    waiting = [asyncio.ensure_future(start(slots, starts)) for _ in range(3)]
    await asyncio.sleep(0)
    slots.pause(10.0)
    slots.release()
    await asyncio.gather(*waiting)
    assert starts == [10.0] * 3
    assert slots.take()
    assert not slots.take()


@virtual_time
async def test_pause_longer_than_the_time_of_who_waits_for_a_slot_leaves_the_slot_free() -> None:
    slots = limiter(connections=1)
    assert slots.take()
    waiting = asyncio.ensure_future(slots.wait(5.0))
    await asyncio.sleep(0)
    slots.pause(10.0)
    slots.release()
    assert not await waiting
    await asyncio.sleep(10.0)
    assert await slots.wait(1.0)


@virtual_time
async def test_rate_holds_after_a_pause_that_began_while_calls_waited_for_it() -> None:
    slots = limiter(calls_per_second=1)
    starts: list[float] = []
    waiting = [asyncio.ensure_future(start(slots, starts)) for _ in range(4)]
    await asyncio.sleep(0)
    slots.pause(0.5)
    await start(slots, starts)
    await asyncio.gather(*waiting)
    assert starts == [0.0, 0.5, 1.5, 2.5, 3.5]


@virtual_time
async def test_slots_that_come_free_together_are_not_taken_together() -> None:
    slots, stalled, starts = limiter(connections=20, calls_per_second=20, burst=1), asyncio.Event(), list[float]()

    async def call() -> None:
        assert slots.take() or await slots.wait(60.0)
        starts.append(now())
        await stalled.wait()
        slots.release()

    async with asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(call())
        await asyncio.sleep(2.2)
        stalled.set()
    assert min(later - earlier for earlier, later in pairwise(starts)) == pytest.approx(0.05)


@pytest.mark.slow
@virtual_time
async def test_who_is_cancelled_leaves_no_turn_behind_that_others_wait_for() -> None:
    slots = limiter(connections=10, calls_per_second=100, burst=1)
    waiting = [asyncio.ensure_future(slots.wait(60.0)) for _ in range(3000)]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert slots.ready_in() <= 0.1
