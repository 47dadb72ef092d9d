"""The pending operations of a memory store and the budget of polls: bookkeeping over given moments, without a clock or a task.

A pending operation is kept as one `bytes` under its uid, which the garbage collector does not look at: there may be a million.
"""

from __future__ import annotations

import heapq
import logging
import math
import struct
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from attrs import frozen

from rewards_core.operations import OperationRef
from webhooks.store.budget import HORIZON, RATE_HOLDS, Budget
from webhooks.store.records import PendingOperation, PollClaim, PollClaims, PollPermit, PollResult, Priority

logger = logging.getLogger(__name__)

_TICKS = 100
_EARLY = 1e-6
"""Seconds by which an operation counts as due too early, for the sake of rounding."""
_SKIPS_PER_CLAIM = 1_000
_EVICTED_SHARE = 100
_MAX_COUNT = 255

_Key = tuple[str, str]
"""Kind and uid."""


class PollTable:
    """The pending operations of one scope: when each is polled next, and who holds a claim.

    Args:
        scope: The scope.
        max_operations: About so many; operations without waiters leave to make room, or are not added.
    """

    def __init__(self, scope: str, max_operations: int) -> None:
        self.budget = Budget()
        self.lookups = 0
        """How many operations have the priority `LOOKUP`."""
        self._rates: dict[float, float] = {}
        self._scope = scope
        self._max = max_operations
        self._states: dict[str, dict[str, bytes]] = {}
        self._first_watcher = ""
        self._watchers: dict[_Key, frozenset[str]] = {}  # of the operations that others watch than the first watcher alone
        self._claims: dict[_Key, _Held] = {}
        self._fences = count(1)
        self._full = False
        self._queues = {priority: _Queue() for priority in Priority}

    def __len__(self) -> int:
        return sum(len(states) for states in self._states.values())

    def watch(self, kind: str, uid: str, due: float, added_at: float, watcher: str) -> None:
        """Let a watcher wait for an operation, and poll it at `due` at the latest."""
        if not len(self):
            self._first_watcher = watcher
        state = self._get(kind, uid)
        self._set_watchers(kind, uid, self._watchers_of(kind, uid, state) | {watcher})
        if state is None:
            self._add(kind, uid, _State(added_at, due, Priority.ROUTINE, watched=True))
            return
        if state.priority is Priority.ABANDONED:
            state = state._replace(priority=Priority.ROUTINE, attempt=0)
        self._put(kind, uid, state._replace(due=min(due, state.due), watched=True))

    def unwatch(self, kind: str, uid: str, watcher: str) -> None:
        """Let a watcher wait for an operation no longer."""
        state = self._get(kind, uid)
        watchers = self._watchers_of(kind, uid, state)
        if state is None or watcher not in watchers:
            return
        if left := watchers - {watcher}:
            self._set_watchers(kind, uid, left)
            return
        self._watchers.pop((kind, uid), None)
        state = state._replace(watched=False)
        if state.priority is not Priority.LOOKUP:
            state = state._replace(priority=Priority.ABANDONED, attempt=0)
        self._put(kind, uid, state)

    def add(self, kind: str, uid: str, due: float, added_at: float) -> None:
        """Register an operation without waiters; a pending one stays as it is."""
        if uid not in self._states.get(kind, ()):
            self._add(kind, uid, _State(added_at, due, Priority.ABANDONED, watched=False))

    def discard(self, kind: str, uid: str) -> bool:
        """Remove an operation; return whether it was pending."""
        kept = self._states.get(kind, {}).pop(uid, None)
        if kept is None:
            return False
        self.lookups -= _State.read(kept).priority is Priority.LOOKUP
        for held in (self._watchers, self._claims):
            if held:
                held.pop((kind, uid), None)
        return True

    def hurry(self, kind: str, uid: str, priority: Priority, now: float, added_at: float) -> None:
        """Have an operation polled now, ranked no lower than `priority`."""
        state = self._get(kind, uid)
        if state is None:
            self._add(kind, uid, _State(added_at, now, priority, watched=False), now)
            return
        held = self._claims.get((kind, uid))
        if held is not None:
            if priority is Priority.DEADLINE and held.until > now:
                return
            del self._claims[kind, uid]
        if priority < state.priority or priority is Priority.LOOKUP:
            state = state._replace(priority=priority, attempt=0)
        self._put(kind, uid, state._replace(due=min(now, state.due)), now)

    def claim(self, now: float, limit: int, lease: float, max_per_second: float) -> PollClaims:
        """Lease due operations as far as the budget allows."""
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
                    skips -= 1  # it was settled, put off or ranked otherwise since it was put here
                else:
                    claims.append(self._lease(found, state, now, lease))
                    self.budget = self.budget.take(now, 1, rate, abandoned=priority is Priority.ABANDONED)
        return PollClaims(claims=claims, next_in=self._next_in(now))

    def permit(self, now: float, max_per_second: float) -> PollPermit:
        """Take one further request from the budget, if it is its turn."""
        rate = self.agreed_rate(now, max_per_second)
        ask_in = self.budget.further_in(now, due=self._first_due() <= now)
        if ask_in:
            return PollPermit(granted=False, seconds=ask_in)
        start = self.budget.starts_at(now)
        self.budget = self.budget.take_further(now, rate)
        return PollPermit(granted=True, seconds=start - now)

    def agreed_rate(self, now: float, max_per_second: float) -> float:
        """Return the lowest of the rates that were given lately."""
        differed = len(self._rates) > 1
        self._rates[max_per_second] = now
        self._rates = {rate: at for rate, at in self._rates.items() if now - at <= RATE_HOLDS}
        if len(self._rates) > 1 and not differed:
            given = ", ".join(f"{rate:g}" for rate in sorted(self._rates))
            logger.warning("max_per_second differs between the pollers of scope %s (%s); the lowest holds", self._scope, given)
        return min(self._rates)

    def settle(self, result: PollResult, now: float) -> None:
        """Give a claim back; a claim that another has replaced is passed over."""
        key = result.claim.ref.kind, result.claim.ref.uid
        held, state = self._claims.get(key), self._get(*key)
        if held is None or state is None or held.fence != result.claim.fence:
            return
        del self._claims[key]
        priority = result.priority
        if priority >= Priority.ROUTINE:
            priority = Priority.ROUTINE if state.watched else Priority.ABANDONED
        due = now + result.again_in
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
        self._put(*key, state, now)

    def get(self, kind: str, uid: str, now: float) -> PendingOperation | None:
        """Return an operation, None if it is not pending."""
        kept = self._states.get(kind, {}).get(uid)
        return None if kept is None else self._shown(kind, uid, kept, now)

    def listed(
        self, after: tuple[str, str], limit: int, now: float, *, kind: str | None = None, uid: str | None = None
    ) -> Iterator[PendingOperation]:
        """Iterate over operations of a kind or a uid, or over all, in the order of kind and uid."""
        for of_kind, states in sorted(self._states.items()):
            if kind in {None, of_kind}:
                uids = (one for one in (states if uid is None else states.keys() & {uid}) if (of_kind, one) > after)
                for one in heapq.nsmallest(limit, uids):
                    yield self._shown(of_kind, one, states[one], now)
                    limit -= 1

    def _shown(self, kind: str, uid: str, kept: bytes, now: float) -> PendingOperation:
        state = _State.read(kept)
        return PendingOperation(
            ref=OperationRef(self._scope, kind, uid),
            added_at=state.added_at,
            polls=state.polls,
            priority=state.priority,
            due_in=max(0.0, state.due - now),
        )

    def _watchers_of(self, kind: str, uid: str, state: _State | None) -> frozenset[str]:
        if state is None or not state.watched:
            return frozenset()
        return self._watchers.get((kind, uid)) or frozenset((self._first_watcher,))

    def _set_watchers(self, kind: str, uid: str, watchers: frozenset[str]) -> None:
        if watchers == {self._first_watcher}:
            self._watchers.pop((kind, uid), None)
        else:
            self._watchers[kind, uid] = watchers

    def _get(self, kind: str, uid: str) -> _State | None:
        kept = self._states.get(kind, {}).get(uid)
        return None if kept is None else _State.read(kept)

    def _add(self, kind: str, uid: str, state: _State, now: float = -math.inf) -> None:
        if len(self) >= self._max:
            self._make_room()
            if not state.watched and len(self) >= self._max:
                if not self._full:
                    logger.warning(
                        "further operations of %s are not polled unless they are waited for: %d are pending",
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
        self._queues[state.priority].put(state.due, kind, uid, now)

    def _put(self, kind: str, uid: str, state: _State, now: float = -math.inf) -> None:
        before = _State.read(self._states[kind][uid])
        self._states[kind][uid] = state.written()
        self.lookups += (state.priority is Priority.LOOKUP) - (before.priority is Priority.LOOKUP)
        if (state.due, state.priority) != (before.due, before.priority):
            self._queues[state.priority].put(state.due, kind, uid, now)

    def _lease(self, key: _Key, state: _State, now: float, lease: float) -> PollClaim:
        self._claims[key] = held = _Held(str(next(self._fences)), now + lease)
        self._put(*key, state._replace(due=held.until))
        return PollClaim(
            ref=OperationRef(self._scope, *key),
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
        """Return when the first operation may be claimed, as far as it goes by the operations."""
        queues = self._queues
        others = min(queue.next_at() for priority, queue in queues.items() if priority is not Priority.ABANDONED)
        return min(others, max(queues[Priority.ABANDONED].next_at(), self.budget.abandoned_at))

    def _make_room(self) -> None:
        """Let some operations without waiters go, if there are any."""
        leaving, abandoned = self._max // _EVICTED_SHARE + 1, self._queues[Priority.ABANDONED]
        count = 0
        while count < leaving and (found := abandoned.pop(math.inf)) is not None:
            state = self._get(*found)
            if state is not None and state.priority is Priority.ABANDONED:
                count += self.discard(*found)
        if count:
            logger.warning("%d pending operations of %s were forgotten: more than %d are pending", count, self._scope, self._max)


@frozen
class _Held:
    """Who polls an operation, and until when."""

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

    @classmethod
    def read(cls, kept: bytes) -> _State:
        added_at, due, missing_at, polls, attempt, missing, flags = _STATE.unpack(kept)
        return cls(added_at, due, Priority(flags & ~_WATCHED), bool(flags & _WATCHED), polls, attempt, missing, missing_at)

    def written(self) -> bytes:
        flags = self.priority | self.watched * _WATCHED
        return _STATE.pack(self.added_at, self.due, self.missing_at, self.polls, self.attempt, self.missing, flags)


class _Queue:
    """Operations by the hundredth of a second in which they are due; an entry stays when its operation is put elsewhere."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[int, str], list[str]] = {}
        self._heap: list[tuple[int, str]] = []
        self._in_turn: tuple[int, str] | None = None

    def put(self, due: float, kind: str, uid: str, now: float) -> None:
        """Add an operation."""
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
        """Remove an operation that is due, the longest due first, and return it."""
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
