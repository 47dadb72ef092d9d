"""Ask the vendor at the pace of the budget that all processes share, and pause when it refuses or asks for a pause."""

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
"""Seconds by which a request may leave late; at less than one request a second a tenth of the time between two."""
_LATE_EVERY = 1.0
"""Seconds between two late requests that wait for another turn; more where turns are rarer."""
_SLOW_STORE = 4.0
"""Seconds that such a request waits longer than for its turn, if the store is slow to give it one."""
_FIRST_RETRY = 1.0
_FIRST_PAUSE = 60.0
_MAX_PAUSE = 600.0
_UNASKED_PAUSE = 10.0
_MIN_PAUSE = 1.0
_FAULTS_IN_A_ROW = 5
_MAX_SUSPECTS = 10_000
_EARLY = 1e-9
_COURTESY = 0.01
"""Seconds by which a process asks late for a permit: the fewer, the longer it waits, so that each has its turn."""


@frozen
class Answer(Generic[T]):
    """What a request came to.

    Attributes:
        value: What the vendor says.
        error: Why it says nothing.
        counted: Whether it counts: not if the vendor refused it together with all others, or it was not sent.
        sent: Whether it was sent.
        retry_in: Seconds after which it may be made again because it was not sent or not answered, infinity if it was.
    """

    value: T | None
    error: Exception | None = None
    counted: bool = True
    sent: bool = True
    retry_in: float = math.inf


class Turn:
    """When the next request of one asking may leave.

    Attributes:
        since: From when on, at the earliest, in the loop's time; what leaves much later is late.
        used: Whether a request left in it.
        passed: Whether one was not sent because its turn had passed.
    """

    def __init__(self, pacer: Pacer, since: float) -> None:
        self._pacer = pacer
        self.since = since
        self.used = self.passed = False

    async def may_send(self) -> bool:
        """Return whether a request may leave now, and count it if so."""
        self.passed = not await self._pacer.may_send(self)
        return not self.passed

    async def next(self) -> None:
        """Wait for the turn of a further request."""
        self.since, self.used = (await self._pacer.turn()).since, False


class Pacer:
    """Send requests evenly spaced, and learn from how they end.

    Args:
        store: Holds the budget.
        scope: Whose budget.
        max_per_second: Requests per second that this process allows.
        wake: Is set when there is something to hand in.

    Attributes:
        requests: How many were made.
        errors: How many the vendor did not answer.
        paused_until: When the last pause that this process met ends.
        refusals: How many pauses in a row refusals have caused, as far as this process knows.
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
        self._suspects: dict[object, bool] = {}
        self._pauses: deque[tuple[float, bool]] = deque()
        self._answered = False
        self._permitting = asyncio.Lock()

    async def turn_at(self, since: float, at: float) -> Turn:
        """Wait until a request may leave that the store allowed.

        Args:
            since: The earliest moment that the store may have meant.
            at: The latest one, by as much later as the store took to answer.
        """
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
        """Wait until the budget allows one request that was not claimed."""
        while True:
            turn = await self.turn_at(*await self._permitted_at())
            if not self._is_paused():
                return turn

    async def _permitted_at(self) -> tuple[float, float]:
        """Return when a request may leave that was not claimed, at the earliest and at the latest."""
        async with self._permitting:  # one asks the store for all, however many wait
            refused = 0
            while True:
                asked = loop_time()
                try:
                    permit = await self._store.permit_poll(self._scope, max_per_second=self._max_per_second)
                except StoreClosed:
                    raise
                except StoreError as error:
                    logger.warning("A look-up waits for the store, which is in trouble: %s", error)
                    await asyncio.sleep(1.0)
                else:
                    if permit.granted:
                        return asked + permit.seconds, loop_time() + permit.seconds
                    refused += 1
                    await asyncio.sleep(permit.seconds + _COURTESY / refused)

    async def may_send(self, turn: Turn) -> bool:
        """Return whether a request may leave now in its turn, and count it if so.

        What is late would leave among others whose turn it is, together more than the budget allows. So that polls go on where
        everything is late, one a second waits for another turn, not for long because the client keeps a slot for it; so does a
        request that is sent again.
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
        """Ask the vendor and learn from how it ends.

        Args:
            subject: What is asked about, hashable; its text is for the log.
            turn: Whose time has come.
            asking: Makes the request; is given `may_send`.
            refusals: How many pauses in a row refusals had caused before; what this process knows, if not given.

        Raises:
            Exception: whatever it raised, if that was no answer of the vendor's for the fifth time in a row.
        """
        try:
            value = await asking(turn.may_send)
        except NotFound as error:
            self._hear(subject)
            return Answer(None, error)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            if turn.passed:
                return Answer(None, counted=False, sent=False, retry_in=0.0)
            if isinstance(error, RateLimited) and error.status is None:  # the client itself waits out a pause
                return Answer(None, counted=False, sent=False, retry_in=error.retry_after or 0.0)
            self.errors += 1
            if isinstance(error, Unauthorized | Forbidden):
                refusals = self.refusals if refusals is None else refusals
                return Answer(None, error, counted=self._is_refused_alone(subject, error, refusals))
            if isinstance(error, RateLimited):
                asked = _UNASKED_PAUSE if error.retry_after is None else max(error.retry_after, _MIN_PAUSE)
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
                logger.exception("Asking for %s failed by a fault that is not the vendor's; it is asked for again later", subject)
            return Answer(None, error if isinstance(error, Exception) else RuntimeError("cancelled from inside"))
        self._hear(subject)
        return Answer(value)

    def again_in(self, subject: object) -> float:
        """Return the seconds after which a request that did not count is made again.

        What was refused comes after all others: were it refused alone, it would else prolong their pause again and again.
        """
        return max(0.0, self.paused_until - loop_time()) if subject in self._suspects else 0.0

    async def hand_in(self) -> bool:
        """Tell the store of pauses, and whether the vendor answers again; return whether it does."""
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

    def _hear(self, subject: object) -> None:
        self._faults = self._unanswered = 0
        self._suspects.pop(subject, None)
        if self.refusals:
            logger.info("The vendor answers polls again.")
            self.refusals = 0
            self._answered = True
            self._wake.set()

    def _is_refused_alone(self, subject: object, error: VendorError, refusals: int) -> bool:
        """Pause all polls, unless it is this subject alone that the vendor refuses; return whether it is."""
        if loop_time() < self.paused_until:
            return False  # another request was refused first
        if not refusals and subject in self._suspects:
            if not self._suspects[subject]:
                self._suspects[subject] = True
                logger.error("The vendor refuses polls of %s (HTTP %s), but answers others.", subject, error.status)
            return True
        self._suspects[subject] = False
        if len(self._suspects) > _MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        pause = delay(refusals, first=_FIRST_PAUSE, longest=_MAX_PAUSE)
        if not refusals:
            logger.error(
                "The vendor refuses polls (HTTP %s). They pause for %.0f s, then longer, until one is answered. "
                "Check the credentials and what they may read.",
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
