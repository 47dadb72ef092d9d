"""What is special to a store in a SQLite file: several store objects on it, loops, forks and closing."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rewards_core.errors import StoreClosed, StoreError
from tests.rewards_core.sqlite_kit import run_elsewhere, until
from tests.texts import said, without_places
from tests.webhooks.sqlite_kit import Host, ear_of, on_file, rows
from tests.webhooks.store_contract import PAY, claim, event, outcome, ref, wants
from webhooks.store import sqlite_events, sqlite_hints
from webhooks.store.queries import EventQuery
from webhooks.store.records import Acceptance, EventState
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_outcomes import refs_after
from webhooks.store.sqlite_session import Session

HOUR = 3_600.0


# ids, calls, texts


async def test_ids_of_events_are_never_given_twice(host: Host) -> None:
    here, there = host.open(), host.open()
    await asyncio.gather(*(store.accept(event(f"{store is here} {n}")) for n in range(50) for store in (here, there)))
    ids = [kept.id for kept in await here.list_events(limit=200)]
    assert len(set(ids)) == 100
    host.advance(1)
    await here.purge(0)
    await here.aclose()
    await there.aclose()
    again = host.open()
    await again.accept(event("later"))
    (kept,) = await again.list_events()
    assert kept.id > max(ids)


async def test_a_text_that_utf8_cannot_hold_is_kept_as_its_escape(host: Host) -> None:
    here = host.open()
    await here.accept(event("1", of=ref("u\udc80"), correlation_id="c\udcff", attempt="ü"))
    (kept,) = await here.list_events()
    assert (kept.event.correlation_id, kept.event.attempt) == ("c\\udcff", "ü")
    assert [one.ref.uid for one in await here.list_pending()] == ["u\\udc80"]


async def test_a_call_that_cannot_be_done_fails_alone(host: Host) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    await here.accept(event("0"))
    answers = await asyncio.gather(
        here.accept(event("1")),
        here.claim_jobs(PAY, scopes=["default"], limit="many", lease=60),  # type: ignore[arg-type]
        here.claim_jobs(PAY, scopes=["default"], limit=2**80, lease=60),
        here.accept(event("2")),
        return_exceptions=True,
    )
    assert [answers[0], answers[3]] == [Acceptance.NEW, Acceptance.NEW]
    assert isinstance(answers[1], StoreError)
    assert isinstance(answers[2], OverflowError)
    assert len(await here.list_events()) == 3


async def test_requeueing_passes_over_an_event_that_is_not_there(host: Host) -> None:
    here = host.open()
    assert await here.requeue([99], every_handler=True) == 0


async def test_a_farewell_whose_batch_was_repeated_is_said(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    await ear_of(here)

    def fail(session: object) -> None:
        raise ZeroDivisionError

    closing, failing = asyncio.ensure_future(here.aclose()), asyncio.ensure_future(on_file(here, fail))
    await asyncio.wait([closing, failing])
    assert isinstance(failing.exception(), ZeroDivisionError)
    assert await rows(there, "SELECT alive FROM process") == [(0,)]


async def test_a_caller_that_gave_up_disturbs_nobody(host: Host) -> None:
    here = host.open()
    impatient, patient = (asyncio.ensure_future(here.accept(event(word))) for word in ("1", "2"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient is Acceptance.NEW
    assert len(await here.list_events()) == 2


async def test_events_that_wait_for_handlers_are_not_purged(host: Host) -> None:
    with pytest.raises(ValueError) as caught:
        await host.open().purge(0, state=EventState.READY)
    said("events that wait for handlers are not purged", caught.value)


async def test_deliveries_are_kept_while_a_purge_is_under_way(host: Host) -> None:
    here = host.open()
    await asyncio.gather(*(here.accept(event(str(number))) for number in range(1_600)))
    host.advance(10)
    purge = asyncio.ensure_future(here.purge(1))
    await asyncio.sleep(0)
    assert await here.accept(event("meanwhile")) is Acceptance.NEW
    assert not purge.done()
    assert await purge == 1_600
    assert [kept.event.body for kept in await here.list_events()] == [event("meanwhile").body]


async def test_look_ups_use_indexes(host: Host) -> None:
    here = host.open()
    asked = {
        "outcome_key": "SELECT 1 FROM outcome WHERE scope = ? AND kind = ? AND key = ?",
        "event_received": "SELECT id FROM event INDEXED BY event_received WHERE received_at < ? AND state = 0 LIMIT ?",
        "identity_day": "SELECT identity FROM identity WHERE day < ? LIMIT ?",
        "job_due": "SELECT 1 FROM job WHERE handler = ? AND state = 1 AND due_at <= ? LIMIT 1",
        "pending_due": "SELECT due_at FROM pending WHERE scope = ? AND priority = ? ORDER BY due_at LIMIT 1",
    }
    for index, statement in asked.items():
        plan = await rows(here, f"EXPLAIN QUERY PLAN {statement}", *[None] * statement.count("?"))
        assert index in str(plan)


def test_settings_are_checked(tmp_path: Path) -> None:
    for seconds in (-1, 86_401):
        with pytest.raises(ValueError, match="busy_timeout"):
            SQLiteStore(tmp_path / "inbox.db", busy_timeout=seconds)
    strange: dict[str, Any] = {"busy_timeout": "5", "clock": 5, "uptime": 5, "boot": 5}
    for name, value in strange.items():
        with pytest.raises(TypeError, match=name):
            SQLiteStore(tmp_path / "inbox.db", **{name: value})
    with pytest.raises(TypeError, match="path"):
        SQLiteStore(5)  # type: ignore[arg-type]
    assert SQLiteStore(tmp_path / "inbox.db").path == tmp_path / "inbox.db"


# loops, forks and closing


async def test_closing_answers_what_is_under_way(host: Host) -> None:
    here = host.open()
    under_way = [asyncio.ensure_future(here.accept(event(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await here.aclose()
    assert await asyncio.gather(*under_way) == [Acceptance.NEW] * 50
    with pytest.raises(StoreClosed):
        await here.ping()
    here.unwatch([ref("1")])


async def test_a_close_that_was_cancelled_lets_go_all_the_same(host: Host) -> None:
    here = host.open()
    await ear_of(here)
    under_way = asyncio.ensure_future(here.accept(event("2")))
    closing = asyncio.ensure_future(here.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await here.aclose()
    assert await under_way is Acceptance.NEW
    assert {file.name for file in host.path.parent.iterdir()} == {"inbox.db", "inbox.db.lock"}


async def test_a_store_that_cannot_say_farewell_closes(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    here = host.open(ticks=False)  # a tick that fails would open another connection
    await ear_of(here)
    await rows(here, "PRAGMA query_only = ON")
    await here.aclose()
    said("sqlite: a store that cannot say farewell", without_places("\n".join(caplog.messages)))


async def test_an_unwatch_that_fails_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    here = host.open(ticks=False)
    await here.watch([ref("1")], poll_in=60)
    caplog.set_level(logging.DEBUG)
    await rows(here, "PRAGMA query_only = ON")
    here.unwatch([ref("1")])
    await here.list_pending()
    said("sqlite: an unwatch that fails", without_places("\n".join(caplog.messages)))


async def test_a_look_for_outcomes_ends_before_the_store_does(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    await ear_of(here, "1")
    with held_look() as (looking, release):
        await there.record_outcome(outcome(ref("1")))
        await until(looking.is_set)
        closing = asyncio.ensure_future(here.aclose())
        await asyncio.sleep(0)
        release.set()
        await closing


async def test_a_store_may_be_used_from_one_loop_after_the_other(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    with held_look() as (looking, _):
        await asyncio.to_thread(asyncio.run, _subscribe_and_leave(here, there, looking))
    assert await here.accept(event("1")) is Acceptance.NEW
    ear = await ear_of(here, "1")
    await here.watch([ref("1")], poll_in=60)
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: ear.settlements)


async def _subscribe_and_leave(here: SQLiteStore, there: SQLiteStore, looking: threading.Event) -> None:
    await ear_of(here, "0")
    await there.record_outcome(outcome(ref("0")))
    await until(looking.is_set)  # a look is under way when the loop ends


@contextmanager
def held_look() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Hold up looks for outcomes until the second event is set; the first tells that one has begun."""
    looking, release = threading.Event(), threading.Event()

    def held(*args: Any) -> list[Any]:
        looking.set()
        release.wait()
        return refs_after(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_hints, "refs_after", held)
        try:
            yield looking, release
        finally:
            release.set()


async def test_a_loop_that_ended_in_the_middle_harms_nobody(host: Host) -> None:
    here = host.open()

    async def leave() -> None:
        here.unwatch([ref("1")])

    await asyncio.to_thread(asyncio.run, leave())
    assert await here.accept(event("1")) is Acceptance.NEW
    assert await here.list_pending() == []


FORKED = """
import asyncio, os, pathlib, socket, sys
from rewards_core.errors import StoreError
from webhooks.store.base import Subscriber
from webhooks.store.sqlite import SQLiteStore

class Ear(Subscriber):
    heard = asyncio.Event()

    def jobs_ready(self):
        self.heard.set()

store, ear = SQLiteStore(sys.argv[1]), Ear()
loop = asyncio.new_event_loop()
loop.run_until_complete(store.subscribe(ear))
if os.fork() == 0:
    async def child():
        try:
            await store.ping()
        except StoreError as refused:
            print(refused, flush=True)
        await store.aclose()
    asyncio.run(child())
    sys.exit()
os.wait()
loop.run_until_complete(store.ping())
(address,) = (each for each in pathlib.Path(sys.argv[1]).parent.iterdir() if each.is_socket())
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.sendto(b"j", str(address))
loop.run_until_complete(asyncio.wait_for(ear.heard.wait(), 60))
print("a hint was heard")
loop.run_until_complete(store.aclose())
"""


@pytest.mark.slow
async def test_after_a_fork_the_child_is_refused_and_the_parent_unharmed(short_folder: Path) -> None:
    refused, unharmed = (await run_elsewhere(FORKED, short_folder / "inbox.db")).splitlines()
    assert "was opened before this process was forked" in refused
    assert unharmed == "a hint was heard"


FORKED_BEFORE = """
import asyncio, json, os, sys
from webhooks.store.records import Subscription
from webhooks.store.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
ready, go = os.pipe(), os.pipe()
is_child = any(os.fork() == 0 for _ in range(3))
serves = Subscription(service="default", handler="app.pay", scope="default", patterns=frozenset({"*"}))

async def child():
    await store.register_handlers([serves])
    os.write(ready[1], b"1")
    os.read(go[0], 1)
    await store.aclose()

async def parent():
    heard = 0
    while heard < 3:
        heard += len(os.read(ready[0], 3))
    count = "SELECT count(*), count(DISTINCT address), (SELECT count(*) FROM served) FROM process WHERE alive = 1"
    print(*await store._engine.read(lambda db: db.execute(count).get))
    os.write(go[1], b"1")
    os.wait()
    print(*await store._engine.read(lambda db: db.execute(count).get))
    os.write(go[1], b"11")
    os.wait(), os.wait()
    await store.aclose()

asyncio.run(child() if is_child else parent())
"""


@pytest.mark.slow
async def test_a_store_made_before_a_fork_is_another_member_in_each_child(host: Host) -> None:
    assert (await run_elsewhere(FORKED_BEFORE, host.path)).splitlines() == ["3 3 3", "2 2 2"]


async def test_looking_for_jobs_waits_for_no_other_process_where_only_those_of_another_scope_are_due(host: Host) -> None:
    store, other = host.open(busy_timeout=0), host.open()
    await store.register_handlers([wants()])
    await store.accept(event("1"))
    entered, leave = threading.Event(), threading.Event()

    def hold(_: Session) -> None:
        entered.set()
        leave.wait(30)

    busy = asyncio.ensure_future(on_file(other, hold))
    try:
        await asyncio.to_thread(entered.wait)
        assert await claim(store, scopes=["other"]) == []
        with pytest.raises(StoreError):
            await claim(store)
    finally:
        leave.set()
        await busy
    assert len(await claim(store)) == 1


async def test_a_purged_event_leaves_none_of_its_operations_behind(host: Host) -> None:
    store = host.open()
    await store.accept(event("1", of=ref("7"), also=(ref("8"), ref("9"))))
    await store.accept(event("2", of=ref("7"), also=(ref("8"),), problem="unreadable"))
    host.advance(60)
    assert await rows(store, "SELECT count(*) FROM also") == [(3,)]
    for state, left in ((EventState.DONE, 1), (EventState.DEAD, 0)):
        await store.purge(0, state=state)
        assert await rows(store, "SELECT count(*) FROM also") == [(left,)]


async def test_a_look_for_a_uid_reads_no_other_events(host: Host) -> None:
    store = host.open()
    await store.ping()
    for query in (
        EventQuery(uid="7"),
        EventQuery(uid="7", state=EventState.DEAD, name="a", before_id=9),
        EventQuery(ref=ref("7")),
    ):
        where, values = sqlite_events.event_conditions(query)
        plan = await rows(store, f"EXPLAIN QUERY PLAN SELECT * FROM event WHERE {where} ORDER BY id DESC LIMIT 5", *values)
        steps = [step for *_, step in plan]
        assert re.match(r"SEARCH event .*id=\?", steps[0]), steps
        assert not [step for step in steps if step.startswith("SCAN")], steps
