"""How waits end when something is closed, cancelled, used in the wrong loop or given bad arguments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from rewards_core.errors import StoreClosed
from rewards_core.operations import Operation, OperationRef
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import FakeVendor, Thing, a_ref, lost
from tests.webhooks.waiting_kit import Way, in_both_ways
from tests.webhooks.world import World, a_world, now, settle
from webhooks import Completions, CompletionsClosed, CompletionsFailed, CompletionTimeout, MemoryStore, PollPolicy, RestartPolicy
from webhooks.store.base import Subscriber
from webhooks.store.records import Outcome


class Clinging(FakeVendor):
    """Is slow to end a cancelled read."""

    async def read_operation(self, ref: OperationRef, *, may_send: Callable[[], Awaitable[bool]] | None = None) -> Operation:
        try:
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(5)
        return await super().read_operation(ref, may_send=may_send)


async def clinging() -> tuple[Completions, asyncio.Task[Any]]:
    """Return open completions with a poll in flight that is slow to cancel, and its waiter."""
    completions = Completions(Clinging(), MemoryStore(clock=wall), clock=wall)
    await completions.start()
    waiting = asyncio.create_task(completions.wait("1"))
    await asyncio.sleep(20)
    return completions, waiting


@virtual_time
async def test_who_cancels_the_closing_leaves_nobody_behind_who_waits() -> None:
    completions, waiting = await clinging()
    stream = completions.as_completed(["1"])
    await stream.__aenter__()
    closing = asyncio.create_task(completions.aclose())
    await settle()
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await asyncio.sleep(10)
    for ended in (waiting, anext(stream)):
        with pytest.raises(CompletionsClosed):
            await ended
    await completions.aclose()


@virtual_time
async def test_what_begins_while_all_is_closed_is_told_so() -> None:
    completions, waiting = await clinging()
    closing = asyncio.create_task(completions.aclose())
    await settle()
    for use in (completions.wait("2"), completions.start()):
        with pytest.raises(CompletionsClosed):
            await use
    again = asyncio.create_task(completions.aclose())
    await settle()
    assert not again.done()
    await asyncio.gather(closing, again)
    with pytest.raises(CompletionsClosed):
        await waiting


@virtual_time
async def test_who_cancels_the_closing_of_a_stream_leaves_nothing_behind() -> None:
    class Slow(MemoryStore):
        async def watch(self, refs: Any, **_: Any) -> Any:
            try:
                await asyncio.sleep(1_000)
            finally:
                await asyncio.sleep(5)
            return ()

    async with a_world(store=Slow(clock=wall)) as world:
        outcomes = world.completions.as_completed(["1", "2"])
        await outcomes.__aenter__()
        await settle()
        closing = asyncio.create_task(outcomes.aclose())
        await settle()
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert list(world.completions.pending()) == []
        await outcomes.aclose()


@virtual_time
async def test_a_stream_that_failed_takes_nothing_in_any_more() -> None:
    taken: list[int] = []

    async def endless() -> AsyncIterator[str]:
        while True:
            taken.append(len(taken))
            yield str(len(taken))
            await asyncio.sleep(1)

    world = World(restarts=RestartPolicy(max_crashes=1), polling=PollPolicy(first_after=0.1, growth=1.0))
    async with world.completions, world.completions.as_completed(endless()) as outcomes:
        for number in range(100):
            world.vendor.will(str(number), RuntimeError("a fault of ours"))
        with pytest.raises(CompletionsFailed):
            await anext(outcomes)
        count = len(taken)
        await asyncio.sleep(100)
        assert len(taken) == count


def test_in_another_loop_it_says_so_instead_of_waiting_for_ever() -> None:
    completions = Completions(FakeVendor(), MemoryStore())
    asyncio.run(completions.start())

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError) as caught:
            await completions.wait("1", timeout=0.1)
        said("in another loop it says so instead of waiting for ever", caught.value)
        with pytest.raises(RuntimeError):
            completions.as_completed(["1"])
        with pytest.raises(RuntimeError):
            await completions.start()
        await completions.aclose()

    asyncio.run(elsewhere())


@virtual_time
async def test_what_is_pending_may_change_while_it_is_iterated_over() -> None:
    async with a_world() as world:
        waiting = [world.start(str(number)) for number in range(3)]
        await settle()
        seen = []
        for ref in world.completions.pending():
            seen.append(ref)
            waiting.append(world.start(a_ref("1", kind=f"kind {len(seen)}")))
            await settle()
        assert seen == [a_ref(str(number)) for number in range(3)]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@virtual_time
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("passes", range(4))
async def test_an_outcome_in_the_very_moment_of_a_timeout_is_kept_from_no_other_waiter(
    before: bool, passes: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_world(polling=PollPolicy(first_after=1_000.0, max_interval=2_000.0)) as world:
        world.vendor.will("1", "pending")

        async def settle_at_ten() -> None:
            await asyncio.sleep(10)
            for _ in range(passes):
                await asyncio.sleep(0)
            await world.deliver("1")

        settling = [asyncio.create_task(settle_at_ten())] if before else []
        waiting = [world.start("1", timeout=10), world.start("1", timeout=10), world.start("1", timeout=99)]
        if not before:
            settling.append(asyncio.create_task(settle_at_ten()))
        first, second, third, _ = await asyncio.gather(*waiting, *settling, return_exceptions=True)
        assert type(first) is type(second)
        assert isinstance(first, CompletionTimeout | Thing)
        assert isinstance(third, Thing)
        assert now() == 10.0
        assert caplog.text == ""


# a store that is closed under its users


class Whispering(MemoryStore):
    """Keeps its subscribers when it is closed, and tells them to look everything up again."""

    def __init__(self) -> None:
        super().__init__(clock=wall)
        self.told: list[Subscriber] = []

    async def subscribe(self, subscriber: Subscriber) -> None:
        self.told.append(subscriber)
        await super().subscribe(subscriber)

    async def aclose(self) -> None:
        await super().aclose()
        for subscriber in self.told:
            subscriber.missed()


@virtual_time
@pytest.mark.parametrize("store", [MemoryStore, Whispering])
@pytest.mark.parametrize("waits_for", ["1", lost()])
async def test_a_store_that_is_closed_too_early_ends_every_wait_with_one_line_in_the_log(
    store: type[MemoryStore], waits_for: Any, caplog: pytest.LogCaptureFixture
) -> None:
    opened = MemoryStore(clock=wall) if store is MemoryStore else store()
    async with a_world(store=opened, polling=PollPolicy(max_per_second=1.0)) as world:
        world.vendor.will("1", "pending")
        waiting = [world.start(waits_for), world.start(waits_for, timeout=1_000)]
        await asyncio.sleep(1.5)
        await opened.aclose()
        for one in waiting:
            with pytest.raises(CompletionsFailed) as caught:
                await one
            assert isinstance(caught.value.cause, StoreClosed)
        said("a store that is closed too early ends every wait", caught.value)
        assert now() < (2.0 if store is Whispering else 60.0)
        await asyncio.sleep(1_000)
        assert [record.getMessage() for record in caplog.records] == [str(caught.value)]
        assert world.completions.statistics.restarts == 0


# a store that hangs


class Hanging(MemoryStore):
    """Hangs while it watches operations and looks up outcomes."""

    async def watch(self, refs: Any, **options: Any) -> Any:
        await asyncio.sleep(1_000)
        return await super().watch(refs, **options)

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        await asyncio.sleep(1_000)
        return await super().outcome(ref)


class HangingAtFirst(Hanging):
    """Hangs only while it watches operations."""

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        return await MemoryStore.outcome(self, ref)


@virtual_time
@in_both_ways
@pytest.mark.parametrize(("store", "at"), [(Hanging, 12.0), (HangingAtFirst, 10.0)])
async def test_a_store_that_hangs_keeps_no_wait_beyond_its_time(store: type[MemoryStore], at: float, way: Way) -> None:
    async with a_world(store=store(clock=wall)) as world:
        with pytest.raises(CompletionTimeout):
            await way(world, "1", timeout=10)
        assert now() == pytest.approx(at, abs=0.1)
        assert list(world.completions.pending()) == []


@virtual_time
@in_both_ways
async def test_who_is_told_while_the_store_hangs_is_told_nevertheless(way: Way) -> None:
    async with a_world(store=HangingAtFirst(clock=wall)) as world:
        waiting = asyncio.ensure_future(way(world, "1", timeout=10))
        await asyncio.sleep(1)
        await world.deliver("1")
        await waiting
        assert now() == 1.0


@virtual_time
@pytest.mark.parametrize("failing", ["watch", "hurry_polls", "outcome"])
async def test_a_timeout_of_the_store_itself_is_not_taken_for_that_of_the_wait(failing: str) -> None:
    store: Any = MemoryStore(clock=wall)

    async def fail(*_: Any, **__: Any) -> None:
        raise TimeoutError("of the store")

    setattr(store, failing, fail)
    async with a_world(store=store, polling=PollPolicy(first_after=1_000.0, max_interval=2_000.0)) as world:
        world.vendor.will("1", "pending")
        with pytest.raises(TimeoutError, match="of the store"):
            await world.completions.wait("1", timeout=1, poll_now=failing == "hurry_polls")


@virtual_time
@in_both_ways
async def test_who_is_cancelled_while_the_store_hangs_leaves_nothing_behind(way: Way) -> None:
    async with a_world(store=HangingAtFirst(clock=wall)) as world:
        waiting = asyncio.ensure_future(way(world, "1", timeout=10))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert list(world.completions.pending()) == []


# the iterable of a stream


@pytest.mark.slow
async def test_an_iterable_that_never_has_to_wait_leaves_others_their_turns() -> None:
    async def hasty() -> AsyncIterator[str]:
        for number in range(5_000):
            yield str(number)

    async with Completions(FakeVendor(), MemoryStore()) as completions, completions.as_completed(hasty()) as outcomes:
        counts = []
        while outcomes.pending < 5_000:
            await asyncio.sleep(0)
            counts.append(outcomes.pending)
        assert len(set(counts)) >= 5


@virtual_time
async def test_an_iterable_cancelled_from_inside_is_not_taken_for_its_end() -> None:
    async def broken() -> AsyncIterator[str]:
        yield "1"
        lost = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost
        yield "2"

    async with a_world() as world, world.completions.as_completed(broken()) as outcomes:
        await world.deliver("1")
        assert (await anext(outcomes)).ref == a_ref("1")
        with pytest.raises(RuntimeError) as caught:
            await anext(outcomes)
        said("an iterable cancelled from inside is not taken for its end", caught.value)


@virtual_time
@pytest.mark.parametrize("count", [10, 2_500])
async def test_a_generator_is_closed_with_its_stream(count: int) -> None:
    ended: list[float] = []

    async def giving() -> AsyncIterator[str]:
        try:
            for number in range(count):
                yield str(number)
            await asyncio.sleep(1_000)
        finally:
            ended.append(now())

    class Slow(MemoryStore):
        async def watch(self, refs: Any, **options: Any) -> Any:
            await asyncio.sleep(1)
            return await super().watch(refs, **options)

    generator = giving()
    async with a_world(store=Slow(clock=wall)) as world, world.completions.as_completed(generator):
        await asyncio.sleep(1.5)
    assert ended == [1.5]


@pytest.mark.slow
@virtual_time
async def test_operations_that_come_together_or_while_the_store_is_at_work_are_registered_together() -> None:
    registered: list[int] = []

    class Counting(MemoryStore):
        async def watch(self, refs: Any, **options: Any) -> Any:
            registered.append(len(refs))
            await asyncio.sleep(1)
            return await super().watch(refs, **options)

    async def giving() -> AsyncIterator[str]:
        for number in range(5):
            yield str(number)
        await asyncio.sleep(0.5)
        for number in range(5, 3_000):
            yield str(number)

    async with a_world(store=Counting(clock=wall)) as world, world.completions.as_completed(giving()) as outcomes:
        await asyncio.sleep(5)
        assert registered == [5, 1_000, 1_000, 995]
        assert outcomes.pending == 3_000


async def test_two_starts_at_once_begin_the_work_once() -> None:
    class Slow(MemoryStore):
        async def subscribe(self, subscriber: Subscriber) -> None:
            await asyncio.sleep(0)
            await super().subscribe(subscriber)

    completions = Completions(FakeVendor(), Slow())
    before = asyncio.all_tasks()
    await asyncio.gather(completions.start(), completions.start())
    begun = asyncio.all_tasks() - before
    assert len(begun) == len({task.get_name() for task in begun})
    await completions.start()
    assert asyncio.all_tasks() - before == begun
    await completions.aclose()
