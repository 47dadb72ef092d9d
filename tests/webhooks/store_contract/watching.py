"""Watching operations: what is known at once, and how urgent the polls of what is waited for are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.webhooks.store_contract.kit import Ear, Poller, Time, event, outcome, pending, ref, resource, uids
from webhooks.store.base import Store
from webhooks.store.records import Priority


class WatchingContract:
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
