"""Ask the vendor about operations that no webhook has settled, at no more than the budget that all processes share."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from attrs import evolve, field, frozen

from rewards_core.backoff import delay
from rewards_core.clock import DAY, HOUR, loop_time
from rewards_core.errors import NotFound, StoreClosed, StoreError
from rewards_core.validation import number
from webhooks.pacing import Pacer, Turn
from webhooks.store.records import PollClaim, PollResult, Priority
from webhooks.supervise import wait_at_most

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationReader, OperationRef
    from webhooks.store.base import Store

logger = logging.getLogger(__name__)

BOOST = 2.0
"""Seconds before a deadline at which an operation is polled once more."""
URGENT_POLLS = 5
"""How often what an event mentioned is polled before it is routine."""

_LEASE = 60.0
_MAX_SLEEP = 5.0
_SECONDS_IN_FLIGHT = 5.0
_ABANDONED_FIRST = 60.0
_ABANDONED_GROWTH = 1.6
_ABANDONED_MAX = HOUR
_ABANDONED_POLLS_OF_A_DAY = 31
_MISSING_TIMES = 5
_MISSING_SECONDS = 60.0
_SLICE = 1_000
_CLOSING = 2.0


@frozen(kw_only=True)
class PollPolicy:
    """How operations are polled that no webhook has settled.

    Attributes:
        first_after: Seconds before the first poll of an operation, above 0.
        growth: Each interval is so many times the one before, from 1 to 10.
        max_interval: Seconds between two polls of one operation at most, above 0.
        jitter: Intervals are longer by a random share of up to this, from 0 to 1.
        max_per_second: Polls per second of all operations and processes together, above 0 and up to a million.

    Raises:
        TypeError: an attribute is no number.
        ValueError: one is out of range.
    """

    first_after: float = field(default=15.0, validator=number(above=0))
    growth: float = field(default=1.6, validator=number(at_least=1, at_most=10))
    max_interval: float = field(default=60.0, validator=number(above=0))
    jitter: float = field(default=0.2, validator=number(at_least=0, at_most=1))
    max_per_second: float = field(default=20.0, validator=number(at_least=1e-6, at_most=1e6))

    def interval(self, step: int, chance: float) -> float:
        """Return the seconds before poll number `step`, counted from 0; `chance` is a random number from 0 to 1."""
        longest = self.max_interval / (1.0 + self.jitter)
        return delay(step, first=self.first_after, longest=longest, growth=self.growth, jitter=self.jitter, chance=chance)

    def lookup_interval(self, attempt: int, chance: float) -> float:
        """Return the seconds after look-up number `attempt`, counted from 0: the first are urgent, the others routine."""
        if attempt + 1 < URGENT_POLLS:
            return delay(attempt, first=1.0, longest=8.0)
        return self.interval(attempt + 1 - URGENT_POLLS, chance)

    def next_interval(self, priority: Priority, attempt: int, chance: float) -> float:
        """Return the seconds after a poll that settled nothing, `attempt` polls of that priority before it."""
        if priority is Priority.LOOKUP:
            return self.lookup_interval(attempt, chance)
        if priority is Priority.ABANDONED:
            if attempt >= _ABANDONED_POLLS_OF_A_DAY:
                return DAY
            grown = delay(attempt, first=_ABANDONED_FIRST, longest=_ABANDONED_MAX, growth=_ABANDONED_GROWTH)
            return grown * (1.0 + self.jitter * chance)
        return self.interval(attempt + 1 if priority is Priority.ROUTINE else 0, chance)


class Audience(Protocol):
    """Who wants the answers."""

    async def ended(self, ref: OperationRef, operation: Operation, *, mentioned: bool) -> bool:
        """Take the terminal state of an operation, polled because an event mentioned it or not; return whether it was stored."""
        ...

    def missing(self, ref: OperationRef, error: NotFound) -> None:
        """Hear that the vendor knows no such operation, and has said so for a while."""
        ...

    def noted(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Take what a poll saw or met that settled nothing."""
        ...


class Poller:
    """Claim from the store what is due, ask the vendor, and store and hand on what it says.

    Args:
        client: Asks the vendor.
        store: Holds the schedule and the budget.
        policy: The intervals and the budget.
        audience: Who wants the answers.
        random: Returns a number from 0 to 1.

    Attributes:
        pacer: Makes the requests.
        max_flying: How many requests may be under way at once.
    """

    def __init__(
        self, client: OperationReader, store: Store, policy: PollPolicy, audience: Audience, *, random: Callable[[], float]
    ) -> None:
        self._client = client
        self._store = store
        self._policy = policy
        self._audience = audience
        self._random = random
        self._wake = asyncio.Event()
        self.pacer = Pacer(store, client.scope, policy.max_per_second, self._wake)
        self.max_flying = max(1, math.ceil(policy.max_per_second * _SECONDS_IN_FLIGHT))
        self._claim_at = -math.inf
        self._flying: dict[str, PollClaim] = {}
        self._results: list[PollResult] = []
        self._hurries: dict[Priority, dict[OperationRef, None]] = {}
        self._hurried_at: deque[float] = deque(maxlen=max(1, int(policy.max_per_second * BOOST)))
        self._unknown: list[OperationRef] = []

    def first_in(self) -> float:
        """Return the seconds until the first poll of an operation that is waited for from now on."""
        return self._policy.interval(0, self._random())

    def expect(self, seconds: float) -> None:
        """Look for due operations in so many seconds at the latest."""
        at = loop_time() + seconds
        if at < self._claim_at:
            self._claim_at = at
            self._wake.set()

    def hurry(self, ref: OperationRef, priority: Priority) -> None:
        """Have an operation polled as soon as the budget allows."""
        self._hurries.setdefault(priority, {})[ref] = None
        self._wake.set()

    def unhurry(self, ref: OperationRef) -> None:
        """Hurry an operation no longer that has ended."""
        for refs in self._hurries.values():
            refs.pop(ref, None)

    def may_hurry(self) -> bool:
        """Whether one more operation may be polled before its deadline: in a crowd only as many as the budget allows."""
        now, times = loop_time(), self._hurried_at
        if len(times) == times.maxlen and times[0] > now - BOOST:
            return False
        times.append(now)
        return True

    async def run(self) -> None:
        """Poll until cancelled."""
        troubles = 0
        self._claim_at = -math.inf
        try:
            async with asyncio.TaskGroup() as flights:
                while True:
                    self._wake.clear()
                    try:
                        await self._hand_in()
                        await self._claim(flights)
                    except StoreClosed:
                        raise
                    except StoreError:
                        if not troubles:
                            logger.exception("The store is in trouble; polls go on once it answers.")
                        await asyncio.sleep(delay(troubles, first=0.5, longest=_MAX_SLEEP))
                        troubles += 1
                        self._claim_at = -math.inf
                    else:
                        troubles = 0
                        await wait_at_most(self._wake, self._sleep())
        finally:
            await self._give_back()

    async def _hand_in(self) -> None:
        """Tell the store what it is to know; what it has not taken is told again."""
        store = self._store
        if await self.pacer.hand_in():
            self._claim_at = -math.inf
        for priority, refs in list(self._hurries.items()):
            while refs:
                some = list(islice(refs, _SLICE))
                await store.hurry_polls(some, priority)
                for ref in some:
                    refs.pop(ref, None)
                self._claim_at = -math.inf
        if self._unknown:
            await store.remove_pending(unknown := list(self._unknown))
            del self._unknown[: len(unknown)]
        if self._results:
            await store.settle_polls(results := list(self._results))
            del self._results[: len(results)]
            self.expect(min(result.again_in for result in results))

    async def _claim(self, flights: asyncio.TaskGroup) -> None:
        room = self.max_flying - len(self._flying)
        if room <= 0 or loop_time() < self._claim_at:
            return
        self._claim_at = math.inf  # a hint that comes while the store is asked is not lost
        scope, rate = self._client.scope, self._policy.max_per_second
        asked = loop_time()
        claimed = await self._store.claim_polls(scope, limit=room, lease=_LEASE, max_per_second=rate)
        now = loop_time()
        self._claim_at = min(self._claim_at, now + min(claimed.next_in, _MAX_SLEEP))
        for claim in claimed.claims:
            self.pacer.refusals = claim.refusals
            self._flying[claim.fence] = claim
            flights.create_task(self._fly(claim, asked + claim.start_in, now + claim.start_in), name=f"poll of {claim.ref}")

    def _sleep(self) -> float:
        """Return the seconds until there may be something to claim."""
        full = len(self._flying) >= self.max_flying
        return _MAX_SLEEP if full else min(max(0.0, self._claim_at - loop_time()), _MAX_SLEEP)

    async def _fly(self, claim: PollClaim, since: float, at: float) -> None:
        stays_urgent = claim.priority is Priority.LOOKUP and claim.attempt + 1 < URGENT_POLLS
        again = PollResult(
            claim=claim,
            again_in=self._policy.next_interval(claim.priority, claim.attempt, self._random()),
            priority=claim.priority if stays_urgent else max(claim.priority, Priority.ROUTINE),
        )
        try:
            result = await self._poll(claim, await self.pacer.turn_at(since, at), again)
        except Exception:
            self._land(claim, again)
            raise
        self._land(claim, result)

    def _land(self, claim: PollClaim, result: PollResult | None) -> None:
        del self._flying[claim.fence]
        if result is not None:
            self._results.append(result)
        self._wake.set()

    async def _poll(self, claim: PollClaim, turn: Turn, again: PollResult) -> PollResult | None:
        """Poll once; return how the claim is given back, None if it has ended."""
        ref = claim.ref
        answer = await self.pacer.ask(
            ref, turn, lambda may_send: self._client.read_operation(ref, may_send=may_send), refusals=claim.refusals
        )
        if not answer.sent:
            return _unpolled(claim, again_in=answer.retry_in)
        operation, error = answer.value, answer.error
        if operation is not None:
            again = evolve(again, known=True)
            if operation.status.terminal:
                stored = await self._audience.ended(ref, operation, mentioned=claim.priority is Priority.LOOKUP)
                return None if stored else again
        self._audience.noted(ref, operation, error)
        if isinstance(error, NotFound):
            again = evolve(again, known=False)
            if claim.missing + 1 >= _MISSING_TIMES and claim.missing_for >= _MISSING_SECONDS:
                self._audience.missing(ref, error)
                if claim.priority is Priority.ABANDONED:
                    self._unknown.append(ref)
                    return None
        if answer.counted:
            return evolve(again, again_in=min(again.again_in, answer.retry_in))
        if again_in := self.pacer.again_in(ref):  # neither ahead of others by its rank
            return PollResult(claim=claim, again_in=again_in, counted=False)
        return _unpolled(claim)

    async def _give_back(self) -> None:
        """Let others poll what is under way, whatever ends this work."""
        self._results += [_unpolled(claim) for claim in self._flying.values()]
        self._flying.clear()
        try:
            async with asyncio.timeout(_CLOSING):
                await self._hand_in()
        except (StoreError, TimeoutError):
            logger.warning("Claims of polls could not be given back; their leases run out in %.0f s.", _LEASE)


def _unpolled(claim: PollClaim, *, again_in: float = 0.0) -> PollResult:
    return PollResult(claim=claim, again_in=again_in, priority=claim.priority, counted=False)
