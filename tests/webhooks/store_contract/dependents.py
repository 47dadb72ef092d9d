"""Operations that are about something else: an event about that has them looked up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rewards_core.operations import OperationRef
from tests.webhooks.store_contract.kit import Ear, Poller, Time, event, outcome, ref, resource, uids
from webhooks.store.base import Store
from webhooks.store.records import Acceptance, Priority

ASSET = ref("7", kind="asset")
MAX = 1_000


def transfer(uid: str = "1", about: str | None = "asset/7", scope: str = "default") -> OperationRef:
    return OperationRef(scope, "transfer", uid, about)


async def hurried(store: Store, priority: Priority) -> list[str]:
    """Return the transfers whose next poll is due and has a priority."""
    listed = await store.list_pending(kind="transfer", limit=2 * MAX)
    return [one.ref.uid for one in listed if (one.priority, one.due_in) == (priority, 0.0)]


async def looked_up(store: Store) -> list[str]:
    """Return the transfers whose next poll is a lookup that is due."""
    return await hurried(store, Priority.LOOKUP)


async def about(store: Store, uid: str = "1") -> str | None:
    (one,) = await store.pending([transfer(uid)])
    (listed,) = await store.list_pending(kind="transfer", uid=uid)
    assert listed.ref.about == one.ref.about
    return one.ref.about


class DependentsContract:
    @pytest.mark.parametrize(
        "told",
        [
            {"of": ASSET},
            {"of": ASSET, "complete": resource("7")},
            {"also": (ref("8"), ASSET)},
            {"of": ref("8"), "complete": resource("8"), "also": (ASSET,)},
        ],
    )
    async def test_an_event_about_a_thing_has_what_is_about_it_looked_up_at_once(
        self, here: Store, there: Store, told: dict[str, Any]
    ) -> None:
        await here.watch([transfer("1")], poll_in=60)
        await there.add_pending([transfer("2")], poll_in=60)
        ear = Ear()
        await there.subscribe(ear)
        heard = ear.polls
        await here.accept(event(**told))
        assert await looked_up(there) == ["1", "2"]
        await ear.until(lambda ear: ear.polls > heard)

    async def test_nothing_else_is_looked_up(self, here: Store, there: Store) -> None:
        others = [
            transfer("1", scope="other"),
            transfer("2", about="asset/8"),
            transfer("3", about="asset/77"),
            transfer("4", about="reward/7"),
            transfer("5", about=None),
        ]
        await here.add_pending([*others, transfer("6"), transfer("7"), transfer("8")], poll_in=60)
        await there.record_outcome(outcome(transfer("6")))
        await there.remove_pending([transfer("7")])
        await there.accept(event(of=ASSET))
        assert await looked_up(here) == ["8"]
        assert [one.ref.uid for one in await here.list_pending(kind="transfer", scope="default")] == ["2", "3", "4", "5", "8"]
        await here.accept(event(of=ref("7", kind="asset", scope="other"), complete=resource("7")))
        assert await looked_up(there) == ["8", "1"]

    async def test_an_event_about_a_thing_with_an_outcome_tells_of_what_is_about_it_all_the_same(
        self, here: Store, there: Store
    ) -> None:
        await here.record_outcome(outcome(ASSET))
        await here.add_pending([transfer()], poll_in=60)
        await there.accept(event("again", of=ASSET, complete=resource("7")))
        assert await looked_up(here) == ["1"]
        await here.remove_pending([transfer()])
        await there.add_pending([transfer()], poll_in=60)
        await here.accept(event("differs", of=ASSET, complete=resource("7", "failed")))
        assert await looked_up(there) == ["1"]

    async def test_an_event_that_settles_one_operation_has_the_others_about_its_thing_looked_up(
        self, here: Store, there: Store
    ) -> None:
        await here.watch([transfer("1"), transfer("2")], poll_in=60)
        await there.accept(event(of=transfer("1", about=None), complete=resource("1"), also=(ASSET,)))
        assert await looked_up(here) == ["2"]
        assert [one.ref.uid for one in await here.list_pending(kind="transfer")] == ["2"]
        assert await here.outcome(transfer("1")) is not None

    async def test_what_is_known_as_done_is_not_looked_up_and_what_is_known_as_failed_is(self, here: Store, there: Store) -> None:
        for uid, status in (("1", "done"), ("2", "failed")):
            await here.record_outcome(outcome(transfer(uid), status))
        await there.watch([transfer("1"), transfer("2")], poll_in=60, confirmed=True)
        await here.accept(event(of=ASSET))
        assert await looked_up(there) == ["2"]

    async def test_a_poll_that_is_under_way_is_repeated(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([transfer()], poll_in=0)
        poller = Poller(time, here, there)
        (old,) = await poller.run()
        assert (old.ref.about, old.priority) == ("asset/7", Priority.ROUTINE)
        await there.accept(event(of=ASSET, complete=resource("7")))
        await poller.settle([old], retry_in=600)
        (again,) = await poller.run()
        assert (again.ref, again.ref.about, again.priority, again.polls) == (transfer(), "asset/7", Priority.LOOKUP, 0)

    async def test_a_duplicate_and_a_dead_letter_have_nothing_looked_up(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event("1", of=ASSET, complete=resource("7")))
        await time.advance(61.0)
        await here.add_pending([transfer()], poll_in=60)
        assert await there.accept(event("1", of=ASSET, complete=resource("7"))) is Acceptance.DUPLICATE
        await there.accept(event("2", of=ASSET, also=(ASSET,), problem="names another app"))
        assert await looked_up(here) == []
        await there.accept(event("3", of=ASSET, complete=resource("7")))
        poller = Poller(time, here)
        await poller.settle(await poller.run(), retry_in=600)
        assert await there.accept(event("3", of=ASSET, complete=resource("7"))) is Acceptance.DUPLICATE
        assert await looked_up(here) == []

    @pytest.mark.parametrize("told", [{"of": ASSET}, {"of": ASSET, "complete": resource("7")}, {"also": (ASSET,)}])
    async def test_an_amended_event_has_what_is_about_its_things_looked_up(
        self, here: Store, there: Store, told: dict[str, Any]
    ) -> None:
        await here.accept(event("1", problem="unreadable"))
        (dead,) = await there.list_events()
        await there.add_pending([transfer()], poll_in=60)
        await here.amend(dead.id, event("1", **told, problem="still unreadable"))
        assert await looked_up(there) == []
        ear = Ear()
        await there.subscribe(ear)
        await here.amend(dead.id, event("1", **told))
        assert await looked_up(there) == ["1"]
        await ear.until(lambda ear: ear.polls)

    async def test_of_many_operations_about_one_thing_only_so_many_are_looked_up(self, here: Store, there: Store) -> None:
        await here.add_pending([transfer(f"{number:04}") for number in range(MAX + 50)], poll_in=60)
        await here.add_pending([transfer("other", about="asset/8")], poll_in=60)
        await there.accept(event(of=ASSET, complete=resource("7"), also=(ref("8", kind="asset"),)))
        found = await looked_up(here)
        assert (len(found), found[-1]) == (MAX + 1, "other")

    # what an operation is about

    async def test_what_an_operation_is_about_is_never_forgotten_and_the_last_word_counts(
        self, here: Store, there: Store
    ) -> None:
        bare = transfer(about=None)
        await here.watch([bare], poll_in=60)
        assert await about(there) is None
        ways: list[Callable[[OperationRef], Awaitable[object]]] = [
            lambda of: here.watch([of], poll_in=60),
            lambda of: there.add_pending([of], poll_in=60),
            lambda of: here.hurry_polls([of], Priority.WISH),
            lambda of: there.hurry_polls([of], Priority.DEADLINE),
        ]
        for number, add in enumerate(ways):
            await add(transfer(about=f"asset/{number}"))
            assert await about(here) == f"asset/{number}"
            await add(bare)
            assert await about(there) == f"asset/{number}"
        await here.accept(event("1", of=ref("0", kind="asset")))
        assert await looked_up(there) == []
        await here.accept(event("2", of=ref("3", kind="asset")))
        assert await looked_up(there) == ["1"]

    async def test_a_new_operation_is_about_what_any_of_its_refs_says(self, here: Store, there: Store) -> None:
        def refs(uid: str) -> list[OperationRef]:
            return [transfer(uid, about=None), transfer(uid), transfer(uid, about=None)]

        await here.watch(refs("1"), poll_in=60)
        await there.add_pending(refs("2"), poll_in=60)
        await here.hurry_polls(refs("3"), Priority.DEADLINE)
        await there.hurry_polls(refs("4"), Priority.LOOKUP)
        assert {await about(here, uid) for uid in "1234"} == {"asset/7"}

    async def test_a_deadline_leaves_a_poll_under_way_and_keeps_what_it_says(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([transfer(about=None)], poll_in=0)
        poller = Poller(time, here)
        claims = await poller.run()
        await there.hurry_polls([transfer()], Priority.DEADLINE)
        assert await poller.run() == []
        assert await about(here) == "asset/7"
        await poller.settle(claims, retry_in=60)
        (one,) = await there.pending([transfer()])
        assert one.polls == 1

    async def test_a_poll_tells_what_a_bare_uid_is_about(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([transfer("1", about=None), transfer("2", about="asset/8")], poll_in=0)
        poller = Poller(time, there)
        claims = await poller.run()
        assert sorted(uids(claims)) == ["1", "2"]
        await here.hurry_polls([transfer("3", about=None)], Priority.WISH)
        (stale,) = await poller.run()
        await here.hurry_polls([transfer("3", about=None)], Priority.WISH)
        await poller.settle([*claims, stale], retry_in=60, about="asset/7")
        assert [await about(here, uid) for uid in "123"] == ["asset/7", "asset/8", None]
        await poller.settle(await poller.run(61), retry_in=60)
        assert await about(there, "1") == "asset/7"
        await here.accept(event(of=ASSET))
        assert await looked_up(there) == ["1"]

    @pytest.mark.parametrize("odd", ["दि\0", "दि\udcff", "a/b"])
    async def test_odd_words_are_about_each_other(self, here: Store, there: Store, odd: str) -> None:
        await here.watch([transfer("1", about=f"asset/{odd}")], poll_in=60)
        await there.add_pending([transfer("2", about=f"asset/{odd}")], poll_in=60)
        await there.accept(event("1", of=ref(odd, kind="asset"), complete=resource("7")))
        assert await looked_up(here) == ["1", "2"]

    @pytest.mark.parametrize("told", [{"of": ASSET}, {"of": ref("8"), "complete": resource("8"), "also": (ASSET,)}])
    @pytest.mark.parametrize("waiting", [True, False], ids=["watched", "pending"])
    async def test_an_event_shortly_before_has_it_polled_once_at_once(
        self, here: Store, there: Store, told: dict[str, Any], waiting: bool
    ) -> None:
        await here.accept(event(**told))
        refs = [transfer("1"), transfer("2", about="asset/8"), transfer("3", about=None), transfer("4", about="reward/7")]
        refs.append(transfer("5", scope="other"))
        await (here.watch(refs, poll_in=60) if waiting else here.add_pending(refs, poll_in=60))
        assert await hurried(there, Priority.WISH) == ["1"]
        assert await looked_up(there) == []

    async def test_an_event_long_before_has_nothing_looked_up(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event(of=ASSET))
        await time.advance(61.0)
        await here.watch([transfer("1")], poll_in=60)
        assert await hurried(there, Priority.ROUTINE) == await hurried(there, Priority.WISH) == []

    async def test_a_dead_letter_before_has_nothing_looked_up(self, here: Store, there: Store) -> None:
        await here.accept(event(of=ASSET, problem="unreadable"))
        await here.accept(event("also", of=ref("8"), also=(ASSET,), problem="unreadable"))
        await here.watch([transfer("1")], poll_in=60)
        assert await hurried(there, Priority.ROUTINE) == await hurried(there, Priority.WISH) == []

    async def test_what_is_about_itself_is_looked_up_only_while_it_is_pending(self, here: Store, there: Store) -> None:
        itself = OperationRef("default", "asset", "7", "asset/7")
        await here.accept(event(of=itself))
        await here.accept(event("also", of=ref("8"), also=(OperationRef("default", "asset", "9", "asset/9"),)))
        assert [one.ref.uid for one in await there.list_pending()] == ["8"]
        await here.watch([itself], poll_in=60)
        assert [(one.ref.kind, one.ref.uid, one.priority) for one in await there.list_pending(kind="asset")] == [
            ("asset", "7", Priority.LOOKUP)
        ]
        (known,) = await there.list_events(ref=itself)
        assert known.event.ref == itself

    async def test_an_event_shortly_before_does_not_bring_back_what_has_an_outcome(self, here: Store, there: Store) -> None:
        await here.accept(event(of=ASSET))
        for uid, status in (("1", "done"), ("2", "failed")):
            await there.record_outcome(outcome(transfer(uid), status))
        await here.watch([transfer("1"), transfer("2")], poll_in=60)
        await here.add_pending([transfer("1"), transfer("2")], poll_in=60)
        assert await there.list_pending(kind="transfer") == []
