"""Who hears from a store, and how a store tells them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rewards_core.operations import OperationRef
    from webhooks.store.base import Subscriber
    from webhooks.store.records import Outcome

logger = logging.getLogger(__name__)

_FAILED = "a subscriber of the store failed; the others are told"


class Subscribers:
    """The subscribers of one store object; what one raises is logged, and the others are told."""

    def __init__(self) -> None:
        self._all: tuple[Subscriber, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, subscriber: Subscriber) -> None:
        """Tell this one from now on; one that is known already is not told twice."""
        if not any(known is subscriber for known in self._all):
            self._all = (*self._all, subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Stop telling this one; an unknown one is passed over."""
        self._all = tuple(known for known in self._all if known is not subscriber)

    def clear(self) -> None:
        """Stop telling all."""
        self._all = ()

    def waits_for(self, ref: OperationRef) -> bool:
        """Whether one of them is to hear how an operation settled through another store object."""
        return any(_call(subscriber.waits_for, ref) for subscriber in self._all)

    def settled(self, outcome: Outcome) -> None:
        """Tell of the first outcome of an operation."""
        for subscriber in self._all:
            try:
                subscriber.settled(outcome)
            except Exception:
                logger.exception(_FAILED)

    def confirmed(self, outcome: Outcome) -> None:
        """Tell what the vendor's API confirmed where only an event had told the first outcome."""
        for subscriber in self._all:
            _call(subscriber.confirmed, outcome)

    def polls_due(self) -> None:
        """Tell that there may be an operation to poll at once."""
        for subscriber in self._all:
            _call(subscriber.polls_due)

    def jobs_ready(self) -> None:
        """Tell that there may be jobs to claim."""
        for subscriber in self._all:
            _call(subscriber.jobs_ready)

    def missed(self) -> None:
        """Tell that hints may have been lost."""
        for subscriber in self._all:
            _call(subscriber.missed)

    def refused(self, reason: str) -> None:
        """Tell of a delivery that was refused for its signature."""
        for subscriber in self._all:
            _call(subscriber.refused, reason)


def _call(hear: Callable[..., object], *news: object) -> object:
    try:
        return hear(*news)
    except Exception:
        logger.exception(_FAILED)
        return None
