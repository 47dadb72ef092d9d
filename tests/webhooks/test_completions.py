"""One caller inside `wait`: its errors, its use of the store, and the background tasks."""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import pickle
from typing import Any, cast

import pytest

from rewards_core.errors import NotFound, OperationFailed
from rewards_core.operations import OperationStatus
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import a_ref, a_thing, lost, trouble, words_of
from tests.webhooks.world import DeafStore, World, a_world, leave, now, settle
from webhooks import (
    CompletionsClosed,
    CompletionsFailed,
    CompletionTimeout,
    MemoryStore,
    Outcome,
    PollPolicy,
    RestartPolicy,
    StoreError,
)
from webhooks.store.records import PollClaims, Priority, Recorded


def done(uid: str = "1", status: str = "done") -> Outcome:
    words = words_of(uid, status)
    return Outcome(ref=a_ref(uid), status=OperationStatus(status), resource=words, via="webhook", settled_at=EPOCH)


# time


@virtual_time
async def test_a_timeout_says_what_was_last_known() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending")
        world.vendor.will("2", trouble())
        world.vendor.will("3", "pending", trouble())
        errors: dict[str, Any] = {}
        for uid, timeout in (("1", 20), ("2", 20), ("3", 20), ("4", 5)):
            with pytest.raises(CompletionTimeout) as caught:
                await world.completions.wait(uid, timeout=timeout, poll_now=uid == "3")
            errors[uid] = caught.value
        assert errors["1"].last_seen.status == "pending"
        assert errors["1"].last_error is None
        assert type(errors["2"].last_error) is type(trouble())
        assert errors["3"].last_seen.status == "pending"
        assert errors["3"].last_error is not None
        assert (errors["4"].ref, errors["4"].timeout, type(errors["4"].last_error)) == (a_ref("4"), 5, NotFound)
        said("a timeout says what was last known", "\n".join(map(str, errors.values())))
        assert isinstance(errors["1"], TimeoutError)
        for again in (pickle.loads(pickle.dumps(errors["1"])), cast("CompletionTimeout", copy.deepcopy(errors["1"]))):
            assert (str(again), again.ref, again.timeout) == (str(errors["1"]), a_ref("1"), 20)
        assert world.completions.statistics.timeouts == 4


@virtual_time
async def test_a_timeout_that_no_poll_preceded_says_so() -> None:
    async with a_world() as world:
        with pytest.raises(CompletionTimeout) as caught:
            await world.completions.wait("1", timeout=0)
        said("a timeout that no poll preceded says so", caught.value)
        assert now() == 0.0


@virtual_time
async def test_an_outcome_that_came_with_the_timeout_is_found_by_a_last_look() -> None:
    async with a_world(store=DeafStore(clock=wall)) as world:
        waiting = world.start("1", timeout=10)
        await settle()
        await world.store.record_outcome(done())
        await waiting
        assert now() == 10.0


# what is known already


class Unwritable(MemoryStore):
    """Stores no outcome."""

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        raise StoreError("no room")


@virtual_time
async def test_a_store_that_cannot_keep_it_keeps_nobody_from_what_is_done_already(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(store=Unwritable(clock=wall)) as world:
        beside = world.start("1")
        await settle()
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE
        assert (await beside).status is OperationStatus.DONE
        assert now() == 0.0
        said("a store that cannot keep an outcome", "\n".join(caplog.messages))


@virtual_time
async def test_a_store_that_hangs_keeps_nobody_for_long_from_what_is_done_already(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(MemoryStore):
        async def record_outcome(self, outcome: Outcome) -> Recorded:
            await asyncio.sleep(1_000)
            return await super().record_outcome(outcome)

    async with a_world(store=Hanging(clock=wall)) as world:
        assert (await world.completions.wait(a_thing("1", "done"), timeout=10)).status is OperationStatus.DONE
        assert now() == 12.0
        said("a store that hangs keeps nobody for long from what is done already", "\n".join(caplog.messages))
        assert (await world.completions.wait(a_thing("1", "done"))).status is OperationStatus.DONE
        assert now() == 1_012.0


# what events leave open


@virtual_time
async def test_if_the_vendor_still_says_pending_it_is_asked_again_soon_and_then_as_usual() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending", trouble(), "pending", "pending", "pending", "pending", "done")
        waiting = world.start("1")
        await settle()
        await world.deliver("1", status=None)
        await waiting
        assert world.vendor.read_times == pytest.approx([0.0, 1.0, 2.0, 6.0, 14.0, 29.0, 53.0])


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_an_operation_that_nobody_waits_for_is_looked_up_as_often_and_then_seldom() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending")
        await world.deliver("1", status=None)
        await asyncio.sleep(6 * 3_600)
        gaps = [later - earlier for earlier, later in itertools.pairwise(world.vendor.read_times)]
        assert gaps[:8] == pytest.approx([1, 2, 4, 8, 15, 60, 96, 153.6], abs=0.1)
        assert gaps[14:] == pytest.approx([3_600] * 4, abs=0.1)
        world.vendor.will("1", "done")
        await asyncio.sleep(3_600)
        assert (await world.store.outcome(a_ref("1"))).status is OperationStatus.DONE


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_an_operation_polled_seldom_is_polled_soon_once_it_is_waited_for() -> None:
    async with a_world() as world:
        world.vendor.will("1", "pending")
        await world.store.add_pending([a_ref("1")], poll_in=0)
        await asyncio.sleep(10 * 3_600)
        world.vendor.will("1", "done")
        await world.completions.wait("1")
        assert now() <= 10 * 3_600 + 15.1


@virtual_time
async def test_an_event_without_a_uid_costs_nothing() -> None:
    async with a_world() as world:
        await world.deliver(uid=None)
        await asyncio.sleep(100)
        assert world.vendor.reads == []


# what the store needs


@virtual_time
async def test_the_outcome_that_was_stored_first_wins_over_the_answer_of_a_poll() -> None:
    async with a_world(store=DeafStore(clock=wall)) as world:
        world.vendor.will("1", "done")
        waiting = world.start("1", timeout=60)
        await settle()
        await world.store.record_outcome(done(status="failed"))
        with pytest.raises(OperationFailed):
            await waiting
        assert world.completions.statistics.conflicts == 1


@virtual_time
async def test_who_is_waited_for_is_registered_as_pending_until_it_settles() -> None:
    async with a_world() as world:
        waiting = [world.start(uid, timeout=60) for uid in "123"]
        await settle()
        assert await world.pending() == {"1", "2", "3"}
        await world.deliver("1")
        await leave(*waiting)
        assert await world.pending() == {"2", "3"}


@pytest.mark.slow
@virtual_time
async def test_whatever_the_store_has_pending_is_polled() -> None:
    store = MemoryStore(clock=wall)
    await store.add_pending([a_ref(str(number)) for number in range(1_500)], poll_in=5)
    async with a_world(store=store, polling=PollPolicy(max_per_second=1_000)) as world:
        for number in range(1_500):
            world.vendor.will(str(number), "done")
        await asyncio.sleep(21)
        assert (await store.statistics()).outcomes == pytest.approx(1_500, abs=5)  # in a tenth of the budget


@virtual_time
async def test_a_store_that_cannot_keep_outcomes_keeps_them_from_no_caller(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(store=Unwritable(clock=wall)) as world:
        world.vendor.will("1", "done")
        assert (await world.completions.wait("1", timeout=60)).status is OperationStatus.DONE
        assert await world.pending() == {"1"}
        said("a store that cannot keep an outcome", "\n".join(caplog.messages))


class Troubled(MemoryStore):
    """Fails to claim polls for a while."""

    trouble_until = 0.0

    async def claim_polls(self, scope: str, **options: Any) -> PollClaims:
        if now() < self.trouble_until:
            raise StoreError("no answer")
        return await super().claim_polls(scope, **options)


@virtual_time
async def test_a_store_in_trouble_ends_no_wait_and_is_told_of_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    store = Troubled(clock=wall)
    store.trouble_until = 3_600.0
    async with a_world(store=store) as world:
        world.vendor.will("1", "done")
        await world.completions.wait("1")
        assert 3_600 <= now() <= 3_606
        said("a store in trouble ends no wait and is told of in one line", "\n".join(caplog.messages))
        assert world.completions.statistics.restarts == 0


@virtual_time
async def test_polls_that_a_store_in_trouble_could_not_take_back_are_given_back_later() -> None:
    class Forgetful(MemoryStore):
        async def settle_polls(self, results: Any, **options: Any) -> None:
            if now() < 20:
                raise StoreError("no answer")
            await super().settle_polls(results, **options)

    async with a_world(store=Forgetful(clock=wall)) as world:
        world.vendor.will("1", "pending", "done")
        await world.completions.wait("1")
        assert now() < 50


@virtual_time
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_wait_that_could_not_be_registered_takes_nothing_from_another_one(streaming: bool) -> None:
    class Failing(MemoryStore):
        broken = False

        async def watch(self, refs: Any, **options: Any) -> Any:
            if self.broken:
                raise StoreError("no answer")
            return await super().watch(refs, **options)

    async def stream(world: World) -> None:
        async with world.completions.as_completed(["1"]) as outcomes:
            await anext(outcomes)

    async with a_world(store=(store := Failing(clock=wall))) as world:
        first = world.start("1")
        await settle()
        store.broken = True
        with pytest.raises(StoreError):
            await (stream(world) if streaming else world.completions.wait("1"))
        await settle()
        assert [one.priority for one in await store.list_pending()] == [Priority.ROUTINE]
        await leave(first)
        assert [one.priority for one in await store.list_pending()] == [Priority.ABANDONED]


@virtual_time
async def test_a_store_that_cannot_be_asked_raises_and_leaves_nobody_behind() -> None:
    class Broken(MemoryStore):
        async def watch(self, refs: Any, **options: Any) -> Any:
            raise StoreError("the disk is gone")

    async with a_world(store=Broken(clock=wall)) as world:
        for _ in range(2):
            with pytest.raises(StoreError, match="gone"):
                await world.completions.wait("1", timeout=60)


# life


@virtual_time
async def test_closing_ends_every_wait() -> None:
    world = World()
    async with world.completions:
        waiting = [world.start("1"), world.start("1", timeout=60), world.start("2")]
        await world.deliver("3", status=None)
        await settle()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CompletionsClosed)
    assert list(world.completions.pending()) == []
    await world.completions.aclose()
    for use in (world.completions.wait("1"), world.completions.start()):
        with pytest.raises(CompletionsClosed) as caught:
            await use
        said("closing ends every wait", caught.value)
    with pytest.raises(CompletionsClosed):
        world.completions.as_completed(["1"])
    assert world.completions.statistics.polls_pause_for == 0.0


class Hanging(MemoryStore):
    """Is slow to watch operations and to search by key."""

    async def watch(self, refs: Any, **options: Any) -> Any:
        await asyncio.sleep(1_000)
        return await super().watch(refs, **options)

    async def outcomes_by_key(self, *key: str) -> Any:
        await asyncio.sleep(1_000)
        return await super().outcomes_by_key(*key)


@virtual_time
async def test_closing_while_a_store_hangs_ends_every_wait_at_once() -> None:
    world = World(store=Hanging(clock=wall))
    async with world.completions:
        waiting = [world.start("1"), world.start("1", timeout=60), world.start(lost("k"))]
        await asyncio.sleep(1)
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CompletionsClosed)
    assert now() == 1.0
    assert list(world.completions.pending()) == []


@virtual_time
async def test_a_wait_whose_operation_was_found_while_all_was_closed_does_not_begin() -> None:
    world = World()
    async with world.completions:
        waiting = world.start(lost("k"))
        await settle()
        await world.deliver("1", key="k")
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], CompletionsClosed)


@virtual_time
async def test_a_shutdown_signal_closes_while_requests_wait() -> None:
    world = World()
    shutdown = asyncio.Event()

    async def application() -> None:
        async with world.completions:
            await shutdown.wait()

    async def request() -> str:
        try:
            await world.completions.wait("1")
        except CompletionsClosed:
            return "503"
        raise AssertionError

    serving = asyncio.create_task(application())
    await settle()
    requests = [asyncio.create_task(request()) for _ in range(3)]
    await asyncio.sleep(10)
    shutdown.set()
    assert await asyncio.gather(*requests) == ["503"] * 3
    await serving
    assert now() == 10.0


async def test_waiting_before_the_start_says_how_to_start() -> None:
    world = World()
    with pytest.raises(RuntimeError) as caught:
        await world.completions.wait("1")
    said("waiting before the start says how to start", caught.value)


@virtual_time
async def test_starting_twice_is_starting_once() -> None:
    async with a_world() as world:
        await asyncio.gather(world.completions.start(), world.completions.start())
        world.vendor.will("1", "done")
        await world.completions.wait("1", timeout=60)
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_background_work_that_dies_is_logged_counted_and_started_again(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(MemoryStore):
        faults = 2

        async def claim_polls(self, scope: str, **options: Any) -> PollClaims:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a fault of ours")
            return await super().claim_polls(scope, **options)

    async with a_world(restarts=RestartPolicy(first_delay=1.0), store=Faulty(clock=wall)) as world:
        world.vendor.will("1", "done")
        await world.deliver("1", status=None)
        await asyncio.sleep(10)
        assert await world.store.outcome(a_ref("1")) is not None
        assert world.completions.statistics.restarts == 2
        said("background work that dies is logged counted and started again", "\n".join(caplog.messages))


@virtual_time
@pytest.mark.parametrize("trouble", [False, True], ids=["granted", "failed"])
async def test_polls_that_are_claimed_while_a_process_closes_are_left_to_the_others(trouble: bool) -> None:
    class Slow(MemoryStore):
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def claim_polls(self, scope: str, **options: Any) -> PollClaims:
            claims = await super().claim_polls(scope, **options)
            if claims.claims and not self.asked.is_set():
                self.asked.set()
                await self.go_on.wait()
                if trouble:
                    raise StoreError("the answer was lost")
            return claims

    store = Slow(clock=wall)
    async with a_world(store=store):
        await store.watch([a_ref("1")], poll_in=1.0, waiter="another process")
        await store.asked.wait()
        asyncio.get_running_loop().call_later(1.0, store.go_on.set)
    claimed = await store.claim_polls("default", limit=1, lease=60, max_per_second=20)
    assert [claim.ref.uid for claim in claimed.claims] == ([] if trouble else ["1"])


@virtual_time
async def test_background_work_that_keeps_dying_ends_every_wait() -> None:
    world = World(restarts=RestartPolicy(deaths=3), polling=PollPolicy(first_after=0.1, growth=1.0))
    async with world.completions:
        for uid in ("1", "2", "3"):
            world.vendor.will(uid, RuntimeError("a fault of ours"))
        waiting = world.start("1"), world.start("2", timeout=1_000)
        stream = world.completions.as_completed(["3"])
        async with stream:
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, CompletionsFailed)
                assert isinstance(result.cause, Exception)
            with pytest.raises(CompletionsFailed) as caught:
                await anext(stream)
            said("background work that keeps dying ends every wait", caught.value)
        with pytest.raises(CompletionsFailed):
            await world.completions.wait("4")
        assert now() < 10
    with pytest.raises(CompletionsFailed):
        await world.completions.wait("4")


@virtual_time
async def test_twenty_polls_in_a_row_without_any_delivery_are_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    async with a_world() as world:
        for number in range(60):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(19)))
        assert caplog.text == ""
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(19, 60)))
    said("twenty polls in a row without any delivery are warned about once", "\n".join(caplog.messages))


@virtual_time
async def test_deliveries_that_were_all_refused_for_their_signature_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_world() as world:
        for number in range(200):
            world.store.refused("mismatch" if number else "missing")
        for number in range(60):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(60)))
    said("deliveries that were all refused for their signature are named", "\n".join(caplog.messages))


@virtual_time
@pytest.mark.parametrize("delivery", [{"uid": "x"}, {"uid": "x", "status": None}, {"uid": None}])
async def test_once_a_delivery_came_nothing_is_warned_about(caplog: pytest.LogCaptureFixture, delivery: dict[str, Any]) -> None:
    caplog.set_level(logging.WARNING)
    async with a_world() as world:
        await world.deliver(**delivery)
        for number in range(30):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(30)))
    assert caplog.text == ""


@virtual_time
async def test_a_store_that_cannot_say_whether_a_delivery_came_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Dumb(MemoryStore):
        async def statistics(self) -> Any:
            raise StoreError("no answer")

    async with a_world(store=Dumb(clock=wall)) as world:
        for number in range(25):
            world.vendor.will(str(number), "done")
        await asyncio.gather(*(world.completions.wait(str(number), timeout=60) for number in range(25)))
    said("a store that cannot say whether a delivery came breaks nothing", "\n".join(caplog.messages))
