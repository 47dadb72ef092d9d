"""Keys with the moment at which each may be claimed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", int, str)

_SPARE = 1_000


class DueQueue(Generic[Key]):
    """Hand out keys once they are due, the longest due first; handing out is a lease, not a removal."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Any]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def __iter__(self) -> Iterator[Key]:
        return iter(self._due)

    def put(self, key: Key, due_at: float) -> None:
        """Add a key, or move it to another moment."""
        self._due[key] = due_at
        heapq.heappush(self._heap, (due_at, key))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [(due_at, key) for key, due_at in self._due.items()]
            heapq.heapify(self._heap)

    def discard(self, key: Key) -> None:
        """Remove a key if it is there."""
        self._due.pop(key, None)

    def due_at(self, key: Key) -> float | None:
        """Return when a key may be claimed, None if it is not there."""
        return self._due.get(key)

    def head(self) -> tuple[float, Key] | None:
        """Return the longest due key and its moment, None if there is no key."""
        heap = self._heap
        while heap:
            due_at, key = heap[0]
            if self._due.get(key) == due_at:
                return due_at, key
            heapq.heappop(heap)
        return None

    def claim(self, now: float, lease: float) -> Key | None:
        """Lease the longest due key until `now + lease`; None if none is due."""
        head = self.head()
        if head is None or head[0] > now:
            return None
        heapq.heapreplace(self._heap, (now + lease, head[1]))
        self._due[head[1]] = now + lease
        return head[1]
