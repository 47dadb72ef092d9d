from __future__ import annotations

import asyncio

import pytest

from tests.webhooks.virtual_time import virtual_time
from tests.webhooks.world import now
from webhooks import RestartPolicy
from webhooks.supervise import keep_running


class Mortal:
    """Work that lives as long as it is told, each time."""

    def __init__(self, *lives: float) -> None:
        self.lives = list(lives)
        self.started: list[float] = []
        self.deaths: list[Exception] = []

    async def work(self) -> None:
        self.started.append(now())
        if not self.lives:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self.lives.pop(0))
        raise ValueError("died")

    async def keep(self, policy: RestartPolicy) -> None:
        await keep_running(
            self.work,
            name="the work",
            policy=policy,
            clock=asyncio.get_running_loop().time,
            sleep=asyncio.sleep,
            died=self.deaths.append,
        )


@virtual_time
async def test_what_dies_in_a_row_starts_again_later_and_later() -> None:
    mortal = Mortal(*[0.0] * 7)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await mortal.keep(RestartPolicy(first_delay=1, max_delay=10, deaths=None))
    assert mortal.started == [0, 1, 3, 7, 15, 25, 35, 45]
    assert len(mortal.deaths) == 7


@virtual_time
async def test_a_healthy_life_ends_the_row() -> None:
    mortal = Mortal(0, 0, 60, 0, 0)
    with pytest.raises(ValueError, match="died"):
        await mortal.keep(RestartPolicy(first_delay=1, deaths=3))
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
        clock=asyncio.get_running_loop().time,
        sleep=asyncio.sleep,
        died=lambda _: None,
    )
    assert calls == [0.0]


@pytest.mark.parametrize("wrong", [{"first_delay": 0}, {"max_delay": 0}, {"healthy_after": -1}])
def test_policies_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RestartPolicy(**wrong)  # type: ignore[arg-type]
