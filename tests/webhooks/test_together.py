from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.virtual_time import virtual_time
from tests.webhooks.world import now, settle
from webhooks.together import Together


class Workshop:
    def __init__(self, *, takes: float = 0.0, most: int = 64) -> None:
        self.takes = takes
        self.batches: list[list[int]] = []
        self.together: Together[int, int] = Together(self.work, most=most)

    async def work(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await asyncio.sleep(self.takes)
        if 13 in items:
            raise ValueError("unlucky")
        return [item * 10 for item in items]

    async def ask(self, item: int) -> int:
        return await self.together.add(item)


@virtual_time
async def test_what_comes_at_one_moment_is_worked_through_together() -> None:
    shop = Workshop()
    assert await asyncio.gather(*(shop.ask(item) for item in range(5))) == [0, 10, 20, 30, 40]
    assert await shop.ask(7) == 70
    assert shop.batches == [[0, 1, 2, 3, 4], [7]]


@virtual_time
async def test_no_more_than_so_many_at_a_time() -> None:
    shop = Workshop(most=2)
    assert await asyncio.gather(*(shop.ask(item) for item in range(5))) == [0, 10, 20, 30, 40]
    assert shop.batches == [[0, 1], [2, 3], [4]]


@virtual_time
async def test_what_comes_while_others_are_worked_on_does_not_wait_for_them() -> None:
    shop = Workshop(takes=5.0)
    first = asyncio.create_task(shop.ask(1))
    await asyncio.sleep(1)
    assert await shop.ask(2) == 20
    assert now() == 6.0
    assert await first == 10


@virtual_time
async def test_trouble_reaches_everybody_it_concerns_and_nobody_else() -> None:
    shop = Workshop(most=2)
    results = await asyncio.gather(*(shop.ask(item) for item in (1, 13, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, ValueError, int]


@virtual_time
async def test_who_leaves_early_keeps_nobody_from_the_result() -> None:
    shop = Workshop(takes=1.0)
    tasks = [asyncio.create_task(shop.ask(item)) for item in (1, 2, 13)]
    await settle()
    tasks[0].cancel()
    assert isinstance((await asyncio.gather(*tasks, return_exceptions=True))[1], ValueError)
    tasks = [asyncio.create_task(shop.ask(item)) for item in (1, 2)]
    await settle()
    tasks[0].cancel()
    assert (await asyncio.gather(*tasks, return_exceptions=True))[1] == 20


@virtual_time
async def test_work_that_is_cancelled_from_inside_leaves_nobody_waiting() -> None:
    async def work(items: Sequence[int]) -> Sequence[int]:
        if 13 in items:
            raise asyncio.CancelledError
        return items

    together: Together[int, int] = Together(work, most=1)
    turns = [together.add(item) for item in (1, 13, 2)]
    await asyncio.wait(turns, timeout=10)
    assert [turn.cancelled() for turn in turns] == [False, True, True]
    assert turns[0].result() == 1
    assert await together.add(3) == 3


@virtual_time
async def test_closing_waits_for_what_is_worked_on() -> None:
    shop = Workshop(takes=3.0)
    task = asyncio.create_task(shop.ask(1))
    await settle()
    await shop.together.aclose()
    assert now() == 3.0
    assert await task == 10
    await shop.together.aclose()


async def test_it_needs_a_running_loop() -> None:
    with pytest.raises(RuntimeError):
        await asyncio.to_thread(Workshop().together.add, 1)
