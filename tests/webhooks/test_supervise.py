from __future__ import annotations

import asyncio

import pytest

from rewards_core.errors import StoreClosed
from tests.virtual_time import virtual_time
from tests.webhooks.world import now
from webhooks import RestartPolicy
from webhooks.supervise import keep_running


class Mortal:
    """Work that crashes after a given time, at each start."""

    def __init__(self, *lives: float) -> None:
        self.lives = list(lives)
        self.started: list[float] = []
        self.crashes: list[Exception] = []
        self.dies_of: BaseException = ValueError("died")

    async def work(self) -> None:
        self.started.append(now())
        if not self.lives:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.lives.pop(0))
        raise self.dies_of

    async def keep(self, policy: RestartPolicy) -> None:
        await keep_running(
            self.work,
            name="the work",
            policy=policy,
            died=self.crashes.append,
        )


@virtual_time
async def test_what_dies_in_a_row_starts_again_later_and_later() -> None:
    mortal = Mortal(*[0.0] * 7)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await mortal.keep(RestartPolicy(first_delay=1, max_delay=10, max_crashes=None))
    assert mortal.started == [0, 1, 3, 7, 15, 25, 35, 45]
    assert len(mortal.crashes) == 7


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_what_always_starts_again_does_so_for_ever() -> None:
    started: list[float] = []

    async def work() -> None:
        started.append(now())
        if len(started) <= 2_000:
            raise ValueError("died")

    mortal = Mortal()
    mortal.work = work  # type: ignore[method-assign]
    await mortal.keep(RestartPolicy(first_delay=1, max_delay=10, max_crashes=None))
    assert len(mortal.crashes) == 2_000
    assert started[-1] == 1 + 2 + 4 + 8 + 1_996 * 10


@virtual_time
async def test_a_healthy_life_ends_the_row() -> None:
    mortal = Mortal(0, 0, 60, 0, 0)
    with pytest.raises(ValueError, match="died"):
        await mortal.keep(RestartPolicy(first_delay=1, max_crashes=3))
    assert mortal.started == [0, 1, 3, 64, 66]


@virtual_time
async def test_work_that_returns_is_not_started_again() -> None:
    calls = []

    async def work() -> None:
        calls.append(now())

    await keep_running(
        work,
        name="the work",
        policy=RestartPolicy(),
        died=lambda _: None,
    )
    assert calls == [0.0]


class Odd(BaseException):
    """What no `except Exception` catches."""


@virtual_time
@pytest.mark.parametrize("odd", [Odd("odd"), asyncio.CancelledError(), BaseExceptionGroup("odd", [Odd("odd")])])
async def test_work_that_something_odd_ends_from_inside_is_started_again(
    odd: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    mortal = Mortal(0, 0, 0)
    mortal.dies_of = odd
    with pytest.raises(RuntimeError, match=type(odd).__name__) as caught:
        await mortal.keep(RestartPolicy(first_delay=1, max_crashes=3))
    assert caught.value.__cause__ is odd
    assert mortal.started == [0, 1, 3]
    assert " restarted " in caplog.text


@virtual_time
@pytest.mark.parametrize("closed", [StoreClosed("closed"), ExceptionGroup("of a task group", [OSError(), StoreClosed("closed")])])
async def test_work_whose_store_is_closed_is_not_started_again(closed: Exception, caplog: pytest.LogCaptureFixture) -> None:
    mortal = Mortal(0)
    mortal.dies_of = closed
    with pytest.raises(StoreClosed) as caught:
        await mortal.keep(RestartPolicy(max_crashes=None))
    assert caught.value.__cause__ is closed
    assert (mortal.started, mortal.crashes, caplog.text) == ([0], [], "")


@virtual_time
@pytest.mark.parametrize("dying", [ValueError("died of it"), Odd("odd")])
async def test_work_that_dies_of_its_cancellation_is_not_started_again(dying: BaseException) -> None:
    calls = []

    async def work() -> None:
        calls.append(now())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise dying from None

    async def keep() -> None:
        await keep_running(work, name="the work", policy=RestartPolicy(), died=lambda _: calls.append(-1.0))

    task = asyncio.create_task(keep())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task], timeout=50)
    assert task.cancelled()
    assert calls == [0.0]


def test_who_interrupts_the_program_is_heard() -> None:
    async def work() -> None:
        raise KeyboardInterrupt

    async def keep() -> None:
        await keep_running(work, name="the work", policy=RestartPolicy(), died=lambda _: None)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(keep())
