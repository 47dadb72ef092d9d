"""A schedule of polls that is changed in any order."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.virtual_time import VirtualLoop, threads_hold_time
from tests.webhooks.store_contract.kit import ref
from webhooks.store.base import Store
from webhooks.store.records import PollClaim, PollResult, Priority


class PollsMachine(RuleBasedStateMachine):
    """In every order of changes, each pending operation is polled eventually, and none by two pollers at a time."""

    uids = st.sampled_from("abcd")
    names = st.sampled_from(["", "one", "other"])
    lease = 20.0

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.store = self.make_store()
        self.pending: set[str] = set()
        self.waiters: dict[str, set[str]] = {uid: set() for uid in "abcd"}
        self.held: dict[str, tuple[PollClaim, float]] = {}
        self.lost: list[PollClaim] = []

    @abstractmethod
    def make_store(self) -> Store:
        """Return an empty store in the time of the loop."""

    def run(self, doing: Any) -> Any:
        with threads_hold_time():
            return self.loop.run_until_complete(doing)

    def release(self, uid: str) -> None:
        if uid in self.held:
            self.lost.append(self.held.pop(uid)[0])

    @rule(uid=uids, poll_in=st.floats(0, 20), waiter=names)
    def watch(self, uid: str, poll_in: float, waiter: str) -> None:
        self.run(self.store.watch([ref(uid)], poll_in=poll_in, waiter=waiter))
        self.pending.add(uid)
        self.waiters[uid].add(waiter)
        if uid in self.held:  # it may be due again before its lease is over
            claim, until = self.held[uid]
            self.held[uid] = claim, min(until, self.loop.time() + poll_in)

    @rule(uid=uids, waiter=names)
    def unwatch(self, uid: str, waiter: str) -> None:
        self.loop.call_soon(partial(self.store.unwatch, [ref(uid)], waiter=waiter))
        self.run(asyncio.sleep(0))
        self.waiters[uid].discard(waiter)

    @rule(uid=uids, poll_in=st.floats(0, 20))
    def add(self, uid: str, poll_in: float) -> None:
        self.run(self.store.add_pending([ref(uid)], poll_in=poll_in))
        self.pending.add(uid)

    @rule(uid=uids)
    def remove(self, uid: str) -> None:
        assert self.run(self.store.remove_pending([ref(uid)])) == (uid in self.pending)
        self.pending.discard(uid)
        self.waiters[uid].clear()
        self.release(uid)

    @rule(uid=uids, priority=st.sampled_from([Priority.LOOKUP, Priority.DEADLINE, Priority.WISH]))
    def hurry(self, uid: str, priority: Priority) -> None:
        self.run(self.store.hurry_polls([ref(uid)], priority))
        self.pending.add(uid)
        if priority is not Priority.DEADLINE:
            self.release(uid)

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(limit=st.integers(1, 3))
    def claim(self, limit: int) -> None:
        now = self.loop.time()
        some = self.run(self.store.claim_polls("default", limit=limit, lease=self.lease, max_per_second=1_000.0))
        assert len(some.claims) <= limit
        for one in some.claims:
            assert one.ref.uid in self.pending
            if one.ref.uid in self.held:
                assert now >= self.held[one.ref.uid][1] - 0.02
                self.release(one.ref.uid)
            self.held[one.ref.uid] = one, now + self.lease

    @precondition(lambda self: self.held)
    @rule(data=st.data(), retry_in=st.floats(0, 20), counted=st.booleans())
    def settle(self, data: st.DataObject, retry_in: float, counted: bool) -> None:
        claim, _ = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
        result = PollResult(claim=claim, retry_in=retry_in, counted=counted)
        self.run(self.store.settle_polls([result]))
        self.lost.append(claim)

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def settle_late(self, data: st.DataObject) -> None:
        before = self.run(self.store.list_pending())
        late = PollResult(claim=data.draw(st.sampled_from(self.lost)), retry_in=1_000.0)
        self.run(self.store.settle_polls([late]))
        assert self.run(self.store.list_pending()) == before

    @invariant()
    def what_is_pending_is_listed_and_ranked(self) -> None:
        listed = {one.ref.uid: one for one in self.run(self.store.list_pending())}
        assert listed.keys() == self.pending
        for uid, one in listed.items():
            assert (one.priority is Priority.ABANDONED) <= (not self.waiters[uid])

    def teardown(self) -> None:
        async def poll_all() -> set[str]:
            seen = set()
            for _ in range(25):
                some = await self.store.claim_polls("default", limit=10, lease=self.lease, max_per_second=1_000.0)
                seen |= {one.ref.uid for one in some.claims}
                await self.store.settle_polls([PollResult(claim=one, retry_in=5.0) for one in some.claims])
                await self.store.resume_polls("default")
                await asyncio.sleep(4.0)
            return seen

        assert self.run(poll_all()) == self.pending
        self.run(self.store.aclose())
        self.loop.close()
