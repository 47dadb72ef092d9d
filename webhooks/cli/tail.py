"""`webhook-listener tail`: show events as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, cell
from webhooks.cli.ending import run
from webhooks.cli.event_list import event_cells, event_record, why
from webhooks.cli.lists import pages
from webhooks.cli.options import DEFAULT_STORE, LARGEST_LIST, StoreOption
from webhooks.cli.stores import opened
from webhooks.store.base import Store
from webhooks.store.records import StoredEvent

_LOOK_EVERY = 0.25
_OVERLAP = 100
"""Events that are looked at again: an id may come to light after a higher one."""
_REMEMBERED = 20 * _OVERLAP


def tail(
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[
        int, typer.Option("--last", help="Begin with so many events that came before.", min=0, max=LARGEST_LIST)
    ] = 10,
    count: Annotated[int | None, typer.Option(help="End after so many events.", min=1)] = None,
    as_json: JsonOption = None,
) -> None:
    """Show events as they come; ctrl-c ends.

    Example: webhook-listener tail | jq .uid
    """
    output = Output(as_json)

    async def work() -> None:
        left = count
        async with opened(store) as inbox:
            follower = _Follower(inbox)
            batch = await follower.begin(last)
            while not output.deserted():
                for stored in batch:
                    output.record(event_record(stored), text=_line(stored))
                    left = None if left is None else left - 1
                    if left == 0:
                        return
                await asyncio.sleep(_LOOK_EVERY)
                batch = await follower.unseen()

    run(work, broken_off=Exit.OK)


def _line(stored: StoredEvent) -> str:
    return "  ".join(cell(each) for each in [*event_cells(stored).values(), why(stored)] if each)


class _Follower:
    """Tell which events are new: those with ids above a floor that were not seen; below it are old ones, never looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: set[int] = set()
        self._floor = -1

    async def begin(self, last: int) -> list[StoredEvent]:
        """Return so many events that came before, oldest first; none that came before is new from now on."""
        wanted = max(last, _OVERLAP)
        before = [stored async for stored in pages(self._page, lambda stored: stored.id, limit=wanted)]
        if len(before) == wanted:
            self._floor = before[-1].id
        self._remember(before)
        return before[:last][::-1]

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
        return found[::-1]

    async def _page(self, before_id: int | None, limit: int) -> Sequence[StoredEvent]:
        return await self._store.list_events(before_id=before_id, limit=limit)

    def _remember(self, some: Sequence[StoredEvent]) -> None:
        self._seen.update(stored.id for stored in some)
        forgotten = sorted(self._seen)[:-_REMEMBERED]
        self._seen.difference_update(forgotten)
        self._floor = max([self._floor, *forgotten])
