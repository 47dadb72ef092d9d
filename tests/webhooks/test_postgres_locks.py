"""Writers of one PostgreSQL store that need the same rows wait for each other and never in a circle, and ask for little."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio

from rewards_core.operations import OperationRef
from rewards_core.postgres import engine as postgres_engine
from rewards_core.postgres.connection import Connection
from tests.postgres_server import Server, postgres_server
from tests.webhooks.postgres_kit import DatabaseTime, schema_at_rest
from tests.webhooks.store_contract import PAY, Ear, claim, event, outcome, ref, resource, wants
from webhooks.store import postgres_events
from webhooks.store.members import Member
from webhooks.store.postgres_session import Change
from webhooks.store.records import Acceptance, PollResult, Priority, Verdict


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(autovacuum="off") as server:
        yield server


@pytest_asyncio.fixture
async def time(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_at_rest(server, monkeypatch) as moved:
        yield moved


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that stores run."""
    ran: list[str] = []

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: Connection, statement: str, *args: Any, **options: Any) -> Any:
            ran.append(statement)
            return real(self, statement, *args, **options)

        return run

    for name in ("execute", "executemany", "fetch", "fetchrow", "fetchval"):
        monkeypatch.setattr(Connection, name, counting(getattr(Connection, name)))
    return ran


async def one_after_the_other(time: DatabaseTime, monkeypatch: pytest.MonkeyPatch, *calls: Callable[[], Any]) -> list[Any]:
    """Begin calls while another session holds the operations that are pending, so that each waits; return their results.

    A deadlock is not repeated.
    """
    monkeypatch.setattr(postgres_engine, "ATTEMPTS", 1)
    begun: list[Any] = []
    async with time.connection.transaction():
        await time.connection.execute("SELECT FROM pending FOR UPDATE")
        for call in calls:
            begun.append(asyncio.ensure_future(call()))
            while await time.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < len(begun):
                assert not begun[-1].done()
    return list(await asyncio.gather(*begun))


@pytest.mark.slow
@pytest.mark.parametrize("swapped", [False, True])
async def test_a_webhook_and_a_poll_that_settle_a_watched_operation_at_one_time(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    here, there = time.open(), time.open()
    await here.watch([ref()], poll_in=60)
    await there.ping()
    told = lambda: here.accept(event(of=ref(), complete=resource()))  # noqa: E731
    polled = lambda: there.record_outcome(outcome(ref()))  # noqa: E731
    await one_after_the_other(time, monkeypatch, *((polled, told) if swapped else (told, polled)))
    assert await here.outcome(ref()) is not None
    assert await here.pending([ref()]) == []
    assert await time.connection.fetchval("SELECT count(*) FROM interest") == 0


@pytest.mark.slow
async def test_events_that_each_settle_what_the_other_mentions(time: DatabaseTime, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = time.open(), time.open()
    await here.add_pending([ref("1"), ref("2")], poll_in=60)
    await there.ping()
    answers = await one_after_the_other(
        time,
        monkeypatch,
        lambda: here.accept(event("1", of=ref("1"), complete=resource(), also=(ref("2"),))),
        lambda: there.accept(event("2", of=ref("2"), complete=resource(), also=(ref("1"),))),
    )
    assert answers == [Acceptance.NEW] * 2
    assert len(await here.outcomes([ref("1"), ref("2")])) == 2


@pytest.mark.slow
async def test_an_event_and_a_waiter_that_add_one_operation_and_share_another(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = time.open(), time.open()
    await there.watch([ref("2")], poll_in=60)
    mentioning = event(of=ref("1"), also=(ref("2"),))
    await one_after_the_other(
        time, monkeypatch, lambda: here.accept(mentioning), lambda: there.watch([ref("1"), ref("2")], poll_in=60)
    )
    assert {one.priority for one in await here.pending([ref("1"), ref("2")])} == {Priority.LOOKUP}


async def test_two_that_settle_one_operation_at_one_time_is_no_error(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = time.open(), time.open()
    await here.add_pending([ref()], poll_in=60)
    await there.ping()
    with caplog.at_level(logging.WARNING):
        answers = await one_after_the_other(
            time,
            monkeypatch,
            lambda: here.accept(event("1", of=ref(), complete=resource())),
            lambda: there.accept(event("2", of=ref(), complete=resource())),
        )
    assert answers == [Acceptance.NEW] * 2
    assert caplog.messages == []


async def test_an_event_about_what_settled_before_takes_one_transaction(time: DatabaseTime) -> None:
    store = time.open()
    await store.record_outcome(outcome(ref()))
    begun = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    before = await time.connection.fetchval(begun)
    assert await store.accept(event(of=ref(), complete=resource())) is Acceptance.NEW
    assert await time.connection.fetchval(begun) == before + 1


async def test_an_event_about_what_settled_before_takes_no_other_of_its_batch_the_slow_way(
    time: DatabaseTime,
) -> None:
    store = time.open()
    await store.record_outcome(outcome(ref("0")))
    events = [event(str(number), of=ref(str(number)), complete=resource(str(number))) for number in range(5)]
    sent = [events[0], *events]
    async with time.connection.transaction():  # the outcome that settled before is held; the others wait for nobody
        await time.connection.execute("SELECT FROM outcome FOR UPDATE")
        accepting = [asyncio.ensure_future(store.accept(one)) for one in sent]
        assert await asyncio.gather(*accepting[2:]) == [Acceptance.NEW] * 4
        assert not any(one.done() for one in accepting[:2])
    assert sorted(await asyncio.gather(*accepting[:2])) == [Acceptance.DUPLICATE, Acceptance.NEW]
    assert [len(kept.jobs) for kept in await store.list_events()] == [0] * 5


async def test_a_claim_of_jobs_reads_none_that_is_due_later(server: Server, time: DatabaseTime) -> None:
    await time.connection.execute(
        "ALTER DATABASE postgres SET session_preload_libraries = 'auto_explain'; "
        "ALTER DATABASE postgres SET auto_explain.log_min_duration = 0; ALTER DATABASE postgres SET auto_explain.log_analyze = on"
    )
    try:
        store = time.open()
        await store.register_handlers([wants()])
        await asyncio.gather(*(store.accept(event(str(number))) for number in range(20)))
        assert len(await claim(store, PAY, limit=19, lease=3_600)) == 19
        assert len(await claim(store, PAY, limit=10)) == 1
    finally:
        await time.connection.execute("ALTER DATABASE postgres RESET ALL")
    read: list[str] = []
    while len(read) < 2:  # the log is read by another thread
        read = re.findall(r"using job_due on job .*rows=(\d+) loops=1\)", server.log)
    assert read == ["19", "1"]


async def test_any_number_of_outcomes_and_polls_takes_the_same_number_of_updates(
    time: DatabaseTime, statements: list[str]
) -> None:
    store = time.open()

    def updates() -> int:
        count = sum("UPDATE" in one for one in statements)
        statements.clear()
        return count

    taken: list[tuple[int, int]] = []
    for count in (2, 20):
        refs = [ref(f"{count}-{number:02}") for number in range(count)]
        await store.watch(refs, poll_in=0)
        await time.advance(60)
        claims = (await store.claim_polls("default", limit=count, lease=60, max_per_second=1_000)).claims
        assert len(claims) == count
        updates()
        await store.settle_polls(
            [PollResult(claim=one, retry_in=float(number), known=False) for number, one in enumerate(claims, 1)]
        )
        settling = updates()
        expected = {one.ref: number for number, one in enumerate(claims, 1)}
        assert {one.ref: one.due_in for one in await store.pending(refs)} == expected
        assert {(one.polls, one.priority) for one in await store.pending(refs)} == {(1, Priority.ROUTINE)}
        await asyncio.gather(*(store.record_outcome(outcome(one)) for one in refs))
        updates()
        again = await asyncio.gather(*(store.record_outcome(outcome(one, key=one.uid, confirmed=True)) for one in refs))
        taken.append((settling, updates()))
        assert {one.verdict for one in again} == {Verdict.SAME}
        assert [(one.key, one.confirmed) for one in await store.outcomes(refs)] == [(one.uid, True) for one in refs]
    assert taken[0] == taken[1]


async def test_a_delivery_waits_for_no_other_that_is_held_up(time: DatabaseTime) -> None:
    store = time.open()
    await store.ping()
    async with time.connection.transaction():
        await time.connection.execute("INSERT INTO identity VALUES ($1, 0)", event("1").identity)
        held_up = asyncio.ensure_future(store.accept(event("1")))
        while not await time.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        assert await store.accept(event("2")) is Acceptance.NEW
        assert not held_up.done()
    assert await held_up is Acceptance.DUPLICATE


@pytest.mark.parametrize("swapped", [False, True])
async def test_an_event_about_a_thing_and_a_poll_that_settles_what_is_about_it(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch, swapped: bool
) -> None:
    here, there = time.open(), time.open()
    transfers = [OperationRef("default", "transfer", uid, "asset/7") for uid in "12"]
    await here.watch(transfers, poll_in=60)
    await there.ping()
    told = lambda: here.accept(event(of=ref("7", kind="asset"), complete=resource("7")))  # noqa: E731
    polled = lambda: there.record_outcome(outcome(transfers[0], "failed"))  # noqa: E731
    await one_after_the_other(time, monkeypatch, *((polled, told) if swapped else (told, polled)))
    assert {one.ref.uid: one.priority for one in await here.list_pending(kind="transfer")} == {"2": Priority.LOOKUP}


async def test_the_pollers_of_this_and_another_process_are_told_of_what_an_event_is_about(time: DatabaseTime) -> None:
    here, there = time.open(), time.open()
    ears = [Ear(), Ear()]
    for store, ear in zip((here, there), ears, strict=True):
        await store.subscribe(ear)
    await there.claim_polls("default", limit=1, lease=60, max_per_second=5)
    await here.watch([OperationRef("default", "transfer", "1", "asset/7")], poll_in=60)
    heard = [ear.polls for ear in ears]
    await here.accept(event(of=ref("7", kind="asset"), complete=resource("7")))
    assert ears[0].polls == heard[0] + 1
    await ears[1].until(lambda ear: ear.polls > heard[1])


async def test_an_event_reads_no_operation_that_is_about_another_thing(time: DatabaseTime) -> None:
    store = time.open()
    await store.add_pending([OperationRef("default", "transfer", str(n), f"asset/{n}") for n in range(100)], poll_in=60)
    mentioning = event(of=ref("7", kind="reward"), complete=resource("7"), also=(ref("8", kind="reward"),))
    async with time.connection.transaction():
        await time.connection.execute("SET LOCAL enable_seqscan = off")
        change = Change(cast("Connection", time.connection), Member())
        kept, left = await postgres_events.accept_plain(
            change, postgres_events.Batch.of([postgres_events.arrival_of(mentioning)])
        )
        read = await time.connection.fetchval(
            "SELECT coalesce(idx_tup_fetch, 0) + seq_tup_read FROM pg_stat_xact_user_tables "
            "WHERE schemaname = current_schema() AND relname = 'pending'"
        )
    assert (len(kept), left, read) == (1, set(), 0)
