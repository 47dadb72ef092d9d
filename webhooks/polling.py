"""Poll the vendor for operations that no webhook has settled, within the budget that all processes share."""

from __future__ import annotations

import asyncio
import logging
import math
import shlex
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from attrs import evolve, field, frozen

from rewards_core.backoff import delay
from rewards_core.clock import DAY, HOUR, loop_time
from rewards_core.errors import NotFound, StoreClosed, StoreError
from rewards_core.validation import is_id, number
from webhooks.pacing import Pacer, Turn
from webhooks.store.records import PollClaim, PollClaims, PollResult, Priority
from webhooks.supervise import wait_at_most

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationReader, OperationRef
    from webhooks.store.base import Store

logger = logging.getLogger(__name__)

DEADLINE_LEAD = 2.0
"""Seconds before its deadline at which a wait requests one more poll."""
URGENT_POLLS = 5
"""Polls of an operation that an event mentioned before its polls become routine."""

fixed_interval: float | None = None
"""Seconds between all polls, whatever the policies say, while `webhooks.testing.fast_polls` is in force."""

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
    """How often operations are polled that no webhook has settled.

    Attributes:
        first_after: Seconds before the first poll of an operation, above 0.
        growth: The factor by which each interval exceeds the one before, from 1 to 10.
        max_interval: Maximum seconds between two polls of one operation, jitter included, above 0.
        jitter: The largest share of an interval, from 0 to 1, that is added to it at random.
        max_per_second: Polls per second of all operations and processes together, above 0, at most a million.

    Raises:
        TypeError: an attribute is not a number.
        ValueError: an attribute is out of range.
    """

    first_after: float = field(default=15.0, validator=number(above=0))
    growth: float = field(default=1.6, validator=number(at_least=1, at_most=10))
    max_interval: float = field(default=60.0, validator=number(above=0))
    jitter: float = field(default=0.2, validator=number(at_least=0, at_most=1))
    max_per_second: float = field(default=20.0, validator=number(at_least=1e-6, at_most=1e6))

    def interval(self, step: int, chance: float) -> float:
        """Return the seconds before poll number `step`, from 0; `chance` is a random number from 0 to 1."""
        if fixed_interval is not None:
            return fixed_interval
        longest = self.max_interval / (1.0 + self.jitter)
        return delay(step, first=self.first_after, longest=longest, growth=self.growth, jitter=self.jitter, chance=chance)

    def lookup_interval(self, attempt: int, chance: float) -> float:
        """Return the seconds after lookup number `attempt`, from 0. The first lookups are urgent, the others routine."""
        if fixed_interval is None and attempt + 1 < URGENT_POLLS:
            return delay(attempt, first=1.0, longest=8.0)
        return self.interval(attempt + 1 - URGENT_POLLS, chance)

    def next_interval(self, priority: Priority, attempt: int, chance: float) -> float:
        """Return the seconds after a poll that settled nothing; `attempt` polls of that priority preceded it."""
        if priority is Priority.LOOKUP:
            return self.lookup_interval(attempt, chance)
        if fixed_interval is None and priority is Priority.ABANDONED:
            if attempt >= _ABANDONED_POLLS_OF_A_DAY:
                return DAY
            grown = delay(attempt, first=_ABANDONED_FIRST, longest=_ABANDONED_MAX, growth=_ABANDONED_GROWTH)
            return grown * (1.0 + self.jitter * chance)
        return self.interval(attempt + 1 if priority is Priority.ROUTINE else 0, chance)


class PollListener(Protocol):
    """Receives the results of polls."""

    async def on_terminal(self, ref: OperationRef, operation: Operation, *, mentioned: bool) -> bool:
        """Receive a terminal state, and whether an event caused the poll. Return whether the state was stored."""
        ...

    def on_missing(self, ref: OperationRef, error: NotFound) -> None:
        """Receive a 404 that the vendor has repeated for a minute."""
        ...

    def on_progress(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Receive the result of a poll that settled nothing."""
        ...


class Poller:
    """Claim due operations from the store, read them from the vendor, and pass the results on.

    Attributes:
        pacer: Makes the requests.
        max_in_flight: Maximum number of requests at a time.
    """

    def __init__(
        self, client: OperationReader, store: Store, policy: PollPolicy, listener: PollListener, *, random: Callable[[], float]
    ) -> None:
        self._client = client
        self._store = store
        self._policy = policy
        self._listener = listener
        self._random = random
        self._wake = asyncio.Event()
        self.pacer = Pacer(store, client.scope, policy.max_per_second, self._wake)
        self.max_in_flight = max(1, math.ceil(policy.max_per_second * _SECONDS_IN_FLIGHT))
        self._claim_at = -math.inf
        self._in_flight: dict[str, PollClaim] = {}
        self._claiming: asyncio.Future[PollClaims] | None = None
        self._results: list[PollResult] = []
        self._hurries: dict[Priority, dict[OperationRef, None]] = {}
        self._hurried_at: deque[float] = deque(maxlen=max(1, int(policy.max_per_second * DEADLINE_LEAD)))
        self._unknown_refs: list[OperationRef] = []
        self._refused_refs: set[OperationRef] = set()

    def first_delay(self) -> float:
        """Return the seconds before the first poll of an operation."""
        return self._policy.interval(0, self._random())

    def claim_within(self, seconds: float) -> None:
        """Look for due operations in `seconds`, if not earlier."""
        at = loop_time() + seconds
        if at < self._claim_at:
            self._claim_at = at
            self._wake.set()

    def hurry(self, ref: OperationRef, priority: Priority) -> None:
        """Poll an operation as soon as the budget allows."""
        self._hurries.setdefault(priority, {})[ref] = None
        self._wake.set()

    def cancel_hurry(self, ref: OperationRef) -> None:
        """Forget that an operation was to be hurried."""
        for refs in self._hurries.values():
            refs.pop(ref, None)

    def may_hurry(self) -> bool:
        """Return whether the budget allows one more poll before a deadline, and count it if so."""
        now, times = loop_time(), self._hurried_at
        if len(times) == times.maxlen and times[0] > now - DEADLINE_LEAD:
            return False
        times.append(now)
        return True

    async def run(self) -> None:
        """Poll until cancelled."""
        failures = 0
        self._claim_at = -math.inf
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._wake.clear()
                    try:
                        await self._flush()
                        await self._claim(tasks)
                    except StoreClosed:
                        raise
                    except StoreError:
                        if not failures:
                            logger.exception("The store failed. Polls resume once it answers.")
                        await asyncio.sleep(delay(failures, first=0.5, longest=_MAX_SLEEP))
                        failures += 1
                        self._claim_at = -math.inf
                    else:
                        failures = 0
                        await wait_at_most(self._wake, self._sleep())
        finally:
            await self._return_claims()

    async def _flush(self) -> None:
        """Write to the store what was learned; what it refuses is written again next time."""
        store = self._store
        if await self.pacer.flush():
            self._claim_at = -math.inf
        for priority, refs in list(self._hurries.items()):
            while refs:
                some = list(islice(refs, _SLICE))
                await store.hurry_polls(some, priority)
                for ref in some:
                    refs.pop(ref, None)
                self._claim_at = -math.inf
        if self._unknown_refs:
            await store.remove_pending(unknown := list(self._unknown_refs))
            del self._unknown_refs[: len(unknown)]
        if self._results:
            await store.settle_polls(results := list(self._results))
            del self._results[: len(results)]
            self.claim_within(min(result.retry_in for result in results))

    async def _claim(self, tasks: asyncio.TaskGroup) -> None:
        room = self.max_in_flight - len(self._in_flight)
        if room <= 0 or loop_time() < self._claim_at:
            return
        self._claim_at = math.inf  # before the store is called, so that a hint during the call is not lost
        scope, rate = self._client.scope, self._policy.max_per_second
        asked = loop_time()
        claimed = await self._claim_now(scope, room, rate)
        now = loop_time()
        self._claim_at = min(self._claim_at, now + min(claimed.next_in, _MAX_SLEEP))
        for claim in claimed.claims:
            self.pacer.refusals = claim.refusals
            self._in_flight[claim.fence] = claim
            tasks.create_task(self._run_claim(claim, asked + claim.start_in, now + claim.start_in), name=f"poll of {claim.ref}")

    async def _claim_now(self, scope: str, limit: int, rate: float) -> PollClaims:
        """Claim polls from the store, which makes the claim even if its caller is cancelled: then it is kept to be returned."""
        claim = self._store.claim_polls(scope, limit=limit, lease=_LEASE, max_per_second=rate)
        self._claiming = asyncio.ensure_future(claim)
        try:
            claimed = await asyncio.shield(self._claiming)
        except Exception:
            self._claiming = None
            raise
        self._claiming = None
        return claimed

    def _sleep(self) -> float:
        """Return the seconds until the next claim."""
        full = len(self._in_flight) >= self.max_in_flight
        return _MAX_SLEEP if full else min(max(0.0, self._claim_at - loop_time()), _MAX_SLEEP)

    async def _run_claim(self, claim: PollClaim, since: float, at: float) -> None:
        if self._is_refused(claim.ref):
            self._finish_claim(claim, PollResult(claim=claim, retry_in=DAY, counted=False))
            return
        stays_urgent = claim.priority is Priority.LOOKUP and claim.attempt + 1 < URGENT_POLLS
        again = PollResult(
            claim=claim,
            retry_in=self._policy.next_interval(claim.priority, claim.attempt, self._random()),
            priority=claim.priority if stays_urgent else max(claim.priority, Priority.ROUTINE),
        )
        try:
            result = await self._poll(claim, await self.pacer.turn_at(since, at), again)
        except Exception:
            self._finish_claim(claim, again)
            raise
        self._finish_claim(claim, result)

    def _is_refused(self, ref: OperationRef) -> bool:
        """Whether the client can read no such operation, as some other program may have stored it; warn of each once."""
        try:
            self._client.ref_of(ref)
        except ValueError as error:
            if ref not in self._refused_refs:
                self._refused_refs.add(ref)
                logger.warning("%s is pending, but cannot be polled. %s The client says: %s", ref, _how_to_remove(ref), error)
            return True
        except Exception:  # noqa: BLE001 - the poll meets it again and reports it
            return False
        return False

    def _finish_claim(self, claim: PollClaim, result: PollResult | None) -> None:
        del self._in_flight[claim.fence]
        if result is not None:
            self._results.append(result)
        self._wake.set()

    async def _poll(self, claim: PollClaim, turn: Turn, again: PollResult) -> PollResult | None:
        """Poll once. Return how to settle the claim, None if its operation is no longer pending."""
        ref = claim.ref
        answer = await self.pacer.ask(
            ref, turn, lambda may_send: self._client.read_operation(ref, may_send=may_send), refusals=claim.refusals
        )
        if not answer.sent:
            return _returned(claim, retry_in=answer.retry_in)
        operation, error = answer.value, answer.error
        if operation is not None:
            again = evolve(again, known=True, about=operation.ref.about)
            if operation.status.terminal:
                stored = await self._listener.on_terminal(ref, operation, mentioned=claim.priority is Priority.LOOKUP)
                return None if stored else again
        self._listener.on_progress(ref, operation, error)
        if isinstance(error, NotFound):
            again = evolve(again, known=False)
            if claim.missing + 1 >= _MISSING_TIMES and claim.missing_for >= _MISSING_SECONDS:
                self._listener.on_missing(ref, error)
                if claim.priority is Priority.ABANDONED:
                    self._unknown_refs.append(ref)
                    return None
        if answer.counted:
            return evolve(again, retry_in=min(again.retry_in, answer.retry_in))
        if retry_in := self.pacer.retry_in(ref):  # then without its priority, which would put it before the others
            return PollResult(claim=claim, retry_in=retry_in, counted=False)
        return _returned(claim)

    async def _return_claims(self) -> None:
        """Return the claims of the polls in flight, so that other processes can make them."""
        try:
            async with asyncio.timeout(_CLOSING):
                if self._claiming is not None:
                    claiming, self._claiming = self._claiming, None
                    with suppress(StoreError):
                        self._in_flight.update({claim.fence: claim for claim in (await claiming).claims})
                self._results += [_returned(claim) for claim in self._in_flight.values()]
                self._in_flight.clear()
                await self._flush()
        except (StoreError, TimeoutError):
            logger.warning("Claims of polls could not be returned to the store. They expire in %.0f s.", _LEASE)


def _returned(claim: PollClaim, *, retry_in: float = 0.0) -> PollResult:
    return PollResult(claim=claim, retry_in=retry_in, priority=claim.priority, counted=False)


def _how_to_remove(ref: OperationRef) -> str:
    if not (is_id(ref.kind) and is_id(ref.uid)):
        return "Remove it with Store.remove_pending."
    options = [f"--kind={ref.kind}", f"--scope={ref.scope}"]
    return f"To remove it, run `{shlex.join(['webhook-listener', 'pending', 'forget', *options, '--', ref.uid])}`."
