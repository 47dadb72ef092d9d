"""The outcomes that a process keeps in memory, within bounds.

An outcome is kept as one `bytes` under one str, for the reason an event is (see `event_table`).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve

from rewards_core.operations import OperationRef, OperationStatus
from webhooks.store.outcomes import packed, unpack_any
from webhooks.store.records import Outcome, StoredOutcome

_BETWEEN = "\0"
_SLICE = 1_000
_TRIMS_PER_RETENTION = 100

_HEAD = struct.Struct("<dQ")
"""When it was recorded, by a clock that cannot be set, and its place among all; the packed outcome follows."""


def key_of(ref: OperationRef) -> str:
    """Return an operation's ref as one str."""
    return f"{ref.scope}{_BETWEEN}{ref.kind}{_BETWEEN}{ref.uid}"


def made_with_of(ref: OperationRef, idempotency_key: str) -> str:
    """Return as one str what the operations made with an idempotency key have in common."""
    return f"{ref.scope}{_BETWEEN}{ref.kind}{_BETWEEN}{idempotency_key}"


def ref_of(key: str) -> OperationRef:
    """Return the ref that `key_of` has made one str of."""
    return OperationRef(*key.split(_BETWEEN, 2))


class OutcomeTable:
    """The outcomes that stand, by the keys of their operations, and the conflicts with them.

    Args:
        max_outcomes: At most so many; the oldest leave first.
        retention: Seconds that each stays.
    """

    def __init__(self, max_outcomes: int, retention: float) -> None:
        self._max = max_outcomes
        self._retention = retention
        self._kept: dict[str, bytes] = {}
        self._order: deque[str] = deque()
        self._conflicts: dict[str, tuple[bytes, ...]] = {}
        self._by_key: dict[str, tuple[str, ...]] = {}
        self._next_trim = 0.0
        self._next_id = 1
        self.conflict_count = 0
        """Conflicts met, those that have left with their outcomes included."""

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def get(self, key: str) -> Outcome | None:
        """Return the outcome that stands."""
        kept = self._kept.get(key)
        return None if kept is None else _unpacked(key, kept)

    def by_key(self, made_with: str) -> Sequence[Outcome]:
        """Return the outcomes of the operations made with an idempotency key."""
        return [_unpacked(key, self._kept[key]) for key in self._by_key.get(made_with, ())]

    def newest_first(self) -> Iterator[StoredOutcome]:
        """Iterate over all outcomes, with their conflicts."""
        for key, kept in reversed(self._kept.items()):
            place: int = _HEAD.unpack_from(kept)[1]
            yield StoredOutcome(id=place, outcome=_unpacked(key, kept), conflicts=tuple(self.conflicts(key)))

    def add(self, key: str, outcome: bytes, now: float, made_with: str | None) -> None:
        """Keep the first outcome of an operation, packed and recorded now."""
        if len(self._order) >= self._max or now >= self._next_trim:
            self._make_room(now)
        self._order.append(key)
        self._kept[key] = _HEAD.pack(now, self._next_id) + outcome
        self._next_id += 1
        self._index(key, made_with)

    def replace(self, key: str, outcome: bytes, made_with: str | None) -> None:
        """Keep an outcome, packed, in the place of one that is not found by that idempotency key."""
        self._kept[key] = self._kept[key][: _HEAD.size] + outcome
        self._index(key, made_with)

    def conflicts(self, key: str) -> Sequence[Outcome]:
        """Return the later outcomes that differ from the first, oldest first."""
        return tuple(_unpacked(key, kept) for kept in self._conflicts.get(key, ()))

    def add_conflict(self, key: str, outcome: bytes) -> None:
        """Keep a later outcome that differs from the first, packed."""
        self._conflicts[key] = (*self._conflicts.get(key, ()), self._kept[key][: _HEAD.size] + outcome)
        self.conflict_count += 1

    def forget(self, mentioned: Callable[[Mapping[str, Any]], bool]) -> int:
        """Erase resources and idempotency keys of the outcomes that mention a user; return how many outcomes there were."""
        doomed = [key for key, kept in self._kept.items() if mentioned(_unpacked(key, kept).resource)]
        for key in doomed:
            self._unindex(_unpacked(key, self._kept[key]))
            self._kept[key] = _erased(key, self._kept[key])
        for key, conflicts in self._conflicts.items():
            self._conflicts[key] = tuple(
                _erased(key, kept) if mentioned(_unpacked(key, kept).resource) else kept for kept in conflicts
            )
        return len(doomed)

    def purge(self, until: float, limit: int | None) -> int:
        """Remove the oldest outcomes recorded until a moment, with their conflicts; return how many outcomes there were."""
        order, before = self._order, len(self._order)
        while order and _recorded(self._kept[order[0]]) <= until and (limit is None or before - len(order) < limit):
            self._drop(order.popleft())
        return before - len(order)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._order, self._conflicts, self._by_key):
            held.clear()

    def _index(self, key: str, made_with: str | None) -> None:
        if made_with is not None:
            self._by_key[made_with] = (*self._by_key.get(made_with, ()), key)

    def _make_room(self, now: float) -> None:
        """Let the oldest go, so much at a time that no delivery waits for it."""
        order = self._order
        while len(order) >= self._max:
            self._drop(order.popleft())
        self._next_trim = now + self._retention / _TRIMS_PER_RETENTION
        for _ in range(_SLICE):
            if not order or _recorded(self._kept[order[0]]) >= now - self._retention:
                return
            self._drop(order.popleft())
        self._next_trim = now

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key)
        self._conflicts.pop(key, None)
        if self._by_key:
            self._unindex(_unpacked(key, kept))

    def _unindex(self, outcome: Outcome) -> None:
        """Let an outcome be found by its idempotency key no more."""
        if outcome.key is not None:
            key, made_with = key_of(outcome.ref), made_with_of(outcome.ref, outcome.key)
            others = tuple(other for other in self._by_key.pop(made_with) if other != key)
            if others:
                self._by_key[made_with] = others


def _recorded(kept: bytes) -> float:
    recorded: float = _HEAD.unpack_from(kept)[0]
    return recorded


def _unpacked(key: str, kept: bytes) -> Outcome:
    status, via, settled_at, made_with, resource, confirmed = unpack_any(kept[_HEAD.size :])
    return Outcome(
        ref=ref_of(key),
        status=OperationStatus(status),
        resource=resource,
        via=via,
        settled_at=float(settled_at),
        key=made_with,
        confirmed=confirmed,
    )


def _erased(key: str, kept: bytes) -> bytes:
    """Return a kept outcome with nothing but how it ended."""
    return kept[: _HEAD.size] + packed(evolve(_unpacked(key, kept), key=None, resource={}))
