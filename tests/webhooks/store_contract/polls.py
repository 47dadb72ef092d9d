"""Claims of polls: which operation is polled first, again, and by whom."""

from __future__ import annotations

import math

import pytest

from tests.webhooks.store_contract.kit import RATE, Poller, Time, outcome, ref, uids
from webhooks.store.base import Store
from webhooks.store.records import Priority


class PollsContract:
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
        if again:
            await poller.settle([old], retry_in=600)
        found = await poller.run()
        assert len(found) == again
        if again:
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
