"""What a batch thread takes together, and how long one call may wait for others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rewards_core.sqlite.batches import BatchThread, Call

PATIENCE = 3
LONGEST_WAIT = 32
ENOUGH = 128


class Work:
    """Does every call and remembers how many came together."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[Call[Any]]) -> list[Any]:
        self.sizes.append(len(batch))
        for call in batch:
            call.result = call.run()
        return []


@asynccontextmanager
async def running(work: Work, *, patience: int) -> AsyncIterator[BatchThread]:
    thread = BatchThread("test", work, tell=lambda news: None, end=lambda: None, patience=patience)
    yield thread
    await thread.aclose()


async def some_passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_of_one_pass_go_together() -> None:
    work = Work()
    async with running(work, patience=0) as thread:
        await asyncio.gather(*(thread.submit(Call[int](int)) for _ in range(5)))
    assert work.sizes == [5]


async def test_calls_of_the_next_passes_join_a_batch_that_has_patience() -> None:
    work = Work()
    async with running(work, patience=PATIENCE) as thread:
        calls: list[asyncio.Future[int]] = []
        for _ in range(5):
            calls.append(thread.submit(Call[int](int)))
            await some_passes(PATIENCE - 1)
        await asyncio.gather(*calls)
    assert work.sizes == [5]


async def test_a_pass_without_a_new_call_ends_the_wait() -> None:
    work = Work()
    async with running(work, patience=PATIENCE) as thread:
        first = thread.submit(Call[int](int))
        await some_passes(PATIENCE + 1)
        second = thread.submit(Call[int](int))
        await asyncio.gather(first, second)
    assert work.sizes == [1, 1]


async def test_no_call_waits_for_ever_while_others_keep_coming() -> None:
    work = Work()
    async with running(work, patience=PATIENCE) as thread:
        calls = [thread.submit(Call[int](int))]
        while not calls[0].done():
            calls.append(thread.submit(Call[int](int)))
            await asyncio.sleep(0)
            assert len(calls) < 100_000
        await asyncio.gather(*calls)
    assert work.sizes[0] == pytest.approx(LONGEST_WAIT, abs=2)


async def test_enough_calls_go_at_once() -> None:
    work = Work()
    async with running(work, patience=PATIENCE) as thread:
        calls = [thread.submit(Call[int](int)) for _ in range(ENOUGH)]
        await some_passes(1)
        late = thread.submit(Call[int](int))
        await asyncio.gather(*calls, late)
    assert work.sizes == [ENOUGH, 1]


async def test_closing_runs_what_still_waits_for_company() -> None:
    work = Work()
    async with running(work, patience=PATIENCE) as thread:
        call = thread.submit(Call[int](lambda: 7))
    assert await call == 7
