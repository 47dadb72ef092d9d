"""The clocks that waits and limits are measured by; none of them is the wall clock, which can be set."""

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
"""What `boot_id` returns where the host does not tell."""

_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_LONGEST_ID = 64


def loop_time() -> float:
    """Return the running loop's time, in seconds from some moment in the past."""
    return asyncio.get_running_loop().time()


def uptime_clock(platform: str) -> Callable[[], float]:
    """Return the clock of a platform that counts suspension and cannot be set; it is read for each call of a vendor."""
    if platform == "linux":
        return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if platform == "darwin":  # mach_continuous_time(), which counts sleep; CLOCK_MONOTONIC too, but from the wall clock
        return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC_RAW)
    return time.monotonic


uptime = uptime_clock(sys.platform)
"""Return the seconds since the host was booted, suspension included: one time for all its processes, which cannot be set.

It starts again at a boot: compare it with a time that another process wrote only if `boot_id` is the same, and take a time of
another boot as due.
"""


@functools.cache
def boot_id() -> str:
    """Return what tells this boot of the host from another one; the first call reads a small file of the kernel's.

    It is `UNKNOWN_BOOT` on Windows and where the kernel does not tell. All boots look like one there, so a wait until a kept time
    must also be limited to its own length. The wall clock less `uptime` would name a boot only until that clock is set.
    """
    if sys.platform == "darwin":
        return _kernel_value(b"kern.bootsessionuuid") or UNKNOWN_BOOT
    try:
        return _BOOT_FILE.read_text("ascii").strip() or UNKNOWN_BOOT
    except (OSError, ValueError):
        return UNKNOWN_BOOT


def _kernel_value(name: bytes) -> str | None:
    """Return a short text that the kernel of macOS keeps under this name, None if it keeps none."""
    import ctypes  # noqa: PLC0415 - no other platform needs it

    text = ctypes.create_string_buffer(_LONGEST_ID)
    size = ctypes.c_size_t(len(text))
    if ctypes.CDLL(None).sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return text.value.decode("ascii", "replace")
