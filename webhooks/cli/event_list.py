"""How commands choose events, and show them one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output
from webhooks.cli.lists import Nothing, moment, pages, show, time_column, unusual, when
from webhooks.cli.standing import EventStanding, with_standings
from webhooks.cli.stores import opened
from webhooks.store.records import EventState, StoredEvent

EVENT_COLUMNS = (
    Column(heading="id", right=True),
    time_column("received"),
    Column(heading="handlers"),
    Column(heading="operation"),
    Column(heading="scope", least=8),
    Column(heading="event", least=12),
    Column(heading="uid"),
)
NO_EVENTS = (
    "No events yet. They come in while `webhook-listener serve` runs on this store; `webhook-listener trigger` sends it a sample."
)
NO_DEAD_LETTERS = "No dead letters: every event could be read, and no handler has given up on one."


@frozen(kw_only=True)
class EventFilter:
    """Which events a command means; None leaves a condition out."""

    event: str | None = None
    uid: str | None = None
    state: EventState | None = None
    scope: str | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """What `Store.list_events` takes."""
        return {"name": self.event, "uid": self.uid, "state": self.state, "scope": self.scope}

    @property
    def options(self) -> Mapping[str, object]:
        """The options by which a person gave them."""
        return {"--event": self.event, "--uid": self.uid, "--state": self.state, "--scope": self.scope}


def event_record(shown: EventStanding) -> dict[str, Any]:
    """Return what a program reads of an event; `state` is what `handlers` says, under the name by which it is asked for."""
    stored, event = shown.stored, shown.stored.event
    return {
        "id": stored.id,
        "received_at": moment(stored.received_at),
        "state": str(stored.state),
        "handlers": str(stored.state),
        "operation": shown.word,
        "operations": [{"kind": one.ref.kind, "uid": one.ref.uid, "status": one.word} for one in shown.operations],
        "scope": event.scope,
        "name": event.name,
        "kind": None if event.ref is None else event.ref.kind,
        "uid": None if event.ref is None else event.ref.uid,
        "occurred_at": event.occurred_at,
        "correlation_id": event.correlation_id,
        "attempt": event.attempt,
        "why": why(stored) or None,
    }


def event_cells(shown: EventStanding) -> dict[str, str]:
    """Return what a person reads of an event in a list."""
    stored, event = shown.stored, shown.stored.event
    more = len(shown.operations) - 1
    return {
        "id": str(stored.id),
        "received (UTC)": when(stored.received_at),
        "handlers": str(stored.state),
        "operation": shown.shown,
        "scope": unusual(event.scope),
        "event": event.name,
        "uid": "" if event.ref is None else f"{event.ref.uid} and {more} more" if more > 0 else event.ref.uid,
    }


def why(stored: StoredEvent) -> str:
    """Return why an event could not be read, or what its handlers met; nothing if all is well."""
    if stored.event.problem:
        return stored.event.problem
    return "; ".join(f"{job.handler}: {job.reason}" for job in stored.jobs if job.reason)


async def show_events(
    url: str, output: Output, which: EventFilter, *, limit: int, before: int | None = None, dead: bool = False
) -> None:
    """List the events that fit, newest first.

    Args:
        url: The store.
        output: Where to.
        which: The events that are meant.
        limit: At most so many.
        before: Only events with lower ids.
        dead: Whether a list of dead letters was asked for.
    """
    async with opened(url) as inbox:

        async def page(last: int | None, most: int) -> Sequence[EventStanding]:
            return await with_standings(inbox, await inbox.list_events(**which.conditions, before_id=last, limit=most))

        async def any_left() -> bool:
            return bool(await inbox.list_events(state=EventState.DEAD if dead else None, limit=1))

        await show(
            output,
            pages(page, lambda shown: shown.stored.id, limit=limit, start=before),
            columns=EVENT_COLUMNS if which.state is None else [one for one in EVENT_COLUMNS if one.heading != "handlers"],
            record=event_record,
            cells=event_cells,
            note=lambda shown: why(shown.stored),
            nothing=Nothing(
                one="dead letter" if dead else "event",
                none=NO_DEAD_LETTERS if dead else NO_EVENTS,
                filters={**which.options, **({"--state": None} if dead else {}), "--before": before},
                any_left=any_left,
            ),
        )
