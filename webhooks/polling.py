"""When to ask the vendor about which operation: pure bookkeeping over given moments, without a clock, a task or a socket."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable

from attrs import field, frozen

from rewards_core.backoff import delay
from rewards_core.validation import number

AT_ONCE = 0
"""An urgent question that is repeated after 1, 2, 4 and 8 seconds while it finds no end."""
JUST_ONCE = 4
"""An urgent question that is asked once."""

LOOK_UP = "\0"
"""Begins the kind of a look-up, which no vendor's kind does; its uid is the owner whose operations are listed."""

_SKIPS_PER_CALL = 1_000


@frozen(kw_only=True)
class PollPolicy:
    """How operations are polled that no webhook has settled.

    Attributes:
        first_after: Seconds before the first poll of an operation, above 0.
        growth: Each interval is so many times the one before, from 1 to 10.
        max_interval: Seconds between two polls of one operation at most, above 0.
        jitter: Intervals are longer by a random share of up to this, from 0 to 1.
        max_per_second: Polls per second of all operations together, above 0.

    Raises:
        TypeError: an attribute is no number.
        ValueError: one is out of range.
    """

    first_after: float = field(default=15.0, validator=number(above=0))
    growth: float = field(default=1.6, validator=number(at_least=1, at_most=10))
    max_interval: float = field(default=60.0, validator=number(above=0))
    jitter: float = field(default=0.2, validator=number(at_least=0, at_most=1))
    max_per_second: float = field(default=20.0, validator=number(at_least=1e-6))

    def interval(self, step: int, chance: float) -> float:
        """Return the seconds before poll number `step`, counted from 0; `chance` is a random number from 0 to 1."""
        longest = self.max_interval / (1.0 + self.jitter)
        return delay(step, first=self.first_after, longest=longest, growth=self.growth, jitter=self.jitter, chance=chance)


@frozen
class Turn:
    """One operation whose turn it is; hand it back with `Schedule.land`."""

    kind: str
    uid: str
    step: int
    attempt: int | None

    @property
    def prompted(self) -> bool:
        """Whether news of the operation prompted it, not the passing of time."""
        return self.attempt is not None and self.attempt < JUST_ONCE


class Schedule:
    """Hold the turns of any number of operations in a heap of plain tuples, which the garbage collector does not visit.

    Each operation has one place in the heap at most. One that is dropped leaves its place as a ghost until its moment comes; if
    it is added again before, it takes the place over.

    Args:
        policy: The intervals.
        random: Returns a number from 0 to 1.
    """

    def __init__(self, policy: PollPolicy, random: Callable[[], float] = random.random) -> None:
        self._policy = policy
        self._random = random
        self._heap: list[tuple[float, str, str, int]] = []
        self._ghosts: set[tuple[str, str]] = set()
        self._urgent: dict[tuple[str, str], tuple[float, int]] = {}
        self._urgent_heap: list[tuple[float, str, str]] = []
        self._wishes: set[tuple[str, str]] = set()
        self._wish_queue: deque[tuple[str, str]] = deque()
        self._flying: dict[tuple[str, str], Turn] = {}
        self._asked_in_flight: dict[tuple[str, str], int] = {}
        self._hurried_at: dict[tuple[str, str], float] = {}

    @property
    def flying(self) -> int:
        """How many turns were taken and have not landed."""
        return len(self._flying)

    @property
    def urgent(self) -> int:
        """How many operations are to be asked ahead of all others."""
        return len(self._urgent)

    def is_urgent(self, kind: str, uid: str) -> bool:
        """Whether an operation is to be asked ahead of all others, now or in some seconds."""
        return (kind, uid) in self._urgent

    def first_due(self, now: float) -> float:
        """Return when an operation that is added now has its first turn."""
        return now + self._policy.interval(0, self._random())

    def add(self, kind: str, uid: str, due: float) -> None:
        """Add an operation that is not in the schedule."""
        key = (kind, uid)
        if key in self._ghosts:
            self._ghosts.discard(key)
            return
        turn = self._flying.get(key)
        if turn is None or turn.attempt is not None:
            heapq.heappush(self._heap, (due, uid, kind, 0))

    def drop(self, kind: str, uid: str) -> None:
        """Take out an operation that is in the schedule."""
        key = (kind, uid)
        self._urgent.pop(key, None)
        self._wishes.discard(key)
        self._asked_in_flight.pop(key, None)
        self._hurried_at.pop(key, None)
        turn = self._flying.get(key)
        if turn is None or turn.attempt is not None:
            self._ghosts.add(key)

    def hurry(self, kind: str, uid: str, now: float, attempt: int) -> None:
        """Let an operation of the schedule have its turn now, ahead of all others.

        Args:
            kind: Its kind.
            uid: Its uid.
            now: The moment.
            attempt: `AT_ONCE` or `JUST_ONCE`.
        """
        key = (kind, uid)
        if key in self._flying:
            self._asked_in_flight[key] = min(attempt, self._asked_in_flight.get(key, attempt))
            return
        self._wishes.discard(key)
        known = self._urgent.get(key)
        if known is None:
            self._set_urgent(key, now, attempt)
        elif known[0] > now or known[1] > attempt:
            self._set_urgent(key, min(now, known[0]), min(attempt, known[1]))

    def wish(self, kind: str, uid: str) -> None:
        """Let an operation of the schedule have a turn ahead of the routine, but behind all that is urgent."""
        key = (kind, uid)
        if key in self._flying:
            self._asked_in_flight.setdefault(key, JUST_ONCE)
        elif key not in self._urgent and key not in self._wishes:
            self._wishes.add(key)
            self._wish_queue.append(key)

    def next_at(self) -> float | None:
        """Return when the next turn may be, None if nothing is scheduled; a moment gone by means now."""
        if self._wish_queue:
            return -math.inf
        moments = [heap[0][0] for heap in (self._urgent_heap, self._heap) if heap]
        return min(moments, default=None)

    def take(self, now: float) -> Turn | None:
        """Return the operation whose turn it is; None if there is none, or if only ghosts were seen in a first look."""
        turn = self._take_urgent(now)
        if turn is None and not (self._urgent_heap and self._urgent_heap[0][0] <= now):
            turn = self._take_wish()
            if turn is None and not self._wish_queue:
                turn = self._take_routine(now)
        return turn

    def land(self, turn: Turn, now: float, *, wanted: bool, postponed: bool = False) -> None:
        """Hand a turn back after the operation was asked.

        Args:
            turn: As taken.
            now: The moment.
            wanted: Whether the operation is to be asked again.
            postponed: Whether this turn did not count, because nobody could have been asked.
        """
        key = (turn.kind, turn.uid)
        del self._flying[key]
        asked = self._asked_in_flight.pop(key, None)
        if not wanted:
            return
        if turn.attempt is None:
            step = turn.step if postponed else turn.step + 1
            due = now if postponed else now + self._policy.interval(step, self._random())
            heapq.heappush(self._heap, (due, turn.uid, turn.kind, step))
        elif postponed:
            self._set_urgent(key, now, turn.attempt)
        else:
            self._hurried_at[key] = now
            if turn.attempt < JUST_ONCE:
                self._set_urgent(key, now + delay(turn.attempt, first=1.0, longest=8.0), turn.attempt + 1)
        if asked is not None:
            self._set_urgent(key, now, asked)

    def _set_urgent(self, key: tuple[str, str], due: float, attempt: int) -> None:
        self._urgent[key] = (due, attempt)
        heapq.heappush(self._urgent_heap, (due, *key))

    def _take_urgent(self, now: float) -> Turn | None:
        heap = self._urgent_heap
        for _ in range(_SKIPS_PER_CALL):
            if not heap or heap[0][0] > now:
                return None
            due, kind, uid = heapq.heappop(heap)
            known = self._urgent.get((kind, uid))
            if known is not None and known[0] == due:
                del self._urgent[kind, uid]
                turn = self._flying[kind, uid] = Turn(kind, uid, 0, known[1])
                return turn
        return None

    def _take_wish(self) -> Turn | None:
        queue = self._wish_queue
        for _ in range(min(_SKIPS_PER_CALL, len(queue))):
            key = queue.popleft()
            if key in self._wishes:
                self._wishes.discard(key)
                turn = self._flying[key] = Turn(*key, 0, JUST_ONCE)
                return turn
        return None

    def _take_routine(self, now: float) -> Turn | None:
        heap = self._heap
        for _ in range(_SKIPS_PER_CALL):
            if not heap or heap[0][0] > now:
                return None
            _, uid, kind, step = heapq.heappop(heap)
            key = (kind, uid)
            if key in self._ghosts:
                self._ghosts.discard(key)
            elif key in self._flying or key in self._urgent or key in self._wishes:
                heapq.heappush(heap, (now + max(self._policy.interval(step, self._random()), 1.0), uid, kind, step))
            elif (later := self._hurried_at.pop(key, -math.inf) + self._policy.interval(step, 0.0)) > now:
                heapq.heappush(heap, (later, uid, kind, step))
            else:
                turn = self._flying[key] = Turn(kind, uid, step, None)
                return turn
        return None
