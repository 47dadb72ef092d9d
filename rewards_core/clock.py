"""The clocks for waits and limits; none of them is the wall clock, which can be set."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

HOUR = 3_600
DAY = 86_400
"""Seconds."""
UNKNOWN_BOOT = "unknown"
"""The result of `boot_id` where the host has no such id."""

_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_LONGEST_ID = 64


def loop_time() -> float:
    """Return the running loop's time in seconds."""
    return asyncio.get_running_loop().time()


def uptime_clock(platform: str) -> Callable[[], float]:
    """Return a platform's clock that counts suspension and cannot be set."""
    if platform == "linux":
        return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if platform == "darwin":  # mach_continuous_time(), which counts sleep; CLOCK_MONOTONIC too, but from the wall clock
        return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC_RAW)
    return time.monotonic


uptime = uptime_clock(sys.platform)
"""Return the seconds since the host was booted, suspension included: the same time in all its processes.

Compare it with a time of another process only if `boot_id` is the same; a time of another boot is due.
"""


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the host; `UNKNOWN_BOOT` on Windows and where the kernel has none.

    Without an id all boots look alike, so a wait until a stored time must also be limited to its own length. The wall clock minus
    `uptime` identifies a boot only until that clock is set.
    """
    if sys.platform == "darwin":
        return _kernel_value(b"kern.bootsessionuuid") or UNKNOWN_BOOT
    try:
        return _BOOT_FILE.read_text("ascii").strip() or UNKNOWN_BOOT
    except (OSError, ValueError):
        return UNKNOWN_BOOT


def _kernel_value(name: bytes) -> str | None:
    """Return a text of the macOS kernel by its name, or None."""
    import ctypes  # noqa: PLC0415 - no other platform needs it

    text = ctypes.create_string_buffer(_LONGEST_ID)
    size = ctypes.c_size_t(len(text))
    if ctypes.CDLL(None).sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return text.value.decode("ascii", "replace")
