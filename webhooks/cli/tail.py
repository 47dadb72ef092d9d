"""`webhook-listener tail`: show events as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from attrs import evolve

from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output
from webhooks.cli.ending import run
from webhooks.cli.event_list import EventFilter, event_cells, event_record, why
from webhooks.cli.lists import pages, time_column
from webhooks.cli.options import (
    DEFAULT_STORE,
    LARGEST_LIST,
    EventOption,
    EventScopeOption,
    EventUidOption,
    StateOption,
    StoreOption,
)
from webhooks.cli.standing import EventStanding, with_standings
from webhooks.cli.stores import opened
from webhooks.store.base import Store
from webhooks.store.records import StoredEvent

_LOOK_EVERY = 0.25
_OVERLAP = 100
"""Events that are looked at again: an id may come to light after a higher one."""
_REMEMBERED = 20 * _OVERLAP
_COLUMNS = (
    Column(heading="id", right=True, wide=4),
    evolve(time_column("received"), wide=19),
    Column(heading="handlers"),
    Column(heading="operation"),
    Column(heading="event", least=12, wide=16),
    Column(heading="uid", wide=12),
    Column(heading=""),
)
"""As in `events list`, but as wide as they usually are, and with a scope, if there is an unusual one, at the end."""


def tail(
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[
        int, typer.Option("--last", help="Begin with so many events that came before.", min=0, max=LARGEST_LIST)
    ] = 10,
    count: Annotated[int | None, typer.Option(help="End after so many events.", min=1)] = None,
    event: EventOption = None,
    uid: EventUidOption = None,
    state: StateOption = None,
    scope: EventScopeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Show events as they come; ctrl-c ends.

    Each is shown once, as it stands when it is seen first; with --state, once it is in that state.

    Example: webhook-listener tail --event reward.allocated | jq .uid
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=state, scope=scope)

    async def work() -> None:
        left = count
        async with opened(store) as inbox:
            follower = _Follower(inbox, which)
            batch = await follower.begin(last)
            headed = False
            if not batch and not output.as_json:
                output.note("No event to show yet: each that comes and fits will stand here. Ctrl-c ends.")
            while not output.deserted():
                for shown in await with_standings(inbox, batch):
                    if output.as_json:
                        output.record(event_record(shown))
                    else:
                        output.listing(_COLUMNS, [(_cells(shown), why(shown.stored))], headed=not headed)
                        headed = True
                    left = None if left is None else left - 1
                    if left == 0:
                        return
                await asyncio.sleep(_LOOK_EVERY)
                batch = await follower.unseen()

    run(work, broken_off=Exit.OK)


def _cells(shown: EventStanding) -> list[str]:
    cells = event_cells(shown)
    return [cells["scope"] if column.heading == "" else cells[column.heading] for column in _COLUMNS]


class _Follower:
    """Tell which events are new: those with ids above a floor that were not seen; below it are old ones, never looked at.

    The store chooses by state and uid, for which it has indexes; name and scope are looked at here: where the store chose by them
    it would read every event at each look that finds none.
    """

    def __init__(self, store: Store, which: EventFilter) -> None:
        self._store = store
        self._which = which
        self._seen: set[int] = set()
        self._floor = -1

    async def begin(self, last: int) -> list[StoredEvent]:
        """Return so many events that came before, oldest first; none that came before is new from now on."""
        wanted = max(last, _OVERLAP)
        before = [stored async for stored in pages(self._page, lambda stored: stored.id, limit=wanted)]
        if len(before) == wanted:
            self._floor = before[-1].id
        self._remember(before)
        if all(map(self._fits, before)):
            return before[:last][::-1]
        shown = await self._store.list_events(**self._which.conditions, limit=last)
        return [stored for stored in reversed(shown) if stored.id in self._seen or stored.id <= self._floor]

    async def unseen(self) -> list[StoredEvent]:
        """Return the events that came to light since the last look, oldest first."""
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
