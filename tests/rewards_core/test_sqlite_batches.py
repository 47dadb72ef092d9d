"""What a batch thread takes together, how long one call may wait for others, and what becomes of it when a loop ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rewards_core.batches import Call
from rewards_core.sqlite.batches import BatchThread
from tests.rewards_core.sqlite_kit import until

QUIET_PASSES = 3
MAX_PASSES = 32
ENOUGH = 128
MAX_BATCH = 1_000


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
async def running(work: Work, *, quiet_passes: int) -> AsyncIterator[BatchThread]:
    thread = BatchThread("test", work, notify=lambda notifications: None, end=lambda: None, quiet_passes=quiet_passes)
    yield thread
    await thread.aclose()


async def some_passes(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_of_one_pass_go_together() -> None:
    work = Work()
    async with running(work, quiet_passes=0) as thread:
        await asyncio.gather(*(thread.submit(Call[int](int)) for _ in range(5)))
    assert work.sizes == [5]


async def test_calls_of_the_next_passes_join_a_batch_that_waits_for_them() -> None:
    work = Work()
    async with running(work, quiet_passes=QUIET_PASSES) as thread:
        calls: list[asyncio.Future[int]] = []
        for _ in range(5):
            calls.append(thread.submit(Call[int](int)))
            await some_passes(QUIET_PASSES - 1)
        await asyncio.gather(*calls)
    assert work.sizes == [5]


async def test_a_pass_without_a_new_call_ends_the_wait() -> None:
    work = Work()
    async with running(work, quiet_passes=QUIET_PASSES) as thread:
        first = thread.submit(Call[int](int))
        await some_passes(QUIET_PASSES + 1)
        second = thread.submit(Call[int](int))
        await asyncio.gather(first, second)
    assert work.sizes == [1, 1]


async def test_no_call_waits_for_ever_while_others_keep_coming() -> None:
    work = Work()
    async with running(work, quiet_passes=QUIET_PASSES) as thread:
        calls = [thread.submit(Call[int](int))]
        while not calls[0].done():
            calls.append(thread.submit(Call[int](int)))
            await asyncio.sleep(0)
            assert len(calls) < 100_000
        await asyncio.gather(*calls)
    assert work.sizes[0] == pytest.approx(MAX_PASSES, abs=2)


async def test_enough_calls_go_at_once() -> None:
    work = Work()
    async with running(work, quiet_passes=QUIET_PASSES) as thread:
        calls = [thread.submit(Call[int](int)) for _ in range(ENOUGH)]
        await some_passes(1)
        late = thread.submit(Call[int](int))
        await asyncio.gather(*calls, late)
    assert work.sizes == [ENOUGH, 1]


async def test_closing_runs_what_still_waits_for_company() -> None:
    work = Work()
    async with running(work, quiet_passes=QUIET_PASSES) as thread:
        call = thread.submit(Call[int](lambda: 7))
    assert await call == 7


async def test_a_batch_is_never_longer_than_one_commit_should_take() -> None:
    work = Work()
    async with running(work, quiet_passes=0) as thread:
        await asyncio.gather(*(thread.submit(Call[int](int)) for _ in range(MAX_BATCH + 5)))
    assert work.sizes == [MAX_BATCH, 5]


async def test_calls_that_come_while_a_batch_is_run_go_together() -> None:
    work, first_is_run, go_on = Work(), threading.Event(), threading.Event()

    def first() -> int:
        first_is_run.set()
        go_on.wait()
        return 0

    async with running(work, quiet_passes=0) as thread:
        calls = [thread.submit(Call[int](first))]
        await until(first_is_run.is_set)
        for _ in range(3):
            calls.append(thread.submit(Call[int](int)))
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*calls)
    assert work.sizes == [1, 3]


async def test_work_that_breaks_fails_its_calls_and_the_thread_lives_on() -> None:
    faults = [RuntimeError("broken")]

    def work(batch: Sequence[Call[Any]]) -> list[Any]:
        if faults:
            raise faults.pop()
        return []

    thread = BatchThread("test", work, notify=lambda notifications: None, end=lambda: None)
    with pytest.raises(RuntimeError, match="broken"):
        await thread.submit(Call[None](lambda: None))
    assert await thread.submit(Call[int](int)) is None
    await thread.aclose()


async def test_a_tick_comes_without_a_call_and_its_news_reach_the_loop() -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def tell(notifications: list[str]) -> None:
        for piece in notifications:
            heard.put_nowait(piece)

    thread = BatchThread("test", Work(), notify=tell, end=lambda: None, tick=lambda: ["tick"], tick_every=0.001)
    thread.start()
    assert [await heard.get() for _ in range(3)] == ["tick"] * 3
    await thread.aclose()


async def test_ticks_come_though_batches_follow_one_another() -> None:
    ticks: list[None] = []

    def tick() -> list[Any]:
        ticks.append(None)
        return []

    thread = BatchThread("test", Work(), notify=lambda notifications: None, end=lambda: None, tick=tick, tick_every=0.001)
    while len(ticks) < 3:
        await thread.submit(Call[int](int))
    await thread.aclose()


async def test_a_tick_that_breaks_fails_no_call_and_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[None] = []

    def tick() -> list[Any]:
        ticks.append(None)
        raise RuntimeError("broken tick")

    thread = BatchThread("test", Work(), notify=lambda notifications: None, end=lambda: None, tick=tick, tick_every=0.0001)
    while len(ticks) < 3:
        assert await thread.submit(Call[int](int)) == 0
    await thread.aclose()
    assert "broken tick" in caplog.text


async def test_an_end_that_breaks_is_told_and_closing_returns(caplog: pytest.LogCaptureFixture) -> None:
    def end() -> None:
        raise RuntimeError("broken end")

    thread = BatchThread("test", Work(), notify=lambda notifications: None, end=end)
    await thread.submit(Call[int](int))
    await thread.aclose()
    await thread.aclose()
    assert "broken end" in caplog.text


async def test_a_listener_that_breaks_leaves_no_caller_waiting() -> None:
    def tell(notifications: list[Any]) -> None:
        raise RuntimeError("broken listener")

    raised: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: raised.append(context["exception"]))
    thread = BatchThread("test", lambda batch: ["notifications"], notify=tell, end=lambda: None)
    assert await thread.submit(Call[int](int)) is None
    await thread.aclose()
    assert [str(problem) for problem in raised] == ["broken listener"]


async def test_a_thread_that_was_never_used_closes_at_once() -> None:
    await BatchThread("test", Work(), notify=lambda notifications: None, end=lambda: None).aclose()


async def test_a_caller_that_gave_up_disturbs_nobody() -> None:
    work = Work()
    async with running(work, quiet_passes=0) as thread:
        impatient = thread.submit(Call[int](int))
        patient = thread.submit(Call[int](int))
        impatient.cancel()
        assert await patient == 0
    assert work.sizes == [2]


async def test_a_second_loop_gets_its_own_answers_and_the_first_one_the_news() -> None:
    home = asyncio.get_running_loop()
    told: list[bool] = []

    def tell(notifications: list[Any]) -> None:
        told.append(asyncio.get_running_loop() is home)

    def work(batch: Sequence[Call[Any]]) -> list[Any]:
        for call in batch:
            call.result = call.run()
        return ["notifications"]

    async def elsewhere() -> int:
        return await thread.submit(Call[int](lambda: 7))

    thread = BatchThread("test", work, notify=tell, end=lambda: None)
    await thread.submit(Call[int](int))
    assert await asyncio.to_thread(asyncio.run, elsewhere()) == 7
    await until(lambda: len(told) == 2)
    assert told == [True, True]
    await thread.aclose()


async def test_one_loop_may_follow_another_that_left_its_calls_behind() -> None:
    work, go_on = Work(), threading.Event()

    async def leave() -> None:
        thread.submit(Call[bool](go_on.wait))
        for _ in range(2):
            await asyncio.sleep(0)
        thread.submit(Call[int](int))

    thread = BatchThread("test", work, notify=lambda notifications: None, end=lambda: None)
    await asyncio.to_thread(asyncio.run, leave())
    go_on.set()
    assert await thread.submit(Call[int](lambda: 7)) == 7
    await thread.aclose()
    assert work.sizes == [1, 1]  # of the call that the first loop never handed over nobody hears


async def test_news_for_a_loop_that_has_ended_are_dropped() -> None:
    go_on, ticked = threading.Event(), threading.Event()

    def tick() -> list[Any]:
        go_on.wait()
        ticked.set()
        return ["notifications"]

    thread = BatchThread("test", Work(), notify=lambda notifications: None, end=lambda: None, tick=tick, tick_every=0.001)

    async def begin() -> None:
        thread.start()

    await asyncio.to_thread(asyncio.run, begin())
    go_on.set()
    await until(ticked.is_set)
    assert await thread.submit(Call[int](lambda: 7)) == 7
    await thread.aclose()
