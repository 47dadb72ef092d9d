"""Pending operations: which events ask about them, how they are listed, and who waits and polls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rewards_core.operations import OperationRef
from tests.webhooks.store_contract.kit import Ear, Poller, Time, event, outcome, pending, ref, resource, uids
from webhooks.store.base import Store
from webhooks.store.readings import ProcessActivity, Wake
from webhooks.store.records import Priority


def woken(of: OperationRef, at: float) -> Wake:
    return Wake(ref=of, via="webhook", asked_at=at - 2, settled_at=at - 1, woken_at=at)


async def reported(store: Store, time: Time, told: Callable[[Sequence[ProcessActivity]], bool]) -> Sequence[ProcessActivity]:
    """Return what processes say of themselves, once they have told something and 11 s have passed."""
    await time.advance(11)
    while not told(found := (await store.activity()).processes):
        await time.advance(1)
    return found


class PendingContract:
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
