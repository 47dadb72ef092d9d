"""What is behind every wait: the watchers of each operation, the hints of the store, and the answers of the poller."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from rewards_core.clock import loop_time
from rewards_core.errors import NotFound, VendorError
from rewards_core.operations import OperationStatus
from webhooks.lookups import KeyWaiter, LookUps
from webhooks.poller import Poller
from webhooks.polling import AT_ONCE, PollPolicy
from webhooks.store.base import Outcome, Store, Subscriber, Verdict, Via
from webhooks.supervise import wait_at_most
from webhooks.watchers import Ending, Settled, Standing, Waiter, Watcher, Watchers

if TYPE_CHECKING:
    from rewards_core.operations import KeyedRequest, Operation, OperationReader, OperationRef

T = TypeVar("T")

logger = logging.getLogger(__name__)

_QUESTION_LEASE = 300.0
_QUESTIONS_AT_A_TIME = 1_000
_LOOK_FOR_QUESTIONS_EVERY = 5.0
_POLLED_IN_A_ROW = 20
_DELAYS_KEPT = 1_000
_SLICE = 1_000
LAST_LOOK = 2.0
"""Seconds that a store gets to answer after the time of a wait is over."""


class Stream(Protocol):
    """Outcomes of many operations that somebody iterates over."""

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        ...

    async def aclose(self) -> None:
        """Stop waiting."""
        ...


class Hub(Subscriber):
    """Bring outcomes to those who watch for them, from wherever they are learned first.

    Args:
        client: The vendor's client.
        store: Where outcomes are kept.
        policy: When the vendor is asked.
        trusting: Whether an outcome learned by webhook counts without asking the vendor.
        clock: Unix time in seconds.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        client: OperationReader,
        store: Store,
        policy: PollPolicy,
        *,
        trusting: bool,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.client = client
        self.store = store
        self.clock = clock
        self.poller = Poller(client, policy, self, random=random)
        self.watchers = Watchers()
        self.look_ups = LookUps()
        self.settlements: dict[Via, int] = {"webhook": 0, "poll": 0}
        self.delays: dict[Via, deque[float]] = {"webhook": deque(maxlen=_DELAYS_KEPT), "poll": deque(maxlen=_DELAYS_KEPT)}
        self.conflicts = 0
        self.timeouts = 0
        self.streams: set[Stream] = set()
        self.over: Exception | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._trusting = trusting
        self._standing = Standing()
        self._asked = asyncio.Event()
        self._polled_in_a_row = 0
        self._delivered = False
        self._refused: Counter[str] = Counter()

    # for those who wait

    def watch(self, kind: str, uid: str, watcher: Watcher, due: float) -> None:
        """Tell the watcher when the operation ends, and poll it from `due` on unless it is polled already."""
        if self.watchers.add(kind, uid, watcher):
            self.poller.add(kind, uid, due)

    def unwatch(self, kind: str, uid: str, watcher: Watcher) -> None:
        """Tell the watcher no more, and poll the operation no more if it was the last."""
        if self.watchers.remove(kind, uid, watcher):
            self.poller.drop(kind, uid)

    def seek(self, waiter: KeyWaiter) -> None:
        """Wake the waiter when the operation of its request is found, and have it looked for at once and from then on."""
        look_up = waiter.ref
        if self.look_ups.add(waiter):
            self.poller.add(look_up.kind, look_up.uid, self.poller.first_due())
        self.poller.look_up_soon(look_up.kind, look_up.uid)

    def abandon(self, waiter: KeyWaiter) -> None:
        """Wake the waiter no more, and make its look-up no more if it was the last."""
        if self.look_ups.remove(waiter):
            self.poller.drop(waiter.ref.kind, waiter.ref.uid)

    def usable(self, outcome: Outcome) -> Settled | None:
        """Return the outcome as those who wait may have it, None if the vendor has to be asked first."""
        if outcome.via == "webhook" and not self._trusting:
            return None
        operation = self._read(outcome)
        if operation is None or not operation.status.terminal:
            return None
        return Settled(operation, outcome.via, outcome.settled_at)

    async def look_up(self, ref: OperationRef) -> Settled | None:
        """Return the outcome that is kept, if those who wait may have it."""
        outcome = await self.store.outcome(ref)
        return None if outcome is None else self.usable(outcome)

    async def find(self, request: KeyedRequest) -> OperationRef | None:
        """Return the operation of a request if its outcome is kept; one that failed must not hide another that is done."""
        kept = await self.store.outcomes_by_key(request.scope, request.kind, request.key)
        candidates = sorted(kept, key=lambda outcome: outcome.status is not OperationStatus.DONE)
        return next((outcome.ref for outcome in candidates if self._meets(request, outcome)), None)

    async def last_look(self, ref: OperationRef) -> Settled | None:
        """Look up once more after the time of a wait is over, but not for ever."""
        return await self.in_time(self.look_up(ref), loop_time() + LAST_LOOK, f"whether {ref} has ended")

    async def in_time(self, answering: Awaitable[T], until: float, about: str | None = None) -> T | None:
        """Return what the store answers, None if it has not at a moment; that is logged where it is said what it was about."""
        limit = asyncio.timeout_at(None if until == math.inf else until)
        try:
            async with limit:
                return await answering
        except TimeoutError:
            if not limit.expired():
                raise
        if about is not None:
            logger.warning("the store did not answer in time %s", about)
        return None

    def took(self, ending: Ending | None) -> None:
        """Note how long an outcome took from when it was learned to who waited for it."""
        if isinstance(ending, Settled):
            self.delays[ending.via].append(self.clock() - ending.settled_at)

    async def register(self, refs: Sequence[OperationRef]) -> None:
        """Note in the store that these are waited for; a store that cannot write keeps nobody from waiting."""
        try:
            await self.store.add_pending(refs)
        except Exception:
            logger.exception("%d operations could not be registered as pending; they are waited for all the same", len(refs))

    async def adopt(self) -> int:
        """Poll all that the store knows as pending, whether anybody waits or not; return how many are new here."""
        count = 0
        async for ref in self.store.pending(self.client.scope):
            if self._stand(ref):
                count += 1
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        return count

    def end_all(self, error: Exception) -> None:
        """End every wait with a copy of this error, or of the one that ended them before, and let none begin."""
        self.over = self.over or error
        for stream in list(self.streams):
            stream.fail(copy.copy(self.over))
        for seeker in self.look_ups:
            seeker.end(seeker.ref.kind, seeker.ref.uid, copy.copy(self.over))
        for kind, uid in self.watchers:
            for watcher in self.watchers.of(kind, uid):
                if isinstance(watcher, Waiter):
                    watcher.end(kind, uid, copy.copy(self.over))
                elif watcher is self._standing:
                    self.unwatch(kind, uid, watcher)

    def check(self) -> None:
        """Raise what ended every wait, if it has.

        Raises:
            RuntimeError: another event loop runs.
        """
        if self.over is not None:
            raise copy.copy(self.over)
        if self.loop is not None and self.loop is not asyncio.get_running_loop():
            raise RuntimeError("Completions was started in another event loop; make one in each loop")

    # what the store tells

    def settled(self, outcome: Outcome) -> None:
        """Bring a new outcome to those who wait for it."""
        ref = outcome.ref
        if ref.scope != self.client.scope:
            return
        if outcome.via == "webhook":
            self._delivered = True
        for seeker in self.look_ups.with_key(ref.kind, outcome.key):
            if self._meets(seeker.request, outcome):
                seeker.find(ref)
        if self.watchers.has(ref.kind, ref.uid):
            settled = self.usable(outcome)
            if settled is None:
                self.poller.hurry(ref.kind, ref.uid, AT_ONCE)
            else:
                self._finish(ref.kind, ref.uid, settled)

    def asked(self, ref: OperationRef) -> None:
        """Ask the vendor at once about an operation that an event spoke of."""
        if ref.scope != self.client.scope:
            return
        self._delivered = True
        if self.watchers.has(ref.kind, ref.uid):
            self.poller.hurry(ref.kind, ref.uid, AT_ONCE)
        self._asked.set()

    def refused(self, reason: str) -> None:
        """Count a delivery that was refused for its signature."""
        self._refused[reason] += 1

    async def ask_questions(self) -> None:
        """Claim what events have asked, until cancelled; a claim that is not answered in time comes back by itself."""
        while True:
            self._asked.clear()
            room = _QUESTIONS_AT_A_TIME - self.poller.urgent
            refs: Sequence[OperationRef] = ()
            if room > 0:
                refs = await self.store.claim_questions(self.client.scope, limit=room, lease=_QUESTION_LEASE)
            for ref in refs:
                if self._stand(ref):
                    self.poller.hurry(ref.kind, ref.uid, AT_ONCE)
            if not refs:
                await wait_at_most(self._asked, _LOOK_FOR_QUESTIONS_EVERY)

    # what the poller tells

    def wants(self, kind: str, uid: str) -> bool:
        """Whether anybody waits for the operation, or for what the look-up finds."""
        return self.watchers.has(kind, uid) or self.look_ups.has(kind, uid)

    def requests(self, look_up: OperationRef) -> Sequence[KeyedRequest]:
        """Return what is to be found by a look-up, one request for each key."""
        by_key = {seeker.request.key: seeker.request for seeker in self.look_ups.of(look_up.kind, look_up.uid)}
        return list(by_key.values())

    def found(self, look_up: OperationRef, operations: Sequence[Operation]) -> None:
        """Wake those whose requests are met by what a look-up found."""
        self.noted(look_up, None, None)
        for operation in operations:
            for seeker in self.look_ups.with_key(operation.ref.kind, operation.key):
                if seeker.request.is_met_by(operation):
                    seeker.find(operation)

    def impossible(self, look_up: OperationRef, error: ValueError) -> None:
        """End the waits for what a look-up was to find."""
        for seeker in self.look_ups.of(look_up.kind, look_up.uid):
            seeker.end(look_up.kind, look_up.uid, copy.copy(error))

    async def ended(self, ref: OperationRef, operation: Operation, *, prompted: bool) -> None:
        """Store a terminal answer first, then bring it to those who wait."""
        via: Via = "webhook" if prompted and self._trusting else "poll"  # what is distrusted may not be kept as a webhook's
        self._finish(ref.kind, ref.uid, await self._keep(ref, operation, via))
        await self._doubt_webhooks()

    async def brought(self, operation: Operation) -> Settled:
        """Store a terminal state that a caller knows already, bring it to those who wait, and return the one that stands."""
        ref = operation.ref
        settled = await self._keep(ref, operation, "poll")
        for watcher in self._take(ref.kind, ref.uid):
            watcher.end(ref.kind, ref.uid, settled)
        return settled

    async def missing(self, ref: OperationRef, error: NotFound) -> None:
        """End the waits for an operation that the vendor does not know."""
        for watcher in self._take(ref.kind, ref.uid):
            watcher.end(ref.kind, ref.uid, copy.copy(error))
        try:
            await self.store.close_questions((ref,))
            await self.store.remove_pending((ref,))
        except Exception:
            logger.exception("%s is unknown to the vendor, which could not be noted", ref)

    def noted(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Pass on what a poll saw or met."""
        watchers: Sequence[Watcher] = self.watchers.of(ref.kind, ref.uid) or self.look_ups.of(ref.kind, ref.uid)
        for watcher in watchers:
            watcher.note(seen, error)

    async def _keep(self, ref: OperationRef, operation: Operation, via: Via) -> Settled:
        outcome = Outcome(
            ref=ref, status=operation.status, resource=operation.raw, via=via, settled_at=self.clock(), key=operation.key
        )
        settled = Settled(operation, via, outcome.settled_at)
        try:
            recorded = await self.store.record_outcome(outcome)
        except Exception:
            logger.exception("the outcome of %s could not be kept; those who wait hear of it all the same", ref)
            return settled
        if recorded.verdict is Verdict.CONFLICT:
            self.conflicts += 1
            logger.error("%s ended as %s, but is kept as %s", ref, operation.status, recorded.outcome.status)
        if recorded.verdict is not Verdict.FIRST:
            settled = self.usable(recorded.outcome) or settled
        return settled

    def _read(self, outcome: Outcome) -> Operation | None:
        try:
            return self.client.parse_operation(outcome.ref, outcome.resource)
        except VendorError as problem:
            logger.warning("a kept outcome of %s cannot be read, the vendor is asked: %s", outcome.ref, problem)
            return None

    def _meets(self, request: KeyedRequest, outcome: Outcome) -> bool:
        operation = self._read(outcome)
        return operation is not None and request.is_met_by(operation)

    def _stand(self, ref: OperationRef) -> bool:
        if self._standing in self.watchers.of(ref.kind, ref.uid):
            return False
        self.watch(ref.kind, ref.uid, self._standing, self.poller.first_due())
        return True

    def _finish(self, kind: str, uid: str, settled: Settled) -> None:
        watchers = self._take(kind, uid)
        if watchers:
            self.settlements[settled.via] += 1
            self._polled_in_a_row = self._polled_in_a_row + 1 if settled.via == "poll" else 0
            for watcher in watchers:
                watcher.end(kind, uid, settled)

    def _take(self, kind: str, uid: str) -> tuple[Watcher, ...]:
        watchers = self.watchers.take(kind, uid)
        if watchers:
            self.poller.drop(kind, uid)
        return watchers

    async def _doubt_webhooks(self) -> None:
        if self._delivered or self._polled_in_a_row < _POLLED_IN_A_ROW:
            return
        self._delivered = True
        try:
            counted = await self.store.statistics()
        except Exception:
            logger.exception("the store could not be asked whether a delivery ever came")
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
