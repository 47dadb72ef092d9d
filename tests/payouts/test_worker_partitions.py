"""Workers that freeze, whose clocks are wrong, or that reach either the ledger or the vendor alone: every row is paid once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from original_async import Allocation, OriginalClient
from payouts import Entry, LeaseLost, PayoutsStopped, PostgresLedger, RunOptions, State, work_payouts
from payouts.ledger.worker import HORIZON
from rewards_core.errors import ConnectFailed
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, token_row, waiting
from tests.payouts.postgres_ledger_kit import EPOCH, LedgerDatabase, ledger_database
from tests.payouts.process_kit import free_port
from tests.postgres_server import Server, postgres_server
from tests.webhooks.tcp_proxy import tcp_proxy
from vendor_sandboxes import OriginalSandbox

FAST = RunOptions(rate=None, concurrency=5)
LONG = 3_600.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(tcp=True) as server:
        yield server


@pytest_asyncio.fixture
async def database(server: Server, tmp_path: Path) -> AsyncIterator[LedgerDatabase]:
    async with ledger_database(server, tmp_path) as database:
        yield database


@pytest_asyncio.fixture
async def ledger(database: LedgerDatabase) -> AsyncIterator[PostgresLedger]:
    async with database.ledger() as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def _repeats_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.shared_slots", "ledger.postgres"):
        monkeypatch.setattr(f"payouts.{module}.outage_delay", lambda _: 0.01)


async def work(ledger: PostgresLedger, client: Any, options: RunOptions = FAST) -> list[Entry]:
    if ledger.vendor == "enkash":
        return [entry async for entry in work_payouts(client=client, ledger=ledger, options=options)]
    async with waiting(client) as completions:
        run = work_payouts(client=client, completions=completions, ledger=ledger, options=options)
        return [entry async for entry in run]


class Freezing(OriginalClient):
    """A client whose process freezes right before its request leaves, or right after the answer came."""

    def __init__(self, sandbox: OriginalSandbox, *, before: bool) -> None:
        super().__init__(api_key=sandbox.api_key, api_secret=sandbox.api_secret, base_url=sandbox.url)
        self.frozen, self.thawed = asyncio.Event(), asyncio.Event()
        self.before = before

    async def create_allocation(self, **asked: Any) -> Allocation:
        if not self.before:
            made = await super().create_allocation(**asked)
        self.frozen.set()
        await self.thawed.wait()
        return await super().create_allocation(**asked) if self.before else made


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before its request", "before it stores the answer"])
async def test_a_worker_that_freezes_after_its_check_pays_nothing_twice(database: LedgerDatabase, before: bool) -> None:
    async with (
        OriginalSandbox(confirm=(0.0, 0.0)) as sandbox,
        Freezing(sandbox, before=before) as freezing,
        Freezing(sandbox, before=True) as other,
        database.ledger(lease=LONG) as ledger,
        database.ledger() as others,
    ):
        other.thawed.set()
        await ledger.plan([token_row("r1")])
        worker = asyncio.create_task(work(ledger, freezing))
        await freezing.frozen.wait()
        await database.advance(LONG + 31.0)
        assert [entry.state for entry in await work(others, other)] == [State.DONE]
        done = await others.find("r1")
        freezing.thawed.set()
        with pytest.raises(LeaseLost):
            await worker
        assert await others.find("r1") == done
        assert list(sandbox.books()["created"].values()) == [1]


async def test_coins_of_a_worker_that_freezes_after_its_check_are_given_once_and_unknown(database: LedgerDatabase) -> None:
    vendor = StubEnkash()
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def freeze(_: str) -> None:
        frozen.set()
        await thawed.wait()

    vendor.before = freeze
    async with database.ledger(vendor="enkash", lease=LONG) as ledger, database.ledger(vendor="enkash") as others:
        await ledger.plan([coin_row("r1")])
        worker = asyncio.create_task(work(ledger, vendor))
        await frozen.wait()
        await database.advance(LONG + 31.0)
        assert [entry.state for entry in await work(others, vendor)] == [State.UNKNOWN]
        thawed.set()
        with pytest.raises(LeaseLost):
            await worker
        assert await others.counts() == {State.UNKNOWN: 1}
    assert len(vendor.given) == 1


@pytest.mark.parametrize("ahead", [3_600.0, -3_600.0])
async def test_the_clock_of_a_host_does_not_matter(
    database: LedgerDatabase, ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row("lost")])
    silent = await database.worker(ledger)
    await silent.claim(1)
    real = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: real() + ahead)
        async with database.ledger() as other:
            await other.plan([token_row("r1")])
            async with other.one_worker(rate=None) as worker:
                assert not await worker.take_over(9), "the lease of the other worker is not over"
                await database.advance(91.0)
                assert [entry.id for entry in await worker.take_over(9)] == ["lost"]
            await database.advance(31.0)
            await work(other, vendor)
            entries = await other.entries([State.DONE])
    times = [at for entry in entries for at in (entry.planned_at, entry.sent_at, entry.accepted_at, entry.settled_at)]
    assert len(times) == 8
    assert all(at is not None and abs(at - EPOCH) < 1_800.0 for at in times)
    assert set(Counter(vendor.created).values()) == {1}


@pytest.mark.parametrize("lost", [True, False], ids=["beyond the lease", "within the lease"])
async def test_a_worker_that_is_cut_off_from_the_ledger_sends_nothing_new_and_pays_nothing_twice(
    server: Server, database: LedgerDatabase, ledger: PostgresLedger, lost: bool
) -> None:
    vendor = StubOriginal()
    sent = asyncio.Event()
    async with tcp_proxy(server.port) as proxy:

        async def cut(_: str) -> None:
            proxy.target = free_port()
            proxy.cut()
            sent.set()

        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        async with PostgresLedger(
            url, vendor="original", campaign=ledger.campaign, schema=database.schema, state=database.state, lease=LONG
        ) as cut_off:
            await ledger.plan([token_row(f"r{number}") for number in range(4)])
            vendor.before = cut
            worker = asyncio.create_task(work(cut_off, vendor, RunOptions(rate=None, concurrency=1, max_pending=1)))
            await sent.wait()
            connections = proxy.connections
            while proxy.connections < connections + 3:  # it has tried again to store the answer
                await asyncio.sleep(0)
            assert len(vendor.created) == 1
            vendor.before = None
            if lost:
                await database.advance(LONG + 31.0)
                assert len(await work(ledger, vendor)) == 4
            proxy.target = server.port
            if lost:
                with pytest.raises(LeaseLost):
                    await worker
            else:
                assert len(await worker) == 4
    assert await ledger.counts() == {State.DONE: 4}
    assert set(Counter(vendor.created).values()) == {1}


@pytest.mark.slow
async def test_rows_of_a_worker_that_is_cut_off_from_the_vendor_are_paid_by_another(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor, unreachable = StubOriginal(), StubOriginal()
    rows = [token_row(f"r{number}") for number in range(20)]
    await ledger.plan(rows)
    for row in rows:
        unreachable.answers[row.to_user_uid].append(ConnectFailed("no network"))
    async with database.ledger() as other:
        reached, cut_off = await asyncio.gather(
            work(other, vendor),
            work(ledger, unreachable, RunOptions(rate=None, concurrency=5, outage_timeout=0.0)),
            return_exceptions=True,
        )
    assert not isinstance(reached, BaseException)
    assert isinstance(cut_off, PayoutsStopped | list)  # it found nothing left to send, or could not send it
    assert {entry.state for entry in reached} == {State.DONE}
    assert await ledger.counts() == {State.DONE: 20}
    assert set(Counter(vendor.created).values()) == {1}
    assert not unreachable.held


@pytest.mark.slow
async def test_two_people_may_pause_and_resume_at_will_and_the_last_word_holds(
    database: LedgerDatabase, ledger: PostgresLedger
) -> None:
    vendor = StubOriginal()
    await ledger.plan([token_row(f"r{number}") for number in range(30)])
    worker = await database.worker(ledger)
    async with database.ledger() as one, database.ledger() as two:
        await asyncio.gather(one.pause(), two.pause())
        assert (await worker.claim(1)).condition == "paused"
        await one.resume()
        assert len((await worker.claim(1)).entries) == 1
        await two.pause()
        assert not (await worker.claim(1)).entries
        await worker.end()
        paying = asyncio.create_task(work(ledger, vendor))
        for _ in range(10):
            await asyncio.gather(one.pause(), two.resume())
            await asyncio.gather(one.resume(), two.pause())
        await two.resume()
        await database.advance(31.0)
        await paying
    assert await ledger.counts() == {State.DONE: 30}
    assert set(Counter(vendor.created).values()) == {1}


async def test_the_rate_holds_while_workers_join_and_leave(database: LedgerDatabase, ledger: PostgresLedger) -> None:
    await ledger.plan([token_row(f"r{number}") for number in range(200)])
    given = 0
    for step in range(40):
        joining = await database.worker(ledger, rate=20.0)
        given += len((await joining.claim(100)).entries)
        await joining.end()
        assert given <= 20 * (0.1 * step + HORIZON)
        await database.advance(0.1)
    assert given >= 20 * 0.1 * 39
    fast, slow = await database.worker(ledger, rate=100.0), await database.worker(ledger, rate=4.0)
    await database.advance(10.0)
    assert len((await fast.claim(100)).entries) == 4 * HORIZON
    await slow.end()
    await database.advance(10.0)
    assert len((await fast.claim(100)).entries) == 100 * HORIZON
