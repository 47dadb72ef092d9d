"""Stores on PostgreSQL whose notifications are lost, and waiters that come and go: all wake."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from rewards_core.errors import StoreError
from tests.postgres_server import Server, postgres_server
from tests.texts import said, without_places
from tests.webhooks.postgres_kit import DatabaseTime, pooler_before, schema_at_rest
from tests.webhooks.store_contract import Ear, claim, event, outcome, ref, wants
from tests.webhooks.tcp_proxy import tcp_proxy
from webhooks.store.postgres import PostgresStore
from webhooks.store.records import Acceptance

RATE = 5.0
ROOT = Path(__file__).parents[2]
SETTLE = (
    "INSERT INTO outcome (scope, kind, uid, status, resource, via, settled_at, confirmed, recorded_at) "
    "VALUES ('default', 'allocation', $1, 'done', '{}', 'poll', 0, false, 0)"
)
HELD_UP = """
CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END';
CREATE CONSTRAINT TRIGGER held_up AFTER INSERT ON outcome DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held_up()
"""
"""Holds up the commit of each outcome while somebody has the lock 1."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(tcp=True) as server:
        yield server


@pytest_asyncio.fixture
async def time(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_at_rest(server, monkeypatch) as moved:
        yield moved


@pytest.fixture(autouse=True)
def _never_renewed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.postgres_life.RENEW_EVERY", 3_600.0)


@pytest.fixture
def often_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards_core.postgres.listen.PROBE_EVERY", 0.01)
    monkeypatch.setattr("rewards_core.postgres.listen.FIRST_DELAY", 0.01)


@pytest.mark.slow
@pytest.mark.usefixtures("often_probed")
async def test_what_is_watched_is_looked_up_after_the_server_ended_the_connection_for_notifications(time: DatabaseTime) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref())
    await there.subscribe(ear)
    ended = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'rewards-async'"
    await time.connection.execute(ended)
    await ear.until(lambda ear: ear.misses)
    await there.watch([ref()], poll_in=60)
    await here.record_outcome(outcome(ref()))
    await ear.until(lambda ear: ear.settlements)


@pytest.mark.slow
@pytest.mark.usefixtures("often_probed")
async def test_a_connection_for_notifications_that_is_half_open_is_noticed(
    time: DatabaseTime, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewards_core.postgres.listen.ANSWER_WITHIN", 0.2)
    async with tcp_proxy(server.port) as proxy:
        there, ear = time.open(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"), Ear(ref())
        await there.subscribe(ear)
        await there.watch([ref()], poll_in=60)
        proxy.swallow = True
        await time.open().record_outcome(outcome(ref()))
        while not proxy.connections_lost:
            await asyncio.sleep(0)
        proxy.swallow = False
        await ear.until(lambda ear: ear.misses)
        assert await there.outcome(ref()) is not None
        await there.aclose()


@pytest.mark.slow
@pytest.mark.usefixtures("often_probed")
async def test_the_end_of_a_connection_that_was_given_up_does_not_end_the_next_one(
    time: DatabaseTime, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rewards_core.postgres.listen.ANSWER_WITHIN", 0.2)
    monkeypatch.setattr("rewards_core.postgres.engine.CLOSE_WITHIN", 0.5)
    store, ear = time.open(), Ear()
    await store.subscribe(ear)
    found = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1' AND pid <> pg_backend_pid()"
    (listening,) = await time.connection.fetch(found)
    os.kill(listening["pid"], signal.SIGSTOP)
    try:
        await ear.until(lambda ear: ear.misses)
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "close a connection"])
        await store.ping()
        for _ in range(3):
            await store.ping()
        assert ear.misses == 1
        said("postgres: a listening connection was lost", without_places("\n".join(caplog.messages)))
    finally:
        os.kill(listening["pid"], signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.usefixtures("often_probed")
async def test_transaction_numbers_that_a_restored_server_uses_again_hide_no_outcome() -> None:
    with postgres_server() as server:
        there = PostgresStore(server.url)
        refs = [ref(str(number)) for number in range(40)]
        ear = Ear(*refs)
        await there.subscribe(ear)
        await asyncio.to_thread(_restart, server, ["cp", "-a", "data", "older"])
        await ear.until(lambda ear: ear.misses == 1)
        for number in range(20):
            await there.record_outcome(outcome(ref(f"lost-{number}")))
        await asyncio.to_thread(_restart, server, ["sh", "-c", "rm -r data && mv older data"])
        await ear.until(lambda ear: ear.misses == 2)
        await there.watch(refs, poll_in=60)
        connection = await asyncpg.connect(server.url, server_settings={"search_path": "rewards_webhooks"})
        for one in refs:  # with no hint
            await connection.execute(SETTLE, one.uid)
        await connection.close()
        await there.renew()
        await ear.until(lambda ear: len(ear.settlements) >= 20 + len(refs))
        await there.aclose()


def _restart(server: Server, command: list[str]) -> None:
    server.stop()
    subprocess.run(command, cwd=server.folder, check=True)
    server.start()


@pytest.mark.slow
async def test_many_operations_that_settle_at_one_time_are_all_heard(time: DatabaseTime) -> None:
    refs = [ref(f"{number:040}") for number in range(300)]
    here, there, ear = time.open(), time.open(), Ear(*refs)
    await there.subscribe(ear)
    await there.watch(refs, poll_in=60)
    await asyncio.gather(*(here.record_outcome(outcome(one)) for one in refs))
    await ear.until(lambda ear: len(ear.settlements) == len(refs))


async def test_a_hint_of_a_stranger_settles_nothing_and_hides_nothing(
    time: DatabaseTime, caplog: pytest.LogCaptureFixture
) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref(), ref("2"))
    await there.subscribe(ear)
    await there.watch([ref(), ref("2")], poll_in=60)
    channel = f"rewards_{await time.connection.fetchval('SELECT id FROM process')}"
    for hint in ('[["default","allocation","1"]]', "[", "[1]", "{", "[[]]", "o"):
        await time.connection.execute("SELECT pg_notify($1, $2)", channel, hint)
    await here.record_outcome(outcome(ref("2")))
    await ear.until(lambda ear: ear.settlements)
    assert [one.ref for one in ear.settlements] == [ref("2")]
    assert caplog.messages == []


async def test_a_subscriber_does_not_hear_what_was_recorded_while_there_was_none(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref("old"), ref())
    await there.subscribe(ear)
    there.unsubscribe(ear)
    await here.record_outcome(outcome(ref("old")))
    await there.subscribe(ear)
    await there.watch([ref()], poll_in=60)
    await there.renew()
    await here.record_outcome(outcome(ref()))
    await ear.until(lambda ear: ear.settlements)
    assert [one.ref for one in ear.settlements] == [ref()]


async def test_handlers_get_the_events_of_a_database_that_was_replaced_by_an_older_copy(time: DatabaseTime) -> None:
    store, ear = time.open(), Ear()
    await store.subscribe(ear)
    await store.register_handlers([wants()])
    for table in ("subscription", "served", "process"):
        await time.connection.execute(f"DELETE FROM {table}")
    await store.renew()
    await store.accept(event())
    assert len(await claim(store)) == 1


@pytest.mark.slow
async def test_an_unwatch_that_failed_does_not_end_a_later_watch(time: DatabaseTime) -> None:
    store, ear = time.open(command_timeout=0.3), Ear(ref())
    await store.subscribe(ear)
    await store.watch([ref()], poll_in=60)
    async with time.connection.transaction():
        await time.connection.execute("LOCK TABLE interest IN EXCLUSIVE MODE")
        store.unwatch([ref()])
        with pytest.raises(StoreError):
            await store.watch([ref("2")], poll_in=60)
    await store.watch([ref()], poll_in=60)
    store.unwatch([ref("3")])
    (one,) = await store.list_pending()
    assert one.priority.name == "ROUTINE"


TWO_LOOPS = """
import asyncio, sys
from tests.webhooks.store_contract import ref
from webhooks import PostgresStore
store = PostgresStore(sys.argv[1], schema=sys.argv[2])
asyncio.run(store.watch([ref()], poll_in=60))
asyncio.run(store.aclose())
"""


@pytest.mark.slow
async def test_a_store_is_closed_in_another_loop_than_the_one_that_ended(time: DatabaseTime) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", TWO_LOOPS, time.url, time.schema, cwd=ROOT)
    assert await process.wait() == 0


@pytest.fixture
def pooler(server: Server) -> Iterator[int]:
    """The port of a pooler in transaction mode before the server."""
    with pooler_before(server) as port:
        yield port


@pytest.mark.slow
async def test_behind_a_pooler_waiters_wake_at_the_renewal_and_one_warning_says_so(
    time: DatabaseTime, pooler: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewards_core.postgres.listen.ANSWER_WITHIN", 0.2)
    url = f"postgresql://postgres@127.0.0.1:{pooler}/postgres"
    here, there, ear = time.open(url), time.open(url), Ear(ref())
    await there.subscribe(ear)
    await there.watch([ref()], poll_in=60)
    answers = await asyncio.gather(*(here.accept(event(str(number % 20))) for number in range(40)))
    assert answers.count(Acceptance.NEW) == 20
    await here.record_outcome(outcome(ref()))
    await there.renew()
    await ear.until(lambda ear: ear.settlements)
    said("postgres: no notifications", without_places("\n".join(caplog.messages)))
    stranger = await asyncpg.connect(url, statement_cache_size=0)
    assert await stranger.fetchval("SHOW enable_seqscan") == "on"  # no setting of ours is left in a session of others
    await stranger.close()


async def test_an_outcome_that_is_recorded_while_it_comes_to_be_watched_is_returned(time: DatabaseTime) -> None:
    here, there = time.open(), time.open()
    await asyncio.gather(here.ping(), there.ping())
    async with time.connection.transaction():  # it looked for the interest of others before there was any
        await time.connection.execute(SETTLE, "1")
        await time.connection.execute("LOCK TABLE interest")
        watching = asyncio.ensure_future(here.watch([ref()], poll_in=60))
        while not await time.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
    (known,) = await watching
    assert known.ref == ref()


async def test_who_comes_to_wait_while_an_outcome_is_committed_is_woken(time: DatabaseTime) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref())
    await there.subscribe(ear)
    await time.connection.execute(f"{HELD_UP}; SELECT pg_advisory_lock(1)")
    recording = asyncio.ensure_future(here.record_outcome(outcome(ref())))
    while not await time.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass
    assert not await there.watch([ref()], poll_in=60)
    await time.connection.execute("SELECT pg_advisory_unlock(1)")
    await recording
    await time.connection.execute("DROP FUNCTION held_up CASCADE")
    await ear.until(lambda ear: ear.settlements)


async def test_a_storm_of_waiters_refuses_no_waiter_and_no_delivery(time: DatabaseTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards_core.postgres.engine.MAX_WAITING", 5)
    store = time.open(connections=2)
    await store.record_outcome(outcome(ref("1")))
    refs = [ref(str(number)) for number in range(200)]
    storm = asyncio.gather(*(store.watch([one], poll_in=number, waiter=one.uid) for number, one in enumerate(refs)))
    assert await store.accept(event("meanwhile")) is Acceptance.NEW
    found = await storm
    assert [[one.ref.uid for one in outcomes] for outcomes in found] == [["1"] if one.uid == "1" else [] for one in refs]
    await asyncio.gather(*(store.add_pending([ref(f"more {number}")], poll_in=number) for number in range(200)))
    due = {one.ref.uid: one.due_in for one in await store.list_pending(limit=1_000)}
    assert len(due) == 399
    assert (due["7"], due["more 8"]) == pytest.approx((7, 8), abs=1)


@pytest.mark.slow
async def test_deliveries_wait_for_no_other_call(time: DatabaseTime) -> None:
    store = time.open(connections=2)
    await store.ping()
    async with time.connection.transaction():
        await time.connection.execute("LOCK TABLE budget")
        stuck = [asyncio.ensure_future(store.resume_polls("default")) for _ in range(5)]
        assert await store.accept(event()) is Acceptance.NEW
        assert not any(call.done() for call in stuck)
    await asyncio.gather(*stuck)


@pytest.mark.slow
async def test_nobody_waits_for_those_that_leave_later(time: DatabaseTime) -> None:
    store = time.open()

    async def leave() -> None:
        while True:
            store.unwatch([ref("left")])
            await store.outcome(ref("left"))

    leaving = asyncio.ensure_future(leave())
    for number in range(20):
        await store.watch([ref(str(number))], poll_in=60)
        await store.requeue([])
        assert not leaving.done()
    leaving.cancel()
    await asyncio.wait([leaving])


@pytest.mark.slow
async def test_the_last_of_several_calls_about_one_waiter_decides(time: DatabaseTime) -> None:
    store = time.open()
    await store.ping()
    calls = []
    for _ in range(3):
        calls.append(asyncio.ensure_future(store.watch([ref("watched"), ref("left")], poll_in=60)))
        await asyncio.sleep(0)
        store.unwatch([ref("watched"), ref("left")])
    calls.append(asyncio.ensure_future(store.watch([ref("watched")], poll_in=60)))
    await asyncio.gather(*calls)
    assert {one.ref.uid: one.priority.name for one in await store.list_pending()} == {"watched": "ROUTINE", "left": "ABANDONED"}


@pytest.mark.slow
async def test_two_handlers_of_one_event_that_finish_at_one_time_leave_it_done(time: DatabaseTime) -> None:
    here, there = time.open(), time.open()
    await here.register_handlers([wants("app.one"), wants("app.other")])
    for number in range(20):
        await here.accept(event(str(number)))
        (one,), (other,) = await claim(here, "app.one"), await claim(there, "app.other")
        assert all(await asyncio.gather(here.finish_job(one.job), there.finish_job(other.job)))
    assert (await here.statistics()).ready == 0


FORKING = """
import asyncio, os, sys
from webhooks import PostgresStore, StoreError
before, opened = (PostgresStore(sys.argv[1], schema=sys.argv[2]) for _ in range(2))
async def use(store, close):
    try:
        await store.ping()
        print("used")
    except StoreError as problem:
        print(problem)
    if close:
        await store.aclose()
with asyncio.Runner() as runner:
    runner.run(use(opened, False))
    sys.stdout.flush()
    if os.fork() == 0:
        asyncio.run(use(opened, True))
        asyncio.run(use(before, True))
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    runner.run(use(opened, True))
"""


@pytest.mark.slow
async def test_a_store_made_before_a_fork_is_used_after_it_and_an_opened_one_is_refused(time: DatabaseTime) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING, time.url, time.schema), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    first, refused, *rest = output.decode().splitlines()
    assert (first, rest) == ("used", ["used", "used"])
    assert "forked" in refused
