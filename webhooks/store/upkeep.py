"""Removal of old records, at a rate at which a wrong clock cannot empty a store."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from rewards_core.clock import DAY, HOUR
from rewards_core.text import counted
from rewards_core.validation import check_number, check_whole
from webhooks.store.records import IDENTITY_DAYS, UNSERVED_DAYS, EventState

if TYPE_CHECKING:
    from webhooks.store.base import Store

logger = logging.getLogger(__name__)

UPKEEP_EVERY = HOUR
"""Seconds between two upkeeps of a store."""

_SINGULAR = {
    "events": "event",
    "dead letters": "dead letter",
    "outcomes": "outcome",
    "identities": "identity",
    "bodies": "body",
}
_SPARED = 1_000
_HASTE = 2.0


def hourly_limit(held: int, keep: float) -> int:
    """Return the hourly limit of removals: twice what a steady stream adds, if `held` are kept for `keep` seconds."""
    return max(_SPARED, math.ceil(_HASTE * held * UPKEEP_EVERY / keep))


def check_keep(keep: float, keep_bodies: float | None, keep_dead: float) -> None:
    """Check the arguments of `upkeep`. Dead letters must be kept longer than an unserved event takes to become a dead letter."""
    check_number(keep, "keep", above=0, unit="seconds")
    if check_number(keep_dead, "keep_dead", above=0, unit="seconds") < UNSERVED_DAYS * DAY:
        raise ValueError(
            f"keep_dead: give at least {UNSERVED_DAYS * DAY:.0f} seconds ({UNSERVED_DAYS} days), not {keep_dead}. An event that "
            f"no process serves becomes a dead letter after {UNSERVED_DAYS} days, and would be removed at once."
        )
    if keep_bodies is not None:
        check_number(keep_bodies, "keep_bodies", above=0, unit="seconds")


async def remove_old(store: Store, *, keep: float, keep_bodies: float | None, keep_dead: float, identities: int) -> None:
    """Do the `upkeep` of a store. `identities` is how many it holds."""
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
    """Log what an upkeep removed. If it reached a limit, the clock may be wrong, so that is a warning."""
    for what, count in removed.items():
        words = counted(count, _SINGULAR[what], what)
        if count and count >= limits.get(what, math.inf):
            logger.warning("upkeep removed %s, the maximum per hour; if you did not expect this, check the clock", words)
        elif count:
            logger.info("upkeep removed %s", words)


def check_purge(older_than: float, limit: int | None, state: EventState = EventState.DONE) -> None:
    """Check the arguments of a purge."""
    check_number(older_than, "older_than", at_least=0, unit="seconds")
    check_limit(limit)
    if state is EventState.READY:
        raise ValueError("state: give EventState.DONE or EventState.DEAD, not READY; such events wait for their handlers.")


def check_limit(limit: int | None) -> None:
    """Check the limit of a purge; None is no limit."""
    if limit is not None:
        check_whole(limit, "limit", at_least=0)
