"""Events with the status of the operations that they name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from webhooks.store.queries import operations_of

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.base import Store
    from webhooks.store.records import Outcome, PendingOperation, StoredEvent


@frozen(kw_only=True)
class OperationStanding:
    """The status of an operation, as far as the store knows.

    Attributes:
        ref: The operation.
        outcome: Its outcome, None before it settles.
        pending: Its polls, None if it is not polled.
    """

    ref: OperationRef
    outcome: Outcome | None = None
    pending: PendingOperation | None = None

    @property
    def status(self) -> str:
        """`done`, `failed`, `pending`, or `unknown` if it has neither an outcome nor polls."""
        if self.outcome is not None:
            return str(self.outcome.status)
        return "unknown" if self.pending is None else "pending"


@frozen(kw_only=True)
class ListedEvent:
    """An event with the operations that it names."""

    stored: StoredEvent
    operations: Sequence[OperationStanding]

    @property
    def operation_status(self) -> str | None:
        """The status of all its operations: `mixed` if they differ, None if it names none."""
        found = {one.status for one in self.operations}
        return None if not found else found.pop() if len(found) == 1 else "mixed"

    @property
    def operation_cell(self) -> str:
        """The same for people, with a count for each status if there are several operations."""
        found = [one.status.replace("unknown", "not known") for one in self.operations]
        if len(found) < 2:
            return found[0] if found else "none"
        return ", ".join(f"{found.count(status)} {status}" for status in dict.fromkeys(found))


async def with_operations(store: Store, events: Sequence[StoredEvent]) -> Sequence[ListedEvent]:
    """Return events with the status of their operations; two queries read the status of all of them."""
    known = await standings(store, [ref for stored in events for ref in operations_of(stored.event)])
    return [ListedEvent(stored=stored, operations=[known[ref] for ref in operations_of(stored.event)]) for stored in events]


async def standings(store: Store, refs: Iterable[OperationRef]) -> Mapping[OperationRef, OperationStanding]:
    """Return what a store knows of some operations."""
    wanted = list(dict.fromkeys(refs))
    pending = {one.ref: one for one in await store.pending(wanted)}  # first: what settles in between then counts as settled
    outcomes = {one.ref: one for one in await store.outcomes(wanted)}
    return {ref: OperationStanding(ref=ref, outcome=outcomes.get(ref), pending=pending.get(ref)) for ref in wanted}


def reason_of(stored: StoredEvent) -> str:
    """Return why an event could not be read, or the errors of its handlers; empty if there are none."""
    if stored.event.problem:
        return stored.event.problem
    return "; ".join(f"{job.handler}: {job.reason}" for job in stored.jobs if job.reason)
