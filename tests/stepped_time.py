"""Time that moves only when the product sleeps or a test moves it, for tests whose bytes travel over real sockets.

A loop whose time jumps whenever it is idle (`tests.virtual_time`) would jump while bytes are on their way.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

PACKAGES = ("rewards_core", "original_async", "enkash_async", "webhooks", "payouts")

_real_sleep = asyncio.sleep


class SteppedTime:
    """The time of the running loop and, by `now`, of the wall.

    Attributes:
        at: Seconds since the epoch; set it to let time pass.
        slept: How long the product slept, in order.
        meanwhile: Awaited each time while the product sleeps, if set.
    """

    def __init__(self) -> None:
        self.at = 1_700_000_000.0
        self.slept: list[float] = []
        self.meanwhile: Callable[[], Awaitable[object]] | None = None

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        if self.meanwhile is not None:
            await self.meanwhile()
        await _real_sleep(0)

    def rule(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the loop's time."""
        monkeypatch.setattr(loop, "time", self.now)
        let_product_sleep(self.sleep, monkeypatch)


def let_product_sleep(sleep: Callable[[float], Awaitable[object]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the product's own packages sleep in another way; everybody else, such as a sandbox, sleeps as ever."""

    async def chosen(seconds: float, result: Any = None) -> Any:
        if seconds <= 0 or sys._getframe(1).f_globals["__name__"].partition(".")[0] not in PACKAGES:
            return await _real_sleep(seconds, result)
        await sleep(seconds)
        return result

    monkeypatch.setattr(asyncio, "sleep", chosen)
