"""How commands choose events, and show each with the status of the operations that it names."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output
from webhooks.cli.lists import iso_time, pages, scope_column, time_column, write_list
from webhooks.cli.stores import open_existing
from webhooks.store.queries import operations_of
from webhooks.store.records import EventState, StoredEvent

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.base import Store
    from webhooks.store.records import Outcome, PendingOperation
    from webhooks.store.urls import StoreUrl

_NO_EVENTS = (
    "No events yet. `webhook-listener serve` receives them into this store; `webhook-listener trigger` sends it a sample."
)
_NO_DEAD_LETTERS = "No dead letters: every event could be read, and no handler has given up on one."


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
    known = await _standings(store, [ref for stored in events for ref in operations_of(stored.event)])
    return [ListedEvent(stored=stored, operations=[known[ref] for ref in operations_of(stored.event)]) for stored in events]


async def _standings(store: Store, refs: Iterable[OperationRef]) -> Mapping[OperationRef, OperationStanding]:
    wanted = list(dict.fromkeys(refs))
    pending = {one.ref: one for one in await store.pending(wanted)}  # first: what settles in between then counts as settled
    outcomes = {one.ref: one for one in await store.outcomes(wanted)}
    return {ref: OperationStanding(ref=ref, outcome=outcomes.get(ref), pending=pending.get(ref)) for ref in wanted}


@frozen(kw_only=True)
class EventFilter:
    """Which events a command shows; None leaves a condition out."""

    event: str | None = None
    uid: str | None = None
    state: EventState | None = None
    scope: str | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """The arguments of `Store.list_events`."""
        return {"name": self.event, "uid": self.uid, "state": self.state, "scope": self.scope}


def event_record(listed: ListedEvent) -> dict[str, Any]:
    """Return the JSON of an event; `state` repeats `handlers` under the name of the option `--state`."""
    stored, event = listed.stored, listed.stored.event
    return {
        "id": stored.id,
        "received_at": iso_time(stored.received_at),
        "state": str(stored.state),
        "handlers": str(stored.state),
        "operation": listed.operation_status,
        "operations": [{"kind": one.ref.kind, "uid": one.ref.uid, "status": one.status} for one in listed.operations],
        "scope": event.scope,
        "name": event.name,
        "kind": None if event.ref is None else event.ref.kind,
        "uid": None if event.ref is None else event.ref.uid,
        "occurred_at": event.occurred_at,
        "correlation_id": event.correlation_id,
        "attempt": event.attempt,
        "why": reason_of(stored) or None,
    }


def _uid_cell(listed: ListedEvent) -> str:
    ref, more = listed.stored.event.ref, len(listed.operations) - 1
    return "" if ref is None else f"{ref.uid} and {more} more" if more > 0 else ref.uid


EVENT_COLUMNS = (
    Column(heading="id", cell=lambda listed: str(listed.stored.id), right=True),
    time_column("received", lambda listed: listed.stored.received_at),
    Column(heading="handlers", cell=lambda listed: str(listed.stored.state)),
    Column(heading="operation", cell=lambda listed: listed.operation_cell),
    scope_column(lambda listed: listed.stored.event.scope),
    Column(heading="event", cell=lambda listed: listed.stored.event.name, min_cut=12),
    Column(heading="uid", cell=_uid_cell),
)


def body_record(body: bytes | None) -> dict[str, str | None]:
    """Return the JSON of a body: as text, as base64 if it is not UTF-8, or null if it is missing or was erased."""
    if body is None:
        return {"body": None}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def reason_of(stored: StoredEvent) -> str:
    """Return why an event could not be read, or the errors of its handlers; empty if there are none."""
    if stored.event.problem:
        return stored.event.problem
    return "; ".join(f"{job.handler}: {job.reason}" for job in stored.jobs if job.reason)


async def write_events(
    url: StoreUrl, output: Output, which: EventFilter, *, limit: int, before: int | None = None, dead: bool = False
) -> None:
    """List events, newest first: those with ids lower than `before`; `dead` for a list of dead letters."""
    async with open_existing(url) as inbox:

        async def fetch(last: int | None, limit: int) -> Sequence[ListedEvent]:
            return await with_operations(inbox, await inbox.list_events(**which.conditions, before_id=last, limit=limit))

        await write_list(
            output,
            pages(fetch, lambda listed: listed.stored.id, limit=limit, start=before),
            columns=EVENT_COLUMNS if which.state is None else [one for one in EVENT_COLUMNS if one.heading != "handlers"],
            record=event_record,
            note=lambda listed: reason_of(listed.stored),
            noun="dead letter" if dead else "event",
            empty=_NO_DEAD_LETTERS if dead else _NO_EVENTS,
            filters={
                "--event": which.event,
                "--uid": which.uid,
                "--state": None if dead else which.state,
                "--scope": which.scope,
                "--before": before,
            },
            find_any=lambda: inbox.list_events(state=EventState.DEAD if dead else None, limit=1),
        )
