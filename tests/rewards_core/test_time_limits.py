"""Time limits of attempts: as `asyncio.timeout`, with one timer for all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewards_core.http.time_limits import TimeLimits


async def limited(limits: TimeLimits, seconds: float, ends: list[float]) -> None:
    """Wait for ever, and keep when the limit ended that."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError) as caught, limits.limit(seconds):
        await loop.create_future()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    ends.append(seconds)


@pytest.mark.parametrize("order", [(0.01, 0.02, 0.03), (0.03, 0.02, 0.01), (0.02, 0.03, 0.01), (0.01, 0.01, 0.01)])
async def test_every_limit_ends(order: tuple[float, ...]) -> None:
    limits, ends = TimeLimits(), list[float]()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for seconds in order:
            tasks.create_task(limited(limits, seconds, ends))
    assert sorted(ends) == sorted(order)
    async with asyncio.timeout(60):
        await limited(limits, 0.0, ends)  # the timer runs again for those that follow


async def test_a_part_that_ends_in_time_is_left_alone() -> None:
    limits, ends = TimeLimits(), list[float]()
    with limits.limit(0.01):
        pass
    with pytest.raises(ZeroDivisionError), limits.limit(0.01):
        raise ZeroDivisionError
    await limited(limits, 0.02, ends)  # the first timer has run by then
    assert ends == [0.02]


async def test_a_shorter_limit_ends_before_one_that_began_earlier() -> None:
    limits, ends = TimeLimits(), list[float]()
    waiting = asyncio.create_task(limited(limits, 3600.0, ends))
    await asyncio.sleep(0)
    await limited(limits, 0.01, ends)
    assert ends == [0.01]
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("first", ["limit", "caller"])
async def test_a_cancellation_from_outside_passes_through(first: str) -> None:
    limits, loop = TimeLimits(), asyncio.get_running_loop()
    entered = asyncio.Event()
    limit = limits.limit(3600.0)

    async def work() -> None:
        with limit:
            entered.set()
            await loop.create_future()

    working = asyncio.create_task(work())
    await entered.wait()
    cancels: list[Any] = [limit.expire, working.cancel]
    for cancel in cancels if first == "limit" else reversed(cancels):
        cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_another_error_at_the_limit_is_not_hidden() -> None:
    limit = TimeLimits().limit(3600.0)

    async def fail_at_the_limit() -> None:
        with limit:
            limit.expire()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_at_the_limit()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
