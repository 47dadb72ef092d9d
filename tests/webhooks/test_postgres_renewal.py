"""The record that a store on PostgreSQL renews, what it does meanwhile, and clocks that are set: nothing is put off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio

from rewards_core.clock import UNKNOWN_BOOT
from rewards_core.errors import StoreError
from rewards_core.postgres.connection import Connection
from tests.postgres_server import Server, postgres_server
from tests.texts import said
from tests.webhooks.postgres_kit import DatabaseTime, schema_at_rest
from tests.webhooks.store_contract import A_DAY, EPOCH, Ear, claim, event, outcome, ref, resource, wants
from webhooks.store import postgres_upkeep
from webhooks.store.base import Store
from webhooks.store.members import RENEW_EVERY, Member
from webhooks.store.postgres import PostgresStore
from webhooks.store.records import EventState, PollResult, Priority

RATE = 5.0
SLOW_UPDATES = """
CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END';
CREATE TRIGGER slowly BEFORE UPDATE ON pending FOR EACH ROW EXECUTE FUNCTION slowly();
"""


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


@pytest.mark.slow
async def test_a_clock_of_the_database_that_is_set_back_puts_nothing_off(
    time: DatabaseTime, caplog: pytest.LogCaptureFixture
) -> None:
    store = time.open()
    await store.register_handlers([wants()])
    await store.accept(event("1"))
    await claim(store, lease=60)
    await store.add_pending([ref()], poll_in=30)
    await store.pause_polls("default", 20)
    await store.renew()
    await time.set(EPOCH - 3_600)
    await store.renew()
    (one,) = await store.list_pending()
    assert one.due_in == pytest.approx(30, abs=1)
    assert (await store.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).next_in <= 30
    await time.advance(61)
    assert len(await claim(store)) == 1
    assert len((await store.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).claims) == 1
    said("postgres: its clock was set back", "\n".join(caplog.messages))


@pytest.mark.slow
async def test_a_clock_that_is_set_back_moves_more_than_a_statement_may_take(time: DatabaseTime) -> None:
    store = time.open(command_timeout=0.5)
    await store.add_pending([ref(str(number)) for number in range(20)], poll_in=30)
    await store.renew()
    await time.connection.execute(SLOW_UPDATES)
    await time.set(EPOCH - 3_600)
    await store.renew()
    assert {round(one.due_in) for one in await store.list_pending()} == {30}
    await time.connection.execute("DROP FUNCTION slowly CASCADE")


@pytest.mark.slow
async def test_a_clock_of_the_database_that_is_set_forward_ends_no_process(time: DatabaseTime) -> None:
    here, there, ear = time.open(), time.open(), Ear(ref())
    await there.subscribe(ear)
    await there.watch([ref()], poll_in=60)
    await here.register_handlers([wants()])
    await time.set(EPOCH + 3_600)
    for _ in range(3):
        await here.renew()
    await here.record_outcome(outcome(ref()))
    await ear.until(lambda ear: ear.settlements)
    assert ear.misses == 0


@pytest.mark.slow
async def test_a_slow_count_of_the_hour_keeps_no_process_from_its_renewal(time: DatabaseTime) -> None:
    here, there = time.open(), time.open()
    for store in (here, there):
        await store.watch([ref()], poll_in=60)
        await store.renew()
    await time.set(EPOCH + 3_600)
    async with time.connection.transaction():
        await time.connection.execute("LOCK TABLE subscription IN SHARE MODE")
        renewals = [asyncio.ensure_future(store.renew()) for store in (here, there)]
        while await time.connection.fetchval("SELECT count(*) FROM process WHERE renewed_at = $1", time.wall) < 2:
            assert not any(renewal.done() for renewal in renewals)
    await asyncio.gather(*renewals)
    assert await time.connection.fetchval("SELECT at FROM moment WHERE name = 'hour'") == time.wall


async def test_a_ping_waits_for_no_renewal_and_leaves_nothing(time: DatabaseTime) -> None:
    store = time.open()
    await store.ping()
    async with time.connection.transaction():
        await time.connection.execute("UPDATE moment SET at = at")
        await store.ping()
    assert (await store.statistics()).events == 0


async def test_a_ping_fails_where_no_event_can_be_stored(time: DatabaseTime) -> None:
    store = time.open()
    await store.ping()
    await time.connection.execute("ALTER TABLE event ADD CONSTRAINT full_now CHECK (scope = 'none') NOT VALID")
    try:
        with pytest.raises(StoreError):
            await store.ping()
    finally:
        await time.connection.execute("ALTER TABLE event DROP CONSTRAINT full_now")


async def test_what_a_dead_process_watched_is_released(time: DatabaseTime) -> None:
    here, dead = time.open(), time.open()
    await here.register_handlers([wants()])
    await dead.watch([ref()], poll_in=60)
    for _ in range(2):
        (one,) = await here.list_pending()
        assert one.priority.name == "ROUTINE"
        await time.set(time.wall + 31)
        await here.renew()
    (one,) = await here.list_pending()
    assert one.priority.name == "ABANDONED"


@pytest.mark.slow
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


async def test_large_tables_are_counted_as_the_server_last_counted_them(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = time.open()
    await store.add_pending([ref(str(number)) for number in range(5)], poll_in=30)
    assert (await store.statistics()).pending == 5
    monkeypatch.setattr("webhooks.store.postgres_upkeep.COUNT_UP_TO", 2)
    await time.connection.execute("ANALYZE pending")
    assert (await store.statistics()).pending == 5
    await store.add_pending([ref(str(number)) for number in range(5, 9)], poll_in=30)
    assert (await store.statistics()).pending == 5


@pytest.mark.slow
async def test_counting_what_a_store_holds_walks_through_no_large_table(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = time.open()
    await store.register_handlers([wants()])
    for scope in ("app1", "app2"):
        await store.add_pending([ref(str(number), scope=scope) for number in range(40)], poll_in=30)
        await store.hurry_polls([ref("asked", scope=scope)], Priority.LOOKUP)
    for number in range(40):
        await store.accept(event(str(number)))
        await store.accept(event(f"dead {number}", problem="unreadable"))
        await store.record_outcome(outcome(ref(str(number))))
        await store.record_outcome(outcome(ref(str(number)), "failed"))
    held = await store.statistics()
    assert (held.ready, held.dead, held.lookups, held.pending, held.outcomes, held.conflicts) == (80, 40, 2, 82, 40, 40)
    monkeypatch.setattr("webhooks.store.postgres_upkeep.COUNT_UP_TO", 4)
    plan: list[str] = []

    async def fetchrow(query: str) -> Any:
        plan.extend(row[0] for row in await time.connection.fetch(f"EXPLAIN {query}"))
        return await time.connection.fetchrow(query)

    async with time.connection.transaction():
        await time.connection.execute("SET LOCAL enable_seqscan = off")
        capped = await postgres_upkeep.statistics(cast("Connection", SimpleNamespace(fetchrow=fetchrow)))
        read = await time.connection.fetch(
            "SELECT relname, idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables "
            "WHERE schemaname = current_schema() AND idx_tup_fetch + seq_tup_read > 30"
        )
    assert read == []
    assert any(re.search(r"Index Cond: \(\(scope = scopes\w*.scope\) AND \(priority = 0\)\)", line) for line in plan)
    assert (capped.ready, capped.dead, capped.lookups) == (4, 4, 2)


async def test_what_is_watched_is_watched_again_after_an_older_copy_of_the_tables_was_restored(time: DatabaseTime) -> None:
    store, ear = time.open(), Ear(ref())
    await store.subscribe(ear)
    await time.connection.execute("CREATE TEMPORARY TABLE older AS TABLE process")
    await time.advance(10)
    await store.renew()
    await store.watch([ref()], poll_in=60)
    await time.connection.execute("DELETE FROM process; DELETE FROM pending; INSERT INTO process TABLE older; DROP TABLE older")
    await time.advance(10)
    await store.renew()
    async with asyncio.timeout(60):
        await ear.until(lambda ear: ear.misses)


def on_host(boot: str, time: DatabaseTime) -> PostgresStore:
    """Return a store object of a process on a host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("webhooks.store.postgres_life.Member", partial(Member, boot=boot))
        return time.open()


async def purge_all(store: Store) -> int:
    """Remove what is older than 30 days, whatever it is; return how much it was."""
    old = 30 * A_DAY
    counts = [await store.purge(old), await store.purge(old, state=EventState.DEAD), await store.purge_outcomes(old)]
    return sum(counts) + await store.erase_bodies(old) + await store.purge_identities()


@pytest.mark.slow
@pytest.mark.parametrize("noted", [True, False], ids=["noted before", "never noted before"])
async def test_a_clock_of_the_database_that_is_set_forward_purges_nothing_until_a_day_has_passed(
    time: DatabaseTime, noted: bool
) -> None:
    first, second, later = (on_host(name, time) for name in ("first", "second", "later"))
    if noted:
        assert await purge_all(first) == 0
    await first.accept(event("done", of=ref(), complete=resource()))
    await first.accept(event("dead", problem="unreadable"))
    await time.set(EPOCH + 450 * A_DAY)
    assert await first.upkeep(keep=30 * A_DAY, keep_bodies=A_DAY)
    assert await purge_all(first) == await purge_all(second) == 0
    await time.advance(A_DAY / 2)
    assert await purge_all(later) == 0
    await time.advance(A_DAY / 2 - 10)
    assert [await purge_all(store) for store in (first, second, later)] == [0, 0, 0]
    await time.advance(20)
    assert await purge_all(later) == 0
    assert await purge_all(second) == 5


async def test_a_clock_of_the_database_that_was_wrong_for_an_hour_purges_nothing_afterwards(time: DatabaseTime) -> None:
    store = time.open()
    assert await purge_all(store) == 0
    await store.accept(event("done", of=ref(), complete=resource()))
    for wall in (EPOCH + 450 * A_DAY, EPOCH - 450 * A_DAY, EPOCH):
        await time.set(wall)
        await store.renew()
        assert await purge_all(store) == 0
    await time.advance(31 * A_DAY)
    assert await purge_all(store) == 2


async def test_hosts_whose_boots_cannot_be_told_apart_do_not_take_the_uptime_of_another_for_a_jump(
    time: DatabaseTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, young = (on_host(UNKNOWN_BOOT, time) for _ in range(2))
    await old.accept(event("done"))
    for store, uptime in ((old, 10.0 * A_DAY), (young, 5.0), (old, 10.0 * A_DAY)):
        monkeypatch.setattr("webhooks.store.postgres_upkeep.uptime", lambda uptime=uptime: uptime)
        assert await purge_all(store) == 0
    assert "jumped" not in caplog.text


async def test_a_clock_of_the_database_that_is_set_back_shortens_no_time_for_which_an_operation_was_missing(
    time: DatabaseTime,
) -> None:
    store = time.open()
    await store.add_pending([ref()], poll_in=0)
    (first,) = (await store.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).claims
    await store.settle_polls([PollResult(claim=first, retry_in=10, known=False)])
    await store.renew()
    await time.set(EPOCH - 3_600)
    await store.renew()
    await time.advance(90)
    (second,) = (await store.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).claims
    assert second.missing_for == pytest.approx(90, abs=1)


@pytest.mark.slow
async def test_a_process_that_polls_no_more_limits_nobody_after_the_clock_of_the_database_is_set_back(time: DatabaseTime) -> None:
    slow, fast = time.open(), time.open()
    for store, rate in ((fast, RATE), (slow, 1.0)):
        await store.claim_polls("default", limit=1, lease=60, max_per_second=rate)
        await store.renew()
    await time.set(EPOCH - 3_600)
    for _ in range(10):
        for store in (slow, fast):
            await store.renew()
        await time.advance(RENEW_EVERY)
    await fast.watch([ref(str(number)) for number in range(3)], poll_in=0)
    for _ in range(3):
        assert len((await fast.claim_polls("default", limit=1, lease=60, max_per_second=RATE)).claims) == 1
        await time.advance(1 / RATE)
