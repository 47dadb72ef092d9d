"""Builders, a recording subscriber and a poller for the store contract."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import pytest

from rewards_core.operations import Event, OperationRef, OperationStatus
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import ClaimedJob, Outcome, PollClaim, PollResult, Subscription

EPOCH = 1_760_000_000.0
A_DAY = 86_400.0
JUMPS = [-1_800.0, 40 * A_DAY, 450 * A_DAY]
"""Seconds by which real wall clocks have been set."""
PAY = "app.pay"
COUNT = "app.count"
RATE = 1_000.0
"""Polls per second, where the budget does not matter."""

Reopen = Callable[[Store], Awaitable[Store]]


class Time(Protocol):
    """The clocks of the stores."""

    @property
    def wall(self) -> float:
        """Unix time, as in the stores' timestamps."""
        ...

    async def advance(self, seconds: float) -> None:
        """Advance time, and let the stores react."""
        ...

    async def jump(self, seconds: float) -> None:
        """Set the wall clock; no time passes."""
        ...


class LoopTime:
    """Time that moves only when a test moves it: the running loop's, and a wall clock's, which can be set."""

    def __init__(self) -> None:
        self.wall = EPOCH
        self._passed = 1_000.0

    def clock(self) -> float:
        return self.wall

    def loop_time(self) -> float:
        return self._passed

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the time of the running loop."""
        monkeypatch.setattr(asyncio.get_running_loop(), "time", self.loop_time)

    async def advance(self, seconds: float) -> None:
        self._passed += seconds
        self.wall += seconds
        await asyncio.sleep(0)

    async def jump(self, seconds: float) -> None:
        self.wall += seconds


class Ear(Subscriber):
    """Records its notifications, and can wait for one.

    Args:
        refs: The operations it waits for, for notifications from another store object.
    """

    def __init__(self, *refs: OperationRef) -> None:
        self.refs = set(refs)
        self.settlements: list[Outcome] = []
        self.confirmations: list[Outcome] = []
        self.polls = 0
        self.jobs = 0
        self.misses = 0
        self.refusals: list[str] = []
        self._notified = asyncio.Event()

    async def until(self, heard: Callable[[Ear], object]) -> None:
        """Wait until a condition holds."""
        while not heard(self):
            self._notified.clear()
            await self._notified.wait()

    def waits_for(self, ref: OperationRef) -> bool:
        return ref in self.refs

    def settled(self, outcome: Outcome) -> None:
        self.settlements.append(outcome)
        self._notified.set()

    def confirmed(self, outcome: Outcome) -> None:
        self.confirmations.append(outcome)
        self._notified.set()

    def polls_due(self) -> None:
        self.polls += 1
        self._notified.set()

    def jobs_ready(self) -> None:
        self.jobs += 1
        self._notified.set()

    def missed(self) -> None:
        self.misses += 1
        self._notified.set()

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)
        self._notified.set()


def ref(uid: str = "1", kind: str = "allocation", scope: str = "default") -> OperationRef:
    return OperationRef(scope, kind, uid)


def resource(uid: str = "1", status: str = "done", amount: Any = "1.5", **more: Any) -> dict[str, Any]:
    return {"uid": uid, "status": status, "amount": amount, "created_at": "2023-08-10T14:07:14.494142Z", **more}


def outcome(
    of: OperationRef,
    status: str = "done",
    *,
    via: Any = "poll",
    at: float = EPOCH,
    key: str | None = None,
    confirmed: bool = False,
    **more: Any,
) -> Outcome:
    words = resource(of.uid, status, **more)
    return Outcome(ref=of, status=OperationStatus(status), resource=words, via=via, settled_at=at, key=key, confirmed=confirmed)


def event(
    word: str = "first",
    *,
    name: str = "reward.allocated",
    of: OperationRef | None = None,
    scope: str = "default",
    complete: dict[str, Any] | None = None,
    problem: str | None = None,
    said: Any = None,
    **more: Any,
) -> Event:
    """Return an event whose body holds its name, a word that makes it another event, and what is said."""
    body = json.dumps({"event": name, "word": word, **({} if said is None else {"said": said})}).encode()
    scope = of.scope if of else scope
    return Event(
        scope=scope,
        name=name,
        identity=hashlib.sha256(scope.encode() + body).digest()[:16],
        body=body,
        ref=of,
        resource=complete,
        problem=problem,
        **more,
    )


def wants(handler: str = PAY, *names: str, service: str = "default", scope: str = "default") -> Subscription:
    """Return a handler's subscription to events of these names, of all if none is named."""
    return Subscription(service=service, handler=handler, scope=scope, patterns=frozenset(names or ("*",)))


async def claim(
    store: Store, handler: str = PAY, *, limit: int = 10, lease: float = 60, scopes: Sequence[str] = ("default",)
) -> list[ClaimedJob]:
    return list(await store.claim_jobs(handler, scopes=scopes, limit=limit, lease=lease))


async def made_with(store: Store, key: str, kind: str = "allocation", scope: str = "default") -> list[str]:
    return sorted(one.ref.uid for one in await store.outcomes_by_key(scope, kind, key))


class Poller:
    """Claims through several store objects in turn, and records when each poll may be sent."""

    def __init__(self, time: Time, *stores: Store, rate: float = RATE, lease: float = 1_000, scope: str = "default") -> None:
        self.time = time
        self.stores = stores
        self.rate = rate
        self.lease = lease
        self.scope = scope
        self.passed = 0.0
        self.claims: list[PollClaim] = []
        self.starts: list[float] = []

    async def advance(self, seconds: float) -> None:
        await self.time.advance(seconds)
        self.passed += seconds

    async def run(self, seconds: float = 0.0, *, limit: int = 5) -> list[PollClaim]:
        """Claim for some seconds, and return the claims."""
        before, end = len(self.claims), self.passed + seconds
        latest = max(end, self.passed + 0.05)  # a moment, for the budget to let through what is due at once
        while True:
            next_in = math.inf
            for store in self.stores:
                found = await store.claim_polls(self.scope, limit=limit, lease=self.lease, max_per_second=self.rate)
                next_in = min(next_in, 0.0 if found.claims else found.next_in)
                self.claims += found.claims
                self.starts += [self.passed + claim.start_in for claim in found.claims]
            step = max(next_in, 0.001)
            if self.passed + step > latest:
                await self.advance(max(0.0, end - self.passed))
                return self.claims[before:]
            await self.advance(step)

    async def take_further(self, store: Store) -> None:
        """Take a request without a claim from the budget as soon as the store permits it."""
        while not (permit := await store.permit_poll(self.scope, max_per_second=self.rate)).granted:
            assert permit.seconds <= 60
            await self.advance(permit.seconds)
        assert permit.seconds <= 0.1 + 2 / self.rate
        self.starts.append(self.passed + permit.seconds)

    async def settle(self, claims: Sequence[PollClaim], *, retry_in: float, answered: bool = True, **how: Any) -> None:
        results = [PollResult(claim=claim, retry_in=retry_in, **how) for claim in claims]
        await self.stores[0].settle_polls(results)
        if answered:
            await self.stores[0].resume_polls(self.scope)


def uids(claims: Sequence[PollClaim]) -> list[str]:
    return [claim.ref.uid for claim in claims]


async def pending(store: Store, **conditions: Any) -> list[str]:
    return [one.ref.uid for one in await store.list_pending(**conditions)]
