"""Find operations of which only the idempotency key is known, for all callers that wait for them."""

from __future__ import annotations

import asyncio
import copy
import heapq
import math
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from rewards_core.clock import loop_time
from rewards_core.errors import StoreClosed, StoreError
from rewards_core.operations import KeyedRequest, MaySend, Operation, OperationReader, OperationRef, OperationStatus
from webhooks.pacing import Answer, Turn
from webhooks.polling import URGENT_POLLS, Poller, PollPolicy
from webhooks.settlement import read
from webhooks.store.base import Store, Subscriber
from webhooks.supervise import wait_at_most
from webhooks.waiters import FINAL_LOOKUP_TIMEOUT, TimedWaiter, answer_by

_AFTER_OTHERS = 1.0
"""Seconds after a pause in which only operations are polled: if a lookup alone is refused, it must not extend the pause."""

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rewards_core.errors import OutcomeUnknown
    from webhooks.store.records import Outcome


def request_of(problem: OutcomeUnknown, scope: str) -> KeyedRequest:
    """Return the request of the call that raised this error.

    Raises:
        ValueError: the request has no key, or belongs to another scope.
    """
    request = problem.request
    if isinstance(request, KeyedRequest):
        if request.scope == scope:
            return request
        raise ValueError(
            f"The call was made in the scope {request.scope!r}, but this client reads the scope {scope!r}. The call may have "
            "been carried out: wait with the Completions of the client that made it."
        )
    raise ValueError(
        f"The call has no idempotency key, so its operation cannot be found. It may have been carried out: {problem}"
    )


@frozen
class OwnerLookup:
    """A list request for the operations of one owner, which finds all keys of that owner."""

    scope: str
    kind: str
    owner: str

    def __str__(self) -> str:
        return f"the operations of {self.owner} ({self.kind} in {self.scope})"


@define(eq=False, weakref_slot=False)
class KeyWaiter(TimedWaiter):
    """One caller that knows only the request. The future's result is None once `found` is set, or on timeout."""

    request: KeyedRequest = field(kw_only=True)
    waiters: KeySearch = field(kw_only=True)
    found: Operation | OperationRef | None = None
    answered: bool = False

    def hurry(self) -> None:
        """Request a lookup now."""
        self.waiters.hurry(self.request)

    def find(self, found: Operation | OperationRef) -> None:
        """Wake the caller with the operation, or with the ref of a stored outcome."""
        self.found = self.found or found
        self.wake(None)

    def note_poll(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Keep the result of the last lookup for the caller's `CompletionTimeout`."""
        self.answered = self.answered or error is None
        super().note_poll(seen, error)


@define
class _Schedule:
    """When a lookup is made next, and the callers that wait for it."""

    waiters: dict[KeyWaiter, None] = field(factory=dict)
    due: float = math.inf
    attempt: int = 0
    in_flight: bool = False
    again: bool = False


class KeySearch(Subscriber):
    """Find operations by the keys of their requests: in the store, in events, and by list requests at growing intervals.

    Each list request serves all keys of one owner. The longest due is made first, so that each is made once before any is
    repeated.
    """

    def __init__(
        self, client: OperationReader, store: Store, poller: Poller, policy: PollPolicy, *, random: Callable[[], float]
    ) -> None:
        self._client = client
        self._scope = client.scope
        self._store = store
        self._pacer = poller.pacer
        self._max_in_flight = poller.max_in_flight
        self._policy = policy
        self._random = random
        self._by_key: dict[str, dict[str, dict[KeyWaiter, None]]] = {}
        self._lookups: dict[OwnerLookup, _Schedule] = {}
        self._heap: list[tuple[float, int, OwnerLookup]] = []
        self._numbers = count()
        self._in_flight = 0
        self._wake, self._missed = asyncio.Event(), asyncio.Event()

    def add(self, waiter: KeyWaiter) -> None:
        """Look for the operation of a request, from now on; a lookup that is due already is shared."""
        request = waiter.request
        self._by_key.setdefault(request.kind, {}).setdefault(request.key, {})[waiter] = None
        lookup = _lookup_of(request)
        schedule = self._lookups.setdefault(lookup, _Schedule())
        schedule.waiters[waiter] = None
        if schedule.in_flight:
            schedule.again = True
        elif schedule.due == math.inf or schedule.attempt >= URGENT_POLLS:
            schedule.attempt = 0
            self._put(lookup, schedule, loop_time())

    def remove(self, waiter: KeyWaiter) -> None:
        """Stop looking for the operation of a request, unless another caller waits for it."""
        request = waiter.request
        keys = self._by_key[request.kind]
        del keys[request.key][waiter]
        if not keys[request.key]:
            del keys[request.key]
        lookup = _lookup_of(request)
        schedule = self._lookups[lookup]
        del schedule.waiters[waiter]
        if not schedule.waiters:
            del self._lookups[lookup]

    def hurry(self, request: KeyedRequest) -> None:
        """Look for the operation of a request now."""
        lookup = _lookup_of(request)
        schedule = self._lookups[lookup]
        if not schedule.in_flight:
            self._put(lookup, schedule, min(schedule.due, loop_time()))

    async def find(self, request: KeyedRequest) -> OperationRef | None:
        """Return the operation of a request if its outcome is stored. One that is done precedes one that failed."""
        stored = await self._store.outcomes_by_key(request.scope, request.kind, request.key)
        candidates = sorted(stored, key=lambda outcome: outcome.status is not OperationStatus.DONE)
        return next((outcome.ref for outcome in candidates if self._matches(request, outcome)), None)

    async def final_lookup(self, request: KeyedRequest) -> OperationRef | None:
        """Search the store once more after the timeout of a wait."""
        return await answer_by(loop_time() + FINAL_LOOKUP_TIMEOUT, self.find(request), f"about the key {request.key!r}")

    async def run(self) -> None:
        """Make lookups until cancelled."""
        for lookup, schedule in self._lookups.items():
            schedule.in_flight = False
            self._put(lookup, schedule, min(schedule.due, loop_time()))
        self._in_flight = 0
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._catch_up(), name="search of the store for keys")
            while True:
                self._wake.clear()
                due_in = self._due_in()
                if due_in > 0 or self._in_flight >= self._max_in_flight:
                    await wait_at_most(self._wake, None if due_in in {0, math.inf} else due_in)
                    continue
                turn = await self._pacer.turn()
                due = self._next_due()
                if due is not None:
                    tasks.create_task(self._run_lookup(due, turn, self._lookups[due]), name=f"listing of {due}")

    # as a subscriber

    def waits_for(self, ref: OperationRef) -> bool:
        """Return whether any operation of this kind is looked for; which one it is, its outcome tells."""
        return ref.scope == self._scope and bool(self._by_key.get(ref.kind))

    def settled(self, outcome: Outcome) -> None:
        """Wake the waiters whose request matches a new outcome."""
        if outcome.ref.scope == self._scope:
            for waiter in self._with_key(outcome.ref.kind, outcome.key):
                if self._matches(waiter.request, outcome):
                    waiter.find(outcome.ref)

    def missed(self) -> None:
        """Search the store for every key."""
        self._missed.set()

    def _all(self) -> list[KeyWaiter]:
        return [waiter for schedule in self._lookups.values() for waiter in schedule.waiters]

    def _with_key(self, kind: str, key: str | None) -> list[KeyWaiter]:
        return [] if key is None else list(self._by_key.get(kind, {}).get(key, ()))

    def _matches(self, request: KeyedRequest, outcome: Outcome) -> bool:
        operation = read(self._client, outcome)
        return operation is not None and request.is_met_by(operation)

    def _put(self, lookup: OwnerLookup, schedule: _Schedule, due: float) -> None:
        schedule.due = due
        heapq.heappush(self._heap, (due, next(self._numbers), lookup))
        self._wake.set()

    def _due_in(self) -> float:
        """Return the seconds until a lookup is due, infinity if there is none."""
        while self._heap:
            due, _, lookup = self._heap[0]
            schedule = self._lookups.get(lookup)
            if schedule is not None and schedule.due == due and not schedule.in_flight:
                return max(0.0, due - loop_time())
            heapq.heappop(self._heap)
        return math.inf

    def _next_due(self) -> OwnerLookup | None:
        """Mark the lookup that is due as in flight and return it; None if its waiters are gone."""
        if self._due_in() > 0:
            return None
        lookup = heapq.heappop(self._heap)[2]
        self._lookups[lookup].in_flight = True
        self._in_flight += 1
        return lookup

    async def _run_lookup(self, lookup: OwnerLookup, turn: Turn, schedule: _Schedule) -> None:
        """Make one lookup, and wake the waiters whose requests match a found operation."""
        requests = list({waiter.request.key: waiter.request for waiter in schedule.waiters}.values())
        finding = partial(self._find_operations, requests, turn.next)
        answer = await self._pacer.ask(lookup, turn, finding) if requests else Answer([])
        self._in_flight -= 1
        schedule.in_flight = False
        found = answer.value if answer.value is not None else []
        for waiter in list(schedule.waiters):
            if isinstance(found, ValueError):
                waiter.end("", "", copy.copy(found))
            elif answer.sent:
                waiter.note_poll(None, answer.error)
        if not isinstance(found, ValueError):
            for operation in found:
                for waiter in self._with_key(operation.ref.kind, operation.key):
                    if waiter.request.is_met_by(operation):
                        waiter.find(operation)
        if self._lookups.get(lookup) is schedule:
            self._put(lookup, schedule, loop_time() + self._next_in(lookup, schedule, answer))
        self._wake.set()

    def _next_in(self, lookup: OwnerLookup, schedule: _Schedule, answer: Answer[Any]) -> float:
        if not answer.sent:
            return answer.retry_in
        if not answer.counted:
            return retry_in + _AFTER_OTHERS if (retry_in := self._pacer.retry_in(lookup)) else 0.0
        if schedule.again:
            schedule.again, schedule.attempt = False, 0
            return 0.0
        schedule.attempt += 1
        return self._policy.lookup_interval(schedule.attempt - 1, self._random())

    async def _find_operations(
        self,
        requests: Sequence[KeyedRequest],
        before_page: Callable[[], Awaitable[None]],
        may_send: MaySend,
    ) -> Sequence[Operation] | ValueError:
        try:
            return await self._client.find_operations(requests, before_page=before_page, may_send=may_send)
        except ValueError as error:  # the client does not support this lookup
            return error

    async def _catch_up(self) -> None:
        """Search the store for every key after hints may have been lost."""
        while True:
            await self._missed.wait()
            self._missed.clear()
            for waiter in self._all():
                try:
                    found = await self.find(waiter.request)
                except StoreClosed:
                    raise
                except StoreError:
                    self._missed.set()
                    await asyncio.sleep(1.0)
                    break
                if found is not None:
                    waiter.find(found)


def _lookup_of(request: KeyedRequest) -> OwnerLookup:
    return OwnerLookup(request.scope, request.kind, request.owner)
