"""Which handlers want which events, and for how long those that no receiver serves have not been served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.store.records import Subscription

_MAX_REMEMBERED = 1_000  # the vendor chooses the names of events


class Subscriptions:
    """The subscriptions of a store, and those of them that receivers serve."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], Subscription] = {}
        self._served: list[Subscription] = []
        self._wanted: dict[tuple[str, str], tuple[str, ...]] = {}
        self._unserved_since: dict[tuple[str, str], float] = {}

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._kept.values())

    def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Keep subscriptions and serve them; the newest patterns of a handler apply."""
        for one in subscriptions:
            self._kept[one.service, one.handler, one.scope] = one
            self._served.append(one)
            self._unserved_since.pop((one.job_name, one.scope), None)
        self._wanted.clear()

    def release(self, subscriptions: Sequence[Subscription], now: float) -> None:
        """Serve each once less."""
        for one in subscriptions:
            if one in self._served:
                self._served.remove(one)
            self.unserved_for(one.job_name, one.scope, now)

    def remove(self, service: str, handler: str) -> None:
        """Forget a handler's subscriptions."""
        self._kept = {key: one for key, one in self._kept.items() if key[:2] != (service, handler)}
        self._wanted.clear()

    def wanting(self, event: Event) -> tuple[str, ...]:
        """Return the job names of the handlers that want an event."""
        if not self._kept or event.problem is not None:
            return ()
        key = (event.scope, event.name)
        names = self._wanted.get(key)
        if names is None:
            names = tuple(dict.fromkeys(one.job_name for one in self if one.wants(event)))
            if len(self._wanted) < _MAX_REMEMBERED:
                self._wanted[key] = names
        return names

    def served(self, job_name: str, scope: str) -> list[Subscription]:
        """Return what the receivers that serve a handler registered."""
        return [one for one in self._served if (one.job_name, one.scope) == (job_name, scope)]

    def unserved_for(self, job_name: str, scope: str, now: float) -> float:
        """Return the seconds since a handler was seen to be unserved first, 0 if it is served."""
        if self.served(job_name, scope):
            return 0.0
        return now - self._unserved_since.setdefault((job_name, scope), now)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._served, self._wanted, self._unserved_since):
            held.clear()
