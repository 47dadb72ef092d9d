"""The operations a process knows as unsettled, with when each was registered."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from rewards_core.operations import OperationRef

_SWEEPS_PER_RETENTION = 10
_SHARE_THAT_LEAVES = 100


class PendingShelf:
    """Pending operations by scope and kind: there may be very many of few kinds.

    Args:
        max_operations: About so many; the oldest leave first.
        retention: Seconds that each stays.
        now: Unix time.
    """

    def __init__(self, max_operations: int, retention: float, now: float) -> None:
        self._max = max_operations
        self._retention = retention
        self._next_sweep = now + retention / _SWEEPS_PER_RETENTION
        self._since: dict[tuple[str, str], dict[str, float]] = {}

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self._since.values())

    def add(self, ref: OperationRef, now: float) -> None:
        """Register an operation; one that is registered stays as it is."""
        shelf = self._since.get((ref.scope, ref.kind))
        if shelf is None:
            shelf = self._since[ref.scope, ref.kind] = {}
        shelf.setdefault(ref.uid, now)

    def discard(self, ref: OperationRef) -> None:
        """Remove an operation if it is there."""
        shelf = self._since.get((ref.scope, ref.kind))
        if shelf is not None:
            shelf.pop(ref.uid, None)

    def of(self, scope: str) -> Iterator[OperationRef | None]:
        """Iterate over a scope's operations while others come and go; None stands for one that has gone meanwhile."""
        for (of_scope, kind), shelf in list(self._since.items()):
            if of_scope == scope:
                for uid in list(shelf):
                    yield OperationRef(scope, kind, uid) if uid in shelf else None

    def trim(self, now: float) -> None:
        """Remove what is too old, now and then, and what is too much."""
        if now >= self._next_sweep:
            self._next_sweep = now + self._retention / _SWEEPS_PER_RETENTION
            self.purge(now - self._retention)
        while len(self) >= self._max:
            fullest = max(self._since.values(), key=len)
            for uid in list(islice(fullest, self._max // _SHARE_THAT_LEAVES + 1)):
                del fullest[uid]

    def purge(self, before: float) -> None:
        """Remove what was registered before a moment."""
        for shelf in self._since.values():
            for uid in [uid for uid, since in shelf.items() if since < before]:
                del shelf[uid]

    def clear(self) -> None:
        """Remove everything."""
        self._since.clear()
