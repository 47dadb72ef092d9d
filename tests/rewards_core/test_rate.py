from __future__ import annotations

import asyncio

import pytest

from rewards_core.rate import Limiter, Limits
from tests.rewards_core.lines import FakeTime


def limiter(time: FakeTime, *, random: float = 0.0, **limits: object) -> Limiter:
    return Limiter(Limits(**limits), clock=time.clock, sleep=time.sleep, random=lambda: random)  # type: ignore[arg-type]


async def test_slots_run_out_and_come_back() -> None:
    slots = limiter(FakeTime(), connections=2)
    assert slots.take()
    assert slots.take()
    assert not slots.take()
    slots.release()
    assert await slots.wait(1.0)


async def test_first_who_waits_is_served_first() -> None:
    slots = limiter(FakeTime(), connections=1)
    assert slots.take()
    order: list[int] = []

    async def want(number: int) -> None:
        assert await slots.wait(60.0)
        order.append(number)
        slots.release()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(want(number))
        await asyncio.sleep(0)
        slots.release()
    assert order == [0, 1, 2, 3, 4]


async def test_waiting_ends_at_its_time_without_a_slot() -> None:
    slots = limiter(FakeTime(), connections=1)
    assert slots.take()
    assert not await slots.wait(0.01)
    slots.release()
    assert slots.take()


async def test_slot_handed_over_in_the_moment_of_the_timeout_is_kept() -> None:
    slots = limiter(FakeTime(), connections=1)
    assert slots.take()
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(slots.wait(0.01))
    await asyncio.sleep(0)
    place = slots._waiting[0]
    fired = asyncio.Event()
    loop.call_at(loop.time() + 0.01, slots.release)
    loop.call_at(loop.time() + 0.01, fired.set)
    await fired.wait()
    had = await waiting
    assert had == (place.done() and not place.cancelled())
    if had:
        slots.release()
    assert slots.take()
    assert not slots.take()


async def test_cancelled_in_the_moment_of_the_handover_gives_the_slot_on() -> None:
    slots = limiter(FakeTime(), connections=1)
    assert slots.take()
    first = asyncio.ensure_future(slots.wait(5.0))
    second = asyncio.ensure_future(slots.wait(5.0))
    await asyncio.sleep(0)
    slots.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second


async def test_rate_spaces_the_starts_after_the_burst() -> None:
    time = FakeTime()
    slots = limiter(time, calls_per_second=10, burst=2)
    starts = []
    for _ in range(5):
        assert not slots.take()
        assert await slots.wait(60.0)
        starts.append(round(time.at - 1000.0, 6))
    assert starts == [0.0, 0.0, 0.1, 0.2, 0.3]


async def test_rate_under_one_per_second() -> None:
    time = FakeTime()
    slots = limiter(time, calls_per_second=0.5)
    assert await slots.wait(60.0)
    assert await slots.wait(60.0)
    assert time.at == 1002.0


async def test_rate_that_leaves_no_time_sends_nothing() -> None:
    time = FakeTime()
    slots = limiter(time, calls_per_second=0.01)
    assert await slots.wait(1.0)
    assert not await slots.wait(1.0)
    assert time.at == 1000.0


async def test_pause_holds_everybody_and_spreads_their_return() -> None:
    returns = []
    for chance in (0.0, 0.5, 1.0):
        time = FakeTime()
        slots = limiter(time, random=chance)
        slots.pause(10.0)
        assert slots.paused_for() == 10.0
        assert not slots.take()
        assert await slots.wait(60.0)
        returns.append(time.at - 1000.0)
        assert slots.take()
    assert returns == [10.0, 12.5, 15.0]


async def test_longer_pause_wins_and_a_shorter_one_changes_nothing() -> None:
    time = FakeTime()
    slots = limiter(time)
    slots.pause(10.0)
    slots.pause(1.0)
    assert slots.paused_for() == 10.0
    assert not await slots.wait(5.0)


async def test_pause_holds_those_who_wait_for_a_slot_too() -> None:
    time = FakeTime()
    slots = limiter(time, connections=1)
    assert slots.take()
    waiting = [asyncio.ensure_future(slots.wait(60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    slots.pause(10.0)
    slots.release()
    for turn in waiting:
        assert await turn
        assert time.at >= 1010.0
        slots.release()
    assert slots.take()
    assert not slots.take()


async def test_pause_longer_than_the_time_of_who_waits_for_a_slot_leaves_the_slot_free() -> None:
    time = FakeTime()
    slots = limiter(time, connections=1)
    assert slots.take()
    waiting = asyncio.ensure_future(slots.wait(5.0))
    await asyncio.sleep(0)
    slots.pause(10.0)
    slots.release()
    assert not await waiting
    time.at += 10.0
    assert await slots.wait(1.0)


async def test_rate_holds_after_a_pause_that_began_while_calls_waited_for_it() -> None:
    time = FakeTime()
    slots = limiter(time, calls_per_second=1)
    assert await slots.wait(60.0)
    go_on = asyncio.Event()

    async def sleep_until_told(seconds: float) -> None:
        await go_on.wait()

    slots._sleep = sleep_until_told
    waiting = [asyncio.ensure_future(slots.wait(60.0)) for _ in range(3)]
    await asyncio.sleep(0)
    slots.pause(0.5)
    slots._sleep = time.sleep
    assert await slots.wait(60.0)
    assert time.at == 1000.5
    go_on.set()
    assert all(await asyncio.gather(*waiting))
    assert time.at == 1003.5
