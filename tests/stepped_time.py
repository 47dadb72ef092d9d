"""Time that moves only when the product sleeps or a test moves it, for tests whose bytes travel over real sockets.

A loop whose time jumps whenever it is idle (`tests.virtual_time`) would jump while bytes are on their way.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, cast

import pytest

from rewards_core import clock

PACKAGES = ("rewards_core", "original_async", "enkash_async", "webhooks", "payouts")

HOUSE = {*PACKAGES, "vendor_sandboxes", "tests"}

DAY = 86_400.0
JUMPS = {"half an hour back": [-1_800.0], "40 days ahead": [40 * DAY], "ahead and back": [40 * DAY, -40 * DAY]}
"""Ways in which a wall clock is set while something waits, in seconds."""
each_jump = pytest.mark.parametrize("jumps", JUMPS.values(), ids=JUMPS)

_real_sleep = asyncio.sleep


class SteppedTime:
    """The time of the running loop and of the host and, by `wall`, what a wall clock says that may be wrong.

    Attributes:
        at: Seconds since the epoch; set it to let time pass.
        ahead: Seconds by which the wall clock is ahead; set it to let the clock jump.
        slept: How long the product slept, in order.
        meanwhile: Awaited each time while the product sleeps, if set.
    """

    def __init__(self) -> None:
        self.at = 1_700_000_000.0
        self.ahead = 0.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at + self.ahead

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        if self.meanwhile is not None:
            await self.meanwhile()
        await _real_sleep(0)

    def rule(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the loop's time, and the host's."""
        monkeypatch.setattr(loop, "time", self.now)
        real = clock.uptime
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in HOUSE and vars(module).get("uptime") is real:
                monkeypatch.setattr(module, "uptime", lambda: self.at)
        let_product_sleep(self.sleep, monkeypatch)


def let_product_sleep(sleep: Callable[[float], Awaitable[object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the product's own packages sleep in another way; everybody else, such as a sandbox, sleeps as ever."""

    async def chosen(seconds: float, result: Any = None) -> Any:
        caller = cast("FrameType", cast("FrameType", inspect.currentframe()).f_back)
        if seconds <= 0 or caller.f_globals["__name__"].partition(".")[0] not in PACKAGES:
            return await _real_sleep(seconds, result)
        await sleep(seconds)
        return result

    monkeypatch.setattr(asyncio, "sleep", chosen)
