"""A run sends each row once, under a key that the ledger knew before, and leads it to a known end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from attrs import evolve

from payouts.keys import derive_key
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.progress import Stop
from payouts.request_budget import paced
from payouts.rows import Row
from payouts.runner import PayoutRun, PayoutsStopped, RunOptions, run_payouts
from payouts.states import Entry, LedgerError, RowChanged, State
from rewards_core.errors import (
    ConfigurationError,
    Conflict,
    ConnectFailed,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    RewardsError,
    ServerFailed,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.operations import OperationStatus
from rewards_core.rate import Limiter
from rewards_core.sqlite.connection import Connection, SQLiteError
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, ledger_at, token_row, waiting
from tests.virtual_time import virtual_time

QUICK = RunOptions(rate=None, concurrency=4, lookup_timeout=0)
ALONE = RunOptions(rate=None, concurrency=1, lookup_timeout=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "payouts.db"


@pytest_asyncio.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(path) as ledger:
        yield ledger


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


def now() -> float:
    return asyncio.get_running_loop().time()


def rows(count: int) -> list[Row]:
    return [token_row(f"r{number}") for number in range(count)]


async def pay(given: Any, client: Any, ledger: Ledger, **options: Any) -> list[Entry]:
    """Run to the end and return what was yielded."""
    options = {"options": QUICK} | options
    if options["options"].wait and isinstance(client, StubOriginal):
        async with waiting(client) as completions:
            return [entry async for entry in run_payouts(given, client=client, completions=completions, ledger=ledger, **options)]
    return [entry async for entry in run_payouts(given, client=client, ledger=ledger, **options)]


def pauses(moments: list[float]) -> list[float]:
    return [round(after - before, 6) for before, after in pairwise(moments)]


def key_of(row_id: str, vendor: str = "original") -> str:
    return derive_key(vendor, "diwali-2026", row_id)


async def led_to(ledger: Ledger, row: Row, *states: State, **facts: Any) -> Entry:
    (entry,) = await ledger.plan([row])
    for state in states:
        entry = await ledger.move(entry, state, **(facts if state is states[-1] else {}))
    return entry


# well


@pytest.mark.slow
async def test_every_row_is_paid_once_and_yielded_when_it_is_done(vendor: StubOriginal, ledger: Ledger) -> None:
    ended = await pay(rows(500), vendor, ledger)
    assert sorted(entry.id for entry in ended) == sorted(row.id for row in rows(500))
    assert {(entry.state, entry.settled_by) for entry in ended} == {(State.DONE, "poll")}
    assert sorted(vendor.created) == sorted(key_of(row.id) for row in rows(500))
    assert await ledger.counts() == {State.DONE: 500}


async def test_a_second_run_costs_no_request_for_settled_rows(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(5), vendor, ledger)
    asked = len(vendor.created) + len(vendor.looked_up)
    async with waiting(vendor) as completions:
        run = run_payouts(rows(6), client=vendor, completions=completions, ledger=ledger, options=QUICK)
        assert [entry.id async for entry in run] == ["r5"]
    assert len(vendor.created) + len(vendor.looked_up) == asked + 1
    assert (run.progress.read, run.progress.skipped, run.progress.ended[State.DONE]) == (6, 5, 1)
    assert run.progress.settled_by == {"poll": 1}
    assert (run.progress.in_flight, run.progress.pending) == (0, 0)


@virtual_time
async def test_known_rows_take_no_turn_and_no_place_of_a_row_that_is_sent(vendor: StubOriginal, ledger: Ledger) -> None:
    async def in_groups() -> AsyncIterator[Row]:
        for number, row in enumerate(rows(62)):
            if number % 5 == 0:
                await asyncio.sleep(0.001)
            yield row

    await pay(rows(60), vendor, ledger, options=RunOptions(rate=None, wait=False))
    await ledger.plan([token_row("r60")])
    begun = now()
    ended = await pay(in_groups(), vendor, ledger, options=RunOptions(rate=0.1, concurrency=1, wait=False))
    assert {entry.id for entry in ended} == {"r60", "r61"}
    assert 10 <= now() - begun < 11


async def test_the_ledger_knows_a_row_as_sent_before_it_leaves(vendor: StubOriginal, ledger: Ledger, path: Path) -> None:
    seen = []

    def look(nonce: str) -> None:
        with LedgerReader(path) as reader:
            seen.extend([(entry.key, entry.state) for entry in reader.entries(reader.campaign()) if entry.key == nonce])

    vendor.before = lambda nonce: asyncio.to_thread(look, nonce)
    await ledger.plan(rows(2))
    await pay(rows(4), vendor, ledger)
    assert sorted(seen) == sorted((key_of(row.id), State.SENT) for row in rows(4))


@pytest.mark.slow
async def test_a_row_that_comes_twice_is_paid_once(vendor: StubOriginal, ledger: Ledger) -> None:
    twice = [row for row in rows(300) for _ in range(2)] + rows(300)
    assert len(await pay(twice, vendor, ledger)) == 300
    assert len(vendor.created) == 300


async def test_rows_may_come_one_by_one(vendor: StubOriginal, ledger: Ledger) -> None:
    async def trickle() -> AsyncIterator[Row]:
        for row in rows(3):
            yield row

    assert len(await pay(trickle(), vendor, ledger)) == 3


async def test_without_waiting_rows_end_as_accepted_and_the_next_run_waits_for_them(vendor: StubOriginal, ledger: Ledger) -> None:
    ended = await pay(rows(3), vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert [(entry.state, entry.uid is None) for entry in ended] == [(State.ACCEPTED, False)] * 3
    vendor.created.clear()
    ended = await pay(rows(3), vendor, ledger)
    assert {entry.state for entry in ended} == {State.DONE}
    assert vendor.created == []


@pytest.mark.slow
async def test_a_slow_reader_holds_the_run_back(vendor: StubOriginal, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payouts.runner._MAX_UNREAD", 2)
    options = evolve(QUICK, max_pending=4)
    async with waiting(vendor) as completions:
        run = run_payouts(rows(40), client=vendor, completions=completions, ledger=ledger, options=options)
        ended = []
        async for entry in run:
            ended.append(entry)
            for _ in range(100):
                await asyncio.sleep(0.001)
            assert len(vendor.created) <= len(ended) + 2 + 4  # read, unread, and under way
    assert len(ended) == 40


# how it ends otherwise


async def test_a_failed_chain_is_told(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.final = OperationStatus.FAILED
    (entry,) = await pay(rows(1), vendor, ledger)
    assert (entry.state, entry.problem_kind, entry.settled_by) == (State.FAILED, "AllocationFailed", "poll")


async def test_what_settles_as_something_else_is_a_mismatch(vendor: StubOriginal, ledger: Ledger) -> None:
    (planned,) = await ledger.plan([token_row("r0")])
    first = vendor.replay = vendor.hold("user-r0", "99", planned.key)
    (entry,) = await pay(rows(1), vendor, ledger)
    assert (entry.state, entry.problem_kind, entry.uid) == (State.MISMATCH, "OperationMismatch", first.uid)


async def test_what_another_grant_got_under_a_key_of_its_own_does_not_pay_a_row(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.replay = vendor.hold("user-r0", "1.50", "the-key-of-another-grant")
    (entry,) = await pay(rows(1), vendor, ledger)
    assert (entry.state, entry.problem_kind) == (State.MISMATCH, "OperationMismatch")


@pytest.mark.parametrize(
    ("problem", "state"),
    [
        (ValidationFailed("no such reward", status=400), State.REJECTED),
        (Forbidden("not yours", status=403), State.REJECTED),
        (OutcomeUnknown("no answer"), State.UNKNOWN),
        (ServerFailed("cannot come from a call that pays"), State.UNKNOWN),
        (Conflict("another amount"), State.MISMATCH),
    ],
)
async def test_what_an_error_means_for_its_row(vendor: StubOriginal, ledger: Ledger, problem: VendorError, state: State) -> None:
    vendor.answers["user-r0"].append(problem)
    ended = {entry.id: entry for entry in await pay(rows(2), vendor, ledger)}
    assert (ended["r0"].state, ended["r0"].problem_kind) == (state, type(problem).__name__)
    told = ended["r0"].problem or ""
    assert told.startswith(str(problem))
    assert ("run the same command again" in told) == isinstance(problem, OutcomeUnknown)
    assert ended["r1"].state is State.DONE


async def test_a_conflict_names_what_the_vendor_holds(vendor: StubOriginal, ledger: Ledger) -> None:
    existing = vendor.hold("user-r0", "99", "n1")
    vendor.answers["user-r0"].append(Conflict("another amount", existing=existing))
    (entry,) = await pay(rows(1), vendor, ledger)
    assert (entry.state, entry.uid) == (State.MISMATCH, existing.uid)


async def test_an_operation_that_is_not_there_any_more_is_unknown(vendor: StubOriginal, ledger: Ledger) -> None:
    class Gone:
        def as_completed(self, operations: Any, **_: Any) -> Any:
            return FakeStream(operations, NotFound("no such allocation"))

    run = run_payouts(rows(1), client=vendor, completions=Gone(), ledger=ledger, options=QUICK)  # type: ignore[arg-type]
    (entry,) = [entry async for entry in run]
    assert (entry.state, entry.problem_kind) == (State.UNKNOWN, "NotFound")


class FakeStream:
    """Ends every operation with the same error."""

    def __init__(self, operations: Any, error: Exception) -> None:
        self._operations = operations
        self._error = error

    async def __aenter__(self) -> FakeStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._operations.aclose()

    async def aclose(self) -> None:
        await self._operations.aclose()

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for operation in self._operations:
            yield type("Completion", (), {"ref": operation, "operation": None, "error": self._error, "via": "poll"})


async def test_an_error_that_is_not_the_rows_ends_the_run(vendor: StubOriginal, ledger: Ledger) -> None:
    class Broken:
        def as_completed(self, operations: Any, **_: Any) -> Any:
            return FakeStream(operations, RuntimeError("the store has gone"))

    run = run_payouts(rows(1), client=vendor, completions=Broken(), ledger=ledger, options=QUICK)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the store has gone"):
        _ = [entry async for entry in run]
    assert await ledger.counts() == {State.ACCEPTED: 1}


async def test_a_row_whose_time_is_over_stays_accepted_for_the_next_run(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.final = OperationStatus.PENDING
    (entry,) = await pay(rows(1), vendor, ledger, options=RunOptions(rate=None, timeout=0.1))
    assert (entry.state, (await ledger.find("r0"))) == (State.ACCEPTED, entry)
    vendor.final = OperationStatus.DONE
    (entry,) = await pay(rows(1), vendor, ledger)
    assert entry.state is State.DONE
    assert len(vendor.created) == 1


async def test_two_rows_cannot_be_one_operation(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.final = OperationStatus.PENDING
    vendor.next_uid = lambda: "uid-1"
    ended = await pay(rows(2), vendor, ledger, options=RunOptions(rate=None, concurrency=1, timeout=0.1))
    assert [entry.state for entry in ended] == [State.MISMATCH, State.ACCEPTED]
    assert "for this row and for another one" in (ended[0].problem or "")


async def test_what_the_client_found_finished_needs_no_waiting(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.recovered = True
    (entry,) = await pay(rows(1), vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert (entry.state, entry.settled_by) == (State.DONE, "poll")
    vendor.final = OperationStatus.FAILED
    (entry,) = await pay([token_row("r1")], vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert (entry.state, entry.problem_kind) == (State.FAILED, "AllocationFailed")


# what earlier runs left


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


async def collect(run: PayoutRun) -> list[Entry]:
    return [entry async for entry in run]


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
    with pytest.raises(PayoutsStopped, match="20 consecutive rows were refused") as stopped:
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
async def test_rows_leave_at_the_rate_one_by_one_although_they_are_stored_together(vendor: StubOriginal, path: Path) -> None:
    left = []

    async def look(_: str) -> None:
        left.append(round(now(), 6))

    vendor.before = look
    async with ledger_at(path) as ledger:
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


# ends


async def test_a_wish_to_stop_lets_the_request_under_way_end_and_sends_nothing_more(vendor: StubOriginal, ledger: Ledger) -> None:
    async with waiting(vendor) as completions:
        run = run_payouts(rows(1000), client=vendor, completions=completions, ledger=ledger, options=QUICK)

        async def wish(_: str) -> None:
            if len(vendor.created) == 10:
                run.stop()

        vendor.before = wish
        ended = await collect(run)
    assert len(ended) == len(vendor.created) <= 10 + QUICK.concurrency
    counts = await ledger.counts()
    assert counts.pop(State.PLANNED) > 0
    assert counts == {State.DONE: len(ended)}


@pytest.mark.slow
@virtual_time
async def test_after_a_wish_to_stop_accepted_rows_are_waited_for_no_longer_than_grace(
    vendor: StubOriginal, ledger: Ledger
) -> None:
    vendor.final = OperationStatus.PENDING
    async with waiting(vendor) as completions:
        options = RunOptions(rate=None, concurrency=2, max_pending=2, grace=30.0)
        run = run_payouts(rows(10), client=vendor, completions=completions, ledger=ledger, options=options)
        collecting = asyncio.ensure_future(collect(run))
        while run.progress.pending < 2:
            await asyncio.sleep(0)
        run.stop()
        stopped_at = now()
        assert await collecting == []
    assert now() == stopped_at + 30.0
    assert await ledger.counts() == {State.ACCEPTED: 2, State.PLANNED: 8}


@pytest.mark.slow
@virtual_time
async def test_a_wish_to_stop_ends_waiting_for_room_among_the_rows_of_earlier_runs(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(3), vendor, ledger, options=RunOptions(rate=None, wait=False))
    sent = await led_to(ledger, token_row("sent"), State.SENT)
    vendor.hold("user-sent", "1.50", sent.key)
    vendor.final = OperationStatus.PENDING
    async with waiting(vendor) as completions:
        options = RunOptions(rate=None, max_pending=2)
        run = run_payouts([], client=vendor, completions=completions, ledger=ledger, options=options)
        collecting = asyncio.ensure_future(collect(run))
        while run.progress.pending < 2:
            await asyncio.sleep(0)
        run.stop()
        assert await collecting == []


async def test_a_stop_before_the_beginning_leaves_everything_as_it_was(vendor: StubOriginal, ledger: Ledger) -> None:
    await led_to(ledger, token_row("r0"), State.SENT)
    async with waiting(vendor) as completions:
        run = run_payouts(rows(3), client=vendor, completions=completions, ledger=ledger, options=RunOptions(grace=0.0))
        run.stop()
        assert await collect(run) == []
    assert (vendor.created, vendor.looked_up) == ([], [])


@virtual_time
async def test_a_stop_cuts_the_pause_of_a_row_that_never_left(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.answers["user-r0"].append(ConnectFailed("refused"))
    run = run_payouts(rows(1), client=vendor, ledger=ledger, options=RunOptions(rate=None, wait=False))
    asyncio.get_running_loop().call_at(0.5, run.stop)
    assert await collect(run) == []
    assert now() == 0.5
    assert await ledger.counts() == {State.PLANNED: 1}


async def test_a_stop_does_not_wait_for_rows_that_do_not_come(vendor: StubOriginal, ledger: Ledger) -> None:
    async def never() -> AsyncIterator[Row]:
        yield token_row("r0")
        await asyncio.Event().wait()

    run = run_payouts(never(), client=vendor, ledger=ledger, options=RunOptions(rate=None, wait=False))
    ended = []
    async for entry in run:
        ended.append(entry.id)
        run.stop()
    assert ended == ["r0"]


async def test_an_end_may_be_asked_for_again_while_pauses_are_being_cut() -> None:
    stop = Stop()
    pausing = asyncio.ensure_future(stop.pause(1000))
    await asyncio.sleep(0)
    stop.wish()
    await asyncio.sleep(0)
    stop.wish()
    assert not await pausing


async def test_a_run_that_is_closed_elsewhere_ends_its_iteration_without_an_error(vendor: StubOriginal, ledger: Ledger) -> None:
    under_way = asyncio.Event()

    async def hang(_: str) -> None:
        under_way.set()
        await asyncio.Event().wait()

    vendor.before = hang
    run = run_payouts(rows(1), client=vendor, ledger=ledger, options=RunOptions(rate=None, wait=False))
    collecting = asyncio.ensure_future(collect(run))
    await under_way.wait()
    await run.aclose()
    assert await collecting == []
    assert await ledger.counts() == {State.SENT: 1}


@pytest.mark.parametrize("changed", [False, True], ids=["source fails", "row changed"])
async def test_a_bad_row_ends_the_run_but_no_request_under_way(coins: Ledger, changed: bool) -> None:
    vendor = StubEnkash()
    under_way, go = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        under_way.set()
        await go.wait()

    async def given() -> AsyncIterator[Row]:
        yield coin_row("r0")
        await under_way.wait()
        try:
            if changed:
                yield coin_row("r0", user_id="somebody-else")
            raise OSError("the database is gone")
        finally:
            asyncio.get_running_loop().call_later(0.01, go.set)

    vendor.before = hang
    run = run_payouts(given(), client=vendor, ledger=coins, options=QUICK)
    with pytest.raises(RowChanged if changed else OSError):
        await collect(run)
    assert run.progress.ended[State.DONE] == 1
    assert await coins.counts() == {State.DONE: 1}


async def test_leaving_early_ends_everything_and_the_next_run_finds_out(vendor: StubOriginal, ledger: Ledger) -> None:
    under_way = asyncio.Event()

    async def hang(nonce: str) -> None:
        if nonce == key_of("r1"):
            under_way.set()
            await asyncio.Event().wait()

    vendor.before = hang
    async with waiting(vendor) as completions:
        async with run_payouts(rows(2), client=vendor, completions=completions, ledger=ledger, options=QUICK) as run:
            async for entry in run:
                assert entry.id == "r0"
                await under_way.wait()
                break
        await run.aclose()
    assert await ledger.counts() == {State.DONE: 1, State.SENT: 1}
    vendor.before = None
    (ended,) = await pay(rows(2), vendor, ledger)
    assert (ended.id, ended.state) == ("r1", State.DONE)


async def test_a_ledger_that_cannot_be_written_ends_the_run(vendor: StubOriginal, ledger: Ledger) -> None:
    def break_down(database: Connection) -> None:
        raise SQLiteError("disk I/O error")

    async def broken(_: str) -> None:
        with pytest.raises(LedgerError):
            await ledger._writer.run(break_down)

    vendor.before = broken
    with pytest.raises(LedgerError, match="disk I/O error"):
        await pay(rows(20), vendor, ledger)


async def test_a_row_that_changed_ends_the_run_before_it_is_sent(vendor: StubOriginal, ledger: Ledger) -> None:
    await pay(rows(1), vendor, ledger)
    with pytest.raises(RowChanged):
        await pay([token_row("r0", amount="2")], vendor, ledger)
    assert len(vendor.created) == 1


# EnKash


@pytest_asyncio.fixture
async def coins(path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(path, "enkash") as ledger:
        yield ledger


async def test_coins_are_paid_with_the_answer(coins: Ledger) -> None:
    vendor = StubEnkash()
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert (entry.state, entry.settled_by, vendor.given) == (State.DONE, "reply", [key_of("r0", "enkash")])
    assert await pay([coin_row("r0")], vendor, coins) == []


async def test_coins_whose_answer_was_never_read_are_unknown_and_not_given_again(coins: Ledger) -> None:
    vendor = StubEnkash()
    await led_to(coins, coin_row("r0"), State.SENT)
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert (entry.state, vendor.given) == (State.UNKNOWN, [])
    assert "payouts resolve" in (entry.problem or "")
    assert await pay([coin_row("r0")], vendor, coins) == []


async def test_coins_are_given_again_only_where_that_is_known_to_be_safe(coins: Ledger) -> None:
    vendor = StubEnkash()
    await led_to(coins, coin_row("r0"), State.SENT)
    await led_to(coins, coin_row("r1"), State.SENT, State.UNKNOWN)
    ended = await pay([coin_row("r0"), coin_row("r1")], vendor, coins, may_repeat=True)
    assert {entry.state for entry in ended} == {State.DONE}
    assert sorted(vendor.given) == sorted([key_of("r0", "enkash"), key_of("r1", "enkash")])


async def test_coins_refused_when_given_again_are_unknown_because_the_first_may_have_been_given(coins: Ledger) -> None:
    vendor = StubEnkash()
    vendor.answers["EKQZVMQK"].append(ValidationFailed("duplicate request id"))
    await led_to(coins, coin_row("r0"), State.SENT)
    (entry,) = await pay([coin_row("r0")], vendor, coins, may_repeat=True)
    assert entry.state is State.UNKNOWN


@pytest.mark.parametrize(
    ("problem", "state"),
    [(ValidationFailed("no funds"), State.REJECTED), (OutcomeUnknown("no answer"), State.UNKNOWN)],
)
async def test_what_an_error_means_for_coins(coins: Ledger, problem: VendorError, state: State) -> None:
    vendor = StubEnkash()
    vendor.answers["EKQZVMQK"].append(problem)
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert entry.state is state


async def test_coins_are_marked_as_sent_only_when_a_request_can_leave(coins: Ledger) -> None:
    vendor = StubEnkash()
    begun, go = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        if len(vendor.given) == 2:
            begun.set()
        await go.wait()

    vendor.before = hang
    paying = asyncio.ensure_future(
        pay([coin_row(f"r{number}") for number in range(20)], vendor, coins, options=RunOptions(rate=None, concurrency=2))
    )
    await begun.wait()
    assert await coins.counts() == {State.SENT: 2}
    go.set()
    assert len(await paying) == 20


async def test_coins_that_were_marked_and_never_left_are_planned_again_at_the_end(coins: Ledger) -> None:
    vendor = StubEnkash()
    run = run_payouts(
        [coin_row(f"r{n}") for n in range(9)], client=vendor, ledger=coins, options=RunOptions(rate=None, concurrency=3)
    )

    async def wish(_: str) -> None:
        run.stop()

    vendor.before = wish
    ended = await collect(run)
    assert len(ended) == len(vendor.given) < 9
    assert await coins.counts() == {State.DONE: len(ended), State.PLANNED: 9 - len(ended)}


# misuse


async def test_ledger_and_client_must_be_of_one_vendor(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="client: give a client of original, the ledger's vendor, not of enkash"):
        run_payouts([], client=StubEnkash(), ledger=ledger)


async def test_waiting_needs_completions(vendor: StubOriginal, ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="completions: give Completions"):
        run_payouts([], client=vendor, ledger=ledger)


async def test_a_run_is_iterated_once(vendor: StubOriginal, ledger: Ledger) -> None:
    run = run_payouts([], client=vendor, ledger=ledger, options=RunOptions(wait=False))
    assert await collect(run) == []
    with pytest.raises(RuntimeError, match="Call run_payouts again"):
        await collect(run)


async def test_a_run_that_was_closed_pays_nothing(vendor: StubOriginal, ledger: Ledger) -> None:
    async with run_payouts(rows(1), client=vendor, ledger=ledger, options=RunOptions(wait=False)) as run:
        pass
    with pytest.raises(RuntimeError, match="was closed"):
        await collect(run)
    assert vendor.created == []


@pytest.mark.parametrize("has_lookups", [False, True])
async def test_a_payer_must_look_rows_up_exactly_where_its_vendor_can(path: Path, has_lookups: bool) -> None:
    class Fake:
        name = "enkash" if has_lookups else "original"
        may_repeat = False
        lookups = StubOriginal() if has_lookups else None
        balances = None

        async def pay(self, entry: Entry, *, repeated: bool = False) -> None:
            raise AssertionError(f"{entry.id} was paid")

    async with ledger_at(path, Fake.name) as ledger:
        with pytest.raises(ValueError, match="must have no lookups" if has_lookups else "must have lookups"):
            await pay(rows(1), Fake(), ledger, options=RunOptions(wait=False))
