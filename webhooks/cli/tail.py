"""`webhook-listener tail`: show events as they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from attrs import evolve

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output
from webhooks.cli.errors import run_command
from webhooks.cli.event_list import EVENT_COLUMNS, EventFilter, event_record, reason_of, with_operations
from webhooks.cli.lists import pages
from webhooks.cli.options import (
    DEFAULT_STORE,
    MAX_LIST,
    EventOption,
    EventScopeOption,
    EventUidOption,
    StateOption,
    StoreOption,
)
from webhooks.cli.stores import open_existing
from webhooks.store.base import Store
from webhooks.store.records import StoredEvent

_POLL_SECONDS = 0.25
_OVERLAP = 100
"""Events that are read again at each poll: an id may become visible after a higher one."""
_REMEMBERED = 20 * _OVERLAP
_WIDTHS = {"id": 4, "received (UTC)": 19, "event": 16, "uid": 12}
_NO_SCOPE = [evolve(column, min_width=_WIDTHS.get(column.heading, 0)) for column in EVENT_COLUMNS if column.heading != "scope"]
_COLUMNS = (*_NO_SCOPE, *(evolve(column, heading="") for column in EVENT_COLUMNS if column.heading == "scope"))
"""As in `events list`, but as wide as the cells usually are; the scope, mostly empty, stands last without a heading."""


def tail(
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[int, typer.Option("--last", help="Start with this many earlier events.", min=0, max=MAX_LIST)] = 10,
    count: Annotated[int | None, typer.Option(help="Exit after this many events.", min=1)] = None,
    event: EventOption = None,
    uid: EventUidOption = None,
    state: StateOption = None,
    scope: EventScopeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Show events as they arrive. Stop with ctrl-c.

    Each event is shown once, with its state at that moment; with --state, as soon as it reaches that state.

    Example: webhook-listener tail --event reward.allocated | jq .uid
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=state, scope=scope)

    async def work() -> None:
        left = count
        async with open_existing(store) as inbox:
            follower = EventFollower(inbox, which)
            batch = await follower.start(last)
            headed = False
            if not batch and not output.as_json:
                output.note("No events to show yet. New ones appear here. Stop with ctrl-c.")
            while not output.is_broken():
                for listed in await with_operations(inbox, batch):
                    if output.as_json:
                        output.record(event_record(listed))
                    else:
                        cells = [column.cell(listed) for column in _COLUMNS]
                        output.listing(_COLUMNS, [(cells, reason_of(listed.stored))], headed=not headed)
                        headed = True
                    left = None if left is None else left - 1
                    if left == 0:
                        return
                await asyncio.sleep(_POLL_SECONDS)
                batch = await follower.new_events()

    run_command(work, interrupt_code=Exit.OK)


class EventFollower:
    """Find new events: those not seen before with ids above a floor; events below it are old.

    The store filters by state and uid, which are indexed. Name and scope are filtered here: for them the store would read every
    event at each poll that finds none.
    """

    def __init__(self, store: Store, which: EventFilter) -> None:
        self._store = store
        self._which = which
        self._seen: set[int] = set()
        self._floor = -1

    async def start(self, last: int) -> list[StoredEvent]:
        """Return the last events, oldest first; only events that arrive later are new."""
        wanted = max(last, _OVERLAP)
        before = [stored async for stored in pages(self._page, lambda stored: stored.id, limit=wanted)]
        if len(before) == wanted:
            self._floor = before[-1].id
        self._remember(before)
        if all(map(self._fits, before)):
            return before[:last][::-1]
        shown = await self._store.list_events(**self._which.conditions, limit=last)
        return [stored for stored in reversed(shown) if stored.id in self._seen or stored.id <= self._floor]

    async def new_events(self) -> list[StoredEvent]:
        """Return the events since the last call, oldest first."""
        found: list[StoredEvent] = []
        page = await self._page(None, _OVERLAP)
        while page:
            fresh = [stored for stored in page if stored.id > self._floor and stored.id not in self._seen]
            found += fresh
            if len(fresh) < len(page):
                break
            page = await self._page(page[-1].id, _OVERLAP)
        self._remember(found)
        return [stored for stored in reversed(found) if self._fits(stored)]

    def _fits(self, stored: StoredEvent) -> bool:
        which, event = self._which, stored.event
        return which.event in {None, event.name} and which.scope in {None, event.scope}

    async def _page(self, before_id: int | None, limit: int) -> Sequence[StoredEvent]:
        return await self._store.list_events(uid=self._which.uid, state=self._which.state, before_id=before_id, limit=limit)

    def _remember(self, some: Sequence[StoredEvent]) -> None:
        self._seen.update(stored.id for stored in some)
        forgotten = sorted(self._seen)[:-_REMEMBERED]
        self._seen.difference_update(forgotten)
        self._floor = max([self._floor, *forgotten])
