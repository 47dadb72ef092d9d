"""How commands choose events, and show each with the status of the operations that it names."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output
from webhooks.cli.lists import iso_time, scope_column, time_column, write_list
from webhooks.cli.stores import open_existing
from webhooks.store.paging import EventFilter, pages
from webhooks.store.records import EventState
from webhooks.store.standings import ListedEvent, reason_of, with_operations

if TYPE_CHECKING:
    from webhooks.store.urls import StoreUrl

_NO_EVENTS = (
    "No events yet. `webhook-listener serve` receives them into this store; `webhook-listener trigger` sends it a sample."
)
_NO_DEAD_LETTERS = "No dead letters: every event could be read, and no handler has given up on one."


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
