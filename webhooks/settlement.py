"""How outcomes reach their waiters, from wherever they are learned first."""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from rewards_core.clock import loop_time
from rewards_core.errors import NotFound, StoreError, VendorError
from rewards_core.operations import OperationRef
from webhooks.polling import Poller, PollPolicy
from webhooks.silence import SilenceWarning
from webhooks.store.base import Store, Subscriber
from webhooks.store.outcomes import contradiction
from webhooks.store.records import Outcome, Priority, Verdict, Via
from webhooks.waiters import LAST_LOOK, Settled, WaiterTable, in_time

if TYPE_CHECKING:
    from rewards_core.operations import Operation, OperationReader

logger = logging.getLogger(__name__)

_DELAYS_KEPT = 1_000
_SLICE = 1_000


class Settlement(Subscriber):
    """Bring outcomes to their waiters: from the store, from its hints, from polls.

    Args:
        client: The vendor's client.
        store: Where outcomes are kept.
        policy: When the vendor is asked.
        trusting: Whether an outcome that only the body of an event told counts without asking the vendor.
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
        self._watcher = secrets.token_hex(4)
        self._scope = client.scope
        self.store = store
        self.poller = Poller(client, store, policy, self, random=random)
        self.silence = SilenceWarning(store)
        self.table = WaiterTable()
        self.settlements: dict[Via, int] = {"webhook": 0, "poll": 0}
        self.delays: dict[Via, deque[float]] = {"webhook": deque(maxlen=_DELAYS_KEPT), "poll": deque(maxlen=_DELAYS_KEPT)}
        self.conflicts = 0
        self.timeouts = 0
        self._trusting = trusting
        self._clock = clock
        self._behind = asyncio.Event()
        self._let_go: dict[OperationRef, None] = {}
        self._missed = False

    # for waiters

    async def watch(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Hear from now on how operations end, and have them polled; bring the outcomes that are known, and return them."""
        known = await self._watch(refs)
        await self._bring_all(known)
        return known

    def unwatch(self, refs: Sequence[OperationRef]) -> None:
        """Let the store know of those operations that are waited for no longer."""
        with suppress(StoreError):
            self.store.unwatch([ref for ref in refs if not self.table.has(ref.kind, ref.uid)], watcher=self._watcher)

    def usable(self, outcome: Outcome) -> Settled | None:
        """Return the outcome as its waiters may have it, None if the vendor has to be asked first."""
        if not (outcome.confirmed or self._trusting):
            return None
        operation = read(self.client, outcome)
        return Settled(operation, outcome.via, outcome.settled_at) if operation is not None else None

    def bring(self, outcome: Outcome) -> bool:
        """Bring a kept outcome to its waiters; return False if it does not count yet, and have the vendor asked."""
        ref = outcome.ref
        if not self.table.has(ref.kind, ref.uid):
            return True
        settled = self.usable(outcome)
        if settled is None:
            self.poller.hurry(ref, Priority.LOOKUP)
        else:
            self._finish(ref, settled)
        return settled is not None

    async def last_look(self, ref: OperationRef) -> Settled | None:
        """Look up once more after the time of a wait is over, but not for ever."""
        return await in_time(self._look_up(ref), loop_time() + LAST_LOOK, f"whether {ref} has ended")

    async def told(self, operation: Operation, until: float) -> Settled | None:
        """Store a terminal state that a caller knows already, bring it to its waiters, and return the outcome that stands.

        A store that does not answer until some time after a moment keeps the caller from nothing: then there is None to return.
        """
        ref = operation.ref
        keeping = self._keep(ref, operation, "poll")
        kept = await in_time(keeping, until + LAST_LOOK, f"how {ref} ended, which its caller knows")
        if kept is None:
            return None
        settled, _ = kept
        for one in self.table.take(ref.kind, ref.uid):
            one.end(ref.kind, ref.uid, settled)
        return settled

    def took(self, settled: Settled) -> None:
        """Note how long an outcome took from when it was learned to its waiter."""
        self.delays[settled.via].append(self._clock() - settled.settled_at)

    async def catch_up(self) -> None:
        """Look up all that is waited for whenever hints were lost, and watch again what the store has let go, until cancelled."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await self._watch_again()
                await self._look_up_all()
            except StoreError:
                logger.exception(
                    "The store could not be asked for outcomes of which hints may have been lost; it is asked again."
                )
                self._behind.set()
                await asyncio.sleep(1.0)

    # as a subscriber

    def waits_for(self, ref: OperationRef) -> bool:
        """Whether the operation is waited for."""
        return ref.scope == self._scope and self.table.has(ref.kind, ref.uid)

    def settled(self, outcome: Outcome) -> None:
        """Bring a new outcome to its waiters."""
        if outcome.via == "webhook":
            self.silence.over = True
        if outcome.ref.scope == self._scope and not self.bring(outcome):
            self._let_go[outcome.ref] = None  # by the store, for which it has settled
            self._behind.set()

    def confirmed(self, outcome: Outcome) -> None:
        """Bring an outcome that counts only now to its waiters; to those who trust events the first one counted."""
        if outcome.ref.scope == self._scope and not self._trusting:
            self.bring(outcome)

    def refused(self, reason: str) -> None:
        """Count a delivery that was refused for its signature."""
        self.silence.refused(reason)

    def polls_due(self) -> None:
        """Look for due polls at once."""
        self.poller.expect(0.0)

    def missed(self) -> None:
        """Look up all that is waited for, and have the store wait for it again."""
        self._missed = True
        self._behind.set()

    # what the poller tells

    async def ended(self, ref: OperationRef, operation: Operation, *, mentioned: bool) -> bool:
        """Store a terminal answer first, then bring it to its waiters."""
        settled, stored = await self._keep(ref, operation, "webhook" if mentioned and self._trusting else "poll")
        self._finish(ref, settled)
        if settled.via == "poll":
            await self.silence.polled()
        return stored

    def missing(self, ref: OperationRef, error: NotFound) -> None:
        """End the waits for an operation that the vendor does not know."""
        for one in self.table.take(ref.kind, ref.uid):
            one.end(ref.kind, ref.uid, copy.copy(error))

    def noted(self, ref: OperationRef, seen: Operation | None, error: Exception | None) -> None:
        """Pass on what a poll saw or met."""
        for one in self.table.of(ref.kind, ref.uid):
            one.note(seen, error)

    async def _watch(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        poll_in = self.poller.first_in()
        known = await self.store.watch(refs, poll_in=poll_in, confirmed=not self._trusting, watcher=self._watcher)
        self.poller.expect(poll_in)
        return known

    async def _bring_all(self, known: Sequence[Outcome]) -> None:
        for outcome in known:
            self.bring(await self._counting(outcome))

    async def _counting(self, outcome: Outcome) -> Outcome:
        """Return what counts for those who wait: where events are not trusted, what the API has said against one."""
        if self._trusting or outcome.confirmed:
            return outcome
        return contradiction(outcome, await self.store.conflicts(outcome.ref)) or outcome

    async def _look_up(self, ref: OperationRef) -> Settled | None:
        outcome = await self.store.outcome(ref)
        return None if outcome is None else self.usable(await self._counting(outcome))

    async def _watch_again(self) -> None:
        while self._let_go:
            some = list(islice(self._let_go, _SLICE))
            await self._watch([ref for ref in some if self.table.has(ref.kind, ref.uid)])
            for ref in some:
                self._let_go.pop(ref, None)

    async def _look_up_all(self) -> None:
        if self._missed:
            self._missed = False
            waited_for = iter(self.table)
            try:
                while some := [OperationRef(self._scope, *key) for key in islice(waited_for, _SLICE)]:
                    await self._bring_all(await self._watch(some))
            except StoreError:
                self._missed = True
                raise

    async def _keep(self, ref: OperationRef, operation: Operation, via: Via) -> tuple[Settled, bool]:
        """Store what the vendor's API says; return what the waiters get, and whether it was stored."""
        outcome = Outcome(
            ref=ref,
            status=operation.status,
            resource=operation.raw,
            via=via,
            settled_at=self._clock(),
            key=operation.key,
            confirmed=True,
        )
        settled = Settled(operation, via, outcome.settled_at)
        try:
            recorded = await self.store.record_outcome(outcome)
        except Exception:
            logger.exception("The outcome of %s could not be stored. Its waiters get it all the same.", ref)
            return settled, False
        if recorded.verdict is Verdict.CONFLICT:
            self.conflicts += 1
            logger.error("%s ended as %s, but is kept as %s", ref, operation.status, recorded.outcome.status)
        if recorded.verdict is not Verdict.FIRST:
            settled = self.usable(recorded.outcome) or settled
        return settled, True

    def _finish(self, ref: OperationRef, settled: Settled) -> None:
        self.poller.unhurry(ref)
        waiting = self.table.take(ref.kind, ref.uid)
        self.settlements[settled.via] += bool(waiting)
        for one in waiting:
            one.end(ref.kind, ref.uid, settled)


def read(client: OperationReader, outcome: Outcome) -> Operation | None:
    """Return the operation of a kept outcome, None if it cannot be read as one that has ended."""
    try:
        operation = client.parse_operation(outcome.ref, outcome.resource)
    except VendorError as problem:
        logger.warning("A kept outcome of %s cannot be read, the vendor is asked: %s", outcome.ref, problem)
        return None
    return operation if operation.status == outcome.status or operation.status.terminal else None
