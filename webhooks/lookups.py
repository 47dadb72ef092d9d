"""Who waits for an operation of which only the idempotency key is known, and what one listing finds for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from rewards_core.operations import KeyedRequest, Operation, OperationRef
from webhooks.polling import LOOK_UP
from webhooks.watchers import Waiter

if TYPE_CHECKING:
    from rewards_core.errors import OutcomeUnknown


def look_up_of(request: KeyedRequest) -> OperationRef:
    """Return the name under which the poller lists the operations that a request may be among."""
    return OperationRef(request.scope, LOOK_UP + request.kind, request.owner)


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


@define(eq=False, weakref_slot=False)
class KeyWaiter(Waiter):
    """One caller inside `wait` who knows the request alone; the future's result is None once `found` is set or time is over."""

    request: KeyedRequest = field(kw_only=True)
    found: Operation | OperationRef | None = None
    answered: bool = False

    def find(self, found: Operation | OperationRef) -> None:
        """Wake the caller with the operation, or with the ref of one whose outcome is in the store."""
        self.found = self.found or found
        if not self.future.done():
            self.future.set_result(None)

    def note(self, seen: Operation | None, error: Exception | None, /) -> None:
        """Keep what the last look-up met for the caller's `CompletionTimeout`."""
        self.answered = self.answered or error is None
        super().note(seen, error)


class LookUps:
    """Those who wait by key: by the owner whose operations are listed for all of them, and by the key that news may carry."""

    def __init__(self) -> None:
        self._by_owner: dict[tuple[str, str], dict[KeyWaiter, None]] = {}
        self._by_key: dict[tuple[str, str], dict[KeyWaiter, None]] = {}

    def __iter__(self) -> Iterator[KeyWaiter]:
        return (waiter for waiters in list(self._by_owner.values()) for waiter in list(waiters))

    def has(self, kind: str, owner: str) -> bool:
        """Whether anybody waits for what such a look-up may find."""
        return (kind, owner) in self._by_owner

    def of(self, kind: str, owner: str) -> Sequence[KeyWaiter]:
        """Return those who wait for what a look-up finds."""
        return list(self._by_owner.get((kind, owner), ()))

    def with_key(self, kind: str, key: str | None) -> Sequence[KeyWaiter]:
        """Return those who wait for the operation of a kind with a key."""
        return () if key is None else list(self._by_key.get((kind, key), ()))

    def add(self, waiter: KeyWaiter) -> bool:
        """Add one who waits; return whether it is the first for its look-up."""
        self._by_key.setdefault((waiter.request.kind, waiter.request.key), {})[waiter] = None
        waiters = self._by_owner.setdefault((waiter.ref.kind, waiter.ref.uid), {})
        waiters[waiter] = None
        return len(waiters) == 1

    def remove(self, waiter: KeyWaiter) -> bool:
        """Remove one who waits; return whether it was the last for its look-up."""
        _take_out(self._by_key, (waiter.request.kind, waiter.request.key), waiter)
        return _take_out(self._by_owner, (waiter.ref.kind, waiter.ref.uid), waiter)


def _take_out(waiters: dict[tuple[str, str], dict[KeyWaiter, None]], key: tuple[str, str], waiter: KeyWaiter) -> bool:
    """Remove one who waits; return whether it was the last under the key."""
    del waiters[key][waiter]
    if waiters[key]:
        return False
    del waiters[key]
    return True
