"""Stores on PostgreSQL whose notifications are lost, and clocks that are set: waiters wake and nothing is put off."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from rewards_core.errors import StoreError
from tests.postgres_server import Server, postgres_server
from tests.webhooks.pooler_kit import pooler_before
from tests.webhooks.postgres_kit import DatabaseTime, schema_of_its_own
from tests.webhooks.store_contract import EPOCH, Ear, claim, event, outcome, ref, wants
from tests.webhooks.tcp_proxy import tcp_proxy
from webhooks.store.postgres import PostgresStore
from webhooks.store.records import Acceptance

RATE = 5.0
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(tcp=True) as server:
        yield server


@pytest_asyncio.fixture
async def time(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_of_its_own(server, monkeypatch) as moved:
        yield moved
        for store in moved.stores:
            await store.aclose()


@pytest.fixture(autouse=True)
def _never_renewed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.postgres_life.RENEW_EVERY", 3_600.0)


@pytest.fixture
def often_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards_core.postgres.listen.PROBE_EVERY", 0.01)
    monkeypatch.setattr("rewards_core.postgres.listen._FIRST_DELAY", 0.01)


@pytest.mark.usefixtures("often_probed")
async def test_what_is_watched_is_looked_up_after_the_server_ended_the_connection_for_notifications(time: DatabaseTime) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref())
    await there.subscribe(ear)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rewards-async'"
    await time.connection.execute(ended)
    await ear.until(lambda ear: ear.misses)
    await there.watch([ref()], poll_in=60)
    await here.record_outcome(outcome(ref()))
    await ear.until(lambda ear: ear.settlements)


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


@pytest.fixture
def pooler(server: Server) -> Iterator[int]:
    """The port of a pooler in transaction mode before the server."""
    with pooler_before(server) as port:
        yield port


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
    await there.ping()
    await ear.until(lambda ear: ear.settlements)
    assert caplog.text.count("delivers no notifications, as behind a pooler in transaction mode") == 1
    stranger = await asyncpg.connect(url, statement_cache_size=0)
    assert await stranger.fetchval("SHOW enable_seqscan") == "on"  # no setting of ours is left in a session of others
    await stranger.close()


async def test_a_clock_of_the_database_that_is_set_back_puts_nothing_off(
    time: DatabaseTime, caplog: pytest.LogCaptureFixture
) -> None:
    store = time.open()
    await store.register_handlers([wants()])
    await store.accept(event("1"))
    await claim(store, lease=60)
    await store.add_pending([ref()], poll_in=30)
    await store.pause_polls("default", 20)
    await store.ping()
    await time.set(EPOCH - 3_600)
    await store.ping()
    (one,) = await store.list_pending()
    assert one.due_in == pytest.approx(30, abs=1)
    assert (await store.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).next_in <= 30
    await time.advance(61)
    assert len(await claim(store)) == 1
    assert len((await store.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).claims) == 1
    assert caplog.text.count("clock of the database was set back") == 1


async def test_a_clock_of_the_database_that_is_set_forward_ends_no_process(time: DatabaseTime) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref())
    await there.subscribe(ear)
    await there.watch([ref()], poll_in=60)
    await here.register_handlers([wants()])
    await time.set(EPOCH + 3_600)
    for _ in range(3):
        await here.ping()
    await here.record_outcome(outcome(ref()))
    await ear.until(lambda ear: ear.settlements)
    assert ear.misses == 0


async def test_what_a_dead_process_watched_is_released(time: DatabaseTime) -> None:
    here, dead = time.open(), time.open()
    await here.register_handlers([wants()])
    await dead.watch([ref()], poll_in=60)
    for _ in range(2):
        (one,) = await here.list_pending()
        assert one.priority.name == "ROUTINE"
        await time.set(time.wall + 31)
        await here.ping()
    (one,) = await here.list_pending()
    assert one.priority.name == "ABANDONED"


async def test_many_store_objects_share_one_budget_though_they_ask_at_one_time(time: DatabaseTime) -> None:
    stores = [time.open(connections=1) for _ in range(8)]
    await stores[0].watch([ref(str(number)) for number in range(200)], poll_in=0)
    taken: list[float] = []
    for _ in range(40):
        found = await asyncio.gather(
            *(store.claim_polls("default", limit=5, lease=1_000, max_per_second=RATE) for store in stores)
        )
        taken += [time.wall + one.start_in for claims in found for one in claims.claims]
        await time.advance(0.1)
    taken.sort()
    assert 19 <= len(taken) <= 22
    assert min(later - sooner for sooner, later in pairwise(taken)) >= 0.2 - 0.01


async def test_an_outcome_that_is_recorded_while_it_comes_to_be_watched_is_returned(time: DatabaseTime) -> None:
    here, there = time.open(), time.open()
    await asyncio.gather(here.ping(), there.ping())
    columns = "(scope, kind, uid, status, resource, via, settled_at, confirmed, recorded_at)"
    async with time.connection.transaction():  # it looked for the interest of others before there was any
        await time.connection.execute(
            f"INSERT INTO outcome {columns} VALUES ('default', 'allocation', '1', 'done', '{{}}', 'poll', 0, false, 0)"
        )
        await time.connection.execute("LOCK TABLE interest")
        watching = asyncio.ensure_future(here.watch([ref()], poll_in=60))
        while not await time.connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'relation'"):
            pass
    (known,) = await watching
    assert known.ref == ref()


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


async def test_a_store_made_before_a_fork_is_used_after_it_and_an_opened_one_is_refused(time: DatabaseTime) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FORKING, time.url, time.schema), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    first, refused, *rest = said.decode().splitlines()
    assert (first, rest) == ("used", ["used", "used"])
    assert refused.endswith("was opened before this process was forked. Make the store after the fork.")


async def test_a_database_that_cannot_hold_every_text_is_refused(server: Server) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    store = PostgresStore(server.tcp_url.removesuffix("postgres") + "narrow")
    with pytest.raises(StoreError, match="Create a database with the encoding UTF8"):
        await store.ping()
    await store.aclose()
    await connection.execute("DROP DATABASE narrow")
    await connection.close()


async def test_text_that_postgresql_cannot_hold_is_kept_escaped(time: DatabaseTime) -> None:
    store, odd = time.open(), ref("a\0b")
    sent = event("\0", name="n\0", of=odd, complete={"uid": "a\0b", "status": "done", "note": "\0\ud800"}, also=(ref("c\0"),))
    assert await store.accept(sent) is Acceptance.NEW
    (kept,) = await store.list_events(name="n\0", uid="c\0")
    assert (kept.event.body, kept.event.name) == (sent.body, "n\\x00")
    settled = await store.outcome(odd)
    assert settled is not None
    assert settled.resource["note"] == "\0\ud800"
    assert (await store.record_outcome(outcome(odd, "failed", key="k\0"))).verdict.value == "conflict"
    assert [one.key for one in await store.conflicts(odd)] == ["k\\x00"]
    await store.register_handlers([wants("app.h\0", "n\0")])
    assert await store.requeue([kept.id], every_handler=True) == 1
    (claimed,) = await claim(store, "app.h\0")
    assert await store.fail_job(claimed.job, reason="bad \0", retry_in=0)
    assert await store.retire_handler("default", "app.h\0") == 1
    assert await store.remove_pending([ref("c\0")]) == 1


async def test_two_processes_that_start_at_one_time_migrate_once_and_a_newer_layout_is_refused(server: Server) -> None:
    stores = [PostgresStore(server.tcp_url, schema="fresh") for _ in range(6)]
    await asyncio.gather(*(store.ping() for store in stores))
    connection = await asyncpg.connect(server.url)
    await connection.execute("UPDATE fresh.layout SET version = 99")
    newer = PostgresStore(server.tcp_url, schema="fresh")
    with pytest.raises(StoreError, match="layout 99 of a newer version of rewards-async"):
        await newer.ping()
    await connection.execute("CREATE SCHEMA foreign_one; CREATE TABLE foreign_one.account (id int)")
    foreign = PostgresStore(server.tcp_url, schema="foreign_one")
    with pytest.raises(StoreError, match="belongs to another program"):
        await foreign.ping()
    for store in (*stores, newer, foreign):
        await store.aclose()
    await connection.execute("SET client_min_messages = warning; DROP SCHEMA fresh, foreign_one CASCADE")
    await connection.close()
