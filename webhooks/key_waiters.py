"""Who waits for an operation of which only the idempotency key is known, and the look-ups that find it for all of them."""

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
from rewards_core.errors import StoreError
from rewards_core.operations import KeyedRequest, MaySend, Operation, OperationReader, OperationRef, OperationStatus
from webhooks.pacing import Answer, Turn
from webhooks.polling import URGENT_POLLS, Poller, PollPolicy
from webhooks.settlement import read
from webhooks.store.base import Store, Subscriber
from webhooks.supervise import wait_at_most
from webhooks.waiters import LAST_LOOK, TimedWaiter, in_time

_AFTER_OTHERS = 1.0
"""Seconds after a pause in which operations are polled first: a look-up that alone is refused must not prolong it."""

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rewards_core.errors import OutcomeUnknown
    from webhooks.store.records import Outcome


def request_of(problem: OutcomeUnknown, scope: str) -> KeyedRequest:
    """Return what the call that ended in this error had asked for.

    Raises:
        ValueError: it cannot be found by a key, or belongs to another scope.
    """
    request = problem.request
    if isinstance(request, KeyedRequest):
        if request.scope == scope:
            return request
        raise ValueError(
            f"This call was made in the scope {request.scope!r} and this client reads the scope {scope!r}, so nothing was waited "
            "for. It may have been carried out: wait with the Completions of the client that made it."
        )
    raise ValueError(
        "This call carried no idempotency key, so its operation cannot be found and nothing was waited for. "
        f"It may have been carried out; the error itself says what to do: {problem}"
    )


@frozen
class LookUp:
    """A listing of the operations of one owner, which finds all of that owner's unknown keys."""

    scope: str
    kind: str
    owner: str

    def __str__(self) -> str:
        return f"the operations of {self.owner} ({self.kind} in {self.scope})"


@define(eq=False, weakref_slot=False)
class KeyWaiter(TimedWaiter):
    """One caller who knows the request alone; the future's result is None once `found` is set or time is over."""

    request: KeyedRequest = field(kw_only=True)
    waiters: KeyWaiters = field(kw_only=True)
    found: Operation | OperationRef | None = None
    answered: bool = False

    def hurry(self) -> None:
        """Have the operation looked up at once."""
        self.waiters.hurry(self.request)

    def find(self, found: Operation | OperationRef) -> None:
        """Wake the caller with the operation, or with the ref of one whose outcome is in the store."""
        self.found = self.found or found
        self.wake(None)

    def note(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Keep what the last look-up met for the caller's `CompletionTimeout`."""
        self.answered = self.answered or error is None
        super().note(seen, error)


@define
class _Schedule:
    """When a look-up is made next, and for whom."""

    waiters: dict[KeyWaiter, None] = field(factory=dict)
    due: float = math.inf
    attempt: int = 0
    flying: bool = False
    again: bool = False


class KeyWaiters(Subscriber):
    """Find operations by the keys of their requests: in the store, in what events bring, and by listings that grow apart.

    Each listing serves all keys of one owner. Those longest due are made first, so that in a crowd each is made once before any
    is repeated.

    Args:
        client: The vendor's client.
        store: Where outcomes are kept.
        poller: Makes requests within the budget.
        policy: When the vendor is asked.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self, client: OperationReader, store: Store, poller: Poller, policy: PollPolicy, *, random: Callable[[], float]
    ) -> None:
        self._client = client
        self._scope = client.scope
        self._store = store
        self._pacer = poller.pacer
        self._max_flying = poller.max_flying
        self._policy = policy
        self._random = random
        self._by_key: dict[str, dict[str, dict[KeyWaiter, None]]] = {}
        self._look_ups: dict[LookUp, _Schedule] = {}
        self._heap: list[tuple[float, int, LookUp]] = []
        self._numbers = count()
        self._flying = 0
        self._wake, self._missed = asyncio.Event(), asyncio.Event()

    def add(self, waiter: KeyWaiter) -> None:
        """Look for the operation of a request at once and from then on; a look-up that is about to be made is shared."""
        request = waiter.request
        self._by_key.setdefault(request.kind, {}).setdefault(request.key, {})[waiter] = None
        look_up = _look_up_of(request)
        schedule = self._look_ups.setdefault(look_up, _Schedule())
        schedule.waiters[waiter] = None
        if schedule.flying:
            schedule.again = True
        elif schedule.due == math.inf or schedule.attempt >= URGENT_POLLS:
            schedule.attempt = 0
            self._put(look_up, schedule, loop_time())

    def remove(self, waiter: KeyWaiter) -> None:
        """Look no longer for the operation of a request, unless another caller does."""
        request = waiter.request
        keys = self._by_key[request.kind]
        del keys[request.key][waiter]
        if not keys[request.key]:
            del keys[request.key]
        look_up = _look_up_of(request)
        schedule = self._look_ups[look_up]
        del schedule.waiters[waiter]
        if not schedule.waiters:
            del self._look_ups[look_up]

    def hurry(self, request: KeyedRequest) -> None:
        """Look for the operation of a request now."""
        look_up = _look_up_of(request)
        schedule = self._look_ups[look_up]
        if not schedule.flying:
            self._put(look_up, schedule, min(schedule.due, loop_time()))

    async def find(self, request: KeyedRequest) -> OperationRef | None:
        """Return the operation of a request if its outcome is kept; a failed one must not hide another that is done."""
        kept = await self._store.outcomes_by_key(request.scope, request.kind, request.key)
        candidates = sorted(kept, key=lambda outcome: outcome.status is not OperationStatus.DONE)
        return next((outcome.ref for outcome in candidates if self._meets(request, outcome)), None)

    async def last_look(self, request: KeyedRequest) -> OperationRef | None:
        """Search the store once more after the time of a wait is over, but not for ever."""
        return await in_time(self.find(request), loop_time() + LAST_LOOK, f"about the key {request.key!r}")

    async def run(self) -> None:
        """Make look-ups until cancelled."""
        for look_up, schedule in self._look_ups.items():
            schedule.flying = False
            self._put(look_up, schedule, min(schedule.due, loop_time()))
        self._flying = 0
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._catch_up(), name="search of the store for keys")
            while True:
                self._wake.clear()
                due_in = self._due_in()
                if due_in > 0 or self._flying >= self._max_flying:
                    await wait_at_most(self._wake, None if due_in in {0, math.inf} else due_in)
                    continue
                turn = await self._pacer.turn()
                due = self._take()
                if due is not None:
                    tasks.create_task(self._list(due, turn, self._look_ups[due]), name=f"listing of {due}")

    # as a subscriber

    def waits_for(self, ref: OperationRef) -> bool:
        """Whether any operation of this kind is looked for: which one it is, only its outcome says."""
        return ref.scope == self._scope and bool(self._by_key.get(ref.kind))

    def settled(self, outcome: Outcome) -> None:
        """Wake the waiters whose request is met by a new outcome."""
        if outcome.ref.scope == self._scope:
            for waiter in self._with_key(outcome.ref.kind, outcome.key):
                if self._meets(waiter.request, outcome):
                    waiter.find(outcome.ref)

    def missed(self) -> None:
        """Search the store for every key."""
        self._missed.set()

    def _all(self) -> list[KeyWaiter]:
        return [waiter for schedule in self._look_ups.values() for waiter in schedule.waiters]

    def _with_key(self, kind: str, key: str | None) -> list[KeyWaiter]:
        return [] if key is None else list(self._by_key.get(kind, {}).get(key, ()))

    def _meets(self, request: KeyedRequest, outcome: Outcome) -> bool:
        operation = read(self._client, outcome)
        return operation is not None and request.is_met_by(operation)

    def _put(self, look_up: LookUp, schedule: _Schedule, due: float) -> None:
        schedule.due = due
        heapq.heappush(self._heap, (due, next(self._numbers), look_up))
        self._wake.set()

    def _due_in(self) -> float:
        """Return the seconds until a look-up is due, infinity if there is none."""
        while self._heap:
            due, _, look_up = self._heap[0]
            schedule = self._look_ups.get(look_up)
            if schedule is not None and schedule.due == due and not schedule.flying:
                return max(0.0, due - loop_time())
            heapq.heappop(self._heap)
        return math.inf

    def _take(self) -> LookUp | None:
        """Return a look-up that is due, as under way from now on; None if it was given up meanwhile."""
        if self._due_in() > 0:
            return None
        look_up = heapq.heappop(self._heap)[2]
        self._look_ups[look_up].flying = True
        self._flying += 1
        return look_up

    async def _list(self, look_up: LookUp, turn: Turn, schedule: _Schedule) -> None:
        """Make one look-up, and wake the waiters whose requests are met by what it finds."""
        requests = list({waiter.request.key: waiter.request for waiter in schedule.waiters}.values())
        finding = partial(self._find_operations, requests, turn.next)
        answer = await self._pacer.ask(look_up, turn, finding) if requests else Answer([])
        self._flying -= 1
        schedule.flying = False
        found = answer.value if answer.value is not None else []
        for waiter in list(schedule.waiters):
            if isinstance(found, ValueError):
                waiter.end("", "", copy.copy(found))
            elif answer.sent:
                waiter.note(None, answer.error)
        if not isinstance(found, ValueError):
            for operation in found:
                for waiter in self._with_key(operation.ref.kind, operation.key):
                    if waiter.request.is_met_by(operation):
                        waiter.find(operation)
        if self._look_ups.get(look_up) is schedule:
            self._put(look_up, schedule, loop_time() + self._next_in(look_up, schedule, answer))
        self._wake.set()

    def _next_in(self, look_up: LookUp, schedule: _Schedule, answer: Answer[Any]) -> float:
        if not answer.sent:
            return answer.retry_in
        if not answer.counted:
            return again_in + _AFTER_OTHERS if (again_in := self._pacer.again_in(look_up)) else 0.0
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
        except ValueError as error:  # the client cannot make this look-up at all
            return error

    async def _catch_up(self) -> None:
        """Search the store for every key whenever hints may have been lost."""
        while True:
            await self._missed.wait()
            self._missed.clear()
            for waiter in self._all():
                try:
                    found = await self.find(waiter.request)
                except StoreError:
                    self._missed.set()
                    await asyncio.sleep(1.0)
                    break
                if found is not None:
                    waiter.find(found)


def _look_up_of(request: KeyedRequest) -> LookUp:
    return LookUp(request.scope, request.kind, request.owner)
