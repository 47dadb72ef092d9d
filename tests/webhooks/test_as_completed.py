"""One caller waits for many operations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

from rewards_core.errors import OperationFailed, OperationMismatch, OutcomeUnknown
from rewards_core.operations import OperationRef, OperationStatus
from tests.texts import said
from tests.virtual_time import VirtualLoop, virtual_time, wall
from tests.webhooks.fakes import Thing, a_ref, a_thing
from tests.webhooks.world import World, a_world, now, settle
from webhooks import Completion, CompletionsClosed, CompletionTimeout, MemoryStore, PollPolicy, StoreError
from webhooks.store.records import Outcome


async def all_of(outcomes: Any) -> list[tuple[str, float, Any]]:
    """Return uid, time to a twentieth of a second, and error of each."""
    return [(one.ref.uid, round(now() * 20) / 20, type(one.error)) async for one in outcomes]


NONE = type(None)


@virtual_time
async def test_each_is_yielded_as_it_ends_and_none_raises() -> None:
    async with a_world() as world:
        world.vendor.will("2", "failed")
        world.vendor.will("4", "done")
        operations: list[Thing | OperationRef | str] = [a_thing("1"), a_ref("2"), "3", a_thing("4", amount="9")]
        async with world.completions.as_completed(operations, timeout=100) as outcomes:
            await asyncio.sleep(1)
            await world.deliver("1")
            seen = await all_of(outcomes)
        assert seen[:3] == [("1", 1.0, NONE), ("2", 15.0, OperationFailed), ("4", 15.1, OperationMismatch)]
        assert [(uid, kind) for uid, _, kind in seen[3:]] == [("3", CompletionTimeout)]
        assert 99.9 <= seen[3][1] <= 100
        assert world.completions.statistics.timeouts == 1


@virtual_time
async def test_a_completion_carries_the_operation_and_how_it_was_learned() -> None:
    async with a_world() as world:
        world.vendor.will("2", "failed")
        async with world.completions.as_completed([a_thing("1"), a_thing("2"), a_thing("3")], timeout=20) as outcomes:
            await settle()
            await world.deliver("1", amount="1.5")
            one, two, three = [outcome async for outcome in outcomes]
        assert one == Completion(ref=a_ref("1"), operation=one.operation, error=None, via="webhook")
        assert one.operation is not None
        assert (one.operation.amount, one.operation.status) == ("1.5", OperationStatus.DONE)
        assert (two.operation and two.operation.status, two.via) == (OperationStatus.FAILED, "poll")
        assert (three.operation, three.via, type(three.error)) == (None, None, CompletionTimeout)
        delays = world.completions.statistics.delays
        assert (len(delays["webhook"]), len(delays["poll"])) == (1, 1)


@virtual_time
async def test_what_has_ended_before_is_yielded_at_once() -> None:
    async with a_world() as world:
        await world.deliver("1")
        world.vendor.will("3", "done")
        await world.deliver("3", "pending")
        await asyncio.sleep(1)
        async with world.completions.as_completed(["1", "2", "3"], timeout=0) as outcomes:
            assert await all_of(outcomes) == [("1", 1.0, NONE), ("3", 1.0, NONE), ("2", 1.0, CompletionTimeout)]
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_nothing_to_wait_for_ends_at_once() -> None:
    nothing: list[str] = []
    async with a_world() as world, world.completions.as_completed(nothing) as outcomes:
        assert await all_of(outcomes) == []
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


@virtual_time
async def test_operations_are_taken_in_while_others_end() -> None:
    async with a_world() as world:
        for number in range(5):
            world.vendor.will(str(number), "done")

        async def arriving() -> AsyncIterator[str]:
            for number in range(5):
                yield str(number)
                await asyncio.sleep(10)

        async with world.completions.as_completed(arriving(), timeout=100) as outcomes:
            seen = await all_of(outcomes)
        assert seen == [("0", 15.0, NONE), ("1", 25.0, NONE), ("2", 35.0, NONE), ("3", 45.0, NONE), ("4", 55.0, NONE)]


@virtual_time
async def test_the_timeout_counts_from_when_an_operation_is_taken_in() -> None:
    async with a_world() as world:

        async def arriving() -> AsyncIterator[str]:
            for number in range(3):
                yield str(number)
                await asyncio.sleep(10)

        async with world.completions.as_completed(arriving(), timeout=14) as outcomes:
            seen = await all_of(outcomes)
        assert [uid for uid, _, _ in seen] == ["0", "1", "2"]
        for (_, at, _), expected in zip(seen, (14, 24, 34), strict=True):
            assert expected - 0.1 <= at <= expected


@virtual_time
async def test_one_operation_given_twice_is_yielded_once() -> None:
    async with a_world() as world, world.completions.as_completed(["1", a_ref("1"), a_thing("1")]) as outcomes:
        await settle()
        await world.deliver("1")
        assert await all_of(outcomes) == [("1", 0.0, NONE)]


@virtual_time
async def test_several_readers_of_one_stream_share_what_ends() -> None:
    async with a_world() as world:
        for number in range(20):
            world.vendor.will(str(number), "done")
        async with world.completions.as_completed([str(number) for number in range(20)]) as outcomes:
            first, second = await asyncio.gather(all_of(outcomes), all_of(outcomes))
        assert sorted(int(uid) for uid, _, _ in first + second) == list(range(20))


@pytest.mark.slow
@virtual_time
async def test_leaving_early_leaves_nothing_behind() -> None:
    async with a_world() as world:
        uids = [str(number) for number in range(2_500)]
        async with world.completions.as_completed(uids, timeout=300) as outcomes:
            await asyncio.sleep(1)
            assert outcomes.pending == 2_500
            await world.deliver("7")
            async for one in outcomes:
                assert one.ref.uid == "7"
                break
            await world.deliver("8")
        assert list(world.completions.pending()) == []
        assert outcomes.pending == 0
        await asyncio.sleep(600)
        assert len(world.vendor.reads) <= 600 * 2 + 1  # in a tenth of the budget
        with pytest.raises(CompletionsClosed) as caught:
            aiter(outcomes)
        said("leaving early leaves nothing behind", caught.value)
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)


@virtual_time
async def test_an_outcome_that_comes_while_a_stream_closes_harms_nothing() -> None:
    async with a_world() as world:
        uids = [str(number) for number in range(3_000)]
        async with world.completions.as_completed(uids) as outcomes:
            await asyncio.sleep(1)
            closing = asyncio.create_task(outcomes.aclose())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await world.deliver("2999")
            await closing
        assert list(world.completions.pending()) == []


@virtual_time
async def test_a_stream_can_be_read_without_entering_it() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        assert await all_of(world.completions.as_completed(["1"])) == [("1", 15.0, NONE)]


@virtual_time
async def test_a_cancelled_reader_loses_nothing() -> None:
    async with a_world() as world, world.completions.as_completed(["1"]) as outcomes:
        reader = asyncio.ensure_future(anext(outcomes))
        await settle()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await world.deliver("1")
        assert await all_of(outcomes) == [("1", 0.0, NONE)]


@virtual_time
async def test_a_reader_cancelled_in_its_last_look_loses_nothing() -> None:
    class Slow(MemoryStore):
        async def outcome(self, ref: OperationRef) -> Outcome | None:
            await asyncio.sleep(5)
            return None

    async with a_world(store=Slow(clock=wall)) as world, world.completions.as_completed(["1"], timeout=10) as outcomes:
        reader = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(12)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        assert [(uid, kind) for uid, _, kind in await all_of(outcomes)] == [("1", CompletionTimeout)]


@virtual_time
async def test_trouble_in_what_is_iterated_over_reaches_the_reader_after_what_has_ended() -> None:
    def some() -> Iterator[str]:
        yield from (str(number) for number in range(1_000))
        raise RuntimeError("the file ends in the middle")

    async with a_world() as world:
        await world.deliver("7")
        async with world.completions.as_completed(some()) as outcomes:
            assert (await anext(outcomes)).ref.uid == "7"
            with pytest.raises(RuntimeError, match="in the middle"):
                await anext(outcomes)


@virtual_time
@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        (OutcomeUnknown("look first"), TypeError, r"^operations: give an OutcomeUnknown to wait\(\), or the ref that find\(\)"),
        (OperationRef("other", "thing", "9"), ValueError, "the scope is other, not default"),
    ],
)
async def test_what_is_no_operation_is_said_after_what_came_before_it_has_ended(
    wrong: Any, error: type[Exception], text: str
) -> None:
    async with a_world() as world:
        async with world.completions.as_completed([a_thing("1", "done"), wrong, a_thing("2", "done")], timeout=60) as outcomes:
            assert (await anext(outcomes)).ref.uid == "1"
            with pytest.raises(error, match=text):
                await anext(outcomes)
        assert now() == 0.0
        assert await world.store.outcome(a_ref("1")) is not None
        assert await world.store.outcome(a_ref("2")) is None


async def test_one_str_is_not_taken_for_many_uids() -> None:
    async with World().completions as completions:
        with pytest.raises(TypeError) as caught:
            completions.as_completed("123456789012")
        said("one str is not taken for many uids", caught.value)


@virtual_time
async def test_poll_now_asks_about_each_at_once_inside_the_budget() -> None:
    async with a_world(polling=PollPolicy(max_per_second=10)) as world:
        for number in range(30):
            world.vendor.will(str(number), "done")
        async with world.completions.as_completed([str(number) for number in range(30)], poll_now=True) as outcomes:
            seen = await all_of(outcomes)
        assert 2.9 <= seen[-1][1] <= 3.2


@virtual_time
async def test_what_is_waited_for_already_ends_when_it_is_given_again_as_done() -> None:
    operations = [a_thing("1", amount="9"), a_thing("1", "done")]
    async with a_world() as world, world.completions.as_completed(operations) as outcomes:
        assert await all_of(outcomes) == [("1", 0.0, OperationMismatch)]


@virtual_time
async def test_of_a_stream_those_that_were_found_instead_of_made_are_asked_about_at_once() -> None:
    async with a_world() as world:
        for uid in "123":
            world.vendor.will(uid, "done")
        async with world.completions.as_completed([a_thing("1"), a_thing("2", recovered=True), "3"]) as outcomes:
            assert await all_of(outcomes) == [("2", 0.0, NONE), ("1", 15.0, NONE), ("3", 15.05, NONE)]


@virtual_time
async def test_before_the_deadline_as_many_are_asked_about_as_the_budget_allows() -> None:
    async with a_world(polling=PollPolicy(max_per_second=5)) as world:
        uids = [str(number) for number in range(100)]
        for uid in uids:
            world.vendor.will(uid, "done")
        async with world.completions.as_completed(uids, timeout=10) as outcomes:
            seen = await all_of(outcomes)
        assert [kind for _, _, kind in seen].count(NONE) == 10
        assert len(seen) == 100
        assert all(8 <= at <= 10 for _, at, _ in seen)
        assert min(world.vendor.read_times) == 8.0


@virtual_time
async def test_operations_taken_in_one_by_one_are_each_asked_about_before_their_deadline() -> None:
    async with a_world(polling=PollPolicy(max_per_second=50)) as world:

        async def arriving() -> AsyncIterator[str]:
            for number in range(40):
                world.vendor.will(str(number), "pending")
                yield str(number)
                await asyncio.sleep(0.3)

        async with world.completions.as_completed(arriving(), timeout=10) as outcomes:
            seen = await all_of(outcomes)
        asked = {ref.uid: at for at, ref in world.vendor.reads}
        for number, (uid, at, kind) in enumerate(seen):
            assert (uid, kind) == (str(number), CompletionTimeout)
            assert number * 0.3 + 9.9 <= at <= number * 0.3 + 10.001
            assert number * 0.3 + 7.9 <= asked[uid] <= number * 0.3 + 8.2


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_thousands_that_time_out_together_are_all_yielded() -> None:
    async with a_world() as world:
        uids = [str(number) for number in range(5_000)]
        async with world.completions.as_completed(uids, timeout=10) as outcomes:
            seen = await all_of(outcomes)
        assert [uid for uid, _, _ in seen] == uids
        assert world.completions.statistics.timeouts == 5_000


@pytest.mark.slow
@virtual_time
async def test_operations_that_time_out_while_they_are_taken_in_leave_nothing_behind() -> None:
    loop = cast("VirtualLoop", asyncio.get_running_loop())

    class Busy(MemoryStore):
        async def watch(self, refs: Any, **options: Any) -> Any:
            loop.stall(0.03)
            return await super().watch(refs, **options)

    async with a_world(store=Busy(clock=wall)) as world:
        ref_of = world.vendor.ref_of

        def slow_ref_of(operation: Any) -> OperationRef:
            loop.stall(1e-6 if int(operation) < 1_000 else 3e-6)
            return ref_of(operation)

        world.vendor.ref_of = slow_ref_of  # type: ignore[method-assign]
        uids = [str(number) for number in (*range(600), *range(400), *range(1_000, 2_000))]
        async with world.completions.as_completed(uids, timeout=0.0215) as outcomes:
            assert [kind for _, _, kind in await all_of(outcomes)] == [CompletionTimeout] * 1_600
        assert list(world.completions.pending()) == []


@virtual_time
async def test_a_last_look_that_fails_is_told_with_the_timeout() -> None:
    class Failing(MemoryStore):
        async def outcome(self, ref: OperationRef) -> Outcome | None:
            raise StoreError("the disk is gone")

    async with a_world(store=Failing(clock=wall)) as world:
        async with world.completions.as_completed(["1"], timeout=10) as outcomes:
            one = await anext(outcomes)
        assert isinstance(one.error, CompletionTimeout)
        assert isinstance(one.error.last_error, StoreError)


TWINS: list[list[Any]] = [
    [a_thing("1", amount="1.5"), a_thing("1", amount="9")],
    [a_thing("1", amount="9"), a_thing("1", amount="1.5"), a_thing("1", amount="1.5")],
    ["1", a_thing("1", amount="9")],
]


@virtual_time
@pytest.mark.parametrize("twins", TWINS)
async def test_whatever_was_asked_for_under_one_uid_is_compared_with_what_settled(twins: list[Any]) -> None:
    async with a_world() as world, world.completions.as_completed(twins) as outcomes:
        await settle()
        await world.deliver("1", amount="1.5")
        assert await all_of(outcomes) == [("1", 0.0, OperationMismatch)]


@virtual_time
async def test_what_was_asked_for_belongs_to_the_time_it_was_asked_in() -> None:
    async def arriving() -> AsyncIterator[Thing]:
        yield a_thing("1", amount="9")
        await asyncio.sleep(10)
        yield a_thing("1", amount="1.5")

    async with a_world() as world, world.completions.as_completed(arriving()) as outcomes:
        await asyncio.sleep(1)
        await world.deliver("1", amount="1.5")
        await asyncio.sleep(10)
        assert [kind for _, _, kind in await all_of(outcomes)] == [OperationMismatch, NONE]
