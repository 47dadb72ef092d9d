"""Who hears from a store, and how a store tells them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.base import Outcome, Subscriber

logger = logging.getLogger(__name__)


class Subscribers:
    """The subscribers of one store; one that raises keeps no other from being told."""

    def __init__(self) -> None:
        self._all: tuple[Subscriber, ...] = ()

    def __len__(self) -> int:
        return len(self._all)

    def add(self, subscriber: Subscriber) -> None:
        """Tell this one from now on, once."""
        if subscriber not in self._all:
            self._all = (*self._all, subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Tell this one no more; an unknown one is passed over."""
        self._all = tuple(other for other in self._all if other is not subscriber)

    def clear(self) -> None:
        """Tell nobody any more."""
        self._all = ()

    def __bool__(self) -> bool:
        return bool(self._all)

    def wait_for(self, ref: OperationRef) -> bool:
        """Return whether one of them is to hear how an operation settled through another store object."""
        return any(subscriber.waits_for(ref) for subscriber in self._all)

    def settled(self, outcome: Outcome) -> None:
        """Tell of the first outcome of an operation."""
        for subscriber in self._all:
            _tell(subscriber.settled, outcome)

    def confirmed(self, outcome: Outcome) -> None:
        """Tell that the vendor's API confirmed a first outcome."""
        for subscriber in self._all:
            _tell(subscriber.confirmed, outcome)

    def polls_due(self) -> None:
        """Tell that there may be an operation to poll."""
        for subscriber in self._all:
            _tell(subscriber.polls_due)

    def jobs_ready(self) -> None:
        """Tell that there may be jobs to claim."""
        for subscriber in self._all:
            _tell(subscriber.jobs_ready)

    def missed(self) -> None:
        """Tell that hints may have been lost."""
        for subscriber in self._all:
            _tell(subscriber.missed)

    def refused(self, reason: str) -> None:
        """Tell of a delivery that was refused for its signature."""
        for subscriber in self._all:
            _tell(subscriber.refused, reason)


def _tell(hear: Callable[..., None], *news: object) -> None:
    try:
        hear(*news)
    except Exception:
        logger.exception("a subscriber of the store failed; the others are told")
