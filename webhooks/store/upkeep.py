"""What a store may let go of, so that a wrong clock cannot empty it."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from rewards_core.clock import DAY, HOUR
from rewards_core.validation import check_number
from webhooks.store.records import IDENTITY_DAYS, UNSERVED_DAYS, EventState

if TYPE_CHECKING:
    from webhooks.store.base import Store

logger = logging.getLogger(__name__)

UPKEEP_EVERY = HOUR
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


def check_keep(keep: float, keep_bodies: float | None, keep_dead: float) -> None:
    """See that what is kept can be kept for so long.

    Raises:
        TypeError: one of them is no number.
        ValueError: one of them is not above 0, or not finite; or `keep_dead` is less than 14 days, the age at which an event that
            no process serves becomes a dead letter: it would be removed before anybody sees it.
    """
    check_number(keep, "keep", above=0, unit="seconds")
    if check_number(keep_dead, "keep_dead", above=0, unit="seconds") < UNSERVED_DAYS * DAY:
        raise ValueError(
            f"keep_dead: give at least {UNSERVED_DAYS * DAY:.0f} seconds ({UNSERVED_DAYS} days), not {keep_dead}. An event that "
            f"no process serves becomes a dead letter after {UNSERVED_DAYS} days, and would be removed at once."
        )
    if keep_bodies is not None:
        check_number(keep_bodies, "keep_bodies", above=0, unit="seconds")


async def remove_old(store: Store, *, keep: float, keep_bodies: float | None, keep_dead: float, identities: int) -> None:
    """Remove what is old, as far as an hour allows.

    Args:
        store: What to remove it from.
        keep: Seconds for which done events and outcomes are kept.
        keep_bodies: Seconds for which bodies of done events are kept; None keeps them as long as their events.
        keep_dead: Seconds for which dead letters are kept.
        identities: How many identities the store knows.
    """
    held = await store.statistics()
    limits = {
        "events": hourly_limit(held.events, keep),
        "dead letters": hourly_limit(held.dead, keep_dead),
        "outcomes": hourly_limit(held.outcomes, keep),
        "bodies": hourly_limit(held.events, keep_bodies or keep),
        "identities": hourly_limit(identities, IDENTITY_DAYS * DAY),
    }
    removed = {
        "events": await store.purge(keep, limit=limits["events"]),
        "dead letters": await store.purge(keep_dead, state=EventState.DEAD, limit=limits["dead letters"]),
        "outcomes": await store.purge_outcomes(keep, limit=limits["outcomes"]),
        "identities": await store.purge_identities(limit=limits["identities"]),
        "bodies": 0 if keep_bodies is None else await store.erase_bodies(keep_bodies, limit=limits["bodies"]),
    }
    log_removed(removed, limits)


def log_removed(removed: dict[str, int], limits: dict[str, int]) -> None:
    """Log what an upkeep removed; one that reached a limit goes on in an hour, and may mean that the clock is wrong."""
    for what, count in removed.items():
        if count and count >= limits.get(what, math.inf):
            logger.warning("upkeep removed %d %s, the most an hour allows; check the clock if this is a surprise", count, what)
        elif count:
            logger.info("upkeep removed %d %s", count, what)
