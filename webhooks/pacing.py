"""Pace requests by the budget that all processes share, and pause when the vendor refuses or asks for a pause."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from attrs import frozen

from rewards_core.backoff import delay
from rewards_core.clock import loop_time
from rewards_core.errors import (
    ConnectFailed,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    RateLimited,
    ServerFailed,
    StoreClosed,
    StoreError,
    Unauthorized,
    VendorError,
)
from webhooks.supervise import is_cancelled

if TYPE_CHECKING:
    from rewards_core.operations import MaySend
    from webhooks.store.base import Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

_MAX_LATE = 0.1
"""Seconds by which a request may be late; below one request a second, a tenth of the interval."""
_LATE_EVERY = 1.0
"""Seconds between two late requests that wait for another turn; twice the interval if that is longer."""
_SLOW_STORE = 4.0
"""Seconds beyond its turn that a late request waits for a slow store."""
_FIRST_RETRY = 1.0
_FIRST_PAUSE = 60.0
_MAX_PAUSE = 600.0
_DEFAULT_PAUSE = 10.0
_MIN_PAUSE = 1.0
_FAULTS_IN_A_ROW = 5
_MAX_REFUSED_SUBJECTS = 10_000
_EARLY = 1e-9
_COURTESY = 0.01
"""Seconds by which a process delays its first retry for a permit. Each later retry comes sooner, so that all get a turn."""


@frozen
class Answer(Generic[T]):
    """The result of a request.

    Attributes:
        value: The vendor's answer.
        error: Why there is none.
        counted: Whether it counts as a poll. Not if it was not sent, or was refused together with all others.
        sent: Whether it was sent.
        retry_in: Seconds before a retry, if it was not sent or not answered; otherwise infinity.
    """

    value: T | None
    error: Exception | None = None
    counted: bool = True
    sent: bool = True
    retry_in: float = math.inf


class Turn:
    """When one call may send its next request.

    Attributes:
        since: The earliest moment, in the loop's time. A request that leaves much later is late.
        used: Whether a request was sent.
        passed: Whether a request was not sent because its turn had passed.
    """

    def __init__(self, pacer: Pacer, since: float) -> None:
        self._pacer = pacer
        self.since = since
        self.used = self.passed = False

    async def may_send(self) -> bool:
        """Return whether a request may be sent now, and count it if so."""
        self.passed = not await self._pacer.may_send(self)
        return not self.passed

    async def next(self) -> None:
        """Wait for the turn of another request."""
        self.since, self.used = (await self._pacer.turn()).since, False


class Pacer:
    """Space requests evenly, and learn from their results. `wake` is set when there is something to flush.

    Attributes:
        requests: Requests sent.
        errors: Requests without an answer.
        paused_until: The end of the last pause, in the loop's time.
        refusals: Consecutive pauses because of refusals, as far as this process knows.
    """

    def __init__(self, store: Store, scope: str, max_per_second: float, wake: asyncio.Event) -> None:
        self._store = store
        self._scope = scope
        self._max_per_second = max_per_second
        self._max_late = max(_MAX_LATE, _MAX_LATE / max_per_second)
        self._late_every = max(_LATE_EVERY, 2.0 * _LATE_EVERY / max_per_second)
        self._wake = wake
        self.requests = self.errors = self.refusals = 0
        self.paused_until = -math.inf
        self._turn_at = self._late_at = -math.inf
        self._faults = self._unanswered = 0
        self._refused_subjects: dict[object, bool] = {}
        self._pauses: deque[tuple[float, bool]] = deque()
        self._answered = False
        self._permitting = asyncio.Lock()

    async def turn_at(self, since: float, at: float) -> Turn:
        """Wait for the turn that the store has granted, which lies between `since` and `at`."""
        while True:
            now = loop_time()
            wait = max(at, self._turn_at + 1.0 / self._max_per_second) - now
            if wait <= _EARLY or now > since + self._max_late:
                break
            await asyncio.sleep(wait)
        if now <= since + self._max_late:
            self._turn_at = now
        return Turn(self, since)

    async def turn(self) -> Turn:
        """Wait until the budget allows one request without a claim."""
        while True:
            turn = await self.turn_at(*await self._permitted_at())
            if not self._is_paused():
                return turn

    async def _permitted_at(self) -> tuple[float, float]:
        """Return the earliest and the latest moment at which the store means a request without a claim to leave."""
        async with self._permitting:  # one caller at a time asks the store
            refused = 0
            while True:
                asked = loop_time()
                try:
                    permit = await self._store.permit_poll(self._scope, max_per_second=self._max_per_second)
                except StoreClosed:
                    raise
                except StoreError as error:
                    logger.warning("The store failed, so a lookup is delayed: %s", error)
                    await asyncio.sleep(1.0)
                else:
                    if permit.granted:
                        return asked + permit.seconds, loop_time() + permit.seconds
                    refused += 1
                    await asyncio.sleep(permit.seconds + _COURTESY / refused)

    async def may_send(self, turn: Turn) -> bool:
        """Return whether a request may be sent now in its turn, and count it if so.

        Late requests would join those whose turn it is and exceed the budget. So that polls continue where every request is late,
        one request a second waits for another turn, but not long, because the client holds a connection slot for it. A repeated
        request does the same.
        """
        now = loop_time()
        if turn.used or now > turn.since + self._max_late:
            if now < self._late_at + self._late_every:
                return False
            self._late_at = now
            try:
                async with asyncio.timeout(_SLOW_STORE + self._late_every):
                    await self.turn()
            except TimeoutError:
                return False
        if self._is_paused():
            return False
        turn.used = True
        self.requests += 1
        return True

    def _is_paused(self) -> bool:
        return loop_time() < self.paused_until - _EARLY

    async def ask(
        self,
        subject: object,
        turn: Turn,
        asking: Callable[[MaySend], Awaitable[T]],
        *,
        refusals: int | None = None,
    ) -> Answer[T]:
        """Make a request and learn from its result.

        Args:
            subject: What it is about; hashable, and its text is logged.
            turn: The turn that was waited for.
            asking: Makes the request; takes `may_send`.
            refusals: Consecutive pauses because of refusals before this one; by default as far as this process knows.

        Raises:
            Exception: `asking` raised it, as the fifth fault in a row that is not the vendor's.
        """
        try:
            value = await asking(turn.may_send)
        except NotFound as error:
            self._note_answer(subject)
            return Answer(None, error)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            if turn.passed:
                return Answer(None, counted=False, sent=False, retry_in=0.0)
            if isinstance(error, RateLimited) and error.status is None:  # raised by the client during its own pause
                return Answer(None, counted=False, sent=False, retry_in=error.retry_after or 0.0)
            self.errors += 1
            if isinstance(error, Unauthorized | Forbidden):
                refusals = self.refusals if refusals is None else refusals
                return Answer(None, error, counted=self._is_refused_alone(subject, error, refusals))
            if isinstance(error, RateLimited):
                asked = _DEFAULT_PAUSE if error.retry_after is None else max(error.retry_after, _MIN_PAUSE)
                self._pause(asked, refused=False)
                return Answer(None, error, counted=False)
            if isinstance(error, ConnectFailed | ServerFailed | DeadlineExceeded):
                self._unanswered += 1
                return Answer(None, error, retry_in=delay(self._unanswered - 1, first=_FIRST_RETRY, longest=_MAX_PAUSE))
            if not isinstance(error, VendorError | StoreError):
                self._faults += 1
                if self._faults >= _FAULTS_IN_A_ROW:
                    self._faults = 0
                    raise
                logger.exception("The request about %s failed because of an error in this program. It is retried later.", subject)
            return Answer(None, error if isinstance(error, Exception) else RuntimeError("cancelled from inside"))
        self._note_answer(subject)
        return Answer(value)

    def retry_in(self, subject: object) -> float:
        """Return the seconds before a request that did not count is retried.

        A refused subject is retried after all others: if it alone is refused, it would otherwise extend their pause forever.
        """
        return max(0.0, self.paused_until - loop_time()) if subject in self._refused_subjects else 0.0

    async def flush(self) -> bool:
        """Store the pauses that began, or that they ended. Return whether they ended."""
        while self._pauses:
            until, refused = self._pauses[0]
            if (seconds := until - loop_time()) > 0:
                await self._store.pause_polls(self._scope, seconds, refused=refused)
            self._pauses.popleft()
        if not self._answered:
            return False
        await self._store.resume_polls(self._scope)
        self._answered = False
        return True

    def _note_answer(self, subject: object) -> None:
        self._faults = self._unanswered = 0
        self._refused_subjects.pop(subject, None)
        if self.refusals:
            logger.info("The vendor answers polls again.")
            self.refusals = 0
            self._answered = True
            self._wake.set()

    def _is_refused_alone(self, subject: object, error: VendorError, refusals: int) -> bool:
        """Pause all polls, unless the vendor refuses this subject alone; return whether it does."""
        if loop_time() < self.paused_until:
            return False  # by an earlier refusal
        if not refusals and subject in self._refused_subjects:
            if not self._refused_subjects[subject]:
                self._refused_subjects[subject] = True
                logger.error(
                    "The vendor refuses polls of %s (HTTP %s), but answers others. Polling continues. "
                    "Check the uid and the permissions of the API key.",
                    subject,
                    error.status,
                )
            return True
        self._refused_subjects[subject] = False
        if len(self._refused_subjects) > _MAX_REFUSED_SUBJECTS:
            del self._refused_subjects[next(iter(self._refused_subjects))]
        pause = delay(refusals, first=_FIRST_PAUSE, longest=_MAX_PAUSE)
        if not refusals:
            logger.error(
                "The vendor refuses polls (HTTP %s). Polling pauses for %.0f s, then longer, until a poll is answered. "
                "Check the credentials and their permissions.",
                error.status,
                pause,
            )
        self.refusals = refusals + 1
        self._pause(pause, refused=True)
        return False

    def _pause(self, seconds: float, *, refused: bool) -> None:
        self.paused_until = max(self.paused_until, loop_time() + seconds)
        self._pauses.append((self.paused_until, refused))
        self._wake.set()
