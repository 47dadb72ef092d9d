"""A run sends each row once, under a key that the ledger knew before, and leads it to a known end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.rows import Row
from payouts.runner import RunOptions, run_payouts
from payouts.states import Entry, State
from rewards_core.errors import Conflict, Forbidden, NotFound, OutcomeUnknown, ServerFailed, ValidationFailed, VendorError
from rewards_core.operations import OperationStatus
from tests.payouts.payout_kit import StubOriginal, ledger_at, token_row, waiting
from tests.payouts.run_kit import QUICK, collect, key_of, now, pay, rows
from tests.texts import said
from tests.virtual_time import virtual_time


@pytest.fixture
def vendor() -> StubOriginal:
    return StubOriginal()


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
    monkeypatch.setattr("payouts.runner.MAX_UNREAD", 2)
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
    assert (told != str(problem)) == isinstance(problem, OutcomeUnknown)
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
    said("run: one operation for two rows", ended[0].problem)


async def test_what_the_client_found_finished_needs_no_waiting(vendor: StubOriginal, ledger: Ledger) -> None:
    vendor.recovered = True
    (entry,) = await pay(rows(1), vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert (entry.state, entry.settled_by) == (State.DONE, "poll")
    vendor.final = OperationStatus.FAILED
    (entry,) = await pay([token_row("r1")], vendor, ledger, options=RunOptions(rate=None, wait=False))
    assert (entry.state, entry.problem_kind) == (State.FAILED, "AllocationFailed")


# misuse


async def test_waiting_needs_completions(vendor: StubOriginal, ledger: Ledger) -> None:
    with pytest.raises(ValueError, match=r"^completions: "):
        run_payouts([], client=vendor, ledger=ledger)


async def test_a_run_is_iterated_once(vendor: StubOriginal, ledger: Ledger) -> None:
    run = run_payouts([], client=vendor, ledger=ledger, options=RunOptions(wait=False))
    assert await collect(run) == []
    with pytest.raises(RuntimeError, match="run_payouts"):
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
