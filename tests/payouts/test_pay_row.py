"""One row after the other from somebody's own workflow engine: paid once, however often and from wherever it is asked for."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from original_async import OriginalClient
from payouts import (
    CampaignStopped,
    Entry,
    Ledger,
    PayoutsStopped,
    PostgresLedger,
    RowChanged,
    RunOptions,
    State,
    pay_row,
    work_payouts,
)
from rewards_core.errors import ConnectFailed, OutcomeUnknown, RequestRejected, Unauthorized
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, token_row, waiting
from tests.payouts.postgres_ledger_kit import LedgerDatabase
from tests.payouts.process_kit import KEY, ROOT, SECRET, create_event, enkash_at, original_at
from vendor_sandboxes import EnkashSandbox, OriginalSandbox

FAST = RunOptions(rate=None)
FROZEN = 3_600.0


class Looks:
    """How often calls that wait for a row have looked at it."""

    def __init__(self) -> None:
        self.count = 0

    async def a_few_more(self, *calls: asyncio.Task[Entry]) -> None:
        """Return when they have looked again, or one of them has ended."""
        enough = self.count + 3
        while self.count < enough and not any(call.done() for call in calls):
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks = Looks()
    find = PostgresLedger.find

    async def counted(ledger: PostgresLedger, row_id: str) -> Entry | None:
        looks.count += 1
        return await find(ledger, row_id)

    monkeypatch.setattr(PostgresLedger, "find", counted)
    for module in ("work", "row", "shared_slots"):
        monkeypatch.setattr(f"payouts.pipeline.{module}.LOOK_EVERY", 0.01)
    return looks


@pytest_asyncio.fixture
async def ledger(database: LedgerDatabase) -> AsyncIterator[PostgresLedger]:
    async with database.ledger() as ledger:
        yield ledger


async def pay(ledger: PostgresLedger, client: Any, row: Any = None, options: RunOptions = FAST, **more: Any) -> Entry:
    if ledger.vendor == "enkash":
        return await pay_row(row or coin_row("r1"), client=client, ledger=ledger, options=options, **more)
    async with waiting(client) as completions:
        row = row or token_row("r1")
        return await pay_row(row, client=client, completions=completions, ledger=ledger, options=options, **more)


def hanging(vendor: Any) -> asyncio.Event:
    """Let the vendor answer no request, and return an event that is set when it has received one."""
    received = asyncio.Event()

    async def hang(_: str) -> None:
        received.set()
        await asyncio.get_running_loop().create_future()

    vendor.before = hang
    return received


async def cancel_while_sending(ledger: PostgresLedger, vendor: Any) -> None:
    received = hanging(vendor)
    attempt = asyncio.create_task(pay(ledger, vendor))
    await received.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    vendor.before = None
    assert await ledger.counts() == {State.SENT: 1}


async def test_two_calls_at_a_time_from_two_ledgers_pay_a_row_once(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    async with database.ledger() as other:
        ended = await asyncio.gather(*(pay(each, vendor) for each in (ledger, other, ledger, other)))
    assert {entry.state for entry in ended} == {State.DONE}
    assert len({entry.uid for entry in ended}) == 1
    assert len(vendor.created) == 1


async def test_many_rows_at_once_share_one_ledger_and_leave_no_worker_behind(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor = StubOriginal()
    ended = await asyncio.gather(*(pay(ledger, vendor, token_row(f"r{number}")) for number in range(40)))
    assert {entry.state for entry in ended} == {State.DONE}
    assert set(Counter(vendor.created).values()) == {1}
    assert await database.connection.fetchval("SELECT count(*) FROM workers") == 0


async def test_workers_and_single_rows_share_a_campaign(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    rows = [token_row(f"r{number}") for number in range(30)]
    await ledger.plan(rows)

    async def work() -> None:
        async with waiting(vendor) as completions:
            async for _ in work_payouts(client=vendor, completions=completions, ledger=ledger, options=FAST):
                pass

    ended = await asyncio.gather(*(pay(ledger, vendor, row) for row in rows), work())
    assert {entry.state for entry in ended if entry} == {State.DONE}
    assert set(Counter(vendor.created).values()) == {1}
    assert len(vendor.created) == 30


async def test_a_settled_row_costs_no_request(ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    first = await pay(ledger, vendor)
    asked = len(vendor.asked_at)
    assert await pay(ledger, vendor) == first
    assert len(vendor.asked_at) == asked


async def test_a_row_that_changed_is_refused(ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await pay(ledger, vendor)
    with pytest.raises(RowChanged):
        await pay(ledger, vendor, token_row("r1", amount="2"))
    assert len(vendor.created) == 1


async def test_a_row_whose_request_was_cancelled_is_looked_up_and_repeated_under_its_key(
    database: LedgerDatabase, ledger: PostgresLedger, looks: Looks
) -> None:
    vendor = StubOriginal()
    await cancel_while_sending(ledger, vendor)
    async with asyncio.TaskGroup() as tasks:
        attempt = tasks.create_task(pay(ledger, vendor))
        await looks.a_few_more(attempt)
        assert len(vendor.created) == 1, "the first request may still be under way"
        await database.advance(31.0)
    assert attempt.result().state is State.DONE
    assert (len(vendor.created), vendor.repeated) == (2, vendor.created[:1])
    assert len(vendor.held) == 1


async def test_a_row_whose_request_was_carried_out_and_cancelled_is_not_sent_again(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor = StubOriginal()
    await cancel_while_sending(ledger, vendor)
    vendor.hold("user-r1", "1.50", vendor.created[0])
    await database.advance(31.0)
    assert (await pay(ledger, vendor)).state is State.DONE
    assert len(vendor.created) == 1


async def test_coins_whose_answer_was_not_read_stay_unknown(database: LedgerDatabase) -> None:
    vendor = StubEnkash()
    async with database.ledger(vendor="enkash") as ledger:
        await cancel_while_sending(ledger, vendor)
        await database.advance(31.0)
        for _ in range(2):
            assert (await pay(ledger, vendor)).state is State.UNKNOWN
        assert len(vendor.given) == 1
        vendor.repeat_allocations = True
        assert (await pay(ledger, vendor)).state is State.DONE
        assert len(set(vendor.given)) == 1


async def test_coins_are_given_once(database: LedgerDatabase) -> None:
    vendor = StubEnkash()
    async with database.ledger(vendor="enkash") as ledger:
        ended = await asyncio.gather(*(pay(ledger, vendor) for _ in range(3)))
    assert {entry.state for entry in ended} == {State.DONE}
    assert len(vendor.given) == 1


async def test_a_row_that_a_living_worker_owns_is_waited_for(
    database: LedgerDatabase, ledger: PostgresLedger, looks: Looks
) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])
    async with asyncio.TaskGroup() as tasks, ledger.one_worker(rate=None) as worker:
        (entry,) = (await worker.claim(1)).entries
        waited = tasks.create_task(pay(ledger, vendor))
        await looks.a_few_more(waited)
        accepted = await worker.move(entry, State.ACCEPTED, uid="1")
        await looks.a_few_more(waited)
        done = await worker.move(accepted, State.DONE, settled_by="webhook")
        assert await waited == done
    assert not vendor.asked_at


async def test_an_accepted_row_is_waited_for_by_the_next_call(ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    no_wait = RunOptions(rate=None, wait=False)
    for _ in range(2):
        accepted = await pay_row(token_row("r1"), client=vendor, ledger=ledger, options=no_wait)
        assert accepted.state is State.ACCEPTED
    assert (await pay(ledger, vendor)).state is State.DONE
    assert len(vendor.created) == 1


async def test_an_unknown_row_is_tried_once_by_each_call(ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    vendor.answers["user-r1"].append(OutcomeUnknown("no answer"))
    options = RunOptions(rate=None, lookup_timeout=0.0)
    assert (await pay(ledger, vendor, options=options)).state is State.UNKNOWN
    assert (await pay(ledger, vendor, options=options)).state is State.DONE
    assert (len(vendor.created), vendor.repeated) == (2, vendor.created[:1])


async def test_an_unknown_row_that_a_worker_keeps_is_not_waited_for_longer_than_it_is_looked_for(
    ledger: PostgresLedger,
) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])
    async with ledger.one_worker(rate=None) as worker:
        (entry,) = (await worker.claim(1)).entries
        unknown = await worker.move(entry, State.UNKNOWN, problem="no answer")
        assert await pay(ledger, vendor, options=RunOptions(rate=None, lookup_timeout=0.05)) == unknown
    assert not vendor.asked_at


async def test_a_paused_campaign_waits_and_a_stopped_one_says_so(
    database: LedgerDatabase, ledger: PostgresLedger, looks: Looks
) -> None:
    vendor = StubOriginal()
    await ledger.pause()
    async with asyncio.TaskGroup() as tasks:
        attempt = tasks.create_task(pay(ledger, vendor))
        await looks.a_few_more(attempt)
        assert not vendor.created
        await ledger.resume()
    assert attempt.result().state is State.DONE
    await ledger.stop()
    with pytest.raises(CampaignStopped, match=r"diwali-2026.* r2"):
        await pay(ledger, vendor, token_row("r2"))
    assert (await pay(ledger, vendor)).state is State.DONE
    await ledger.resume()
    assert (await pay(ledger, vendor, token_row("r2"))).state is State.DONE


async def test_a_campaign_that_is_stopped_while_the_vendor_is_away_leaves_the_row_planned(
    ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = StubOriginal()
    monkeypatch.setattr("payouts.pipeline.sending.FIRST_PAUSE", 0.0)
    vendor.answers["user-r1"].append(ConnectFailed("no network"))

    async def stop(_: str) -> None:
        await ledger.stop()

    vendor.before = stop
    with pytest.raises(CampaignStopped):
        await pay(ledger, vendor)
    assert await ledger.counts() == {State.PLANNED: 1}
    vendor.before = None
    await ledger.resume()
    assert (await pay(ledger, vendor)).state is State.DONE


async def test_an_error_of_every_row_is_raised_and_leaves_the_row_planned(ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    vendor.answers["user-r1"].append(Unauthorized("wrong key"))
    with pytest.raises(PayoutsStopped) as stopped:
        await pay(ledger, vendor)
    assert isinstance(stopped.value.cause, Unauthorized)
    assert await ledger.counts() == {State.PLANNED: 1}
    assert (await pay(ledger, vendor)).state is State.DONE


async def test_a_worker_that_leaves_a_row_is_not_forgotten(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("r1")])
    async with ledger.new_worker(rate=None).at_work(forgotten=True) as worker:
        await worker.claim(1)
    assert await database.connection.fetchval("SELECT count(*) FROM workers") == 1
    await database.advance(31.0)
    assert (await pay(ledger, vendor)).state is State.DONE


async def test_a_refused_row_is_returned(ledger: PostgresLedger) -> None:
    vendor = StubOriginal()
    vendor.answers["user-r1"].append(RequestRejected("no such user"))
    entry = await pay(ledger, vendor, options=RunOptions(rate=None, max_refused=1))
    assert (entry.state, entry.problem) == (State.REJECTED, "no such user")


async def test_only_a_shared_ledger_pays_single_rows(tmp_path: Path) -> None:
    ledger: Any = Ledger(tmp_path / "a.db", vendor="original", campaign="a")
    with pytest.raises(TypeError, match="PostgresLedger"):
        await pay_row(token_row("r1"), client=StubOriginal(), ledger=ledger)


# against the sandboxes


def client_of(sandbox: OriginalSandbox) -> OriginalClient:
    return OriginalClient(api_key=sandbox.api_key, api_secret=sandbox.api_secret, base_url=sandbox.url)


async def start(database: LedgerDatabase, vendor: str, env: dict[str, str]) -> asyncio.subprocess.Process:
    told = (database.url, database.schema, str(database.state), vendor, "r1")
    command = (sys.executable, "-m", "tests.payouts.row_process", *told)
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=env)


async def kill_while_sending(database: LedgerDatabase, vendor: str, sandbox: Any, env: dict[str, str], path: str) -> None:
    """Kill a process once the vendor has received its request and not answered it."""
    process = await start(database, vendor, env)
    try:
        received = lambda: any(each.method == "POST" and path in each.path for each in sandbox.requests)  # noqa: E731
        await sandbox.until(received, timeout=300.0)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_row_of_a_killed_process_is_paid_once(database: LedgerDatabase, looks: Looks, carried_out: bool) -> None:
    async with OriginalSandbox(api_key=KEY, api_secret=SECRET, confirm=(0.0, 0.0), slow_seconds=FROZEN) as sandbox:
        if carried_out:
            sandbox.plan.script("slow_after_commit")
        else:
            sandbox.options.latency = (FROZEN, FROZEN)
        await kill_while_sending(database, "original", sandbox, original_at(sandbox.url), "allocate")
        sandbox.options.latency = None
        await database.advance(80.0)
        async with (
            database.ledger() as ledger,
            client_of(sandbox) as client,
            asyncio.TaskGroup() as tasks,
        ):
            attempts = [tasks.create_task(pay(ledger, client)) for _ in range(2)]
            await looks.a_few_more(*attempts)
            assert len(sandbox.requests) == 1, "the first request may still be under way"
            await database.advance(11.0)
            assert {(await attempt).state for attempt in attempts} == {State.DONE}
        assert set(sandbox.books()["created"].values()) == {1}
        assert len(sandbox.books()["allocations"]) == 1


@pytest.mark.slow
async def test_coins_of_a_killed_process_are_not_given_again(database: LedgerDatabase, tmp_path: Path) -> None:
    async with EnkashSandbox(slow_seconds=FROZEN) as sandbox, database.ledger(vendor="enkash") as ledger:
        env = enkash_at(sandbox.url, tmp_path)
        await asyncio.to_thread(create_event, env, "REFERRAL_EVENT")
        sandbox.plan.script("slow_after_commit", path="allocate-coin")
        await kill_while_sending(database, "enkash", sandbox, env, "allocate-coin")
        await database.advance(91.0)
        entry = await pay(ledger, StubEnkash())
        assert (entry.state, sandbox.books()["created"]) == (State.UNKNOWN, {entry.key: 1})


@pytest.mark.slow
async def test_rows_are_paid_once_on_a_bad_day(database: LedgerDatabase) -> None:
    trouble: dict[str, Any] = {"p503": 0.1, "p503_after_commit": 0.1, "drop_after_commit": 0.1, "duplicate_nonce": "reject"}
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(OriginalSandbox(confirm=(0.0, 0.0), seed=3, **trouble))
        client = await stack.enter_async_context(client_of(sandbox))
        ledgers = [await stack.enter_async_context(database.ledger()) for _ in range(2)]
        rows = [token_row(f"r{number}", to_user_uid=str(100_000_000_000 + number)) for number in range(20)]
        ended = await asyncio.gather(*(pay(ledger, client, row) for row in rows for ledger in ledgers))
        assert {entry.state for entry in ended} == {State.DONE}
        books = sandbox.books()
    assert set(books["created"].values()) == {1}
    assert {each["nonce"] for each in books["allocations"]} == {entry.key for entry in ended}
