"""What every store must do with pending operations and polls.

Subclass `PollsContract` and give it a fixture `open_store` that returns an async context manager over an empty store. The tests
run in virtual time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from attrs import evolve

from rewards_core.operations import OperationRef, OperationStatus
from tests.virtual_time import EPOCH, virtual_time
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from tests.webhooks.world import now
from webhooks import Outcome
from webhooks.store.base import Store, Subscriber
from webhooks.store.records import PollClaim, PollClaims, PollResult, Priority

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]
LEASE = 60.0


class Ear(Subscriber):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.waiting: set[OperationRef] = set()

    def waits_for(self, ref: OperationRef) -> bool:
        return ref in self.waiting

    def settled(self, outcome: Outcome) -> None:
        self.heard.append(("settled", outcome.ref.uid))

    def confirmed(self, outcome: Outcome) -> None:
        self.heard.append(("confirmed", outcome.ref.uid))

    def polls_due(self) -> None:
        self.heard.append(("polls_due", None))


def refs(*uids: str, **more: Any) -> list[OperationRef]:
    return [a_ref(uid, **more) for uid in uids]


def an_outcome(uid: str = "1", status: str = "done", *, confirmed: bool = True, **more: Any) -> Outcome:
    words = words_of(uid, status)
    ref, at = a_ref(uid, **more), EPOCH
    return Outcome(
        ref=ref, status=OperationStatus(status), resource=words, via="webhook", settled_at=at, key=None, confirmed=confirmed
    )


async def claim(
    store: Store, limit: int = 100, rate: float = 1_000.0, scope: str = "default", lease: float = LEASE
) -> PollClaims:
    return await store.claim_polls(scope, limit=limit, lease=lease, max_per_second=rate)


async def claimed(store: Store, *, rate: float = 1_000.0) -> list[str]:
    """Claim everything that is due, and return it in its order."""
    uids: list[str] = []
    while (some := await claim(store, rate=rate)).claims:
        uids += [one.ref.uid for one in some.claims]
        await asyncio.sleep(max(one.start_in for one in some.claims))
    return uids


async def the_claim(store: Store) -> PollClaim:
    (one,) = (await claim(store)).claims
    return one


async def give_back(store: Store, claim: PollClaim, again_in: float = 0.0, *, answered: bool = False, **more: Any) -> None:
    await store.settle_polls([PollResult(claim=claim, again_in=again_in, **more)], answered=answered)


async def listed(store: Store, **more: Any) -> dict[str, Any]:
    return {one.ref.uid: one for one in await store.list_pending(**more)}


class PollsContract:
    """See the module."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError

    # pending operations

    @virtual_time
    async def test_watched_operations_are_pending_and_polled_in_time(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            assert list(await store.watch(refs("1", "2"), poll_in=15)) == []
            one = (await listed(store))["1"]
            assert (one.ref, one.polls, one.priority) == (a_ref("1"), 0, Priority.ROUTINE)
            assert one.added_at == pytest.approx(EPOCH, abs=0.1)
            assert one.due_in == pytest.approx(15, abs=0.1)
            nothing = await claim(store)
            assert (list(nothing.claims), nothing.next_in) == ([], pytest.approx(15, abs=0.1))
            await asyncio.sleep(15.1)
            assert sorted(await claimed(store)) == ["1", "2"]
            assert await claimed(store) == []

    @virtual_time
    async def test_watching_returns_the_outcomes_that_are_known_instead(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.record_outcome(an_outcome("1"))
            known = await store.watch(refs("1", "2"), poll_in=15)
            assert [one.ref.uid for one in known] == ["1"]
            assert list(await listed(store)) == ["2"]

    @virtual_time
    async def test_an_operation_is_waited_for_until_it_was_unwatched_as_often(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            for _ in range(3):
                await store.watch(refs("1"), poll_in=15)
            for left in (2, 1, 0):
                store.unwatch(refs("1", "unknown"))
                priority = (await listed(store))["1"].priority
                assert priority is (Priority.ROUTINE if left else Priority.ABANDONED)
            store.unwatch(refs("1"))
            await store.watch(refs("1"), poll_in=15)
            assert (await listed(store))["1"].priority is Priority.ROUTINE

    @virtual_time
    async def test_watching_again_brings_the_next_poll_nearer_but_puts_it_off_no_further(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.add_pending(refs("1"), poll_in=100)
            assert (await listed(store))["1"].priority is Priority.ABANDONED
            for poll_in, due_in in ((200, 100), (15, 15), (30, 15)):
                await store.watch(refs("1"), poll_in=poll_in)
                assert (await listed(store))["1"].due_in == pytest.approx(due_in, abs=0.1)

    @virtual_time
    async def test_adding_changes_nothing_about_what_is_pending_or_settled(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.watch(refs("1"), poll_in=15)
            await store.record_outcome(an_outcome("2"))
            await asyncio.sleep(5)
            await store.add_pending(refs("1", "2", "3"), poll_in=1)
            pending = await listed(store)
            assert list(pending) == ["1", "3"]
            assert pending["1"].due_in == pytest.approx(10, abs=0.1)
            assert pending["3"].added_at == pytest.approx(EPOCH + 5, abs=0.1)

    @virtual_time
    async def test_an_outcome_and_a_removal_end_what_is_pending(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.watch(refs("1", "2", "3"), poll_in=0)
            await store.record_outcome(an_outcome("1"))
            assert await store.remove_pending(refs("2", "2", "unknown")) == 1
            assert await claimed(store) == ["3"]
            assert (await store.statistics()).pending == 1
            store.unwatch(refs("1", "2"))

    @virtual_time
    async def test_pending_operations_are_listed_by_page_in_the_order_of_their_refs(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            everything = [
                *refs("1", "2", scope="a"),
                *refs("1", "3", scope="b", kind="x"),
                *refs("0", "2", scope="b", kind="y"),
                *refs("0", scope="c"),
            ]
            await store.add_pending(everything[::-1], poll_in=1)
            assert [one.ref for one in await store.list_pending()] == everything
            assert [one.ref for one in await store.list_pending(scope="b")] == everything[2:6]
            paged: list[OperationRef] = []
            while page := await store.list_pending(after=paged[-1] if paged else None, limit=2):
                paged += [one.ref for one in page]
            assert paged == everything
            assert [one.ref for one in await store.list_pending(scope="b", after=everything[3])] == everything[4:6]

    @virtual_time
    async def test_pending_operations_are_not_purged_by_age(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.add_pending(refs("1"), poll_in=1)
            await asyncio.sleep(40 * 86_400)
            await store.purge_outcomes(0)
            assert list(await listed(store)) == ["1"]

    # which is polled first

    @virtual_time
    async def test_what_is_urgent_goes_first(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.add_pending(refs("abandoned"), poll_in=0)
            await store.watch(refs("routine", "wish", "deadline", "lookup"), poll_in=0)
            for uid in ("wish", "deadline", "lookup"):
                await store.hurry_polls(refs(uid), Priority[uid.upper()])
            assert await claimed(store) == ["lookup", "deadline", "wish", "routine", "abandoned"]

    @virtual_time
    async def test_hurrying_makes_pending_and_due_now_and_tells_of_it(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            ear = Ear()
            await store.subscribe(ear)
            await store.watch(refs("1"), poll_in=15)
            await store.hurry_polls(refs("1", "2"), Priority.WISH)
            assert ("polls_due", None) in ear.heard
            assert sorted(await claimed(store)) == ["1", "2"]

    @virtual_time
    async def test_hurrying_lowers_no_rank_and_puts_nothing_off(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.hurry_polls(refs("1"), Priority.LOOKUP)
            one = await the_claim(store)
            await give_back(store, one, 4, priority=Priority.LOOKUP)
            await asyncio.sleep(1)
            await store.hurry_polls(refs("1"), Priority.WISH)
            one = await the_claim(store)
            assert (one.priority, one.attempt, one.polls) == (Priority.LOOKUP, 1, 1)

    @virtual_time
    async def test_a_mention_and_a_wish_end_the_claim_of_a_poll_under_way_a_deadline_does_not(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            await store.watch(refs("1"), poll_in=0)
            first = await the_claim(store)
            await store.hurry_polls(refs("1"), Priority.DEADLINE)
            assert await claimed(store) == []
            for priority in (Priority.WISH, Priority.LOOKUP):
                await store.hurry_polls(refs("1"), priority)
                second = await the_claim(store)
                assert second.fence != first.fence
                await give_back(store, first, 100)
                assert (await listed(store))["1"].priority is priority
                first = second

    @virtual_time
    async def test_an_event_that_settles_nothing_has_its_operations_looked_up_once(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            ear = Ear()
            await store.subscribe(ear)
            await store.record_outcome(an_outcome("done"))
            await store.record_outcome(an_outcome("failed", "failed"))
            await store.accept(FakeSource().parse(body_of(uid="1", also=["done", "failed"])))
            assert ("polls_due", None) in ear.heard
            assert (await store.statistics()).lookups == 2
            assert sorted(await claimed(store)) == ["1", "failed"]
            assert sorted(await listed(store)) == ["1", "failed"]
            assert all(one.priority is Priority.LOOKUP for one in (await listed(store)).values())
            await store.record_outcome(an_outcome("1"))
            await store.record_outcome(an_outcome("failed", "failed"))
            assert ((await store.statistics()).lookups, await listed(store)) == (0, {})

    @virtual_time
    async def test_an_event_alone_does_not_end_the_confirmation_of_what_an_event_said(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            ear = Ear()
            await store.subscribe(ear)
            await store.record_outcome(an_outcome("1", confirmed=False))
            await store.hurry_polls(refs("1"), Priority.LOOKUP)
            await store.record_outcome(an_outcome("1", confirmed=False))
            assert list(await listed(store)) == ["1"]
            recorded = await store.record_outcome(an_outcome("1"))
            assert recorded.outcome.confirmed
            assert await listed(store) == {}
            assert [hint for hint in ear.heard if hint[0] != "polls_due"] == [("settled", "1"), ("confirmed", "1")]

    # claims

    @virtual_time
    async def test_a_claim_says_how_often_and_why_an_operation_was_polled(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.watch(refs("1"), poll_in=0)
            seen = []
            for priority in (Priority.ROUTINE, Priority.ROUTINE, Priority.LOOKUP, Priority.LOOKUP, Priority.ROUTINE):
                one = await the_claim(store)
                seen.append((one.priority, one.polls, one.attempt))
                await give_back(store, one, priority=priority)
            one = await the_claim(store)
            assert [*seen, (one.priority, one.polls, one.attempt)] == [
                (Priority.ROUTINE, 0, 0),
                (Priority.ROUTINE, 1, 1),
                (Priority.ROUTINE, 2, 2),
                (Priority.LOOKUP, 3, 0),
                (Priority.LOOKUP, 4, 1),
                (Priority.ROUTINE, 5, 0),
            ]

    @virtual_time
    async def test_a_poll_that_did_not_count_leaves_all_as_it_was(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.hurry_polls(refs("1"), Priority.LOOKUP)
            one = await the_claim(store)
            await give_back(store, one, priority=Priority.LOOKUP, counted=False)
            again = await the_claim(store)
            assert evolve(again, fence=one.fence, start_in=0.0) == evolve(one, start_in=0.0)

    @virtual_time
    async def test_a_claim_given_back_is_due_again_when_it_says_and_ranked_by_whether_it_is_waited_for(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            ear = Ear()
            await store.subscribe(ear)
            ear.waiting = {a_ref("unwatched but waited for")}
            await store.watch(refs("watched"), poll_in=0)
            await store.hurry_polls(refs("mentioned", "unwatched but waited for"), Priority.LOOKUP)
            claims = (await claim(store)).claims
            await store.settle_polls([PollResult(claim=one, again_in=15) for one in claims], answered=False)
            pending = await listed(store)
            assert {uid: one.priority for uid, one in pending.items()} == {
                "mentioned": Priority.ABANDONED,
                "watched": Priority.ROUTINE,
                "unwatched but waited for": Priority.ROUTINE,
            }
            assert all(one.due_in == pytest.approx(15, abs=0.1) for one in pending.values())

    @virtual_time
    async def test_watching_during_a_poll_lets_the_next_be_put_off_no_further_than_it_says(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.add_pending(refs("1"), poll_in=0)
            one = await the_claim(store)
            await store.watch(refs("1"), poll_in=15)
            assert await claimed(store) == []
            await give_back(store, one, 3_600)
            pending = (await listed(store))["1"]
            assert (pending.priority, pending.due_in) == (Priority.ROUTINE, pytest.approx(15, abs=0.1))

    @virtual_time
    async def test_a_lease_that_is_over_lets_others_claim_and_the_late_result_changes_nothing(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            await store.watch(refs("1"), poll_in=0)
            late = await the_claim(store)
            await asyncio.sleep(LEASE - 1)
            assert await claimed(store) == []
            await asyncio.sleep(1.1)
            second = await the_claim(store)
            assert second.fence != late.fence
            await give_back(store, late, 0)
            assert await claimed(store) == []
            await give_back(store, second, 0)
            await give_back(store, second, 100)
            assert await claimed(store) == ["1"]

    @virtual_time
    async def test_no_more_are_claimed_than_asked_for_and_of_no_other_scope(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.watch([*refs("1", "2", "3"), *refs("9", scope="other")], poll_in=0)
            assert len((await claim(store, limit=2)).claims) == 2
            assert len((await claim(store, limit=5)).claims) == 1
            assert [one.ref.uid for one in (await claim(store, scope="other")).claims] == ["9"]
            assert list((await claim(store, scope="nobody's")).claims) == []
            assert (await claim(store, scope="nobody's")).next_in == math.inf

    # the budget

    @virtual_time
    async def test_claims_and_permits_are_spread_evenly_over_one_budget(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.watch(refs(*map(str, range(100))), poll_in=0)
            starts: list[float] = []
            while now() < 3:
                some = await claim(store, rate=10)
                starts += [now() + one.start_in for one in some.claims]
                starts.append(now() + await store.permit_poll("default", max_per_second=10))
                await asyncio.sleep(max(some.next_in, 0.001))
            gaps = [later - earlier for earlier, later in zip(sorted(starts), sorted(starts)[1:], strict=False)]
            assert min(gaps) >= 0.1 - 1e-6
            assert len(starts) >= 27

    @virtual_time
    async def test_the_lowest_of_the_budgets_given_lately_holds(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.permit_poll("default", max_per_second=1)
            assert await store.permit_poll("default", max_per_second=100) == pytest.approx(1.0)
            await asyncio.sleep(31)
            await store.permit_poll("default", max_per_second=100)
            assert await store.permit_poll("default", max_per_second=100) == pytest.approx(0.01)

    @virtual_time
    async def test_a_pause_holds_for_all_and_the_longer_one_stays(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.watch(refs("1", "2"), poll_in=0)
            await store.pause_polls("default", 30)
            await store.pause_polls("default", 10)
            nothing = await claim(store)
            assert (list(nothing.claims), nothing.next_in) == ([], pytest.approx(30, abs=0.2))
            assert await store.permit_poll("other", max_per_second=10) == 0.0
            assert await store.permit_poll("default", max_per_second=10) == pytest.approx(30)
            await asyncio.sleep(31)
            assert sorted(await claimed(store)) == ["1", "2"]

    @virtual_time
    async def test_after_refusals_one_at_a_time_is_polled_every_ten_seconds_until_the_vendor_answers(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            await store.watch(refs("1", "2", "3"), poll_in=0)
            for refusals in (1, 2):
                for _ in range(2):  # those that were under way together count once
                    await store.pause_polls("default", 60, refused=True)
                assert await claimed(store) == []
                await asyncio.sleep(60.1)
                (one,) = (await claim(store)).claims
                assert one.refusals == refusals
                assert list((await claim(store)).claims) == []
                await give_back(store, one, 5)
            await asyncio.sleep(5)
            assert list((await claim(store)).claims) == []
            await asyncio.sleep(5.1)
            (one,) = (await claim(store)).claims
            await give_back(store, one, 0, answered=True)
            assert len(await claimed(store)) == 3

    @virtual_time
    async def test_operations_that_nobody_waits_for_get_a_tenth_of_the_budget(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            await store.add_pending(refs(*map(str, range(100))), poll_in=0)
            starts: list[float] = []
            while now() < 10:
                some = await claim(store, rate=10)
                starts += [now() + one.start_in for one in some.claims]
                await asyncio.sleep(max(some.next_in, 0.001))
            assert starts == pytest.approx([float(second) for second in range(len(starts))], abs=0.2)
            assert len(starts) >= 9
            await store.watch(refs("routine"), poll_in=0)
            await asyncio.sleep(0.11)
            assert [one.ref.uid for one in (await claim(store, rate=10, limit=1)).claims] == ["routine"]
