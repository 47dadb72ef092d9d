"""A store object among those that share a store."""

from __future__ import annotations

import json
import math
import secrets
from collections import deque
from typing import TYPE_CHECKING

from attrs import define, field

from rewards_core.clock import DAY
from rewards_core.operations import OperationRef
from webhooks.store.readings import ProcessActivity, Wake

if TYPE_CHECKING:
    from webhooks.store.records import Subscription

RENEW_EVERY = 10.0
ALIVE_FOR = 30.0
GONE_AFTER = DAY
"""Seconds between two renewals of a process's record, after which a process is late, and after which its record is removed."""
MAX_RELEASED = 5_000
"""Operations that dead processes watched, released in one transaction."""
MAX_WAKES = 64
"""Woken callers that a process reports."""


@define(eq=False)
class Member:
    """This store object.

    Attributes:
        id: Its name in the store, made when the store is first opened, as forked children must not share one.
        boot: The boot of its host, empty until it is known.
        registered: Whether it has a record in the store.
        renewed_at: The store's time at which it last wrote its record, if the store may be replaced beneath it.
        serves: The subscriptions it serves, each as often as it was registered.
        rates: Scope and polls per second that it allows, to the store's time at which it last wrote them.
        agreed: Scope to the polls per second that all processes allow, as last logged.
        polled_at: Scope and polls per second, to the time at which it last claimed polls.
        claims: The number of fences it has made.
        polls: The number of polls that the budget has allowed it.
        wakes: The callers that it woke last.
    """

    id: str = ""
    boot: str = ""
    registered: bool = False
    renewed_at: float = -math.inf
    serves: list[Subscription] = field(factory=list)
    rates: dict[tuple[str, float], float] = field(factory=dict)
    agreed: dict[str, float] = field(factory=dict)
    polled_at: dict[tuple[str, float], float] = field(factory=dict)
    claims: int = 0
    polls: int = 0
    wakes: deque[Wake] = field(factory=lambda: deque(maxlen=MAX_WAKES))

    def make_id(self) -> str:
        """Return its name, a new one at the first call."""
        self.id = self.id or secrets.token_hex(8)
        return self.id

    def new_fence(self) -> str:
        """Return a token that no other claim shares."""
        self.claims += 1
        return f"{self.make_id()}-{self.claims}"

    def report(self) -> str:
        """Return what it reports of itself with its record, for `activity_of`."""
        wakes = [
            (wake.ref.scope, wake.ref.kind, wake.ref.uid, wake.via, wake.asked_at, wake.settled_at, wake.woken_at)
            for wake in tuple(self.wakes)  # another thread may add some
        ]
        return json.dumps({"polls": self.polls, "wakes": wakes}, separators=(",", ":"))

    def activity_of(self, process: str, renewed_ago: float, waiting: int, report: str | None) -> ProcessActivity:
        """Return the activity of a process; its own is up to date."""
        if process == self.id:
            renewed_ago, report = 0.0, self.report()
        told = json.loads(report or "{}")  # a process of an earlier version reports nothing
        wakes = [
            Wake(ref=OperationRef(*ref), via=via, asked_at=asked_at, settled_at=settled_at, woken_at=woken_at)
            for *ref, via, asked_at, settled_at, woken_at in told.get("wakes", ())
        ]
        return ProcessActivity(
            id=process, renewed_ago=max(0.0, renewed_ago), waiting=waiting, polls=told.get("polls", 0), wakes=tuple(wakes)
        )
