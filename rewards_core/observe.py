"""Records of a client's calls for its observers, without headers, bodies, queries or secrets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from attrs import frozen

from rewards_core.validation import kind_of

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class CallStarted:
    """A logical call begins: what `on_start` is given.

    Attributes:
        operation: The method of the client, such as `"create_allocation"`.
        method: The HTTP method.
        path: The path of the URL, without query.
        idempotency_key: The caller's key, if the call has one.
    """

    operation: str
    method: str
    path: str
    idempotency_key: str | None


@frozen(kw_only=True)
class CallRetried:
    """An attempt failed, and another attempt follows after a pause: what `on_retry` is given.

    Attributes:
        operation: The method of the client.
        idempotency_key: The caller's key, if the call has one.
        attempt: The number of the failed attempt, from 1.
        status: Its HTTP status, None if there was no answer.
        reason: Why it failed, in a few words.
        delay: Seconds until the next attempt.
    """

    operation: str
    idempotency_key: str | None = None
    attempt: int
    status: int | None
    reason: str
    delay: float


@frozen(kw_only=True)
class CallEnded:
    """A logical call is over: what `on_end` is given.

    Attributes:
        operation: The method of the client.
        idempotency_key: The caller's key, if the call has one.
        attempts: How many attempts were made.
        elapsed: Seconds from start to end.
        status: HTTP status of the last answer, None if there was none.
        error: Name of the exception's class, None for success.
        outcome_unknown: Whether a write may have been carried out without a confirmation: it ended with `OutcomeUnknown`, or was
            cancelled after its bytes may have been sent.
    """

    operation: str
    idempotency_key: str | None
    attempts: int
    elapsed: float
    status: int | None
    error: str | None
    outcome_unknown: bool


class Observers:
    """The observers of a client: objects with any of the methods `on_start`, `on_retry`, `on_end`, called synchronously.

    An error that an observer raises is logged, and the call continues.

    Raises:
        TypeError: the observers are not a list, or one of them has none of the three methods.
    """

    def __init__(self, observers: Sequence[Any]) -> None:
        if not isinstance(observers, Sequence):  # an iterator would be consumed by the first of a client's transports
            raise TypeError(f"observers: give a list of objects such as [observer], not {kind_of(observers)}.")
        for observer in observers:
            if not any(callable(getattr(observer, name, None)) for name in ("on_start", "on_retry", "on_end")):
                raise TypeError(f"observers: give objects with on_start, on_retry or on_end, not {kind_of(observer)}.")
        self._observers = tuple(observers)
        self.any = bool(observers)

    def start(self, record: CallStarted) -> None:
        """Report the start of a call."""
        self._notify("on_start", record)

    def retry(self, record: CallRetried) -> None:
        """Report a retry."""
        self._notify("on_retry", record)

    def end(self, record: CallEnded) -> None:
        """Report the end of a call."""
        self._notify("on_end", record)

    def _notify(self, name: str, record: CallStarted | CallRetried | CallEnded) -> None:
        for observer in self._observers:
            method = getattr(observer, name, None)
            if callable(method):
                try:
                    method(record)
                except Exception:
                    logger.exception("an observer raised an error; the call continues")
