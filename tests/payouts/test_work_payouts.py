"""Several workers pay each row of a campaign once, even if workers die or the database fails."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from attrs import evolve

from payouts import Entry, RunOptions, State, run_payouts
from payouts.ledger.postgres import PostgresLedger
from payouts.ledger.sqlite import Ledger
from payouts.ledger.worker import Turn, Worker
from payouts.pipeline.planning import plan_rows
from payouts.pipeline.shared_slots import SharedSlots
from payouts.progress import Progress, Stop
from payouts.rows import Row
from payouts.runner import PayoutRun, work_payouts
from payouts.states import LeaseLost, RowChanged
from rewards_core.clock import uptime
from rewards_core.errors import OutcomeUnknown, StoreError
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, ledger_at, token_row, waiting
from tests.payouts.postgres_ledger_kit import LedgerDatabase
from webhooks import Completions, MemoryStore, PollPolicy

FAST = RunOptions(rate=None, concurrency=5)


@pytest_asyncio.fixture
async def ledger(database: LedgerDatabase) -> AsyncIterator[PostgresLedger]:
    async with database.ledger() as ledger:
        yield ledger


async def ended(run: PayoutRun) -> list[Entry]:
    return [entry async for entry in run]


async def work(database: LedgerDatabase, client: Any, options: RunOptions = FAST, **ledger_options: Any) -> list[Entry]:
    async with database.ledger(**ledger_options) as ledger:
        if isinstance(client, StubEnkash):
            return await ended(work_payouts(client=client, ledger=ledger, options=options))
        async with waiting(client) as completions:
            return await ended(work_payouts(client=client, completions=completions, ledger=ledger, options=options))


@pytest.mark.slow
async def test_workers_pay_every_row_once(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row(f"r{number}") for number in range(120)])
    done = await asyncio.gather(*(work(database, vendor) for _ in range(3)))
    assert Counter(entry.id for some in done for entry in some) == Counter(f"r{number}" for number in range(120))
    assert set(Counter(vendor.created).values()) == {1}
    assert await ledger.counts() == {State.DONE: 120}


async def test_a_run_plans_its_rows_and_pays_them_and_a_second_run_sends_nothing(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor = StubOriginal()
    rows = [token_row(f"r{number}") for number in range(20)]
    async with waiting(vendor) as completions:
        for _ in range(2):
            await ended(run_payouts(rows, client=vendor, completions=completions, ledger=ledger, options=FAST))
        with pytest.raises(RowChanged):
            await ended(run_payouts([token_row("r1", amount="9")], client=vendor, completions=completions, ledger=ledger))
    assert len(vendor.created) == 20
    assert await ledger.counts() == {State.DONE: 20}


async def test_planning_ends_when_the_run_is_to_end(ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payouts.pipeline.planning.PLANNED_AT_ONCE", 2)
    stop, plan = Stop(), ledger.plan

    async def stop_and_plan(rows: Sequence[Row]) -> list[Entry]:
        stop.wish()
        return await plan(rows)

    monkeypatch.setattr(ledger, "plan", stop_and_plan)
    await plan_rows([token_row(f"r{number}") for number in range(6)], ledger, stop, Progress())
    assert await ledger.counts() == {State.PLANNED: 2}


async def test_rows_before_an_error_of_the_source_are_planned(ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payouts.pipeline.planning.PLANNED_AT_ONCE", 2)
    progress = Progress()

    def source() -> Iterator[Row]:
        yield from (token_row("a"), token_row("b"))
        raise OSError("the export has gone")

    with pytest.raises(OSError, match="the export has gone"):
        await plan_rows(source(), ledger, Stop(), progress)
    assert progress.read == 2


async def test_a_limit_and_a_stop_leave_the_rest_planned(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row(f"r{number}") for number in range(20)])
    assert len(await work(database, vendor, RunOptions(rate=None, limit=5))) == 5
    await ledger.stop()
    assert await work(database, vendor) == []
    assert await ledger.counts() == {State.DONE: 5, State.PLANNED: 15}


@pytest.mark.slow
async def test_a_paused_campaign_goes_on_when_it_is_resumed(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])
    await ledger.pause()
    async with asyncio.TaskGroup() as tasks:
        worker = tasks.create_task(work(database, vendor))
        while not await database.connection.fetchval("SELECT EXISTS (SELECT FROM workers)"):
            await asyncio.sleep(0)
        assert not vendor.created
        await ledger.resume()
    assert [entry.state for entry in worker.result()] == [State.DONE]


def late_claims(monkeypatch: pytest.MonkeyPatch, at_once: int) -> list[int]:
    """Let every row miss the turn that it was claimed with; return a list that gets the number of rows of each claim."""
    claim, claims = Worker.claim, []

    async def claim_late(worker: Worker, most: int) -> Turn:
        turn = await claim(worker, min(most, at_once))
        claims.append(len(turn.entries))
        return evolve(turn, begins=turn.begins - 100.0)

    monkeypatch.setattr(Worker, "claim", claim_late)
    return claims


async def test_rows_that_missed_their_turns_ask_for_others_in_one_statement(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits, asked = Worker.permits, []

    async def ask(worker: Worker, most: int) -> Turn:
        asked.append(most)
        return await permits(worker, most)

    await ledger.plan([token_row(f"r{number}") for number in range(40)])
    late_claims(monkeypatch, 40)
    monkeypatch.setattr(Worker, "permits", ask)
    assert len(await work(database, StubOriginal(), RunOptions(rate=None, concurrency=40))) == 40
    assert len(asked) <= 3


async def test_no_more_rows_are_claimed_while_some_wait_for_their_turns(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits, released, paused = Worker.permits, asyncio.Event(), asyncio.Semaphore(0)

    async def ask(worker: Worker, most: int) -> Turn:
        await released.wait()
        return await permits(worker, most)

    async def pause(_: Stop, seconds: float) -> bool:
        paused.release()
        return await real_pause(_, seconds)

    real_pause = Stop.pause
    await ledger.plan([token_row(f"r{number}") for number in range(12)])
    claims = late_claims(monkeypatch, 2)
    monkeypatch.setattr(Worker, "permits", ask)
    async with asyncio.TaskGroup() as tasks:
        paying = tasks.create_task(work(database, StubOriginal()))
        while not claims:
            await asyncio.sleep(0)
        monkeypatch.setattr(Stop, "pause", pause)
        for _ in range(5):
            await paused.acquire()
        assert len(claims) <= 2  # the second may be under way when the rows of the first are found late
        released.set()
    assert len(paying.result()) == 12


async def lose_a_worker(database: LedgerDatabase, ledger: PostgresLedger, rows: list[Any]) -> list[Entry]:
    """Return rows that a worker had marked as sent when it was lost."""
    await ledger.plan(rows)
    silent = await database.worker(ledger)
    sent = list((await silent.claim(len(rows))).entries)
    await database.advance(1_000.0)
    return sent


async def test_rows_of_a_lost_worker_are_looked_up_and_only_absent_ones_are_repeated_under_their_key(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor = StubOriginal()
    sent = await lose_a_worker(database, ledger, [token_row("there"), token_row("absent")])
    vendor.hold("user-there", "1.50", sent[0].key)
    assert {entry.id for entry in await work(database, vendor)} == {"there", "absent"}
    assert (vendor.created, vendor.repeated) == ([sent[1].key], [sent[1].key])
    assert await ledger.counts() == {State.DONE: 2}


async def test_coins_that_a_lost_worker_may_have_given_are_not_given_again(database: LedgerDatabase) -> None:
    vendor = StubEnkash()
    async with database.ledger(vendor="enkash") as ledger:
        await lose_a_worker(database, ledger, [coin_row("r1")])
        (entry,) = await work(database, vendor, vendor="enkash")
        assert (entry.state, vendor.given) == (State.UNKNOWN, [])
        assert await work(database, vendor, vendor="enkash") == []


async def test_an_accepted_row_of_a_lost_worker_is_waited_for_by_another(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])
    async with ledger.one_worker(rate=None) as leaving:
        (entry,) = (await leaving.claim(1)).entries
        held = vendor.hold("user-r1", "1.50", entry.key)
        await leaving.move(entry, State.ACCEPTED, uid=held.uid)
    assert [each.state for each in await work(database, vendor)] == [State.DONE]
    assert not vendor.created


async def test_an_unknown_row_is_tried_once_by_each_worker(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])
    options = RunOptions(rate=None, lookup_timeout=0.0)
    for attempt in range(1, 3):
        vendor.answers["user-r1"].append(OutcomeUnknown("no answer"))
        (entry,) = await work(database, vendor, options)
        assert (entry.state, len(vendor.created)) == (State.UNKNOWN, attempt)
    assert vendor.repeated == vendor.created[1:]


async def test_a_worker_whose_rows_were_taken_ends_at_once(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])

    async def lose(_: str) -> None:
        await database.connection.execute("UPDATE workers SET alive = false, lease_until = 0")
        async with ledger.one_worker(rate=None) as other:
            assert await other.take_over(9)

    vendor.before = lose
    with pytest.raises(LeaseLost):
        await work(database, vendor)
    vendor.before = None
    await database.advance(100.0)
    assert [entry.state for entry in await work(database, vendor)] == [State.DONE]
    assert set(Counter(vendor.created).values()) == {1}


async def test_a_database_that_fails_for_a_while_delays_a_worker_and_loses_nothing(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row(f"r{number}") for number in range(10)])
    async with waiting(vendor) as completions, database.ledger() as failing:
        calls = -6  # a worker that cannot even begin says so
        for name in ("run", "transact"):
            real = getattr(failing.engine, name)

            async def fail(work: Any, *, real: Any = real, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls < 0:
                    return await real(work, **options)
                result = await real(work, **options) if calls % 2 else None
                if calls % 3:
                    return await real(work, **options) if result is None else result
                raise StoreError("the connection was lost")

            monkeypatch.setattr(failing.engine, name, fail)
        monkeypatch.setattr("payouts.pipeline.shared_slots.outage_delay", lambda _: 0.0)
        monkeypatch.setattr("payouts.ledger.postgres.outage_delay", lambda _: 0.0)
        done = await ended(work_payouts(client=vendor, completions=completions, ledger=failing, options=FAST))
    assert len(done) == 10
    assert set(Counter(vendor.created).values()) == {1}
    assert await ledger.counts() == {State.DONE: 10}


class FailingStore(MemoryStore):
    """A store one of whose methods fails for some time, as while its database is restarted."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method
        self.failures = 3

    def _may_fail(self, method: str) -> None:
        if method == self.method and self.failures:
            self.failures -= 1
            raise StoreError("the connection was lost")

    async def watch(self, *values: Any, **options: Any) -> Any:
        self._may_fail("watch")
        return await super().watch(*values, **options)

    async def outcomes_by_key(self, *values: Any) -> Any:
        self._may_fail("outcomes_by_key")
        return await super().outcomes_by_key(*values)


@pytest.mark.parametrize("method", ["watch", "outcomes_by_key"])
async def test_a_store_that_fails_for_a_while_delays_a_worker_and_ends_a_run(
    method: str, database: LedgerDatabase, ledger: PostgresLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payouts.pipeline.settling.outage_delay", lambda _: 0.0)
    vendor, store, rows = StubOriginal(), FailingStore(method), [token_row(f"r{number}") for number in range(10)]
    polling = PollPolicy(first_after=0.02, growth=1.0, max_interval=0.05, max_per_second=5000)
    planned = await ledger.plan(rows)
    vendor.hold("user-r1", "1.50", planned[1].key)
    async with Completions(vendor, store, polling=polling) as completions, ledger_at(tmp_path / "payouts.db") as own:
        given: dict[str, Any] = {"client": vendor, "completions": completions, "options": FAST}
        vendor.answers["user-r1"].append(OutcomeUnknown("no answer"))
        done = await ended(work_payouts(ledger=ledger, **given))
        assert store.failures == 0
        store.failures = 1
        vendor.answers["user-r1"].append(OutcomeUnknown("no answer"))
        with pytest.raises(StoreError):
            await ended(run_payouts(rows, ledger=own, **given))
    await store.aclose()
    assert Counter(entry.id for entry in done) == Counter(row.id for row in rows)


def test_only_a_shared_ledger_has_workers(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="PostgresLedger"):
        work_payouts(client=StubOriginal(), ledger=Ledger(tmp_path / "a.db", vendor="original", campaign="a"))  # type: ignore[arg-type]


class Lease:
    """A worker whose lease is about to end."""

    def __init__(self) -> None:
        self.asked, self.renewed = asyncio.Event(), asyncio.Event()

    async def outlast(self, _: float) -> None:
        self.asked.set()
        await self.renewed.wait()

    def outlasts(self, _: float) -> bool:
        return self.renewed.is_set()


async def test_a_row_leaves_only_while_its_lease_outlasts_the_request() -> None:
    lease: Any = Lease()
    slots = SharedSlots(lease, Stop(), max_sent=1, max_pending=1, room=asyncio.Event())
    leaving, asked = asyncio.ensure_future(slots.leave(uptime())), asyncio.ensure_future(lease.asked.wait())
    await asyncio.wait({leaving, asked}, return_when=asyncio.FIRST_COMPLETED)
    assert asked.done()
    assert not leaving.done()
    lease.renewed.set()
    assert await leaving


async def test_a_row_whose_turn_has_not_come_stays_when_the_end_is_asked_for() -> None:
    lease: Any = Lease()
    lease.renewed.set()
    stop = Stop()
    slots = SharedSlots(lease, stop, max_sent=1, max_pending=1, room=asyncio.Event())
    asyncio.get_running_loop().call_soon(stop.wish)
    assert not await slots.leave(uptime() + 5.0)
