"""Pending operations and polls: one budget for all store objects."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from rewards_core.operations import OperationRef
from tests.webhooks.store_contract.handlers import JUMPS
from tests.webhooks.store_contract.kit import Ear, Time, event, outcome, ref, resource
from webhooks.store.base import Store
from webhooks.store.readings import ProcessActivity, Wake
from webhooks.store.records import PollClaim, PollResult, Priority

RATE = 1_000.0
"""Polls per second, where the budget does not matter."""


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


def woken(of: OperationRef, at: float) -> Wake:
    return Wake(ref=of, via="webhook", asked_at=at - 2, settled_at=at - 1, woken_at=at)


async def reported(store: Store, time: Time, told: Callable[[Sequence[ProcessActivity]], bool]) -> Sequence[ProcessActivity]:
    """Return what processes say of themselves, once they have told something and 11 s have passed."""
    await time.advance(11)
    while not told(found := (await store.activity()).processes):
        await time.advance(1)
    return found


class PollsContract:
    # events that settle nothing

    async def test_an_event_with_only_a_ref_has_its_operation_polled_at_once(self, here: Store, there: Store, time: Time) -> None:
        ear = Ear()
        await there.subscribe(ear)
        await here.accept(event("1", of=ref()))
        await ear.until(lambda ear: ear.polls)
        await there.accept(event("2", of=ref()))
        counted = await here.statistics()
        assert (counted.pending, counted.lookups) == (1, 1)
        (claim,) = await Poller(time, there, here).run()
        assert (claim.ref, claim.priority, claim.polls) == (ref(), Priority.LOOKUP, 0)

    @pytest.mark.parametrize("words", [{"status": "pending"}, {"status": "dancing"}, {"status": None}, {}])
    async def test_a_resource_without_a_terminal_status_asks_instead(
        self, here: Store, there: Store, time: Time, words: dict[str, Any]
    ) -> None:
        await here.accept(event(of=ref(), complete={"uid": "1", **words}))
        assert await there.outcome(ref()) is None
        assert uids(await Poller(time, there).run()) == ["1"]

    async def test_every_further_operation_of_an_event_is_asked_about_like_the_first(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.record_outcome(outcome(ref("3"), "done"))
        await here.accept(event("1", of=ref("2")))
        await there.accept(event("2", of=ref("1"), also=(ref("2"), ref("3"), ref("4"))))
        await here.accept(event("3", of=ref("5"), complete=resource("5"), also=(ref("6"),)))
        await there.accept(event("4", also=(ref("7"),)))
        await here.accept(event("5", also=(ref("8"),), problem="unreadable"))
        assert sorted(uids(await Poller(time, here, there).run())) == list("12467")

    async def test_an_operation_known_as_done_is_not_asked_about_again_but_one_known_as_failed_is(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.record_outcome(outcome(ref("1"), "done"))
        await here.record_outcome(outcome(ref("2"), "failed"))
        for uid in "12":
            await there.accept(event(uid, of=ref(uid)))
        assert uids(await Poller(time, here).run()) == ["2"]

    async def test_an_event_without_a_ref_asks_nothing(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event())
        assert await Poller(time, there).run() == []
        assert await pending(there) == []

    # who waits and polls

    async def test_what_processes_wait_for_and_whom_they_woke_last_is_known(self, here: Store, there: Store, time: Time) -> None:
        for store in (here, there):
            await store.subscribe(Ear())
        await here.watch([ref("1"), ref("2"), ref("3")], poll_in=60)
        here.unwatch([ref("2")])
        await here.record_outcome(outcome(ref("3")))
        wakes = [woken(ref(str(number)), time.wall) for number in range(70)]
        for wake in wakes:
            here.woken(wake)
        for store in (here, there):
            told = await reported(store, time, lambda found: any(one.wakes and one.renewed_ago < 30 for one in found))
            assert [(one.waiting, one.wakes) for one in told if one.waiting] == [(1, tuple(wakes[-64:]))]

    async def test_a_process_that_has_closed_the_store_is_not_listed(self, here: Store, there: Store) -> None:
        await here.subscribe(Ear())
        await here.watch([ref("1")], poll_in=60)
        await there.watch([ref("2")], poll_in=60)
        assert len((await there.activity()).processes) == (1 if here is there else 2)
        if here is not there:
            await here.aclose()
            assert len((await there.activity()).processes) == 1

    async def test_the_budget_of_polls_and_its_use_are_known(self, here: Store, there: Store, time: Time) -> None:
        assert list((await there.activity()).budgets) == []
        await here.add_pending([ref("1"), ref("2"), ref("1", scope="other")], poll_in=0)
        await Poller(time, here, rate=20.0).run(0.2)
        await Poller(time, there, rate=10.0, scope="other").run(0.2)
        await Poller(time, there, rate=10.0).take_further(there)
        activity = await here.activity()
        assert [(one.scope, one.per_second, one.paused_for, one.refused) for one in activity.budgets] == [
            ("default", 10.0, 0.0, False),
            ("other", 10.0, 0.0, False),
        ]
        await here.pause_polls("other", 60, refused=True)
        await time.advance(11)
        activity = await there.activity()
        (other,) = [one for one in activity.budgets if one.scope == "other"]
        assert (other.refused, round(other.paused_for)) == (True, 49)
        for store in (here, there):
            await reported(store, time, lambda found: sum(one.polls for one in found) == 3)
        await time.advance(60)
        activity = await there.activity()
        assert [(one.per_second, one.paused_for) for one in activity.budgets] == [(None, 0.0)] * 2

    # pending operations

    async def test_operations_are_pending_until_they_settle_or_are_removed(self, here: Store, there: Store) -> None:
        refs = [ref("1"), ref("1", kind="claim"), ref("2"), ref("3")]
        await here.add_pending([*refs, ref("9", scope="other"), ref("1")], poll_in=60)
        listed = await there.list_pending(scope="default")
        assert [one.ref for one in listed] == sorted(refs, key=str)
        await there.record_outcome(outcome(ref("1")))
        await there.accept(event(of=ref("2"), complete=resource("2")))
        assert await there.remove_pending([ref("3"), ref("never seen")]) == 1
        assert [one.ref for one in await here.list_pending()] == [ref("1", kind="claim"), ref("9", scope="other")]
        assert await pending(here, scope="another") == []
        assert (await here.statistics()).pending == 2

    async def test_pending_operations_are_listed_page_by_page(self, here: Store, there: Store) -> None:
        await here.add_pending([ref(f"{number:02}", kind=kind) for number in range(30) for kind in ("a", "b")], poll_in=60)
        seen: list[str] = []
        after = None
        while page := await there.list_pending(after=after, limit=7):
            seen += [f"{one.ref.kind}{one.ref.uid}" for one in page]
            after = page[-1].ref
        assert seen == [f"{kind}{number:02}" for kind in ("a", "b") for number in range(30)]

    @pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (2**63, ValueError), ("1", TypeError), (True, TypeError)])
    async def test_a_wrong_limit_lists_no_silence(self, here: Store, limit: Any, error: type[Exception]) -> None:
        await here.add_pending([ref("1")], poll_in=60)
        with pytest.raises(error, match=r"^limit: give "):
            await here.list_pending(limit=limit)
        assert await here.list_pending(limit=0) == []

    @pytest.mark.parametrize(("seconds", "error"), [(0, ValueError), (-1, ValueError), (math.inf, ValueError), ("1", TypeError)])
    async def test_only_a_pause_pauses(self, here: Store, seconds: Any, error: type[Exception]) -> None:
        await here.add_pending([ref("1")], poll_in=0)
        with pytest.raises(error, match=r"^seconds: give "):
            await here.pause_polls("default", seconds)
        assert len((await here.claim_polls("default", limit=5, lease=60, max_per_second=RATE)).claims) == 1

    async def test_pending_operations_are_listed_by_condition(self, here: Store, there: Store) -> None:
        await here.add_pending([ref("2"), ref("1"), ref("1", kind="claim"), ref("1", scope="other")], poll_in=15)

        async def found(**conditions: Any) -> list[str]:
            return [str(one.ref) for one in await there.list_pending(**conditions)]

        first, second, third, fourth = "default/allocation/1", "default/allocation/2", "default/claim/1", "other/allocation/1"
        assert await found(uid="1") == [first, third, fourth]
        assert await found(uid="1", scope="default", limit=1) == [first]
        assert await found(uid="1", after=ref("1")) == [third, fourth]
        assert await found(kind="allocation") == [first, second, fourth]
        assert await found(kind="allocation", after=ref("1")) == [second, fourth]
        assert await found(kind="claim", scope="other") == []
        assert await found(uid="none") == []

    async def test_of_some_operations_those_that_are_pending_are_told(self, here: Store, there: Store) -> None:
        await here.add_pending([ref("1"), ref("2"), ref("1", scope="other")], poll_in=15)
        await here.record_outcome(outcome(ref("2")))
        asked = [ref("1"), ref("2"), ref("3"), ref("1", kind="claim"), ref("1", scope="other"), ref("1"), ref("1", scope="none")]
        found = await there.pending(asked)
        assert sorted(str(one.ref) for one in found) == ["default/allocation/1", "other/allocation/1"]
        listed = {one.ref: one.added_at for one in await there.list_pending()}
        assert {one.ref: one.added_at for one in found} == listed
        assert list(await there.pending([])) == []

    async def test_a_settled_operation_does_not_become_pending(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1")))
        await there.add_pending([ref("1"), ref("2")], poll_in=60)
        assert await pending(here) == ["2"]

    async def test_an_operation_keeps_the_moment_at_which_it_was_registered_first(
        self, here: Store, there: Store, time: Time
    ) -> None:
        since = time.wall
        await here.add_pending([ref()], poll_in=60)
        await time.advance(30)
        await there.add_pending([ref()], poll_in=60)
        await there.watch([ref()], poll_in=60)
        (one,) = await here.list_pending()
        assert one.added_at == pytest.approx(since, abs=1)
        assert one.due_in == pytest.approx(30, abs=1)

    # watching

    async def test_watching_returns_what_is_known_and_tells_of_the_rest(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1")))
        ear = Ear(ref("1"), ref("2"))
        await there.subscribe(ear)
        assert list(await there.watch([ref("1"), ref("2")], poll_in=60)) == [outcome(ref("1"))]
        assert await pending(here) == ["2"]
        await here.record_outcome(outcome(ref("2")))
        await ear.until(lambda ear: ear.settlements)
        assert {settled.ref for settled in ear.settlements} == {ref("2")}  # a hint may come again after a gap
        assert await pending(there) == []

    async def test_no_outcome_falls_between_looking_up_and_listening(self, here: Store, there: Store) -> None:
        many = [ref(str(number)) for number in range(30)]
        ear = Ear(*many)
        await there.subscribe(ear)

        async def watched(one: Any) -> bool:
            return bool(await there.watch([one], poll_in=60))

        answers = await asyncio.gather(*(call for one in many for call in (watched(one), here.record_outcome(outcome(one)))))
        unknown = {one for one, known in zip(many, answers[::2], strict=True) if not known}
        await ear.until(lambda ear: unknown <= {settled.ref for settled in ear.settlements})

    async def test_watching_brings_a_poll_forward_and_never_puts_it_off(self, here: Store, there: Store, time: Time) -> None:
        await here.add_pending([ref("1"), ref("2")], poll_in=60)
        await there.watch([ref("1"), ref("3")], poll_in=20)
        await here.watch([ref("2")], poll_in=600)
        poller = Poller(time, here)
        assert await poller.run(19) == []
        assert sorted(uids(await poller.run(2))) == ["1", "3"]
        assert uids(await poller.run(60)) == ["2"]

    async def test_what_its_last_watcher_waits_for_no_longer_is_polled_behind_all_others(self, here: Store, there: Store) -> None:
        for waiter in ("one", "other", "one"):
            await there.watch([ref(), ref()], poll_in=60, waiter=waiter)
        await here.watch([ref()], poll_in=60, waiter="third")
        for leaving, waiter, priority in (
            (there, "one", Priority.ROUTINE),
            (there, "one", Priority.ROUTINE),
            (there, "stranger", Priority.ROUTINE),
            (here, "third", Priority.ROUTINE),
            (there, "other", Priority.ABANDONED),
        ):
            leaving.unwatch([ref(), ref("never watched")], waiter=waiter)
            (one,) = await leaving.list_pending()
            assert one.priority is priority, waiter

    @pytest.mark.parametrize(
        ("priority", "left"),
        [
            (Priority.LOOKUP, Priority.LOOKUP),
            (Priority.DEADLINE, Priority.ABANDONED),
            (Priority.WISH, Priority.ABANDONED),
        ],
    )
    async def test_what_was_hurried_for_a_wait_that_is_over_is_not_urgent_any_more(
        self, here: Store, there: Store, priority: Priority, left: Priority
    ) -> None:
        await there.watch([ref()], poll_in=60)
        await here.hurry_polls([ref()], priority)
        there.unwatch([ref()])
        (one,) = await there.list_pending()
        assert one.priority is left

    async def test_with_only_confirmed_outcomes_counting_an_operation_is_watched_until_it_has_one(
        self, here: Store, there: Store
    ) -> None:
        await here.record_outcome(outcome(ref("1"), confirmed=False))
        await here.record_outcome(outcome(ref("2"), confirmed=True))
        known = await there.watch([ref("1"), ref("2")], poll_in=60, confirmed=True)
        assert sorted(settled.ref.uid for settled in known) == ["1", "2"]
        (one,) = await here.list_pending()
        assert (one.ref, one.priority) == (ref("1"), Priority.ROUTINE)

    async def test_only_a_first_outcome_and_a_confirmed_one_end_what_is_pending(self, here: Store, there: Store) -> None:
        told = outcome(ref(), confirmed=False)
        await here.watch([ref()], poll_in=60)
        await there.record_outcome(told)
        assert await pending(here) == []
        await here.watch([ref()], poll_in=60, confirmed=True)
        await there.accept(event("again", of=ref(), complete=resource()))
        await there.record_outcome(told)
        assert await pending(here) == ["1"]
        await there.record_outcome(outcome(ref(), confirmed=True))
        assert await pending(here) == []

    async def test_watching_what_is_being_polled_lets_its_next_poll_be_put_off_no_further_than_it_says(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.add_pending([ref()], poll_in=0)
        poller = Poller(time, here)
        claims = await poller.run()
        await there.watch([ref()], poll_in=15)
        await poller.settle(claims, retry_in=3_600)
        (one,) = await there.list_pending()
        assert one.priority is Priority.ROUTINE
        assert one.due_in == pytest.approx(15, abs=1)

    # claims

    async def test_an_operation_is_claimed_once_until_its_lease_is_over(self, here: Store, there: Store, time: Time) -> None:
        await here.add_pending([ref(str(number)) for number in range(8)], poll_in=0)
        poller = Poller(time, here, there, lease=200)
        assert sorted(uids(await poller.run(90))) == list("01234567")
        assert len({claim.fence for claim in poller.claims}) == 8
        assert await poller.run(100) == []
        assert sorted(uids(await poller.run(120))) == list("01234567")

    async def test_what_is_urgent_is_polled_first(self, here: Store, there: Store, time: Time) -> None:
        order = [Priority.LOOKUP, Priority.DEADLINE, Priority.WISH]
        await here.add_pending([ref("abandoned")], poll_in=0)
        await here.watch([ref("routine")], poll_in=0)
        for priority in reversed(order):
            await there.hurry_polls([ref(priority.name)], priority)
        assert uids(await Poller(time, there).run()) == [*(priority.name for priority in order), "routine", "abandoned"]

    async def test_a_hurried_operation_keeps_its_higher_rank(self, here: Store, there: Store, time: Time) -> None:
        await here.hurry_polls([ref()], Priority.LOOKUP)
        await there.hurry_polls([ref()], Priority.WISH)
        (claim,) = await Poller(time, here).run()
        assert claim.priority is Priority.LOOKUP

    @pytest.mark.parametrize(("priority", "again"), [(Priority.LOOKUP, 1), (Priority.WISH, 1), (Priority.DEADLINE, 0)])
    async def test_a_lookup_or_a_wish_ends_the_claim_of_a_poll_that_is_under_way_a_deadline_does_not(
        self, here: Store, there: Store, time: Time, priority: Priority, again: int
    ) -> None:
        await here.watch([ref()], poll_in=0)
        poller = Poller(time, here, there)
        (old,) = await poller.run()
        await there.hurry_polls([ref()], priority)
        found = await poller.run()
        assert len(found) == again
        if found:
            await poller.settle([old], retry_in=600)
            (one,) = await there.list_pending()
            assert one.polls == 0
            await poller.settle(found, retry_in=600)
        (one,) = await there.list_pending()
        assert one.polls == again

    async def test_a_poll_that_settled_nothing_is_repeated_when_told(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref("1"), ref("2")], poll_in=0)
        poller = Poller(time, here, there)
        first, second = sorted(await poller.run(), key=lambda claim: claim.ref.uid)
        await poller.settle([first], retry_in=30)
        await poller.settle([second], retry_in=30, counted=False)
        assert await poller.run(29) == []
        again = sorted(await poller.run(2), key=lambda claim: claim.ref.uid)
        assert [(claim.ref.uid, claim.polls, claim.attempt) for claim in again] == [("1", 1, 1), ("2", 0, 0)]
        await there.record_outcome(outcome(ref("1")))
        await poller.settle(again, retry_in=0)
        assert uids(await poller.run()) == ["2"]

    async def test_attempts_are_counted_anew_where_an_operation_is_raised(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref()], poll_in=0)
        poller = Poller(time, here, there)
        await poller.settle(await poller.run(), retry_in=30)
        await there.hurry_polls([ref()], Priority.LOOKUP)
        (claim,) = await poller.run()
        assert (claim.polls, claim.attempt, claim.priority) == (1, 0, Priority.LOOKUP)
        await poller.settle([claim], retry_in=30, priority=Priority.LOOKUP)
        (claim,) = await poller.run(31)
        assert (claim.polls, claim.attempt, claim.priority) == (2, 1, Priority.LOOKUP)

    async def test_an_operation_hurried_again_loses_no_rank_no_attempts_and_no_time(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.hurry_polls([ref()], Priority.LOOKUP)
        poller = Poller(time, here, there)
        await poller.settle(await poller.run(), retry_in=4, priority=Priority.LOOKUP)
        await there.hurry_polls([ref()], Priority.WISH)
        (claim,) = await poller.run()
        assert (claim.priority, claim.polls, claim.attempt) == (Priority.LOOKUP, 1, 1)

    async def test_attempts_are_counted_again_where_an_operation_is_lowered(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref()], poll_in=0)
        await there.hurry_polls([ref()], Priority.WISH)
        poller = Poller(time, here, there)
        seen = []
        for _ in range(3):
            claims = await poller.run()
            seen += [(claim.priority, claim.polls, claim.attempt) for claim in claims]
            await poller.settle(claims, retry_in=0)
        assert seen == [(Priority.WISH, 0, 0), (Priority.ROUTINE, 1, 0), (Priority.ROUTINE, 2, 1)]

    async def test_the_rank_of_what_was_given_back_goes_by_whether_it_is_waited_for(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.watch([ref("watched"), ref("left")], poll_in=0)
        await here.hurry_polls([ref("mentioned")], Priority.LOOKUP)
        poller = Poller(time, here, there)
        claims = await poller.run()
        here.unwatch([ref("left")])
        await poller.settle(claims, retry_in=60)
        ranks = {one.ref.uid: one.priority for one in await there.list_pending()}
        assert ranks == {"left": Priority.ABANDONED, "mentioned": Priority.ABANDONED, "watched": Priority.ROUTINE}

    async def test_how_often_the_vendor_did_not_know_an_operation_is_counted_for_all(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.watch([ref()], poll_in=0)
        poller = Poller(time, there, here)
        seen = []
        for known in (False, False, None, True, False, False):
            claims = await poller.run(30.5)
            seen += [(claim.missing, round(claim.missing_for / 10)) for claim in claims]
            await poller.settle(claims, retry_in=30, known=known)
        assert seen == [(0, 0), (1, 3), (2, 6), (2, 9), (0, 0), (1, 3)]

    async def test_nothing_to_poll_says_when_there_will_be_something(self, here: Store, there: Store) -> None:
        found = await here.claim_polls("default", limit=5, lease=60, max_per_second=RATE)
        assert (list(found.claims), found.next_in) == ([], math.inf)
        await there.watch([ref()], poll_in=30)
        found = await here.claim_polls("default", limit=5, lease=60, max_per_second=RATE)
        assert list(found.claims) == []
        assert found.next_in == pytest.approx(30, abs=1)

    async def test_scopes_are_polled_apart(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref("1"), ref("2", scope="other")], poll_in=0)
        assert uids(await Poller(time, there).run()) == ["1"]
        assert uids(await Poller(time, there, scope="other").run()) == ["2"]

    # the budget

    async def test_store_objects_share_one_budget_without_bursts(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=5.0)
        await poller.run(10)
        starts = sorted(poller.starts)
        assert 48 <= len(starts) <= 52
        assert min(later - sooner for sooner, later in pairwise(starts)) >= 0.2 - 0.01
        assert all(start <= poller.passed + 0.5 for start in starts)

    async def test_a_further_request_is_paid_from_the_same_budget(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, rate=5.0)
        await poller.run(2)
        for _ in range(5):
            await poller.take_further(there)
        await poller.run(3)
        starts = sorted(poller.starts)
        assert min(later - sooner for sooner, later in pairwise(starts)) >= 0.2 - 0.01
        assert len(starts) <= 5 * poller.passed + 2

    async def test_further_requests_and_operations_that_are_due_take_turns(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, rate=5.0)
        for further in range(1, 21):
            await poller.take_further(there)
            await poller.run(0.25)
            assert further - 1 <= len(poller.claims) <= 3 * further
        starts = sorted(poller.starts)
        assert min(later - sooner for sooner, later in pairwise(starts)) >= 0.2 - 0.01

    async def test_while_nothing_is_due_further_requests_get_the_whole_budget(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.watch([ref()], poll_in=60)
        poller = Poller(time, here, rate=5.0)
        for store in [here, there] * 20:
            await poller.take_further(store)
        assert poller.starts[-1] <= 40 / 5 * 1.1

    async def test_during_a_pause_no_further_request_is_permitted(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref()], poll_in=0)
        await there.pause_polls("default", 30)
        poller = Poller(time, here, rate=5.0)
        await poller.take_further(there)
        assert poller.starts[0] >= 30

    @pytest.mark.slow
    async def test_where_budgets_differ_the_lowest_that_is_alive_holds(
        self, here: Store, there: Store, time: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        await here.watch([ref(str(number)) for number in range(400)], poll_in=0)
        await there.claim_polls("default", limit=1, lease=60, max_per_second=1.0)
        poller = Poller(time, here, rate=10.0)
        await poller.run(20)
        assert len(poller.claims) <= 22
        assert caplog.text.count("max_per_second") == 1
        await poller.run(35)  # a process says for some time after its last poll what it allows
        before = len(poller.claims)
        await poller.run(10)
        assert 95 <= len(poller.claims) - before <= 105

    @pytest.mark.slow
    async def test_operations_that_are_not_waited_for_get_a_tenth_of_the_budget(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.add_pending([ref(f"abandoned {number}") for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=10.0)
        await poller.run(10)
        assert 9 <= len(poller.claims) <= 12
        await here.watch([ref(str(number)) for number in range(300)], poll_in=0)
        claims = await poller.run(10)
        assert sum(claim.priority is Priority.ABANDONED for claim in claims) <= 11
        assert 95 <= len(claims) <= 105

    async def test_a_pause_holds_for_all_and_no_burst_follows_it(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=10.0)
        await poller.run(1)
        await there.pause_polls("default", 30)
        await here.pause_polls("default", 5)
        before = len(poller.starts)
        await poller.run(29)
        assert poller.starts[before:] == []
        await poller.run(5)
        after = sorted(poller.starts[before:])
        assert 30 - 0.1 <= after[0] - 1 <= 32
        assert min(later - sooner for sooner, later in pairwise(after)) >= 0.1 - 0.01

    async def test_a_vendor_that_refuses_is_asked_about_one_operation_at_a_time_until_it_answers(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=10.0)
        claims = await poller.run(1)
        await there.pause_polls("default", 60, refused=True)
        await poller.settle(claims, retry_in=60, counted=False, answered=False)
        before = poller.passed
        (one,) = await poller.run(65)
        assert one.refusals == 1
        assert await poller.run(30) == []  # its answer has not come
        await poller.settle([one], retry_in=600, answered=False, counted=False)
        (other,) = await poller.run(5)
        assert poller.starts[-1] - before >= 70
        await poller.settle([other], retry_in=600)
        assert len(await poller.run(2)) >= 15

    @pytest.mark.parametrize("jump", JUMPS)
    async def test_a_wall_clock_that_is_set_neither_hurries_nor_delays_a_poll(
        self, here: Store, there: Store, time: Time, jump: float
    ) -> None:
        await here.watch([ref("1")], poll_in=30)
        await here.watch([ref("2")], poll_in=0)
        poller = Poller(time, here, there, lease=60)
        assert uids(await poller.run()) == ["2"]
        await there.pause_polls("default", 20)
        await time.jump(jump)
        assert await poller.run(28) == []
        assert uids(await poller.run(4)) == ["1"]
        assert uids(await poller.run(40)) == ["2"]
