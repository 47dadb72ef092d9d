"""Files that older versions wrote, brought to the newest layout; `data/README.md` says what is in them."""

from __future__ import annotations

import shutil
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import apsw
import pytest
from attrs import evolve

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef, OperationStatus
from rewards_core.sqlite.migrations import migrate
from tests.rewards_core.sqlite_kit import after_a_kill, other_process
from tests.webhooks.sqlite_kit import Host, rows
from tests.webhooks.store_contract import claim, event, made_with, ref, resource, wants
from webhooks.store.records import Acceptance, EventState, Priority
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_schema import SCHEMA

DATA = Path(__file__).with_name("data")
CREDIT, COUNT = "app.main.credit", "app.main.count"

FILES = {"store-0.1-layout-1.db": 1, "store-0.1.db": 2}
NEWEST = 6


@pytest.fixture(params=FILES)
def layout(request: pytest.FixtureRequest, host: Host) -> int:
    """The layout of the older file that now stands on the host."""
    shutil.copyfile(DATA / request.param, host.path)
    host.wall = 1_779_864_000.0
    return FILES[request.param]


async def test_all_that_was_kept_is_there(host: Host, layout: int) -> None:
    store = host.open(ticks=False)
    held = await store.statistics()
    assert (held.events, held.ready, held.dead, held.lookups, held.pending) == (12, 5, 3, 2, 6)
    assert (held.outcomes, held.conflicts) == (12, 1)
    assert await rows(store, "SELECT count(*) FROM identity") == [(13,)]
    assert await rows(store, "PRAGMA user_version") == [(NEWEST,)]
    events = {kept.id: kept for kept in await store.list_events()}
    assert {number: kept.state for number, kept in events.items()} == {
        2: EventState.DONE, 3: EventState.DONE, 4: EventState.DEAD, 5: EventState.READY, 6: EventState.READY, 7: EventState.READY,
        8: EventState.DEAD, 9: EventState.DEAD, 10: EventState.READY, 11: EventState.DONE, 12: EventState.DONE,
        13: EventState.READY,
    }  # fmt: skip
    assert events[4].jobs[0].reason == "ValueError: no such user"
    assert "दिवाली" in events[12].event.body.decode()
    assert events[12].event.scope == "second"
    for kept in events.values():
        assert await store.accept(kept.event) is Acceptance.DUPLICATE


async def test_outcomes_and_their_keys_stay(host: Host, layout: int) -> None:
    store = host.open(ticks=False)
    settled = {uid: await store.outcome(ref(uid)) for uid in ("1000", "1001", "1008", "1009")}
    assert {uid: (one.status, one.via, one.confirmed) for uid, one in settled.items() if one is not None} == {
        "1000": ("done", "webhook", False),
        "1001": ("done", "webhook", False),
        "1008": ("failed", "poll", True),
        "1009": ("done", "poll", True),
    }
    assert settled["1001"] is not None
    assert Decimal(settled["1001"].resource["amount"]) == Decimal("12.345678901234567890")
    assert [one.resource["amount"] for one in await store.conflicts(ref("1009"))] == ["8"]
    assert await made_with(store, "shared-key") == (["1009", "1010"] if layout == 2 else [])
    assert await made_with(store, "nonce-1001") == (["1001"] if layout == 2 else [])


async def test_jobs_are_due_at_once_and_wait_for_their_handlers(host: Host, layout: int) -> None:
    store = host.open(ticks=False)
    await store.register_handlers([wants(CREDIT), wants(COUNT)])
    assert {one.job.event_id for one in await claim(store, CREDIT)} == {5, 6, 7, 13}
    assert {one.job.event_id for one in await claim(store, COUNT)} == {10}
    assert await claim(store, CREDIT) == []


async def test_questions_are_looked_up_first_and_what_was_pending_is_polled_as_nobodys(host: Host, layout: int) -> None:
    store = host.open(ticks=False)
    pending = {(one.ref.scope, one.ref.kind, one.ref.uid): one.priority for one in await store.list_pending()}
    assert pending == {
        ("default", "allocation", "1007"): Priority.LOOKUP,
        ("default", "claim", "2002"): Priority.LOOKUP,
        ("default", "allocation", "1011"): Priority.ABANDONED,
        ("default", "allocation", "1012"): Priority.ABANDONED,
        ("default", "claim", "2004"): Priority.ABANDONED,
        ("second", "allocation", "1011"): Priority.ABANDONED,
    }
    claims = (await store.claim_polls("default", limit=2, lease=60, max_per_second=1_000)).claims
    assert {one.ref.uid for one in claims} == {"1007", "2002"}


@pytest.mark.slow
async def test_the_older_file_stands_beside_it_as_a_backup(host: Host, layout: int) -> None:
    await host.open(ticks=False).ping()
    backup = host.path.with_name(f"inbox.db.layout-{layout}.backup")
    assert await after_a_kill(backup, "SELECT user_version FROM pragma_user_version") == [layout]
    assert await after_a_kill(backup, "SELECT count(*) FROM event") == [12]


@pytest.mark.slow
async def test_a_file_in_use_by_version_0_1_is_refused_and_left_as_it_is(host: Host, layout: int) -> None:
    async with other_process(host.path) as other:
        await other.do("flock")
        before = host.path.read_bytes()
        store = host.open(ticks=False, busy_timeout=0)
        with pytest.raises(StoreError, match=rf"process {other.pid}.* 0\.1"):
            await store.ping()
        assert host.path.read_bytes() == before
    await store.ping()


async def test_an_upgraded_store_can_be_opened_again(host: Host, layout: int) -> None:
    await host.open().ping()
    await host.stores[0].aclose()
    again = SQLiteStore(host.path)
    assert (await again.statistics()).events == 12
    await again.aclose()


async def test_what_a_store_of_layout_3_kept_is_found_by_uid_and_its_jobs_go_on(host: Host) -> None:
    shutil.copyfile(DATA / "store-layout-3.db", host.path)
    host.wall = 1_779_864_000.0
    store = host.open(ticks=False)
    assert await rows(store, "PRAGMA user_version") == [(NEWEST,)]
    assert host.path.with_name("inbox.db.layout-3.backup").exists()
    (found,) = await store.list_events(uid="3002")
    assert (found.id, found.state, found.event.also) == (2, EventState.DEAD, ())
    assert [one.outcome.ref.uid for one in await store.list_outcomes(status=OperationStatus.FAILED)] == ["3001"]
    assert [one.ref.uid for one in await store.list_pending(uid="3003")] == ["3003"]
    await store.register_handlers([wants(CREDIT)])
    host.advance(5)
    (claimed,) = await claim(store, CREDIT)
    assert (claimed.job.event_id, claimed.job.attempts, claimed.job.age) == (1, 2, 0.0)


@pytest.mark.parametrize("layout", [4, 5])
async def test_what_an_older_file_holds_comes_to_be_about_something(host: Host, layout: int) -> None:
    with closing(apsw.Connection(str(host.path))) as older:
        migrate(older, host.path, evolve(SCHEMA, migrations=SCHEMA.migrations[:layout]))
        older.execute("INSERT INTO pending VALUES ('default', 'transfer', '1', 1, 1e12, 3, 4, 0, 0, NULL, 0, 0)")
    store = host.open(ticks=False)
    assert await rows(store, "PRAGMA user_version") == [(NEWEST,)]
    assert host.path.with_name(f"inbox.db.layout-{layout}.backup").exists()
    (kept,) = await store.list_pending()
    assert (kept.ref, kept.ref.about, kept.polls) == (ref("1", kind="transfer"), None, 3)
    await store.watch([OperationRef("default", "transfer", "1", "asset/7")], poll_in=60)
    await store.accept(event(of=ref("7", kind="asset"), complete=resource("7")))
    (kept,) = await store.list_pending()
    assert (kept.ref.about, kept.priority) == ("asset/7", Priority.LOOKUP)
