"""A store without a listener, as a console beside it looks at it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.errors import StoreError
from webhooks.console.views import event_row
from webhooks.console.watched import Readiness
from webhooks.delivery_watch import newest_rows
from webhooks.store.paging import EventFilter, EventFollower

if TYPE_CHECKING:
    from webhooks.delivery_watch import DeliveryFilter
    from webhooks.refusals import Refusal, Refusals
    from webhooks.store.base import Store


class StoreWatch:
    """See the events of a store as they arrive, whichever process takes them; the methods are those of `Watched`.

    Args:
        store: The store.
        refusals: The refusals of the port that serves the console.

    Attributes:
        store: As given.
        sees_refusals: False, as no store keeps refused deliveries.
        interval: Seconds between two looks at the store.
    """

    sees_refusals = False
    interval = 0.25

    def __init__(self, store: Store, refusals: Refusals) -> None:
        self.store = store
        self._refusals = refusals
        self._follower: EventFollower | None = None

    async def deliveries(self, filters: Sequence[DeliveryFilter]) -> Mapping[str, Any]:
        """Return the events since the last call."""
        if self._follower is None:
            follower = EventFollower(self.store, EventFilter())
            await follower.start(0)
            self._follower = follower
        rows = [event_row(stored) for stored in await self._follower.new_events()]
        shown = []
        for which in filters:
            newest, left_out = newest_rows(row for row in rows if which.fits(row["event"], row["uid"], row["verdict"]))
            shown.append({"rows": newest, "left_out": left_out})
        return {"counts": dict(Counter(row["verdict"] for row in rows)), "shown": shown}

    def rest(self) -> None:
        """Forget which events were seen."""
        self._follower = None

    async def readiness(self) -> Readiness:
        """Return whether the store can be read."""
        try:
            await self.store.list_events(limit=1)  # a probe of its writes would change it
        except StoreError as problem:
            return Readiness(ready=False, reasons=(str(problem),))
        return Readiness(ready=True)

    async def refused(self) -> Sequence[Refusal]:
        """Return the requests that the console refused, newest first."""
        return self._refusals.newest_first()

    def worker_states(self) -> None:
        """Return None: there are no workers."""
