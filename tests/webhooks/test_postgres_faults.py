"""A PostgreSQL server that dies, hangs, loses answers or is full: nothing acknowledged is lost, and callers learn of it early."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from rewards_core.errors import StoreError, StoreFull
from rewards_core.postgres import engine as postgres_engine
from tests.postgres_server import Server, as_server_user, postgres_server
from tests.texts import raises
from tests.webhooks.store_contract import EPOCH, PAY, Ear, claim, event, outcome, ref, resource, wants
from tests.webhooks.tcp_proxy import tcp_proxy
from webhooks.store.postgres import PostgresStore
from webhooks.store.records import Acceptance, Verdict

ROOT = Path(__file__).parents[2]
BRIEF = 0.5
"""Seconds after which a call gives up, where a test waits for that."""


class Database:
    """A schema of a server, and the stores in it."""

    def __init__(self, server: Server, connection: Any) -> None:
        self.server = server
        self.connection = connection
        self._stores: list[PostgresStore] = []

    def open(self, url: str = "", **options: Any) -> PostgresStore:
        store = PostgresStore(url or self.server.tcp_url, schema="faults", **options)
        self._stores.append(store)
        return store

    async def close(self) -> None:
        for store in self._stores:
            await store.aclose()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgres_server(tcp=True) as server:
        yield server


@pytest_asyncio.fixture
async def database(server: Server) -> AsyncIterator[Database]:
    connection = await asyncpg.connect(server.url)
    database = Database(server, connection)
    yield database
    await database.close()
    if connection.is_closed():
        connection = await asyncpg.connect(server.url)
    await connection.execute("SET client_min_messages = warning; DROP SCHEMA IF EXISTS faults CASCADE")
    await connection.close()


async def until(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """Repeat a call until it returns something."""
    while True:
        with suppress(StoreError):
            if result := await attempt():
                return result


async def kept(store: PostgresStore) -> set[bytes]:
    """Return the identities of the events in a store."""
    return {one.event.identity for one in await store.list_events(limit=10_000)}


SLOW = """
CREATE OR REPLACE FUNCTION faults.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT ON faults.{table} FOR EACH ROW EXECUTE FUNCTION faults.slow();
"""


@pytest.mark.slow
async def test_two_writers_that_bring_the_same_events_in_opposite_orders_keep_each_once(database: Database) -> None:
    here, there = database.open(), database.open()
    await asyncio.gather(here.ping(), there.ping())
    for table in ("identity", "outcome", "pending"):  # rows that are written slowly are locked for long
        await database.connection.execute(SLOW.format(table=table))
    for turn in range(5):
        some = [event(f"{turn}-{number}", of=ref(f"{turn}-{number % 7}"), complete=resource()) for number in range(30)]
        answers = await asyncio.gather(*map(here.accept, some), *map(there.accept, reversed(some)))
        assert sorted(answers) == sorted([Acceptance.NEW, Acceptance.DUPLICATE] * 30)
        refs = [ref(f"{turn}-{number}-recorded") for number in range(30)]
        recorded = asyncio.gather(
            *(here.record_outcome(outcome(one)) for one in refs),
            *(there.record_outcome(outcome(one)) for one in reversed(refs)),
        )
        await asyncio.gather(recorded, here.watch(refs, poll_in=0), there.add_pending(refs[::-1], poll_in=0))
        assert sorted(one.verdict for one in recorded.result()) == [Verdict.FIRST] * 30 + [Verdict.SAME] * 30
    assert "deadlock detected" not in database.server.log


@pytest.mark.slow
async def test_an_answer_that_was_lost_after_the_commit_leaves_a_duplicate(database: Database) -> None:
    async with tcp_proxy(database.server.port) as proxy:
        store = database.open(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres", command_timeout=BRIEF)
        await until(lambda: store.accept(event("first")))
        proxy.swallow = True
        with raises(StoreError, "postgres: no answer"):
            await store.accept(event("lost", of=ref(), complete=resource()))
        while not await database.connection.fetchval("SELECT count(*) FROM faults.outcome"):
            pass
        with raises(StoreError, "postgres: no answer"):
            await store.add_pending([ref("2")], poll_in=0)
        proxy.swallow = False
        await store.add_pending([ref("2")], poll_in=0)
        assert await until(lambda: store.accept(event("lost", of=ref(), complete=resource()))) is Acceptance.DUPLICATE
        assert await until(lambda: store.outcome(ref())) is not None
        await store.aclose()


@pytest.mark.slow
async def test_no_acknowledged_event_is_lost_when_every_process_of_the_server_is_killed(database: Database) -> None:
    store = database.open()
    acknowledged: set[bytes] = set()
    answered = asyncio.Event()
    failures: list[StoreError] = []

    async def deliver(sender: int) -> None:
        number = 0
        while not failures:
            sent = event(f"{sender}-{number}", of=ref(f"{sender}-{number}"), complete=resource())
            try:
                await store.accept(sent)
            except StoreError as problem:
                failures.append(problem)
            else:
                acknowledged.add(sent.identity)
                number += 1
            if len(acknowledged) > 200:
                answered.set()

    async def kill() -> None:
        await answered.wait()
        database.server.signal(signal.SIGKILL)

    await asyncio.gather(*map(deliver, range(20)), kill())
    with pytest.raises(StoreError):
        await store.accept(event("meanwhile"))
    await asyncio.get_running_loop().run_in_executor(None, database.server.stop)
    await asyncio.get_running_loop().run_in_executor(None, database.server.start)
    assert await until(lambda: store.accept(event("afterwards"))) is Acceptance.NEW
    assert acknowledged <= await kept(store)


@pytest.mark.slow
async def test_calls_of_a_server_that_hangs_fail_early_and_do_not_pile_up(database: Database) -> None:
    store = database.open(command_timeout=BRIEF)
    await until(lambda: store.accept(event("first")))
    database.server.signal(signal.SIGSTOP)
    try:
        for turn in range(2):
            calls: list[Awaitable[object]] = [store.accept(event(f"{turn}-{number}")) for number in range(50)]
            calls += [store.remove_pending([ref(str(number))]) for number in range(50)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(answer) for answer in answers} == {StoreError}
            told = [str(answer) for answer in answers]
        assert any("not answered" in each for each in told)  # known since the first turn
    finally:
        database.server.signal(signal.SIGCONT)
    assert await until(lambda: store.accept(event("afterwards"))) is Acceptance.NEW
    assert (
        await database.connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rewards-async'") <= 9
    )


@pytest.mark.slow
async def test_a_lock_that_another_session_holds_ends_a_call_and_no_more(database: Database) -> None:
    store = database.open(command_timeout=BRIEF)
    await until(lambda: store.accept(event("first")))
    async with database.connection.transaction():
        await database.connection.execute("LOCK TABLE faults.identity")
        with raises(StoreError, "postgres: a lock of another session"):
            await store.accept(event("second"))
    assert await until(lambda: store.accept(event("second"))) is Acceptance.NEW


async def test_a_call_that_is_cancelled_leaves_no_transaction_to_the_next(database: Database) -> None:
    store = database.open(connections=1)
    await store.ping()
    async with database.connection.transaction():
        await database.connection.execute("LOCK TABLE faults.served")
        call = asyncio.ensure_future(store.register_handlers([wants()]))  # it has written the subscription by now
        while not await database.connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            pass
        call.cancel()
        await asyncio.wait([call])
    await store.add_pending([ref()], poll_in=0)
    assert list(await store.list_handlers()) == []


async def test_calls_beyond_what_may_wait_for_a_connection_fail_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_engine, "MAX_WAITING", 1)
    store = database.open(connections=1)
    await store.ping()
    async with database.connection.transaction():
        await database.connection.execute("LOCK TABLE faults.pending")
        stuck = [asyncio.ensure_future(store.remove_pending([ref(uid)])) for uid in "12"]
        await asyncio.sleep(0)
        with raises(StoreError, "postgres: too many calls"):
            await store.remove_pending([ref("3")])
    await asyncio.gather(*stuck)


async def stall(database: Database, store: PostgresStore) -> None:
    """Let commits wait for a standby that is not there."""
    await store.ping()
    await database.connection.execute("SET synchronous_commit = local")
    await database.connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await database.connection.execute("SELECT pg_reload_conf()")
    while True:
        try:
            await store.ping()
        except StoreError:
            return


async def resume(database: Database) -> None:
    await database.connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
    await database.connection.execute("SELECT pg_reload_conf()")


async def _finish(store: PostgresStore) -> object:
    return await store.finish_job(store.finished)  # type: ignore[attr-defined]


PROMISES: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "accept": lambda store: store.accept(event("told", of=ref(), complete=resource())),
    "record_outcome": lambda store: store.record_outcome(outcome(ref("2"))),
    "watch": lambda store: store.watch([ref("2")], poll_in=0),
    "add_pending": lambda store: store.add_pending([ref("3")], poll_in=0),
    "finish_job": _finish,
}


@pytest.mark.slow
@pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)
async def test_what_was_done_before_is_as_durable_as_the_first_time(
    database: Database, promise: Callable[[PostgresStore], Awaitable[object]]
) -> None:
    store = database.open(command_timeout=BRIEF)
    await store.register_handlers([wants()])
    await store.accept(event("job"))
    (claimed,) = await claim(store, PAY)
    store.finished = claimed.job  # type: ignore[attr-defined]
    await store.record_outcome(outcome(ref("2")))
    await store.add_pending([ref("3")], poll_in=60)
    await stall(database, store)
    try:
        for _ in range(3):  # the first attempt is visible, although no standby has it
            with pytest.raises(StoreError):
                await promise(store)
    finally:
        await resume(database)
    await until(lambda: _done(promise(store)))
    assert await until(lambda: store.accept(event("told", of=ref(), complete=resource())))


async def _done(call: Awaitable[object]) -> bool:
    await call
    return True


@pytest.mark.slow
async def test_a_commit_whose_wait_for_the_standby_an_administrator_ends_is_not_acknowledged(database: Database) -> None:
    impatient, store = database.open(command_timeout=BRIEF), database.open(command_timeout=600)
    await store.ping()
    await stall(database, impatient)
    try:
        call = asyncio.ensure_future(store.accept(event("told")))
        while not call.done():
            await database.connection.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
        with raises(StoreError, "postgres: the wait for a standby was cancelled"):
            await call
    finally:
        await resume(database)


@pytest.mark.slow
async def test_a_weaker_setting_of_the_server_makes_no_commit_less_durable(database: Database) -> None:
    await database.connection.execute("ALTER DATABASE postgres SET synchronous_commit = local")
    try:
        await stall(database, database.open(command_timeout=BRIEF))
        with pytest.raises(StoreError):
            await database.open(command_timeout=BRIEF).accept(event("told"))
    finally:
        await resume(database)
        await database.connection.execute("ALTER DATABASE postgres RESET synchronous_commit")


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
async def test_a_full_disk_is_told_and_forgotten_once_there_is_space(database: Database, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    disk = Path(database.server.folder / "disk")
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M,mode=0777", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this system mounts no tmpfs: {mounted.stderr.decode().strip()}")
    try:
        os.chown(disk, as_server_user()["user"], -1)
        await database.connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        store = database.open()
        await store.ping()
        await database.connection.execute("ALTER TABLE faults.event SET TABLESPACE small")
        many = (store.accept(event(f"{number}", said=os.urandom(4_000).hex())) for number in range(1_000))
        with raises(StoreFull, "postgres: a full disk"):
            await _each(many)
        subprocess.run(["mount", "-o", "remount,size=64M", disk], check=True)
        assert await store.accept(event("afterwards")) is Acceptance.NEW
        await store.aclose()
        await database.connection.execute("DROP SCHEMA faults CASCADE")
        await database.connection.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


async def _each(calls: Iterable[Awaitable[object]]) -> None:
    for call in calls:
        await call


DYING = """
import asyncio, os, signal, sys
from tests.webhooks.store_contract import event, ref, resource
from webhooks.store.postgres import PostgresStore
from webhooks.store.postgres_wake import Waker
async def die(self):
    os.kill(os.getpid(), signal.SIGKILL)
Waker._send = die
async def main():
    await PostgresStore(sys.argv[1], schema="faults").accept(event(of=ref(), complete=resource()))
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_waiter_wakes_at_its_renewal_if_the_process_that_accepted_died_before_it_could_notify(database: Database) -> None:
    store, ear = database.open(), Ear(ref())
    await store.subscribe(ear)
    await store.watch([ref()], poll_in=60)
    command = [sys.executable, "-c", DYING, database.server.tcp_url]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    assert await process.wait() == -signal.SIGKILL
    assert ear.settlements == []
    await store.renew()
    await ear.until(lambda ear: ear.settlements)
    assert [one.ref for one in ear.settlements] == [ref()]


async def test_an_outcome_whose_transaction_ends_last_is_heard_though_it_began_first(database: Database) -> None:
    store, ear = database.open(), Ear(ref("slow"), ref("quick"))
    await store.subscribe(ear)
    columns = "(scope, kind, uid, status, resource, via, settled_at, confirmed, recorded_at)"
    async with database.connection.transaction():
        await database.connection.execute(
            "SET LOCAL search_path = faults; "
            f"INSERT INTO outcome {columns} VALUES ('default', 'allocation', 'slow', 'done', '{{}}', 'poll', {EPOCH}, false, 0)"
        )
        await database.open().record_outcome(outcome(ref("quick")))
        await store.renew()
        await ear.until(lambda ear: ear.settlements)
        assert [one.ref.uid for one in ear.settlements] == ["quick"]
    await store.renew()
    await ear.until(lambda ear: len(ear.settlements) > 1)
    assert [one.ref.uid for one in ear.settlements] == ["quick", "slow"]


async def test_a_primary_that_is_set_read_only_is_told_and_used_again_once_it_is_not(database: Database) -> None:
    store = database.open()
    await database.connection.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        with pytest.raises(StoreError, match="default_transaction_read_only"):
            await store.ping()
    finally:
        await database.connection.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
    await store.ping()
