"""Ask the vendor, one operation after the other, inside a budget."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from attrs import evolve

from rewards_core.backoff import delay
from rewards_core.clock import loop_time
from rewards_core.errors import Forbidden, NotFound, RateLimited, Unauthorized, VendorError
from rewards_core.operations import KeyedRequest, Operation, OperationReader, OperationRef
from rewards_core.rate import Limiter, Limits
from webhooks.polling import AT_ONCE, JUST_ONCE, LOOK_UP, PollPolicy, Schedule, Turn
from webhooks.supervise import wait_at_most

logger = logging.getLogger(__name__)

BOOST = 2.0
"""Seconds before a deadline at which an operation is asked about once more."""

_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 600.0
_UNASKED_PAUSE = 10.0
_FAULTS_IN_A_ROW = 5
_MISSING_TIMES = 5
_MISSING_SECONDS = 60.0
_SECONDS_IN_FLIGHT = 5.0


class Audience(Protocol):
    """Who wants the answers."""

    def wants(self, kind: str, uid: str) -> bool:
        """Whether anybody waits for this operation, or for what this look-up finds."""
        ...

    def requests(self, look_up: OperationRef) -> Sequence[KeyedRequest]:
        """Return what is to be found by a look-up, nothing if nobody waits for it any more."""
        ...

    def found(self, look_up: OperationRef, operations: Sequence[Operation]) -> None:
        """Take what a look-up found."""
        ...

    def impossible(self, look_up: OperationRef, error: ValueError) -> None:
        """Take the news that the client cannot make this look-up at all."""
        ...

    async def ended(self, ref: OperationRef, operation: Operation, *, prompted: bool) -> None:
        """Take the terminal state of an operation, asked for because of news of it or because time had passed."""
        ...

    async def missing(self, ref: OperationRef, error: NotFound) -> None:
        """Take the news that the vendor knows no such operation, for good."""
        ...

    def noted(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Take what a poll saw or met that settled nothing."""
        ...


class Poller:
    """Take turns from the schedule at no more than the budget, and hand the answers on.

    A turn reads one operation or, where its kind begins with `LOOK_UP`, lists the operations of one owner.

    Args:
        client: Asks the vendor.
        policy: The intervals and the budget.
        audience: Who wants the answers.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        client: OperationReader,
        policy: PollPolicy,
        audience: Audience,
        *,
        random: Callable[[], float],
    ) -> None:
        self._client = client
        self._audience = audience
        limits = Limits(connections=None, calls_per_second=policy.max_per_second, burst=1)
        self._budget = Limiter(limits, random=random)
        self._most_in_a_crowd = max(1, int(BOOST * policy.max_per_second))
        self._most_repeated_look_ups = max(1, self._most_in_a_crowd // 8)
        self._most_flying = max(1, math.ceil(policy.max_per_second * _SECONDS_IN_FLIGHT))
        self._schedule = Schedule(policy, random)
        self._missing: dict[tuple[str, str], tuple[int, float]] = {}
        self._wake = asyncio.Event()
        self._sleeps_until = -math.inf
        self._refusals = 0
        self._suspects: dict[tuple[str, str], bool] = {}
        self._faults = 0
        self.polls = 0
        self.errors = 0

    @property
    def urgent(self) -> int:
        """How many operations are to be asked ahead of all others."""
        return self._schedule.urgent

    @property
    def paused_until(self) -> float:
        """The moment until which nothing is asked, because the vendor refused or asked for patience."""
        return self._budget.paused_until

    def first_due(self) -> float:
        """Return when an operation that is added now has its first turn."""
        return self._schedule.first_due(loop_time())

    def add(self, kind: str, uid: str, due: float) -> None:
        """Poll an operation from now on."""
        self._schedule.add(kind, uid, due)
        if due < self._sleeps_until:
            self._wake.set()

    def drop(self, kind: str, uid: str) -> None:
        """Poll an operation no more."""
        self._schedule.drop(kind, uid)
        if self._missing:
            self._missing.pop((kind, uid), None)
        if self._suspects:
            self._suspects.pop((kind, uid), None)

    def hurry(self, kind: str, uid: str, attempt: int) -> None:
        """Ask about a polled operation ahead of all others."""
        self._schedule.hurry(kind, uid, loop_time(), attempt)
        self._wake.set()

    def hurry_before_deadline(self, kind: str, uid: str) -> bool:
        """Ask about a polled operation `BOOST` seconds before somebody's time is over; return whether the budget allows it."""
        if self._schedule.urgent >= self._most_in_a_crowd:
            return False
        self.hurry(kind, uid, JUST_ONCE)
        return True

    def look_up_soon(self, kind: str, uid: str) -> None:
        """Make a look-up at once and again soon; in a crowd, each once before any is repeated, behind all that is urgent.

        A caller who joins while one is already due shares its result.
        """
        if self._schedule.is_urgent(kind, uid):
            return
        if self._schedule.urgent >= self._most_repeated_look_ups:
            self.wish(kind, uid)
        else:
            self.hurry(kind, uid, AT_ONCE)

    def wish(self, kind: str, uid: str) -> None:
        """Ask about a polled operation ahead of the routine, but behind all that is urgent."""
        self._schedule.wish(kind, uid)
        self._wake.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        self._faults = 0
        async with asyncio.TaskGroup() as flights:
            while True:
                pause = self._until_next()
                if pause > 0:
                    await self._rest(pause)
                    continue
                turn = self._schedule.take(loop_time())
                if turn is None:
                    await asyncio.sleep(0)
                    continue
                self._budget.take()
                ref = OperationRef(self._client.scope, turn.kind, turn.uid)
                flight = flights.create_task(self._ask(ref, prompted=turn.prompted), name=f"poll of {_named(ref)}")
                flight.add_done_callback(partial(self._land, turn))  # also of one that is cancelled before it takes off

    def _until_next(self) -> float:
        """Return the seconds until there may be a turn, infinity if only news can bring one."""
        flying = self._schedule.flying
        if flying >= (1 if self._refusals else self._most_flying):
            return math.inf
        at = self._schedule.next_at()
        return math.inf if at is None else max(at - loop_time(), self._budget.ready_in())

    async def _rest(self, seconds: float) -> None:
        self._wake.clear()
        self._sleeps_until = loop_time() + seconds
        try:
            await wait_at_most(self._wake, None if seconds == math.inf else seconds)
        finally:
            self._sleeps_until = -math.inf

    async def _slot(self) -> None:
        """Wait until the budget allows one more request of a turn that takes several, and count it."""
        await self._budget.wait()
        self.polls += 1

    def _land(self, turn: Turn, flight: asyncio.Task[bool]) -> None:
        postponed = not flight.cancelled() and flight.exception() is None and flight.result()
        wanted = self._audience.wants(turn.kind, turn.uid)
        if not wanted:
            self._suspects.pop((turn.kind, turn.uid), None)
        elif postponed and turn.attempt is not None and (turn.kind, turn.uid) in self._suspects:
            turn, postponed = evolve(turn, attempt=JUST_ONCE), False  # else it alone would try the door after every pause
        self._schedule.land(turn, loop_time(), wanted=wanted, postponed=postponed)
        self._wake.set()

    async def _ask(self, ref: OperationRef, *, prompted: bool) -> bool:
        """Ask once; return whether the turn did not count."""
        looking = ref.kind.startswith(LOOK_UP)
        requests = self._audience.requests(ref) if looking else ()
        if looking and not requests:
            return False
        self.polls += 1
        try:
            if looking:
                found = await self._client.find_operations(requests, before_page=self._slot)
            else:
                operation = await self._client.read_operation(ref)
        except NotFound as error:
            self._answered(ref)
            self._audience.noted(ref, None, error)
            if not looking:
                await self._count_missing(ref, error)
            return False
        except Exception as error:
            self.errors += 1
            self._audience.noted(ref, None, error)
            if isinstance(error, Unauthorized | Forbidden):
                return self._refused(ref, error)
            if isinstance(error, RateLimited):
                self._budget.pause(_UNASKED_PAUSE if error.retry_after is None else error.retry_after)
                return True
            if looking and isinstance(error, ValueError):
                self._audience.impossible(ref, error)
            elif not isinstance(error, VendorError):  # no answer of the vendor's: borne with, unless there is nothing else
                self._faults += 1
                if self._faults >= _FAULTS_IN_A_ROW:
                    raise
                logger.exception("asking for %s failed by a fault that is not the vendor's; it waits its turn", _named(ref))
            return False
        self._answered(ref)
        if looking:
            self._audience.found(ref, found)
            return False
        self._missing.pop((ref.kind, ref.uid), None)
        if operation.status.terminal:
            await self._audience.ended(ref, operation, prompted=prompted)
        else:
            self._audience.noted(ref, operation, None)
        return False

    async def _count_missing(self, ref: OperationRef, error: NotFound) -> None:
        if not self._audience.wants(ref.kind, ref.uid):
            return
        key = (ref.kind, ref.uid)
        times, since = self._missing.get(key, (0, loop_time()))
        self._missing[key] = (times + 1, since)
        if times + 1 >= _MISSING_TIMES and loop_time() - since >= _MISSING_SECONDS:
            await self._audience.missing(ref, error)

    def _refused(self, ref: OperationRef, error: VendorError) -> bool:
        """Pause, unless it is this operation alone that is refused; return whether the turn did not count."""
        if self._budget.paused_for():
            return True  # another flight was refused first
        key = (ref.kind, ref.uid)
        if not self._refusals and key in self._suspects:
            if not self._suspects[key]:
                self._suspects[key] = True
                logger.error(
                    "the vendor refuses polls of %s (%s), but answers others; it waits its turn", _named(ref), error.status
                )
            return False
        self._suspects[key] = False
        pause = delay(self._refusals, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
        if not self._refusals:
            logger.error(
                "the vendor refuses polls (%s); they pause for %.0f s, then longer, until one is answered; "
                "check the credentials and what they may read",
                error.status,
                pause,
            )
        self._refusals += 1
        self._budget.pause(pause)
        return True

    def _answered(self, ref: OperationRef) -> None:
        self._faults = 0
        if self._suspects:
            self._suspects.pop((ref.kind, ref.uid), None)
        if self._refusals:
            logger.info("the vendor answers polls again")
            self._refusals = 0


def _named(ref: OperationRef) -> str:
    if ref.kind.startswith(LOOK_UP):
        return f"the operations of {ref.uid} ({ref.kind.removeprefix(LOOK_UP)} in {ref.scope})"
    return str(ref)
