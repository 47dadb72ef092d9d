"""A primary that is lost, and a standby that takes its place: what was acknowledged, and what the vendor sends again."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from rewards_core.errors import StoreError
from tests.postgres_server import Server, postgres_server, standby_of
from tests.webhooks.store_contract import event
from webhooks.store.postgres import PostgresStore
from webhooks.store.records import Acceptance

NAMES = [f"stalled-{number}" for number in range(8)]


@pytest.fixture
def primary() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def standby(primary: Server) -> Iterator[Server]:
    with standby_of(primary, "second") as server:
        yield server


@asynccontextmanager
async def store_on(server: Server, *, command_timeout: float = 5.0) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(server.url, command_timeout=command_timeout)
    yield store
    await store.aclose()


async def run(server: Server, *statements: str) -> None:
    connection = await asyncpg.connect(server.url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def make_synchronous(primary: Server) -> None:
    """Let commits wait for the standby, and return once they do."""
    await run(primary, "ALTER SYSTEM SET synchronous_standby_names = 'second'", "SELECT pg_reload_conf()")
    connection = await asyncpg.connect(primary.url)
    while await connection.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != 1:
        pass
    await connection.close()


async def acknowledged(store: PostgresStore, names: Iterable[str]) -> set[str]:
    """Return the events of which the vendor would hear 200."""
    found = set()
    for name in names:
        try:
            await store.accept(event(name))
        except StoreError:
            continue
        found.add(name)
    return found


async def kept(store: PostgresStore, names: Iterable[str]) -> set[str]:
    return {name for name in names if await store.accept(event(name)) is Acceptance.DUPLICATE}


async def fail_over(primary: Server, standby: Server) -> None:
    """Lose the primary, and promote the standby with what it had received; what lies in its socket is lost."""
    primary.stop()
    standby.signal(signal.SIGKILL)
    standby.stop()
    standby.start()
    await run(standby, "SELECT pg_promote()")


@pytest.mark.slow
async def test_a_failover_to_a_synchronous_standby_loses_nothing_acknowledged(primary: Server, standby: Server) -> None:
    await make_synchronous(primary)
    async with store_on(primary) as store:
        assert await acknowledged(store, ["before"]) == {"before"}
    async with store_on(primary, command_timeout=1.0) as store:
        await store.ping()
        standby.signal(signal.SIGSTOP)
        first = await acknowledged(store, NAMES)
        retried = await acknowledged(store, NAMES)  # the primary has them by now, and nobody else
    await fail_over(primary, standby)
    async with store_on(standby) as store:
        lost = ({"before"} | first | retried) - await kept(store, ["before", *NAMES])
    assert lost == set()
    assert first == retried == set()


@pytest.mark.slow
async def test_a_failover_to_an_asynchronous_standby_loses_what_it_had_not_received(primary: Server, standby: Server) -> None:
    async with store_on(primary) as store:
        await store.ping()
        standby.signal(signal.SIGSTOP)
        assert await acknowledged(store, NAMES) == set(NAMES)
    await fail_over(primary, standby)
    async with store_on(standby) as store:
        assert await kept(store, NAMES) == set()


@pytest.mark.slow
async def test_a_standby_that_goes_on_lets_the_retry_be_acknowledged(primary: Server, standby: Server) -> None:
    await make_synchronous(primary)
    async with store_on(primary, command_timeout=1.0) as store:
        await store.ping()
        standby.signal(signal.SIGSTOP)
        assert await acknowledged(store, NAMES) == set()
        standby.signal(signal.SIGCONT)
        while await acknowledged(store, NAMES) != set(NAMES):
            pass
    await fail_over(primary, standby)
    async with store_on(standby) as store:
        assert await kept(store, NAMES) == set(NAMES)
