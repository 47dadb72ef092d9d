"""Thousands of operations on PostgreSQL: no transaction takes so many that it cannot end in the time of a statement."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.postgres_server import Server, postgres_server
from tests.webhooks.postgres_kit import DatabaseTime, schema_at_rest
from tests.webhooks.store_contract import Ear, ref

MANY = 12_000
SLICE = 1_000
NOT_TOO_MANY = """
CREATE OR REPLACE FUNCTION not_too_many() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN IF (SELECT count(*) FROM changed) > 11000 THEN RAISE EXCEPTION ''too many''; END IF; RETURN NULL; END';
CREATE OR REPLACE TRIGGER not_too_many AFTER INSERT ON pending REFERENCING NEW TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION not_too_many();
CREATE OR REPLACE TRIGGER not_too_many AFTER DELETE ON interest REFERENCING OLD TABLE AS changed
  FOR EACH STATEMENT EXECUTE FUNCTION not_too_many();
"""
"""A server that cannot finish larger statements in time."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest_asyncio.fixture
async def time(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_at_rest(server, monkeypatch) as moved:
        await moved.connection.execute(NOT_TOO_MANY)
        yield moved
        await moved.connection.execute("DROP FUNCTION not_too_many() CASCADE")


SLICES = [[ref(f"{start + number}") for number in range(SLICE)] for start in range(0, MANY, SLICE)]


@pytest.mark.slow
async def test_what_many_callers_add_and_watch_at_once_is_divided(time: DatabaseTime) -> None:
    store = time.open()
    await store.subscribe(Ear())
    await asyncio.gather(*(store.add_pending(refs, poll_in=60) for refs in SLICES))
    await asyncio.gather(*(store.watch([ref(f"w{one.uid}") for one in refs], poll_in=60) for refs in SLICES))
    assert await time.connection.fetchval("SELECT count(*) FROM pending") == 2 * MANY


@pytest.mark.slow
async def test_what_many_callers_stop_to_watch_at_once_is_divided(time: DatabaseTime) -> None:
    store = time.open()
    await store.subscribe(Ear())
    for refs in SLICES:
        await store.watch(refs, poll_in=60)
    for refs in SLICES:
        store.unwatch(refs)
    await store.watch([ref("another")], poll_in=60)
    assert await time.connection.fetchval("SELECT count(*) FROM interest") == 1


@pytest.mark.slow
async def test_a_process_that_was_given_up_with_much_to_wait_for_returns(time: DatabaseTime) -> None:
    store, ear = time.open(), Ear()
    await store.subscribe(ear)
    for refs in SLICES:
        await store.watch(refs, poll_in=60)
    await time.connection.execute("UPDATE process SET alive = false")
    await store.renew()
    await ear.until(lambda ear: ear.misses)
    assert await time.connection.fetchval("SELECT count(*) FROM process WHERE alive") == 1
