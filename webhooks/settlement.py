"""Bring outcomes to their waiters, whichever source reports them first: the store, its hints or a poll."""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from rewards_core.clock import loop_time
from rewards_core.errors import NotFound, StoreClosed, StoreError, VendorError
from rewards_core.operations import OperationRef, OperationStatus
from webhooks.polling import Poller, PollPolicy
from webhooks.store.base import Store, Subscriber
from webhooks.store.outcomes import contradiction
from webhooks.store.readings import Wake
from webhooks.store.records import Outcome, Priority, Verdict, Via
from webhooks.waiters import FINAL_LOOKUP_TIMEOUT, SettledOutcome, WaiterTable, answer_by

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationReader

logger = logging.getLogger(__name__)

_DELAYS_KEPT = 1_000
_SLICE = 1_000
_POLLS_BEFORE_WARNING = 20


class Settlement(Subscriber):
    """Bring outcomes to their waiters; the arguments are those of `Completions`."""

    def __init__(
        self,
        client: OperationReader,
        store: Store,
        policy: PollPolicy,
        *,
        trust_event_body: bool,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.client = client
        self._waiter_name = secrets.token_hex(4)
        self._scope = client.scope
        self.store = store
        self.poller = Poller(client, store, policy, self, random=random)
        self.table = WaiterTable()
        self.settlements: dict[Via, int] = {"webhook": 0, "poll": 0}
        self.delays: dict[Via, deque[float]] = {"webhook": deque(maxlen=_DELAYS_KEPT), "poll": deque(maxlen=_DELAYS_KEPT)}
        self.conflicts = 0
        self.timeouts = 0
        self._trust_event_body = trust_event_body
        self._clock = clock
        self._silence = _SilenceWarning(store)
        self._lookup_needed = asyncio.Event()
        self._released: dict[OperationRef, None] = {}
        self._missed = False

    # for waiters

    async def watch(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Subscribe to outcomes and schedule polls. Deliver the outcomes that are stored already, and return them."""
        known = await self._watch(refs)
        await self._deliver_all(known)
        return known

    def unwatch(self, refs: Sequence[OperationRef]) -> None:
        """Let the store forget the operations that have no waiter left."""
        with suppress(StoreError):
            self.store.unwatch([ref for ref in refs if not self.table.has(ref.kind, ref.uid)], waiter=self._waiter_name)

    def as_settled(self, outcome: Outcome) -> SettledOutcome | None:
        """Return the outcome as waiters get it, None if the vendor must confirm it first."""
        if not (outcome.confirmed or self._trust_event_body):
            return None
        operation = read(self.client, outcome)
        return SettledOutcome(operation, outcome.via, outcome.settled_at) if operation is not None else None

    def deliver(self, outcome: Outcome) -> bool:
        """Deliver a stored outcome to its waiters. If the vendor must confirm it first, request a poll and return False."""
        ref = outcome.ref
        if not self.table.has(ref.kind, ref.uid):
            return True
        settled = self.as_settled(outcome)
        if settled is None:
            self.poller.hurry(ref, Priority.LOOKUP)
        else:
            self._finish(ref, settled)
        return settled is not None

    async def final_lookup(self, ref: OperationRef) -> SettledOutcome | None:
        """Look the operation up once more after the timeout of a wait."""
        return await answer_by(loop_time() + FINAL_LOOKUP_TIMEOUT, self._look_up(ref), f"whether {ref} has ended")

    async def record_known(self, operation: Operation, until: float) -> SettledOutcome | None:
        """Store a terminal state that the caller already has, deliver it to the waiters, and return the first outcome.

        If the store does not answer in time after `until`, return None: a slow store does not hold up this caller.
        """
        ref = operation.ref
        storing = self._store_outcome(ref, operation, "poll")
        stored = await answer_by(until + FINAL_LOOKUP_TIMEOUT, storing, f"to keep the outcome of {ref}, which its caller has")
        if stored is None:
            return None
        settled, _ = stored
        for waiter in self.table.take(ref.kind, ref.uid):
            waiter.end(ref.kind, ref.uid, settled)
        return settled

    def record_wake(self, settled: SettledOutcome, asked_at: float | None = None) -> None:
        """Record that a caller got an outcome, and the seconds between the two."""
        woken_at = self._clock()
        self.delays[settled.via].append(woken_at - settled.settled_at)
        self.store.woken(
            Wake(ref=settled.operation.ref, via=settled.via, asked_at=asked_at, settled_at=settled.settled_at, woken_at=woken_at)
        )

    def now(self) -> float:
        """Return the Unix time."""
        return self._clock()

    async def catch_up(self) -> None:
        """Look everything up again whenever hints were lost, and watch again what the store has released, until cancelled."""
        while True:
            await self._lookup_needed.wait()
            self._lookup_needed.clear()
            try:
                await self._watch_again()
                await self._look_up_all()
            except StoreClosed:
                raise
            except StoreError:
                logger.exception("The store failed while missed outcomes were looked up. The lookup is repeated in a second.")
                self._lookup_needed.set()
                await asyncio.sleep(1.0)

    # as a subscriber

    def waits_for(self, ref: OperationRef) -> bool:
        """Return whether the operation has a waiter."""
        return ref.scope == self._scope and self.table.has(ref.kind, ref.uid)

    def settled(self, outcome: Outcome) -> None:
        """Deliver a new outcome."""
        if outcome.via == "webhook":
            self._silence.over = True
        if outcome.ref.scope == self._scope and not self.deliver(outcome):
            self._released[outcome.ref] = None  # for the store it has settled
            self._lookup_needed.set()

    def confirmed(self, outcome: Outcome) -> None:
        """Deliver a confirmed outcome, which counts from now on. Callers that trust events already have the first outcome."""
        if outcome.ref.scope == self._scope and not self._trust_event_body:
            self.deliver(outcome)

    def refused(self, reason: str) -> None:
        """Count a delivery whose signature was refused."""
        self._silence.refusals[reason] += 1

    def polls_due(self) -> None:
        """Look for due polls at once."""
        self.poller.claim_within(0.0)

    def missed(self) -> None:
        """Look up and watch everything again."""
        self._missed = True
        self._lookup_needed.set()

    # as the poller's listener

    async def on_terminal(self, ref: OperationRef, operation: Operation, *, mentioned: bool) -> bool:
        """Store a terminal answer, then deliver it."""
        settled, stored = await self._store_outcome(ref, operation, "webhook" if mentioned and self._trust_event_body else "poll")
        self._finish(ref, settled)
        if settled.via == "poll":
            await self._silence.count_poll()
        return stored

    def on_missing(self, ref: OperationRef, error: NotFound) -> None:
        """End the waits for an operation that the vendor does not know."""
        for waiter in self.table.take(ref.kind, ref.uid):
            waiter.end(ref.kind, ref.uid, copy.copy(error))

    def on_progress(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Pass the result of a poll on to the waiters."""
        for waiter in self.table.of(ref.kind, ref.uid):
            waiter.note_poll(seen, error)

    async def _watch(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        poll_in = self.poller.first_delay()
        known = await self.store.watch(refs, poll_in=poll_in, confirmed=not self._trust_event_body, waiter=self._waiter_name)
        self.poller.claim_within(poll_in)
        return known

    async def _deliver_all(self, known: Sequence[Outcome]) -> None:
        for outcome in known:
            self.deliver(await self._effective(outcome))

    async def _effective(self, outcome: Outcome) -> Outcome:
        """Return the outcome that counts: the first, or if events are not trusted, a confirmed outcome that contradicts it."""
        if self._trust_event_body or outcome.confirmed:
            return outcome
        return contradiction(outcome, await self.store.conflicts(outcome.ref)) or outcome

    async def _look_up(self, ref: OperationRef) -> SettledOutcome | None:
        outcome = await self.store.outcome(ref)
        return None if outcome is None else self.as_settled(await self._effective(outcome))

    async def _watch_again(self) -> None:
        while self._released:
            some = list(islice(self._released, _SLICE))
            await self._watch([ref for ref in some if self.table.has(ref.kind, ref.uid)])
            for ref in some:
                self._released.pop(ref, None)

    async def _look_up_all(self) -> None:
        if self._missed:
            self._missed = False
            waited_for = iter(self.table)
            try:
                while some := [OperationRef(self._scope, *key) for key in islice(waited_for, _SLICE)]:
                    await self._deliver_all(await self._watch(some))
            except StoreError:
                self._missed = True
                raise

    async def _store_outcome(self, ref: OperationRef, operation: Operation, via: Via) -> tuple[SettledOutcome, bool]:
        """Store what the vendor's API says. Return what the waiters get, and whether it was stored."""
        outcome = Outcome(
            ref=ref,
            status=OperationStatus(operation.status.outcome or operation.status),
            resource=operation.raw,
            via=via,
            settled_at=self._clock(),
            key=operation.key,
            confirmed=True,
        )
        settled = SettledOutcome(operation, via, outcome.settled_at)
        try:
            recorded = await self.store.record_outcome(outcome)
        except Exception:
            logger.exception(
                "The outcome of %s could not be stored. Callers that wait for it in this process receive it anyway.", ref
            )
            return settled, False
        if recorded.verdict is Verdict.CONFLICT:
            self.conflicts += 1
            logger.error(
                "The vendor says that %s is %s, but it is stored as %s, which stays. Ask the vendor which is true.",
                ref,
                operation.status,
                recorded.outcome.status,
            )
        if recorded.verdict is not Verdict.FIRST:
            settled = self.as_settled(recorded.outcome) or settled
        return settled, True

    def _finish(self, ref: OperationRef, settled: SettledOutcome) -> None:
        self.poller.cancel_hurry(ref)
        waiters = self.table.take(ref.kind, ref.uid)
        self.settlements[settled.via] += bool(waiters)
        for waiter in waiters:
            waiter.end(ref.kind, ref.uid, settled)


class _SilenceWarning:
    """Warn once when every operation is settled by a poll, so that webhooks seem not to arrive."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._polled = 0
        self.over = False
        self.refusals: Counter[str] = Counter()

    async def count_poll(self) -> None:
        self._polled += 1
        if self.over or self._polled < _POLLS_BEFORE_WARNING:
            return
        self.over = True
        try:
            statistics = await self._store.statistics()
        except Exception:
            logger.exception("The store failed while webhook deliveries were counted. Polling continues.")
            return
        if statistics.events:
            return
        if self.refusals:
            logger.warning(
                "%d operations in a row were settled by polling. %d webhook deliveries were refused for their signature (%s) and "
                "none was accepted. Compare the webhook keys with the vendor's console.",
                self._polled,
                self.refusals.total(),
                ", ".join(f"{reason}: {count}" for reason, count in self.refusals.most_common()),
            )
        else:
            logger.warning(
                "%d operations in a row were settled by polling, and this process received no webhook delivery. Check that the "
                "URL is subscribed at the vendor and reachable, and whether another process receives or refuses the deliveries.",
                self._polled,
            )


def read(client: OperationReader, outcome: Outcome) -> Operation | None:
    """Return the operation of a stored outcome, None if the outcome cannot be read as a terminal operation."""
    try:
        operation = client.parse_operation(outcome.ref, outcome.resource)
    except VendorError as problem:
        logger.warning("The stored outcome of %s cannot be read, so the vendor is asked: %s", outcome.ref, problem)
        return None
    return operation if operation.status == outcome.status or operation.status.terminal else None
