"""How the poller reacts to each answer, and its budget."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from rewards_core.errors import (
    ClientClosed,
    ConnectFailed,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    RateLimited,
    RequestRejected,
    Unauthorized,
    UnexpectedResponse,
)
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import FakeVendor, a_ref, most_in_a_second, trouble
from tests.webhooks.world import World, a_world, leave, now, settle
from webhooks import Completions, CompletionTimeout, MemoryStore, PollPolicy

MISSING = NotFound("no such thing", status=404)


# 404


@virtual_time
async def test_an_operation_that_is_not_readable_yet_is_asked_about_again() -> None:
    async with a_world() as world:
        world.vendor.will("1", MISSING, MISSING, MISSING, MISSING, "done")
        await world.completions.wait("1", timeout=600)
        assert len(world.vendor.reads) == 5


@virtual_time
async def test_five_times_unknown_in_less_than_a_minute_ends_nothing() -> None:
    async with a_world(polling=PollPolicy(first_after=5.0, growth=1.0)) as world:
        world.vendor.will("1", *[MISSING] * 12, "done")
        await world.completions.wait("1", timeout=600)
        assert now() == 65.0


@virtual_time
async def test_another_answer_between_starts_the_count_again() -> None:
    async with a_world() as world:
        world.vendor.will("1", *[MISSING] * 4, "pending", *[MISSING] * 4, "done")
        await world.completions.wait("1")
        assert len(world.vendor.reads) == 10


@virtual_time
async def test_an_operation_of_an_event_that_the_vendor_does_not_know_is_given_up() -> None:
    async with a_world() as world:
        await world.deliver("1", status=None)
        await asyncio.sleep(600)
        assert world.vendor.read_times[:5] == [0.0, 1.0, 3.0, 7.0, 15.0]
        assert 60 <= world.vendor.read_times[-1] < 120
        assert await world.pending() == set()


@virtual_time
async def test_an_operation_that_is_unknown_ends_the_next_wait_at_its_first_poll() -> None:
    async with a_world() as world:
        with pytest.raises(NotFound):
            await world.completions.wait("1")
        began = now()
        with pytest.raises(NotFound):
            await world.completions.wait("1")
        assert now() <= began + 15


# 401, 403


@virtual_time
@pytest.mark.parametrize("refusal", [Unauthorized("no", status=401), Forbidden("no", status=403)])
async def test_a_refusal_pauses_all_polls_for_longer_and_longer_and_is_logged_once(
    refusal: RequestRejected, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with a_world() as world:
        world.vendor.will("1", *[refusal] * 7, "done")
        waiting = world.start("1")
        await asyncio.sleep(16)
        assert world.completions.statistics.polls_pause_for == pytest.approx(59, abs=0.1)
        await waiting
        gaps = [round(then - before) for before, then in itertools.pairwise(world.vendor.read_times)]
        assert gaps == [60, 120, 240, 480, 600, 600, 600]
        said(f"a refusal pauses all polls for longer and longer and is logged once, {refusal.status}", "\n".join(caplog.messages))


@pytest.mark.repeats_itself
@virtual_time
async def test_polls_may_be_refused_any_number_of_times() -> None:
    async with a_world() as world:
        for _ in range(1_020):  # what other processes were told
            await world.store.pause_polls(world.vendor.scope, 1.0, refused=True)
            await asyncio.sleep(2)
        world.vendor.will("1", *[Unauthorized("no", status=401)] * 20, "done")
        await world.start("1")
        assert len(world.vendor.reads) == 21
        assert world.completions.statistics.restarts == 0


@virtual_time
async def test_refusals_of_polls_already_under_way_count_once() -> None:
    async with a_world() as world:
        world.vendor.latency = 3.0
        for number in range(30):
            world.vendor.will(str(number), Unauthorized("no", status=401), "done")
        waiting = [world.start(str(number)) for number in range(30)]
        await asyncio.gather(*waiting)
        assert len(world.vendor.reads) == 60
        refused = [at for at, _ in world.vendor.reads if at < 70]
        assert len(refused) == 30
        after = sorted(at for at, _ in world.vendor.reads if at > 70)
        assert after[0] == pytest.approx(15 + 3 + 60, abs=1)
        assert after[1] >= after[0] + 3  # one alone is tried


@virtual_time
async def test_waiters_stay_through_a_pause_and_keep_their_timeouts_and_events() -> None:
    async with a_world() as world:
        world.vendor.will("1", Unauthorized("no", status=401))
        first, second = world.start("1", timeout=40), world.start("2", timeout=600)
        await asyncio.sleep(30)
        await world.deliver("2")
        await second
        assert now() == 30.0
        with pytest.raises(CompletionTimeout, match="Unauthorized"):
            await first
        assert now() == 40.0


# 429


@virtual_time
@pytest.mark.parametrize(("asked", "pause"), [(33.0, 33.0), (None, 10.0)])
async def test_a_rate_limit_pauses_all_polls_as_asked(asked: float | None, pause: float) -> None:
    async with a_world() as world:
        world.vendor.will("1", RateLimited("slow down", status=429, retry_after=asked), "done")
        world.vendor.will("2", "done")
        await asyncio.gather(world.start("1"), world.start("2"))
        assert world.vendor.read_times[0] == 15.0
        assert world.vendor.read_times[1] == 15.0 + pause
        assert world.completions.statistics.poll_errors == 1


# trouble


@virtual_time
@pytest.mark.parametrize("error", [trouble(500), trouble(503), ConnectFailed("refused"), DeadlineExceeded("late")])
async def test_what_the_vendor_does_not_answer_is_asked_again_soon(error: Exception) -> None:
    async with a_world() as world:
        world.vendor.will("1", error, error, error, "done")
        await world.completions.wait("1", timeout=600)
        assert world.vendor.read_times == [15.0, 16.0, 18.0, 22.0]
        assert world.completions.statistics.poll_errors == 3


@pytest.mark.slow
@virtual_time
async def test_a_vendor_that_answers_nothing_is_asked_no_more_often_than_usual() -> None:
    async with a_world() as world:
        uids = [str(number) for number in range(100)]
        for uid in uids:
            world.vendor.will(uid, trouble(503), trouble(503), "done")
        await asyncio.gather(*[world.start(uid, timeout=600) for uid in uids])
        early = [at for at in world.vendor.read_times if at < 15.0 + 24.0]
        assert len(early) <= 100 + 10


@virtual_time
@pytest.mark.parametrize(
    "error",
    [
        UnexpectedResponse("expected JSON, got a page"),
        ClientClosed("closed"),
        RequestRejected("a 400 that makes no sense", status=400),
    ],
)
async def test_trouble_waits_its_turn(error: Exception) -> None:
    async with a_world() as world:
        world.vendor.will("1", error, error, "done")
        await world.completions.wait("1", timeout=600)
        assert world.vendor.read_times == [15.0, 39.0, 77.4]
        assert world.completions.statistics.poll_errors == 2


# the budget


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_webhooks_dead_altogether_everything_settles_inside_the_budget() -> None:
    async with a_world() as world:
        for number in range(500):
            world.vendor.will(str(number), *["pending"] * (number % 3), "failed" if number % 50 == 0 else "done")
        waiting = [world.start(str(number)) for number in range(500)]
        await asyncio.gather(*waiting, return_exceptions=True)
        assert most_in_a_second(world.vendor.read_times) <= 20
        assert len(world.vendor.reads) == sum(1 + number % 3 for number in range(500))
        assert world.completions.statistics.settled_by_poll == 500


@virtual_time
@pytest.mark.parametrize("rate", [0.5, 3, 200])
async def test_lookups_keep_to_the_budget_too(rate: float) -> None:
    async with a_world(polling=PollPolicy(max_per_second=rate)) as world:
        for number in range(40):
            world.vendor.will(str(number), "pending", "done")
            await world.deliver(str(number), status=None)
        await asyncio.sleep(400)
        if rate >= 1:
            assert most_in_a_second(world.vendor.read_times) <= rate
        gaps = [then - before for before, then in zip(world.vendor.read_times, world.vendor.read_times[1:], strict=False)]
        assert min(gaps) >= 1 / rate - 1e-9
        assert (await world.store.statistics()).outcomes == 40


@virtual_time
async def test_lookups_go_ahead_of_a_backlog() -> None:
    async with a_world(polling=PollPolicy(max_per_second=2)) as world:
        for number in range(200):
            world.vendor.will(str(number), "pending")
        waiting = [world.start(str(number)) for number in range(200)]
        await asyncio.sleep(30)
        world.vendor.will("200", "done")
        late = world.start("200")
        await settle()
        await world.deliver("200", status=None)
        await late
        assert now() <= 30.5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@virtual_time
async def test_a_vendor_that_hangs_is_asked_only_so_much_at_a_time() -> None:
    async with a_world(polling=PollPolicy(max_per_second=2)) as world:
        world.vendor.latency = 1_000.0
        waiting = [world.start(str(number), timeout=300) for number in range(100)]
        await asyncio.gather(*waiting, return_exceptions=True)
        assert world.vendor.most_in_flight == 10


@virtual_time
async def test_claims_of_a_process_that_died_are_polled_by_another_when_their_lease_is_over() -> None:
    world = World()
    await world.deliver("1", status=None)
    claimed = await world.store.claim_polls("default", limit=1, lease=60, max_per_second=20)
    assert [claim.ref for claim in claimed.claims] == [a_ref("1")]
    world.vendor.will("1", "done")
    async with world.completions:
        await asyncio.sleep(59)
        assert world.vendor.reads == []
        await asyncio.sleep(2)
        assert len(world.vendor.reads) == 1


@virtual_time
async def test_claims_are_given_back_when_all_is_closed() -> None:
    world = World()
    world.vendor.latency = 30.0
    async with world.completions:
        waiting = world.start("1", poll_now=True)
        await asyncio.sleep(1)
    await asyncio.gather(waiting, return_exceptions=True)
    claimed = await world.store.claim_polls("default", limit=1, lease=60, max_per_second=20)
    assert [(claim.ref, claim.polls) for claim in claimed.claims] == [(a_ref("1"), 0)]


@virtual_time
async def test_what_one_process_was_not_told_counts_for_the_next() -> None:
    vendor, store = FakeVendor(), MemoryStore(clock=wall)
    for leaves_at in (80.0, None):
        async with Completions(vendor, store, clock=wall, random=lambda: 0.0) as completions:
            waiting = asyncio.create_task(completions.wait("1", timeout=600))
            if leaves_at is None:
                with pytest.raises(NotFound):
                    await waiting
            else:
                await asyncio.sleep(leaves_at)
                await leave(waiting)
    assert vendor.read_times == pytest.approx([15.0, 39.0, 77.4, 95.0, 119.0], abs=0.1)
