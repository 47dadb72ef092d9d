"""What a store may let go of, so that a wrong clock cannot empty it."""

from __future__ import annotations

import logging
import math
from typing import Self

from attrs import evolve, frozen

logger = logging.getLogger(__name__)

UPKEEP_EVERY = 3600.0
"""Seconds between two upkeeps of one store."""

_TOLERANCE = 3600.0
_BELIEVED_AFTER = 86_400.0
_SPARED = 1_000
_HASTE = 2.0


def hourly_limit(held: int, keep: float) -> int:
    """Return how many records may go: twice what an hour of a steady stream brings.

    Args:
        held: How many there are.
        keep: Seconds for which each is kept, above 0.
    """
    return max(_SPARED, math.ceil(_HASTE * held * UPKEEP_EVERY / keep))


def log_removed(removed: dict[str, int], limits: dict[str, int]) -> None:
    """Log what an upkeep removed; one that reached a limit goes on in an hour, and may mean that the clock is wrong."""
    for what, count in removed.items():
        if count and count >= limits.get(what, math.inf):
            logger.warning("upkeep removed %d %s, the most an hour allows; check the clock if this is a surprise", count, what)
        elif count:
            logger.info("upkeep removed %d %s", count, what)


@frozen(kw_only=True)
class Calendar:
    """What a store believes of the wall clock: it goes on as the uptime does, and one that was set is believed after a day.

    A host that was off for longer than an hour looks like one whose clock was set ahead, and waits a day too.

    Attributes:
        wall: Unix time that is believed at `uptime`.
        uptime: Seconds since the host was booted.
        boot: Which boot that was.
        offer: What the wall clock was ahead of the uptime when it was first found to be set, None if it is believed.
        offered_at: The uptime of that moment.
    """

    wall: float
    uptime: float
    boot: str
    offer: float | None = None
    offered_at: float = 0.0

    def see(self, wall: float, uptime: float, boot: str) -> Self:
        """Return what is believed after a look at the clocks."""
        believed = self.wall + (max(0.0, uptime - self.uptime) if boot == self.boot else 0.0)
        offer = wall - uptime
        same_offer = self.offer is not None and boot == self.boot and abs(offer - self.offer) <= _TOLERANCE
        if abs(wall - believed) <= _TOLERANCE or (same_offer and uptime - self.offered_at >= _BELIEVED_AFTER):
            return evolve(self, wall=wall, uptime=uptime, boot=boot, offer=None)
        if same_offer:
            return evolve(self, wall=believed, uptime=uptime)
        logger.warning("the wall clock was set by %+.0f s; nothing is purged by it for a day", wall - believed)
        return evolve(self, wall=believed, uptime=uptime, boot=boot, offer=offer, offered_at=uptime)
