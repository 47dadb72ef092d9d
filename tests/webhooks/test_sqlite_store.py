"""What is special to a store in a SQLite file: several store objects, processes that die, clocks, boots, loops and closing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from rewards_core.clock import boot_id, uptime
from rewards_core.errors import StoreClosed, StoreError
from tests.rewards_core.sqlite_kit import run_elsewhere, until
from tests.webhooks.sqlite_store_kit import Host, on_file, rows
from tests.webhooks.store_contract import A_DAY, COUNT, PAY, Ear, claim, event, outcome, ref, resource, wants
from webhooks.store import sqlite_jobs, sqlite_outcomes
from webhooks.store.records import Acceptance, EventState, Priority
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

HOUR = 3_600.0


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path / "inbox.db")
    yield host
    for store in host.stores:
        await store.aclose()


async def ear_of(store: SQLiteStore, *uids: str) -> Ear:
    ear = Ear(*map(ref, uids))
    await store.subscribe(ear)
    return ear


# store objects hear of each other


async def test_an_outcome_recorded_elsewhere_wakes_a_store_that_watches_it(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here, "1", "2")
    await here.watch([ref("1"), ref("2")], poll_in=60)
    await there.accept(event("1", of=ref("1"), complete=resource("1")))
    await ear.until(lambda ear: ear.settlements)
    await there.record_outcome(outcome(ref("2"), "failed"))
    await ear.until(lambda ear: len(ear.settlements) == 2)
    assert [one.ref.uid for one in ear.settlements] == ["1", "2"]


async def test_a_confirmation_made_elsewhere_is_heard_by_those_who_still_wait(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here, "1")
    await there.accept(event("1", of=ref("1"), complete=resource("1")))
    await here.watch([ref("1")], poll_in=60, confirmed=True)
    await there.record_outcome(outcome(ref("1"), confirmed=True))
    await ear.until(lambda ear: ear.confirmations)
    assert ear.confirmations[0].confirmed
    assert ear.confirmations[0].via == "webhook"


async def test_jobs_made_elsewhere_wake_the_store_that_serves_the_handler(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here)
    await here.register_handlers([wants(PAY)])
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs)
    assert len(await claim(here)) == 1


async def test_jobs_wake_no_store_that_serves_another_handler(host: Host) -> None:
    here, there, elsewhere = (host.open(ticks=False) for _ in range(3))
    ear, other = await ear_of(here), await ear_of(elsewhere)
    await here.register_handlers([wants(PAY)])
    await elsewhere.register_handlers([wants(COUNT, "something.else")])
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs)
    assert other.jobs == 0


async def test_operations_to_poll_wake_the_store_that_polls_their_scope(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here)
    assert not (await here.claim_polls("default", limit=1, lease=60, max_per_second=10)).claims
    await there.accept(event("1", of=ref("1")))
    await ear.until(lambda ear: ear.polls)
    await there.add_pending([ref("2", scope="other")], poll_in=0)
    await there.hurry_polls([ref("3")], Priority.WISH)
    await ear.until(lambda ear: ear.polls == 2)


async def test_hints_that_are_lost_cost_a_tick(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = host.open(), host.open(ticks=False)
    monkeypatch.setattr(there._member.wakeups, "send", lambda hint, addresses: None)
    ear = await ear_of(here, "1")
    await here.watch([ref("1")], poll_in=60)
    await here.register_handlers([wants(PAY)])
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: ear.settlements)
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs > 1)


async def test_more_outcomes_than_one_look_takes_are_all_heard_in_order(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.sqlite._OUTCOMES_AT_ONCE", 3)
    here, there = host.open(), host.open(ticks=False)
    uids = [str(number) for number in range(10)]
    ear = await ear_of(here, *uids)
    await asyncio.gather(*(there.record_outcome(outcome(ref(uid))) for uid in uids))
    await ear.until(lambda ear: len(ear.settlements) == 10)
    assert [one.ref.uid for one in ear.settlements] == uids


async def test_outcomes_that_are_not_waited_for_are_not_told(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "2")
    await there.record_outcome(outcome(ref("1")))
    await there.record_outcome(outcome(ref("2")))
    await ear.until(lambda ear: ear.settlements)
    assert [one.ref.uid for one in ear.settlements] == ["2"]


async def test_an_outcome_recorded_between_the_last_look_and_subscribing_is_seen_or_heard(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    for number in range(20):
        uid = str(number)
        ear = Ear(ref(uid))
        recording = asyncio.ensure_future(there.record_outcome(outcome(ref(uid))))
        await here.subscribe(ear)
        if await here.outcome(ref(uid)) is None:
            await ear.until(lambda ear: ear.settlements)
        await recording
        here.unsubscribe(ear)


async def test_a_confirmed_outcome_is_found_again_though_the_newest_was_purged(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "1", "2")
    for uid in ("1", "2"):
        await there.record_outcome(outcome(ref(uid), via="webhook", at=host.wall - 10 * A_DAY))
    await ear.until(lambda ear: len(ear.settlements) == 2)
    for uid in ("1", "2"):
        await there.record_outcome(outcome(ref(uid), confirmed=True))
        await ear.until(lambda ear, uid=uid: any(one.ref.uid == uid for one in ear.confirmations))  # type: ignore[misc]
    await there.purge_outcomes(A_DAY)
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: len(ear.settlements) == 5)


async def test_a_look_up_of_others_outcomes_that_fails_is_repeated(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "1", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_outcomes, "refs_after", lambda db, *_: db.execute("SELECT nonsense"))
        await there.record_outcome(outcome(ref("1")))
        await until(lambda: "could not be looked up" in caplog.text)
    await there.record_outcome(outcome(ref("2")))
    await ear.until(lambda ear: len(ear.settlements) == 2)


async def test_a_handler_registered_elsewhere_between_two_commits_gets_its_jobs(host: Host) -> None:
    """A tick that hears of the registration must leave it to the next commit to read it."""
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "told")
    await here.ping()
    await there.register_handlers([wants(PAY)])
    await there.record_outcome(outcome(ref("told")))
    await ear.until(lambda ear: ear.settlements)
    await here.accept(event("1"))
    assert len(await claim(there)) == 1


async def test_a_handler_gets_its_jobs_though_a_registration_was_taken_back(host: Host) -> None:
    """What a transaction read that was taken back must not look like what another one commits later."""
    here, there = host.open(ticks=False), host.open(ticks=False)
    await here.ping()

    def register_and_fail(session: Session) -> None:
        sqlite_jobs.register(session, [wants("app.never")])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await on_file(here, register_and_fail)
    await there.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    assert [one.job.handler for one in await claim(there)] == [PAY]
    assert [one.subscription.handler for one in await there.list_handlers()] == [PAY]


async def test_a_registration_whose_batch_was_repeated_is_released_at_once(host: Host) -> None:
    here = host.open(ticks=False)
    await here.ping()

    def fail(session: object) -> None:
        raise ZeroDivisionError

    registering = asyncio.ensure_future(here.register_handlers([wants(PAY)]))
    failing = asyncio.ensure_future(on_file(here, fail))
    await asyncio.wait([registering, failing])
    assert isinstance(failing.exception(), ZeroDivisionError)
    await here.release_handlers([wants(PAY)])
    assert not (await here.list_handlers())[0].served


# processes that die


async def renewals(host: Host, store: SQLiteStore, count: int = 1) -> None:
    """Let time pass, and the store's ticks renew its record each time."""
    for _ in range(count):
        host.advance(10.0)
        await until_renewed(host, store)


async def until_renewed(host: Host, store: SQLiteStore) -> None:
    me = store._member.id
    while (await rows(store, "SELECT renewed_at FROM process WHERE id = ?", me)) != [(host.passed,)]:
        await asyncio.sleep(0)


async def test_operations_of_a_dead_process_are_polled_as_nobodys(host: Host) -> None:
    dead, living = host.open(ticks=False), host.open()
    await dead.watch([ref("1"), ref("2"), ref("3")], poll_in=HOUR)
    await dead.hurry_polls([ref("3")], Priority.LOOKUP)
    await ear_of(living)
    await living.watch([ref("2")], poll_in=HOUR)
    await renewals(host, living, 5)
    pending = {one.ref.uid: one.priority for one in await living.list_pending()}
    assert pending == {"1": Priority.ABANDONED, "2": Priority.ROUTINE, "3": Priority.LOOKUP}
    assert await rows(living, "SELECT uid, process FROM interest") == [("2", living._member.id)]


async def test_a_process_that_renews_its_record_keeps_its_operations(host: Host) -> None:
    here, there = host.open(), host.open()
    await ear_of(here)
    await ear_of(there)
    await here.watch([ref("1")], poll_in=HOUR)
    for _ in range(12):
        host.advance(10.0)
        await until_renewed(host, here)
        await until_renewed(host, there)
    assert [one.priority for one in await there.list_pending()] == [Priority.ROUTINE]


async def test_after_the_whole_host_slept_nobody_is_taken_for_dead(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    await ear_of(here)
    ear = await ear_of(there, "1")
    await there.watch([ref("1")], poll_in=HOUR)
    await renewals(host, here)
    host.advance(HOUR)
    await until_renewed(host, here)
    assert [one.priority for one in await here.list_pending()] == [Priority.ROUTINE]
    await on_file(there, lambda session: session._renew())
    await renewals(host, here)
    assert [one.priority for one in await here.list_pending()] == [Priority.ROUTINE]
    assert ear.misses == 0


async def test_a_process_that_was_taken_for_dead_comes_back_and_is_told_what_it_missed(host: Host) -> None:
    here, there = host.open(ticks=False), host.open()
    ear = await ear_of(here, "1")
    await here.register_handlers([wants(PAY)])
    await here.claim_polls("default", limit=1, lease=60, max_per_second=10)
    await here.watch([ref("1")], poll_in=HOUR)
    await ear_of(there)
    await renewals(host, there, 5)
    assert not (await there.list_handlers())[0].served
    await there.record_outcome(outcome(ref("1")))
    await on_file(here, lambda session: session._renew())
    await ear.until(lambda ear: ear.misses)
    assert await here.outcome(ref("1")) is not None
    assert (await there.list_handlers())[0].served
    await there.record_outcome(outcome(ref("2")))
    await until_renewed(host, there)
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs)


async def test_the_record_of_a_dead_process_goes_after_a_day(host: Host) -> None:
    dead, here = host.open(ticks=False), host.open()
    await dead.watch([ref("1")], poll_in=HOUR)
    await ear_of(here)
    await renewals(host, here, 5)
    assert await rows(here, "SELECT alive FROM process ORDER BY alive") == [(0,), (1,)]
    host.advance(A_DAY)
    await until_renewed(host, here)
    assert await rows(here, "SELECT alive FROM process") == [(1,)]
    assert await rows(here, "SELECT * FROM interest") == []


async def test_what_many_dead_processes_waited_for_is_given_up_some_at_a_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.store.sqlite_session._DEMOTED_AT_ONCE", 2)
    dead, here = host.open(ticks=False), host.open()
    await dead.watch([ref(str(number)) for number in range(5)], poll_in=HOUR)
    await ear_of(here)
    await renewals(host, here, 5)
    assert len(await rows(here, "SELECT * FROM interest")) == 3
    await renewals(host, here, 2)
    assert {one.priority for one in await here.list_pending()} == {Priority.ABANDONED}


KILLED = """
import asyncio, os, sys
from rewards_core.operations import OperationRef
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

async def main():
    store = SQLiteStore(sys.argv[1], boot="first")
    await store.watch([OperationRef("default", "allocation", "1")], poll_in=60)
    print(store._member.wakeups.address, flush=True)
    os._exit(0)

asyncio.run(main())
"""


async def test_survivors_remove_the_socket_of_a_process_that_was_killed(host: Host) -> None:
    here = host.open(uptime=uptime)
    await ear_of(here)
    left = Path((await run_elsewhere(KILLED, host.path)).strip())
    assert left.is_socket()
    late = [uptime() + 31.0]
    await on_file(here, lambda session: setattr(session, "_uptime", lambda: late[0]))
    await until_swept(left, late)


async def until_swept(left: Path, late: list[float]) -> None:
    """Let time pass until a process that was late twice is taken for dead."""
    while left.exists():
        late[0] += 11.0
        await asyncio.sleep(0.01)


async def test_a_closed_store_gives_up_what_it_waited_for_at_once(host: Host) -> None:
    here, there = host.open(), host.open()
    await ear_of(here)
    await here.watch([ref("1")], poll_in=HOUR)
    await here.register_handlers([wants(PAY)])
    await here.claim_polls("default", limit=1, lease=60, max_per_second=10)
    await here.aclose()
    assert [one.priority for one in await there.list_pending()] == [Priority.ABANDONED]
    assert not (await there.list_handlers())[0].served
    assert await rows(there, "SELECT alive, address FROM process") == [(0, None)]
    assert await rows(there, "SELECT * FROM rate") == []


# another boot, and clocks that were set


async def test_after_another_boot_everything_is_due_and_nobody_is_there(host: Host) -> None:
    here = host.open()
    ear = await ear_of(here)
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    (claimed,) = await claim(here, lease=10 * A_DAY)
    await here.watch([ref("1")], poll_in=A_DAY)
    await here.add_pending([ref("2")], poll_in=A_DAY)
    await here.pause_polls("default", A_DAY, refused=True)
    await here.upkeep(keep=A_DAY)
    here.unsubscribe(ear)
    here._member.registered = False  # a power cut says no farewell
    await host.reboot()
    here = host.open()
    (again,) = await claim(here)
    assert again.job.event_id == claimed.job.event_id
    assert not await here.finish_job(claimed.job)
    assert {(one.ref.uid, one.due_in, one.priority) for one in await here.list_pending()} == {
        ("1", 0.0, Priority.ABANDONED), ("2", 0.0, Priority.ABANDONED)
    }  # fmt: skip
    assert len((await here.claim_polls("default", limit=9, lease=60, max_per_second=10)).claims) == 1
    assert await here.upkeep(keep=A_DAY)
    assert await rows(here, "SELECT id FROM process") == [(here._member.id,)]


@pytest.mark.parametrize("registered", [False, True])
async def test_where_boots_cannot_be_told_apart_times_to_come_show_another_one(host: Host, registered: bool) -> None:
    here = host.open(boot="unknown")
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=10 * A_DAY)
    if registered:
        await on_file(here, lambda session: setattr(session.member, "registered", False))
    else:
        await here.upkeep(keep=A_DAY)
        await rows(here, "DELETE FROM process")
        await on_file(here, lambda session: setattr(session.member, "registered", False))
    await host.reboot("unknown")
    assert len(await claim(host.open(boot="unknown"))) == 1


async def test_the_same_boot_leaves_leases_as_they_are(host: Host) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=60)
    await here.aclose()
    there = host.open()
    assert await claim(there) == []
    host.advance(60)
    assert len(await claim(there)) == 1


async def test_without_a_boot_given_the_system_is_asked(host: Host) -> None:
    here = host.open(boot=None)
    await here.ping()
    assert await rows(here, "SELECT value FROM meta WHERE name = 'boot'") == [(boot_id(),)]


async def test_a_first_transaction_that_was_taken_back_leaves_the_boot_to_the_next(host: Host) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=10 * A_DAY)
    await host.reboot()
    here = host.open(ticks=False)

    def fail(session: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await on_file(here, fail)
    assert len(await claim(here)) == 1


@pytest.mark.parametrize("jump", [-1_800.0, 40 * A_DAY, 450 * A_DAY])
async def test_a_jump_of_the_wall_clock_puts_off_and_purges_nothing_but_what_an_hour_allows(host: Host, jump: float) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    many = 2_500
    await asyncio.gather(*(here.accept(event(str(number), name="quiet", scope="other")) for number in range(many)))
    await asyncio.gather(*(here.record_outcome(outcome(ref(str(number)))) for number in range(many)))
    await here.accept(event("job"))
    await claim(here, lease=60)
    await here.add_pending([ref("pending")], poll_in=60)
    host.wall += jump
    await here.upkeep(keep=30 * A_DAY, keep_bodies=A_DAY)
    held = await here.statistics()
    assert held.events >= many + 1 - 1_000
    assert held.outcomes >= many - 1_000
    assert held.pending == 1
    assert (await rows(here, "SELECT count(*) FROM identity"))[0][0] >= many + 1 - 1_000
    host.passed += 60
    assert len(await claim(here)) == 1
    assert (await here.list_pending())[0].due_in == 0


async def test_one_upkeep_an_hour_is_done_for_all_processes(host: Host) -> None:
    here, there = host.open(), host.open()
    assert await here.upkeep(keep=A_DAY)
    assert not await there.upkeep(keep=A_DAY)
    host.advance(HOUR - 1)
    assert not await here.upkeep(keep=A_DAY)
    host.advance(1)
    assert sum(await asyncio.gather(here.upkeep(keep=A_DAY), there.upkeep(keep=A_DAY))) == 1


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


async def test_a_caller_that_gave_up_disturbs_nobody(host: Host) -> None:
    here = host.open()
    impatient, patient = (asyncio.ensure_future(here.accept(event(word))) for word in ("1", "2"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient is Acceptance.NEW
    assert len(await here.list_events()) == 2


async def test_events_that_wait_for_handlers_are_not_purged(host: Host) -> None:
    with pytest.raises(ValueError, match="such events wait for their handlers"):
        await host.open().purge(0, state=EventState.READY)


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
    for wrong in ({"busy_timeout": -1}, {"busy_timeout": 86_401}):
        with pytest.raises(ValueError, match="busy_timeout"):
            SQLiteStore(tmp_path / "inbox.db", **wrong)  # type: ignore[arg-type]
    for strange in ({"busy_timeout": "5"}, {"clock": 5}, {"uptime": 5}, {"boot": 5}):
        with pytest.raises(TypeError, match=next(iter(strange))):
            SQLiteStore(tmp_path / "inbox.db", **strange)  # type: ignore[arg-type]
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
    here = host.open()
    await ear_of(here)
    await rows(here, "PRAGMA query_only = ON")
    await here.aclose()
    assert "without saying so to other processes" in caplog.text


async def test_an_unwatch_that_fails_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    here = host.open(ticks=False)
    await here.watch([ref("1")], poll_in=60)
    caplog.set_level(logging.DEBUG)
    await rows(here, "PRAGMA query_only = ON")
    here.unwatch([ref("1")])
    await here.list_pending()
    assert "could not be unwatched" in caplog.text


async def test_a_look_for_outcomes_ends_before_the_store_does(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    await ear_of(here, "1")
    await there.record_outcome(outcome(ref("1")))
    here._hear(b"o")
    await here.aclose()


async def test_a_store_may_be_used_from_one_loop_after_the_other(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    await asyncio.to_thread(asyncio.run, _subscribe_and_leave(here))
    assert await here.accept(event("1")) is Acceptance.NEW
    ear = await ear_of(here, "1")
    await here.watch([ref("1")], poll_in=60)
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: ear.settlements)


async def _subscribe_and_leave(store: SQLiteStore) -> None:
    await ear_of(store, "0")
    store._hear(b"o")  # a look is under way when the loop ends


async def test_a_loop_that_ended_in_the_middle_harms_nobody(host: Host) -> None:
    here = host.open()

    async def leave() -> None:
        here.unwatch([ref("1")])

    await asyncio.to_thread(asyncio.run, leave())
    assert await here.accept(event("1")) is Acceptance.NEW


FORKED = """
import asyncio, os, sys
from rewards_core.errors import StoreError
from webhooks.store.base import Subscriber
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

store = SQLiteStore(sys.argv[1])
loop = asyncio.new_event_loop()
loop.run_until_complete(store.subscribe(Subscriber()))
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
print(os.path.exists(store._member.wakeups.address), loop._selector.get_map() is not None)
loop.run_until_complete(store.aclose())
"""


async def test_after_a_fork_the_child_is_refused_and_the_parent_unharmed(host: Host) -> None:
    refused, unharmed = (await run_elsewhere(FORKED, host.path)).splitlines()
    assert "was opened before this process was forked" in refused
    assert unharmed == "True True"
