"""Waits for what no event names: an event of the thing that it is about has it looked up."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from attrs import evolve

from rewards_core.operations import OperationRef, OperationStatus
from rewards_core.postgres.migrations import migrate
from tests.postgres_server import Server
from tests.virtual_time import virtual_time
from tests.webhooks.fakes import Thing
from tests.webhooks.store_contract import event, ref, resource
from tests.webhooks.world import a_world, now
from webhooks.store.postgres import PostgresStore
from webhooks.store.postgres_schema import SCHEMA
from webhooks.store.records import Priority

TRANSFER = OperationRef("default", "thing", "1", "asset/7")


@virtual_time
async def test_a_wait_ends_soon_after_an_event_of_the_thing_that_its_operation_is_about() -> None:
    async with a_world() as world:
        world.vendor.will("1", "done")
        waiting = world.start(TRANSFER)
        await asyncio.sleep(1)
        await world.deliver("8", kind="asset")
        await asyncio.sleep(1)
        assert not waiting.done()
        await world.deliver("7", kind="asset")
        await waiting
        assert now() < 3


@virtual_time
async def test_a_bare_uid_tells_at_its_first_poll_what_it_is_about() -> None:
    async with a_world() as world:
        pending = Thing(ref=TRANSFER, status=OperationStatus.PENDING, raw={"uid": "1", "status": "pending"})
        world.vendor.will("1", pending, "done")
        waiting = world.start("1")
        await asyncio.sleep(16)
        assert world.vendor.read_times == [15.0]
        await world.deliver("7", kind="asset")
        await waiting
        assert now() < 17


@pytest.mark.slow
async def test_a_database_of_an_older_layout_comes_to_know_what_operations_are_about(postgres: Server) -> None:
    connection = await asyncpg.connect(postgres.url)
    async with connection.transaction():
        await migrate(connection, "older", evolve(SCHEMA, migrations=SCHEMA.migrations[:2]))
    await connection.execute(
        "INSERT INTO older.pending (scope, kind, uid, added_at, due_at, polls, priority, attempt, watched) "
        "VALUES ('default', 'thing', '1', 1, 1e12, 3, 4, 0, false)"
    )
    store = PostgresStore(postgres.url, schema="older")
    (kept,) = await store.list_pending()
    assert (kept.ref, kept.ref.about, kept.polls) == (TRANSFER, None, 3)
    assert await connection.fetchval("SELECT version FROM older.layout") == 3
    await store.watch([TRANSFER], poll_in=60)
    await store.accept(event(of=ref("7", kind="asset"), complete=resource("7")))
    (kept,) = await store.list_pending()
    assert (kept.ref.about, kept.priority) == ("asset/7", Priority.LOOKUP)
    await store.aclose()
    await connection.execute("SET client_min_messages = warning; DROP SCHEMA older CASCADE")
    await connection.close()
