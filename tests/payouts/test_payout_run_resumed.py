"""A run looks up what earlier runs left before it sends anything again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from payouts.ledger.sqlite import Ledger
from payouts.rows import Row
from payouts.runner import PayoutsStopped, RunOptions, run_payouts
from payouts.states import State
from payouts.vendors.payers import payer_of
from rewards_core.errors import (
    ConnectFailed,
    Forbidden,
    OutcomeUnknown,
    RateLimited,
    ServerFailed,
    Unauthorized,
    ValidationFailed,
    VendorError,
)
from rewards_core.operations import OperationStatus
from tests.payouts.payout_kit import StubOriginal, token_row, waiting
from tests.payouts.run_kit import ALONE, QUICK, collect, key_of, led_to, pauses, pay, rows
from tests.virtual_time import virtual_time


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


async def test_a_sent_row_that_the_vendor_holds_is_not_sent_again(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    vendor.hold("user-r0", "1.50", entry.key)
    vendor.final = OperationStatus.PENDING
    async with waiting(vendor) as completions:
        run = run_payouts(rows(1), client=vendor, completions=completions, ledger=ledger, options=QUICK)
        ending = asyncio.ensure_future(collect(run))
        while not run.progress.pending:
            await asyncio.sleep(0)
        vendor.final = OperationStatus.DONE
        (ended,) = await ending
    assert (ended.state, vendor.created) == (State.DONE, [])


async def test_a_sent_row_that_the_vendor_holds_finished_is_concluded_at_once(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    vendor.hold("user-r0", "1.50", entry.key)
    (ended,) = await pay([], vendor, ledger)
    assert (ended.state, vendor.created) == (State.DONE, [])


async def test_a_sent_row_that_the_vendor_holds_with_other_content_is_a_mismatch(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    vendor.hold("user-r0", "1.51", entry.key)
    (ended,) = await pay(rows(1), vendor, ledger)
    assert (ended.state, vendor.created) == (State.MISMATCH, [])


async def test_what_another_reward_holds_under_the_key_says_nothing_about_a_row(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    vendor.hold("user-r0", "1.50", entry.key, "another-reward")
    (ended,) = await pay(rows(1), vendor, ledger)
    assert (ended.state, vendor.repeated) == (State.DONE, [entry.key])


async def test_a_look_up_finds_a_row_behind_what_another_reward_holds_under_its_key(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    lookups = payer_of(vendor, "original").lookups
    assert lookups is not None
    other = vendor.hold("user-r0", "1.50", entry.key, "another-reward")
    found = await lookups.look_up(entry)
    assert found is not None
    assert found.ref.uid == other.uid
    own = vendor.hold("user-r0", "1.50", entry.key)
    found = await lookups.look_up(entry)
    assert found is not None
    assert found.ref.uid == own.uid


async def test_a_sent_row_that_never_arrived_is_sent_under_the_same_key(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    (ended,) = await pay(rows(1), vendor, ledger)
    assert (ended.state, vendor.created) == (State.DONE, [entry.key])
    assert vendor.looked_up[0] == entry.key


async def test_a_sent_row_that_the_file_has_no_more_is_asked_about_and_not_sent(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("withdrawn"), State.SENT)
    await pay(rows(1), vendor, ledger)
    assert await ledger.find("withdrawn") == entry
    assert vendor.created == [key_of("r0")]
    assert entry.key in vendor.looked_up


async def test_an_accepted_row_is_waited_for_whether_the_file_has_it_or_not(vendor: StubOriginal, ledger: Ledger) -> None:
    (planned,) = await ledger.plan([token_row("old")])
    held = vendor.hold("user-old", "1.5", planned.key)
    await ledger.move(await ledger.move(planned, State.SENT), State.ACCEPTED, uid=held.uid)
    (ended,) = await pay([], vendor, ledger)
    assert (ended.id, ended.state) == ("old", State.DONE)


async def test_a_row_of_an_earlier_run_that_ends_before_the_file_comes_to_it_counts_once(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    (entry,) = await ledger.plan([token_row("r1")])
    held = vendor.hold(entry.recipient, "1.50", entry.key)
    await ledger.move(await ledger.move(entry, State.SENT), State.ACCEPTED, uid=held.uid)
    ended = asyncio.Event()

    async def rows() -> AsyncIterator[Row]:
        await ended.wait()
        yield token_row("r1")

    async with waiting(vendor) as completions:
        run = run_payouts(rows(), client=vendor, completions=completions, ledger=ledger)
        async for _ in run:
            ended.set()
    assert (run.progress.read, run.progress.skipped, run.progress.ended[State.DONE]) == (1, 0, 1)


async def test_unknown_rows_are_looked_up_and_sent_again_under_the_same_key(vendor: StubOriginal, ledger: Ledger) -> None:
    lost = await led_to(ledger, token_row("r0"), State.SENT, State.UNKNOWN)
    found = await led_to(ledger, token_row("r1"), State.SENT, State.UNKNOWN)
    vendor.hold("user-r1", "1.50", found.key)
    ended = await pay(rows(2), vendor, ledger)
    assert {entry.id: entry.state for entry in ended} == {"r0": State.DONE, "r1": State.DONE}
    assert vendor.created == [lost.key]


async def test_what_is_found_under_an_older_key_is_waited_for_by_the_next_run_too(vendor: StubOriginal, ledger: Ledger) -> None:
    rejected = await led_to(ledger, token_row("r0"), State.SENT, State.REJECTED)
    await ledger.renew_key(rejected)
    vendor.hold("user-r0", "1.50", rejected.key)
    vendor.final = OperationStatus.PENDING
    (entry,) = await pay(rows(1), vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert entry.state is State.ACCEPTED
    vendor.final = OperationStatus.DONE
    (entry,) = await pay(rows(1), vendor, ledger)
    assert (entry.state, entry.problem, vendor.created) == (State.DONE, None, [])


async def test_an_unknown_row_that_was_once_accepted_is_never_sent_again(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT, State.ACCEPTED, State.UNKNOWN, uid="uid-9")
    assert await pay(rows(1), vendor, ledger) == []
    assert vendor.created == []


@virtual_time
async def test_a_look_up_that_cannot_be_made_now_is_made_later(vendor: StubOriginal, ledger: Ledger) -> None:
    entry = await led_to(ledger, token_row("r0"), State.SENT)
    vendor.hold("user-r0", "1.50", entry.key)
    vendor.look_ups["user-r0"] = deque([ServerFailed("503"), RateLimited("later", retry_after=7.0)])
    (ended,) = await pay(rows(1), vendor, ledger)
    assert (ended.state, vendor.created) == (State.DONE, [])
    assert pauses(vendor.asked_at) == [1.0, 7.0]


async def test_a_look_up_that_is_refused_leaves_the_row_to_its_request(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT)
    vendor.look_ups["user-r0"].append(ValidationFailed("no such user"))
    (ended,) = await pay(rows(1), vendor, ledger)
    assert ended.state is State.DONE


@virtual_time
async def test_a_recipient_whose_list_fails_keeps_no_other_from_being_paid(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT)
    vendor.look_ups["user-r0"] = deque([ServerFailed("500")] * 3)
    ended = await pay(rows(20), vendor, ledger)
    assert {entry.state for entry in ended} == {State.DONE}
    assert (len(ended), vendor.repeated) == (20, [key_of("r0")])


@virtual_time
async def test_a_vendor_whose_lists_all_fail_ends_the_run_before_anything_is_sent(vendor: StubOriginal, ledger: Ledger) -> None:
    for row in rows(8):
        await led_to(ledger, row, State.SENT)
        vendor.look_ups[f"user-{row.id}"] = deque([ServerFailed("500")] * 3)
    with pytest.raises(PayoutsStopped):
        await pay(rows(20), vendor, ledger, options=ALONE)
    assert vendor.created == []


async def test_refused_credentials_end_the_run_before_anything_is_sent(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT)
    vendor.look_ups["user-r0"].append(Unauthorized("wrong secret"))
    with pytest.raises(PayoutsStopped):
        await pay(rows(3), vendor, ledger)
    assert vendor.created == []


@pytest.mark.parametrize("state", [State.SENT, State.UNKNOWN])
async def test_a_row_that_may_have_been_sent_before_is_never_called_rejected(
    vendor: StubOriginal, ledger: Ledger, state: State
) -> None:
    entry = await led_to(ledger, token_row("r0"), *([State.SENT, State.UNKNOWN] if state is State.UNKNOWN else [State.SENT]))
    vendor.answers["user-r0"].append(ValidationFailed("no"))
    (ended,) = await pay(rows(1), vendor, ledger)
    assert (ended.state, ended.problem_kind) == (State.UNKNOWN, "ValidationFailed")
    assert vendor.repeated == [entry.key]


@pytest.mark.parametrize("state", [State.SENT, State.UNKNOWN])
@pytest.mark.parametrize("problem", [Forbidden("not yours"), Unauthorized("wrong secret"), ConnectFailed("refused")])
@virtual_time
async def test_what_says_nothing_about_earlier_calls_leaves_the_row_as_it_was(
    vendor: StubOriginal, ledger: Ledger, state: State, problem: VendorError
) -> None:
    before = await led_to(ledger, token_row("r0"), *([State.SENT, State.UNKNOWN] if state is State.UNKNOWN else [State.SENT]))
    vendor.answers["user-r0"] = deque([problem] * 100)
    with suppress(PayoutsStopped):
        await pay(rows(1), vendor, ledger)
    assert await ledger.find("r0") == before


async def test_a_lost_row_is_found_by_its_key_in_the_same_run(vendor: StubOriginal, ledger: Ledger) -> None:
    async def commit_and_lose(nonce: str) -> None:
        vendor.hold("user-r0", "1.50", nonce)
        vendor.answers["user-r0"].append(OutcomeUnknown("no answer"))

    vendor.before = commit_and_lose
    (ended,) = await pay(rows(1), vendor, ledger, options=RunOptions(rate=None, lookup_timeout=60))
    assert (ended.state, ended.uid, ended.settled_by) == (State.DONE, "uid-1", "poll")
    assert vendor.created == [ended.key]


async def test_a_lost_row_that_is_not_found_in_time_stays_unknown_and_is_repeated_by_the_next_run(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    vendor.answers["user-r0"].append(OutcomeUnknown("HTTP 503"))
    (ended,) = await pay(rows(1), vendor, ledger, options=RunOptions(rate=None, lookup_timeout=0))
    assert (ended.state, ended.uid) == (State.UNKNOWN, None)
    (ended,) = await pay(rows(1), vendor, ledger)
    assert ended.state is State.DONE
    assert (vendor.created, vendor.repeated) == ([ended.key] * 2, [ended.key])


async def test_lost_rows_of_one_recipient_are_looked_up_together_after_a_crash(vendor: StubOriginal, ledger: Ledger) -> None:
    several = [token_row(f"r{number}", to_user_uid="one") for number in range(3)]
    for row in several:
        entry = await led_to(ledger, row, State.SENT)
        vendor.hold("one", "1.50", entry.key)
    ended = await pay(several, vendor, ledger)
    assert {entry.state for entry in ended} == {State.DONE}
    assert (len(vendor.searched), vendor.created) == (1, [])


@pytest.mark.parametrize("final", [OperationStatus.DONE, OperationStatus.PENDING], ids=["ended", "under way"])
async def test_one_recipient_may_have_more_lost_rows_than_may_be_sent_at_once(
    vendor: StubOriginal, ledger: Ledger, final: OperationStatus
) -> None:
    lost = [token_row(f"r{number}", to_user_uid="one") for number in range(40)]
    for entry in await ledger.plan(lost):
        await ledger.move(entry, State.SENT)
        vendor.hold("one", "1.50", entry.key)
    vendor.final = final
    options = RunOptions(rate=None, concurrency=1, wait=False)
    ended = await pay([], vendor, ledger, options=options)
    assert [entry.state for entry in ended] == [State.DONE if final is OperationStatus.DONE else State.ACCEPTED] * 40


async def test_what_was_found_for_a_lost_row_and_is_waited_for_by_another_is_a_mismatch(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    vendor.final = OperationStatus.PENDING
    lost = (await ledger.plan(rows(2)))[1]
    await led_to(ledger, token_row("r0"), State.SENT, State.ACCEPTED, uid="uid-1")
    vendor.hold("user-r1", "1.50", lost.key)
    vendor.answers["user-r1"].append(OutcomeUnknown("HTTP 503"))
    async with waiting(vendor) as completions:
        run = run_payouts(rows(2), client=vendor, completions=completions, ledger=ledger, options=RunOptions(rate=None))
        async with run:
            ended = await anext(aiter(run))
    assert (ended.id, ended.state) == ("r1", State.MISMATCH)


async def test_a_run_that_is_stopped_gives_up_looking_for_lost_rows(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.answers["user-r0"].append(OutcomeUnknown("HTTP 503"))
    async with waiting(vendor) as completions:
        options = RunOptions(rate=None, lookup_timeout=600, grace=0)
        run = run_payouts(rows(1), client=vendor, completions=completions, ledger=ledger, options=options)

        async def stop_once_it_is_looked_for() -> None:
            while not vendor.searched:
                await asyncio.sleep(0)
            run.stop()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(stop_once_it_is_looked_for())
            assert [entry async for entry in run] == []
    assert await ledger.counts() == {State.UNKNOWN: 1}
