"""How the poller reacts to failures of single operations, and to bugs of a client."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rewards_core.errors import Forbidden, RequestRejected, Unauthorized
from rewards_core.operations import Operation, OperationRef, OperationStatus
from tests.texts import said
from tests.virtual_time import run, virtual_time, wall
from tests.webhooks.fakes import FakeVendor, a_ref, check_turn, words_of
from tests.webhooks.world import a_world, now
from webhooks import Completions, CompletionTimeout, MemoryStore, PollPolicy, RestartPolicy

pytestmark = pytest.mark.repeats_itself

RARELY = PollPolicy(first_after=1.0, growth=1.0, jitter=0.0, max_per_second=1_000.0)


@pytest.mark.slow
@virtual_time
async def test_operations_that_the_client_fails_over_end_nobody_elses_wait(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world() as world:
        for uid in "abcd":
            world.vendor.will(uid, ValueError("cannot be read"))
        world.vendor.will("1", *["pending"] * 20, "done")
        poisoned = [world.start(uid, timeout=2_000) for uid in "abcd"]
        assert (await world.completions.wait("1")).status is OperationStatus.DONE
        assert world.completions.statistics.restarts == 0
        for ended in await asyncio.gather(*poisoned, return_exceptions=True):
            assert isinstance(ended, CompletionTimeout)
            assert str(ended.last_error) == "cannot be read"
        said("operations that the client fails over end nobody elses wait", caplog.messages[0])


class Picky(FakeVendor):
    """Knows nothing but things with numbers."""

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        ref = super().ref_of(operation)
        if ref.kind == "broken":
            raise KeyError(ref.kind)
        if ref.kind != "thing" or not ref.uid.isdecimal():
            raise ValueError(f"{ref} is no thing.")
        return ref


@pytest.mark.slow
@virtual_time
async def test_rows_of_other_programs_that_the_client_does_not_accept_are_named_once_and_not_polled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    vendor, store = Picky(), MemoryStore(clock=wall)
    vendor.will("1", *["pending"] * 20, "done")
    odd = [OperationRef("default", "edit", "-1:"), OperationRef("default", "thing", "a/b")]
    await store.add_pending(odd, poll_in=0.0)
    async with Completions(vendor, store, clock=wall) as completions:
        assert (await completions.wait("1")).status is OperationStatus.DONE
        await asyncio.sleep(3 * 86_400)
        assert completions.statistics.restarts == 0
    assert {ref.uid for _, ref in vendor.reads} == {"1"}
    left = await store.list_pending()
    assert [(one.ref, one.polls) for one in left] == [(ref, 0) for ref in odd]
    assert all(one.due_in > 3_600 for one in left)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    said("rows of other programs that the client does not accept", "\n".join(sorted(caplog.messages)))


@virtual_time
async def test_a_client_that_fails_over_a_ref_ends_nobody_elses_wait() -> None:
    vendor, store = Picky(), MemoryStore(clock=wall)
    vendor.will("1", *["pending"] * 20, "done")
    await store.add_pending([OperationRef("default", "broken", "2")], poll_in=0.0)
    async with Completions(vendor, store, clock=wall) as completions:
        assert (await completions.wait("1")).status is OperationStatus.DONE
        assert completions.statistics.restarts == 0


@virtual_time
@pytest.mark.parametrize("odd", [asyncio.CancelledError(), ValueError("odd")])
async def test_what_the_client_raises_by_mistake_is_one_poll_that_found_nothing(odd: BaseException) -> None:
    def fall() -> Any:
        raise odd

    async with a_world() as world:
        world.vendor.will("1", fall, "done")
        await world.completions.wait("1")
        assert world.vendor.read_times == [15.0, 39.0]


class Clumsy(FakeVendor):
    """Fails on some operations while others are being claimed."""

    async def read_operation(self, ref: OperationRef, *, may_send: Callable[[], Awaitable[bool]] | None = None) -> Operation:
        await check_turn(may_send)
        self.reads.append((now(), ref))
        await asyncio.sleep(0.005)
        if ref.uid.startswith("bad"):
            raise RuntimeError
        return self.parse_operation(ref, words_of(ref.uid, "pending"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_an_operation_whose_poll_was_cancelled_before_it_began_is_polled_again(seed: int) -> None:
    async def live() -> None:
        vendor = Clumsy()
        uids = [str(number) for number in range(30)] + [f"bad{number}" for number in range(20)]
        restarts = RestartPolicy(max_crashes=None, first_delay=0.1, max_delay=0.1)
        async with Completions(vendor, MemoryStore(clock=wall), polling=RARELY, restarts=restarts, clock=wall) as completions:
            async with completions.as_completed(uids):
                await asyncio.sleep(60)
            assert completions.statistics.restarts > 0
        assert {ref.uid for at, ref in vendor.reads if at > 40} == set(uids)

    run(live(), order=random.Random(seed))


@pytest.mark.slow
@virtual_time
@pytest.mark.parametrize("refusal", [Unauthorized("no", status=401), Forbidden("no", status=403)])
async def test_one_operation_that_alone_is_refused_does_not_pause_the_others(
    refusal: RequestRejected, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_world() as world:
        world.vendor.will("refused", refusal)
        crowd = [str(number) for number in range(30)]
        for uid in crowd:
            world.vendor.will(uid, "pending")
        async with world.completions.as_completed(["refused", *crowd], timeout=1_800) as outcomes:
            seen = [type(one.error) async for one in outcomes]
        assert seen == [CompletionTimeout] * 31
        assert len(world.vendor.reads) > 30 * 1_800 / 60 * 0.9
        assert [ref for _, ref in world.vendor.reads].count(a_ref("refused")) > 20
        said(f"one operation that alone is refused does not pause the others, {refusal.status}", "\n".join(caplog.messages))


@virtual_time
async def test_one_that_alone_was_refused_and_is_answered_again_is_like_any_other() -> None:
    refusal = Forbidden("no", status=403)
    async with a_world() as world:
        world.vendor.will("1", refusal, refusal, "pending", refusal, "done")
        world.vendor.will("2", "pending")
        other = world.start("2")
        await world.completions.wait("1")
        times = [at for at, ref in world.vendor.reads if ref.uid == "1"]
        gaps = [round(then - before) for before, then in itertools.pairwise(times)]
        assert gaps[0] == 60
        assert gaps[-1] == 60
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
