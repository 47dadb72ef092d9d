"""The subscribers of a store object."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rewards_core.operations import OperationRef
    from webhooks.store.base import Subscriber
    from webhooks.store.records import Outcome

logger = logging.getLogger(__name__)

_FAILED = "a subscriber of the store failed; the other subscribers are still notified"


class Subscribers:
    """Notify the subscribers of one store object; what one of them raises is logged. The methods are those of `Subscriber`."""

    def __init__(self) -> None:
        self._all: tuple[Subscriber, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, subscriber: Subscriber) -> None:
        """Add a subscriber, once."""
        if not any(known is subscriber for known in self._all):
            self._all = (*self._all, subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber, if it is there."""
        self._all = tuple(known for known in self._all if known is not subscriber)

    def clear(self) -> None:
        """Remove all."""
        self._all = ()

    def waits_for(self, ref: OperationRef) -> bool:
        """Return whether any subscriber waits for the operation."""
        return any(_call(subscriber.waits_for, ref) for subscriber in self._all)

    def settled(self, outcome: Outcome) -> None:
        """Notify of a first outcome."""
        for subscriber in self._all:
            try:
                subscriber.settled(outcome)
            except Exception:
                logger.exception(_FAILED)

    def confirmed(self, outcome: Outcome) -> None:
        """Notify of a confirmed outcome."""
        for subscriber in self._all:
            _call(subscriber.confirmed, outcome)

    def polls_due(self) -> None:
        """Notify of due polls."""
        for subscriber in self._all:
            _call(subscriber.polls_due)

    def jobs_ready(self) -> None:
        """Notify of ready jobs."""
        for subscriber in self._all:
            _call(subscriber.jobs_ready)

    def missed(self) -> None:
        """Notify of lost hints."""
        for subscriber in self._all:
            _call(subscriber.missed)

    def refused(self, reason: str) -> None:
        """Notify of a refused delivery."""
        for subscriber in self._all:
            _call(subscriber.refused, reason)


def _call(method: Callable[..., object], *arguments: object) -> object:
    try:
        return method(*arguments)
    except Exception:
        logger.exception(_FAILED)
        return None
