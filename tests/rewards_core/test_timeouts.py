"""Time-outs that share one timer end what takes too long, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewards_core.http.transport import SharedTimer, TimeLimit
from tests.virtual_time import virtual_time

USUAL, SHORT = 0.02, 0.01


async def last_for_ever(timer: SharedTimer, seconds: float = USUAL) -> None:
    with TimeLimit(timer, seconds):
        await asyncio.Event().wait()


@virtual_time
async def test_what_takes_too_long_times_out() -> None:
    timer = SharedTimer(USUAL)
    for seconds in (USUAL, SHORT, 60.0):
        with pytest.raises(TimeoutError):
            await last_for_ever(timer, seconds)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@virtual_time
async def test_a_short_turn_does_not_last_as_long_as_a_usual_one() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(TimeoutError):
        await last_for_ever(SharedTimer(60.0), SHORT)
    assert loop.time() - begun == pytest.approx(SHORT)


@virtual_time
async def test_what_ends_in_time_is_left_alone() -> None:
    timer = SharedTimer(60.0)
    for seconds in (60.0, 30.0):
        with TimeLimit(timer, seconds):
            await asyncio.sleep(0)


@virtual_time
async def test_a_timer_set_for_one_that_has_ended_ends_nobody_else_too_early() -> None:
    timer, loop = SharedTimer(USUAL), asyncio.get_running_loop()
    with TimeLimit(timer, USUAL):
        pass
    await asyncio.sleep(USUAL / 2)
    begun = loop.time()
    with pytest.raises(TimeoutError):
        await last_for_ever(timer)
    assert loop.time() - begun == pytest.approx(USUAL)


@virtual_time
async def test_what_the_body_raises_passes_through() -> None:
    timer = SharedTimer(USUAL)
    for seconds in (USUAL, SHORT):
        with pytest.raises(KeyError), TimeLimit(timer, seconds):
            raise KeyError
    await asyncio.sleep(0)


@virtual_time
async def test_each_turn_has_its_whole_time() -> None:
    timer, loop, took = SharedTimer(USUAL), asyncio.get_running_loop(), list[float]()

    async def time_out() -> None:
        begun = loop.time()
        with pytest.raises(TimeoutError):
            await last_for_ever(timer)
        took.append(loop.time() - begun)

    turns = []
    for _ in range(3):
        turns.append(asyncio.ensure_future(time_out()))
        await asyncio.sleep(USUAL / 4)
    await asyncio.gather(*turns)
    assert len(took) == 3
    assert took == pytest.approx([USUAL] * 3)


@virtual_time
async def test_turns_share_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), list[Any]()
    call_at = loop.call_at

    def counting(when: float, *arguments: Any, **named: Any) -> Any:
        timers.append(when)
        return call_at(when, *arguments, **named)

    monkeypatch.setattr(loop, "call_at", counting)
    timer = SharedTimer(60.0)

    async def turn() -> None:
        with TimeLimit(timer, 60.0):
            await asyncio.sleep(0)

    await asyncio.gather(*(turn() for _ in range(100)))
    assert len(timers) == 1


@pytest.mark.parametrize("seconds", [60.0, 30.0])
@virtual_time
async def test_a_cancellation_from_outside_stays_one(seconds: float) -> None:
    timer = SharedTimer(60.0)
    task = asyncio.ensure_future(last_for_ever(timer, seconds))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("first", ["the timer", "somebody else"])
@virtual_time
async def test_a_cancellation_from_outside_in_the_moment_of_the_time_out_stays_one(first: str) -> None:
    limit = TimeLimit(SharedTimer(60.0), 60.0)

    async def body() -> None:
        with limit:
            await asyncio.Event().wait()

    task = asyncio.ensure_future(body())
    await asyncio.sleep(0)
    for cancel in (limit.expire, task.cancel) if first == "the timer" else (task.cancel, limit.expire):
        cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


@virtual_time
async def test_a_task_that_outlived_a_cancellation_can_time_out() -> None:
    async def outlive() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(TimeoutError):
                await last_for_ever(SharedTimer(SHORT))

    task = asyncio.ensure_future(outlive())
    await asyncio.sleep(0)
    task.cancel()
    await task


@virtual_time
async def test_a_body_that_resists_is_told_once_and_holds_up_nobody() -> None:
    timer, told = SharedTimer(SHORT), list[int]()

    async def resist() -> None:
        with TimeLimit(timer, SHORT):
            for number in range(2):
                try:
                    await asyncio.sleep(SHORT * 4)
                except asyncio.CancelledError:
                    told.append(number)

    resisting = asyncio.ensure_future(resist())
    await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await last_for_ever(timer)
    await resisting
    assert told == [0]
