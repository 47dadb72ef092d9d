"""How much a store may let go of in an hour, so that a wrong clock cannot empty it."""

from __future__ import annotations

import logging
import math

logger = logging.getLogger(__name__)

UPKEEP_EVERY = 3600.0
"""Seconds between two upkeeps of one store."""

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
            logger.warning(
                "upkeep: removed %d %s, as many as an hour allows; if that is a surprise, check the clock", count, what
            )
        elif count:
            logger.info("upkeep removed %d %s", count, what)
