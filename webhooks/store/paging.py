"""Read a store page by page, and follow the events that arrive."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

if TYPE_CHECKING:
    from webhooks.store.base import Store
    from webhooks.store.records import EventState, StoredEvent

T = TypeVar("T")
Cursor = TypeVar("Cursor")

PAGE_SIZE = 500
_OVERLAP = 100
"""Events that are read again at each poll: an id may become visible after a higher one."""
_REMEMBERED = 20 * _OVERLAP


async def pages(
    fetch: Callable[[Cursor | None, int], Awaitable[Sequence[T]]],
    cursor_of: Callable[[T], Cursor],
    *,
    limit: int | None = None,
    start: Cursor | None = None,
) -> AsyncIterator[T]:
    """Yield records page by page, up to a limit, so that no query holds up the store for long.

    `fetch` returns the records after a cursor (None: from the first one on), up to a number of them.
    """
    left = math.inf if limit is None else limit
    while left > 0 and (found := await fetch(start, int(min(left, PAGE_SIZE)))):
        for each in found:
            yield each
        start, left = cursor_of(found[-1]), left - len(found)


@frozen(kw_only=True)
class EventFilter:
    """Which events to show; None leaves a condition out."""

    event: str | None = None
    uid: str | None = None
    state: EventState | None = None
    scope: str | None = None

    @property
    def conditions(self) -> dict[str, Any]:
        """The arguments of `Store.list_events`."""
        return {"name": self.event, "uid": self.uid, "state": self.state, "scope": self.scope}


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
