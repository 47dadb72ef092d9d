"""Which handlers want which events, and how long a handler has had no receiver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from webhooks.store.records import EventState, HandlerStatus, Subscription, handler_of

if TYPE_CHECKING:
    from rewards_core.operations import Event

Jobs = Mapping[tuple[str, str], Mapping[EventState, int]]
"""The number of jobs in each state, by job name and scope."""

_NO_JOBS: Mapping[EventState, int] = {}
_MAX_REMEMBERED = 1_000  # the vendor chooses the names of events


class SubscriptionIndex:
    """The handlers that want an event, by scope and event name."""

    def __init__(self, subscriptions: Iterable[Subscription] = ()) -> None:
        self._subscriptions = tuple(subscriptions)
        self._names: dict[tuple[str, str], tuple[str, ...]] = {}

    def handlers_for(self, event: Event) -> tuple[str, ...]:
        """Return the job names of the handlers that want an event."""
        if not self._subscriptions or event.problem is not None:
            return ()
        key = (event.scope, event.name)
        names = self._names.get(key)
        if names is None:
            names = tuple(dict.fromkeys(one.job_name for one in self._subscriptions if one.wants(event)))
            if len(self._names) < _MAX_REMEMBERED:
                self._names[key] = names
        return names


class Subscriptions:
    """The subscriptions of a `MemoryStore`, and those that receivers serve."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], Subscription] = {}
        self._served: list[Subscription] = []
        self._index = SubscriptionIndex()
        self._unserved_since: dict[tuple[str, str], float] = {}

    def add(self, subscriptions: Sequence[Subscription]) -> None:
        """Add and serve subscriptions; the newest patterns of a handler apply."""
        for one in subscriptions:
            self._kept[one.service, one.handler, one.scope] = one
            self._served.append(one)
            self._unserved_since.pop(_key(one), None)
        self._index = SubscriptionIndex(self._kept.values())

    def release(self, subscriptions: Sequence[Subscription], now: float) -> None:
        """Stop serving subscriptions, each as often as it was added."""
        for one in subscriptions:
            if one in self._served:
                self._served.remove(one)
            self.unserved_for(*_key(one), now)

    def remove(self, service: str, handler: str) -> None:
        """Remove a handler's subscriptions."""
        self._kept = {key: one for key, one in self._kept.items() if key[:2] != (service, handler)}
        self._index = SubscriptionIndex(self._kept.values())

    def handlers_for(self, event: Event) -> tuple[str, ...]:
        """Return the job names of the handlers that want an event."""
        return self._index.handlers_for(event)

    def statuses(self, jobs: Jobs) -> list[HandlerStatus]:
        """Return the status of each subscription, and of handlers that have only jobs."""
        return handler_statuses(self._kept.values(), self._served, jobs)

    def unserved_for(self, job_name: str, scope: str, now: float) -> float:
        """Return how long a handler has had no receiver, in seconds."""
        key = (job_name, scope)
        if any(_key(one) == key for one in self._served):
            return 0.0
        return now - self._unserved_since.setdefault(key, now)

    def clear(self) -> None:
        """Remove everything."""
        for held in (self._kept, self._served, self._unserved_since):
            held.clear()
        self._index = SubscriptionIndex()


def handler_statuses(subscriptions: Iterable[Subscription], served: Iterable[Subscription], jobs: Jobs) -> list[HandlerStatus]:
    """Return the status of subscriptions and of handlers that have only jobs, by service, handler and scope.

    `served` are the subscriptions that running processes have registered.
    """
    listed = {_key(one): one for one in subscriptions}
    for name, scope in jobs.keys() - listed.keys():
        service, handler = handler_of(name)
        listed[name, scope] = Subscription(service=service, handler=handler, scope=scope, patterns=frozenset())
    patterns: dict[tuple[str, str], set[frozenset[str]]] = {}
    for other in served:
        patterns.setdefault(_key(other), set()).add(other.patterns)
    statuses = [
        HandlerStatus(
            subscription=one,
            served=key in patterns,
            differing=bool(patterns.get(key, set()) - {one.patterns}),
            ready=jobs.get(key, _NO_JOBS).get(EventState.READY, 0),
            dead=jobs.get(key, _NO_JOBS).get(EventState.DEAD, 0),
        )
        for key, one in listed.items()
    ]
    return sorted(statuses, key=lambda each: (each.subscription.service, each.subscription.handler, each.subscription.scope))


def _key(subscription: Subscription) -> tuple[str, str]:
    return subscription.job_name, subscription.scope
