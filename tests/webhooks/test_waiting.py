"""Waiting, by `wait` and by `as_completed`, with receiver and waiter on one store object or on two."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from rewards_core.errors import NotFound, OperationFailed, OperationMismatch
from rewards_core.operations import OperationRef, OperationStatus
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import Thing, a_ref, a_thing, lost, trouble, words_of
from tests.webhooks.world import World, leave, now, settle
from webhooks import CompletionsClosed, CompletionTimeout, MemoryStore, Outcome, SQLiteStore
from webhooks.store.base import Store, Subscriber


@frozen
class Stores:
    """The stores of receiver and waiter, and the seconds that a hint takes between them."""

    receiving: Store
    waiting: Store
    hint: float


@asynccontextmanager
async def one_memory_store(_: Path) -> AsyncIterator[Stores]:
    store = MemoryStore(clock=wall)
    yield Stores(store, store, hint=0.0)
    await store.aclose()


@asynccontextmanager
async def two_objects_on_one_file(folder: Path) -> AsyncIterator[Stores]:
    seconds = asyncio.get_running_loop().time  # asked by threads too

    def one() -> SQLiteStore:
        return SQLiteStore(folder / "inbox.db", clock=lambda: EPOCH + seconds(), uptime=seconds, boot="virtual")

    receiving, waiting = one(), one()
    yield Stores(receiving, waiting, hint=0.2)
    await waiting.aclose()
    await receiving.aclose()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[Stores]]] = {
    "one memory store": one_memory_store,
    "two objects on one file": two_objects_on_one_file,
}


async def by_wait(world: World, operation: Any, **options: Any) -> Any:
    return await world.completions.wait(operation, **options)


async def by_as_completed(world: World, operation: Any, **options: Any) -> Any:
    async with world.completions.as_completed([operation], **options) as outcomes:
        one = await anext(outcomes)
    if one.error is not None:
        raise one.error
    return one.operation


WAYS: dict[str, Callable[..., Awaitable[Any]]] = {"wait": by_wait, "as_completed": by_as_completed}


class Hints(Subscriber):
    """Intercept a store's subscriptions, so that hints can be lost."""

    def __init__(self, store: Any) -> None:
        self.lost = False
        self.subscribers: list[Subscriber] = []
        self.subscribe_in_truth = store.subscribe
        store.subscribe, store.unsubscribe = self.subscribe, self.unsubscribe

    async def subscribe(self, subscriber: Subscriber) -> None:
        self.subscribers.append(subscriber)
        await self.subscribe_in_truth(self)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self.subscribers = [one for one in self.subscribers if one is not subscriber]

    def waits_for(self, ref: OperationRef) -> bool:
        return any(one.waits_for(ref) for one in self.subscribers)

    def settled(self, outcome: Outcome) -> None:
        self.tell("settled", outcome)

    def confirmed(self, outcome: Outcome) -> None:
        self.tell("confirmed", outcome)

    def polls_due(self) -> None:
        self.tell("polls_due")

    def missed(self) -> None:
        self.tell("missed")

    def tell(self, hint: str, *what: Any) -> None:
        for one in () if self.lost else list(self.subscribers):
            getattr(one, hint)(*what)


class WaitingWorld(World):
    """A world in which a caller waits in one of the ways."""

    def __init__(self, way: Callable[..., Awaitable[Any]], stores: Stores, **options: Any) -> None:
        super().__init__(stores.waiting, stores.receiving, **options)
        self.way = way
        self.hint = stores.hint
        self.hints = Hints(stores.waiting)

    async def wait(self, operation: Any, **options: Any) -> Any:
        return await self.way(self, operation, **options)

    def start(self, operation: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.wait(operation, **options))

    def in_time(self, moment: float) -> bool:
        """Return whether this is the moment, allowing for the delay of a hint."""
        return moment <= now() <= moment + self.hint + 0.02


OpenWorld = Callable[..., AbstractAsyncContextManager[WaitingWorld]]


@asynccontextmanager
async def waiting_world(
    make_stores: Callable[[], AbstractAsyncContextManager[Stores]], way: Callable[..., Awaitable[Any]], **options: Any
) -> AsyncIterator[WaitingWorld]:
    """Open a world, and check that it leaves nothing behind."""
    async with make_stores() as stores:
        world = WaitingWorld(way, stores, **options)
        async with world.completions:
            yield world
            await settle()
            assert world.completions.statistics.waiting == 0
            assert list(world.completions.pending()) == []


class TestWaiting:
    @pytest.fixture(params=STORES)
    def make_stores(self, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[Stores]]:
        return partial(STORES[request.param], tmp_path)

    @pytest.fixture(params=WAYS)
    def open_world(self, request: pytest.FixtureRequest, make_stores: Any) -> OpenWorld:
        return partial(waiting_world, make_stores, WAYS[request.param])

    # where an outcome comes from

    @virtual_time
    async def test_an_event_before_its_waiter_resolves_immediately(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await world.deliver("1")
            final = await world.wait("1", timeout=300)
            assert (final.status, final.ref) == (OperationStatus.DONE, a_ref("1"))
            assert world.in_time(0.0)
            assert world.vendor.reads == []

    @virtual_time
    async def test_an_event_wakes_its_waiter_at_once_and_without_a_request(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = world.start(a_thing("1"), timeout=300)
            await asyncio.sleep(7)
            await world.deliver("1")
            assert (await waiting).amount == "1.5"
            assert world.in_time(7.0)
            assert world.vendor.reads == []
            statistics = world.completions.statistics
            assert (statistics.settled_by_webhook, statistics.settled_by_poll) == (1, 0)
            assert len(statistics.delays["webhook"]) == 1

    @virtual_time
    async def test_a_woken_caller_is_noted_with_its_times(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await asyncio.sleep(3)
            waiting = world.start(a_thing("1"), timeout=300)
            await asyncio.sleep(7)
            await world.deliver("1")
            await waiting
            ((wake,),) = [one.wakes for one in (await world.store.activity()).processes if one.wakes]
            assert (wake.ref, wake.via) == (a_ref("1"), "webhook")
            assert wake.asked_at in ({EPOCH + 3.0} if world.way is by_wait else {None})
            assert (wake.settled_at, wake.woken_at) == pytest.approx((EPOCH + 10.0, EPOCH + 10.0), abs=world.hint + 0.1)

    @virtual_time
    @pytest.mark.parametrize("passes", range(8))
    async def test_an_event_while_its_waiter_registers_is_not_missed(self, open_world: OpenWorld, passes: int) -> None:
        async with open_world() as world:
            waiting = world.start("1", timeout=300)
            for _ in range(passes):
                await asyncio.sleep(0)
            await world.deliver("1")
            await waiting
            assert world.in_time(0.0)

    @virtual_time
    async def test_without_a_webhook_the_poll_settles(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            assert (await world.wait("1", timeout=300)).status is OperationStatus.DONE
            assert world.vendor.read_times == pytest.approx([15.0, 39.0], abs=0.05)
            assert world.completions.statistics.settled_by_poll == 1
            kept = await world.store.outcome(a_ref("1"))
            assert (kept.via, kept.confirmed, kept.settled_at) == ("poll", True, pytest.approx(EPOCH + 39.0, abs=0.05))
            assert await world.pending() == set()

    @virtual_time
    async def test_an_outcome_that_is_kept_needs_no_request(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await world.receiving.record_outcome(kept("1", via="poll"))
            assert (await world.wait(a_ref("1"), timeout=1)).status is OperationStatus.DONE
            assert world.vendor.reads == []

    @virtual_time
    async def test_poll_now_polls_at_once_and_then_as_usual(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            await world.wait("1", timeout=300, poll_now=True)
            assert world.vendor.read_times == pytest.approx([0.0, 15.0], abs=0.05)

    @virtual_time
    async def test_an_operation_of_another_scope_or_kind_settles_nothing_here(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = world.start("1", timeout=10)
            await settle()
            await world.deliver("1", kind="other")
            await world.receiving.record_outcome(evolve(kept("1"), ref=a_ref("1", scope="other")))
            with pytest.raises(CompletionTimeout):
                await waiting

    # how it ends

    @virtual_time
    async def test_failed_is_raised_with_the_operation(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "failed")
            for _ in range(2):
                with pytest.raises(OperationFailed) as caught:
                    await world.wait("1", timeout=60)
                assert caught.value.operation.status is OperationStatus.FAILED
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_an_operation_that_settled_as_another_than_was_asked_for_is_a_mismatch(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = world.start(a_thing("1", amount="9"), timeout=60)
            await settle()
            await world.deliver("1", amount="1.5")
            with pytest.raises(OperationMismatch):
                await waiting
            assert (await world.wait(a_ref("1"))).status is OperationStatus.DONE

    @virtual_time
    async def test_failed_then_done_keeps_the_first_and_shows_the_conflict(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "failed")
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=60)
            await world.deliver("1", "done")
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=60)
            assert [one.status for one in await world.store.conflicts(a_ref("1"))] == ["done"]

    @virtual_time
    async def test_an_operation_that_is_done_already_is_stored_and_given_at_once(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            final = await world.wait(a_thing("1", "done", key="k", recovered=True), timeout=60)
            assert (final.status, final.recovered) == (OperationStatus.DONE, True)
            with pytest.raises(OperationFailed):
                await world.wait(a_thing("2", "failed"))
            assert world.in_time(0.0)
            stored = await world.store.outcome(a_ref("1"))
            assert (stored.via, stored.key, stored.confirmed) == ("poll", "k", True)
            assert (await world.pending(), world.vendor.reads) == (set(), [])

    @virtual_time
    async def test_of_an_operation_that_is_done_already_the_first_outcome_stands(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            await world.deliver("1", "failed")
            with pytest.raises(OperationFailed):
                await world.wait(a_thing("1", "done"))
            assert (await world.store.statistics()).conflicts == world.completions.statistics.conflicts == 1

    @virtual_time
    async def test_an_operation_that_was_found_instead_of_made_is_polled_at_once(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            assert (await world.wait(a_thing("1", recovered=True))).recovered
            assert world.vendor.read_times == pytest.approx([0.0, 15.0], abs=0.05)

    @virtual_time
    async def test_five_times_unknown_over_a_minute_ends_every_wait(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = [world.start("1"), world.start("1", timeout=1_000)]
            first, second = await asyncio.gather(*waiting, return_exceptions=True)
            assert (type(first), type(second)) == (NotFound, NotFound)
            assert first is not second
            assert world.vendor.read_times == pytest.approx([15.0, 39.0, 77.4, 127.4, 177.4], abs=0.1)
            await asyncio.sleep(120)
            assert await world.pending() == set()

    # time

    @virtual_time
    async def test_no_wait_ends_later_than_its_timeout(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 50.0
            with pytest.raises(CompletionTimeout) as caught:
                await world.wait("1", timeout=20)
            assert (caught.value.ref, caught.value.timeout) == (a_ref("1"), 20)
            assert 19.9 <= now() <= 20.1
            assert world.completions.statistics.timeouts == 1

    @virtual_time
    async def test_two_seconds_before_its_deadline_an_operation_is_polled_once_more(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            await world.wait("1", timeout=10)
            assert world.vendor.read_times == pytest.approx([8.0], abs=0.05)

    @virtual_time
    async def test_a_wait_without_time_finds_what_is_kept(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            with pytest.raises(CompletionTimeout):
                await world.wait("1", timeout=0)
            await world.deliver("1")
            assert (await world.wait("1", timeout=0)).status is OperationStatus.DONE

    @virtual_time
    async def test_hints_that_were_missed_are_made_up_for(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            waiting = [world.start(str(number), timeout=30) for number in range(3)]
            waiting.append(asyncio.create_task(by_wait(world, lost("k"), timeout=30)))
            await settle()
            world.hints.lost = True
            await world.deliver("1")
            await world.deliver("9", key="k")
            await asyncio.sleep(5)
            assert not any(one.done() for one in waiting)
            world.hints.lost = False
            world.hints.missed()
            await asyncio.gather(waiting[1], waiting[3])
            assert now() <= 5.1
            await leave(*waiting)

    # who waits

    @virtual_time
    async def test_several_waiters_of_one_operation_all_get_it_for_one_poll(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            waiting = [
                world.start("1", timeout=60),
                world.start(a_thing("1"), timeout=90),
                world.start(a_thing("1", amount="9"), timeout=90),
                asyncio.create_task(by_wait(world, "1")),
                asyncio.create_task(by_as_completed(world, "1")),
            ]
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(result) for result in results] == [Thing, Thing, OperationMismatch, Thing, Thing]
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_operations_of_different_kind_with_the_same_uid_are_told_apart(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            thing, other = world.start(a_ref("1")), world.start(a_ref("1", kind="other"))
            await settle()
            await world.deliver("1", kind="other")
            assert (await other).amount == "1.5"
            assert not thing.done()
            await world.deliver("1", amount="2.5")
            assert (await thing).amount == "2.5"

    @virtual_time
    async def test_a_cancelled_waiter_takes_no_other_along(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            first, second, third = (world.start("1", timeout=60) for _ in range(3))
            await settle()
            await leave(first, second)
            assert list(world.completions.pending()) == [a_ref("1")]
            await world.deliver("1")
            assert (await third).status is OperationStatus.DONE

    @pytest.mark.slow
    @pytest.mark.repeats_itself
    @virtual_time
    async def test_an_operation_that_nobody_waits_for_any_longer_stays_pending_and_is_polled_seldom(
        self, open_world: OpenWorld
    ) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending")
            waiting = world.start("1")
            await asyncio.sleep(0.1)
            assert await world.pending() == {"1"}
            await leave(waiting)
            await asyncio.sleep(3_600)
            assert 3 <= len(world.vendor.reads) <= 9
            world.vendor.will("1", "done")
            await asyncio.sleep(3_700)
            assert await world.pending() == set()

    @virtual_time
    async def test_a_waiter_that_comes_again_keeps_the_time_of_the_next_poll(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "pending", "done")
            for _ in range(20):
                waiting = world.start("1")
                await asyncio.sleep(0.5)
                await leave(waiting)
            await world.wait("1", timeout=300)
            assert world.vendor.read_times == pytest.approx([15.0, 39.0], abs=0.05)

    @virtual_time
    async def test_a_waiter_that_comes_while_its_operation_is_polled_shares_the_answer(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 5.0
            world.vendor.will("1", "done")
            first = world.start("1", timeout=60)
            await asyncio.sleep(16)
            await leave(first)
            await world.wait("1", timeout=60)
            assert world.in_time(20.0)
            assert len(world.vendor.reads) == 1

    # events that settle nothing

    @virtual_time
    async def test_an_event_with_only_the_uid_costs_one_request(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            waiting = world.start("1", timeout=60)
            await asyncio.sleep(3)
            await world.deliver("1", status=None)
            await waiting
            assert world.in_time(3.0)
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_an_event_with_only_the_uid_before_anybody_waits_is_looked_into(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            await world.deliver("1", status=None)
            await asyncio.sleep(world.hint)
            assert (await world.wait("1", timeout=60)).status is OperationStatus.DONE
            assert len(world.vendor.reads) == 1

    @virtual_time
    async def test_an_event_while_its_operation_is_polled_is_not_answered_by_the_older_poll(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 2.0
            world.vendor.will("1", "pending", "done")
            waiting = world.start("1", timeout=60)
            await asyncio.sleep(16)
            await world.deliver("1", status=None)
            await waiting
            assert world.in_time(18.0)
            assert len(world.vendor.reads) == 2

    @virtual_time
    async def test_a_resource_that_is_not_terminal_is_polled(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            waiting = world.start("1", timeout=60)
            await settle()
            await world.deliver("1", "pending")
            await waiting
            assert world.in_time(0.0)

    @virtual_time
    async def test_an_event_without_a_resource_about_a_failed_operation_is_looked_into(
        self, open_world: OpenWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_world() as world:
            world.vendor.will("1", "failed", "done")
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=60)
            await world.deliver("1", status=None)
            await asyncio.sleep(1 + world.hint)
            assert [one.status for one in await world.store.conflicts(a_ref("1"))] == ["done"]
            assert world.completions.statistics.conflicts == 1
            said("an event without a resource about a failed operation is looked into", "\n".join(caplog.messages))

    # without trust in bodies

    @virtual_time
    async def test_without_trust_in_bodies_what_an_event_says_is_confirmed_first(self, open_world: OpenWorld) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", "pending", "pending", "done")
            waiting = world.start("1", timeout=60)
            await settle()
            await world.deliver("1", "done")
            assert (await waiting).status is OperationStatus.DONE
            assert world.in_time(3.0)
            assert len(world.vendor.reads) == 3
            stored = await world.store.outcome(a_ref("1"))
            assert (stored.via, stored.confirmed) == ("webhook", True)
            assert (await world.wait("1")).status is OperationStatus.DONE
            assert len(world.vendor.reads) == 3

    @virtual_time
    async def test_without_trust_in_bodies_what_the_vendor_says_counts_against_the_event(self, open_world: OpenWorld) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", "pending", "failed")
            world.vendor.will("2", "done")
            waiting = world.start("1", timeout=60)
            await settle()
            await world.deliver("1", "done")
            with pytest.raises(OperationFailed):
                await waiting
            await world.deliver("2", "done", "7.5")
            assert (await world.wait("2", timeout=60)).amount == "1.5"

    @virtual_time
    async def test_without_trust_in_bodies_what_another_process_polled_against_the_event_is_heard_at_once(
        self, open_world: OpenWorld
    ) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", "pending")
            waiting = world.start("1", timeout=600)
            await settle()
            await world.deliver("1", "done")
            await asyncio.sleep(5)
            await world.receiving.record_outcome(evolve(kept("1", "failed", via="poll"), confirmed=True))
            with pytest.raises(OperationFailed):
                await waiting
            assert world.in_time(5.0)
            reads = len(world.vendor.reads)
            await asyncio.sleep(60)
            assert (len(world.vendor.reads), await world.pending()) == (reads, set())

    @virtual_time
    async def test_without_trust_in_bodies_what_was_polled_against_the_event_ends_a_later_wait_at_once(
        self, open_world: OpenWorld
    ) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", trouble())
            await world.deliver("1", "done")
            await world.receiving.record_outcome(evolve(kept("1", "failed", via="poll"), confirmed=True))
            with pytest.raises(OperationFailed):
                await world.wait("1", timeout=600)
            assert (world.in_time(0.0), world.vendor.reads) == (True, [])

    @virtual_time
    @pytest.mark.parametrize("before", [True, False])
    async def test_without_trust_in_bodies_a_long_confirmation_is_waited_for(self, open_world: OpenWorld, before: bool) -> None:
        async with open_world(trust_event_body=False) as world:
            world.vendor.will("1", *["pending"] * 8, "done")
            if before:
                await world.deliver("1", "done")
            waiting = [world.start("1", timeout=600), world.start("1", timeout=10)]
            await asyncio.sleep(2)
            for said in ("once", "again"):
                await world.deliver("1", "done", said=said)
                await asyncio.sleep(1)
            with pytest.raises(CompletionTimeout):
                await waiting[1]
            assert (await waiting[0]).status is OperationStatus.DONE
            assert len(world.vendor.reads) == 9
            assert now() < 200

    @virtual_time
    async def test_without_trust_in_bodies_an_operation_that_is_done_already_is_believed(self, open_world: OpenWorld) -> None:
        async with open_world(trust_event_body=False) as world:
            await world.deliver("1", "failed")
            assert (await world.wait(a_thing("1", "done"))).status is OperationStatus.DONE

    @virtual_time
    @pytest.mark.parametrize(("trusting", "via"), [(True, "webhook"), (False, "poll")])
    async def test_an_outcome_that_was_polled_because_of_an_event_counts_as_the_webhooks(
        self, open_world: OpenWorld, trusting: bool, via: str
    ) -> None:
        async with open_world(trust_event_body=trusting) as world:
            waiting = world.start("1")
            await settle()
            world.vendor.will("1", "done")
            await world.deliver("1", status=None)
            await waiting
            assert (await world.store.outcome(a_ref("1"))).via == via

    @virtual_time
    async def test_a_kept_outcome_that_cannot_be_read_is_polled(
        self, open_world: OpenWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with open_world() as world:
            world.vendor.will("1", "done")
            await world.receiving.record_outcome(evolve(kept("1"), resource={"uid": "1"}))
            assert (await world.wait("1", timeout=60)).status is OperationStatus.DONE
            assert world.in_time(0.0)
            said("a kept outcome that cannot be read", "\n".join(caplog.messages))

    # failures and closing

    @virtual_time
    async def test_after_trouble_of_the_vendor_it_is_asked_again_soon(
        self, open_world: OpenWorld, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        async with open_world() as world:
            world.vendor.will("1", trouble(), "done")
            await world.wait("1")
            assert world.vendor.read_times == pytest.approx([15.0, 16.0], abs=0.05)
        assert caplog.text == ""

    @virtual_time
    async def test_closing_ends_every_wait_at_once(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            world.vendor.latency = 30.0
            waiting = [world.start("1"), world.start("1", timeout=60), world.start("2")]
            await asyncio.sleep(20)
            await world.completions.aclose()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, CompletionsClosed)
            assert 20.0 <= now() <= 20.1
            with pytest.raises(CompletionsClosed, match="aclose"):
                await world.wait("1")

    @virtual_time
    async def test_an_operation_of_another_scope_is_refused(self, open_world: OpenWorld) -> None:
        async with open_world() as world:
            with pytest.raises(ValueError, match="scope"):
                await world.wait(a_ref(scope="other"))


def kept(uid: str, status: str = "done", via: Any = "webhook") -> Outcome:
    return Outcome(ref=a_ref(uid), status=OperationStatus(status), resource=words_of(uid, status), via=via, settled_at=EPOCH)
