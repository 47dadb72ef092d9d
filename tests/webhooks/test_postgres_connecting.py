"""Connections to PostgreSQL: wrong URLs, several hosts, slow statements, large batches, odd names and the one that listens."""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import asyncpg
import pytest
import pytest_asyncio
from attrs import evolve

from rewards_core.errors import StoreError
from rewards_core.postgres.connection import Connection, address_of
from rewards_core.postgres.engine import Engine
from rewards_core.postgres.listen import Listener
from rewards_core.postgres.migrations import Schema
from tests.postgres_server import Server, postgres_server
from tests.texts import raises
from tests.webhooks.postgres_kit import pooler_before, schema_of_its_own
from tests.webhooks.store_contract import claim, event, outcome, ref, wants
from tests.webhooks.tcp_proxy import tcp_proxy
from webhooks.store.postgres import PostgresStore
from webhooks.store.records import Acceptance

PASSWORD = "pa55-canary"
NAME = "it's \\ {odd}"
SETTINGS = (
    *("search_path", "application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    *("plan_cache_mode", "enable_seqscan", "jit", "max_parallel_workers_per_gather"),
)
EMPTY = Schema(kind="test", migrations=())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(tcp=True) as server:
        yield server


@pytest_asyncio.fixture
async def engine(server: Server) -> AsyncIterator[Engine]:
    engine = Engine(address_of(server.tcp_url, "url"), EMPTY, namespace="public", connections=3, command_timeout=20.0)
    yield engine
    await engine.aclose()


def shown(problem: BaseException) -> str:
    return "".join(traceback.TracebackException.from_exception(problem, capture_locals=True).format())


@pytest.mark.parametrize(
    "rest",
    [
        "127.0.0.1:99999/db",
        "127.0.0.1:0/db",
        "127.0.0.1/db?port=abc",
        "/db?host=a,b,c&port=1,2",
        "a,,b/db",
        "db..example/db",
        f"{'a' * 64}.example/db",
        "[::1]:70000/db",
        "\u2100@db/db",
        "[1]@db/db",
        "@x@db/db",
    ],
)
def test_a_host_or_port_that_cannot_exist_is_refused_before_anything(rest: str) -> None:
    url = f"postgresql://user:{PASSWORD}{'' if '@' in rest else '@'}{rest}"
    with pytest.raises(ValueError, match=r"^dsn: it") as refused:
        PostgresStore(url)
    assert refused.value.__context__ is None
    assert PASSWORD not in shown(refused.value).replace(repr(url), "").replace(repr(rest), "")


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("127.0.0.1/db?ssl_min_protocol_version=foo", "Check the options of its URL"),
        ("127.0.0.1/db?odd", "Check the options of its URL"),
        ("127.0.0.1/db?sslmode=require&sslrootcert=/nonexistent", "cannot be reached"),
        ("127.0.0.1:1/db", "lost or refused"),
        ("127.0.0.1:1,localhost:1/db", "lost or refused"),
    ],
)
async def test_a_connection_that_fails_shows_no_password(rest: str, said: str) -> None:
    store = PostgresStore(f"postgresql://user:{PASSWORD}@{rest}")
    with pytest.raises(StoreError, match=said) as failed:
        await store.ping()
    assert failed.value.__context__ is None
    assert PASSWORD not in shown(failed.value)
    await store.aclose()


@pytest.mark.slow
async def test_a_connect_that_is_cancelled_shows_no_password(server: Server) -> None:
    async with tcp_proxy(server.port) as proxy:
        proxy.swallow = True
        store = PostgresStore(f"postgresql://postgres:{PASSWORD}@127.0.0.1:{proxy.port}/postgres")
        call = asyncio.ensure_future(store.ping())
        while not proxy.connections:
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await call
        assert PASSWORD not in shown(cancelled.value)
        await store.aclose()


@pytest.mark.slow
async def test_a_host_that_hangs_is_passed_over_for_the_next_and_not_asked_again(server: Server) -> None:
    async with tcp_proxy(server.port) as proxy:
        proxy.swallow = True
        url = f"postgresql://postgres@127.0.0.1:{proxy.port},127.0.0.1:{server.port}/postgres"
        store = PostgresStore(url, schema="hosts", connections=1, command_timeout=4.0)
        await store.ping()
        asked = proxy.connections
        await end_connections(server)
        while True:  # the first call may still find the connection that was ended
            try:
                assert await store.accept(event("1")) is Acceptance.NEW
                break
            except StoreError:
                pass
        assert proxy.connections == asked
        await store.aclose()


async def end_connections(server: Server) -> None:
    connection = await asyncpg.connect(server.url)
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rewards-async'"
    await connection.execute(ended)
    await connection.close()


@pytest.mark.slow
async def test_if_no_host_is_of_use_the_error_is_that_of_the_one_that_hangs(server: Server) -> None:
    async with tcp_proxy(server.port) as proxy:
        proxy.swallow = True
        url = f"postgresql://postgres@127.0.0.1:{proxy.port},127.0.0.1:1/postgres"
        store = PostgresStore(url, command_timeout=0.5)
        with raises(StoreError, "postgres: a host that hangs"):
            await store.ping()
        await store.aclose()


@pytest.mark.slow  # the server cancels the statement after nine tenths of the time
async def test_a_slow_statement_of_a_healthy_server_refuses_no_other_call(engine: Engine, server: Server) -> None:
    with raises(StoreError, "postgres: a slow statement"):
        await engine.run(lambda db: db.fetchval("SELECT pg_sleep(600)"))
    slow = asyncio.ensure_future(engine.run(lambda db: db.fetchval("SELECT pg_sleep(600)")))
    connection = await asyncpg.connect(server.url)
    while not await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        pass
    await connection.close()
    engine.check_answering()
    slow.cancel()
    await asyncio.wait([slow])


async def sessions(engine: Engine) -> set[int]:
    """Run two calls side by side, and return the server processes of their connections."""
    both = asyncio.Barrier(2)

    async def ask(db: Connection) -> int:
        await both.wait()
        return int(await db.fetchval("SELECT pg_backend_pid()"))

    return set(await asyncio.gather(engine.run(ask, first=True), engine.run(ask, first=True)))


async def unanswered(db: Connection) -> None:
    async with asyncio.timeout(0):
        await db.execute("SELECT pg_sleep(600)")


async def broken_off(db: Connection) -> None:
    db.terminate()
    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


@pytest.mark.slow
@pytest.mark.parametrize("failing", [unanswered, broken_off])
async def test_when_a_server_does_not_answer_no_other_connection_to_it_is_tried(
    engine: Engine, failing: Callable[[Connection], Awaitable[None]]
) -> None:
    before = await sessions(engine)
    assert await sessions(engine) == before
    with pytest.raises(StoreError):
        await engine.run(failing, first=True)
    await engine.run(lambda db: db.execute("SELECT 1"))  # alone, until the server has answered
    assert not before & await sessions(engine)


async def test_a_connection_that_was_idle_for_long_is_not_used_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await sessions(engine)
    monkeypatch.setattr("rewards_core.postgres.engine.MAX_IDLE", -1.0)
    assert not before & await sessions(engine)


@pytest.mark.slow
async def test_a_flood_of_large_events_is_cut_into_batches_that_the_server_takes_in_time(server: Server) -> None:
    store = PostgresStore(server.tcp_url, schema="large", command_timeout=60)
    mib = 1024 * 1024
    some = [evolve(event(str(number)), body=b'{"x":"' + os.urandom(mib // 2).hex().encode() + b'"}') for number in range(12)]
    huge = evolve(event("huge"), body=b'{"x":"' + b"y" * (5 * mib) + b'"}')
    assert set(await asyncio.gather(*map(store.accept, [*some, huge]))) == {Acceptance.NEW}
    await store.aclose()
    connection = await asyncpg.connect(server.url)
    batches = await connection.fetch("SELECT count(*), sum(length(body)) AS size FROM large.event GROUP BY xmin::text")
    assert [one["count"] for one in batches if one["size"] > 4 * mib] == [1]
    assert len(batches) <= 6
    await connection.execute("SET client_min_messages = warning; DROP SCHEMA large CASCADE")
    await connection.close()


@pytest.mark.parametrize("pooled", [False, True], ids=["direct", "pooled"])
async def test_a_schema_may_have_any_name(server: Server, *, pooled: bool) -> None:
    with pooler_before(server) as port:
        store = PostgresStore(f"postgresql://postgres@127.0.0.1:{port if pooled else server.port}/postgres", schema=NAME)
        assert await store.accept(event("1")) is Acceptance.NEW
        assert await store.accept(event("1")) is Acceptance.DUPLICATE
        await store.aclose()
    connection = await asyncpg.connect(server.url)
    await connection.execute(f'SET client_min_messages = warning; DROP SCHEMA "{NAME}" CASCADE')
    await connection.close()


async def is_prepared(engine: Engine) -> bool:
    """Return whether a statement stays prepared in its session, which no pooler in transaction mode allows."""
    return await engine.run(lambda db: db.fetchval("SELECT count(*) > 0 FROM pg_prepared_statements"))


async def test_a_session_pool_that_refused_a_connection_is_still_one(server: Server) -> None:
    passed = {"pool_mode": "session", "ignore_startup_parameters": ",".join(SETTINGS), "max_client_conn": "1"}
    with pooler_before(server, **passed) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        engine = Engine(address_of(url, "url"), EMPTY, namespace="public", connections=1, command_timeout=20.0)
        stranger = await asyncpg.connect(url)
        with pytest.raises(StoreError, match="no more connections allowed"):
            await is_prepared(engine)
        await stranger.close()
        while True:
            with suppress(StoreError):
                assert await is_prepared(engine)
                break
        await engine.aclose()


async def test_a_transaction_pool_is_told_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pooler_before(server) as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        engine = Engine(address_of(url, "url"), EMPTY, namespace="public", connections=3, command_timeout=20.0)
        assert not await is_prepared(engine)
        await sessions(engine)
        await engine.aclose()
    told = [one.getMessage() for one in caplog.records if "pooler in transaction mode" in one.getMessage()]
    assert len(told) == 1
    assert f"127.0.0.1:{port}" in told[0]


async def test_a_listener_whose_user_raises_is_logged_and_listens_again(
    engine: Engine, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewards_core.postgres.listen.PROBE_EVERY", 0.01)
    monkeypatch.setattr("rewards_core.postgres.listen.FIRST_DELAY", 0.01)
    gaps = 0
    heard, filled = asyncio.Event(), asyncio.Event()

    def gap() -> None:
        nonlocal gaps
        gaps += 1
        if gaps < 3:
            raise LookupError("odd")
        filled.set()

    listener = Listener(engine, "channel", hear=lambda _: heard.set(), gap=gap)
    await listener.start()
    await end_connections(server)
    await filled.wait()
    assert await listener.run(lambda db: db.fetchval("SELECT 1")) == 1
    await engine.run(lambda db: db.execute("SELECT pg_notify('channel', 'now')"))
    await heard.wait()
    assert caplog.text.count("LookupError: odd") == 2
    await listener.stop()


async def test_a_database_that_cannot_hold_every_text_is_refused(server: Server) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    store = PostgresStore(server.tcp_url.removesuffix("postgres") + "narrow")
    with raises(StoreError, "postgres: a database of another encoding"):
        await store.ping()
    await store.aclose()
    await connection.execute("DROP DATABASE narrow")
    await connection.close()


async def test_text_that_postgresql_cannot_hold_is_kept_escaped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with schema_of_its_own(server, monkeypatch) as time:
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
        await store.aclose()


async def test_two_processes_that_start_at_one_time_migrate_once_and_a_newer_layout_is_refused(server: Server) -> None:
    stores = [PostgresStore(server.tcp_url, schema="fresh") for _ in range(6)]
    await asyncio.gather(*(store.ping() for store in stores))
    connection = await asyncpg.connect(server.url)
    await connection.execute("UPDATE fresh.layout SET version = 99")
    newer = PostgresStore(server.tcp_url, schema="fresh")
    with pytest.raises(StoreError, match="layout 99 "):
        await newer.ping()
    await connection.execute("CREATE SCHEMA foreign_one; CREATE TABLE foreign_one.account (id int)")
    foreign = PostgresStore(server.tcp_url, schema="foreign_one")
    with raises(StoreError, "postgres: a schema of another program"):
        await foreign.ping()
    for store in (*stores, newer, foreign):
        await store.aclose()
    await connection.execute("SET client_min_messages = warning; DROP SCHEMA fresh, foreign_one CASCADE")
    await connection.close()


async def test_a_process_that_connects_again_refuses_a_layout_that_is_newer_by_now(server: Server) -> None:
    store = PostgresStore(server.tcp_url, schema="migrated", connections=1)
    await store.accept(event("1"))
    connection = await asyncpg.connect(server.url)
    await connection.execute("UPDATE migrated.layout SET version = 99")
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rewards-async' AND datname = 'postgres'"
    )
    with suppress(StoreError):
        await store.list_events()  # its connection has ended
    with pytest.raises(StoreError, match="layout 99 "):
        await store.accept(event("2"))
    await connection.execute("UPDATE migrated.layout SET version = 1")
    assert await store.accept(event("2")) is Acceptance.NEW
    await store.aclose()
    await connection.execute("SET client_min_messages = warning; DROP SCHEMA migrated CASCADE")
    await connection.close()


async def test_a_store_is_not_closed_from_another_loop_than_its_own(server: Server) -> None:
    store = PostgresStore(server.url, schema="loops")
    await store.ping()
    with raises(StoreError, "postgres: another event loop"):
        await asyncio.to_thread(asyncio.run, store.aclose())
    await store.ping()
    await store.aclose()
