"""How commands show events, one after the other."""

from __future__ import annotations

from typing import Any

from rewards_core.cli.output import Output
from webhooks.cli.lists import moment, pages, show, unusual, when
from webhooks.cli.stores import opened
from webhooks.store.records import EventState, StoredEvent


def event_record(stored: StoredEvent) -> dict[str, Any]:
    """Return what a program reads of an event."""
    event = stored.event
    return {
        "id": stored.id,
        "received_at": moment(stored.received_at),
        "state": str(stored.state),
        "scope": event.scope,
        "name": event.name,
        "kind": None if event.ref is None else event.ref.kind,
        "uid": None if event.ref is None else event.ref.uid,
        "occurred_at": event.occurred_at,
        "correlation_id": event.correlation_id,
        "attempt": event.attempt,
        "why": why(stored) or None,
    }


def event_cells(stored: StoredEvent) -> dict[str, str]:
    """Return what a person reads of an event in a list."""
    event = stored.event
    return {
        "id": str(stored.id),
        "received (UTC)": when(stored.received_at),
        "state": str(stored.state),
        "scope": unusual(event.scope),
        "name": event.name,
        "uid": "" if event.ref is None else event.ref.uid,
    }


def why(stored: StoredEvent) -> str:
    """Return why an event could not be read, or what its handlers met; nothing if all is well."""
    if stored.event.problem:
        return stored.event.problem
    return "; ".join(f"{job.handler}: {job.reason}" for job in stored.jobs if job.reason)


async def show_events(
    url: str,
    output: Output,
    what: str,
    *,
    state: EventState | None,
    limit: int,
    name: str | None = None,
    scope: str | None = None,
    before: int | None = None,
) -> None:
    """List the events that fit, newest first.

    Args:
        url: The store.
        output: Where to.
        what: What such events are called.
        state: Only events in this state.
        limit: At most so many.
        name: Only events of this name.
        scope: Only events of this scope.
        before: Only events with lower ids.
    """
    async with opened(url) as inbox:
        await show(
            output,
            what,
            pages(
                lambda last, most: inbox.list_events(state=state, name=name, scope=scope, before_id=last, limit=most),
                lambda stored: stored.id,
                limit=limit,
                start=before,
            ),
            record=event_record,
            cells=event_cells if state is None else _without_state,
            note=why,
            right=("id",),
        )


def _without_state(stored: StoredEvent) -> dict[str, str]:
    return event_cells(stored) | {"state": ""}
