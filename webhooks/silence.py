"""Warn when webhooks seem not to arrive: everything is settled by polling."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from webhooks.store.base import Store

logger = logging.getLogger(__name__)

_POLLED_IN_A_ROW = 20


class SilenceWarning:
    """Count what polls settle until a delivery comes, and warn once.

    Args:
        store: Knows whether a delivery ever came to another process.

    Attributes:
        over: Whether there is nothing to warn of any more: a delivery settled something, or the warning was given.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._polled_in_a_row = 0
        self.over = False
        self._refused: Counter[str] = Counter()

    def refused(self, reason: str) -> None:
        """Count a delivery that was refused for its signature."""
        self._refused[reason] += 1

    async def polled(self) -> None:
        """Count an operation that a poll settled."""
        self._polled_in_a_row += 1
        if self.over or self._polled_in_a_row < _POLLED_IN_A_ROW:
            return
        self.over = True
        try:
            counted = await self._store.statistics()
        except Exception:
            logger.exception("The store could not be asked whether a delivery ever came.")
            return
        if counted.events:
            return
        if self._refused:
            logger.warning(
                "%d operations in a row were settled by polling. Deliveries refused for their signature: %d, accepted: none "
                "(%s). Compare the webhook keys with the vendor's console.",
                self._polled_in_a_row,
                self._refused.total(),
                ", ".join(f"{reason}: {count}" for reason, count in self._refused.most_common()),
            )
        else:
            logger.warning(
                "%d operations in a row were settled by polling and no webhook delivery came to this process. Check that the URL "
                "is subscribed at the vendor and reachable, and whether another process receives the deliveries or refuses them.",
                self._polled_in_a_row,
            )
