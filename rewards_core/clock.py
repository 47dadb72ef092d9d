"""The time that waits and limits are measured in."""

from __future__ import annotations

import asyncio


def loop_time() -> float:
    """Return the running loop's time, in seconds from some moment in the past."""
    return asyncio.get_running_loop().time()
