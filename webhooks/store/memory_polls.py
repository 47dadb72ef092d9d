"""The pending operations of a `MemoryStore` and the budget of their polls, without a clock or a task.

A pending operation is kept as one `bytes` under its uid, which the garbage collector does not traverse: there may be a million
(`benchmarks pending`).
"""

from __future__ import annotations

import heapq
import logging
import math
import struct
from collections.abc import Iterator
from itertools import count, islice
from typing import NamedTuple

from attrs import frozen

from rewards_core.operations import OperationRef, subject_of
from webhooks.store.budget import HORIZON, RATE_HOLDS, Budget
from webhooks.store.queries import MAX_DEPENDENTS
from webhooks.store.readings import PollBudget
from webhooks.store.records import PendingOperation, PollClaim, PollClaims, PollPermit, PollResult, Priority

logger = logging.getLogger(__name__)

_TICKS = 100
_EARLY = 1e-6
"""Seconds by which an operation may be due early, because of rounding."""
_SKIPS_PER_CLAIM = 1_000
_EVICTED_SHARE = 100
_MAX_COUNT = 255
_SEPARATOR = "\0"

_Key = tuple[str, str]
"""Kind and uid."""


class PollTable:
    """The pending operations of one scope, and their claims. Above `max_operations`, those without waiters are evicted."""

    def __init__(self, scope: str, max_operations: int) -> None:
        self.budget = Budget()
        self.lookups = 0
        """The number of operations with the priority `LOOKUP`."""
        self.watched = 0
        """The number of operations with a waiter."""
        self.granted = 0
        """The number of polls that the budget has allowed."""
        self._rates: dict[float, float] = {}
        self._scope = scope
        self._max = max_operations
        self._states: dict[str, dict[str, bytes]] = {}
        self._first_waiter = ""
        self._waiters: dict[_Key, frozenset[str]] = {}  # except of operations that only the first waiter watches
        self._dependents: dict[str, dict[str, None]] = {}  # what operations are about to their keys
        self._claims: dict[_Key, _Claim] = {}
        self._fences = count(1)
        self._full = False
        self._queues = {priority: _BucketQueue() for priority in Priority}

    def __len__(self) -> int:
        return sum(len(states) for states in self._states.values())

    def watch(self, kind: str, uid: str, due: float, added_at: float, waiter: str, about: str | None) -> None:
        """Add a waiter of an operation, whose next poll is at `due` at the latest."""
        if not len(self):
            self._first_waiter = waiter
        state = self._get(kind, uid)
        self._set_waiters(kind, uid, self._waiters_of(kind, uid, state) | {waiter})
        if state is None:
            self._add(kind, uid, _State(added_at, due, Priority.ROUTINE, watched=True, about=about))
            return
        if state.priority is Priority.ABANDONED:
            state = state._replace(priority=Priority.ROUTINE, attempt=0)
        self._put(kind, uid, state._replace(due=min(due, state.due), watched=True, about=about or state.about))

    def unwatch(self, kind: str, uid: str, waiter: str) -> None:
        state = self._get(kind, uid)
        waiters = self._waiters_of(kind, uid, state)
        if state is None or waiter not in waiters:
            return
        if left := waiters - {waiter}:
            self._set_waiters(kind, uid, left)
            return
        self._waiters.pop((kind, uid), None)
        state = state._replace(watched=False)
        if state.priority is not Priority.LOOKUP:
            state = state._replace(priority=Priority.ABANDONED, attempt=0)
        self._put(kind, uid, state)

    def add(self, kind: str, uid: str, due: float, added_at: float, about: str | None) -> None:
        if (state := self._get(kind, uid)) is None:
            self._add(kind, uid, _State(added_at, due, Priority.ABANDONED, watched=False, about=about))
        elif about is not None:
            self._put(kind, uid, state._replace(about=about))

    def discard(self, kind: str, uid: str) -> bool:
        """Remove an operation; return whether it was pending."""
        kept = self._states.get(kind, {}).pop(uid, None)
        if kept is None:
            return False
        state = _State.read(kept)
        self.lookups -= state.priority is Priority.LOOKUP
        self.watched -= state.watched
        self._index(kind, uid, state.about, None)
        for held in (self._waiters, self._claims):
            if held:
                held.pop((kind, uid), None)
        return True

    def hurry(self, kind: str, uid: str, priority: Priority, now: float, added_at: float, about: str | None) -> None:
        if (state := self._get(kind, uid)) is None:
            self._add(kind, uid, _State(added_at, now, priority, watched=False, about=about), now)
            return
        state = state._replace(about=about or state.about)
        held = self._claims.get((kind, uid))
        if held is not None:
            if priority is Priority.DEADLINE and held.until > now:
                self._put(kind, uid, state)
                return
            del self._claims[kind, uid]
        if priority < state.priority or priority is Priority.LOOKUP:
            state = state._replace(priority=priority, attempt=0)
        self._put(kind, uid, state._replace(due=min(now, state.due)), now)

    def dependents(self, thing: OperationRef) -> list[OperationRef]:
        """Return the operations that are about something, `MAX_DEPENDENTS` at most."""
        keys = islice(self._dependents.get(subject_of(thing.kind, thing.uid), ()), MAX_DEPENDENTS) if self._dependents else ()
        return [OperationRef(self._scope, *key.split(_SEPARATOR, 1)) for key in keys]

    def claim(self, now: float, limit: int, lease: float, max_per_second: float) -> PollClaims:
        rate = self.agreed_rate(now, max_per_second)
        if self.budget.refusals and (ends := [held.until for held in self._claims.values() if held.until > now]):
            return PollClaims(claims=(), next_in=min(ends) - now)
        claims: list[PollClaim] = []
        room, skips = self.budget.room(now, limit, rate), _SKIPS_PER_CLAIM
        for priority, queue in self._queues.items():
            if priority is Priority.ABANDONED:
                room = min(room, len(claims) + (self.budget.abandoned_at <= now))
            while len(claims) < room and skips and (found := queue.pop(now)) is not None:
                state = self._get(*found)
                if state is None or state.priority is not priority or state.due > now + _EARLY:
                    skips -= 1  # it was settled or rescheduled since
                else:
                    claims.append(self._lease(found, state, now, lease))
                    self.budget = self.budget.take(now, 1, rate, abandoned=priority is Priority.ABANDONED)
        self.granted += len(claims)
        return PollClaims(claims=claims, next_in=self._next_in(now))

    def permit(self, now: float, max_per_second: float) -> PollPermit:
        rate = self.agreed_rate(now, max_per_second)
        ask_in = self.budget.further_in(now, due=self._first_due() <= now)
        if ask_in:
            return PollPermit(granted=False, seconds=ask_in)
        start = self.budget.starts_at(now)
        self.budget = self.budget.take_further(now, rate)
        self.granted += 1
        return PollPermit(granted=True, seconds=start - now)

    def shown_budget(self, now: float) -> PollBudget:
        """Return the budget for people."""
        rates = [rate for rate, at in self._rates.items() if now - at <= RATE_HOLDS]
        return PollBudget(
            scope=self._scope,
            per_second=min(rates, default=None),
            paused_for=max(0.0, self.budget.paused_until - now),
            refused=self.budget.refusals > 0,
        )

    def agreed_rate(self, now: float, max_per_second: float) -> float:
        """Return the lowest of the recent rates."""
        differed = len(self._rates) > 1
        self._rates[max_per_second] = now
        self._rates = {rate: at for rate, at in self._rates.items() if now - at <= RATE_HOLDS}
        if len(self._rates) > 1 and not differed:
            given = ", ".join(f"{rate:g}" for rate in sorted(self._rates))
            logger.warning(
                "max_per_second differs between the pollers of scope %s (%s); the lowest one applies", self._scope, given
            )
        return min(self._rates)

    def settle(self, result: PollResult, now: float) -> None:
        key = result.claim.ref.kind, result.claim.ref.uid
        held, state = self._claims.get(key), self._get(*key)
        if held is None or state is None or held.fence != result.claim.fence:
            return
        del self._claims[key]
        priority = result.priority
        if priority >= Priority.ROUTINE:
            priority = Priority.ROUTINE if state.watched else Priority.ABANDONED
        due = now + result.retry_in
        if state.due < held.until:  # it was watched meanwhile
            due = min(due, state.due)
        polls, attempt = state.polls + result.counted, min(state.attempt + result.counted, _MAX_COUNT)
        if priority is not state.priority:
            attempt = 0
        missing, missing_at = state.missing, state.missing_at
        if result.known is not None:
            missing_at = now if missing == 0 else missing_at
            missing = 0 if result.known else min(missing + 1, _MAX_COUNT)
        state = state._replace(due=due, priority=priority, polls=polls, attempt=attempt, missing=missing, missing_at=missing_at)
        self._put(*key, state._replace(about=state.about or result.about), now)

    def get(self, kind: str, uid: str, now: float) -> PendingOperation | None:
        state = self._get(kind, uid)
        return None if state is None else self._shown(kind, uid, state, now)

    def listed(
        self, after: tuple[str, str], limit: int, now: float, *, kind: str | None = None, uid: str | None = None
    ) -> Iterator[PendingOperation]:
        """Iterate over the operations of a kind, a uid or both, in the order of kind and uid."""
        for of_kind, states in sorted(self._states.items()):
            if kind in {None, of_kind}:
                uids = (one for one in (states if uid is None else states.keys() & {uid}) if (of_kind, one) > after)
                for one in heapq.nsmallest(limit, uids):
                    yield self._shown(of_kind, one, _State.read(states[one]), now)
                    limit -= 1

    def _shown(self, kind: str, uid: str, state: _State, now: float) -> PendingOperation:
        return PendingOperation(
            ref=OperationRef(self._scope, kind, uid, state.about),
            added_at=state.added_at,
            polls=state.polls,
            priority=state.priority,
            due_in=max(0.0, state.due - now),
        )

    def _waiters_of(self, kind: str, uid: str, state: _State | None) -> frozenset[str]:
        if state is None or not state.watched:
            return frozenset()
        return self._waiters.get((kind, uid)) or frozenset((self._first_waiter,))

    def _set_waiters(self, kind: str, uid: str, waiters: frozenset[str]) -> None:
        if waiters == {self._first_waiter}:
            self._waiters.pop((kind, uid), None)
        else:
            self._waiters[kind, uid] = waiters

    def _get(self, kind: str, uid: str) -> _State | None:
        kept = self._states.get(kind, {}).get(uid)
        return None if kept is None else _State.read(kept)

    def _add(self, kind: str, uid: str, state: _State, now: float = -math.inf) -> None:
        if len(self) >= self._max:
            self._make_room()
            if not state.watched and len(self) >= self._max:
                if not self._full:
                    logger.warning(
                        "scope %s has %d pending operations, the maximum; others are polled only if a caller waits for them",
                        self._scope,
                        self._max,
                    )
                self._full = True
                return
        else:
            self._full = False
        states = self._states.get(kind)
        if states is None:
            states = self._states[kind] = {}
        states[uid] = state.written()
        self.lookups += state.priority is Priority.LOOKUP
        self.watched += state.watched
        self._index(kind, uid, None, state.about)
        self._queues[state.priority].put(state.due, kind, uid, now)

    def _put(self, kind: str, uid: str, state: _State, now: float = -math.inf) -> None:
        before = _State.read(self._states[kind][uid])
        self._states[kind][uid] = state.written()
        self.lookups += (state.priority is Priority.LOOKUP) - (before.priority is Priority.LOOKUP)
        self.watched += state.watched - before.watched
        self._index(kind, uid, before.about, state.about)
        if (state.due, state.priority) != (before.due, before.priority):
            self._queues[state.priority].put(state.due, kind, uid, now)

    def _index(self, kind: str, uid: str, before: str | None, about: str | None) -> None:
        """Find an operation by what it is about, no longer by what it was about before."""
        key = f"{kind}{_SEPARATOR}{uid}"
        if about and about != before:
            self._dependents.setdefault(about, {})[key] = None
        if before and about != before:
            del self._dependents[before][key]
            if not self._dependents[before]:
                del self._dependents[before]

    def _lease(self, key: _Key, state: _State, now: float, lease: float) -> PollClaim:
        self._claims[key] = held = _Claim(str(next(self._fences)), now + lease)
        self._put(*key, state._replace(due=held.until))
        return PollClaim(
            ref=OperationRef(self._scope, *key, state.about),
            priority=state.priority,
            polls=state.polls,
            attempt=state.attempt,
            start_in=self.budget.starts_at(now) - now,
            refusals=self.budget.refusals,
            missing=state.missing,
            missing_for=now - state.missing_at if state.missing else 0.0,
            fence=held.fence,
        )

    def _next_in(self, now: float) -> float:
        first = self._first_due()
        return max(0.0, first - now, self.budget.starts_at(now) - HORIZON - now) if first < math.inf else math.inf

    def _first_due(self) -> float:
        """Return when the first operation is due, whatever the budget."""
        queues = self._queues
        others = min(queue.next_at() for priority, queue in queues.items() if priority is not Priority.ABANDONED)
        return min(others, max(queues[Priority.ABANDONED].next_at(), self.budget.abandoned_at))

    def _make_room(self) -> None:
        """Evict some operations without waiters, if there are any."""
        leaving, abandoned = self._max // _EVICTED_SHARE + 1, self._queues[Priority.ABANDONED]
        count = 0
        while count < leaving and (found := abandoned.pop(math.inf)) is not None:
            state = self._get(*found)
            if state is not None and state.priority is Priority.ABANDONED:
                count += self.discard(*found)
        if count:
            logger.warning(
                "%d pending operations of scope %s were evicted, as more than %d are pending. They are no longer polled",
                count,
                self._scope,
                self._max,
            )


@frozen
class _Claim:
    """A claim of an operation."""

    fence: str
    until: float


_STATE = struct.Struct("<dddIBBB")
_WATCHED = 8


class _State(NamedTuple):
    """A pending operation."""

    added_at: float
    due: float
    priority: Priority
    watched: bool
    polls: int = 0
    attempt: int = 0
    missing: int = 0
    missing_at: float = 0.0
    about: str | None = None

    @classmethod
    def read(cls, kept: bytes) -> _State:
        added_at, due, missing_at, polls, attempt, missing, flags = _STATE.unpack_from(kept)
        about = kept[_STATE.size :].decode("utf-8", "surrogatepass") if len(kept) > _STATE.size else None
        return cls(added_at, due, Priority(flags & ~_WATCHED), bool(flags & _WATCHED), polls, attempt, missing, missing_at, about)

    def written(self) -> bytes:
        flags = self.priority | self.watched * _WATCHED
        state = _STATE.pack(self.added_at, self.due, self.missing_at, self.polls, self.attempt, self.missing, flags)
        return state if self.about is None else state + self.about.encode("utf-8", "surrogatepass")


class _BucketQueue:
    """Operations by the hundredth of a second in which they are due. An entry stays when its operation is rescheduled."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, str], list[str]] = {}
        self._heap: list[tuple[int, str]] = []
        self._in_turn: tuple[int, str] | None = None

    def put(self, due: float, kind: str, uid: str, now: float) -> None:
        ticks = due * _TICKS
        key = math.floor(ticks) if due <= now else math.ceil(ticks - _EARLY), kind
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = []
            heapq.heappush(self._heap, key)
        bucket.append(uid)

    def next_at(self) -> float:
        """Return when the next operation is due, infinity if there is none."""
        return self._heap[0][0] / _TICKS if self._heap else math.inf

    def pop(self, now: float) -> _Key | None:
        """Remove and return the longest due operation, None if none is due."""
        if not self._heap or self._heap[0][0] > now * _TICKS + _EARLY:
            return None
        key = self._heap[0]
        bucket = self._buckets[key]
        if key != self._in_turn:
            self._in_turn = key
            bucket.reverse()
        uid = bucket.pop()
        if not bucket:
            del self._buckets[key]
            heapq.heappop(self._heap)
            self._in_turn = None
        return key[1], uid
