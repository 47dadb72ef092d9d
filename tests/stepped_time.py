"""Time that moves only when somebody sleeps or a test moves it, for tests whose bytes travel over real sockets.

A loop whose time jumps whenever it is idle (`tests.virtual_time`) would jump while bytes are on their way.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

_real_sleep = asyncio.sleep


class SteppedTime:
    """The time of the running loop and, by `now`, of the wall.

    Attributes:
        at: Seconds since the epoch; set it to let time pass.
        slept: How long somebody slept, in order.
    """

    def __init__(self) -> None:
        self.at = 1_700_000_000.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float, result: Any = None) -> Any:
        if seconds > 0:
            self.slept.append(seconds)
            self.at += seconds
        await _real_sleep(0)
        return result

    def rule(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the loop's time."""
        monkeypatch.setattr(loop, "time", self.now)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)
