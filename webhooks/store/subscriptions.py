"""Which handlers want which events, and since when those that no receiver serves have not been served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from webhooks.store.records import EventState, HandlerStatus, Subscription, handler_of

if TYPE_CHECKING:
    from rewards_core.operations import Event

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
            self._unserved_since.pop(_key(one), None)
        self._wanted.clear()

    def release(self, subscriptions: Sequence[Subscription], now: float) -> None:
        """Serve each once less."""
        for one in subscriptions:
            if one in self._served:
                self._served.remove(one)
            self.unserved_for(*_key(one), now)

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

    def statuses(self, jobs: Mapping[tuple[str, str], Mapping[EventState, int]]) -> list[HandlerStatus]:
        """Return how the subscriptions stand, and the handlers of jobs that have none.

        Args:
            jobs: How many there are in each state, by their names and scopes.
        """
        listed = {_key(one): one for one in self}
        for name, scope in jobs.keys() - listed.keys():
            service, handler = handler_of(name)
            listed[name, scope] = Subscription(service=service, handler=handler, scope=scope, patterns=frozenset())
        statuses = []
        for key, one in listed.items():
            served, counts = [other for other in self._served if _key(other) == key], jobs.get(key, {})
            statuses.append(
                HandlerStatus(
                    subscription=one,
                    served=bool(served),
                    differing=any(other.patterns != one.patterns for other in served),
                    ready=counts.get(EventState.READY, 0),
                    dead=counts.get(EventState.DEAD, 0),
                )
            )
        return sorted(statuses, key=lambda each: (each.subscription.service, each.subscription.handler, each.subscription.scope))

    def unserved_for(self, job_name: str, scope: str, now: float) -> float:
        """Return the seconds since a handler was first seen without a receiver, 0 if one serves it."""
        key = (job_name, scope)
        if any(_key(one) == key for one in self._served):
            return 0.0
        return now - self._unserved_since.setdefault(key, now)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._served, self._wanted, self._unserved_since):
            held.clear()


def _key(subscription: Subscription) -> tuple[str, str]:
    return subscription.job_name, subscription.scope
