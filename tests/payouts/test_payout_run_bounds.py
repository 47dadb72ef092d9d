"""A row that never left is planned again, an error of all rows ends the run, and limits of rate, number and time hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import evolve

from payouts.ledger.sqlite import Ledger
from payouts.progress import Stop
from payouts.request_budget import paced
from payouts.rows import Row
from payouts.runner import PayoutsStopped, RunOptions, run_payouts
from payouts.states import Entry, State
from rewards_core.errors import (
    ConfigurationError,
    ConnectFailed,
    Forbidden,
    RateLimited,
    RewardsError,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.operations import OperationStatus
from rewards_core.rate import Limiter
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, ledger_at, token_row, waiting
from tests.payouts.run_kit import ALONE, collect, key_of, led_to, now, pauses, pay, rows
from tests.virtual_time import virtual_time


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


# nothing happened


@pytest.mark.parametrize("problem", [ConnectFailed("refused"), RateLimited("slow down")])
@virtual_time
async def test_a_row_that_never_left_is_planned_again_and_tried_until_it_leaves(
    vendor: StubOriginal, ledger: Ledger, problem: VendorError
) -> None:
    vendor.answers["user-r0"] = deque([problem] * 6)
    states = []

    async def look(_: str) -> None:
        entry = await ledger.find("r0")
        assert entry is not None
        states.append(entry.state)

    vendor.before = look
    (ended,) = await pay(rows(1), vendor, ledger)
    assert (ended.state, ended.problem) == (State.DONE, None)
    assert pauses(vendor.asked_at) == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert states == [State.SENT] * 7
    assert len(set(vendor.created)) == 1


@virtual_time
async def test_a_vendor_that_stays_away_ends_the_run_and_leaves_every_row_planned(vendor: StubOriginal, ledger: Ledger) -> None:
    for row in rows(50):
        vendor.answers[f"user-{row.id}"] = deque([ConnectFailed("refused")] * 1000)
    with pytest.raises(PayoutsStopped, match="Stopped: refused") as stopped:
        await pay(rows(50), vendor, ledger)
    assert isinstance(stopped.value.cause, ConnectFailed)
    assert await ledger.counts() == {State.PLANNED: 50}
    assert now() > 120


async def test_a_redirect_ends_the_run_and_leaves_its_row_unknown(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.answers["user-r0"].append(UnexpectedResponse("HTTP 303, which is not followed"))
    with pytest.raises(PayoutsStopped):
        await pay(rows(50), vendor, ledger, options=ALONE)
    assert await ledger.counts() == {State.PLANNED: 49, State.UNKNOWN: 1}
    await pay(rows(50), vendor, ledger)
    assert await ledger.counts() == {State.DONE: 50}
    assert vendor.repeated == [key_of("r0")]


@pytest.mark.parametrize("problem", [Unauthorized("wrong secret"), ConfigurationError("no such session")])
async def test_what_every_row_would_meet_ends_the_run(vendor: StubOriginal, ledger: Ledger, problem: RewardsError) -> None:
    vendor.answers["user-r0"].append(problem)
    with pytest.raises(PayoutsStopped) as stopped:
        await pay(rows(50), vendor, ledger, options=ALONE)
    assert stopped.value.cause is problem
    counts = await ledger.counts()
    assert counts.pop(State.PLANNED) == 50
    assert counts == {}
    assert len(vendor.created) == 1


async def test_a_row_of_an_earlier_run_stays_sent_where_nothing_happened_now(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT)
    vendor.answers["user-r0"].append(Unauthorized("wrong secret"))
    with pytest.raises(PayoutsStopped):
        await pay(rows(1), vendor, ledger)
    assert await ledger.counts() == {State.SENT: 1}


async def test_ten_rows_in_a_row_that_are_forbidden_end_the_run(vendor: StubOriginal, ledger: Ledger) -> None:
    for number in range(50):
        vendor.answers[f"user-r{number}"].append(Forbidden("not yours"))
    vendor.answers["user-r5"] = deque([ValidationFailed("something else")])
    with pytest.raises(PayoutsStopped) as stopped:
        await pay(rows(50), vendor, ledger, options=ALONE)
    assert isinstance(stopped.value.cause, Forbidden)
    assert (await ledger.counts())[State.REJECTED] == 16


async def test_forbidden_rows_among_others_that_are_paid_end_nothing(vendor: StubOriginal, ledger: Ledger) -> None:
    for number in range(0, 40, 2):
        vendor.answers[f"user-r{number}"].append(Forbidden("not yours"))
    await pay(rows(40), vendor, ledger, options=ALONE)
    assert await ledger.counts() == {State.REJECTED: 20, State.DONE: 20}


async def test_many_rows_in_a_row_that_are_refused_end_the_run(vendor: StubOriginal, ledger: Ledger) -> None:
    for number in range(50):
        vendor.answers[f"user-r{number}"].append(ValidationFailed("the reward has no balance"))
    vendor.answers["user-r5"].clear()
    options = evolve(ALONE, max_refused=20)
    with pytest.raises(PayoutsStopped, match="20 ") as stopped:
        await pay(rows(50), vendor, ledger, options=options)
    assert isinstance(stopped.value.cause, ValidationFailed)
    assert await ledger.counts() == {State.REJECTED: 25, State.DONE: 1, State.PLANNED: 24}
    await pay(rows(50), vendor, ledger, options=evolve(ALONE, max_refused=None))
    assert await ledger.counts() == {State.REJECTED: 49, State.DONE: 1}


# bounds


async def test_no_more_rows_wait_than_may(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.final = OperationStatus.PENDING
    most = 0
    async with waiting(vendor) as completions:
        options = RunOptions(rate=None, concurrency=4, max_pending=3)
        run = run_payouts(rows(12), client=vendor, completions=completions, ledger=ledger, options=options)

        async def look(_: str) -> None:
            nonlocal most
            most = max(most, run.progress.pending + run.progress.in_flight)
            if run.progress.pending:
                vendor.final = OperationStatus.DONE

        vendor.before = look
        collecting = asyncio.ensure_future(collect(run))
        while run.progress.pending < 3:
            await asyncio.sleep(0)
        assert len(vendor.created) == 3
        vendor.final = OperationStatus.DONE
        ended = await collecting
    assert len(ended) == 12
    assert most <= 3


async def test_accepted_rows_of_earlier_runs_count_among_those_that_wait(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(5), vendor, ledger, options=RunOptions(rate=None, wait=False))
    ended = await pay(rows(8), vendor, ledger, options=RunOptions(rate=None, max_pending=1))
    assert len(ended) == 8
    assert {entry.state for entry in ended} == {State.DONE}


@virtual_time
async def test_rows_leave_no_faster_than_the_rate(vendor: StubOriginal, ledger: Ledger) -> None:
    left = []

    async def look(_: str) -> None:
        left.append(round(now(), 6))

    vendor.before = look
    await pay(rows(5), vendor, ledger, options=RunOptions(rate=4.0, concurrency=1))
    assert left == [0.0, 0.25, 0.5, 0.75, 1.0]


@virtual_time
async def test_rows_leave_at_the_rate_one_by_one_although_they_are_stored_together(
    vendor: StubOriginal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = []

    async def look(_: str) -> None:
        left.append(round(now(), 6))

    vendor.before = look
    async with ledger_at(path) as ledger:
        store = ledger.plan_sent

        async def slowly(wanted: Sequence[Row], max_rows: int) -> list[Entry]:
            await asyncio.sleep(0.025)
            return await store(wanted, max_rows)

        monkeypatch.setattr(ledger, "plan_sent", slowly)
        await pay(rows(300), vendor, ledger, options=RunOptions(rate=500.0, concurrency=100))
    turns = [round(number / 500, 6) for number in range(300)]
    assert all(at >= turn for at, turn in zip(left, turns, strict=True))
    assert left[50:] == turns[50:]


@virtual_time
async def test_no_second_sees_more_rows_than_the_rate_after_a_slow_vendor(vendor: StubOriginal, ledger: Ledger) -> None:
    left = []

    async def slow_at_first(_: str) -> None:
        left.append(now())
        await asyncio.sleep(max(0.0, 5.0 - now()))

    vendor.before = slow_at_first
    await pay(rows(100), vendor, ledger, options=RunOptions(rate=20.0, concurrency=20, wait=False))
    assert len(left) == 100
    assert all(later - earlier > 1.0 - 1e-6 for earlier, later in zip(left, left[20:], strict=False))


@virtual_time
async def test_a_run_that_is_cut_off_leaves_few_coins_in_doubt(path: Path) -> None:
    client = StubEnkash()
    given = [coin_row(f"r{number}") for number in range(100)]
    async with ledger_at(path, "enkash") as ledger:
        async with run_payouts(given, client=client, ledger=ledger, options=RunOptions(rate=100.0)) as run:
            async for _ in run:
                if len(client.given) >= 20:
                    break
        assert (await ledger.counts())[State.SENT] <= 5


@virtual_time
async def test_a_stop_takes_back_rows_that_were_stored_as_sent_before_their_turn(vendor: StubOriginal, ledger: Ledger) -> None:
    run = run_payouts(rows(100), client=vendor, ledger=ledger, options=RunOptions(rate=500.0, concurrency=100, wait=False))

    async def look(_: str) -> None:
        if len(vendor.created) == 10:
            stored.append(await ledger.counts())
            run.stop()

    stored: list[dict[State, int]] = []
    vendor.before = look
    ended = [entry async for entry in run]
    assert stored[0][State.SENT] > 10
    assert len(ended) == len(vendor.created) == 10
    assert await ledger.counts() == {State.ACCEPTED: 10, State.PLANNED: 90}
    await pay(rows(100), vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert len(vendor.created) == len(set(vendor.created)) == 100


async def test_no_more_rows_are_sent_than_the_limit(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(2), vendor, ledger)
    ended = await pay(rows(10), vendor, ledger, options=RunOptions(rate=None, limit=3))
    assert sorted(entry.id for entry in ended) == ["r2", "r3", "r4"]
    assert await pay(rows(10), vendor, ledger, options=RunOptions(rate=None, limit=0)) == []


@virtual_time
async def test_a_wish_to_stop_ends_the_waiting_for_a_turn() -> None:
    stop, limiter = Stop(), Limiter(paced(2.0))
    assert [await stop.take(limiter), await stop.take(limiter)] == [True, True]
    assert now() == 0.5
    asyncio.get_running_loop().call_at(0.75, stop.wish)
    assert not await stop.take(limiter)
    assert now() == 0.75
