"""The outcomes of a `MemoryStore`, each one `bytes` under one str, for the reason that events are (see `memory_events`)."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve

from rewards_core.operations import OperationRef, OperationStatus
from webhooks.store.outcomes import pack_outcome, unpack
from webhooks.store.records import Outcome, StoredOutcome

_SEPARATOR = "\0"
_SLICE = 1_000
_TRIMS_PER_RETENTION = 100

_HEAD = struct.Struct("<dQ")
"""When it was recorded, in the event loop's time, and its id; the packed outcome follows."""


def key_of(ref: OperationRef) -> str:
    """Return a ref as one str."""
    return f"{ref.scope}{_SEPARATOR}{ref.kind}{_SEPARATOR}{ref.uid}"


def idempotency_of(ref: OperationRef, idempotency_key: str) -> str:
    """Return scope, kind and idempotency key as one str."""
    return f"{ref.scope}{_SEPARATOR}{ref.kind}{_SEPARATOR}{idempotency_key}"


class OutcomeTable:
    """The first outcomes and their conflicts, by the keys of their operations; `retention` is in seconds."""

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
        """All conflicts so far, including removed ones."""

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def get(self, key: str) -> Outcome | None:
        kept = self._kept.get(key)
        return None if kept is None else _unpacked(key, kept)

    def is_done(self, ref: OperationRef) -> bool:
        known = self.get(key_of(ref))
        return known is not None and known.status is OperationStatus.DONE

    def by_key(self, idempotency: str) -> Sequence[Outcome]:
        """Return the outcomes of the operations with an idempotency key."""
        return [_unpacked(key, self._kept[key]) for key in self._by_key.get(idempotency, ())]

    def newest_first(self) -> Iterator[StoredOutcome]:
        for key, kept in reversed(self._kept.items()):
            place: int = _HEAD.unpack_from(kept)[1]
            yield StoredOutcome(id=place, outcome=_unpacked(key, kept), conflicts=tuple(self.conflicts(key)))

    def add(self, key: str, outcome: bytes, now: float, idempotency: str | None) -> None:
        """Keep the packed first outcome of an operation."""
        if len(self._order) >= self._max or now >= self._next_trim:
            self._make_room(now)
        self._order.append(key)
        self._kept[key] = _HEAD.pack(now, self._next_id) + outcome
        self._next_id += 1
        self._index(key, idempotency)

    def replace(self, key: str, outcome: bytes, idempotency: str | None) -> None:
        """Replace a packed outcome; index it by an idempotency key that it did not have before."""
        self._kept[key] = self._kept[key][: _HEAD.size] + outcome
        self._index(key, idempotency)

    def conflicts(self, key: str) -> Sequence[Outcome]:
        return tuple(_unpacked(key, kept) for kept in self._conflicts.get(key, ()))

    def add_conflict(self, key: str, outcome: bytes) -> None:
        self._conflicts[key] = (*self._conflicts.get(key, ()), self._kept[key][: _HEAD.size] + outcome)
        self.conflict_count += 1

    def forget(self, mentioned: Callable[[Mapping[str, Any]], bool]) -> int:
        """Erase the resources and idempotency keys of outcomes that mention a user; return how many there were."""
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
        order, before = self._order, len(self._order)
        while order and _recorded(self._kept[order[0]]) <= until and (limit is None or before - len(order) < limit):
            self._drop(order.popleft())
        return before - len(order)

    def clear(self) -> None:
        for held in (self._kept, self._order, self._conflicts, self._by_key):
            held.clear()

    def _index(self, key: str, idempotency: str | None) -> None:
        if idempotency is not None:
            self._by_key[idempotency] = (*self._by_key.get(idempotency, ()), key)

    def _make_room(self, now: float) -> None:
        """Remove old outcomes, in slices that do not delay deliveries."""
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
        if outcome.key is not None:
            key, idempotency = key_of(outcome.ref), idempotency_of(outcome.ref, outcome.key)
            others = tuple(other for other in self._by_key.pop(idempotency) if other != key)
            if others:
                self._by_key[idempotency] = others


def _recorded(kept: bytes) -> float:
    recorded: float = _HEAD.unpack_from(kept)[0]
    return recorded


def _unpacked(key: str, kept: bytes) -> Outcome:
    status, via, settled_at, idempotency, resource, confirmed = unpack(kept[_HEAD.size :])
    return Outcome(
        ref=OperationRef(*key.split(_SEPARATOR, 2)),
        status=OperationStatus(status),
        resource=resource,
        via=via,
        settled_at=float(settled_at),
        key=idempotency,
        confirmed=confirmed,
    )


def _erased(key: str, kept: bytes) -> bytes:
    """Return a packed outcome without its resource and key."""
    return kept[: _HEAD.size] + pack_outcome(evolve(_unpacked(key, kept), key=None, resource={}))
