"""Who waits for which operation, and what each gets when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from attrs import define, frozen

if TYPE_CHECKING:
    import asyncio

    from rewards_core.operations import Operation, OperationRef
    from webhooks.poller import Poller
    from webhooks.store.base import Via

_FINEST = 1e-9
"""Seconds by which a loop may call a timer too early."""


@frozen
class Settled:
    """An outcome on its way to those who wait for it."""

    operation: Operation
    via: Via
    settled_at: float


Ending = Settled | Exception


class Watcher(Protocol):
    """One that waits."""

    def end(self, kind: str, uid: str, ending: Ending, /) -> None:
        """Take how the operation ended, or why nobody can wait for it any more."""
        ...

    def note(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Take what a poll saw or met that settled nothing."""
        ...


@define(eq=False, weakref_slot=False)
class Waiter:
    """One caller inside `wait`; the future's result is None when its time is over.

    It is its own timer's callback: there may be very many of them.
    """

    future: asyncio.Future[Ending | None]
    ref: OperationRef
    deadline: float
    poller: Poller
    last_seen: Operation | None = None
    last_error: Exception | None = None
    timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        """Have the operation asked about shortly before the deadline, and tell the caller when it has come."""
        loop = self.future.get_loop()
        if loop.time() >= self.deadline - _FINEST:
            if not self.future.done():
                self.future.set_result(None)
            return
        if not self.future.done():
            self.poller.hurry_before_deadline(self.ref.kind, self.ref.uid)
        self.timer = loop.call_at(self.deadline, self)

    def end(self, _kind: str, _uid: str, ending: Ending, /) -> None:
        """Wake the caller."""
        if not self.future.done():
            self.future.set_result(ending)

    def note(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Keep it for the caller's `CompletionTimeout`."""
        if seen is not None:
            self.last_seen, self.last_error = seen, None
        else:
            self.last_error = error

    def disarm(self) -> None:
        """Cancel the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Standing:
    """Keeps an operation polled though no caller waits for it."""

    def end(self, _kind: str, _uid: str, _ending: Ending, /) -> None:
        """Do nothing: the outcome is in the store."""

    def note(self, _seen: Operation | None, _error: Exception | None, /) -> None:
        """Do nothing."""


class Watchers:
    """Operations with those who wait for each; one that a single one waits for costs one dictionary entry."""

    def __init__(self) -> None:
        self._shelves: dict[str, dict[str, Watcher | tuple[Watcher, ...]]] = {}

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self._shelves.values())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((kind, uid) for kind, shelf in list(self._shelves.items()) for uid in list(shelf))

    def has(self, kind: str, uid: str) -> bool:
        """Whether anybody waits for the operation."""
        shelf = self._shelves.get(kind)
        return shelf is not None and uid in shelf

    def of(self, kind: str, uid: str) -> tuple[Watcher, ...]:
        """Return those who wait for the operation."""
        shelf = self._shelves.get(kind)
        return _several(shelf.get(uid, ())) if shelf is not None else ()

    def add(self, kind: str, uid: str, watcher: Watcher) -> bool:
        """Add one who waits, once; return whether it is the first for this operation."""
        shelf = self._shelves.get(kind)
        if shelf is None:
            shelf = self._shelves[kind] = {}
        known = shelf.setdefault(uid, watcher)
        if known is watcher:
            return True
        several = _several(known)
        if watcher not in several:
            shelf[uid] = (*several, watcher)
        return False

    def remove(self, kind: str, uid: str, watcher: Watcher) -> bool:
        """Remove one who waits; return whether it was the last for this operation."""
        shelf = self._shelves.get(kind, {})
        known = shelf.get(uid)
        if known is None:
            return False
        left = tuple(other for other in _several(known) if other is not watcher)
        if left:
            shelf[uid] = left[0] if len(left) == 1 else left
            return False
        del shelf[uid]
        return True

    def take(self, kind: str, uid: str) -> tuple[Watcher, ...]:
        """Remove all who wait for the operation and return them."""
        shelf = self._shelves.get(kind)
        return _several(shelf.pop(uid, ())) if shelf is not None else ()


def _several(known: Watcher | tuple[Watcher, ...]) -> tuple[Watcher, ...]:
    return known if isinstance(known, tuple) else (known,)
