"""Several processes that serve one handler or poll one scope: a hint wakes one of them, and none with room is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.postgres_server import Server
from tests.webhooks.postgres_kit import DatabaseTime, schema_at_rest
from tests.webhooks.store_contract import COUNT, PAY, Ear, claim, event, ref, wants
from webhooks.store.postgres import PostgresStore


@pytest_asyncio.fixture
async def time(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_at_rest(postgres, monkeypatch) as moved:
        yield moved


async def serving(
    time: DatabaseTime, count: int, *, handler: str = PAY, scope: str = "default"
) -> list[tuple[PostgresStore, Ear]]:
    """Return store objects that serve a handler, and what their subscribers hear."""
    found = []
    for _ in range(count):
        store, ear = time.open(), Ear()
        await store.subscribe(ear)
        await store.register_handlers([wants(handler, scope=scope)])
        found.append((store, ear))
    return found


async def all_is_sent() -> None:
    if sending := [task for task in asyncio.all_tasks() if task.get_name() == "wake other processes"]:
        await asyncio.wait(sending)


async def who_heard(time: DatabaseTime, some: Sequence[tuple[PostgresStore, Ear]]) -> list[PostgresStore]:
    """Return the store objects that heard of jobs, once each has heard all that was sent to it."""
    await all_is_sent()
    await time.connection.fetch("SELECT pg_notify('rewards_' || id, 'p') FROM process")
    for _, ear in some:
        await ear.until(lambda ear: ear.polls)
    heard = [store for store, ear in some if ear.jobs]
    for _, ear in some:
        ear.jobs = ear.polls = 0
    return heard


@pytest.mark.slow
async def test_a_new_job_wakes_one_of_the_processes_that_serve_its_handler(time: DatabaseTime) -> None:
    servers = await serving(time, 5)
    await serving(time, 1, scope="other")
    for number in range(10):
        await time.open().accept(event(str(number)))
        assert len(await who_heard(time, servers)) == 1


async def test_a_process_that_has_room_for_its_own_jobs_wakes_no_other(time: DatabaseTime) -> None:
    servers = await serving(time, 3)
    own = servers[1][0]
    for number in range(10):
        await own.accept(event(str(number)))
        assert await who_heard(time, servers) == [own]


async def test_a_job_that_busy_handlers_leave_wakes_a_process_with_room(time: DatabaseTime) -> None:
    servers = await serving(time, 3)
    (first, _), (second, _), (third, _) = servers
    await first.accept(event("one"))
    await claim(first, limit=1)
    await who_heard(time, servers)
    await first.accept(event("two"))
    heard = [store for store in await who_heard(time, servers) if store is not first]
    assert len(heard) == 1
    await claim(heard[0], limit=1)
    (passed_on,) = await who_heard(time, servers)
    assert passed_on is ({second, third} - set(heard)).pop()


async def test_jobs_that_came_at_one_time_wake_further_processes_until_one_has_room(time: DatabaseTime) -> None:
    servers = await serving(time, 3)
    await asyncio.gather(*(time.stores[0].accept(event(str(number))) for number in range(5)))
    woken: set[PostgresStore] = set()
    store = servers[0][0]
    await who_heard(time, servers)
    for size in (2, 2):
        assert len(await claim(store, limit=size)) == size
        woken.add(store)
        (store,) = await who_heard(time, servers)
        assert store not in woken
    assert len(await claim(store, limit=2)) == 1
    assert await who_heard(time, servers) == []


async def test_a_process_that_found_nothing_is_woken_again(time: DatabaseTime) -> None:
    servers = await serving(time, 1)
    (server, _), listener = servers[0], time.open()
    await listener.accept(event("one"))
    (one,) = await claim(server, limit=1)
    await listener.accept(event("two"))
    await who_heard(time, servers)
    await claim(server, limit=2)
    await listener.accept(event("three"))
    assert await who_heard(time, servers) == [server]
    assert await server.finish_job(one.job)


async def test_a_job_that_comes_while_a_busy_process_finds_nothing_is_claimed(time: DatabaseTime) -> None:
    ((server, _),), listener = await serving(time, 1), time.open()
    await listener.accept(event("one"))
    await claim(server, limit=1)
    async with time.connection.transaction():
        await time.connection.execute("SELECT FROM served FOR UPDATE")
        claiming = asyncio.ensure_future(claim(server, limit=1))
        while not await time.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        await listener.accept(event("two"))
    assert len(await claiming) == 1


@pytest.mark.slow
async def test_jobs_that_are_queued_again_wake_one_process_for_each_handler(time: DatabaseTime) -> None:
    paying, counting = await serving(time, 3), await serving(time, 3, handler=COUNT)
    operator = time.open()
    await operator.accept(event())
    await who_heard(time, [*paying, *counting])
    await operator.requeue([1], every_handler=True)
    heard = await who_heard(time, [*paying, *counting])
    assert sorted(store in [one for one, _ in paying] for store in heard) == [False, True]


@pytest.mark.slow
async def test_an_operation_to_poll_wakes_one_of_the_processes_that_still_poll_its_scope(time: DatabaseTime) -> None:
    pollers = []
    for _ in range(4):
        store, ear = time.open(), Ear()
        await store.subscribe(ear)
        await store.claim_polls("default", limit=1, lease=60, max_per_second=100)
        pollers.append((store, ear))
    await time.set(time.wall + 60)
    for store, _ in pollers[:3]:
        await store.claim_polls("default", limit=1, lease=60, max_per_second=100)
    for number in range(8):
        for _, ear in pollers:
            ear.polls = 0
        await time.open().add_pending([ref(str(number))], poll_in=60)
        await all_is_sent()
        await time.connection.fetch("SELECT pg_notify('rewards_' || id, 'j') FROM process")
        for _, ear in pollers:
            await ear.until(lambda ear: ear.jobs)
            ear.jobs = 0
        assert [ear.polls for _, ear in pollers[3:]] == [0]
        assert sum(ear.polls for _, ear in pollers) == 1


@pytest.mark.parametrize("other", [PAY, COUNT])
async def test_a_handler_that_is_registered_while_another_one_is_released_stays_served(time: DatabaseTime, other: str) -> None:
    store = time.open()
    await store.register_handlers([wants(PAY)])
    async with time.connection.transaction():
        await time.connection.execute("SELECT FROM served FOR UPDATE")
        releasing = asyncio.ensure_future(store.release_handlers([wants(PAY)]))
        while not await time.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        registering = asyncio.ensure_future(store.register_handlers([wants(other)]))
        for _ in range(20):  # it waits for the release; if it did not, it would end now
            await store.list_handlers()
    await asyncio.gather(releasing, registering)
    await time.connection.execute("DELETE FROM process; DELETE FROM subscription")  # as an older copy may lack them
    await store.renew()
    assert [one.subscription for one in await store.list_handlers() if one.served] == [wants(other)]
