"""A store on a failing disk, and what can still be read from the disk after erasing."""

from __future__ import annotations

import asyncio
import resource as limits
from pathlib import Path

import pytest
import pytest_asyncio
from attrs import evolve

from rewards_core.errors import StoreError, StoreFull
from tests.rewards_core.sqlite_kit import run_elsewhere
from tests.webhooks.sqlite_kit import Host, on_file, rows
from tests.webhooks.store_contract import A_DAY, PAY, Ear, claim, event, outcome, ref, resource, wants
from webhooks.store.records import Acceptance, EventState, Verdict
from webhooks.store.sqlite import SQLiteStore

USER = "110985463782"


@pytest_asyncio.fixture
async def store(host: Host) -> SQLiteStore:
    store = host.open(busy_timeout=0.05, ticks=False)
    await store.accept(event("before"))
    return store


async def test_what_failed_changes_nothing_and_tells_nobody(store: SQLiteStore) -> None:
    ear = Ear()
    await store.subscribe(ear)
    await rows(store, "PRAGMA max_page_count = 10")
    with pytest.raises(StoreFull):
        await store.accept(evolve(event("1", of=ref("1"), complete=resource("1")), body=b"x" * 400_000))
    await rows(store, "PRAGMA max_page_count = 1000000")
    assert ear.settlements == []
    assert await store.outcome(ref("1")) is None
    assert await store.accept(event("1", of=ref("1"), complete=resource("1"))) is Acceptance.NEW
    assert len(ear.settlements) == 1


async def test_a_full_disk_acknowledges_what_it_keeps_and_nothing_else(store: SQLiteStore) -> None:
    await rows(store, "PRAGMA max_page_count = 200")
    answers: list[object] = []
    while StoreFull not in map(type, answers):
        big = [evolve(event(f"{len(answers)} {place}"), body=b"x" * 40_000) for place in range(3)]
        answers += await asyncio.gather(*map(store.accept, big), return_exceptions=True)
    assert len(await store.list_events(limit=1_000)) == 1 + answers.count(Acceptance.NEW)


async def test_an_outcome_that_could_not_be_kept_is_not_told(store: SQLiteStore) -> None:
    ear = Ear()
    await store.subscribe(ear)
    await rows(store, "PRAGMA query_only = ON")
    with pytest.raises(StoreError):
        await store.record_outcome(outcome(ref("1")))
    assert await store.outcome(ref("1")) is None
    assert ear.settlements == []


async def test_an_outcome_that_was_kept_though_the_call_failed_is_the_same_when_repeated(store: SQLiteStore) -> None:
    away = store.path.with_name("away.db")
    recording = asyncio.ensure_future(store.record_outcome(outcome(ref("1"), key="k")))
    moving = asyncio.ensure_future(on_file(store, lambda _: store.path.rename(away)))  # in the same commit
    for future in (recording, moving):
        with pytest.raises(StoreError, match="moved"):
            await future
    away.rename(store.path)
    assert (await store.record_outcome(outcome(ref("1"), key="k"))).verdict is Verdict.SAME


@pytest.mark.slow
async def test_without_a_descriptor_to_be_had_deliveries_are_kept(store: SQLiteStore) -> None:
    for number in range(5):
        await asyncio.gather(*(store.accept(event(f"{number} {place}")) for place in range(1_000)))
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    limits.setrlimit(limits.RLIMIT_NOFILE, (3, hard))  # no further file can be opened
    try:
        answers = await asyncio.gather(*(store.accept(event(f"5 {place}")) for place in range(1_000)))
    finally:
        limits.setrlimit(limits.RLIMIT_NOFILE, (soft, hard))
    assert set(answers) == {Acceptance.NEW}


async def test_a_delivery_that_wakes_another_process_is_kept_though_no_socket_can_be_had(host: Host, store: SQLiteStore) -> None:
    there = host.open()
    await there.register_handlers([wants(PAY)])
    await store.ping()
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    limits.setrlimit(limits.RLIMIT_NOFILE, (3, hard))
    try:
        assert await store.accept(event("1")) is Acceptance.NEW
    finally:
        limits.setrlimit(limits.RLIMIT_NOFILE, (soft, hard))
    assert len(await claim(there)) == 1


DAMAGE = """
import sys
import apsw
path, *trees = sys.argv[1:]
db = apsw.Connection(path)
db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
marks = ",".join("?" * len(trees))
pages = [page for (page,) in db.execute(f"SELECT pageno FROM dbstat WHERE name IN ({marks})", trees)]
size = db.pragma("page_size")
db.close()
with open(path, "r+b") as file:
    for page in pages:
        file.seek((page - 1) * size)
        file.write(b"\\xa5" * size)
print(len(pages))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tree", ["event", "identity"])
async def test_a_store_on_damaged_pages_is_not_ready(host: Host, store: SQLiteStore, tree: str) -> None:
    await store.ping()
    await asyncio.gather(*(store.accept(event(str(number))) for number in range(2_000)))
    await store.aclose()
    assert int(await run_elsewhere(DAMAGE, store.path, tree)) > 10
    again = host.open()
    with pytest.raises(StoreError, match="is damaged"):
        await again.accept(event("new"))
    with pytest.raises(StoreError, match="is damaged"):
        await again.ping()


async def test_a_ping_leaves_nothing_behind(store: SQLiteStore) -> None:
    for _ in range(3):
        await store.ping()
    assert len(await store.list_events()) == 1
    assert await rows(store, "SELECT count(*) FROM identity") == [(1,)]
    await store.accept(event("2"))
    assert [kept.id for kept in await store.list_events()] == [2, 1]


# what can be read from the disk


def on_disk(path: Path) -> bytes:
    """Return all that stands in a file that nobody has open, and in its log."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.iterdir()) if file.name.startswith(path.name))


COUNT_ON_DISK = """
import sys
from pathlib import Path
path = Path(sys.argv[1])
everything = b"".join(file.read_bytes() for file in path.parent.iterdir() if file.is_file())
print(everything.count(sys.argv[2].encode()))
"""


async def fill(store: SQLiteStore) -> None:
    """Keep a user's events in every state a row can have had."""
    await store.register_handlers([wants(PAY, "paid"), wants("app.dead", "dead")])
    await store.accept(event("waits", name="paid", said=USER, signature=f"k,{USER}"))
    await store.accept(event("dead", name="dead", said=USER))
    (dead,) = await claim(store, "app.dead")
    await store.fail_job(dead.job, reason=f"ValueError: no such user {USER}", retry_in=None)
    await store.accept(event("done", name="quiet", said=USER, of=ref("1"), complete=resource("1", to_user_uid=USER)))
    await store.record_outcome(outcome(ref("1"), "failed", to_user_uid=USER))
    await store.accept(event("long", name="quiet", said=[USER, "x" * 20_000]))
    await store.accept(evolve(event("unreadable", problem="unreadable"), body=f"user {USER} broke".encode()))
    await store.accept(event("innocent", name="quiet", said="innocent"))


async def test_of_a_forgotten_user_nothing_stands_on_the_disk(host: Host) -> None:
    store = host.open(ticks=False)
    await fill(store)
    (kept,) = [kept for kept in await store.list_events() if b'"word": "done"' in kept.event.body]
    await store.amend(kept.id, event("amended", name="quiet", said=USER))
    assert await store.forget_user(USER) > 5
    assert int(await run_elsewhere(COUNT_ON_DISK, store.path, USER)) == 0
    assert int(await run_elsewhere(COUNT_ON_DISK, store.path, "innocent")) > 0
    await store.aclose()
    assert USER.encode() not in on_disk(store.path)


@pytest.mark.slow
async def test_what_was_purged_before_leaves_nothing_on_the_disk_either(host: Host) -> None:
    store = host.open(ticks=False)
    for number in range(200):
        await store.accept(event(str(number), said=[USER, "x" * number * 50]))
    host.advance(10 * A_DAY)
    await store.accept(event("later"))
    assert await store.purge(A_DAY) == 200
    assert await store.forget_user(USER) == 0
    await store.aclose()
    assert USER.encode() not in on_disk(store.path)


async def test_more_events_than_one_slice_holds_are_forgotten(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.sqlite_life.SLICE", 3)
    store = host.open(ticks=False)
    for number in range(10):
        await store.accept(event(str(number), said=USER if number % 2 else "x"))
        await store.record_outcome(outcome(ref(str(number)), to_user_uid=USER if number % 2 else "x"))
    assert await store.forget_user(USER) == 10
    assert await store.forget_user(USER) == 0


async def test_erased_bodies_are_gone_from_the_file(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.sqlite_life.SLICE", 3)
    store = host.open(ticks=False)
    await store.register_handlers([wants(PAY, "paid")])
    await store.accept(event("waits", name="paid", said="waits for its handler"))
    for number in range(10):
        await store.accept(event(str(number), said=f"secret {number}"))
    host.advance(A_DAY)
    await store.accept(event("young", said="too young"))
    assert await store.erase_bodies(60, limit=4) == 4
    assert await store.erase_bodies(60) == 6
    assert await store.erase_bodies(60) == 0
    assert {kept.state for kept in await store.list_events() if kept.event.body} == {EventState.READY, EventState.DONE}
    await store.aclose()
    left = on_disk(store.path)
    assert b"secret" not in left
    assert b"waits for its handler" in left
    assert b"too young" in left


async def test_a_backup_is_a_store(host: Host, store: SQLiteStore) -> None:
    copy = host.path.with_name("copy.db")
    await store.back_up(copy)
    await store.accept(event("after"))
    with pytest.raises(StoreError, match="itself"):
        await store.back_up(store.path)
    with pytest.raises(TypeError, match="to"):
        await store.back_up(5)  # type: ignore[arg-type]
    copied = host.open(path=copy)
    assert [kept.event.body for kept in await copied.list_events()] == [event("before").body]
