"""The clocks for waits and limits, which cannot be set, and a wall clock that is trusted only after a day if it was set."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from attrs import astuple, evolve, frozen

logger = logging.getLogger(__name__)

HOUR = 3_600
DAY = 86_400
"""Seconds."""
UNKNOWN_BOOT = "unknown"
"""The result of `boot_id` where the host has no such id."""

BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")
_LONGEST_ID = 64
_TOLERANCE = HOUR
_TRUSTED_AFTER = DAY


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
        return BOOT_FILE.read_text("ascii").strip() or UNKNOWN_BOOT
    except (OSError, ValueError):
        return UNKNOWN_BOOT


def same_boot(one: str, other: str) -> bool:
    """Return whether two ids may be of the same boot: they are equal, or one is unknown to a process that may not read it."""
    return one == other or UNKNOWN_BOOT in {one, other}


def _kernel_value(name: bytes) -> str | None:
    """Return a text of the macOS kernel by its name, or None."""
    import ctypes  # noqa: PLC0415 - no other platform needs it

    text = ctypes.create_string_buffer(_LONGEST_ID)
    size = ctypes.c_size_t(len(text))
    if ctypes.CDLL(None).sysctlbyname(name, text, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return text.value.decode("ascii", "replace")


@frozen(kw_only=True)
class TrustedTime:
    """Unix time that advances with the uptime. A wall clock that was set is trusted after a day.

    A host that was off for more than an hour looks like one whose clock was set ahead, and waits a day too.

    Attributes:
        wall: The trusted Unix time at `uptime`.
        uptime: Seconds since the host was booted.
        boot: The id of that boot.
        offer: Wall clock minus uptime when the clock was found to be set, None while it is trusted.
        offered_at: The uptime of that moment.
    """

    wall: float
    uptime: float
    boot: str
    offer: float | None = None
    offered_at: float = 0.0

    def expected(self, uptime: float, boot: str) -> float:
        """Return the time by the uptime alone; the time between two boots is not counted."""
        return self.wall + (max(0.0, uptime - self.uptime) if same_boot(boot, self.boot) else 0.0)

    def update(self, wall: float, uptime: float, boot: str) -> Self:
        """Return the trusted time after reading the clocks."""
        expected = self.expected(uptime, boot)
        offer = wall - uptime
        same_offer = self.offer is not None and same_boot(boot, self.boot) and abs(offer - self.offer) <= _TOLERANCE
        if abs(wall - expected) <= _TOLERANCE or (same_offer and uptime - self.offered_at >= _TRUSTED_AFTER):
            return evolve(self, wall=wall, uptime=uptime, boot=boot, offer=None)
        if same_offer:
            return evolve(self, wall=expected, uptime=uptime)
        logger.warning(
            "the wall clock jumped by %+.0f s, or the host was off; for a day, ages are still measured by the old time",
            wall - expected,
        )
        return evolve(self, wall=expected, uptime=uptime, boot=boot, offer=offer, offered_at=uptime)

    def dump(self) -> bytes:
        """Return the text that `load` reads."""
        return json.dumps(astuple(self)).encode()

    @classmethod
    def load(cls, kept: bytes) -> Self:
        """Read the text of `dump`."""
        wall, uptime, boot, offer, offered_at = json.loads(kept)
        offer = None if offer is None else float(offer)
        return cls(wall=float(wall), uptime=float(uptime), boot=boot, offer=offer, offered_at=float(offered_at))
