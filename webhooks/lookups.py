"""Who waits for an operation of which only the idempotency key is known, and what one listing finds for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from vendor_http.operations import KeyedRequest, Operation, OperationRef
from webhooks.polling import LOOK_UP
from webhooks.watchers import Waiter, Watchers

if TYPE_CHECKING:
    from vendor_http.errors import OutcomeUnknown


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
        self._by_owner: Watchers[KeyWaiter] = Watchers()
        self._by_key: Watchers[KeyWaiter] = Watchers()

    def __iter__(self) -> Iterator[KeyWaiter]:
        return (waiter for kind, owner in self._by_owner for waiter in self.of(kind, owner))

    def has(self, kind: str, owner: str) -> bool:
        """Whether anybody waits for what such a look-up may find."""
        return self._by_owner.has(kind, owner)

    def of(self, kind: str, owner: str) -> Sequence[KeyWaiter]:
        """Return those who wait for what a look-up finds."""
        return self._by_owner.of(kind, owner)

    def with_key(self, kind: str, key: str | None) -> Sequence[KeyWaiter]:
        """Return those who wait for the operation of a kind with a key."""
        return () if key is None else self._by_key.of(kind, key)

    def add(self, waiter: KeyWaiter) -> bool:
        """Add one who waits; return whether it is the first for its look-up."""
        self._by_key.add(waiter.request.kind, waiter.request.key, waiter)
        return self._by_owner.add(waiter.ref.kind, waiter.ref.uid, waiter)

    def remove(self, waiter: KeyWaiter) -> bool:
        """Remove one who waits; return whether it was the last for its look-up."""
        self._by_key.remove(waiter.request.kind, waiter.request.key, waiter)
        return self._by_owner.remove(waiter.ref.kind, waiter.ref.uid, waiter)
