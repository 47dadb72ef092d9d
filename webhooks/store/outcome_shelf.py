"""The outcomes a process keeps in memory, within bounds.

An outcome is kept as one `bytes` under one str, for the reason an event is (see `shelf`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards_core.operations import OperationRef, OperationStatus
from webhooks.store.outcomes import pack_any, unpack_any
from webhooks.store.records import Outcome, Via

_BETWEEN = "\0"
_SLICE = 1_000
_TRIMS_PER_RETENTION = 100


def key_of(ref: OperationRef) -> str:
    """Return an operation's ref as one str."""
    return f"{ref.scope}{_BETWEEN}{ref.kind}{_BETWEEN}{ref.uid}"


def made_with_of(ref: OperationRef, idempotency_key: str) -> str:
    """Return as one str what the operations made with an idempotency key have in common."""
    return f"{ref.scope}{_BETWEEN}{ref.kind}{_BETWEEN}{idempotency_key}"


def ref_of(key: str) -> OperationRef:
    """Return the ref that `key_of` has made one str of."""
    return OperationRef(*key.split(_BETWEEN, 2))


def packed(status: OperationStatus, via: Via, settled_at: float, key: str | None, resource: Mapping[str, Any]) -> bytes:
    """Return an outcome as it is kept.

    Raises:
        TypeError: the resource holds what no JSON can hold.
    """
    return pack_any((status.value, via, settled_at, key, resource))


class OutcomeShelf:
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

    def add(self, key: str, outcome: bytes, now: float, made_with: str | None) -> None:
        """Keep the first outcome of an operation, packed."""
        if len(self._order) >= self._max or now >= self._next_trim:
            self._make_room(now)
        self._order.append(key)
        self.replace(key, outcome, made_with)

    def replace(self, key: str, outcome: bytes, made_with: str | None) -> None:
        """Keep an outcome in the place of one that was not found by an idempotency key."""
        self._kept[key] = outcome
        if made_with is not None:
            self._by_key[made_with] = (*self._by_key.get(made_with, ()), key)

    def conflicts(self, key: str) -> Sequence[Outcome]:
        """Return the later outcomes that differ from the first, oldest first."""
        return tuple(_unpacked(key, kept) for kept in self._conflicts.get(key, ()))

    def add_conflict(self, key: str, outcome: bytes) -> None:
        """Keep a later outcome that differs from the first, packed."""
        self._conflicts[key] = (*self._conflicts.get(key, ()), outcome)
        self.conflict_count += 1

    def forget(self, mentioned: Callable[[Mapping[str, Any]], bool]) -> int:
        """Erase resources and idempotency keys of the outcomes that mention a user; return how many outcomes there were."""
        doomed = [key for key, kept in self._kept.items() if mentioned(_unpacked(key, kept).resource)]
        for key in doomed:
            outcome = _unpacked(key, self._kept[key])
            self._unindex(outcome)
            self._kept[key] = packed(outcome.status, outcome.via, outcome.settled_at, None, {})
        for key, conflicts in self._conflicts.items():
            kept = tuple(_unpacked(key, one) for one in conflicts)
            self._conflicts[key] = tuple(
                packed(one.status, one.via, one.settled_at, None, {}) if mentioned(one.resource) else same
                for one, same in zip(kept, conflicts, strict=True)
            )
        return len(doomed)

    def purge(self, before: float) -> int:
        """Remove what settled before a moment, with its conflicts; return how many outcomes there were."""
        doomed = [key for key, kept in self._kept.items() if _unpacked(key, kept).settled_at < before]
        for key in doomed:
            self._drop(key)
        if doomed:  # one that settles again must not leave in the place of the one that was removed
            self._order = deque(key for key in self._order if key in self._kept)
        return len(doomed)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._order, self._conflicts, self._by_key):
            held.clear()

    def _make_room(self, now: float) -> None:
        """Let the oldest go, so much at a time that no delivery waits for it."""
        order = self._order
        while len(order) >= self._max:
            self._drop(order.popleft())
        self._next_trim = now + self._retention / _TRIMS_PER_RETENTION
        for _ in range(_SLICE):
            if not order or _unpacked(order[0], self._kept[order[0]]).settled_at >= now - self._retention:
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


def _unpacked(key: str, kept: bytes) -> Outcome:
    status, via, settled_at, made_with, resource = unpack_any(kept)
    return Outcome(
        ref=ref_of(key), status=OperationStatus(status), resource=resource, via=via, settled_at=float(settled_at), key=made_with
    )
